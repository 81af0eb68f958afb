//! The header before each tensor's data. Owns [`TensorHeader`] and what its hashes cover.

use std::ops::Range;

use crate::crypt_info::CryptInfo;
use crate::dtype::Dtype;
use crate::error::{Fault, FormatError};
use crate::hash::{self, HashKind, TensorHash};
use crate::index::{TensorEntry, TensorKind, read_dims, write_dims};
use crate::tensor_path::TensorPath;
use crate::version::Flags;
use crate::wire::{Reader, Writer};

/// A decoded tensor header: what the index does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Position in `named_modules()`; the reference never reads it.
    pub module_index: u16,
    /// Hashes over [`Self::hashed_bytes`] and the plaintext.
    pub hashes: Vec<TensorHash>,
    /// Encryption parameters, where the file is encrypted.
    pub crypt: Option<CryptInfo>,
    hash_values: Vec<Range<usize>>,
    crypt_block: Range<usize>,
    sealed_tags: Range<usize>,
}

impl TensorHeader {
    /// Reads the header of `entry` from `bytes`, which stand from `entry.header_offset` to `entry.data_offset`.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] where a field is broken or disagrees with the index, naming the tensor.
    pub fn decode(bytes: &[u8], entry: &TensorEntry, flags: Flags) -> Result<Self, FormatError> {
        Self::read(bytes, entry, flags).map_err(|error| error.of_tensor(&entry.path))
    }

    /// `u64 length, u16 module index, u8 type, u16 + name, u8 + dtype, u8 + dims, hash block, [crypt block],
    /// padding, i64 data length` (the last found from the end).
    fn read(bytes: &[u8], entry: &TensorEntry, flags: Flags) -> Result<Self, FormatError> {
        let base = entry.header_offset;
        let differs = |field, offset, same: bool| -> Result<(), FormatError> {
            if same {
                Ok(())
            } else {
                Err(FormatError::malformed(field, offset, Fault::DiffersFromIndex))
            }
        };
        let mut r = Reader::new(bytes, base);
        differs("header length", base, r.u64("header length")? == bytes.len() as u64)?;
        let module_index = r.u16("module index")?;
        let offset = r.offset();
        differs(
            "tensor type",
            offset,
            TensorKind::from_code(r.u8("tensor type")?) == Some(entry.kind),
        )?;
        let name_len = r.u16("name length")?;
        let offset = r.offset();
        let name = TensorPath::from_wire(r.bytes(name_len.into(), "name")?);
        differs("name", offset, name.as_ref() == Ok(&entry.path))?;
        let dtype_len = r.u8("dtype length")?;
        let offset = r.offset();
        let dtype = std::str::from_utf8(r.bytes(dtype_len.into(), "dtype")?)
            .ok()
            .and_then(Dtype::from_wire);
        differs("dtype", offset, dtype == Some(entry.dtype))?;
        let rank = r.u8("rank")?;
        let offset = r.offset();
        let shape = read_dims(&mut r, rank, entry.long_dims)?;
        differs("shape", offset, shape == entry.shape)?;
        let (hashes, hash_values) = hash::read_block(&mut r)?;
        let crypt_start = r.pos();
        let crypt_offset = r.offset();
        let (crypt, sealed_tags) = if flags.encrypted {
            let (info, tags) = CryptInfo::read(&mut r)?;
            (Some(info), tags)
        } else {
            (None, None)
        };
        let crypt_block = crypt_start..r.pos();
        if let Some(info) = &crypt {
            info.check_profile(flags.profile(), crypt_offset)?;
            info.check_len(entry.data_len, crypt_offset)?;
        }
        // Whatever stands here is padding: hashes cover it, nothing reads it.
        let padding = r.rest().len().checked_sub(8);
        let padding = padding
            .ok_or_else(|| FormatError::malformed("data length", r.offset(), Fault::Truncated))?;
        r.bytes(padding as u64, "padding")?;
        let offset = r.offset();
        differs("data length", offset, r.u64("data length")? == entry.data_len)?;
        Ok(Self {
            module_index,
            hashes,
            crypt,
            hash_values,
            sealed_tags: sealed_tags.unwrap_or(crypt_block.end..crypt_block.end),
            crypt_block,
        })
    }

    /// The bytes that hashes cover before the plaintext: `bytes` with every hash value zeroed and the crypt
    /// block left out. `bytes` are those this header was decoded from.
    #[must_use]
    pub fn hashed_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.without(bytes, &self.crypt_block)
    }

    /// The bytes that authenticate every chunk of a sealed tensor: `bytes` with every hash value zeroed and the
    /// tags left out.
    #[must_use]
    pub fn sealed_aad(&self, bytes: &[u8]) -> Vec<u8> {
        self.without(bytes, &self.sealed_tags)
    }

    fn without(&self, bytes: &[u8], left_out: &Range<usize>) -> Vec<u8> {
        let mut kept = bytes.to_vec();
        for value in &self.hash_values {
            if let Some(value) = kept.get_mut(value.clone()) {
                value.fill(0);
            }
        }
        if left_out.end <= kept.len() {
            kept.drain(left_out.clone());
        }
        kept
    }

    /// Smallest header of `entry` with `hashes` and `crypt`, in bytes.
    pub(crate) fn min_len(
        name_len: usize,
        dtype_len: usize,
        dims_len: usize,
        hashes: &[HashKind],
        crypt_len: u64,
    ) -> u64 {
        let fixed = 8 + 2 + 1 + 2 + 1 + 1 + 8;
        fixed
            + (name_len + dtype_len + dims_len) as u64
            + hash::block_len(hashes.iter().copied())
            + crypt_len
    }

    /// The header of `entry`, padded to reach `entry.data_offset`.
    pub(crate) fn encode(
        entry: &TensorEntry,
        module_index: u16,
        hashes: &[TensorHash],
        crypt: Option<&CryptInfo>,
    ) -> Result<Vec<u8>, FormatError> {
        let len = entry.data_offset - entry.header_offset;
        let len_usize = usize::try_from(len).unwrap_or(0);
        let mut w = Writer::with_capacity(len_usize);
        w.u64(len);
        w.u16(module_index);
        w.u8(entry.kind.code());
        entry.write_name(&mut w);
        entry.write_dtype(&mut w);
        write_dims(&mut w, &entry.shape, entry.long_dims);
        hash::write_block(&mut w, hashes);
        if let Some(info) = crypt {
            info.write(&mut w);
        }
        // Hashes and crypt block of another shape than the layout was planned with would shift the data.
        if w.len() + 8 > len_usize {
            let fault = Fault::HeaderTooShort;
            let error = FormatError::malformed("header length", entry.header_offset, fault);
            return Err(error.of_tensor(&entry.path));
        }
        w.pad_to(len_usize - 8);
        w.u64(entry.data_len);
        Ok(w.into_bytes())
    }
}
