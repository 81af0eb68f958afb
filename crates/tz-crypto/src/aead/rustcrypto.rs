//! AES-256-GCM of the `aes-gcm` crate: slower, all Rust, and what the default is checked against. Feature
//! `rustcrypto`.

use std::fmt;

use aes_gcm::{AeadInOut, KeyInit};
use tz_format::Tag;

use super::{Aead, GcmNonce};
use crate::error::CryptoError;
use crate::key::Key;

/// AES-256-GCM of the `aes-gcm` crate.
pub struct RustCryptoAes256Gcm(aes_gcm::Aes256Gcm);

impl Aead for RustCryptoAes256Gcm {
    fn new(key: &Key) -> Result<Self, CryptoError> {
        Ok(Self(aes_gcm::Aes256Gcm::new(key.as_bytes().into())))
    }

    fn seal(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Tag, CryptoError> {
        if plain.len() != out.len() {
            return Err(CryptoError::Library);
        }
        out.copy_from_slice(plain);
        self.seal_in_place(nonce, aad, out)
    }

    fn seal_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<Tag, CryptoError> {
        let tag = self.0.encrypt_inout_detached(nonce.into(), aad, data.into());
        tag.map(Into::into).map_err(|_| CryptoError::Library)
    }

    fn open(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        sealed: &[u8],
        tag: &Tag,
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        if sealed.len() != out.len() {
            return Err(CryptoError::Open);
        }
        out.copy_from_slice(sealed);
        self.open_in_place(nonce, aad, out, tag)
    }

    fn open_in_place(
        &self,
        nonce: &GcmNonce,
        aad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, data.into(), tag.into())
            .map_err(|_| CryptoError::Open)
    }
}

impl fmt::Debug for RustCryptoAes256Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RustCryptoAes256Gcm(redacted)")
    }
}
