//! What the fuzz targets do with their input, each under a bound on memory.
//!
//! A [`Target`] is a decoder of bytes that anybody may have written, a property that must hold whatever they are, and
//! the most memory that they may make it take. `fuzz/fuzz_targets` gives each to libFuzzer, one line a target;
//! `tests/corpus.rs` replays the kept corpus through the same functions with nothing but `cargo test`.

mod guard;
mod resident;
mod target;

mod files;
mod headers;
mod scratch;
mod targets;
mod zip;

pub use files::{fixtures, seeds, tensors_in};
pub use guard::{Bound, RESIDENT_SLACK};
pub use headers::{header, of_entry, options};
pub use target::Target;
pub use targets::ALL;
pub use targets::checkpoint::{SAFETENSORS, SHARD_INDEX, TORCH};
pub use targets::front::{CRYPT_INFO, EXTENSION, FRONT, ROUND_TRIP, TENSOR_HEADER, TENSOR_PATH};
pub use targets::http::HTTP_ANSWER;
pub use targets::key_slots::KEY_SLOTS;
pub use targets::read::{DAMAGE, READ};
pub use targets::texts::{ADAPTER, MANIFEST, MODEL_CONFIG};
