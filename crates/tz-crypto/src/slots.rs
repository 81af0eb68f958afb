//! Key slots of a sealed file: the file key, wrapped once per secret. Owns the wire form of the key-slot record
//! and who finds the file key in it.

use tz_format::{Front, KeyDerivation, Tag};

use crate::aead::{Aead, Aes256Gcm, GcmNonce};
use crate::entropy::Entropy;
use crate::error::{CryptoError, Needs};
use crate::frozen::{
    FILE_SALT_LEN, GCM_NONCE_LEN, KEY_LEN, PWHASH_SALT_LEN, SLOT_KEY, SLOT_LABEL, SLOT_PASSPHRASE,
};
use crate::kdf::{self, Deriver, KdfLimits};
use crate::key::{Key, SealSecret, Secret};
use crate::schedule::{FileKey, KeyId, key_id};

/// Bytes of the record before its first slot: salt and count.
const HEAD_LEN: usize = FILE_SALT_LEN + 2;
/// Bytes of the longest slot of today, kind and length included: what room is counted in.
pub(crate) const SLOT_LEN_MAX: usize = 104;

/// What a key slot says without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySlot {
    /// Its number on the wire: 1 for a raw key, 2 for a passphrase. Others are from a newer `tz`.
    pub kind: u16,
    /// Names the key that opens it, where the kind is known. The same key has the same id in every file.
    pub key_id: Option<KeyId>,
    /// How a passphrase becomes the key.
    pub key_derivation: Option<KeyDerivation>,
}

/// Lists the key slots of a sealed file; none for any other. Needs no key, so nothing here is authenticated.
///
/// # Errors
/// [`CryptoError::Malformed`] where the record breaks the format.
pub fn key_slots(front: &Front) -> Result<Vec<KeySlot>, CryptoError> {
    let Some(body) = &front.extension.key_slots else {
        return Ok(Vec::new());
    };
    let record = SlotRecord::read(body)?;
    Ok(record.slots.iter().map(Slot::describe).collect())
}

/// The key-slot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRecord {
    pub(crate) salt: [u8; FILE_SALT_LEN],
    pub(crate) slots: Vec<Slot>,
    /// Length of the body; zeros fill what the slots leave.
    pub(crate) len: usize,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    Key(WrappedKey),
    Passphrase(KeyDerivation, WrappedKey),
    /// Kept as it is, for the newer `tz` that wrote it.
    Unknown(u16, Vec<u8>),
}

/// The file key under a key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrappedKey {
    key_id: KeyId,
    nonce: GcmNonce,
    wrapped: [u8; KEY_LEN],
    tag: Tag,
}

impl SlotRecord {
    /// Bytes of a record with room for `slots` slots of any kind of today.
    pub(crate) fn room_for(slots: usize) -> usize {
        slots.saturating_mul(SLOT_LEN_MAX).saturating_add(HEAD_LEN)
    }

