//! Secrets in memory. Owns [`Key`], [`Passphrase`] and what is made of them; all are wiped when dropped, and
//! none shows in `Debug`.

use std::fmt;

use zeroize::Zeroizing;

use crate::entropy::{Entropy, Os};
use crate::error::CryptoError;
use crate::frozen::{KEY_LEN, PWHASH_SALT_LEN};
use crate::kdf::{KdfCost, KdfPreset};

/// A 256-bit key. It lives on the heap, so that moving it leaves no copy behind.
#[derive(Clone)]
pub struct Key(Box<Zeroizing<[u8; KEY_LEN]>>);

impl Key {
    /// A key of exactly 32 bytes, as a key file holds it.
    ///
    /// # Errors
    /// [`CryptoError::KeyLength`] for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        let mut key = Self::zeroed();
        if bytes.len() != KEY_LEN {
            return Err(CryptoError::KeyLength { found: bytes.len() });
        }
        key.as_mut().copy_from_slice(bytes);
        Ok(key)
    }

    /// A fresh key from the operating system.
    ///
    /// # Errors
    /// [`CryptoError::Random`] where the operating system has none.
    pub fn random() -> Result<Self, CryptoError> {
        Self::generate(&mut Os)
    }

    pub(crate) fn generate(entropy: &mut impl Entropy) -> Result<Self, CryptoError> {
        let mut key = Self::zeroed();
        entropy.fill(key.as_mut())?;
        Ok(key)
    }

    /// To be filled at once.
    pub(crate) fn zeroed() -> Self {
        Self(Box::new(Zeroizing::new([0; KEY_LEN])))
    }

    /// The bytes, for writing a key file. Whoever copies them must wipe the copy.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8; KEY_LEN] {
        &mut self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// What a person remembers. Its bytes are used as they are: the reference encodes text as UTF-8.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes over `bytes`; a `String` is not copied.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// What may open a file.
#[derive(Debug, Clone)]
pub enum Secret {
    /// A raw key.
    Key(Key),
    /// A passphrase.
    Passphrase(Passphrase),
}

/// What a file is encrypted for.
#[derive(Debug, Clone)]
pub enum SealSecret {
    /// A raw key.
    Key(Key),
    /// A passphrase, made a key by Argon2id.
    Passphrase {
        /// The passphrase.
        passphrase: Passphrase,
        /// What each guess at it costs.
        cost: KdfCost,
        /// Salt; a random one where none is given, which is what everyone should want.
        salt: Option<[u8; PWHASH_SALT_LEN]>,
    },
}

impl SealSecret {
    /// A passphrase at the cost of `preset`, with a random salt.
    #[must_use]
    pub fn passphrase(passphrase: Passphrase, preset: KdfPreset) -> Self {
        Self::Passphrase { passphrase, cost: preset.cost(), salt: None }
    }

    /// The secret that will open what this one sealed.
    #[must_use]
    pub fn to_secret(&self) -> Secret {
        match self {
            Self::Key(key) => Secret::Key(key.clone()),
            Self::Passphrase { passphrase, .. } => Secret::Passphrase(passphrase.clone()),
        }
    }
}
