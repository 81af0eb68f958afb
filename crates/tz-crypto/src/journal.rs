//! The journal of a rewrap, which follows the terminator of a sealed file while its header is written. Owns its wire
//! form ([`Journal`]), its place in the file ([`JournalPlace`]), what a reader accepts there ([`Tail`]), and what
//! became of a rewrap that was interrupted ([`Outcome`]).

use std::ops::Range;

use tz_format::frozen::TERMINATOR_LEN;
use tz_format::{Front, FrontDecoder, Limits, Step};

use crate::error::CryptoError;
use crate::front;
use crate::frozen::{FILE_SALT_LEN, JOURNAL_MAGIC};
use crate::kdf::KdfLimits;
use crate::key::Secret;
use crate::slots::SlotRecord;

/// Bytes before the two versions of the header: magic, length of the file, offset and length of what changes.
const HEAD_LEN: usize = 32;
/// Length of the BLAKE3 hash that ends a journal.
const HASH_LEN: usize = 32;

/// Where the journal of a sealed file is, and which bytes of the header a rewrap changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPlace {
    file_len: u64,
    changed: Range<u64>,
}

impl JournalPlace {
    /// The place in the file of `front`; `None` where the file is not sealed.
    #[must_use]
    pub fn of(front: &Front) -> Option<Self> {
        let (slots, mac) = (front.key_slots_at()?, front.metadata_mac_at()?);
        let after_salt = slots.start.saturating_add(FILE_SALT_LEN as u64).min(slots.end);
        Some(Self {
            file_len: front.data_end().saturating_add(TERMINATOR_LEN),
            changed: after_salt.min(mac.start)..slots.end.max(mac.end),
        })
    }

    /// Length of the file up to its terminator: where a journal begins.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Length of a whole journal of this file.
    #[must_use]
    pub fn journal_len(&self) -> u64 {
        let changed = self.changed.end.saturating_sub(self.changed.start);
        changed.saturating_mul(2).saturating_add((HEAD_LEN + HASH_LEN) as u64)
    }

    /// The refusal of a file of this length: it is not what was sealed, and no journal explains the difference.
    #[must_use]
    pub fn refuse(&self, found: u64) -> CryptoError {
        CryptoError::FileLength { expected: self.file_len, found }
    }
}

/// Tells a journal, whole or cut short, from any other bytes behind the terminator.
///
/// A journal is written from its front to its end, and its magic is on the disk before what follows. So a power cut
/// leaves the magic and anything behind it, or a part of the magic and zeros.
#[derive(Debug)]
pub struct Tail {
    longest: u64,
    len: u64,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// So many bytes of the magic and nothing else.
    Magic(usize),
    /// A part of the magic, then zeros.
    Zeros,
    /// The magic.
    Journal,
    Foreign,
}

impl Tail {
    /// Begins behind the terminator.
    #[must_use]
    pub fn new(place: &JournalPlace) -> Self {
        Self { longest: place.journal_len(), len: 0, seen: Seen::Magic(0) }
    }

    /// Takes the next bytes; says whether all bytes so far may be a journal of this file. No bytes may be one.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.len = self.len.saturating_add(bytes.len() as u64);
        for &byte in bytes {
            self.seen = match self.seen {
                // The most that a hostile file makes anyone look at one by one are zeros.
                Seen::Journal | Seen::Foreign => break,
                Seen::Magic(at) if JOURNAL_MAGIC.get(at) == Some(&byte) => match at + 1 {
                    at if at == JOURNAL_MAGIC.len() => Seen::Journal,
                    at => Seen::Magic(at),
                },
                Seen::Magic(_) | Seen::Zeros if byte == 0 => Seen::Zeros,
                Seen::Magic(_) | Seen::Zeros => Seen::Foreign,
            };
        }
        self.seen != Seen::Foreign && self.len <= self.longest
    }

    /// Whether the bytes to come make no difference but by their number.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        matches!(self.seen, Seen::Journal | Seen::Foreign)
    }
}

/// A whole journal: what a rewrap replaces in the header, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    place: JournalPlace,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// What became of a rewrap that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The header is the old one: the rewrap did not happen.
    NotDone,
    /// The header is the new one: the rewrap is done.
    Done,
    /// The header is neither: the write was torn. [`Journal::new_part`] belongs at [`Journal::offset`].
    Torn,
    /// The header is authentic, and neither: it is not the one that the journal was written for.
    Superseded,
}

impl Journal {
    /// The journal of a rewrap of `old` to `new`, two headers of one file. `None` where they are no such headers.
    #[must_use]
    pub fn between(old: &[u8], new: &[u8], limits: &Limits) -> Option<Self> {
        let Ok(Step::Done(front)) = FrontDecoder::new(limits.clone()).step(old) else {
            return None;
        };
        let place = JournalPlace::of(&front)?;
        let changed = front::range(place.changed.clone())?;
        let part = |header: &[u8]| header.get(changed.clone()).map(<[u8]>::to_vec);
        let (old, new) = (part(old)?, part(new)?);
        Some(Self { place, old, new })
    }

    /// Reads what follows the terminator of a file. `None` where it is not a whole journal of a file with this place.
    #[must_use]
    pub fn read(tail: &[u8], place: &JournalPlace) -> Option<Self> {
        let (body, hash) = tail.split_last_chunk::<HASH_LEN>()?;
        let (head, parts) = body.split_first_chunk::<HEAD_LEN>()?;
        let half = parts.len() / 2;
        let (old, new) =
            parts.split_at_checked(half).filter(|(old, new)| old.len() == new.len())?;
        let journal = Self { place: place.clone(), old: old.to_vec(), new: new.to_vec() };
        let is_whole = *head == journal.head() && *blake3::hash(body).as_bytes() == *hash;
        is_whole.then_some(journal)
    }

