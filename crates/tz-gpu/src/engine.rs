//! Copies buffers to a device and gives each back when its event has completed. Owns [`CopyEngine`].
//!
//! A filled buffer is moved into the engine, which starts its copies on one of several streams and records an event
//! behind them. The buffer stays with the engine until a query of that event says that it has completed; then it is
//! dropped, which returns it to whatever ring it came from, and the event is recorded again behind another buffer.
//! Nothing here waits for a device but [`CopyEngine::drain`] and failed submissions.
//!
//! The first failure is kept and every later call repeats it, because a device may report the failure of one copy
//! from a call about another.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tz_io::Counter;

use crate::device::Device;
use crate::error::DeviceError;
use crate::schedule::Copy;
use crate::stats::CopyStats;

/// Where finished buffers come back from; what a ring asks when it has none left.
pub(crate) trait Reap: Send + Sync + fmt::Debug {
    /// Drops all buffers whose copies are done by now; gives how many.
    fn reap(&self) -> Result<usize, DeviceError>;

    /// Buffers whose copies are not known to be done.
    fn in_flight(&self) -> usize;
}

/// Several streams of copies to one device.
#[derive(Debug)]
pub struct CopyEngine<D: Device, B> {
    device: D,
    lanes: Vec<Mutex<Lane<D, B>>>,
    /// Events that have completed. Each goes back before its buffer does, so there are never more than buffers.
    spare: Mutex<Vec<D::Event>>,
    next: AtomicUsize,
    in_flight: AtomicUsize,
    failure: Mutex<Option<DeviceError>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: Counter,
    copies: Counter,
    buffers: Counter,
    submit: Counter,
    drain: Counter,
}

/// A stream and the buffers on it, oldest first.
#[derive(Debug)]
struct Lane<D: Device, B> {
    stream: D::Stream,
    in_flight: VecDeque<(D::Event, B)>,
}

impl<D: Device, B: Deref<Target = [u8]> + Send> CopyEngine<D, B> {
    /// Opens `streams` streams, at least one.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn new(device: D, streams: usize) -> Result<Self, DeviceError> {
        let lane = |_| -> Result<_, DeviceError> {
            Ok(Mutex::new(Lane { stream: device.stream()?, in_flight: VecDeque::new() }))
        };
        let lanes = (0..streams.max(1)).map(lane).collect::<Result<_, _>>()?;
        Ok(Self {
            device,
            lanes,
            spare: Mutex::new(Vec::new()),
            next: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            failure: Mutex::new(None),
            counters: Counters::default(),
        })
    }

    /// Takes `buffer` and starts `copies` out of it into `memories`.
    ///
    /// # Errors
    /// The first failure of this engine. The buffer is dropped once nothing reads it any more.
    pub fn submit(
        &self,
        buffer: B,
        memories: &[D::Memory],
        copies: &[Copy],
    ) -> Result<(), DeviceError> {
        self.check()?;
        let mut lane = self.next_lane();
        let started =
            self.counters.submit.time(|| self.start(&lane.stream, &buffer, memories, copies));
        match started {
            Ok(event) => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                self.counters.buffers.add(1);
                lane.in_flight.push_back((event, buffer));
                Ok(())
            }
            Err(error) => {
                // Some of the copies may be under way. Where even waiting fails, the device is beyond reading.
                let _ = self.device.synchronize(&lane.stream);
                Err(self.fail(error))
            }
        }
    }

    fn start(
        &self,
        stream: &D::Stream,
        buffer: &B,
        memories: &[D::Memory],
        copies: &[Copy],
    ) -> Result<D::Event, DeviceError> {
        for copy in copies.iter().filter(|copy| !copy.from.is_empty()) {
            let (Some(source), Some(memory)) =
                (buffer.get(copy.from.clone()), memories.get(copy.memory))
            else {
                return Err(DeviceError::OutOfRange {
                    device: self.device.id(),
                    offset: copy.from.start as u64,
                    len: copy.from.len() as u64,
                    allocation: buffer.len() as u64,
                });
            };
            self.device.copy_to_device(stream, source, memory, copy.offset)?;
            self.counters.copies.add(1);
            self.counters.bytes.add(source.len() as u64);
        }
        let spare = lock(&self.spare).pop();
        let mut event = spare.map_or_else(|| self.device.event(), Ok)?;
        self.device.record(stream, &mut event)?;
        Ok(event)
    }

    /// Starts filling `len` bytes at `offset` of `memory` with zeros.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn fill_zero(&self, memory: &D::Memory, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check()?;
        let lane = self.next_lane();
        let filled = self.device.fill_zero(&lane.stream, memory, offset, len);
        filled.map_err(|error| self.fail(error))
    }

    /// Waits until everything that was submitted is on the device, and drops every buffer. After a failure it waits
    /// all the same: once this returns, nothing reads the buffers or writes the memory.
    ///
    /// # Errors
    /// The first failure of this engine.
    pub fn drain(&self) -> Result<(), DeviceError> {
        let waiting = || {
            for lane in &self.lanes {
                let mut lane = lock(lane);
                if let Err(error) = self.device.synchronize(&lane.stream) {
                    self.fail(error);
                }
                for (event, buffer) in std::mem::take(&mut lane.in_flight) {
                    self.give_back(event, buffer);
                }
            }
        };
        self.counters.drain.time(waiting);
        self.check()
    }

    /// Forgets the first failure and lets work begin anew. For use after [`Self::drain`].
    pub fn reset(&self) {
        *lock(&self.failure) = None;
    }

    /// The first failure since the engine began anew.
    pub fn failure(&self) -> Option<DeviceError> {
        lock(&self.failure).clone()
    }

    /// What was done since this was last asked.
    pub(crate) fn take_stats(&self) -> CopyStats {
        CopyStats {
            bytes: self.counters.bytes.take(),
            copies: self.counters.copies.take(),
            buffers: self.counters.buffers.take(),
            submit: self.counters.submit.take_duration(),
            drain: self.counters.drain.take_duration(),
            ..CopyStats::default()
        }
    }

    fn next_lane(&self) -> MutexGuard<'_, Lane<D, B>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        // `new` opens at least one.
        #[expect(clippy::indexing_slicing, reason = "a remainder by the length is below it")]
        lock(&self.lanes[next])
    }

    /// Takes back what is done. The buffer counts as in flight until its pool has it, so nobody takes a fresh one
    /// meanwhile.
    fn give_back(&self, event: D::Event, buffer: B) {
        lock(&self.spare).push(event);
        drop(buffer);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.failure().map_or(Ok(()), Err)
    }

    /// Keeps the first failure and gives it.
    fn fail(&self, error: DeviceError) -> DeviceError {
        lock(&self.failure).get_or_insert(error).clone()
    }
}

impl<D: Device, B: Deref<Target = [u8]> + Send + fmt::Debug> Reap for CopyEngine<D, B> {
    fn reap(&self) -> Result<usize, DeviceError> {
        self.check()?;
        let mut finished = 0;
        for lane in &self.lanes {
            let mut lane = lock(lane);
            while let Some((event, _)) = lane.in_flight.front() {
                match self.device.query(event) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Err(self.fail(error)),
                }
                if let Some((event, buffer)) = lane.in_flight.pop_front() {
                    self.give_back(event, buffer);
                    finished += 1;
                }
            }
        }
        Ok(finished)
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl<D: Device, B> Drop for CopyEngine<D, B> {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
            if !lane.in_flight.is_empty() {
                // Buffers are dropped next: no copy may read them then. A device that fails here reads nothing.
                let _ = self.device.synchronize(&lane.stream);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
