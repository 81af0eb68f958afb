//! Every bound that a hostile file meets. Owns [`Limits`].

use crate::frozen::{EXT_USER_METADATA_MAX, EXT_USER_METADATA_VALUES_MAX};

/// Bounds on lengths and counts that a file states, checked before memory is taken for them.
///
/// The defaults admit every model known today with room to spare; raise a field for a trusted file
/// that is larger, lower it where many files are opened in little memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest index, in bytes. Default 256 MiB: about two million tensors.
    pub index_len: u64,
    /// Most tensors. Default 4 million.
    pub tensors: u64,
    /// Most keys of all tensor paths together; a plain name is one. Default 8 million.
    pub path_keys: u64,
    /// Longest tensor header beyond what its encryption tags need, in bytes. Default 4 MiB: its fields take less
    /// than 200 KiB, its padding less than the 2 MiB of the largest alignment that [`crate::Layout`] writes.
    pub tensor_header_len: u64,
    /// Longest extension block, in bytes. Default 128 MiB: digests of four million tensors.
    pub extension_len: u64,
    /// Longest user metadata, in bytes. Default 1 MiB.
    pub user_metadata_len: u64,
    /// Most JSON values in the user metadata, counted by their commas and opening brackets. Default 16,384: a value
    /// of two bytes can take hundreds in memory.
    pub user_metadata_values: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            index_len: 256 << 20,
            tensors: 4_000_000,
            path_keys: 8_000_000,
            tensor_header_len: 4 << 20,
            extension_len: 128 << 20,
            user_metadata_len: EXT_USER_METADATA_MAX,
            user_metadata_values: EXT_USER_METADATA_VALUES_MAX,
        }
    }
}

impl Limits {
    /// Longest header of a tensor of `data_len` bytes: the smallest chunk (1,024 bytes) has a 16-byte tag.
    pub(crate) fn header_len(&self, data_len: u64) -> u64 {
        self.tensor_header_len.saturating_add(data_len / 64)
    }
}
