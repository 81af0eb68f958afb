//! BLAKE3 of a tensor from pieces hashed in any order. Owns [`DigestTree`].

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// Chaining values of the pieces of one tensor. Pieces have one length, a power of two of at least 1,024 bytes; the
/// last may be shorter.
#[derive(Debug)]
pub(crate) struct DigestTree {
    piece_len: u64,
    values: Vec<Option<ChainingValue>>,
    /// Set instead where the whole tensor is one piece.
    root: Option<[u8; 32]>,
}

impl DigestTree {
    pub(crate) fn new(len: u64, piece_len: u64) -> Self {
        let pieces = usize::try_from(len.div_ceil(piece_len)).unwrap_or(0);
        Self { piece_len, values: vec![None; pieces.max(1)], root: None }
    }

    /// What `add` takes: the value of the piece at `offset` of a tensor of `len` bytes.
    pub(crate) fn hash(len: u64, offset: u64, data: &[u8]) -> ChainingValue {
        if data.len() as u64 == len {
            return *blake3::hash(data).as_bytes();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        hasher.update(data);
        hasher.finalize_non_root()
    }

    pub(crate) fn add(&mut self, offset: u64, value: ChainingValue) {
        if self.values.len() == 1 {
            self.root = Some(value);
        }
        let piece = usize::try_from(offset / self.piece_len).unwrap_or(usize::MAX);
        if let Some(slot) = self.values.get_mut(piece) {
            *slot = Some(value);
        }
    }

    /// The digest of `len` bytes; `None` while a piece is missing.
    pub(crate) fn finish(&self, len: u64) -> Option<[u8; 32]> {
        if self.values.len() == 1 {
            return self.root;
        }
        let left_len = left_subtree_len(len);
        let left = self.subtree(0, left_len)?;
        let right = self.subtree(left_len, len - left_len)?;
        Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    fn subtree(&self, offset: u64, len: u64) -> Option<ChainingValue> {
        if len <= self.piece_len {
            let piece = usize::try_from(offset / self.piece_len).ok()?;
            return self.values.get(piece).copied().flatten();
        }
        let left_len = left_subtree_len(len);
        let left = self.subtree(offset, left_len)?;
        let right = self.subtree(offset + left_len, len - left_len)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_give_the_digest_of_the_whole() {
        let data: Vec<u8> = (0..40_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for len in [0, 1, 1024, 4096, 4097, 8191, 8192, 8193, 12_288, 20_481, 40_000] {
            let data = &data[..len];
            let mut tree = DigestTree::new(len as u64, 4096);
            let mut pieces: Vec<_> = data.chunks(4096).enumerate().collect();
            pieces.reverse();
            if pieces.is_empty() {
                pieces.push((0, &[]));
            }
            for (i, piece) in pieces {
                let value = DigestTree::hash(len as u64, i as u64 * 4096, piece);
                tree.add(i as u64 * 4096, value);
            }
            assert_eq!(tree.finish(len as u64), Some(*blake3::hash(data).as_bytes()), "{len}");
        }
    }

    #[test]
    fn a_missing_piece_gives_no_digest() {
        let mut tree = DigestTree::new(8192, 4096);
        let value = DigestTree::hash(8192, 0, &[0; 4096]);
        tree.add(0, value);
        assert_eq!(tree.finish(8192), None);
    }
}
