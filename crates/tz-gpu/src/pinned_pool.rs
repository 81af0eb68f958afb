//! The ring of pinned staging buffers that readers fill. Owns [`PinnedPool`], a [`BufferPool`].
//!
//! A thread pins the ring, several buffers at a time. The first of them are there soon after the pool is made, more
//! follow while readers wait for one, and nothing is pinned that a load does not want. A buffer comes back when it is
//! dropped, which the copy engine does after the event behind its copies has completed.
//!
//! A reader first asks the engine for completed buffers, then takes the one that came back last, whose bytes may still
//! be in a cache; a buffer that nobody has used yet comes after all others. Where there is none, one of the waiting
//! readers keeps asking. Nobody else has to run for it to make progress, so a ring of a single buffer finishes too.
//!
//! A load is promised a number of buffers, and starts that many readers, which may wait for each other (a reader of
//! encrypted data needs the header that another one has in hand). So the promise is kept where the device pins less
//! than was asked for: ordinary memory takes the place of what is missing, and its copies are slower.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tz_io::{BufferMemory, BufferPool, Cancel, Counter, PooledBuffer};

use crate::device::Device;
use crate::engine::Reap;
use crate::error::DeviceError;
use crate::schedule::Ring;
use crate::stats::{CopyStats, Stalls};

/// How long a reader waits before it looks at the events again: a small part of the time that one buffer of some MiB
/// takes over the bus, and long enough to cost no core.
const POLL: Duration = Duration::from_micros(50);
/// Memory that is pinned before any reader waits for it: with buffers of 2 MiB, enough for 16 readers.
const PINNED_AHEAD: usize = 64 << 20;

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
    pin_time: Counter,
    pinning_stalls: Counter,
    copy_stalls: Counter,
    reader_stalls: Counter,
}

#[derive(Debug)]
struct State {
    /// The next to be lent is the last one.
    free: VecDeque<Box<dyn BufferMemory>>,
    /// Readers that wait for a buffer.
    waiting: usize,
    /// One found none since the device last pinned any.
    starved: bool,
    /// Whether one of them asks the engine again and again.
    polling: bool,
    /// Buffers that there are, free or not.
    buffers: usize,
    /// How many of them are pinned.
    pinned: usize,
    /// How many there are to be.
    wanted: usize,
    closed: bool,
    /// The pool is going away: buffers that come back are unpinned.
    ended: bool,
    /// Most buffers that the device has not refused to pin together.
    pinnable: usize,
    /// Why the device pins no more.
    failure: Option<DeviceError>,
}

/// Staging memory as `tz-io` takes it.
enum Buffer<D: Device> {
    Pinned(D::Pinned),
    Ordinary(Box<[u8]>),
}

impl<D: Device> fmt::Debug for Buffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(memory) => f.debug_tuple("Pinned").field(&memory.len()).finish(),
            Self::Ordinary(memory) => f.debug_tuple("Ordinary").field(&memory.len()).finish(),
        }
    }
}

impl<D: Device> Deref for Buffer<D> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pinned(memory) => memory,
            Self::Ordinary(memory) => memory,
        }
    }
}

impl<D: Device> DerefMut for Buffer<D> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pinned(memory) => memory,
            Self::Ordinary(memory) => memory,
        }
    }
}

impl<D: Device> BufferMemory for Buffer<D> {}

impl PinnedPool {
    /// Starts to pin `ring` on `device`. Buffers that are out come back through `engine`.
    pub(crate) fn new<D: Device>(device: D, ring: Ring, engine: Arc<dyn Reap>) -> Self {
        let state = State {
            free: VecDeque::with_capacity(ring.buffers),
            waiting: 0,
            starved: false,
            polling: false,
            buffers: 0,
            pinned: 0,
            wanted: ring.buffers,
            closed: false,
            ended: false,
            pinnable: usize::MAX,
            failure: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wanted: Condvar::new(),
            pin_time: Counter::default(),
            pinning_stalls: Counter::default(),
            copy_stalls: Counter::default(),
            reader_stalls: Counter::default(),
        });
        let (pinning, pinned_by) = (Arc::clone(&shared), device.clone());
        let thread = std::thread::Builder::new().name("tz-pin".to_owned());
        let spawned = thread.spawn(move || pinning.pin_on_demand(&pinned_by, ring));
        if spawned.is_err() {
            // A process that may start no more threads pins the ring before it reads.
            shared.pin_while(&device, ring, State::lacks_buffers);
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

    /// Opens the pool, also after it was closed, for work that can use `buffers` buffers; gives how many of them there
    /// will be.
    pub(crate) fn open(&self, buffers: usize) -> usize {
        let wanted = buffers.clamp(1, self.ring.buffers);
        let mut state = self.shared.lock();
        state.closed = false;
        state.failure = None;
        state.wanted = wanted;
        state.starved = false;
        drop(state);
        self.shared.wanted.notify_all();
        wanted
    }

    /// Why there are no buffers at all, where that is so.
    pub(crate) fn failure(&self) -> Option<DeviceError> {
        let state = self.shared.lock();
        state.failure.clone().filter(|_| state.buffers == 0)
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
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, cancel: &Cancel) -> MutexGuard<'a, State> {
        let cause = if self.engine.in_flight() > 0 {
            &self.shared.copy_stalls
        } else if state.buffers < state.wanted {
            &self.shared.pinning_stalls
        } else {
            &self.shared.reader_stalls
        };
        let start = Instant::now();
        state.waiting += 1;
        if state.lacks_buffers() {
            state.starved = true;
            self.shared.wanted.notify_all();
        }
        if state.polling {
            state = cancel.wait(&self.shared.changed, state);
        } else {
            state.polling = true;
            let waited = self.shared.changed.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.polling = false;
        }
        state.waiting -= 1;
        cause.add_since(start);
        state
    }

