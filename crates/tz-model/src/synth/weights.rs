//! Random weights that look like trained ones. Owns the generator.
//!
//! Every block of a tensor has its own stream, seeded by the caller's seed, the tensor's name and the block's number,
//! so blocks can be made in any order. A weight is picked from a table of 65,536 normal-ish values by 16 random bits:
//! one multiplication chain of the generator gives four weights, which is faster than a disk. All arithmetic is exact
//! (sums and products of small numbers), so that every machine makes the same bytes.

use std::sync::LazyLock;

use half::{bf16, f16};
use tz_format::Element;

use crate::safetensors_plan::TensorDecl;

/// Bytes of one block: large enough that starting a stream costs nothing, small enough to spread one tensor over
/// several threads.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// Standard deviation of weights and biases, as transformers initialises them.
const DEVIATION: f32 = 0.02;

/// The table's own stream; another constant would change every synthetic model.
const TABLE_SEED: u64 = 0x747a_2d73_796e_7468;

/// Picks a value of each width by 16 bits.
struct Tables {
    bf16: Box<[u16]>,
    f16: Box<[u16]>,
}

impl Tables {
    fn new(mean: f32) -> Self {
        let mut state = TABLE_SEED;
        let values: Vec<f32> =
            (0..1 << 16).map(|_| mean + DEVIATION * normal(&mut state)).collect();
        Self {
            bf16: values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect(),
            f16: values.iter().map(|&v| f16::from_f32(v).to_bits()).collect(),
        }
    }
}

static WEIGHTS: LazyLock<Tables> = LazyLock::new(|| Tables::new(0.0));
/// Scales of norms lie around one.
static SCALES: LazyLock<Tables> = LazyLock::new(|| Tables::new(1.0));

/// Sum of twelve uniform numbers, less six: variance one, and never beyond ±6.
fn normal(state: &mut u64) -> f32 {
    let uniform = |state: &mut u64| {
        let high = u16::try_from(next(state) >> 48).unwrap_or(0);
        f32::from(high) / 65_536.0
    };
    (0..12).map(|_| uniform(state)).sum::<f32>() - 6.0
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a: tensors are told apart by name.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The random contents of one tensor.
#[derive(Debug)]
pub(super) struct Weights {
    stream: u64,
    element: Element,
    is_scale: bool,
    byte_len: u64,
}

impl Weights {
    pub(super) fn new(decl: &TensorDecl, seed: u64) -> Self {
        let mut state = seed ^ hash(&decl.name);
        let is_norm = ["norm.", "ln_", "layernorm."].iter().any(|part| decl.name.contains(part));
        Self {
            stream: next(&mut state),
            element: decl.dtype.element(),
            is_scale: is_norm && decl.name.ends_with(".weight"),
            byte_len: decl.shape.iter().product::<u64>() * decl.dtype.size(),
        }
    }

    pub(super) fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Fills the block with this number; the last one may be short.
    pub(super) fn fill(&self, block: u64, out: &mut [u8]) {
        let mut state = self.stream ^ block.wrapping_mul(0xd6e8_feb8_6659_fd93);
        state = next(&mut state);
        let tables = if self.is_scale { &*SCALES } else { &*WEIGHTS };
        match self.element {
            Element::Bfloat16 => fill_halves(&mut state, &tables.bf16, out),
            Element::Float16 => fill_halves(&mut state, &tables.f16, out),
            Element::Float32 => fill_singles(&mut state, &tables.bf16, out),
            // Other types have no distribution to imitate.
            _ => fill_bits(&mut state, out),
        }
    }
}

fn pick(table: &[u16], index: u64) -> u16 {
    let index = usize::try_from(index & 0xffff).unwrap_or(0);
    table.get(index).copied().unwrap_or(0)
}

fn fill_halves(state: &mut u64, table: &[u16], out: &mut [u8]) {
    for chunk in out.chunks_mut(8) {
        let bits = next(state);
        let four = u64::from(pick(table, bits))
            | u64::from(pick(table, bits >> 16)) << 16
            | u64::from(pick(table, bits >> 32)) << 32
            | u64::from(pick(table, bits >> 48)) << 48;
        copy(chunk, four);
    }
}

/// A single is a bf16 whose lower 16 mantissa bits are random too.
fn fill_singles(state: &mut u64, table: &[u16], out: &mut [u8]) {
    for chunk in out.chunks_mut(8) {
        let bits = next(state);
        let two = u64::from(pick(table, bits)) << 16
            | u64::from(pick(table, bits >> 16)) << 48
            | (bits >> 32) & 0xffff
            | (bits >> 48) << 32;
        copy(chunk, two);
    }
}

fn fill_bits(state: &mut u64, out: &mut [u8]) {
    for chunk in out.chunks_mut(8) {
        let bits = next(state);
        copy(chunk, bits);
    }
}

fn copy(chunk: &mut [u8], value: u64) {
    for (byte, value) in chunk.iter_mut().zip(value.to_le_bytes()) {
        *byte = value;
    }
}

#[cfg(test)]
mod tests {
    use tz_format::Dtype;

    use super::*;

    fn weights(name: &str, element: Element) -> Vec<u8> {
        let decl =
            TensorDecl { name: name.to_owned(), dtype: Dtype::from(element), shape: vec![100_000] };
        let weights = Weights::new(&decl, 7);
        let mut out = vec![0; usize::try_from(weights.byte_len()).unwrap()];
        weights.fill(0, &mut out);
        out
    }

    #[track_caller]
    fn check(values: &[f64], mean: f64) {
        let count = 100_000.0;
        let average = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - average).powi(2)).sum::<f64>() / count;
        assert!((average - mean).abs() < 0.001, "mean {average}");
        assert!((variance.sqrt() - 0.02).abs() < 0.001, "{variance}");
        assert!(values.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn values_look_like_weights_in_every_width() {
        let halves =
            |name, element| -> Vec<[u8; 2]> { weights(name, element).as_chunks::<2>().0.to_vec() };
        let bf16s = |name| -> Vec<f64> {
            let halves = halves(name, Element::Bfloat16);
            let value = |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f64();
            halves.iter().map(value).collect()
        };
        check(&bf16s("q_proj.weight"), 0.0);
        check(&bf16s("input_layernorm.weight"), 1.0);
        check(&bf16s("final_layer_norm.bias"), 0.0);
        let f16s: Vec<f64> = halves("wte.weight", Element::Float16)
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f64())
            .collect();
        check(&f16s, 0.0);
        let bytes = weights("wte.weight", Element::Float32);
        let f32s: Vec<f64> =
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
        check(&f32s, 0.0);
    }
}
