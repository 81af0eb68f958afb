//! Element types of safetensors and of `.tensors` side by side. Owns the one table between them.

use safetensors::Dtype as Safetensors;
use tz_format::{ByteOrder, Dtype, Element};

/// `F6_*` is missing: four elements share three bytes, and torch has no such type.
const TABLE: &[(Safetensors, Element)] = &[
    (Safetensors::BOOL, Element::Bool),
    (Safetensors::F4, Element::Float4E2m1fnX2),
    (Safetensors::U8, Element::Uint8),
    (Safetensors::I8, Element::Int8),
    (Safetensors::F8_E5M2, Element::Float8E5m2),
    (Safetensors::F8_E4M3, Element::Float8E4m3fn),
    (Safetensors::F8_E8M0, Element::Float8E8m0fnu),
    (Safetensors::F8_E4M3FNUZ, Element::Float8E4m3fnuz),
    (Safetensors::F8_E5M2FNUZ, Element::Float8E5m2fnuz),
    (Safetensors::I16, Element::Int16),
    (Safetensors::U16, Element::Uint16),
    (Safetensors::F16, Element::Float16),
    (Safetensors::BF16, Element::Bfloat16),
    (Safetensors::I32, Element::Int32),
    (Safetensors::U32, Element::Uint32),
    (Safetensors::F32, Element::Float32),
    (Safetensors::C64, Element::Complex64),
    (Safetensors::F64, Element::Float64),
    (Safetensors::I64, Element::Int64),
    (Safetensors::U64, Element::Uint64),
];

/// The `.tensors` dtype of a safetensors one; `None` where torch has no such type.
///
/// `F4` is torch's `float4_e2m1fn_x2`, two values in one byte: see [`packing`].
#[must_use]
pub fn from_safetensors(dtype: Safetensors) -> Option<Dtype> {
    let row = TABLE.iter().find(|(own, _)| *own == dtype)?;
    Some(row.1.into())
}

/// The safetensors dtype of a `.tensors` one; `None` where safetensors has no name for it, as for
/// complex128, sub-byte integers and big-endian data.
#[must_use]
pub fn to_safetensors(dtype: Dtype) -> Option<Safetensors> {
    if dtype.byte_order() == ByteOrder::Big {
        return None;
    }
    let row = TABLE.iter().find(|(_, own)| *own == dtype.element())?;
    Some(row.0)
}

/// How many elements of the safetensors dtype one element of the `.tensors` dtype holds: the last dimension is
/// that many times longer in a safetensors header.
#[must_use]
pub fn packing(dtype: Safetensors) -> u64 {
    match dtype {
        Safetensors::F4 => 2,
        _ => 1,
    }
}

/// Bytes of a tensor of `shape`; `None` on overflow.
pub(crate) fn byte_len(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.size(), |len, &dim| len.checked_mul(dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_one_to_one_and_sizes_agree() {
        for &(own, element) in TABLE {
            let dtype = Dtype::from(element);
            assert_eq!(from_safetensors(own), Some(dtype));
            assert_eq!(to_safetensors(dtype), Some(own));
            let bits = u64::try_from(own.bitsize()).unwrap() * packing(own);
            assert_eq!(bits, dtype.size() * 8, "{own}");
        }
    }

    #[test]
    fn types_without_a_counterpart() {
        assert_eq!(from_safetensors(Safetensors::F6_E2M3), None);
        assert_eq!(from_safetensors(Safetensors::F6_E3M2), None);
        let big = Dtype::from_wire(">f4").unwrap();
        for dtype in [big, Element::Complex128.into(), Element::Uint4.into()] {
            assert_eq!(to_safetensors(dtype), None, "{dtype}");
        }
    }
}