    /// Finds the whole journal that ends a file, whatever became of its header. `end` is the last bytes of the file,
    /// from offset `start` on.
    #[must_use]
    pub fn find(end: &[u8], start: u64) -> Option<Self> {
        let field = |at: usize| {
            let bytes = end.get(at..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let starts = end.windows(JOURNAL_MAGIC.len()).enumerate();
        let mut starts = starts.filter(|(_, window)| window == JOURNAL_MAGIC).map(|(at, _)| at);
        starts.find_map(|at| {
            let [file_len, offset, len] = [field(at + 8)?, field(at + 16)?, field(at + 24)?];
            let place = JournalPlace { file_len, changed: offset..offset.checked_add(len)? };
            let stands_here = start.checked_add(at as u64) == Some(file_len);
            if stands_here { Self::read(end.get(at..)?, &place) } else { None }
        })
    }

    /// `magic, u64 length of the file, u64 offset, u64 length, old bytes, new bytes, BLAKE3 of all before it`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.head(), &*self.old, &*self.new].concat();
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// The first bytes of a journal of this place.
    fn head(&self) -> [u8; HEAD_LEN] {
        let Range { start, end } = self.place.changed;
        let mut head = [0; HEAD_LEN];
        let fields = [self.place.file_len, start, end.saturating_sub(start)].map(u64::to_le_bytes);
        for (place, field) in head.chunks_mut(8).zip([*JOURNAL_MAGIC].iter().chain(&fields)) {
            place.copy_from_slice(field);
        }
        head
    }

    /// Length of the file up to its terminator: where the journal begins.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.place.file_len
    }

    /// Where in the file the bytes that change are.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.place.changed.start
    }

    /// The bytes that were there before.
    #[must_use]
    pub fn old_part(&self) -> &[u8] {
        &self.old
    }

    /// The bytes that are there afterwards.
    #[must_use]
    pub fn new_part(&self) -> &[u8] {
        &self.new
    }

    /// `header` with the new bytes in it.
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] where the header is too short.
    pub fn new_header(&self, header: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.with(header, &self.new)
    }

    /// Decides what became of the rewrap by `header`, which is on the disk. The journal is believed only if both its
    /// headers are authentic under the file key, which one of `secrets` must give.
    ///
    /// # Errors
    /// As [`crate::FileOpener::new`]: the journal is not one of this file, or nobody can tell.
    pub fn outcome(
        &self,
        header: &[u8],
        secrets: &[Secret],
        kdf_limits: &KdfLimits,
        limits: &Limits,
    ) -> Result<Outcome, CryptoError> {
        let headers = [self.with(header, &self.old)?, self.with(header, &self.new)?];
        let fronts = [self.decode(&headers[0], limits)?, self.decode(&headers[1], limits)?];
        let find = |front: &Front| {
            let slots = front.extension.key_slots.as_deref().unwrap_or_default();
            SlotRecord::read(slots)?.find(secrets, kdf_limits)
        };
        // A replaced secret opens the old header alone, and the new secret the new one.
        let [old, new] = &fronts;
        let (_, file_key) = find(old).or_else(|_| find(new))?;
        let Some(mac_at) = old.metadata_mac_at() else { return Err(CryptoError::FrontAltered) };
        let is_authentic = |header: &[u8]| front::is_authentic(&file_key, header, mac_at.clone());
        for header in &headers {
            if !is_authentic(header)? {
                return Err(CryptoError::FrontAltered);
            }
        }
        let [old, new] = &headers;
        Ok(match header {
            header if header == old => Outcome::NotDone,
            header if header == new => Outcome::Done,
            // Whoever can put a journal here must not be able to bring back an older header by it.
            header if is_authentic(header)? => Outcome::Superseded,
            _ => Outcome::Torn,
        })
    }

    fn with(&self, header: &[u8], part: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut header = header.to_vec();
        front::splice(&mut header, self.place.changed.clone(), part)?;
        Ok(header)
    }

    /// Decodes one of the two headers, which must be of a file with the same place.
    fn decode(&self, header: &[u8], limits: &Limits) -> Result<Front, CryptoError> {
        match FrontDecoder::new(limits.clone()).step(header)? {
            Step::Done(front) if JournalPlace::of(&front).as_ref() == Some(&self.place) => {
                Ok(front)
            }
            _ => Err(CryptoError::FrontAltered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_magic_and_anything_or_a_part_of_it_and_zeros() {
        let place = JournalPlace { file_len: 100, changed: 10..20 };
        assert_eq!(place.journal_len(), 84);
        let accepted = |tail: &[u8]| {
            let whole = Tail::new(&place).push(tail);
            let mut bytewise = Tail::new(&place);
            let last = tail.chunks(1).map(|byte| bytewise.push(byte)).last();
            assert_eq!(last.unwrap_or(true), whole, "{tail:?}");
            whole
        };
        for len in 0..=JOURNAL_MAGIC.len() {
            let part = &JOURNAL_MAGIC[..len];
            assert!(accepted(part));
            assert!(accepted(&[part, &[0; 76]].concat()), "{len}");
            assert_eq!(accepted(&[part, &[7; 76]].concat()), len == 8, "{len}");
            assert_eq!(accepted(&[part, &[0, 0, 7]].concat()), len == 8, "{len}");
        }
        for foreign in [&[1; 3][..], b"tx", &[0; 85]] {
            assert!(!accepted(foreign), "{foreign:?}");
        }
        assert!(!accepted(&[&JOURNAL_MAGIC[..], &[0; 77]].concat()), "longer than a journal");
    }
}
