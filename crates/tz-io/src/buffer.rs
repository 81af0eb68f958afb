//! Staging memory under a hard budget. Owns the [`BufferPool`] trait and [`HeapPool`].
//!
//! A fetch starts only once it holds its buffer: that is the backpressure. A buffer returns to its pool when it is
//! dropped, whoever dropped it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::memory::{Arena, ArenaSlice};

/// Buffers of one length, lent and returned.
pub trait BufferPool: Send + Sync + fmt::Debug {
    /// Length of every buffer in bytes.
    fn buffer_len(&self) -> usize;

    /// How many buffers there are.
    fn buffers(&self) -> usize;

    /// Waits for a buffer; `None` once the pool is closed.
    fn acquire(&self) -> Option<PooledBuffer>;

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
#[derive(Debug)]
pub struct HeapPool {
    shared: Arc<Shared>,
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
    closed: bool,
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
        let state = Mutex::new(State { free, closed: false });
        Ok(Self {
            shared: Arc::new(Shared { state, returned: Condvar::new() }),
            buffer_len,
            buffers,
        })
    }
}

impl BufferPool for HeapPool {
    fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    fn buffers(&self) -> usize {
        self.buffers
    }

    fn acquire(&self) -> Option<PooledBuffer> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
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
            state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.returned.notify_all();
    }
}
