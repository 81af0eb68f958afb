//! Sans-I/O codec of the `.tensors` file format of CoreWeave's Tensorizer.
//!
//! This crate turns bytes into values and values into bytes. It opens no files, talks to no server, starts no
//! thread and holds no key: the caller fetches what [`FrontDecoder::step`] asks for, over any transport.
//!
//! ```text
//! ┌──────────────────────── front ────────────────────────┐┌────────── tensor 0 ─────────┐┌ tensor 1 …
//! | |TZR| version flags sizes | index entries | extension || header, padding | data      || header | data
//! └───────── 73 bytes ────────┘└───── index length ───────┘└── data at a multiple of 4,096
//! ```
//!
//! Reading: [`FrontDecoder`] gives a [`Front`] (file header, [`TensorEntry`] per tensor, [`Extension`]), each entry
//! knows where its data stands, and [`TensorHeader`] adds hashes and encryption parameters where they are wanted.
//! Writing: [`Layout::plan`] places [`TensorSpec`]s, then encodes the front and each header. Every length that
//! comes from a file is bounded by [`Limits`] before memory is taken for it; every refusal is a [`FormatError`].
//!
//! ```
//! use tz_format::{Element, FrontDecoder, Layout, LayoutOptions, Limits, Step, TensorSpec};
//!
//! let specs = vec![TensorSpec::new("embed.weight", Element::Bfloat16, vec![4, 8])];
//! let layout = Layout::plan(specs, LayoutOptions::default())?;
//! let front = layout.encode_front(&layout.options().extension)?;
//!
//! let Step::Done(front) = FrontDecoder::new(Limits::default()).step(&front)? else { unreachable!() };
//! assert_eq!(front.entries[0].path.to_string(), "embed.weight");
//! assert_eq!(front.entries[0].data_offset % 4096, 0);
//! # Ok::<(), tz_format::FormatError>(())
//! ```
//!
//! The format itself is described in `docs/FORMAT.md` of the repository.
#![forbid(unsafe_code)]

mod wire;

pub mod frozen;

mod crypt_info;
mod decoder;
mod dtype;
mod error;
mod extension;
mod file_header;
mod hash;
mod index;
mod layout;
mod limits;
mod tensor_header;
mod tensor_path;
mod version;

#[cfg(feature = "testing")]
pub mod testing;

/// The README's example, run as a doctest where the painted file that it reads is at hand.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
mod readme {}

pub use crypt_info::{Cipher, CipherPlan, CryptInfo, KeyDerivation, Tag};
pub use decoder::{Front, FrontDecoder, Step};
pub use dtype::{ByteOrder, Dtype, Element};
pub use error::{Fault, FormatError, Malformed, Unwritable};
pub use extension::{Digest, Extension};
pub use file_header::FileHeader;
pub use hash::{HashKind, TensorHash, hex};
pub use index::{TensorEntry, TensorKind};
pub use layout::{Layout, LayoutOptions, TensorSpec};
pub use limits::Limits;
pub use tensor_header::TensorHeader;
pub use tensor_path::{PathKey, TensorPath};
pub use version::{Flags, Profile, Version};
