//! Streams and events. Owns [`CudaStream`] and [`CudaEvent`].
//!
//! Memory that a copy may still read must not be given back. So every stream counts what was started on it and what is
//! known to be done, and [`finish_all`] waits for those streams, and only those, that may have something left. After a
//! load whose copies were waited for, that is none: the streams of others in the process are never waited for.
#![allow(unsafe_code, reason = "copies to addresses that their callers have checked")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Primary;
use super::driver::{self, RawEvent, RawStream};
use crate::error::DeviceError;

/// Streams that are open, of every device: page-locked memory may be read from any of them.
static OPEN: Mutex<Vec<Arc<Work>>> = Mutex::new(Vec::new());

/// A stream of a CUDA device.
#[derive(Debug)]
pub struct CudaStream {
    work: Arc<Work>,
}

/// A stream, and how far it is.
#[derive(Debug)]
struct Work {
    stream: RawStream,
    primary: Primary,
    /// Copies and fills that were started, or tried to.
    started: AtomicU64,
    /// As many of those, from the first on, are done.
    done: AtomicU64,
}

impl CudaStream {
    pub(super) fn new(primary: Primary) -> Result<Self, DeviceError> {
        let stream = RawStream::new(&primary.bind()?)?;
        let (started, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = Arc::new(Work { stream, primary, started, done });
        open_streams().push(Arc::clone(&work));
        Ok(Self { work })
    }

    /// Copies to `address`, where the caller has checked that the source fits.
    pub(super) fn copy_to_device(&self, source: &[u8], address: u64) -> Result<(), DeviceError> {
        if source.is_empty() {
            return Ok(());
        }
        let bound = self.work.primary.bind()?;
        // SAFETY: `Device::copy_to_device` checks the range against its allocation before it comes here. Page-locked
        // sources are `CudaPinned` or `RegisteredBytes`, which call `finish_all` before they let go of their memory;
        // of any other source the driver has taken a copy when it returns.
        let started = unsafe { self.work.stream.copy_to_device(&bound, source, address) };
        self.work.count();
        started
    }

    /// Fills at `address`, where the caller has checked that the length fits.
    pub(super) fn fill_zero(&self, address: u64, len: u64) -> Result<(), DeviceError> {
        if len == 0 {
            return Ok(());
        }
        let bound = self.work.primary.bind()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        // SAFETY: `Device::fill_zero` checks the range against its allocation before it comes here.
        let started = unsafe { self.work.stream.fill_zero(&bound, address, len) };
        self.work.count();
        started
    }

    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        self.work.synchronize()
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // Only then may nobody find it among the open ones.
        self.work.finish();
        open_streams().retain(|open| !Arc::ptr_eq(open, &self.work));
    }
}

impl Work {
    /// Counts a call that started work, also if it failed: nobody knows how far it came. Only after the call, so that
    /// whoever sees the count and then waits, or records an event, does so behind that work.
    fn count(&self) {
        self.started.fetch_add(1, Ordering::AcqRel);
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let started = self.started.load(Ordering::Acquire);
        self.stream.synchronize(&self.primary.bind()?)?;
        self.is_done(started);
        Ok(())
    }

    fn is_done(&self, started: u64) {
        self.done.fetch_max(started, Ordering::AcqRel);
    }

    /// Waits for what was started on the stream, if it is not known to be done.
    fn finish(&self) {
        let started = self.started.load(Ordering::Acquire);
        if self.done.load(Ordering::Acquire) >= started || self.synchronize().is_ok() {
            return;
        }
        // A device that cannot even wait copies nothing any more.
        if let Ok(bound) = self.primary.bind() {
            let _ = driver::synchronize_all(&bound);
        }
        self.is_done(started);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Ok(bound) = self.primary.bind() {
            let _ = self.stream.destroy(&bound);
        }
    }
}

/// Waits until nothing that was started on any stream here so far runs any more.
pub(super) fn finish_all() {
    let streams: Vec<_> = open_streams().clone();
    for work in streams {
        work.finish();
    }
}

fn open_streams() -> MutexGuard<'static, Vec<Arc<Work>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event of a CUDA device.
#[derive(Debug)]
pub struct CudaEvent {
    event: RawEvent,
    primary: Primary,
    /// The stream that it was recorded on, and what was started there before.
    recorded: Option<(Arc<Work>, u64)>,
}

impl CudaEvent {
    pub(super) fn new(primary: Primary) -> Result<Self, DeviceError> {
        let event = RawEvent::new(&primary.bind()?)?;
        Ok(Self { event, primary, recorded: None })
    }

    pub(super) fn record(&mut self, stream: &CudaStream) -> Result<(), DeviceError> {
        let started = stream.work.started.load(Ordering::Acquire);
        self.recorded = None;
        self.event.record(&stream.work.primary.bind()?, &stream.work.stream)?;
        self.recorded = Some((Arc::clone(&stream.work), started));
        Ok(())
    }

    pub(super) fn query(&self) -> Result<bool, DeviceError> {
        let done = self.event.query(&self.primary.bind()?)?;
        if done && let Some((work, started)) = &self.recorded {
            work.is_done(*started);
        }
        Ok(done)
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        if let Ok(bound) = self.primary.bind() {
            let _ = self.event.destroy(&bound);
        }
    }
}
