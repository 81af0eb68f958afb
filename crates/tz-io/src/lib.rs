//! Reads and writes `.tensors` files: parallel, in bounded memory, straight to where the bytes belong.
//!
//! A [`Location`] is a path, `-`, or a URI of an HTTP server or object store. [`TensorFile`] opens one and reads its
//! front only; what happens next is up to the caller:
//!
//! - [`TensorFile::load`] fills owned memory, each byte landing at its final place;
//! - [`TensorFile::stream`] hands out [`Piece`]s through a [`BufferPool`] of fixed size, whatever the tensors' size;
//! - [`TensorFile::map`] gives views of a local file without reading it;
//! - [`TensorFile::checksum`] and [`TensorFile::verify`] walk the data for its hashes.
//!
//! [`write()`] saves what a [`TensorSource`] holds, [`copy()`] moves files between places. A destination appears
//! complete or not at all. Encrypted files are unlocked by [`OpenOptions::secrets`] and made by [`WriteOptions::seal`].
//!
//! ```
//! use tz_format::{Element, Limits, TensorSpec};
//! use tz_io::{Location, MemorySource, ReadOptions, Selection, TensorFile, WriteOptions, write};
//!
//! let folder = tempfile::tempdir()?;
//! let location = Location::File(folder.path().join("model.tensors"));
//! let mut source = MemorySource::new();
//! source.push(TensorSpec::new("bias", Element::Float32, vec![2]), &[0, 0, 128, 63, 0, 0, 0, 64])?;
//! write(&source, &location, &WriteOptions::default())?;
//!
//! let file = TensorFile::open(&location, &Limits::default())?;
//! let tensors = file.load(&Selection::all(), &ReadOptions::default())?;
//! assert_eq!(tensors.get("bias").map(|tensor| tensor.bytes().len()), Some(8));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Calls block and start their own reader threads; an asynchronous service runs them with `spawn_blocking`. What this
//! crate does not do: interpret tensors, talk to devices, or keep anything after a call but what it returned.

mod memory;

mod buffer;
mod cgroup;
mod check;
mod copy;
mod decrypt;
mod ending;
mod error;
mod file;
mod file_digest;
mod file_source;
mod folders;
mod front;
mod host;
mod leftovers;
mod load;
mod location;
mod options;
mod plan;
mod remote;
mod rewrap;
mod scan;
mod source;
mod stats;
mod stream;
mod workers;
mod writer;

#[cfg(feature = "testing")]
pub mod testing;

pub use buffer::{BufferMemory, BufferPool, HeapPool, PooledBuffer};
pub use cgroup::default_staging_bytes;
pub use copy::{CopyReport, copy};
pub use error::{Corruption, IoError};
pub use file::TensorFile;
pub use file_digest::{FileDigest, digest};
pub use file_source::FileSource;
pub use folders::{create_folders, folder_of, missing_folders, sync_folder};
pub use host::{HostTensor, HostTensors};
pub use leftovers::{Leftover, TemporaryFile, TemporaryFolder, remove_leftovers};
pub use location::Location;
pub use memory::SharedBytes;
pub use options::{
    Cancel, DEFAULT_MAX_READERS, DEFAULT_STAGING_BYTES, OpenOptions, PlainFiles, Progress,
    ReadOptions,
};
pub use plan::{Fetch, LoadPlan, Part, PartKind, PlanOptions, Selection};
#[doc(hidden)]
pub use remote::wire;
pub use remote::{Addressing, RemoteLocation, RemoteOptions, S3Options, unfinished_uploads};
pub use rewrap::{EarlierRewrap, Rewrapped, rewrap};
pub use scan::{Algorithm, Digester, Visitor};
pub use source::{LocalFile, RangeRead, SourceCounters, StreamSource};
pub use stats::{Counter, ReadStats, WriteStats};
pub use stream::{Consumer, Piece};
/// What [`OpenOptions::secrets`] are made of.
pub use tz_crypto::{Key, Passphrase, Secret};
pub use writer::{MemorySource, TensorSource, WriteOptions, plan as plan_write, write};

/// Compiles the example of the repository's README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Compiles the example of the crate's own README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct CrateReadme;
