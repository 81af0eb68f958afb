//! The ring of pinned staging buffers that readers fill. Owns [`PinnedPool`], a [`BufferPool`].
//!
//! A thread pins one buffer after another, from the moment the pool is made; readers take buffers as they come, and
//! nothing is pinned that a load does not want. A buffer comes back when it is dropped, which the copy engine does after the event behind its copies has completed.
//! A reader that finds no free buffer asks the engine for completed ones; nobody else has to run for it to make
//! progress, so a ring of a single buffer finishes too.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tz_io::{BufferMemory, BufferPool, PooledBuffer};

use crate::device::Device;
use crate::engine::Reap;
use crate::error::DeviceError;
use crate::schedule::Ring;
use crate::stats::{CopyStats, Stalls, Sum};

/// How long a reader waits before it looks at the events again: a small part of the time that one buffer of some MiB
/// takes over the bus, and long enough to cost no core.
const POLL: Duration = Duration::from_micros(50);

/// Pinned buffers, lent and returned.
pub struct PinnedPool {
    shared: Arc<Shared>,
    ring: Ring,
    engine: Arc<dyn Reap>,
    give_back: Arc<dyn Fn(Box<dyn BufferMemory>) + Send + Sync>,
    pinner: Option<JoinHandle<()>>,
}

impl fmt::Debug for PinnedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPool")
            .field("ring", &self.ring)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a buffer comes back or is pinned, and when the pool closes.
    changed: Condvar,
    /// Signalled when more buffers are wanted, and when the pool goes away.
    wanted: Condvar,
    pin_time: Sum,
    pinning_stalls: Sum,
    copy_stalls: Sum,
    reader_stalls: Sum,
}

#[derive(Debug)]
struct State {
    free: Vec<Box<dyn BufferMemory>>,
    pinned: usize,
    /// How many buffers to pin.
    wanted: usize,
    closed: bool,
    /// The pool is going away: buffers that come back are unpinned.
    ended: bool,
    /// Why pinning stopped early.
    failure: Option<DeviceError>,
}

/// Pinned memory as `tz-io` takes it.
struct Buffer<D: Device>(D::Pinned);

impl<D: Device> fmt::Debug for Buffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffer").field(&self.0.len()).finish()
    }
}

impl<D: Device> Deref for Buffer<D> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<D: Device> DerefMut for Buffer<D> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl<D: Device> BufferMemory for Buffer<D> {}

