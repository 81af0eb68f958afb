//! The index: one entry per tensor, in file order. Owns [`TensorEntry`] and the rules between entries.

use std::cmp::Ordering;

use crate::dtype::Dtype;
use crate::error::{Fault, FormatError};
use crate::frozen::{ENTRY_VERSION_LONG, ENTRY_VERSION_SHORT};
use crate::limits::Limits;
use crate::tensor_path::{PathRegistry, TensorPath};
use crate::version::{Flags, Version};
use crate::wire::{Reader, Writer};

/// What a tensor is in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// A module's parameter.
    Parameter,
    /// A module's buffer.
    Buffer,
    /// An entry of a state dict; only these may have structured paths.
    StateDict,
}

impl TensorKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Parameter => 0,
            Self::Buffer => 1,
            Self::StateDict => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Parameter, Self::Buffer, Self::StateDict]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// One tensor as the index describes it. Offsets are from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorEntry {
    /// Name or path.
    pub path: TensorPath,
    /// Parameter, buffer or state-dict entry.
    pub kind: TensorKind,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; a scalar has none.
    pub shape: Vec<u64>,
    /// Where the tensor header begins.
    pub header_offset: u64,
    /// Where the data begins, and the header ends.
    pub data_offset: u64,
    /// Stored bytes: those of the shape, or none for a meta tensor.
    pub data_len: u64,
    /// Whether dimensions are stored in 64 bits.
    pub(crate) long_dims: bool,
}

impl TensorEntry {
    /// Bytes of the tensor in memory. A meta tensor has them too, as zeros.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        // Checked when the entry was read or planned.
        byte_len(self.dtype, &self.shape).unwrap_or(u64::MAX)
    }

    /// Whether the tensor has a shape but no stored bytes: it loads as zeros.
    #[must_use]
    pub fn is_meta(&self) -> bool {
        self.data_len == 0 && self.byte_len() != 0
    }

    /// Where the data ends.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.data_offset.saturating_add(self.data_len)
    }

    /// Length of the tensor header.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        self.data_offset.saturating_sub(self.header_offset)
    }

    /// `[u32 version], u16 + name, u8 type, u8 + dtype, u8 + dims, u64 header offset, u64 data offset, u64 data
    /// length`.
    fn read(r: &mut Reader<'_>, version: Version, flags: Flags) -> Result<Self, FormatError> {
        let long_dims = if flags.versioned_entries {
            let offset = r.offset();
            match r.u32("index entry version")? {
                ENTRY_VERSION_SHORT => false,
                ENTRY_VERSION_LONG => true,
                other => {
                    let fault = Fault::UnknownEntryVersion(other);
                    return Err(FormatError::malformed("index entry version", offset, fault));
                }
            }
        } else {
            false
        };
        let name_len = r.u16("name length")?;
        let name_at = r.offset();
        let name = r.bytes(name_len.into(), "name")?;
        let path = TensorPath::from_wire(name)
            .map_err(|fault| FormatError::malformed("name", name_at, fault))?;
        Self::read_rest(r, version, path, name_at, long_dims).map_err(|error| {
            // Rare, so the name is decoded again rather than kept beside every entry.
            match TensorPath::from_wire(name) {
                Ok(path) => error.of_tensor(&path),
                Err(_) => error,
            }
        })
    }

    fn read_rest(
        r: &mut Reader<'_>,
        version: Version,
        path: TensorPath,
        name_at: u64,
        long_dims: bool,
    ) -> Result<Self, FormatError> {
        let kind_at = r.offset();
        let code = r.u8("tensor type")?;
        let kind = TensorKind::from_code(code).ok_or_else(|| {
            FormatError::malformed("tensor type", kind_at, Fault::UnknownKind(code))
        })?;
        if kind != TensorKind::StateDict && path.plain().is_none() {
            return Err(FormatError::malformed("name", name_at, Fault::StructuredPath));
        }
        let dtype_len = r.u8("dtype length")?;
        let dtype_at = r.offset();
        let text = std::str::from_utf8(r.bytes(dtype_len.into(), "dtype")?)
            .map_err(|_| FormatError::malformed("dtype", dtype_at, Fault::NotUtf8))?;
        let dtype = Dtype::from_wire(text).ok_or_else(|| {
            FormatError::malformed("dtype", dtype_at, Fault::UnknownDtype(text.to_owned()))
        })?;
        let too_low =
            |needs: Version| Fault::VersionTooLow { needs: needs.number(), has: version.number() };
        if dtype.is_opaque() && version < Version::V2 {
            return Err(FormatError::malformed("dtype", dtype_at, too_low(Version::V2)));
        }
        let rank = r.u8("rank")?;
        let shape_at = r.offset();
        let shape = read_dims(r, rank, long_dims)?;
        let expected = byte_len(dtype, &shape)
            .ok_or_else(|| FormatError::malformed("shape", shape_at, Fault::ShapeOverflow))?;
        let header_offset = r.u64("header offset")?;
        let data_offset = r.u64("data offset")?;
        let len_at = r.offset();
        let data_len = r.u64("data length")?;
        if data_len != expected {
            let fault = match data_len {
                0 if version >= Version::V4 => None,
                0 => Some(too_low(Version::V4)),
                found => Some(Fault::WrongDataLength { found, expected }),
            };
            if let Some(fault) = fault {
                return Err(FormatError::malformed("data length", len_at, fault));
            }
        }
        Ok(Self { path, kind, dtype, shape, header_offset, data_offset, data_len, long_dims })
    }

    pub(crate) fn write(&self, w: &mut Writer, flags: Flags) {
        if flags.versioned_entries {
            w.u32(if self.long_dims { ENTRY_VERSION_LONG } else { ENTRY_VERSION_SHORT });
        }
        self.write_name(w);
        w.u8(self.kind.code());
        self.write_dtype(w);
        write_dims(w, &self.shape, self.long_dims);
        w.u64(self.header_offset);
        w.u64(self.data_offset);
        w.u64(self.data_len);
    }

    /// The planner refuses names over 65,535 bytes, so the length fits.
    pub(crate) fn write_name(&self, w: &mut Writer) {
        let name = self.path.wire();
        w.u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        w.bytes(&name);
    }

    pub(crate) fn write_dtype(&self, w: &mut Writer) {
        let dtype = self.dtype.to_wire();
        w.u8(u8::try_from(dtype.len()).unwrap_or(u8::MAX));
        w.bytes(dtype.as_bytes());
    }
}

