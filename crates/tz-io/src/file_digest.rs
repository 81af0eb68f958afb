//! BLAKE3 of a whole file from ranges hashed in any order. Owns [`FileDigest`] and [`digest`].
//!
//! A file that is written by several workers, or read by several readers, need not be read again for its digest:
//! every aligned block of 2ⁿ chunks has a value of its own in BLAKE3's tree, and two neighbours make the next larger
//! one. Values are merged as soon as both are there, so few are kept; what is not a whole chunk waits for the rest of
//! it.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::sync::{Mutex, PoisonError};

use blake3::CHUNK_LEN;
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root,
    merge_subtrees_root,
};

use crate::error::IoError;
use crate::location::Location;
use crate::options::ReadOptions;
use crate::remote::RemoteOptions;
use crate::workers;

const CHUNK: u64 = CHUNK_LEN as u64;
/// Bytes read and hashed at a time: what one reader keeps in its cache, and a block of the tree.
const PIECE: u64 = 1 << 20;

/// The digest of a file whose length is known. Every byte is added once, in ranges of any size and order, by any
/// number of threads.
#[derive(Debug)]
pub struct FileDigest {
    len: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Values of complete blocks by their first chunk and number of chunks, a power of two.
    blocks: HashMap<(u64, u64), ChainingValue>,
    /// Chunks of which some bytes are there, by number, and how many bytes those are.
    partial: HashMap<u64, (Box<[u8; CHUNK_LEN]>, usize)>,
}

