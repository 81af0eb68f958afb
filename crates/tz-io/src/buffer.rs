//! Staging memory under a hard budget. Owns the [`BufferPool`] trait and [`HeapPool`].
//!
//! A fetch starts only once it holds its buffer: that is the backpressure. A buffer returns to its pool when it is
//! dropped, whoever dropped it. Loads that run at once share one budget by shares of one pool.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::memory::{Arena, ArenaSlice};
use crate::options::Cancel;

/// Buffers of one length, lent and returned.
pub trait BufferPool: Send + Sync + fmt::Debug {
    /// Length of every buffer in bytes.
    fn buffer_len(&self) -> usize;

    /// How many buffers there are.
    fn buffers(&self) -> usize;

    /// Waits for a buffer; `None` once the pool is closed or `cancel` is set. Whoever cancels need not wait for a
    /// consumer that keeps every buffer.
    fn acquire(&self, cancel: &Cancel) -> Option<PooledBuffer>;

    /// Wakes everyone who waits: the work has failed or was cancelled.
    fn close(&self);
}

/// Memory of one pooled buffer, host memory of whatever kind.
pub trait BufferMemory: DerefMut<Target = [u8]> + Send + Sync + fmt::Debug {}

impl BufferMemory for ArenaSlice {}

type Return = Arc<dyn Fn(Box<dyn BufferMemory>) + Send + Sync>;

/// A buffer on loan. Dropping it gives it back.
pub struct PooledBuffer {
    memory: Option<Box<dyn BufferMemory>>,
    give_back: Return,
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl PooledBuffer {
    /// Lends `memory`; `give_back` takes it when the buffer is dropped. For implementers of [`BufferPool`].
    #[must_use]
    pub fn new(memory: Box<dyn BufferMemory>, give_back: Return) -> Self {
        Self { memory: Some(memory), give_back }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map(|memory| &***memory).unwrap_or_default()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map(|memory| &mut ***memory).unwrap_or_default()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            (self.give_back)(memory);
        }
    }
}

/// A pool on ordinary memory.
///
/// Closing ends a pool for good, and a load that fails closes the one it was given. So loads that run at once each get
/// a share of their own ([`HeapPool::share`]): they lend from the same memory, and fail alone.
#[derive(Debug)]
pub struct HeapPool {
    shared: Arc<Shared>,
    /// Set under the lock of `shared`, so that nobody begins to wait meanwhile.
    closed: AtomicBool,
    buffer_len: usize,
    buffers: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<Box<dyn BufferMemory>>,
}

impl HeapPool {
    /// Reserves `buffers` buffers of `buffer_len` bytes; memory is taken as they are first used.
    ///
    /// # Errors
    /// Where the address space cannot be reserved.
    pub fn new(buffer_len: usize, buffers: usize) -> io::Result<Self> {
        let total = buffer_len.checked_mul(buffers).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut arena = Arena::new(total)?;
        let slices = (0..buffers).filter_map(|_| arena.take(buffer_len));
        let free = slices.map(|slice| Box::new(slice) as Box<dyn BufferMemory>).collect();
        let state = Mutex::new(State { free });
        Ok(Self {
            shared: Arc::new(Shared { state, returned: Condvar::new() }),
            closed: AtomicBool::new(false),
            buffer_len,
            buffers,
        })
    }

    /// The same buffers for one more load: all shares together never lend more than the pool has, and closing one
    /// leaves the others open.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            closed: AtomicBool::new(false),
            buffer_len: self.buffer_len,
            buffers: self.buffers,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BufferPool for HeapPool {
    fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    fn buffers(&self) -> usize {
        self.buffers
    }

    fn acquire(&self, cancel: &Cancel) -> Option<PooledBuffer> {
        let mut state = self.state();
        loop {
            if self.closed.load(Ordering::Relaxed) || cancel.is_cancelled() {
                if !state.free.is_empty() {
                    // Who was woken for a buffer and does not take it wakes another share's reader.
                    self.shared.returned.notify_one();
                }
                return None;
            }
            if let Some(memory) = state.free.pop() {
                let shared = Arc::clone(&self.shared);
                let give_back = move |memory| {
                    shared.state.lock().unwrap_or_else(PoisonError::into_inner).free.push(memory);
                    shared.returned.notify_one();
                };
                return Some(PooledBuffer::new(memory, Arc::new(give_back)));
            }
            state = cancel.wait(&self.shared.returned, state);
        }
    }

    fn close(&self) {
        let state = self.state();
        self.closed.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.returned.notify_all();
    }
}
