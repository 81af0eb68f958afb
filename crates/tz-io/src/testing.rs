//! Sources, pools and tensors for tests: in memory, recording, failing on purpose. Feature `testing`.
//!
//! Every wrapper implements the trait it wraps, so any layer above can be put through the same faults:
//!
//! ```
//! use tz_io::testing::{FaultSource, MemoryFile, RecordingSource, SourceFault, paint_file};
//! use tz_io::{ReadOptions, Selection, TensorFile};
//!
//! let (recorded, reads) = RecordingSource::new(MemoryFile::new(paint_file()));
//! let failing = FaultSource::new(recorded).on_read(1, SourceFault::Fail(std::io::ErrorKind::TimedOut));
//! let file = TensorFile::from_source(Box::new(failing), &Default::default())?;
//! assert!(file.load(&Selection::all(), &ReadOptions::default()).is_err());
//! assert_eq!(reads.ranges().len(), 1, "the front arrived, the read that failed went no further");
//! # Ok::<(), tz_io::IoError>(())
//! ```

mod conformance;
mod exercise;
mod pool;
mod source;

use std::io;
use std::time::{Duration, Instant};

use tz_format::{LayoutOptions, TensorSpec};

use crate::writer::TensorSource;

pub use conformance::range_read_conformance;
pub use exercise::exercise;
pub use pool::RecordingPool;
pub use source::{FaultSource, MemoryFile, ReadLog, Recorded, RecordingSource, SourceFault};

/// Byte `offset` of painted tensor `tensor`: a shifted range shows, and so do tensors that changed places.
#[must_use]
pub fn painted_byte(tensor: usize, offset: u64) -> u8 {
    let at = (tensor as u64).wrapping_mul(17).wrapping_add(offset);
    u8::try_from(at % 251).unwrap_or(0)
}

/// The first `len` bytes of painted tensor `tensor`.
#[must_use]
pub fn paint(tensor: usize, len: u64) -> Vec<u8> {
    (0..len).map(|i| painted_byte(tensor, i)).collect()
}

/// How many threads this process has, once there are no more than `most`; after a minute, how many there are. Whoever
/// waits for the end of a thread's work comes back before the system has taken the thread away.
///
/// # Errors
/// Where there is no `/proc`.
pub fn threads(most: usize) -> io::Result<usize> {
    let (begin, patience) = (Instant::now(), Duration::from_secs(60));
    loop {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads <= most || begin.elapsed() > patience {
            return Ok(threads);
        }
        std::thread::yield_now();
    }
}

/// A small valid file whose stored hashes are zero: for transports, which look at no hash.
#[must_use]
pub fn paint_file() -> Vec<u8> {
    tz_format::testing::build(tz_format::testing::specs(), LayoutOptions::default())
}

/// Tensors of painted bytes that take no memory, whatever their size.
#[derive(Debug, Clone)]
pub struct PaintedTensors {
    specs: Vec<TensorSpec>,
}

impl PaintedTensors {
    /// Tensors of these shapes, in this order.
    #[must_use]
    pub fn new(specs: Vec<TensorSpec>) -> Self {
        Self { specs }
    }
}

impl TensorSource for PaintedTensors {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = painted_byte(index, at);
        }
        Ok(())
    }
}

/// Tensors of another source, one of which cannot be read at one place.
#[derive(Debug, Clone)]
pub struct FaultTensors<S> {
    inner: S,
    at: (usize, u64),
    error: io::ErrorKind,
}

impl<S: TensorSource> FaultTensors<S> {
    /// Fails every read that holds byte `offset` of tensor `tensor`.
    #[must_use]
    pub fn new(inner: S, tensor: usize, offset: u64, error: io::ErrorKind) -> Self {
        let at = (tensor, offset);
        Self { inner, at, error }
    }
}

impl<S: TensorSource> TensorSource for FaultTensors<S> {
    fn specs(&self) -> &[TensorSpec] {
        self.inner.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (tensor, at) = self.at;
        if index == tensor && (offset..offset + buf.len() as u64).contains(&at) {
            return Err(self.error.into());
        }
        self.inner.read_at(index, offset, buf)
    }
}
