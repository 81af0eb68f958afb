//! The first 73 bytes. Owns [`FileHeader`].

use crate::error::{Fault, FormatError};
use crate::frozen::{FILE_HEADER_LEN, MAGIC};
use crate::limits::Limits;
use crate::version::{Flags, Version};
use crate::wire::{Reader, Writer};

/// What stands before the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Data version.
    pub version: Version,
    /// Feature flags.
    pub flags: Flags,
    /// Sum of the stored data lengths, as the writer stated it; nothing relies on it.
    pub tensor_bytes: u64,
    /// Number of index entries.
    pub tensor_count: u64,
    /// Bytes of the index, extension block and unused bytes included.
    pub index_len: u64,
}

impl FileHeader {
    /// Length of the front: header and index.
    #[must_use]
    pub fn front_len(&self) -> u64 {
        // `read` bounds the index length by `i64::MAX`, so only a made-up header saturates.
        FILE_HEADER_LEN.saturating_add(self.index_len)
    }

    /// `magic, u32 version, 32 bytes of flags, u64 tensor bytes, 8 zero bytes, u64 count, u64 index length`.
    pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes, 0);
        if r.bytes(MAGIC.len() as u64, "magic")? != MAGIC {
            return Err(FormatError::NotTensors);
        }
        let version = Version::from_number(r.u32("version")?)?;
        let flags_at = r.offset();
        let flags = Flags::from_wire(&r.array("feature flags")?, version, flags_at)?;
        let tensor_bytes = r.u64("tensor bytes")?;
        // The reference skips these without looking, so neither do we.
        r.bytes(8, "padding")?;
        let count_at = r.offset();
        let tensor_count = r.u64("tensor count")?;
        let index_at = r.offset();
        let index_len = r.u64("index length")?;
        let within = |what, value, limit, offset| {
            if value > limit {
                Err(FormatError::LimitExceeded { what, value, limit, offset })
            } else {
                Ok(())
            }
        };
        if tensor_count == 0 {
            return Err(FormatError::malformed("tensor count", count_at, Fault::Empty));
        }
        within("tensor count", tensor_count, limits.tensors, count_at)?;
        within(
            "index length",
            index_len,
            limits.index_len.min(i64::MAX.cast_unsigned()),
            index_at,
        )?;
        Ok(Self { version, flags, tensor_bytes, tensor_count, index_len })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.bytes(MAGIC);
        w.u32(self.version.number());
        w.bytes(&self.flags.to_wire(self.version));
        w.u64(self.tensor_bytes);
        w.u64(0);
        w.u64(self.tensor_count);
        w.u64(self.index_len);
    }
}
