//! Changes elements on their way through a staging buffer: byte order and floating-point type. Owns [`Conversion`].
//!
//! Devices take little-endian elements only, and no file can be cast on its way by the copy itself; so both happen on
//! the CPU, in the buffer that the bytes were read into, before the copy.

use std::ops::Range;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use tz_format::{ByteOrder, Dtype, Element};

/// Elements that are converted at a time: their two scratch arrays, 12 KiB, stay in the nearest cache.
const BLOCK: usize = 1024;

/// A floating-point type that can be cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl Float {
    fn of(element: Element) -> Option<Self> {
        match element {
            Element::Float16 => Some(Self::F16),
            Element::Bfloat16 => Some(Self::Bf16),
            Element::Float32 => Some(Self::F32),
            Element::Float64 => Some(Self::F64),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// What is done to the elements of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conversion {
    /// Length of the words whose bytes change order, or 1.
    swap: usize,
    cast: Option<(Float, Float)>,
    element: Element,
}

impl Conversion {
    /// From `dtype` to little-endian elements, and to `target` where both are floating-point types. Integers,
    /// booleans, complex numbers and 8-bit floats keep their type.
    pub(crate) fn new(dtype: Dtype, target: Option<Element>) -> Self {
        let swap = match dtype.byte_order() {
            ByteOrder::Big => usize::try_from(dtype.word_size()).unwrap_or(1),
            ByteOrder::Little => 1,
        };
        let wanted = target.filter(|&target| target != dtype.element());
        let floats = wanted.and_then(|to| Some((to, Float::of(dtype.element())?, Float::of(to)?)));
        Self {
            swap,
            cast: floats.map(|(_, from, to)| (from, to)),
            element: floats.map_or(dtype.element(), |(element, ..)| element),
        }
    }

    /// Whether tensors can be cast to `element` at all.
    pub(crate) fn can_cast_to(element: Element) -> bool {
        Float::of(element).is_some()
    }

    /// Type of the elements afterwards.
    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// Length of `len` bytes afterwards.
    pub(crate) fn out_len(&self, len: u64) -> Option<u64> {
        match self.cast {
            None => Some(len),
            Some((from, to)) => (len / from.size() as u64).checked_mul(to.size() as u64),
        }
    }

    /// Whether a piece of `len` bytes at `offset` of the tensor holds whole elements, so that it can be converted alone.
    pub(crate) fn holds_whole_elements(&self, offset: u64, len: usize) -> bool {
        let size = self.cast.map_or(self.swap, |(from, _)| from.size()) as u64;
        offset.is_multiple_of(size) && (len as u64).is_multiple_of(size)
    }

    /// How many times as long the elements are afterwards, at least 1.
    pub(crate) fn growth(&self) -> usize {
        self.cast.map_or(1, |(from, to)| (to.size() / from.size()).max(1))
    }

    /// Converts the elements at `from` and leaves them at `to`. The result may overlap them as long as it neither
    /// begins nor ends behind them, or neither begins nor ends before them.
    pub(crate) fn apply(&self, buffer: &mut [u8], from: Range<usize>, to: usize) {
        if self.swap > 1 {
            let words = buffer.get_mut(from.clone()).unwrap_or_default();
            words.chunks_exact_mut(self.swap).for_each(<[u8]>::reverse);
        }
        match self.cast {
            Some((source, target)) => cast(buffer, from, to, source, target),
            None if to == from.start => {}
            None => {
                if to.checked_add(from.len()).is_some_and(|end| end <= buffer.len()) {
                    buffer.copy_within(from, to);
                }
            }
        }
    }
}

fn cast(buffer: &mut [u8], from: Range<usize>, to: usize, source: Float, target: Float) {
    let elements = from.len() / source.size();
    let blocks = elements.div_ceil(BLOCK);
    // Away from the input that is still to be read.
    let backwards = to >= from.start && to + elements * target.size() > from.end;
    let mut values = [0.0_f32; BLOCK];
    for i in 0..blocks {
        let first = if backwards { blocks - 1 - i } else { i } * BLOCK;
        let count = BLOCK.min(elements - first);
        let read = from.start + first * source.size();
        let written = to + first * target.size();
        let Some(values) = values.get_mut(..count) else {
            continue;
        };
        let input = buffer.get(read..read + count * source.size());
        decode(source, input.unwrap_or_default(), values);
        let output = buffer.get_mut(written..written + count * target.size());
        encode(target, values, output.unwrap_or_default());
    }
}

/// By way of `f32`, as torch does it: exact but from `f64`, where it rounds to nearest.
fn decode(source: Float, bytes: &[u8], values: &mut [f32]) {
    match source {
        Float::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            let halves = halves.get(..values.len()).unwrap_or_default();
            halves.convert_to_f32_slice(values);
        }
        Float::Bf16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        Float::F32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Float::F64 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "rounding is what the cast is for"
                )]
                let rounded = f64::from_le_bytes(*bytes) as f32;
                *value = rounded;
            }
        }
    }
}

