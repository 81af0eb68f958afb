//! Checkpoints in, vLLM-ready tensors out.
//!
//! This crate knows what users have (safetensors files, PyTorch's `.bin` and `.pt` files, shards of either) and what
//! their models are made of. It reads headers when a [`Checkpoint`] is opened and tensor data only when asked, by
//! positioned reads from any number of threads, so memory never grows with the model. It never touches a GPU, and
//! never runs code from a checkpoint: a pickle that names anything but tensors is refused.
//!
//! A [`Checkpoint`] is a source of a `.tensors` file as it is (vLLM's ordinary loader reads that, whatever the
//! architecture). [`VllmLayout`] proves that it is a complete model of a known family, and its [`VllmModel`]s are the
//! same weights as vLLM holds them on each rank: fused, padded, sliced. [`SafetensorsWriter`] and [`ShardedWriter`]
//! write safetensors; [`synthesize`] makes checkpoints with a real family's names and shapes. With the feature `hub`,
//! `hub::resolve` turns a Hugging Face id into a directory.
//!
//! ```
//! use tz_model::{Checkpoint, Preset, SynthOptions, VllmLayout, VllmOptions, read_config, synthesize};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! synthesize(dir, &Preset::named("llama-tiny").unwrap(), &SynthOptions::default())?;
//! let checkpoint = Checkpoint::open(dir)?;
//! let options = VllmOptions::default().with_tensor_parallel(2);
//! let layout = VllmLayout::prove(&checkpoint, &read_config(dir)?, &options)?;
//! let model = layout.rank(0).unwrap();
//! let qkv = model.specs().iter().position(|spec| {
//!     spec.path.plain() == Some("model.layers.0.self_attn.qkv_proj.weight")
//! });
//! let mut row = [0; 128];
//! model.read_at(qkv.unwrap(), 0, &mut row)?;
//! # assert_eq!(model.specs()[qkv.unwrap()].shape, [64, 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod artifacts;
mod checkpoint;
mod dtype;
mod error;
mod family;
#[cfg(feature = "hub")]
pub mod hub;
mod json;
mod layout;
mod manifest;
mod safetensors_plan;
mod safetensors_writer;
mod strided;
mod synth;
mod torch;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use artifacts::{
    Adapter, ArtifactDir, LayoutName, NotADirectoryName, Publication, ServeLines, Served,
    SmallFiles, TensorPublication, tensors_name, tensors_template,
};
pub use checkpoint::{Checkpoint, MAX_HEADER_LEN, SourceFile, SourceTensor};
pub use dtype::{from_safetensors, packing, to_safetensors};
pub use error::{Error, Fault, Place};
pub use layout::{
    MARKER, NotAVersion, Refusal, VllmLayout, VllmModel, VllmOptions, VllmVersion, read_config,
};
pub use manifest::{
    Blake3, Facts, FileEntry, FileFault, MANIFEST_NAME, Manifest, ManifestCheck, Moment, Source,
    Wrong,
};
pub use safetensors_plan::{DEFAULT_MAX_SHARD_BYTES, SafetensorsPlan, ShardedPlan, TensorDecl};
pub use safetensors_writer::{Durability, SafetensorsWriter, ShardedWriter};
pub use synth::{Preset, SynthFormat, SynthOptions, synthesize};