/// Bytes of a dense tensor, if they can be counted in 63 bits.
pub(crate) fn byte_len(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let len = shape.iter().try_fold(dtype.size(), |len, &dim| len.checked_mul(dim))?;
    (len <= i64::MAX.cast_unsigned()).then_some(len)
}

/// `rank` dimensions; the caller has read the rank, so that it knows where they stand.
pub(crate) fn read_dims(r: &mut Reader<'_>, rank: u8, long: bool) -> Result<Vec<u64>, FormatError> {
    let mut shape = Vec::with_capacity(rank.into());
    for _ in 0..rank {
        shape.push(if long { r.u64("shape")? } else { r.u32("shape")?.into() });
    }
    Ok(shape)
}

/// The planner refuses more than 255 dimensions and sets `long` where a dimension needs it, so both casts fit.
pub(crate) fn write_dims(w: &mut Writer, shape: &[u64], long: bool) {
    w.u8(u8::try_from(shape.len()).unwrap_or(u8::MAX));
    for &dim in shape {
        if long {
            w.u64(dim);
        } else {
            w.u32(u32::try_from(dim).unwrap_or(u32::MAX));
        }
    }
}

/// Fields of an index entry that its tensor header lacks: header offset, data offset, data length.
const PLACE_LEN: u64 = 24;
/// Fields of a tensor header that its index entry lacks: header length, module index, an empty hash block, data length.
const HEADER_EXTRA_LEN: u64 = 8 + 2 + 3 + 8;
/// An empty crypt block: its length and a count of zero.
const EMPTY_CRYPT_LEN: u64 = 8 + 2;

