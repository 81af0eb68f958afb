//! Counters that every load onto a device returns. Owns [`CopyStats`] and [`Stalls`].

use std::time::Duration;

use tz_io::ReadStats;

/// What a load did on its way to the device. Times are summed over all threads, unless they say otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyStats {
    /// Bytes copied to the device, padding between small tensors included.
    pub bytes: u64,
    /// Copies started.
    pub copies: u64,
    /// Buffers that travelled.
    pub buffers: u64,
    /// Device memory that the tensors take.
    pub device_bytes: u64,
    /// Host memory that is pinned.
    pub pinned_bytes: u64,
    /// Time to pin it: one thread, beside other work.
    pub pin: Duration,
    /// Time to allocate device memory: one thread.
    pub allocate: Duration,
    /// Time on the CPU for casts, byte order and packing.
    pub convert: Duration,
    /// Time to start copies.
    pub submit: Duration,
    /// Time to wait for the last copies: one thread.
    pub drain: Duration,
    /// Readers that waited for a buffer, by cause.
    pub stalls: Stalls,
}

/// Time that readers waited for a free buffer, summed over them, by what held the buffers up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalls {
    /// No buffer was pinned yet.
    pub pinning: Duration,
    /// Copies to the device were under way: the bus is the bottleneck, or the ring too small.
    pub copies: Duration,
    /// The other readers had all buffers: reading is the bottleneck.
    pub readers: Duration,
}

/// Everything about one load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadStats {
    /// Fetching, decrypting and verifying.
    pub read: ReadStats,
    /// Staging and copying.
    pub copy: CopyStats,
    /// From start to end, as a clock on the wall shows it.
    pub wall: Duration,
}
