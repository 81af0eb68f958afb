//! Resident memory of this process, with and without the ring of pinned buffers. Owns [`Growth`].

/// By how much a load let the process grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Bytes of the ring, whether they are counted or not.
    pub(crate) ring: u64,
    /// Whether the kernel counts pinned memory as resident: it depends on the driver, so it is measured.
    pub(crate) ring_counts: bool,
    /// Growth of the resident memory, everything included that counts.
    pub(crate) with_ring: u64,
}

impl Growth {
    /// Growth without the ring. Negative where the ring was resident before; nothing is rounded up to zero, so a
    /// growth as large as the ring is not hidden by it.
    pub(crate) fn without_ring(self) -> i64 {
        let ring = if self.ring_counts { self.ring } else { 0 };
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        signed(self.with_ring) - signed(ring)
    }
}

/// Whether memory of `len` bytes, which is there `after` and was not `before`, is in the figures of resident memory.
pub(crate) fn counts(before: u64, after: u64, len: u64) -> bool {
    after.saturating_sub(before) > len / 2
}