impl FileDigest {
    /// Of a file of `len` bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len, state: Mutex::default() }
    }

    /// Adds the bytes that stand at `offset`; what lies beyond the file's end counts for nothing.
    pub fn add(&self, offset: u64, bytes: &[u8]) {
        let room = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        let to_boundary = usize::try_from(offset.next_multiple_of(CHUNK) - offset).unwrap_or(0);
        let (head, rest) = bytes.split_at(to_boundary.min(bytes.len()));
        let (whole, tail) = rest.split_at(rest.len() / CHUNK_LEN * CHUNK_LEN);
        self.add_part(offset, head);
        let start = offset + head.len() as u64;
        self.add_whole(start, whole);
        self.add_part(start + whole.len() as u64, tail);
    }

    /// Whole chunks, cut into the largest blocks that stand at their own multiples.
    fn add_whole(&self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (first, chunks) = (offset / CHUNK, bytes.len() as u64 / CHUNK);
            let aligned = if first == 0 { u64::MAX } else { 1 << first.trailing_zeros() };
            let mut count = (1 << chunks.ilog2()).min(aligned);
            if count > 1 && count * CHUNK == self.len {
                // The root is no block: it is made at the end.
                count /= 2;
            }
            let (now, later) = bytes.split_at(usize::try_from(count * CHUNK).unwrap_or(usize::MAX));
            self.complete(first, count, now);
            (offset, bytes) = (offset + count * CHUNK, later);
        }
    }

    /// A part of one chunk, which is hashed once all of it is there.
    fn add_part(&self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let number = offset / CHUNK;
        let chunk_len =
            usize::try_from((self.len - number * CHUNK).min(CHUNK)).unwrap_or(CHUNK_LEN);
        let at = usize::try_from(offset % CHUNK).unwrap_or(CHUNK_LEN);
        let mut state = self.lock();
        let (chunk, filled) =
            state.partial.entry(number).or_insert_with(|| (Box::new([0; CHUNK_LEN]), 0));
        if let Some(place) = chunk.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        *filled += bytes.len();
        if *filled < chunk_len {
            return;
        }
        let full = state.partial.remove(&number);
        drop(state);
        if let Some(bytes) = full.as_ref().and_then(|(chunk, _)| chunk.get(..chunk_len)) {
            self.complete(number, 1, bytes);
        }
    }

    fn complete(&self, first: u64, count: u64, bytes: &[u8]) {
        let value = if bytes.len() as u64 == self.len {
            // One chunk is the whole file, and its value the digest.
            *blake3::hash(bytes).as_bytes()
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(first * CHUNK);
            hasher.update(bytes);
            hasher.finalize_non_root()
        };
        let (mut first, mut count, mut value) = (first, count, value);
        let mut state = self.lock();
        loop {
            let is_left = (first / count).is_multiple_of(2);
            let other = if is_left { first + count } else { first - count };
            // What would be the root is made at the end.
            let is_root = count.checked_mul(2 * CHUNK).is_none_or(|len| len >= self.len);
            let Some(neighbour) =
                (if is_root { None } else { state.blocks.remove(&(other, count)) })
            else {
                state.blocks.insert((first, count), value);
                return;
            };
            let (left, right) = if is_left { (value, neighbour) } else { (neighbour, value) };
            value = merge_subtrees_non_root(&left, &right, Mode::Hash);
            (first, count) = (first.min(other), count * 2);
        }
    }

    /// The digest; `None` while bytes are missing.
    #[must_use]
    pub fn finish(&self) -> Option<[u8; 32]> {
        let state = self.lock();
        match self.len {
            0 => Some(*blake3::hash(&[]).as_bytes()),
            1..=CHUNK => state.blocks.get(&(0, 1)).copied(),
            len => {
                let left_len = left_subtree_len(len);
                let left = state.subtree(0, left_len)?;
                let right = state.subtree(left_len, len - left_len)?;
                Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn subtree(&self, offset: u64, len: u64) -> Option<ChainingValue> {
        let chunks = len.div_ceil(CHUNK);
        if chunks.is_power_of_two()
            && let Some(value) = self.blocks.get(&(offset / CHUNK, chunks))
        {
            return Some(*value);
        }
        if chunks <= 1 {
            return None;
        }
        let left_len = left_subtree_len(len);
        let left = self.subtree(offset, left_len)?;
        let right = self.subtree(offset + left_len, len - left_len)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

/// Length and BLAKE3 digest of a whole file, read by several readers at once.
///
/// # Errors
/// What the place gives; [`IoError::Unsupported`] for a stream of unknown length.
pub fn digest(
    location: &Location,
    remote: &RemoteOptions,
    options: &ReadOptions,
) -> Result<(u64, [u8; 32]), IoError> {
    let source = location.open(&RemoteOptions {
        whole: true,
        cancel: remote.cancel.or(&options.cancel),
        ..remote.clone()
    })?;
    let name = source.location().to_owned();
    let why = "a stream has no length before its end";
    let len = source.len().ok_or(IoError::Unsupported { location: name.clone(), why })?;
    let tree = FileDigest::new(len);
    // Servers answer long ranges better; a block of the tree is what they are cut by all the same.
    let piece = if matches!(location, Location::Remote(_)) { 8 * PIECE } else { PIECE };
    let pieces = usize::try_from(len.div_ceil(piece)).unwrap_or(usize::MAX);
    let limit = options.memory_limit.unwrap_or_else(crate::default_staging_bytes);
    let fitting = usize::try_from(limit / piece).unwrap_or(usize::MAX).max(1);
    let readers = options.readers_for(&*source, pieces).min(fitting);
    workers::for_each(pieces, readers, &options.cancel, Vec::new, |buffer: &mut Vec<u8>, i| {
        let offset = i as u64 * piece;
        buffer.resize(usize::try_from((len - offset).min(piece)).unwrap_or(0), 0);
        source.read_into_until(offset, &mut [IoSliceMut::new(buffer)], &options.cancel)?;
        tree.add(offset, buffer);
        options.progress.add(buffer.len() as u64);
        Ok(())
    })?;
    let missing = || IoError::io(&name, "read")(std::io::ErrorKind::UnexpectedEof.into());
    Ok((len, tree.finish().ok_or_else(missing)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// Adds `data` in pieces that end at `cuts`, the last first.
    #[track_caller]
    fn check(data: &[u8], cuts: &[usize]) {
        let digest = FileDigest::new(data.len() as u64);
        let mut ends: Vec<usize> = cuts.iter().copied().filter(|&cut| cut < data.len()).collect();
        ends.push(data.len());
        let starts = [&[0], &ends[..ends.len() - 1]].concat();
        for (start, end) in starts.into_iter().zip(ends).rev() {
            digest.add(start as u64, &data[start..end]);
        }
        assert_eq!(
            digest.finish(),
            Some(*blake3::hash(data).as_bytes()),
            "{} {cuts:?}",
            data.len()
        );
    }

    #[test]
    fn ranges_in_any_order_give_the_digest_of_the_whole() {
        let data = painted(70_000);
        for len in [0, 1, 1023, 1024, 1025, 2048, 3000, 4096, 5000, 32_768, 65_536, 65_537, 70_000]
        {
            let every = |step: usize| (1..=len / step).map(|i| i * step).collect::<Vec<_>>();
            check(&data[..len], &[]);
            check(&data[..len], &[1]);
            check(&data[..len], &[700, 1500, 40_000, 40_001]);
            check(&data[..len], &every(1024));
            check(&data[..len], &every(997));
            check(&data[..len], &every(4096));
        }
    }

    #[test]
    fn a_missing_byte_gives_no_digest() {
        let data = painted(9000);
        for hole in [0, 1024, 5000, 8999] {
            let digest = FileDigest::new(9000);
            digest.add(0, &data[..hole]);
            digest.add(hole as u64 + 1, &data[hole + 1..]);
            assert_eq!(digest.finish(), None, "{hole}");
        }
    }

    #[test]
    fn many_threads_add_at_once() {
        let data = painted(3 << 20);
        let digest = FileDigest::new(data.len() as u64);
        std::thread::scope(|scope| {
            for first in 0..4 {
                let (data, digest) = (&data, &digest);
                scope.spawn(move || {
                    for (i, piece) in data.chunks(10_001).enumerate().skip(first).step_by(4) {
                        digest.add(i as u64 * 10_001, piece);
                    }
                });
            }
        });
        assert_eq!(digest.finish(), Some(*blake3::hash(&data).as_bytes()));
    }

    #[test]
    fn files_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 5, 3 << 20, (3 << 20) + 17] {
            let (path, data) = (folder.path().join("file"), painted(len));
            std::fs::write(&path, &data).unwrap();
            let found =
                digest(&Location::File(path), &RemoteOptions::default(), &ReadOptions::default());
            assert_eq!(found.unwrap(), (len as u64, *blake3::hash(&data).as_bytes()));
        }
    }
}
