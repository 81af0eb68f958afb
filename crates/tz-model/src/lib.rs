//! Checkpoints in, vLLM-ready tensors out.
//!
//! This crate knows what users have (safetensors files and shards) and what their models are made of. It reads
//! headers when a [`Checkpoint`] is opened and tensor data only when asked, by positioned reads from any number of
//! threads, so memory never grows with the model. It never touches a GPU, and never runs code from a checkpoint.
//!
//! ```
//! use tz_model::{Checkpoint, Preset, SynthOptions, synthesize};
//!
//! # let dir = tempfile::tempdir()?;
//! synthesize(dir.path(), &Preset::named("llama-tiny").unwrap(), &SynthOptions::default())?;
//! let checkpoint = Checkpoint::open(dir.path())?;
//! let norm = checkpoint.find("model.norm.weight").unwrap();
//! let mut bytes = [0; 128];
//! checkpoint.read_at(norm, 0, &mut bytes)?;
//! assert_eq!(checkpoint.tensors()[norm].shape, [64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod checkpoint;
mod dtype;
mod error;
mod family;
mod json;
mod safetensors_plan;
mod safetensors_writer;
mod strided;
mod synth;
mod torch;

pub use checkpoint::{Checkpoint, MAX_HEADER_LEN, SourceFile, SourceTensor};
pub use dtype::{from_safetensors, packing, to_safetensors};
pub use error::{Error, Fault, Place};
pub use safetensors_plan::{DEFAULT_MAX_SHARD_BYTES, SafetensorsPlan, ShardedPlan, TensorDecl};
pub use safetensors_writer::{Durability, SafetensorsWriter, ShardedWriter};
pub use synth::{Preset, SynthOptions, synthesize};
