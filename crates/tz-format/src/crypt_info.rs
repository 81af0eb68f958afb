//! Encryption parameters as they stand in a tensor header. Owns [`CryptInfo`]; their meaning is `tz-crypto`'s.

use std::ops::Range;

use crate::error::{Fault, FormatError, Unwritable};
use crate::frozen::{
    CRYPT_KEY_DERIVATION, CRYPT_SEALED, CRYPT_XSALSA20_CHUNKED, CRYPT_XSALSA20_WHOLE,
    KDF_ALG_ARGON2ID13, KDF_ARGON2ID, TAG_LEN, XSALSA20_CHUNK_MIN, XSALSA20_CHUNK_QUANTUM,
    XSALSA20_NONCE_LEN,
};
use crate::version::Profile;
use crate::wire::{Reader, Writer};

/// Authentication tag of one chunk.
pub type Tag = [u8; TAG_LEN];

/// Argon2id parameters in libsodium's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDerivation {
    /// Passes over memory.
    pub opslimit: u64,
    /// Memory in bytes.
    pub memlimit: u64,
    /// Salt; 16 bytes in every file that the reference reads.
    pub salt: Vec<u8>,
}

/// How a tensor's data is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cipher {
    /// XSalsa20-Poly1305 in chunks; chunk *i* has the first nonce + *i*.
    XSalsa20Chunked {
        /// Bytes per chunk; the last may be shorter.
        chunk_size: u64,
        /// Nonce of chunk 0, a 24-byte little-endian number.
        nonce: [u8; XSALSA20_NONCE_LEN],
        /// One tag per chunk. A single tag covers the whole tensor, whatever the chunk size.
        tags: Vec<Tag>,
    },
    /// XSalsa20-Poly1305 over the whole tensor.
    XSalsa20Whole {
        /// Nonce.
        nonce: [u8; XSALSA20_NONCE_LEN],
        /// Tag.
        tag: Tag,
    },
    /// AES-256-GCM in chunks, of the sealed profile.
    Sealed {
        /// Bytes per chunk; the last may be shorter.
        chunk_size: u64,
        /// One tag per chunk.
        tags: Vec<Tag>,
    },
}

/// The crypt block of a tensor header. A tensor without data has neither part in a compat file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CryptInfo {
    /// How the key follows from a passphrase, where one was used.
    pub key_derivation: Option<KeyDerivation>,
    /// Cipher and tags.
    pub cipher: Option<Cipher>,
}

/// Which cipher a file is written with: [`CipherPlan::template`] gives the block for a data length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CipherPlan {
    /// XSalsa20-Poly1305 in chunks, as the reference writes it.
    XSalsa20Chunked {
        /// Bytes per chunk: a multiple of 64, at least 1,024.
        chunk_size: u64,
        /// Key derivation to state in every header.
        key_derivation: Option<KeyDerivation>,
    },
    /// AES-256-GCM of the sealed profile.
    Sealed {
        /// Bytes per chunk: a multiple of 4,096, at most 64 MiB.
        chunk_size: u64,
    },
}

impl CipherPlan {
    /// The block of a tensor of `data_len` bytes with zero nonce and tags: its length is final.
    #[must_use]
    pub fn template(&self, data_len: u64) -> CryptInfo {
        let tags = |chunk_size: u64| {
            // A layout is planned for tensors that fit in memory or a file; see `check`.
            vec![[0; TAG_LEN]; usize::try_from(data_len.div_ceil(chunk_size.max(1))).unwrap_or(0)]
        };
        match self {
            Self::XSalsa20Chunked { .. } if data_len == 0 => CryptInfo::default(),
            Self::XSalsa20Chunked { chunk_size, key_derivation } => CryptInfo {
                key_derivation: key_derivation.clone(),
                cipher: Some(Cipher::XSalsa20Chunked {
                    chunk_size: *chunk_size,
                    nonce: [0; XSALSA20_NONCE_LEN],
                    tags: tags(*chunk_size),
                }),
            },
            Self::Sealed { chunk_size } => CryptInfo {
                key_derivation: None,
                cipher: Some(Cipher::Sealed { chunk_size: *chunk_size, tags: tags(*chunk_size) }),
            },
        }
    }

