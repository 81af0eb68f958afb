//! Compares tensors with their stored hashes as pieces arrive in any order. Owns [`Checks`].
//!
//! A CRC-32 of a whole follows from the CRC-32s of its parts, so every reader hashes the bytes that it has just
//! read, while they are in its cache. SHA-256 has no such law: where it is the only hash, it is computed on the way if
//! one reader takes the pieces in order, and in one go afterwards if not.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};
use tz_crypto::TensorOpener;
use tz_format::{Flags, FormatError, TensorEntry, TensorHash, TensorHeader};

use crate::error::{Corruption, IoError};
use crate::options::Cancel;

/// What the checks of one tensor need of its header.
#[derive(Debug)]
pub(crate) struct HeaderFacts {
    pub(crate) header: TensorHeader,
    /// The header's bytes as hashes cover them.
    pub(crate) hashed: Vec<u8>,
    /// Decrypts the data, in an encrypted file that was unlocked.
    pub(crate) opener: Option<TensorOpener>,
}

impl HeaderFacts {
    pub(crate) fn read(
        bytes: &[u8],
        entry: &TensorEntry,
        flags: Flags,
    ) -> Result<Self, FormatError> {
        let header = TensorHeader::decode(bytes, entry, flags)?;
        let hashed = header.hashed_bytes(bytes);
        Ok(Self { header, hashed, opener: None })
    }

    fn crc32(&self) -> Option<u32> {
        self.header.hashes.iter().find_map(|hash| match hash {
            TensorHash::Crc32(value) => Some(*value),
            TensorHash::Sha256(_) => None,
        })
    }

    fn sha256(&self) -> Option<[u8; 32]> {
        self.header.hashes.iter().find_map(|hash| match hash {
            TensorHash::Sha256(value) => Some(*value),
            TensorHash::Crc32(_) => None,
        })
    }

    /// Whether only SHA-256 can tell.
    pub(crate) fn needs_sha256(&self) -> bool {
        self.crc32().is_none() && self.sha256().is_some()
    }

    /// Compares the SHA-256 with `data`.
    pub(crate) fn sha256_matches(&self, data: &[u8]) -> bool {
        let digest: [u8; 32] =
            Sha256::new().chain_update(&self.hashed).chain_update(data).finalize().into();
        self.sha256().is_none_or(|stored| stored == digest)
    }
}

/// Checks in progress, one slot per selected tensor.
#[derive(Debug)]
pub(crate) struct Checks {
    slots: Vec<Slot>,
    /// One reader brings header and pieces of every tensor front to back.
    in_order: bool,
    /// Signalled when a header arrives; set when one may never arrive.
    aborted: Mutex<bool>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    facts: OnceLock<HeaderFacts>,
    pieces: Mutex<Vec<PieceHash>>,
    /// SHA-256 of header and pieces so far, where pieces come in order and nothing else can tell.
    sha256: Mutex<Option<Sha256>>,
}

/// The CRC-32 of a piece.
#[derive(Debug)]
struct PieceHash {
    offset: u64,
    len: u64,
    crc: u32,
    /// The header, which hashes cover too, was hashed before it: small tensors, of one piece, then need no joining,
    /// which costs more than their hash.
    headed: bool,
}

impl Checks {
    pub(crate) fn new(tensors: usize) -> Self {
        Self {
            slots: (0..tensors).map(|_| Slot::default()).collect(),
            in_order: false,
            aborted: Mutex::new(false),
            arrived: Condvar::new(),
        }
    }

    /// Computes SHA-256 on the way where `readers` is one.
    pub(crate) fn read_by(self, readers: usize) -> Self {
        Self { in_order: readers == 1, ..self }
    }

    /// Notes the header of the tensor in `slot`.
    pub(crate) fn header(&self, slot: usize, facts: HeaderFacts) {
        if let Some(slot) = self.slots.get(slot) {
            if self.in_order && facts.needs_sha256() {
                let started = Sha256::new().chain_update(&facts.hashed);
                *slot.sha256.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
            }
            // A plan holds every header once.
            let _ = slot.facts.set(facts);
            drop(self.aborted.lock());
            self.arrived.notify_all();
        }
    }

    /// Wakes readers that wait for a header: the work has failed.
    pub(crate) fn abort(&self) {
        *self.aborted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.arrived.notify_all();
    }

