//! The index: one entry per tensor, in file order. Owns [`TensorEntry`] and the rules between entries.

use crate::dtype::Dtype;
use crate::error::{Fault, FormatError, Malformed};
use crate::frozen::{ENTRY_VERSION_LONG, ENTRY_VERSION_SHORT};
use crate::limits::Limits;
use crate::tensor_header::TensorHeader;
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
        let name_at = r.offset();
        let name_len = r.u16("name length")?;
        let path = TensorPath::from_wire(r.bytes(name_len.into(), "name")?)
            .map_err(|fault| FormatError::malformed("name", name_at, fault))?;
        Self::read_rest(r, version, path.clone(), long_dims).map_err(|error| match error {
            FormatError::Malformed(malformed) => malformed.of_tensor(&path.to_string()).into(),
            other => other,
        })
    }

    fn read_rest(
        r: &mut Reader<'_>,
        version: Version,
        path: TensorPath,
        long_dims: bool,
    ) -> Result<Self, FormatError> {
        let kind_at = r.offset();
        let code = r.u8("tensor type")?;
        let kind = TensorKind::from_code(code).ok_or_else(|| {
            FormatError::malformed("tensor type", kind_at, Fault::UnknownKind(code))
        })?;
        if kind != TensorKind::StateDict && path.plain().is_none() {
            return Err(FormatError::malformed(
                "name",
                kind_at,
                Fault::StructuredPath,
            ));
        }
        let dtype_at = r.offset();
        let dtype_len = r.u8("dtype length")?;
        let text = std::str::from_utf8(r.bytes(dtype_len.into(), "dtype")?)
            .map_err(|_| FormatError::malformed("dtype", dtype_at, Fault::NotUtf8))?;
        let dtype = Dtype::from_wire(text).ok_or_else(|| {
            FormatError::malformed("dtype", dtype_at, Fault::UnknownDtype(text.to_owned()))
        })?;
        let too_low = |needs: Version| Fault::VersionTooLow {
            needs: needs.number(),
            has: version.number(),
        };
        if dtype.is_opaque() && version < Version::V2 {
            return Err(FormatError::malformed(
                "dtype",
                dtype_at,
                too_low(Version::V2),
            ));
        }
        let shape_at = r.offset();
        let shape = read_dims(r, long_dims)?;
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
        Ok(Self {
            path,
            kind,
            dtype,
            shape,
            header_offset,
            data_offset,
            data_len,
            long_dims,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer, flags: Flags) {
        if flags.versioned_entries {
            w.u32(if self.long_dims {
                ENTRY_VERSION_LONG
            } else {
                ENTRY_VERSION_SHORT
            });
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
        let name = self.path.to_wire();
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
    let len = shape
        .iter()
        .try_fold(dtype.size(), |len, &dim| len.checked_mul(dim))?;
    (len <= i64::MAX.cast_unsigned()).then_some(len)
}

pub(crate) fn read_dims(r: &mut Reader<'_>, long: bool) -> Result<Vec<u64>, FormatError> {
    let rank = r.u8("rank")?;
    (0..rank)
        .map(|_| {
            if long {
                r.u64("shape")
            } else {
                r.u32("shape").map(u64::from)
            }
        })
        .collect()
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
    // The smallest entry is 29 bytes, so a count that lies cannot reserve more than the index justifies.
    let capacity = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .min(r.rest().len() / 29 + 1);
    let mut entries = Vec::with_capacity(capacity);
    let mut end = front_len;
    for _ in 0..count {
        let offset = r.offset();
        let entry = TensorEntry::read(r, version, flags)?;
        check_place(&entry, end).map_err(|fault| {
            Malformed {
                field: "index entry",
                offset,
                tensor: None,
                fault,
            }
            .of_tensor(&entry.path.to_string())
        })?;
        let limit = limits.header_len(entry.data_len);
        if entry.header_len() > limit {
            let value = entry.header_len();
            return Err(FormatError::LimitExceeded {
                what: "tensor header length",
                value,
                limit,
                offset,
            });
        }
        end = entry.data_end();
        entries.push(entry);
    }
    let mut registry = PathRegistry::with_capacity(entries.len());
    for entry in &entries {
        registry.add(&entry.path).map_err(|fault| {
            let field = "name";
            Malformed {
                field,
                offset: entry.header_offset,
                tensor: None,
                fault,
            }
            .of_tensor(&entry.path.to_string())
        })?;
    }
    Ok(entries)
}

fn check_place(entry: &TensorEntry, end: u64) -> Result<(), Fault> {
    match entry.header_offset.cmp(&end) {
        std::cmp::Ordering::Less => return Err(Fault::Overlap(end)),
        std::cmp::Ordering::Greater => return Err(Fault::Hole(end)),
        std::cmp::Ordering::Equal => {}
    }
    let min = TensorHeader::min_len(
        entry.path.to_wire().len(),
        entry.dtype.to_wire().len(),
        entry.shape.len() * if entry.long_dims { 8 } else { 4 },
        &[],
        0,
    );
    if entry
        .data_offset
        .checked_sub(entry.header_offset)
        .is_none_or(|len| len < min)
    {
        return Err(Fault::HeaderTooShort);
    }
    // Offsets are signed in the reference's reader.
    match entry.data_offset.checked_add(entry.data_len) {
        Some(end) if end <= i64::MAX.cast_unsigned() => Ok(()),
        _ => Err(Fault::ShapeOverflow),
    }
}
