//! Turns elements into another dtype or byte order, block by block. Owns [`Conversion`].

use half::{bf16, f16};
use tz_format::{ByteOrder, Dtype, Element};

/// What happens to the elements of one tensor. The result is little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversion {
    /// Nothing: bytes are passed on.
    Keep,
    /// Words of this many bytes are turned around.
    Swap(usize),
    /// Floating point numbers are rounded or widened, to nearest and ties to even, by way of float32 where the
    /// result has at most 32 bits, as torch does.
    Cast { from: Dtype, to: Element },
}

impl Conversion {
    /// What makes `from` little-endian and, where both are floating point types, `to`.
    pub(crate) fn new(from: Dtype, to: Option<Element>) -> Self {
        let swap = from.byte_order() == ByteOrder::Big;
        match to {
            Some(to) if is_float(from.element()) && from.element() != to => Self::Cast { from, to },
            _ if swap => Self::Swap(usize::try_from(from.word_size()).unwrap_or(1)),
            _ => Self::Keep,
        }
    }

    /// Dtype of the result.
    pub(crate) fn dtype(self, from: Dtype) -> Dtype {
        match self {
            Self::Cast { to, .. } => to.into(),
            Self::Keep | Self::Swap(_) => from.element().into(),
        }
    }

    /// Where byte `offset` of a tensor comes to stand. `offset` is a multiple of the element size.
    pub(crate) fn offset(self, offset: u64) -> u64 {
        match self {
            Self::Cast { from, to } => offset / from.size() * Dtype::from(to).size(),
            Self::Keep | Self::Swap(_) => offset,
        }
    }

    /// Converts whole elements of `input` into `output`, whose length [`Self::offset`] gives.
    pub(crate) fn apply(self, input: &[u8], output: &mut [u8]) {
        match self {
            Self::Keep => {
                for (to, from) in output.iter_mut().zip(input) {
                    *to = *from;
                }
            }
            Self::Swap(word) => {
                let words = output.chunks_exact_mut(word).zip(input.chunks_exact(word));
                for (to, from) in words {
                    for (to, from) in to.iter_mut().zip(from.iter().rev()) {
                        *to = *from;
                    }
                }
            }
            Self::Cast { from, to } => cast(from, to, input, output),
        }
    }
}

/// Types that casts start from and lead to.
fn is_float(element: Element) -> bool {
    matches!(element, Element::Float16 | Element::Bfloat16 | Element::Float32 | Element::Float64)
}

fn cast(from: Dtype, to: Element, input: &[u8], output: &mut [u8]) {
    let big = from.byte_order() == ByteOrder::Big;
    match from.element() {
        Element::Float16 => words(input, big, to, output, |b| f16::from_le_bytes(b).into()),
        Element::Bfloat16 => words(input, big, to, output, |b| bf16::from_le_bytes(b).into()),
        Element::Float32 => words(input, big, to, output, |b| f32::from_le_bytes(b).into()),
        _ => words(input, big, to, output, f64::from_le_bytes),
    }
}

/// Reads words of `N` bytes and writes them as `to`.
fn words<const N: usize>(
    input: &[u8],
    big: bool,
    to: Element,
    output: &mut [u8],
    read: impl Fn([u8; N]) -> f64,
) {
    let values = input.as_chunks::<N>().0.iter().map(|word| {
        let mut word = *word;
        if big {
            word.reverse();
        }
        read(word)
    });
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what a cast is for")]
    let narrow = |value: f64| value as f32;
    match to {
        Element::Float16 => write(values, output, |v| f16::from_f32(narrow(v)).to_le_bytes()),
        Element::Bfloat16 => write(values, output, |v| bf16::from_f32(narrow(v)).to_le_bytes()),
        Element::Float32 => write(values, output, |v| narrow(v).to_le_bytes()),
        _ => write(values, output, f64::to_le_bytes),
    }
}

fn write<const N: usize>(
    values: impl Iterator<Item = f64>,
    output: &mut [u8],
    bytes: impl Fn(f64) -> [u8; N],
) {
    for (to, value) in output.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *to = bytes(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, to: Option<Element>, input: &[u8], expected: &[u8]) {
        let from = Dtype::from_wire(from).unwrap();
        let conversion = Conversion::new(from, to);
        let len = usize::try_from(conversion.offset(input.len() as u64)).unwrap();
        let mut output = vec![0; len];
        conversion.apply(input, &mut output);
        assert_eq!(output, expected);
    }

    #[test]
    fn byte_order() {
        check("<f4", None, &[1, 2, 3, 4], &[1, 2, 3, 4]);
        check(">f4", None, &[1, 2, 3, 4, 5, 6, 7, 8], &[4, 3, 2, 1, 8, 7, 6, 5]);
        check(">c8", None, &[1, 2, 3, 4, 5, 6, 7, 8], &[4, 3, 2, 1, 8, 7, 6, 5]);
        check(">i2", Some(Element::Float32), &[1, 2], &[2, 1]);
    }

    #[test]
    fn casts_between_floats() {
        let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let bf16s = |bits: &[u16]| bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<_>>();
        let bf16_wire = "<V2\0torch.bfloat16";
        check(bf16_wire, Some(Element::Float32), &bf16s(&[0x3f80, 0xc000]), &f32s(&[1.0, -2.0]));
        // A tie goes to the even mantissa, overflow to infinity.
        let values = [f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000), f32::MAX];
        check("<f4", Some(Element::Bfloat16), &f32s(&values), &bf16s(&[0x3f80, 0x3f82, 0x7f80]));
        check("<f4", Some(Element::Float16), &f32s(&[65504.0, 65520.0]), &bf16s(&[0x7bff, 0x7c00]));
        check("<f2", Some(Element::Float64), &bf16s(&[0x3c00]), &1.0_f64.to_le_bytes());
        check(">f4", Some(Element::Float64), &1.5_f32.to_be_bytes(), &1.5_f64.to_le_bytes());
    }

    #[test]
    fn what_is_no_float_stays() {
        let int = Dtype::from_name("int32").unwrap();
        assert_eq!(Conversion::new(int, Some(Element::Float16)), Conversion::Keep);
        let float8 = Dtype::from_name("float8_e4m3fn").unwrap();
        assert_eq!(Conversion::new(float8, Some(Element::Float16)), Conversion::Keep);
        let same = Dtype::from_name("float16").unwrap();
        assert_eq!(Conversion::new(same, Some(Element::Float16)), Conversion::Keep);
    }
}