    /// Before a reader goes: another one that waits has to ask from now on.
    fn leave(&self, state: &State) {
        if state.waiting > 0 && !state.polling {
            self.shared.changed.notify_one();
        }
    }
}

impl State {
    /// Whether the device refused the very first buffer: an error, not a reason to go on slowly.
    fn has_none(&self) -> bool {
        self.buffers == 0 && self.failure.is_some()
    }

    fn lacks_buffers(&self) -> bool {
        self.buffers < self.wanted && !self.has_none()
    }

    /// Whether it is time to provide more.
    fn needs_buffers(&self, ring: Ring) -> bool {
        let ahead = self.buffers.saturating_mul(ring.buffer_len) < PINNED_AHEAD;
        self.lacks_buffers() && (ahead || self.starved)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Provides buffers until the pool goes away.
    fn pin_on_demand<D: Device>(&self, device: &D, ring: Ring) {
        // Where that fails, pinning fails too and says why.
        let _ = device.keep_current();
        loop {
            self.pin_while(device, ring, |state| state.needs_buffers(ring));
            let idle = |state: &mut State| !state.ended && !state.needs_buffers(ring);
            let state = self.wanted.wait_while(self.lock(), idle);
            if state.unwrap_or_else(PoisonError::into_inner).ended {
                return;
            }
        }
    }

    /// Provides buffers while they are needed, unless the device pins nothing at all.
    fn pin_while<D: Device>(&self, device: &D, ring: Ring, needed: impl Fn(&State) -> bool) {
        loop {
            let state = self.lock();
            if state.ended || !needed(&state) {
                return;
            }
            let refused = state.failure.is_some();
            let slab = ring.next_slab(state.buffers).min(state.pinnable);
            drop(state);
            let provided = if refused {
                let memory = vec![0; ring.buffer_len].into_boxed_slice();
                Ok(vec![Buffer::<D>::Ordinary(memory)])
            } else {
                let pinned = self.pin_time.time(|| device.pin_buffers(ring.buffer_len, slab));
                pinned.map(|buffers| buffers.into_iter().map(Buffer::Pinned).collect())
            };
            let mut state = self.lock();
            match provided {
                Ok(buffers) => {
                    state.starved = false;
                    state.buffers += buffers.len();
                    state.pinned += if refused { 0 } else { buffers.len() };
                    for buffer in buffers {
                        state.free.push_front(Box::new(buffer));
                    }
                }
                // Less may still be there.
                Err(DeviceError::OutOfMemory { .. }) if slab > 1 => state.pinnable = slab / 2,
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
        state.free.push_back(memory);
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

    fn acquire(&self, cancel: &Cancel) -> Option<PooledBuffer> {
        loop {
            // A failed engine returns nothing more; whoever closes the pool has the reason.
            let asked = if self.engine.in_flight() > 0 { self.engine.reap() } else { Ok(0) };
            let mut state = self.shared.lock();
            if asked.is_err() || state.closed || state.has_none() || cancel.is_cancelled() {
                self.leave(&state);
                return None;
            }
            if let Some(memory) = state.free.pop_back() {
                self.leave(&state);
                return Some(PooledBuffer::new(memory, Arc::clone(&self.give_back)));
            }
            state = self.wait(state, cancel);
            drop(state);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{SimDevice, SimOptions};

    /// No buffer is ever with a device.
    #[derive(Debug)]
    struct Idle;

    impl Reap for Idle {
        fn reap(&self) -> Result<usize, DeviceError> {
            Ok(0)
        }

        fn in_flight(&self) -> usize {
            0
        }
    }

    fn pool(pinnable: u64) -> (SimDevice, PinnedPool) {
        let device = SimDevice::new(SimOptions { pinnable, ..SimOptions::default() });
        let ring = Ring { buffer_len: 100, buffers: 5 };
        (device.clone(), PinnedPool::new(device, ring, Arc::new(Idle)))
    }

    #[test]
    fn every_promised_buffer_can_be_had_at_once() {
        for pinnable in [100, 300, 500] {
            let (device, pool) = pool(pinnable);
            for (asked, promised) in [(2, 2), (9, 5), (0, 1), (5, 5)] {
                assert_eq!(pool.open(asked), promised);
                let lent: Vec<_> =
                    (0..promised).map(|_| pool.acquire(&Cancel::default()).unwrap()).collect();
                assert!(lent.iter().all(|buffer| buffer.len() == 100));
            }
            let mut stats = CopyStats::default();
            pool.take_stats(&mut stats);
            assert_eq!(stats.pinned_bytes, pinnable);
            drop(pool);
            assert_eq!(device.usage().pinned_bytes, 0);
        }
    }

    #[test]
    fn buffers_that_outlive_the_pool_are_unpinned_when_they_come_back() {
        let (device, pool) = pool(500);
        let lent = pool.acquire(&Cancel::default()).unwrap();
        drop(pool);
        assert_eq!(device.usage().pinned_bytes, 100);
        drop(lent);
        assert_eq!(device.usage().pinned_bytes, 0);
    }

    #[test]
    fn a_closed_pool_lends_nothing_until_it_is_opened() {
        let (_, pool) = pool(500);
        pool.close();
        assert!(pool.acquire(&Cancel::default()).is_none());
        pool.open(1);
        assert!(pool.acquire(&Cancel::default()).is_some());
    }
}
