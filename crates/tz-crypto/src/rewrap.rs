//! Changes who can open a sealed file by rewriting its front. Owns [`rewrap`]; tensor data is never touched.

use tz_format::Front;

use crate::entropy::Os;
use crate::error::CryptoError;
use crate::front::{self, SealedFront};
use crate::kdf::KdfLimits;
use crate::key::{SealSecret, Secret};
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

/// The front of a sealed file with `changes` applied: as long as `front_bytes`, to be written over it. `old` holds a
/// secret that opens the file; `front` was decoded from `front_bytes`.
///
/// # Errors
/// As [`crate::FileOpener::new`]; [`CryptoError::NeedsRoom`] where the slots outgrow what the file reserves,
/// [`CryptoError::LastSlot`], [`CryptoError::NoSuchSlot`], [`CryptoError::Misuse`] where the file is not sealed.
pub fn rewrap(
    front: &Front,
    front_bytes: &[u8],
    old: &[Secret],
    limits: &KdfLimits,
    changes: &[SlotChange],
) -> Result<Vec<u8>, CryptoError> {
    let (Some(slots_at), Some(mac_at)) = (front.key_slots_at(), front.metadata_mac_at()) else {
        return Err(CryptoError::Misuse("only sealed files have key slots"));
    };
    let mut sealed = SealedFront::open(front, front_bytes, old, limits)?;
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
    let mut bytes = front::whole(front, front_bytes)?.to_vec();
    front::splice(&mut bytes, slots_at, &record)?;
    front::seal(&sealed.file_key, &mut bytes, mac_at)?;
    Ok(bytes)
}
