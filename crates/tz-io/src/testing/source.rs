//! Sources that remember and sources that fail. Owns [`MemoryFile`], [`RecordingSource`] and [`FaultSource`].

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::IoError;
use crate::options::Cancel;
use crate::plan::PlanOptions;
use crate::source::{RangeRead, SourceCounters};

/// A file whose bytes are in memory; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    bytes: Arc<[u8]>,
}

impl MemoryFile {
    /// A file of these bytes, called `memory` in messages.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { bytes: bytes.into() }
    }
}

impl RangeRead for MemoryFile {
    fn len(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        let from = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..));
        let mut rest = from.unwrap_or_default();
        for buffer in buffers {
            let Some((head, tail)) = rest.split_at_checked(buffer.len()) else {
                return Err(IoError::io(self.location(), "read")(
                    io::ErrorKind::UnexpectedEof.into(),
                ));
            };
            buffer.copy_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    fn max_readers(&self) -> usize {
        usize::MAX
    }

    fn location(&self) -> &str {
        "memory"
    }
}

/// One read as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// Reads in progress when it began, itself included.
    pub in_flight: usize,
}

/// What a [`RecordingSource`] was asked for, in the order in which the reads began; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ReadLog(Arc<Mutex<Vec<Recorded>>>);

impl ReadLog {
    /// The reads since the log began or was last taken; it is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ranges of [`Self::take`].
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.take().into_iter().map(|read| read.range).collect()
    }
}

/// Passes reads on and writes them down.
#[derive(Debug)]
pub struct RecordingSource {
    inner: Box<dyn RangeRead>,
    log: ReadLog,
    in_flight: AtomicUsize,
}

impl RecordingSource {
    /// Records what is asked of `inner`; the log outlives the source.
    #[must_use]
    pub fn new(inner: impl RangeRead + 'static) -> (Self, ReadLog) {
        let log = ReadLog::default();
        let source =
            Self { inner: Box::new(inner), log: log.clone(), in_flight: AtomicUsize::new(0) };
        (source, log)
    }
}

impl RangeRead for RecordingSource {
    fn len(&self) -> Option<u64> {
        self.inner.len()
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        let recorded = Recorded {
            range: offset..offset + total(buffers),
            in_flight: self.in_flight.fetch_add(1, Ordering::SeqCst) + 1,
        };
        let mut log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(recorded);
        drop(log);
        let result = self.inner.read_into(offset, buffers);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn max_readers(&self) -> usize {
        self.inner.max_readers()
    }

    fn location(&self) -> &str {
        self.inner.location()
    }

    fn default_readers(&self) -> usize {
        self.inner.default_readers()
    }

    fn readers_chosen(&self, readers: usize) {
        self.inner.readers_chosen(readers);
    }

    fn plan_options(&self) -> PlanOptions {
        self.inner.plan_options()
    }

    fn counters(&self) -> SourceCounters {
        self.inner.counters()
    }

    fn read_to_end(&self, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, IoError> {
        self.inner.read_to_end(offset, limit)
    }

    fn local_file(&self) -> Option<&std::fs::File> {
        self.inner.local_file()
    }
}

/// What goes wrong with a read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SourceFault {
    /// It fails with an error of this kind.
    Fail(io::ErrorKind),
    /// Half of it arrives, then the file ends.
    Short,
    /// One byte arrives with its bits inverted: the one it was hung on, else the first.
    Flip,
    /// Zeros arrive, as from a hole.
    Zeros,
    /// The bytes that stand one place earlier arrive.
    Shifted,
    /// The reader's thread panics.
    Panic,
    /// It arrives whole, and the caller cancels meanwhile.
    Cancel(Cancel),
}

#[derive(Debug, Clone, Copy)]
enum Trigger {
    Read(usize),
    Offset(u64),
}

/// Passes reads on, except those that are to fail.
#[derive(Debug)]
pub struct FaultSource {
    inner: Box<dyn RangeRead>,
    faults: Vec<(Trigger, SourceFault)>,
    reads: AtomicUsize,
    len: Option<u64>,
}

impl FaultSource {
    /// A source without faults.
    #[must_use]
    pub fn new(inner: impl RangeRead + 'static) -> Self {
        Self {
            len: inner.len(),
            inner: Box::new(inner),
            faults: Vec::new(),
            reads: AtomicUsize::new(0),
        }
    }