fn encode(target: Float, values: &[f32], bytes: &mut [u8]) {
    match target {
        Float::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = halves.get_mut(..values.len()).unwrap_or_default();
            halves.convert_from_f32_slice(values);
            for (bytes, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
                *bytes = half.to_le_bytes();
            }
        }
        Float::Bf16 => {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = bf16::from_f32(*value).to_le_bytes();
            }
        }
        Float::F32 => {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        Float::F64 => {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = f64::from(*value).to_le_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that every type holds exactly.
    fn exact(count: usize) -> Vec<f32> {
        (0..count).map(|i| f32::from(u8::try_from(i % 251).unwrap()) - 100.0).collect()
    }

    fn bytes_of(values: &[f32], element: Element) -> Vec<u8> {
        let bytes = |&value: &f32| match element {
            Element::Float16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Element::Bfloat16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Element::Float32 => value.to_le_bytes().to_vec(),
            _ => f64::from(value).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(bytes).collect()
    }

    const FLOATS: [Element; 4] =
        [Element::Float16, Element::Bfloat16, Element::Float32, Element::Float64];

    #[test]
    fn every_pair_of_types_converts_in_place_around_block_boundaries() {
        for source in FLOATS {
            for target in FLOATS {
                for count in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
                    let conversion = Conversion::new(source.into(), Some(target));
                    assert_eq!(conversion.element(), target);
                    let values = exact(count);
                    let (input, expect) = (bytes_of(&values, source), bytes_of(&values, target));
                    assert_eq!(conversion.out_len(input.len() as u64), Some(expect.len() as u64));
                    // A gap before the input; a buffer that is longer by the growth.
                    let from = 5..5 + input.len();
                    let mut buffer = vec![0xEE; from.end * conversion.growth()];
                    buffer[from.clone()].copy_from_slice(&input);
                    let grows = expect.len() > input.len();
                    let to = if grows { buffer.len() - expect.len() } else { 3 };
                    conversion.apply(&mut buffer, from, to);
                    assert!(
                        buffer[to..to + expect.len()] == expect,
                        "{source:?} to {target:?}, {count}"
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let conversion = Conversion::new(Element::Float32.into(), Some(Element::Bfloat16));
        for (value, expect) in [
            (1.0_f32 + 1.0 / 256.0, 0x3F80), // halfway between two: the even one
            (1.0 + 3.0 / 256.0, 0x3F82),
            (1.0 + 1.1 / 256.0, 0x3F81),
            (f32::INFINITY, 0x7F80),
            (f32::MAX, 0x7F80),
            (-0.0, 0x8000),
        ] {
            let mut buffer = value.to_le_bytes();
            conversion.apply(&mut buffer, 0..4, 0);
            assert_eq!(u16::from_le_bytes([buffer[0], buffer[1]]), expect, "{value}");
        }
    }

    #[test]
    fn big_endian_words_are_turned_before_anything_else() {
        let check = |wire, target, input: &[u8], expect: &[u8]| {
            let conversion = Conversion::new(Dtype::from_wire(wire).unwrap(), target);
            let mut buffer = input.to_vec();
            conversion.apply(&mut buffer, 0..input.len(), 0);
            assert_eq!(&buffer[..expect.len()], expect, "{wire}");
        };
        check(">i2", None, &[1, 2, 3, 4], &[2, 1, 4, 3]);
        check(">c8", None, &[1, 2, 3, 4, 5, 6, 7, 8], &[4, 3, 2, 1, 8, 7, 6, 5]);
        let two = 2.0_f32;
        check(
            ">f4",
            Some(Element::Bfloat16),
            &two.to_be_bytes(),
            &bf16::from_f32(two).to_le_bytes(),
        );
    }

    #[test]
    fn only_floats_are_cast() {
        for element in [Element::Int32, Element::Bool, Element::Complex64, Element::Float8E4m3fn] {
            let conversion = Conversion::new(element.into(), Some(Element::Float16));
            assert_eq!((conversion.element(), conversion.out_len(12)), (element, Some(12)));
            assert!(!Conversion::can_cast_to(element));
        }
        let kept = Conversion::new(Element::Float16.into(), None);
        assert_eq!(kept, Conversion::new(Element::Float16.into(), Some(Element::Float16)));
    }
}
