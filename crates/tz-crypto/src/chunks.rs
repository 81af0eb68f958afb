//! Where chunks begin and end within a tensor's data. Owns [`Chunks`]; pure arithmetic.

use std::ops::Range;

use crate::error::CryptoError;

/// A tensor's data cut into chunks of one size, the last of which may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    data_len: u64,
    size: u64,
    count: usize,
}

impl Chunks {
    /// Chunks of `size` bytes; none where there is no data.
    pub(crate) fn split(data_len: u64, size: u64) -> Result<Self, CryptoError> {
        let count = (size > 0).then(|| data_len.div_ceil(size));
        let count = count.and_then(|count| usize::try_from(count).ok());
        let count =
            count.ok_or(CryptoError::malformed("chunk size", "zero, or too small for the data"))?;
        Ok(Self { data_len, size: size.min(data_len), count })
    }

    /// One chunk, even of no bytes.
    pub(crate) fn whole(data_len: u64) -> Self {
        Self { data_len, size: data_len, count: 1 }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of every chunk but the last, which has at most as many.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn is_last(&self, i: usize) -> bool {
        i + 1 == self.count
    }

    /// Bytes of chunk `i` within the data; an empty range at its end beyond the last.
    pub(crate) fn range(&self, i: usize) -> Range<u64> {
        let start = self.size.saturating_mul(i as u64).min(self.data_len);
        start..start.saturating_add(self.size).min(self.data_len)
    }

    /// Refuses a buffer that is not exactly chunk `i`.
    pub(crate) fn check(&self, i: usize, len: usize) -> Result<(), CryptoError> {
        let range = self.range(i);
        if i >= self.count {
            Err(CryptoError::Misuse("no chunk of that index"))
        } else if range.end - range.start != len as u64 {
            Err(CryptoError::Misuse("the buffer is not as long as the chunk"))
        } else {
            Ok(())
        }
    }
}
