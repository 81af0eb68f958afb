//! Changes who can open a sealed file by rewriting its header. Owns [`rewrap`]; tensor data is never touched.

use std::ops::Range;

use tz_format::{Front, Limits};

use crate::entropy::Os;
use crate::error::CryptoError;
use crate::front::{self, SealedFront};
use crate::journal::Journal;
use crate::kdf::KdfLimits;
use crate::key::{SealSecret, Secret};
use crate::schedule::FileKey;
use crate::slots::Slot;

/// A change to the key slots. Numbers are those of [`crate::key_slots`] before any change.
#[derive(Debug, Clone)]
pub enum SlotChange {
    /// One more secret opens the file.
    Add(SealSecret),
    /// The slot's secret opens the file no more. Copies of the file made before keep the slot, and whoever opened
    /// it once may have kept the file key: to shut them out for good, seal the file anew.
    Remove(usize),
    /// Another secret in the slot's place; as for removal.
    Replace(usize, SealSecret),
}

/// A changed header, before it is written.
#[derive(Debug)]
pub struct HeaderChange {
    old: Vec<u8>,
    new: Vec<u8>,
    file_key: FileKey,
    mac_at: Range<u64>,
}

impl HeaderChange {
    /// The new header, as long as the old one.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.new
    }

    /// The journal to write before the header is, where it is written in place.
    ///
    /// # Errors
    /// Never: both headers were decoded within `limits`.
    pub fn journal(&self, limits: &Limits) -> Result<Journal, CryptoError> {
        let journal = Journal::between(&self.old, &self.new, limits);
        journal.ok_or(CryptoError::Misuse("the header exceeds the limits"))
    }

    /// Refuses `found`, the header as it was read back, if it is not the new one or not authentic.
    ///
    /// # Errors
    /// [`CryptoError::FrontAltered`].
    pub fn check(&self, found: &[u8]) -> Result<(), CryptoError> {
        let is_authentic = front::is_authentic(&self.file_key, found, self.mac_at.clone())?;
        if is_authentic && found == self.new { Ok(()) } else { Err(CryptoError::FrontAltered) }
    }
}

/// The header of a sealed file with `changes` applied, to be written over `header`. `old` holds a secret that opens
/// the file; `front` was decoded from `header`.
///
/// # Errors
/// As [`crate::FileOpener::new`]; [`CryptoError::NeedsRoom`] where the slots outgrow what the file reserves,
/// [`CryptoError::LastSlot`], [`CryptoError::NoSuchSlot`], [`CryptoError::NotSealed`].
pub fn rewrap(
    front: &Front,
    header: &[u8],
    old: &[Secret],
    limits: &KdfLimits,
    changes: &[SlotChange],
) -> Result<HeaderChange, CryptoError> {
    let (Some(slots_at), Some(mac_at)) = (front.key_slots_at(), front.metadata_mac_at()) else {
        return Err(CryptoError::not_sealed(front));
    };
    let mut sealed = SealedFront::open(front, header, old, limits)?;
    let slots = sealed.record.slots.len();
    let mut kept: Vec<Option<Slot>> = sealed.record.slots.drain(..).map(Some).collect();
    for change in changes {
        let (number, slot) = match change {
            SlotChange::Add(secret) => {
                kept.push(Some(Slot::wrap(secret, &sealed.file_key, &mut Os)?));
                continue;
            }
            SlotChange::Remove(number) => (*number, None),
            SlotChange::Replace(number, secret) => {
                (*number, Some(Slot::wrap(secret, &sealed.file_key, &mut Os)?))
            }
        };
        let place = kept.get_mut(..slots).and_then(|old| old.get_mut(number));
        *place.ok_or(CryptoError::NoSuchSlot { number, slots })? = slot;
    }
    sealed.record.slots = kept.into_iter().flatten().collect();
    if !sealed.record.slots.iter().any(Slot::opens) {
        return Err(CryptoError::LastSlot);
    }
    let record = sealed.record.write()?;
    let old = front::whole(front, header)?.to_vec();
    let mut new = old.clone();
    front::splice(&mut new, slots_at, &record)?;
    front::seal(&sealed.file_key, &mut new, mac_at.clone())?;
    Ok(HeaderChange { old, new, file_key: sealed.file_key, mac_at })
}
