//! Little-endian cursors. Owns [`Reader`] and [`Writer`], the only code that knows byte order.

use crate::error::{Fault, FormatError};

/// A bounded view of one block of the file that knows its own offset, for errors.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    base: u64,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which stand at `base` in the file.
    pub(crate) fn new(bytes: &'a [u8], base: u64) -> Self {
        Self { bytes, pos: 0, base }
    }

    /// Offset in the file of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        // Saturates only where a caller made up the base.
        self.base.saturating_add(self.pos as u64)
    }

    /// Position within the block.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes not yet read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.pos..).unwrap_or_default()
    }

    pub(crate) fn bytes(&mut self, len: u64, field: &'static str) -> Result<&'a [u8], FormatError> {
        let taken = usize::try_from(len).ok().and_then(|len| self.rest().get(..len));
        let taken =
            taken.ok_or_else(|| FormatError::malformed(field, self.offset(), Fault::Truncated))?;
        self.pos += taken.len();
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], FormatError> {
        let offset = self.offset();
        let bytes = self.bytes(N as u64, field)?;
        bytes.try_into().map_err(|_| FormatError::malformed(field, offset, Fault::Truncated))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, FormatError> {
        Ok(i32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A sub-block of `len` bytes: what is read from it cannot leave it.
    pub(crate) fn sub(&mut self, len: u64, field: &'static str) -> Result<Self, FormatError> {
        let base = self.offset();
        Ok(Self::new(self.bytes(len, field)?, base))
    }

    /// Refuses bytes left over.
    pub(crate) fn finish(&self, field: &'static str) -> Result<(), FormatError> {
        match self.rest().len() as u64 {
            0 => Ok(()),
            left => Err(FormatError::malformed(field, self.offset(), Fault::TrailingBytes(left))),
        }
    }
}

/// Appends little-endian values to a block.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(len: usize) -> Self {
        Self { bytes: Vec::with_capacity(len) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// Pads with zeros up to `len` bytes in all.
    pub(crate) fn pad_to(&mut self, len: usize) {
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