    /// Length of [`Self::template`]'s block, without building it.
    pub(crate) fn template_len(&self, data_len: u64) -> u64 {
        let empty = self.template(0).wire_len();
        let tag_bytes = |chunk_size: u64| data_len.div_ceil(chunk_size.max(1)) * TAG_LEN as u64;
        match self {
            Self::XSalsa20Chunked { .. } if data_len == 0 => empty,
            Self::XSalsa20Chunked { chunk_size, key_derivation } => {
                let kdf = CryptInfo { key_derivation: key_derivation.clone(), cipher: None };
                kdf.wire_len() + 50 + tag_bytes(*chunk_size)
            }
            Self::Sealed { chunk_size } => empty + tag_bytes(*chunk_size),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Unwritable> {
        let ok = match self {
            Self::XSalsa20Chunked { chunk_size, .. } => xsalsa20_chunk_ok(*chunk_size),
            Self::Sealed { chunk_size } => sealed_chunk_ok(*chunk_size),
        };
        if !ok {
            return Err(Unwritable::Option(
                "chunk size: a multiple of 64 from 1,024 (compat), or of 4,096 up to 64 MiB (sealed)",
            ));
        }
        match self {
            Self::XSalsa20Chunked { key_derivation: Some(kdf), .. } if kdf.salt.len() > 0xffff => {
                Err(Unwritable::Option("salt: at most 65,535 bytes"))
            }
            _ => Ok(()),
        }
    }
}

fn xsalsa20_chunk_ok(size: u64) -> bool {
    size >= XSALSA20_CHUNK_MIN && size.is_multiple_of(XSALSA20_CHUNK_QUANTUM)
}

fn sealed_chunk_ok(size: u64) -> bool {
    size >= 4096 && size.is_multiple_of(4096) && size <= 64 << 20
}

impl CryptInfo {
    /// Bytes of the block, its length field included.
    pub(crate) fn wire_len(&self) -> u64 {
        let kdf = self.key_derivation.as_ref().map_or(0, |kdf| 10 + 24 + kdf.salt.len() as u64);
        let tag_bytes = |tags: &[Tag]| (tags.len() * TAG_LEN) as u64;
        let cipher = self.cipher.as_ref().map_or(0, |cipher| match cipher {
            Cipher::XSalsa20Chunked { tags, .. } => 10 + 40 + tag_bytes(tags),
            Cipher::XSalsa20Whole { .. } => 10 + 40,
            Cipher::Sealed { tags, .. } => 10 + 16 + tag_bytes(tags),
        });
        10 + kdf + cipher
    }

    /// `u64 length, u16 count, count × (u64 length, u16 type, body)`; also gives the range of the sealed tags.
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<(Self, Option<Range<usize>>), FormatError> {
        let len = r.u64("crypt block length")?;
        let start = r.pos();
        let mut block = r.sub(len, "crypt block")?;
        let count = block.u16("crypt chunk count")?;
        let mut info = Self::default();
        let mut sealed_tags = None;
        for _ in 0..count {
            let len = block.u64("crypt chunk length")?;
            let chunk_start = start + block.pos();
            let mut chunk = block.sub(len, "crypt chunk")?;
            let offset = chunk.offset();
            let kind = chunk.u16("crypt chunk type")?;
            let twice = match kind {
                CRYPT_KEY_DERIVATION => {
                    info.key_derivation.replace(read_kdf(&mut chunk)?).is_some()
                }
                _ => {
                    let cipher = read_cipher(kind, &mut chunk, offset)?;
                    if let Cipher::Sealed { tags, .. } = &cipher {
                        let end = chunk_start + chunk.pos();
                        sealed_tags = Some(end - tags.len() * TAG_LEN..end);
                    }
                    info.cipher.replace(cipher).is_some()
                }
            };
            if twice {
                let fault = Fault::DuplicateCryptChunk(kind);
                return Err(FormatError::malformed("crypt chunk type", offset, fault));
            }
            chunk.finish("crypt chunk")?;
        }
        block.finish("crypt block")?;
        Ok((info, sealed_tags))
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.wire_len() - 8);
        w.u16(u16::from(self.key_derivation.is_some()) + u16::from(self.cipher.is_some()));
        if let Some(kdf) = &self.key_derivation {
            w.u64(26 + kdf.salt.len() as u64);
            w.u16(CRYPT_KEY_DERIVATION);
            w.u16(KDF_ARGON2ID);
            w.u64(kdf.opslimit);
            w.u64(kdf.memlimit);
            w.i32(KDF_ALG_ARGON2ID13);
            w.u16(u16::try_from(kdf.salt.len()).unwrap_or(u16::MAX));
            w.bytes(&kdf.salt);
        }
        match &self.cipher {
            None => {}
            Some(Cipher::XSalsa20Chunked { chunk_size, nonce, tags }) => {
                w.u64(42 + (tags.len() * TAG_LEN) as u64);
                w.u16(CRYPT_XSALSA20_CHUNKED);
                w.u64(*chunk_size);
                w.bytes(nonce);
                w.u64(tags.len() as u64);
                w.bytes(tags.as_flattened());
            }
            Some(Cipher::XSalsa20Whole { nonce, tag }) => {
                w.u64(42);
                w.u16(CRYPT_XSALSA20_WHOLE);
                w.bytes(nonce);
                w.bytes(tag);
            }
            Some(Cipher::Sealed { chunk_size, tags }) => {
                w.u64(18 + (tags.len() * TAG_LEN) as u64);
                w.u16(CRYPT_SEALED);
                w.u64(*chunk_size);
                w.u64(tags.len() as u64);
                w.bytes(tags.as_flattened());
            }
        }
    }

    /// Refuses a block of another profile: a sealed tensor carries the sealed cipher alone, and no other tensor does.
    /// Without this an edited header could ask a reader for a weaker cipher than the file's flags promise.
    pub(crate) fn check_profile(&self, profile: Profile, offset: u64) -> Result<(), FormatError> {
        let sealed = matches!(self.cipher, Some(Cipher::Sealed { .. }));
        let fits = match profile {
            Profile::Sealed => sealed && self.key_derivation.is_none(),
            Profile::Compat => !sealed,
        };
        if fits {
            Ok(())
        } else {
            Err(FormatError::malformed("crypt block", offset, Fault::WrongProfile))
        }
    }

    /// Refuses a block that does not fit `data_len` bytes of data: a reader can then index tags freely.
    pub(crate) fn check_len(&self, data_len: u64, offset: u64) -> Result<(), FormatError> {
        let wrong_count = |found: usize, expected: u64| {
            let fault = Fault::WrongTagCount { found: found as u64, expected };
            FormatError::malformed("crypt block", offset, fault)
        };
        match &self.cipher {
            None if data_len == 0 => Ok(()),
            None => Err(wrong_count(0, 1)),
            // One tag makes the whole tensor one box, whatever the chunk size.
            Some(Cipher::XSalsa20Whole { .. }) => Ok(()),
            Some(Cipher::XSalsa20Chunked { tags, .. }) if tags.len() == 1 => Ok(()),
            Some(
                Cipher::XSalsa20Chunked { chunk_size, tags, .. }
                | Cipher::Sealed { chunk_size, tags },
            ) => {
                let expected = data_len.div_ceil(*chunk_size);
                if tags.len() as u64 == expected {
                    Ok(())
                } else {
                    Err(wrong_count(tags.len(), expected))
                }
            }
        }
    }
}

fn read_kdf(r: &mut Reader<'_>) -> Result<KeyDerivation, FormatError> {
    let unknown = |field, offset, code| {
        FormatError::malformed(field, offset, Fault::UnknownKeyDerivation(code))
    };
    let offset = r.offset();
    let method = r.u16("key derivation method")?;
    if method != KDF_ARGON2ID {
        return Err(unknown("key derivation method", offset, method.into()));
    }
    let opslimit = r.u64("key derivation opslimit")?;
    let memlimit = r.u64("key derivation memlimit")?;
    let offset = r.offset();
    let alg = r.i32("key derivation algorithm")?;
    if alg != KDF_ALG_ARGON2ID13 {
        return Err(unknown("key derivation algorithm", offset, alg.into()));
    }
    let salt_len = r.u16("salt length")?;
    Ok(KeyDerivation { opslimit, memlimit, salt: r.bytes(salt_len.into(), "salt")?.to_vec() })
}

/// `kind_at` is where the chunk type stands, which the caller has read.
fn read_cipher(kind: u16, r: &mut Reader<'_>, kind_at: u64) -> Result<Cipher, FormatError> {
    match kind {
        CRYPT_XSALSA20_CHUNKED => Ok(Cipher::XSalsa20Chunked {
            chunk_size: read_chunk_size(r, xsalsa20_chunk_ok)?,
            nonce: r.array("nonce")?,
            tags: read_tags(r)?,
        }),
        CRYPT_XSALSA20_WHOLE => {
            Ok(Cipher::XSalsa20Whole { nonce: r.array("nonce")?, tag: r.array("tag")? })
        }
        CRYPT_SEALED => Ok(Cipher::Sealed {
            chunk_size: read_chunk_size(r, sealed_chunk_ok)?,
            tags: read_tags(r)?,
        }),
        _ => {
            Err(FormatError::malformed("crypt chunk type", kind_at, Fault::UnknownCryptChunk(kind)))
        }
    }
}

fn read_chunk_size(r: &mut Reader<'_>, ok: fn(u64) -> bool) -> Result<u64, FormatError> {
    let offset = r.offset();
    let size = r.u64("chunk size")?;
    if ok(size) {
        Ok(size)
    } else {
        let fault = Fault::BadChunkSize(size);
        Err(FormatError::malformed("chunk size", offset, fault))
    }
}

/// `u64 count, count × 16 bytes`: the bytes are there before memory is taken for them.
fn read_tags(r: &mut Reader<'_>) -> Result<Vec<Tag>, FormatError> {
    let offset = r.offset();
    let count = r.u64("tag count")?;
    let len = count
        .checked_mul(TAG_LEN as u64)
        .ok_or_else(|| FormatError::malformed("tag count", offset, Fault::Truncated))?;
    let (tags, _) = r.bytes(len, "tags")?.as_chunks::<TAG_LEN>();
    Ok(tags.to_vec())
}
