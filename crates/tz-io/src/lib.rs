//! Reads and writes `.tensors` files: parallel, in bounded memory, straight to where the bytes belong.
//!
//! Calls block and start their own reader threads; an asynchronous service runs them with `spawn_blocking`.

mod memory;

mod buffer;
mod check;
mod copy;
mod decrypt;
mod error;
mod file;
mod front;
mod host;
mod load;
mod location;
mod options;
mod plan;
mod remote;
mod scan;
mod source;
mod stats;
mod stream;
mod workers;
mod writer;

#[cfg(feature = "testing")]
pub mod testing;

pub use buffer::{BufferMemory, BufferPool, HeapPool, PooledBuffer};
pub use copy::{CopyReport, copy};
pub use error::{Corruption, IoError};
pub use file::TensorFile;
pub use host::{HostTensor, HostTensors};
pub use location::Location;
pub use memory::SharedBytes;
pub use options::{
    Cancel, DEFAULT_MAX_READERS, DEFAULT_STAGING_BYTES, OpenOptions, Progress, ReadOptions,
};
pub use plan::{Fetch, LoadPlan, Part, PartKind, PlanOptions, Selection};
pub use remote::{Addressing, RemoteLocation, RemoteOptions, S3Options, unfinished_uploads};
pub use scan::{Algorithm, Digester, Visitor};
pub use source::{LocalFile, RangeRead, SourceCounters, StreamSource};
pub use stats::{ReadStats, WriteStats};
pub use stream::{Consumer, Piece};
pub use writer::{MemorySource, TensorSource, WriteOptions, plan as plan_write, write};