/// Reads `count` entries and checks them against each other: file order, no overlap, no hole, no path twice.
/// `front_len` is where the first tensor header must stand.
pub(crate) fn read_entries(
    r: &mut Reader<'_>,
    count: u64,
    version: Version,
    flags: Flags,
    front_len: u64,
    limits: &Limits,
) -> Result<Vec<TensorEntry>, FormatError> {
    let start = r.clone();
    // The smallest entry is 29 bytes, so a count that lies cannot reserve more than the index justifies.
    let capacity = usize::try_from(count).unwrap_or(usize::MAX).min(r.rest().len() / 29 + 1);
    let mut entries = Vec::with_capacity(capacity);
    let mut end = front_len;
    let mut path_keys = 0;
    for _ in 0..count {
        let offset = r.offset();
        let entry = TensorEntry::read(r, version, flags)?;
        // A header spells name, dtype and shape as the entry does, between the fields that are its own.
        let entry_len = r.offset() - offset - if flags.versioned_entries { 4 } else { 0 };
        let crypt_len = if flags.encrypted { EMPTY_CRYPT_LEN } else { 0 };
        let header_min = entry_len - PLACE_LEN + HEADER_EXTRA_LEN + crypt_len;
        let place_at = r.offset() - PLACE_LEN;
        check_place(&entry, end, header_min, place_at)
            .map_err(|error| error.of_tensor(&entry.path))?;
        path_keys += entry.path.keys().len() as u64;
        if path_keys > limits.path_keys {
            return Err(FormatError::LimitExceeded {
                what: "path keys",
                value: path_keys,
                limit: limits.path_keys,
                offset,
            });
        }
        let limit = limits.header_len(entry.data_len);
        if entry.header_len() > limit {
            return Err(FormatError::LimitExceeded {
                what: "tensor header length",
                value: entry.header_len(),
                limit,
                offset: place_at,
            });
        }
        end = entry.data_end();
        entries.push(entry);
    }
    let mut registry = PathRegistry::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        if let Err(fault) = registry.add(&entry.path) {
            let offset = name_offset(start, i, version, flags)?;
            return Err(FormatError::malformed("name", offset, fault).of_tensor(&entry.path));
        }
    }
    Ok(entries)
}

/// Where the name of entry `index` stands: found by reading again, so that valid files pay nothing for it.
fn name_offset(
    mut r: Reader<'_>,
    index: usize,
    version: Version,
    flags: Flags,
) -> Result<u64, FormatError> {
    for _ in 0..index {
        TensorEntry::read(&mut r, version, flags)?;
    }
    Ok(r.offset() + if flags.versioned_entries { 6 } else { 2 })
}

/// Refuses an entry whose header does not begin at `end`, is shorter than `header_min`, or whose data ends beyond
/// what a signed offset can express. Its header offset stands at `place_at`.
fn check_place(
    entry: &TensorEntry,
    end: u64,
    header_min: u64,
    place_at: u64,
) -> Result<(), FormatError> {
    let misplaced = |fault| FormatError::malformed("header offset", place_at, fault);
    match entry.header_offset.cmp(&end) {
        Ordering::Less => return Err(misplaced(Fault::Overlap(end))),
        Ordering::Greater => return Err(misplaced(Fault::Hole(end))),
        Ordering::Equal => {}
    }
    let header_len = entry.data_offset.checked_sub(entry.header_offset);
    if header_len.is_none_or(|len| len < header_min) {
        let fault = Fault::HeaderTooShort;
        return Err(FormatError::malformed("data offset", place_at + 8, fault));
    }
    // Offsets are signed in the reference's reader, and in most file systems.
    match entry.data_offset.checked_add(entry.data_len) {
        Some(end) if end <= i64::MAX.cast_unsigned() => Ok(()),
        _ => Err(FormatError::malformed("data offset", place_at + 8, Fault::OffsetOverflow)),
    }
}
