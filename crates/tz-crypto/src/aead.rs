//! AES-256-GCM with detached tags. Owns the trait [`Aead`] and its implementation on `aws-lc-rs`, which every
//! sealed file uses (decision 0010).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tz_format::Tag;
use tz_format::frozen::TAG_LEN;

use crate::error::CryptoError;
use crate::frozen::GCM_NONCE_LEN;
use crate::key::Key;

#[cfg(feature = "rustcrypto")]
mod rustcrypto;

#[cfg(feature = "rustcrypto")]
pub use rustcrypto::RustCryptoAes256Gcm;

/// A nonce, used once under one key.
pub type GcmNonce = [u8; GCM_NONCE_LEN];

/// AES-256-GCM under one key. Implementations give the same bytes; they differ in speed.
///
/// `out` has the length of the input. A failed `open` leaves bytes in the output that the caller must wipe.
pub trait Aead: Send + Sync + Sized {
    /// Expands `key`.
    ///
    /// # Errors
    /// [`CryptoError::Library`] for lack of memory.
    fn new(key: &Key) -> Result<Self, CryptoError>;

    /// Encrypts `plain` into `out`.
    ///
    /// # Errors
    /// [`CryptoError::Library`] where the lengths differ.
    fn seal(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Tag, CryptoError>;

    /// Encrypts `data` where it is.
    ///
    /// # Errors
    /// [`CryptoError::Library`] for lack of memory.
    fn seal_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<Tag, CryptoError>;

    /// Decrypts `sealed` into `out`.
    ///
    /// # Errors
    /// [`CryptoError::Open`] where nonce, `aad`, `sealed` and `tag` are not what was sealed under this key.
    fn open(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        sealed: &[u8],
        tag: &Tag,
        out: &mut [u8],
    ) -> Result<(), CryptoError>;

    /// Decrypts `data` where it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError>;
}

/// AES-256-GCM of AWS-LC, which wipes its key schedule when dropped.
pub struct Aes256Gcm(LessSafeKey);

impl Aead for Aes256Gcm {
    fn new(key: &Key) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes());
        Ok(Self(LessSafeKey::new(key.map_err(|_| CryptoError::Library)?)))
    }

    fn seal(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Tag, CryptoError> {
        let mut tag = [0; TAG_LEN];
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| CryptoError::Library)?;
        Ok(tag)
    }

    fn seal_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<Tag, CryptoError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), data);
        let tag = tag.map_err(|_| CryptoError::Library)?;
        tag.as_ref().try_into().map_err(|_| CryptoError::Library)
    }

    fn open(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        sealed: &[u8],
        tag: &Tag,
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_separate_gather(nonce, Aad::from(aad), sealed, tag, out)
            .map_err(|_| CryptoError::Open)
    }

    fn open_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, data)
            .map(|_| ())
            .map_err(|_| CryptoError::Open)
    }
}

impl fmt::Debug for Aes256Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aes256Gcm(redacted)")
    }
}