impl PinnedPool {
    /// Starts to pin `ring` on `device`. Buffers that are out come back through `engine`.
    pub(crate) fn new<D: Device>(device: D, ring: Ring, engine: Arc<dyn Reap>) -> Self {
        let state = State {
            free: Vec::with_capacity(ring.buffers),
            pinned: 0,
            wanted: ring.buffers,
            closed: false,
            ended: false,
            failure: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wanted: Condvar::new(),
            pin_time: Sum::default(),
            pinning_stalls: Sum::default(),
            copy_stalls: Sum::default(),
            reader_stalls: Sum::default(),
        });
        let (pinning, pinned_by) = (Arc::clone(&shared), device.clone());
        let thread = std::thread::Builder::new().name("tz-pin".to_owned());
        let spawned = thread.spawn(move || pinning.pin_on_demand(&pinned_by, ring.buffer_len));
        if spawned.is_err() {
            // A process that may start no more threads pins the ring before it reads.
            shared.pin_wanted(&device, ring.buffer_len);
        }
        let home = Arc::clone(&shared);
        Self {
            shared,
            ring,
            engine,
            give_back: Arc::new(move |memory| home.give_back(memory)),
            pinner: spawned.ok(),
        }
    }

    /// Opens the pool, also after it was closed, for work that can use `buffers` buffers.
    pub(crate) fn open(&self, buffers: usize) {
        let mut state = self.shared.lock();
        state.closed = false;
        state.failure = None;
        state.wanted = buffers.clamp(1, self.ring.buffers);
        drop(state);
        self.shared.wanted.notify_all();
    }

    /// Why there are no buffers at all, where that is so.
    pub(crate) fn failure(&self) -> Option<DeviceError> {
        let state = self.shared.lock();
        state.failure.clone().filter(|_| state.pinned == 0)
    }

    /// Adds what was done since this was last asked.
    pub(crate) fn take_stats(&self, stats: &mut CopyStats) {
        let pinned = self.shared.lock().pinned as u64;
        stats.pinned_bytes = pinned * self.ring.buffer_len as u64;
        stats.pin = self.shared.pin_time.take_duration();
        stats.stalls = Stalls {
            pinning: self.shared.pinning_stalls.take_duration(),
            copies: self.shared.copy_stalls.take_duration(),
            readers: self.shared.reader_stalls.take_duration(),
        };
    }

    /// Waits a little for a buffer to come back, and notes what it waited for.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let cause = if self.engine.in_flight() > 0 {
            &self.shared.copy_stalls
        } else if state.pinned < state.wanted && state.failure.is_none() {
            &self.shared.pinning_stalls
        } else {
            &self.shared.reader_stalls
        };
        let start = Instant::now();
        let waited = self.shared.changed.wait_timeout(state, POLL);
        cause.add_since(start);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins until the pool goes away.
    fn pin_on_demand<D: Device>(&self, device: &D, buffer_len: usize) {
        loop {
            self.pin_wanted(device, buffer_len);
            let idle = |state: &mut State| {
                !state.ended && (state.pinned >= state.wanted || state.failure.is_some())
            };
            let state = self.wanted.wait_while(self.lock(), idle);
            if state.unwrap_or_else(PoisonError::into_inner).ended {
                return;
            }
        }
    }

    /// Pins what is wanted now, or until the device refuses.
    fn pin_wanted<D: Device>(&self, device: &D, buffer_len: usize) {
        loop {
            let state = self.lock();
            if state.ended || state.failure.is_some() || state.pinned >= state.wanted {
                return;
            }
            drop(state);
            let pinned = self.pin_time.time(|| device.pin(buffer_len));
            let mut state = self.lock();
            match pinned {
                Ok(memory) => {
                    state.pinned += 1;
                    state.free.push(Box::new(Buffer::<D>(memory)));
                }
                // Fewer buffers than wanted will do; none at all is an error of whoever waits for one.
                Err(error) => state.failure = Some(error),
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn give_back(&self, memory: Box<dyn BufferMemory>) {
        let mut state = self.lock();
        if state.ended {
            drop(state);
            drop(memory);
            return;
        }
        state.free.push(memory);
        drop(state);
        self.changed.notify_one();
    }
}

impl BufferPool for PinnedPool {
    fn buffer_len(&self) -> usize {
        self.ring.buffer_len
    }

    fn buffers(&self) -> usize {
        self.ring.buffers
    }

    fn acquire(&self) -> Option<PooledBuffer> {
        let mut state = self.shared.lock();
        loop {
            if state.closed || (state.pinned == 0 && state.failure.is_some()) {
                return None;
            }
            if let Some(memory) = state.free.pop() {
                return Some(PooledBuffer::new(memory, Arc::clone(&self.give_back)));
            }
            drop(state);
            // A failed engine returns nothing more; whoever closes the pool has the reason.
            let returned = self.engine.reap().ok()?;
            state = self.shared.lock();
            if returned == 0 && state.free.is_empty() && !state.closed {
                state = self.wait(state);
            }
        }
    }

    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for PinnedPool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.ended = true;
        let free = std::mem::take(&mut state.free);
        drop(state);
        drop(free);
        self.shared.changed.notify_all();
        self.shared.wanted.notify_all();
        if let Some(pinner) = self.pinner.take() {
            // It ends after the buffer in hand; a panic there has been reported by the thread itself.
            let _ = pinner.join();
        }
        let pinned_meanwhile = std::mem::take(&mut self.shared.lock().free);
        drop(pinned_meanwhile);
    }
}