    /// `32-byte salt, u16 count, count × (u16 kind, u16 length, body), zeros`.
    pub(crate) fn read(body: &[u8]) -> Result<Self, CryptoError> {
        let len = body.len();
        let mut rest = body;
        let salt = take(&mut rest)?;
        let count = u16::from_le_bytes(take(&mut rest)?);
        let slots = (0..count).map(|_| Slot::read(&mut rest));
        let slots = slots.collect::<Result<_, _>>()?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(malformed("the padding is not zero"));
        }
        Ok(Self { salt, slots, len })
    }

    pub(crate) fn write(&self) -> Result<Vec<u8>, CryptoError> {
        let count = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        let mut out = Vec::with_capacity(self.len);
        out.extend(self.salt);
        out.extend(count.to_le_bytes());
        for slot in &self.slots {
            slot.write_head(&mut out);
            slot.write_rest(&mut out);
        }
        if out.len() > self.len || usize::from(count) != self.slots.len() {
            let (needed, room) = (out.len(), self.len);
            return Err(CryptoError::NeedsRoom { needed, room });
        }
        out.resize(self.len, 0);
        Ok(out)
    }

    /// The first slot that one of `secrets` opens, and the file key in it. Raw keys are tried before
    /// passphrases, which cost time.
    pub(crate) fn find(
        &self,
        secrets: &[Secret],
        limits: &KdfLimits,
    ) -> Result<(usize, FileKey), CryptoError> {
        let mut tried = false;
        for (number, slot) in self.slots.iter().enumerate() {
            let Slot::Key(wrapped) = slot else { continue };
            for secret in secrets {
                let Secret::Key(kek) = secret else { continue };
                tried = true;
                if let Some(key) = wrapped.unwrap(kek, &slot.aad(&self.salt))? {
                    let salt = self.salt;
                    return Ok((number, FileKey { key, salt }));
                }
            }
        }
        let mut deriver = Deriver::new(limits);
        let mut refused = None;
        for (number, slot) in self.slots.iter().enumerate() {
            let Slot::Passphrase(kdf, wrapped) = slot else {
                continue;
            };
            for secret in secrets {
                let Secret::Passphrase(passphrase) = secret else {
                    continue;
                };
                tried = true;
                let kek = match deriver.derive(passphrase, kdf) {
                    Ok(kek) => kek,
                    // Another slot may still open: a hostile one must not hide it.
                    Err(error) => {
                        refused.get_or_insert(error);
                        continue;
                    }
                };
                if let Some(key) = wrapped.unwrap(&kek, &slot.aad(&self.salt))? {
                    let salt = self.salt;
                    return Ok((number, FileKey { key, salt }));
                }
            }
        }
        Err(match refused {
            Some(error) => error,
            None if tried => CryptoError::WrongKey,
            None => CryptoError::KeyMissing { needs: self.needs() },
        })
    }

    fn needs(&self) -> Needs {
        let any = |test: fn(&Slot) -> bool| self.slots.iter().any(test);
        match (
            any(|slot| matches!(slot, Slot::Key(_))),
            any(|slot| matches!(slot, Slot::Passphrase(..))),
        ) {
            (true, false) => Needs::Key,
            (false, true) => Needs::Passphrase,
            _ => Needs::Either,
        }
    }
}

impl Slot {
    /// Wraps `file_key` for `secret`.
    pub(crate) fn wrap(
        secret: &SealSecret,
        file_key: &FileKey,
        entropy: &mut impl Entropy,
    ) -> Result<Self, CryptoError> {
        let (kek, kdf) = secret.key(entropy)?;
        let nonce: [u8; GCM_NONCE_LEN] = entropy.array()?;
        let wrapped =
            WrappedKey { key_id: key_id(&kek), nonce, wrapped: [0; KEY_LEN], tag: Tag::default() };
        let mut slot = match kdf {
            None => Self::Key(wrapped),
            Some(kdf) => Self::Passphrase(kdf, wrapped),
        };
        let aad = slot.aad(&file_key.salt);
        if let Self::Key(wrapped) | Self::Passphrase(_, wrapped) = &mut slot {
            let plain = file_key.key.as_bytes();
            wrapped.tag = Aes256Gcm::new(&kek)?.seal(&nonce, &aad, plain, &mut wrapped.wrapped)?;
        }
        Ok(slot)
    }

    fn read(rest: &mut &[u8]) -> Result<Self, CryptoError> {
        let kind = u16::from_le_bytes(take(rest)?);
        let len = usize::from(u16::from_le_bytes(take(rest)?));
        let Some((mut body, after)) = rest.split_at_checked(len) else {
            return Err(malformed("runs past the end of the record"));
        };
        *rest = after;
        let slot = match kind {
            SLOT_KEY => Self::Key(WrappedKey::read(&mut body)?),
            SLOT_PASSPHRASE => {
                let kdf = KeyDerivation {
                    opslimit: u64::from_le_bytes(take(&mut body)?),
                    memlimit: u64::from_le_bytes(take(&mut body)?),
                    salt: take::<PWHASH_SALT_LEN>(&mut body)?.to_vec(),
                };
                Self::Passphrase(kdf, WrappedKey::read(&mut body)?)
            }
            _ => return Ok(Self::Unknown(kind, body.to_vec())),
        };
        if body.is_empty() { Ok(slot) } else { Err(malformed("a slot is longer than its kind")) }
    }

