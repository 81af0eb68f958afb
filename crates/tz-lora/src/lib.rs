//! LoRA adapters of PEFT as `.tensors` files, checked for vLLM before they are written.
//!
//! vLLM up to 0.31 reads an adapter as `adapter_config.json` and `adapter_model.tensors`; newer versions read plain
//! safetensors only. So an adapter is packed for the former and unpacked, byte for byte, for the latter. What vLLM
//! would reject when the adapter is first used is refused here, each fault by its own name; this crate never guesses
//! and never repairs.
//!
//! - [`Adapter`] is a directory that PEFT wrote. [`Adapter::validate`] compares it with [`Rules`];
//!   [`Adapter::publish`] writes either form, or both, to an [`ArtifactDir`], a
//!   folder on disk or a prefix of an object store.
//! - [`PackedAdapter`] is what [`Adapter::pack`] wrote. Its [`file`](PackedAdapter::file) loads with one plan into
//!   host memory ([`PackedAdapter::load`]) or through any `tz_io::BufferPool`, such as a GPU's ring;
//!   [`PackedAdapter::unpack`] gives the PEFT directory back.
//!
//! ```
//! use tz_io::{OpenOptions, ReadOptions, WriteOptions};
//! use tz_lora::{Adapter, ArtifactDir, PackedAdapter, Rules};
//!
//! # let dir = tempfile::tempdir()?;
//! # let (peft, packed) = (dir.path().join("peft"), dir.path().join("packed").display().to_string());
//! # std::fs::create_dir(&peft)?;
//! # let config = r#"{"r": 1, "lora_alpha": 2, "target_modules": ["up_proj"]}"#;
//! # std::fs::write(peft.join("adapter_config.json"), config)?;
//! # let header = br#"{"base_model.model.up_proj.lora_A.weight":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"base_model.model.up_proj.lora_B.weight":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}}"#;
//! # let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
//! # bytes.extend(header);
//! # bytes.extend([0; 8]);
//! # std::fs::write(peft.join("adapter_model.safetensors"), bytes)?;
//! let adapter = Adapter::open(&peft)?;
//! adapter.validate(&Rules::default().with_max_lora_rank(16))?;
//! let packed = ArtifactDir::parse(&packed)?;
//! adapter.pack(&packed, &WriteOptions::default())?;
//!
//! let packed = PackedAdapter::open(&packed, &OpenOptions::default())?;
//! let tensors = packed.load(&ReadOptions::default())?;
//! assert_eq!(tensors.iter().count(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod base;
mod config;
mod error;
mod image;
mod names;
mod packed;
mod refusal;
mod rules;
mod stage;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use adapter::{Adapter, AdapterTensor, Forms};
pub use base::BaseModel;
pub use config::{AdapterConfig, Targets};
pub use error::Error;
pub use names::{LoraName, NameFault, Role};
pub use packed::PackedAdapter;
pub use refusal::Refusal;
pub use rules::Rules;
pub use stage::{Published, PublishedFile};
/// Where adapters are read from and written to.
pub use tz_model::ArtifactDir;

/// Name of an adapter's configuration, in either form.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of a packed adapter's tensors.
pub const PACKED_FILE: &str = "adapter_model.tensors";
/// Name of a plain adapter's tensors.
pub const PLAIN_FILE: &str = "adapter_model.safetensors";