    /// Spoils read number `n`, counted from 0.
    #[must_use]
    pub fn on_read(mut self, n: usize, fault: SourceFault) -> Self {
        self.faults.push((Trigger::Read(n), fault));
        self
    }

    /// Spoils every read that holds byte `offset` of the file.
    #[must_use]
    pub fn on_offset(mut self, offset: u64, fault: SourceFault) -> Self {
        self.faults.push((Trigger::Offset(offset), fault));
        self
    }

    /// States another length than the source's own, or none.
    #[must_use]
    pub fn with_len(mut self, len: Option<u64>) -> Self {
        self.len = len;
        self
    }

    fn spoil(
        &self,
        fault: &SourceFault,
        at: u64,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), IoError> {
        let failed = |kind: io::ErrorKind| IoError::io(self.location(), "read")(kind.into());
        match fault {
            SourceFault::Fail(kind) => return Err(failed(*kind)),
            SourceFault::Short => {
                let mut half = first(buffers, total(buffers) / 2);
                self.inner.read_into(offset, &mut half)?;
                return Err(failed(io::ErrorKind::UnexpectedEof));
            }
            SourceFault::Flip => {
                self.inner.read_into(offset, buffers)?;
                let bytes = buffers.iter_mut().flat_map(|buffer| buffer.iter_mut());
                for (_, byte) in (offset..).zip(bytes).filter(|(place, _)| *place == at) {
                    *byte = !*byte;
                }
            }
            SourceFault::Zeros => buffers.iter_mut().for_each(|buffer| buffer.fill(0)),
            SourceFault::Shifted => self.inner.read_into(offset.saturating_sub(1), buffers)?,
            SourceFault::Panic => std::panic::panic_any("fault of a test: the reader panics"),
            SourceFault::Cancel(cancel) => {
                self.inner.read_into(offset, buffers)?;
                cancel.cancel();
            }
        }
        Ok(())
    }
}

impl RangeRead for FaultSource {
    fn len(&self) -> Option<u64> {
        self.len
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        let range = offset..offset + total(buffers);
        let hit = self.faults.iter().find_map(|(trigger, fault)| {
            let at = match *trigger {
                Trigger::Read(n) => (n == read).then_some(offset)?,
                Trigger::Offset(at) => range.contains(&at).then_some(at)?,
            };
            Some((fault, at))
        });
        match hit {
            Some((fault, at)) => self.spoil(fault, at, offset, buffers),
            None => self.inner.read_into(offset, buffers),
        }
    }

    fn max_readers(&self) -> usize {
        self.inner.max_readers()
    }

    fn location(&self) -> &str {
        self.inner.location()
    }

    fn default_readers(&self) -> usize {
        self.inner.default_readers()
    }

    fn readers_chosen(&self, readers: usize) {
        self.inner.readers_chosen(readers);
    }

    fn plan_options(&self) -> PlanOptions {
        self.inner.plan_options()
    }

    fn counters(&self) -> SourceCounters {
        self.inner.counters()
    }

    fn read_to_end(&self, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, IoError> {
        self.inner.read_to_end(offset, limit)
    }

    fn local_file(&self) -> Option<&std::fs::File> {
        self.inner.local_file()
    }
}

fn total(buffers: &[IoSliceMut<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}

/// The first `len` bytes of `buffers`.
fn first<'a>(buffers: &'a mut [IoSliceMut<'_>], len: u64) -> Vec<IoSliceMut<'a>> {
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for buffer in buffers {
        let taken = left.min(buffer.len());
        left -= taken;
        kept.extend(buffer.get_mut(..taken).map(IoSliceMut::new));
    }
    kept
}