    /// What stands before the nonce: kind, length, key derivation, key id. It is part of what authenticates
    /// the wrapped key.
    fn write_head(&self, out: &mut Vec<u8>) {
        let (kind, len) = match self {
            Self::Key(_) => (SLOT_KEY, 68),
            Self::Passphrase(..) => (SLOT_PASSPHRASE, 100),
            // As long as it was when it was read from a field of two bytes.
            Self::Unknown(kind, body) => (*kind, u16::try_from(body.len()).unwrap_or(u16::MAX)),
        };
        out.extend(kind.to_le_bytes());
        out.extend(len.to_le_bytes());
        if let Self::Passphrase(kdf, _) = self {
            out.extend(kdf.opslimit.to_le_bytes());
            out.extend(kdf.memlimit.to_le_bytes());
            out.extend(&kdf.salt);
        }
        if let Self::Key(wrapped) | Self::Passphrase(_, wrapped) = self {
            out.extend(wrapped.key_id);
        }
    }

    fn write_rest(&self, out: &mut Vec<u8>) {
        match self {
            Self::Key(wrapped) | Self::Passphrase(_, wrapped) => {
                out.extend(wrapped.nonce);
                out.extend(wrapped.wrapped);
                out.extend(wrapped.tag);
            }
            Self::Unknown(_, body) => out.extend(body),
        }
    }

    /// `label ‖ file salt ‖ the slot before its nonce`.
    fn aad(&self, salt: &[u8; FILE_SALT_LEN]) -> Vec<u8> {
        let mut aad = [SLOT_LABEL, salt].concat();
        self.write_head(&mut aad);
        aad
    }

    /// Whether a secret of today can open it.
    pub(crate) fn opens(&self) -> bool {
        !matches!(self, Self::Unknown(..))
    }

    fn describe(&self) -> KeySlot {
        match self {
            Self::Key(wrapped) => {
                KeySlot { kind: SLOT_KEY, key_id: Some(wrapped.key_id), key_derivation: None }
            }
            Self::Passphrase(kdf, wrapped) => KeySlot {
                kind: SLOT_PASSPHRASE,
                key_id: Some(wrapped.key_id),
                key_derivation: Some(kdf.clone()),
            },
            Self::Unknown(kind, _) => KeySlot { kind: *kind, key_id: None, key_derivation: None },
        }
    }
}

impl WrappedKey {
    /// `8-byte key id, 12-byte nonce, 32 bytes, 16-byte tag`.
    fn read(body: &mut &[u8]) -> Result<Self, CryptoError> {
        Ok(Self { key_id: take(body)?, nonce: take(body)?, wrapped: take(body)?, tag: take(body)? })
    }

    /// The file key, where `kek` is the right one.
    fn unwrap(&self, kek: &Key, aad: &[u8]) -> Result<Option<Key>, CryptoError> {
        if self.key_id != key_id(kek) {
            return Ok(None);
        }
        let mut key = Key::zeroed();
        let cipher = Aes256Gcm::new(kek)?;
        let opened = cipher.open(&self.nonce, aad, &self.wrapped, &self.tag, key.as_mut());
        Ok(opened.is_ok().then_some(key))
    }
}

impl SealSecret {
    /// The key that encrypts, and how it followed from a passphrase.
    pub(crate) fn key(
        &self,
        entropy: &mut impl Entropy,
    ) -> Result<(Key, Option<KeyDerivation>), CryptoError> {
        match self {
            Self::Key(key) => Ok((key.clone(), None)),
            Self::Passphrase { passphrase, .. } if passphrase.as_bytes().is_empty() => {
                Err(CryptoError::EmptyPassphrase)
            }
            Self::Passphrase { passphrase, cost, salt } => {
                let salt = match salt {
                    Some(salt) => *salt,
                    None => entropy.array()?,
                };
                let kdf = KeyDerivation {
                    opslimit: cost.passes,
                    memlimit: cost.memory,
                    salt: salt.to_vec(),
                };
                Ok((kdf::derive(passphrase, &kdf)?, Some(kdf)))
            }
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CryptoError> {
    let Some((head, after)) = rest.split_first_chunk() else {
        return Err(malformed("runs past the end of the record"));
    };
    *rest = after;
    Ok(*head)
}

fn malformed(why: &'static str) -> CryptoError {
    CryptoError::malformed("key slots", why)
}
