//! Counters that every load and write returns. Owns [`ReadStats`] and [`WriteStats`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::source::SourceCounters;

/// What a read did. Times are summed over all readers, so they may exceed the wall time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadStats {
    /// Reads or requests issued.
    pub requests: u64,
    /// Bytes fetched, gaps and headers included.
    pub bytes_fetched: u64,
    /// Bytes of tensor data delivered.
    pub bytes_delivered: u64,
    /// Time spent waiting for bytes.
    pub fetch: Duration,
    /// Time spent decrypting.
    pub decrypt: Duration,
    /// Time spent checking hashes.
    pub verify: Duration,
    /// Time spent waiting for a free buffer.
    pub wait: Duration,
    /// Time spent in the consumer.
    pub consume: Duration,
    /// Requests that were tried again, since the file was opened.
    pub retries: u64,
    /// Transfers that were broken off because nothing came, since the file was opened.
    pub stalls: u64,
}

impl ReadStats {
    /// Adds what a remote source counts by itself: its requests are the ones that went out.
    pub(crate) fn with_source(self, source: SourceCounters) -> Self {
        let requests = if source.requests > 0 { source.requests } else { self.requests };
        Self { requests, retries: source.retries, stalls: source.stalls, ..self }
    }
}

/// What a write did. Times are summed over all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteStats {
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of tensor data.
    pub tensor_bytes: u64,
    /// Time spent reading the source.
    pub read: Duration,
    /// Time spent hashing.
    pub hash: Duration,
    /// Time spent encrypting.
    pub encrypt: Duration,
    /// Time spent writing.
    pub write: Duration,
    /// Time spent making the file durable and visible.
    pub sync: Duration,
    /// BLAKE3 digest of the whole file, where [`crate::WriteOptions::file_digest`] asks for it.
    pub file_digest: Option<[u8; 32]>,
}

/// Items or nanoseconds that several threads add up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `value`.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds the nanoseconds since `start`.
    pub fn add_since(&self, start: Instant) {
        self.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// Runs `work` and adds its nanoseconds.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add_since(start);
        result
    }

    /// The sum.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The sum, as nanoseconds.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.value())
    }

    /// The sum, which starts again at zero.
    #[must_use]
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// The same, as nanoseconds.
    #[must_use]
    pub fn take_duration(&self) -> Duration {
        Duration::from_nanos(self.take())
    }
}
