//! The targets, by what they decode. Owns the list of them.

use crate::target::Target;

pub(crate) mod checkpoint;
pub(crate) mod front;
pub(crate) mod http;
pub(crate) mod key_slots;
pub(crate) mod read;
pub(crate) mod texts;

/// Every target.
pub const ALL: &[Target] = &[
    front::FRONT,
    front::TENSOR_HEADER,
    front::CRYPT_INFO,
    front::EXTENSION,
    front::TENSOR_PATH,
    front::ROUND_TRIP,
    read::READ,
    read::DAMAGE,
    key_slots::KEY_SLOTS,
    checkpoint::SAFETENSORS,
    checkpoint::TORCH,
    checkpoint::SHARD_INDEX,
    texts::MANIFEST,
    texts::MODEL_CONFIG,
    texts::ADAPTER,
    http::HTTP_ANSWER,
];
