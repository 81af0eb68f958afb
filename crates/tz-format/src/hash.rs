//! The hash list of a tensor header. Owns [`TensorHash`] and [`HashKind`]; computing hashes is the caller's.

use crate::error::{Fault, FormatError};
use crate::frozen::{HASH_CRC32, HASH_SHA256};
use crate::wire::{Reader, Writer};

/// Algorithm of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashKind {
    /// CRC-32 with zlib's polynomial.
    Crc32,
    /// SHA-256.
    Sha256,
}

impl HashKind {
    /// Bytes of the value.
    #[must_use]
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 => 4,
            Self::Sha256 => 32,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Crc32 => HASH_CRC32,
            Self::Sha256 => HASH_SHA256,
        }
    }
}

/// One hash over [`crate::TensorHeader::hashed_bytes`] followed by the tensor's plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorHash {
    /// CRC-32 with zlib's polynomial.
    Crc32(u32),
    /// SHA-256.
    Sha256([u8; 32]),
}

impl TensorHash {
    /// The algorithm.
    #[must_use]
    pub fn kind(&self) -> HashKind {
        match self {
            Self::Crc32(_) => HashKind::Crc32,
            Self::Sha256(_) => HashKind::Sha256,
        }
    }

    /// Lower-case hexadecimal of the value; CRC-32 with its most significant digit first.
    #[must_use]
    pub fn to_hex(&self) -> String {
        match self {
            Self::Crc32(value) => format!("{value:08x}"),
            Self::Sha256(value) => hex(value),
        }
    }
}

/// Lower-case hexadecimal of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `u16 length, u8 count, count × (u8 type, u8 length, value)`; returns the ranges of the values.
pub(crate) fn read_block(
    r: &mut Reader<'_>,
) -> Result<(Vec<TensorHash>, Vec<std::ops::Range<usize>>), FormatError> {
    let len = r.u16("hash block length")?;
    let start = r.pos();
    let mut block = r.sub(len.into(), "hash block")?;
    let count = block.u8("hash count")?;
    let (mut hashes, mut values) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let code_at = block.offset();
        let code = block.u8("hash type")?;
        let len_at = block.offset();
        let value_len = block.u8("hash length")?;
        let from = start + block.pos();
        let hash = match (code, value_len) {
            (HASH_CRC32, 4) => TensorHash::Crc32(block.u32("hash value")?),
            (HASH_SHA256, 32) => TensorHash::Sha256(block.array("hash value")?),
            (HASH_CRC32 | HASH_SHA256, len) => {
                return Err(FormatError::malformed(
                    "hash length",
                    len_at,
                    Fault::WrongHashLength(len),
                ));
            }
            (code, _) => {
                return Err(FormatError::malformed("hash type", code_at, Fault::UnknownHash(code)));
            }
        };
        hashes.push(hash);
        values.push(from..from + usize::from(value_len));
    }
    block.finish("hash block")?;
    Ok((hashes, values))
}

pub(crate) fn block_len(kinds: impl IntoIterator<Item = HashKind>) -> u64 {
    kinds.into_iter().fold(3, |len, kind| len + 2 + kind.value_len() as u64)
}

pub(crate) fn write_block(w: &mut Writer, hashes: &[TensorHash]) {
    let len = block_len(hashes.iter().map(TensorHash::kind)) - 2;
    // At most the two kinds above stand in a list that this crate writes, so both casts fit.
    w.u16(u16::try_from(len).unwrap_or(u16::MAX));
    w.u8(u8::try_from(hashes.len()).unwrap_or(u8::MAX));
    for hash in hashes {
        w.u8(hash.kind().code());
        w.u8(u8::try_from(hash.kind().value_len()).unwrap_or(u8::MAX));
        match hash {
            TensorHash::Crc32(value) => w.u32(*value),
            TensorHash::Sha256(value) => w.bytes(value),
        }
    }
}
