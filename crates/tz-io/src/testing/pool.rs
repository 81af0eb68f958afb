//! A pool that counts. Owns [`RecordingPool`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::{BufferMemory, BufferPool, HeapPool, PooledBuffer};
use crate::options::Cancel;

/// Wraps a pool and counts the buffers that are out.
#[derive(Debug)]
pub struct RecordingPool<P> {
    inner: P,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    out: AtomicUsize,
    most_out: AtomicUsize,
    acquired: AtomicUsize,
}

impl<P: BufferPool> RecordingPool<P> {
    /// Counts what `inner` lends from now on.
    #[must_use]
    pub fn new(inner: P) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Buffers that are out now.
    #[must_use]
    pub fn out(&self) -> usize {
        self.counts.out.load(Ordering::SeqCst)
    }

    /// Most buffers that were out at once.
    #[must_use]
    pub fn most_out(&self) -> usize {
        self.counts.most_out.load(Ordering::SeqCst)
    }

    /// Loans so far.
    #[must_use]
    pub fn acquired(&self) -> usize {
        self.counts.acquired.load(Ordering::SeqCst)
    }
}

impl RecordingPool<HeapPool> {
    /// A share of the inner pool; what all shares lend is counted together.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { inner: self.inner.share(), counts: Arc::clone(&self.counts) }
    }
}

impl<P: BufferPool> BufferPool for RecordingPool<P> {
    fn buffer_len(&self) -> usize {
        self.inner.buffer_len()
    }

    fn buffers(&self) -> usize {
        self.inner.buffers()
    }

    fn acquire(&self, cancel: &Cancel) -> Option<PooledBuffer> {
        let buffer = self.inner.acquire(cancel)?;
        let out = self.counts.out.fetch_add(1, Ordering::SeqCst) + 1;
        self.counts.most_out.fetch_max(out, Ordering::SeqCst);
        self.counts.acquired.fetch_add(1, Ordering::SeqCst);
        let counts = Arc::clone(&self.counts);
        let give_back = move |memory: Box<dyn BufferMemory>| {
            // Counted before the inner pool has it: whoever waits for it must find it counted as back.
            counts.out.fetch_sub(1, Ordering::SeqCst);
            drop(memory);
        };
        Some(PooledBuffer::new(Box::new(Lent(buffer)), Arc::new(give_back)))
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// A loan of the inner pool as memory of a loan of the outer one.
#[derive(Debug)]
struct Lent(PooledBuffer);

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl BufferMemory for Lent {}
