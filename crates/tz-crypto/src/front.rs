//! The front of a sealed file, opened: slots read, file key found, metadata MAC checked. Owns [`SealedFront`],
//! which exists only for an authentic front.

use std::ops::Range;

use tz_format::Front;

use crate::error::CryptoError;
use crate::frozen::KEY_LEN;
use crate::kdf::KdfLimits;
use crate::key::Secret;
use crate::schedule::FileKey;
use crate::slots::SlotRecord;

/// An authentic front and the file key that it holds.
#[derive(Debug)]
pub(crate) struct SealedFront {
    pub(crate) record: SlotRecord,
    pub(crate) file_key: FileKey,
    /// Number of the slot that a secret opened.
    pub(crate) slot: usize,
}

impl SealedFront {
    pub(crate) fn open(
        front: &Front,
        bytes: &[u8],
        secrets: &[Secret],
        limits: &KdfLimits,
    ) -> Result<Self, CryptoError> {
        let bytes = whole(front, bytes)?;
        let (Some(body), Some(mac_at)) = (&front.extension.key_slots, front.metadata_mac_at())
        else {
            return Err(CryptoError::malformed(
                "extension block",
                "a sealed file has key slots and a metadata MAC",
            ));
        };
        let record = SlotRecord::read(body)?;
        let (slot, file_key) = record.find(secrets, limits)?;
        if !is_authentic(&file_key, bytes, mac_at)? {
            return Err(CryptoError::FrontAltered);
        }
        Ok(Self { record, file_key, slot })
    }
}

/// The bytes of the front alone.
pub(crate) fn whole<'a>(front: &Front, bytes: &'a [u8]) -> Result<&'a [u8], CryptoError> {
    usize::try_from(front.header.front_len())
        .ok()
        .and_then(|len| bytes.get(..len))
        .ok_or(CryptoError::Misuse("not the bytes of the whole front"))
}

/// Whether the metadata MAC in `front`, at `mac_at`, is the one that the file key gives. Takes the same time for any
/// answer.
pub(crate) fn is_authentic(
    file_key: &FileKey,
    front: &[u8],
    mac_at: Range<u64>,
) -> Result<bool, CryptoError> {
    let computed = compute(file_key, front, mac_at.clone())?;
    let stored = range(mac_at).and_then(|at| front.get(at)).and_then(|mac| mac.try_into().ok());
    Ok(stored.is_some_and(|mac| computed == blake3::Hash::from_bytes(mac)))
}

/// Writes the metadata MAC of `front` to `mac_at`.
pub(crate) fn seal(
    file_key: &FileKey,
    front: &mut [u8],
    mac_at: Range<u64>,
) -> Result<(), CryptoError> {
    let mac = compute(file_key, front, mac_at.clone())?;
    splice(front, mac_at, mac.as_bytes())
}

/// Writes `bytes` over `at`, which has their length.
pub(crate) fn splice(front: &mut [u8], at: Range<u64>, bytes: &[u8]) -> Result<(), CryptoError> {
    range(at)
        .and_then(|at| front.get_mut(at))
        .filter(|place| place.len() == bytes.len())
        .map(|place| place.copy_from_slice(bytes))
        .ok_or(CryptoError::Misuse("a record lies outside the front"))
}

fn compute(
    file_key: &FileKey,
    front: &[u8],
    mac_at: Range<u64>,
) -> Result<blake3::Hash, CryptoError> {
    range(mac_at)
        .filter(|at| at.end.checked_sub(at.start) == Some(KEY_LEN))
        .and_then(|at| file_key.metadata_mac(front, at))
        .ok_or(CryptoError::Misuse("the MAC lies outside the front"))
}

pub(crate) fn range(range: Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
