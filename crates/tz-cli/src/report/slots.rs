//! Key slots and passphrases, as reports show them. Owns [`Rewrapped`], [`Slot`] and [`KdfFacts`].

use serde::Serialize;
use tz_crypto::{CryptoError, key_slots};
use tz_format::{Front, KeyDerivation, hex};
use tz_io::{IoError, TensorFile};

/// `rewrap`: who can open the file now.
#[derive(Debug, Serialize)]
pub(crate) struct Rewrapped {
    pub(crate) location: String,
    pub(crate) changed: bool,
    /// Whether an earlier change had been interrupted and was recovered from first.
    pub(crate) recovered: bool,
    /// What had become of it: `done` or `not_done`.
    pub(crate) earlier_rewrap: Option<&'static str>,
    /// Whether the journal of an interrupted change follows the file.
    pub(crate) ends_in_journal: bool,
    pub(crate) slots: Vec<Slot>,
}

/// One key slot of a sealed file.
#[derive(Debug, Serialize)]
pub(crate) struct Slot {
    pub(crate) number: usize,
    pub(crate) kind: &'static str,
    /// The same key has the same id in every file.
    pub(crate) key_id: Option<String>,
    /// What a guess at the passphrase costs; `null` for a raw key.
    pub(crate) key_derivation: Option<KdfFacts>,
}

impl Slot {
    /// The slots of an open file, as [`Self::list`].
    pub(crate) fn of(file: &TensorFile) -> Result<Vec<Self>, IoError> {
        Self::list(file.front()).map_err(|error| {
            let source = if file.ends_in_journal() { error.interrupted() } else { error };
            IoError::Crypto { location: file.location().to_owned(), tensor: None, source }
        })
    }

    /// The slots of a sealed file as its header lists them. They are not authenticated.
    pub(crate) fn list(front: &Front) -> Result<Vec<Self>, CryptoError> {
        let slots = key_slots(front)?.into_iter().enumerate().map(|(number, slot)| Self {
            number,
            kind: match slot.kind {
                1 => "key",
                2 => "passphrase",
                _ => "unknown",
            },
            key_id: slot.key_id.map(|id| hex(&id)),
            key_derivation: slot.key_derivation.as_ref().map(KdfFacts::from),
        });
        Ok(slots.collect())
    }
}

/// How a passphrase becomes a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KdfFacts {
    pub(crate) algorithm: &'static str,
    pub(crate) passes: u64,
    pub(crate) memory_bytes: u64,
}

impl From<&KeyDerivation> for KdfFacts {
    fn from(kdf: &KeyDerivation) -> Self {
        Self { algorithm: "argon2id", passes: kdf.opslimit, memory_bytes: kdf.memlimit }
    }
}