    /// Waits for the header of the tensor in `slot`. Pieces are claimed in file order, so another reader has it in
    /// hand or it is here.
    pub(crate) fn wait(&self, slot: usize, cancel: &Cancel) -> Result<&HeaderFacts, IoError> {
        let mut aborted = self.aborted.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(facts) = self.facts(slot) {
                return Ok(facts);
            }
            if *aborted || cancel.is_cancelled() || slot >= self.slots.len() {
                return Err(IoError::Cancelled);
            }
            aborted = cancel.wait(&self.arrived, aborted);
        }
    }

    pub(crate) fn facts(&self, slot: usize) -> Option<&HeaderFacts> {
        self.slots.get(slot)?.facts.get()
    }

    /// Hashes a piece of plaintext that stands at `offset` of the tensor's data.
    pub(crate) fn piece(&self, slot: usize, offset: u64, data: &[u8]) {
        if let Some(slot) = self.slots.get(slot) {
            let mut hasher = crc32fast::Hasher::new();
            let header = slot.facts.get().filter(|_| offset == 0);
            if let Some(facts) = header {
                hasher.update(&facts.hashed);
            }
            hasher.update(data);
            let (len, crc, headed) = (data.len() as u64, hasher.finalize(), header.is_some());
            let mut pieces = slot.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.push(PieceHash { offset, len, crc, headed });
            let mut sha256 = slot.sha256.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sha256) = &mut *sha256 {
                sha256.update(data);
            }
        }
    }

    /// Whether the tensor in `slot` contradicts its SHA-256; `None` where that was not computed on the way.
    pub(crate) fn sha256_differs(&self, slot: usize) -> Option<bool> {
        let slot = self.slots.get(slot)?;
        let stored = slot.facts.get()?.sha256()?;
        let mut sha256 = slot.sha256.lock().unwrap_or_else(PoisonError::into_inner);
        let digest: [u8; 32] = sha256.take()?.finalize().into();
        Some(digest != stored)
    }

    /// Whether the pieces of the tensor in `slot` contradict its CRC-32.
    pub(crate) fn crc32_differs(&self, slot: usize) -> bool {
        let Some(slot) = self.slots.get(slot) else {
            return false;
        };
        let Some((facts, stored)) =
            slot.facts.get().and_then(|facts| Some((facts, facts.crc32()?)))
        else {
            return false;
        };
        let mut pieces = slot.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.sort_unstable_by_key(|piece| piece.offset);
        let mut pieces = pieces.iter().peekable();
        let mut whole = match pieces.next_if(|first| first.headed) {
            Some(first) => crc32fast::Hasher::new_with_initial(first.crc),
            None => {
                let mut header = crc32fast::Hasher::new();
                header.update(&facts.hashed);
                header
            }
        };
        for piece in pieces {
            whole.combine(&crc32fast::Hasher::new_with_initial_len(piece.crc, piece.len));
        }
        whole.finalize() != stored
    }
}

/// The failure of `check` on `entry`.
pub(crate) fn corruption(entry: &TensorEntry, check: &'static str) -> Corruption {
    Corruption { tensor: entry.path.to_string(), check, data_offset: entry.data_offset }
}

#[cfg(test)]
mod tests {
    use tz_format::{Element, LayoutOptions, Limits, TensorSpec, testing};

    use super::*;
    use crate::file::TensorFile;
    use crate::testing::MemoryFile;

    /// The header and the data of one tensor of 1,000 bytes.
    fn tensor() -> (HeaderFacts, Vec<u8>) {
        let spec = TensorSpec::new("a", Element::Uint8, vec![1000]);
        let bytes = testing::build(vec![spec], LayoutOptions::default());
        let source = Box::new(MemoryFile::new(bytes.clone()));
        let file = TensorFile::from_source(source, &Limits::default()).unwrap();
        let entry = &file.entries()[0];
        let data = &bytes[usize::try_from(entry.data_offset).unwrap()..][..1000];
        let mut facts = file.read_facts(0).unwrap();
        let crc = crc32fast::hash(&[&facts.hashed, data].concat());
        facts.header.hashes = vec![TensorHash::Crc32(crc)];
        (facts, data.to_vec())
    }

    /// Whether checks find a difference in pieces that end at `cuts`, when the header comes after `before` of them.
    fn differs(cuts: &[usize], before: usize, damage: bool) -> bool {
        let (facts, mut data) = tensor();
        if damage {
            data[700] ^= 1;
        }
        let starts = std::iter::once(&0).chain(cuts);
        let pieces: Vec<_> = starts.zip(cuts).map(|(&from, &to)| (from, &data[from..to])).collect();
        let checks = Checks::new(1);
        let mut facts = Some(facts);
        for (at, (offset, piece)) in pieces.iter().enumerate() {
            if at == before {
                checks.header(0, facts.take().unwrap());
            }
            checks.piece(0, *offset as u64, piece);
        }
        if let Some(facts) = facts {
            checks.header(0, facts);
        }
        checks.crc32_differs(0)
    }

    #[test]
    fn a_header_may_come_before_between_and_after_the_pieces() {
        for cuts in [&[1000][..], &[300, 1000], &[1, 999, 1000]] {
            for before in 0..=cuts.len() {
                assert!(!differs(cuts, before, false), "{cuts:?}, {before}");
                assert!(differs(cuts, before, true), "{cuts:?}, {before}");
            }
        }
    }
}
