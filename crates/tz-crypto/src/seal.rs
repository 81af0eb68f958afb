//! Encrypts files. Owns [`FileSealer`], which holds one file's keys, and [`TensorSealer`], which never uses a nonce
//! twice.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tz_format::{
    Cipher, CipherPlan, CryptInfo, Extension, KeyDerivation, Layout, Tag, TensorHeader,
};
use zeroize::Zeroizing;

use crate::aead::{Aead, Aes256Gcm};
use crate::chunks::Chunks;
use crate::entropy::{Entropy, Os};
use crate::error::CryptoError;
use crate::front;
use crate::frozen::SEALED_CHUNKS_MAX;
use crate::key::{Key, SealSecret};
use crate::open::gcm_nonce;
use crate::schedule::FileKey;
use crate::secretbox::{self, Nonce, chunk_nonce};
use crate::slots::{Slot, SlotRecord};

/// Chunk size of compat files: the reference's own.
pub const DEFAULT_COMPAT_CHUNK_SIZE: u64 = 2 << 20;
/// Chunk size of sealed files: a read of one chunk is one request of a sensible size, and its tags cost 16 bytes
/// in a MiB.
pub const DEFAULT_SEALED_CHUNK_SIZE: u64 = 1 << 20;
/// Key slots that a sealed file has room for unless told otherwise, so that secrets can be added without moving
/// tensors.
pub const DEFAULT_SLOT_ROOM: usize = 8;

/// Encrypts the tensors of one file, and no other: a sealed file's key is made here and used once.
#[derive(Debug)]
pub struct FileSealer {
    chunk_size: u64,
    keys: SealKeys,
}

#[derive(Debug)]
enum SealKeys {
    Compat {
        key: Key,
        key_derivation: Option<KeyDerivation>,
    },
    Sealed {
        file_key: FileKey,
        key_slots: Vec<u8>,
        /// Tensors whose keys are in use: a second sealer of one would repeat its nonces.
        taken: Mutex<HashSet<usize>>,
    },
}

impl FileSealer {
    /// Encrypts as the reference does, so that it can read the file. [`Layout::plan`] refuses a `chunk_size` that
    /// the format does not allow.
    ///
    /// # Errors
    /// [`CryptoError::EmptyPassphrase`], or a failed key derivation.
    pub fn compat(secret: &SealSecret, chunk_size: u64) -> Result<Self, CryptoError> {
        let (key, key_derivation) = secret.key(&mut Os)?;
        Ok(Self { chunk_size, keys: SealKeys::Compat { key, key_derivation } })
    }

    /// Seals for every one of `secrets`, any of which will open the file.
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] where there is no secret; otherwise as [`Self::compat`].
    pub fn sealed(secrets: &[SealSecret], chunk_size: u64) -> Result<Self, CryptoError> {
        Self::sealed_with_room(secrets, chunk_size, DEFAULT_SLOT_ROOM)
    }

    /// As [`Self::sealed`], with room for `room` key slots instead of [`DEFAULT_SLOT_ROOM`]. Each costs 104 bytes
    /// in the front of the file.
    ///
    /// # Errors
    /// As [`Self::sealed`].
    pub fn sealed_with_room(
        secrets: &[SealSecret],
        chunk_size: u64,
        room: usize,
    ) -> Result<Self, CryptoError> {
        Self::sealed_from(&mut Os, secrets, chunk_size, room)
    }

    pub(crate) fn sealed_from(
        entropy: &mut impl Entropy,
        secrets: &[SealSecret],
        chunk_size: u64,
        room: usize,
    ) -> Result<Self, CryptoError> {
        if secrets.is_empty() {
            return Err(CryptoError::Misuse("sealing for nobody"));
        }
        let file_key = FileKey { key: Key::generate(entropy)?, salt: entropy.array()? };
        let slots = secrets.iter().map(|secret| Slot::wrap(secret, &file_key, entropy));
        let record = SlotRecord {
            salt: file_key.salt,
            slots: slots.collect::<Result<_, _>>()?,
            len: SlotRecord::room_for(room.max(secrets.len())),
        };
        let key_slots = record.write()?;
        Ok(Self {
            chunk_size,
            keys: SealKeys::Sealed { file_key, key_slots, taken: Mutex::default() },
        })
    }

    /// What [`tz_format::LayoutOptions::cipher`] must say.
    #[must_use]
    pub fn cipher_plan(&self) -> CipherPlan {
        let chunk_size = self.chunk_size;
        match &self.keys {
            SealKeys::Compat { key_derivation, .. } => {
                CipherPlan::XSalsa20Chunked { chunk_size, key_derivation: key_derivation.clone() }
            }
            SealKeys::Sealed { .. } => CipherPlan::Sealed { chunk_size },
        }
    }

    /// Adds what a sealed file needs to [`tz_format::LayoutOptions::extension`]: the key slots, and a placeholder
    /// that [`Self::seal_front`] fills. Digests are taken out: the tags do more. A compat file needs nothing.
    pub fn extend(&self, extension: &mut Extension) {
        if let SealKeys::Sealed { key_slots, .. } = &self.keys {
            extension.key_slots = Some(key_slots.clone());
            extension.metadata_mac = Some([0; 32]);
            extension.blake3 = None;
        }
    }

    /// Prepares to encrypt tensor `index` of `layout`, which was planned with [`Self::cipher_plan`].
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] where the layout was planned otherwise, where a sealed layout has plaintext hashes,
    /// or where the sealed tensor was prepared before.
    pub fn tensor(&self, layout: &Layout, index: usize) -> Result<TensorSealer, CryptoError> {
        let (Some(entry), Some(template)) =
            (layout.entries().get(index), layout.crypt_template(index))
        else {
            return Err(CryptoError::Misuse("no such tensor, or no cipher planned"));
        };
        if layout.options().cipher != Some(self.cipher_plan()) {
            return Err(CryptoError::Misuse("the layout was planned with another cipher"));
        }
        let chunks = Chunks::split(entry.data_len, self.chunk_size)?;
        let cipher = match &self.keys {
            SealKeys::Compat { key, .. } => {
                SealCipher::XSalsa20 { key: key.clone(), nonce: Os.array()? }
            }
            SealKeys::Sealed { file_key, taken, .. } => {
                if !layout.options().hashes.is_empty() {
                    return Err(CryptoError::Misuse("plaintext hashes in a sealed file"));
                }
                if chunks.count() as u64 > SEALED_CHUNKS_MAX {
                    return Err(CryptoError::Misuse("more than 2^32 chunks"));
                }
                let header = layout.encode_header(index, &[], Some(&template))?;
                let decoded = TensorHeader::decode(&header, entry, layout.header().flags)?;
                let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                if !taken.insert(index) {
                    return Err(CryptoError::Misuse("the tensor was sealed before"));
                }
                SealCipher::Aes256Gcm {
                    cipher: Aes256Gcm::new(&file_key.tensor_key(index as u64))?,
                    aad: decoded.sealed_aad(&header),
                }
            }
        };
        let words = chunks.count().div_ceil(64);
        Ok(TensorSealer {
            chunks,
            template,
            cipher,
            sealed: (0..words).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Writes the metadata MAC over `front_bytes`, the final front of a sealed file, to `mac_at`:
    /// [`Layout::metadata_mac_at`]. The front must not change afterwards.
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] for a compat file, or where `mac_at` is not 32 bytes of the front.
    pub fn seal_front(
        &self,
        front_bytes: &mut [u8],
        mac_at: Range<u64>,
    ) -> Result<(), CryptoError> {
        match &self.keys {
            SealKeys::Compat { .. } => Err(CryptoError::Misuse("a compat file has no MAC")),
            SealKeys::Sealed { file_key, .. } => front::seal(file_key, front_bytes, mac_at),
        }
    }
}

/// Encrypts the chunks of one tensor, each once, in any order and from any number of threads.
#[derive(Debug)]
pub struct TensorSealer {
    chunks: Chunks,
    template: CryptInfo,
    cipher: SealCipher,
    /// One bit per chunk that was sealed.
    sealed: Vec<AtomicU64>,
}

#[derive(Debug)]
enum SealCipher {
    XSalsa20 { key: Key, nonce: Nonce },
    Aes256Gcm { cipher: Aes256Gcm, aad: Vec<u8> },
}

impl TensorSealer {
    /// Number of chunks; none for a tensor without data.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.count()
    }

    /// Bytes of chunk `i` within the tensor's data, the same before and after sealing.
    #[must_use]
    pub fn chunk_range(&self, i: usize) -> Range<u64> {
        self.chunks.range(i)
    }

    /// Bytes of every chunk but the last, which may be shorter.
    #[must_use]
    pub fn chunk_size(&self) -> u64 {
        self.chunks.size()
    }

    /// Encrypts chunk `i` from `plain` into `out` and gives its tag. Whoever must write it again keeps `out`:
    /// a second call for the same chunk is refused.
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] where `i` or a length is wrong, or the chunk was sealed before.
    pub fn seal_chunk(&self, i: usize, plain: &[u8], out: &mut [u8]) -> Result<Tag, CryptoError> {
        if plain.len() != out.len() {
            return Err(CryptoError::Misuse("input and output differ in length"));
        }
        self.take(i, plain.len())?;
        match &self.cipher {
            SealCipher::XSalsa20 { key, nonce } => {
                secretbox::seal(key, &chunk_nonce(nonce, i as u64), plain, out)
            }
            SealCipher::Aes256Gcm { cipher, aad } => {
                let nonce = gcm_nonce(i as u64, self.chunks.is_last(i));
                cipher.seal(&nonce, aad, plain, out)
            }
        }
    }

    /// Encrypts chunk `i` where it is. For a compat file this takes a copy: [`Self::seal_chunk`] is faster there.
    ///
    /// # Errors
    /// As [`Self::seal_chunk`].
    pub fn seal_chunk_in_place(&self, i: usize, data: &mut [u8]) -> Result<Tag, CryptoError> {
        self.take(i, data.len())?;
        match &self.cipher {
            SealCipher::XSalsa20 { key, nonce } => {
                let plain = Zeroizing::new(data.to_vec());
                secretbox::seal(key, &chunk_nonce(nonce, i as u64), &plain, data)
            }
            SealCipher::Aes256Gcm { cipher, aad } => {
                let nonce = gcm_nonce(i as u64, self.chunks.is_last(i));
                cipher.seal_in_place(&nonce, aad, data)
            }
        }
    }

    /// The crypt block for the tensor's header, with the tags of all chunks in order.
    ///
    /// # Errors
    /// [`CryptoError::Misuse`] where a chunk was not sealed, or there is not one tag per chunk.
    pub fn finish(self, tags: Vec<Tag>) -> Result<CryptInfo, CryptoError> {
        let sealed = self.sealed.iter().map(|word| word.load(Ordering::Acquire).count_ones());
        if tags.len() != self.chunks.count()
            || sealed.map(u64::from).sum::<u64>() != self.chunks.count() as u64
        {
            return Err(CryptoError::Misuse("not one tag per sealed chunk"));
        }
        let mut info = self.template;
        match (&mut info.cipher, self.cipher) {
            (None, _) => {}
            (
                Some(Cipher::XSalsa20Chunked { nonce, tags: all, .. }),
                SealCipher::XSalsa20 { nonce: first, .. },
            ) => {
                *nonce = first;
                *all = tags;
            }
            (Some(Cipher::Sealed { tags: all, .. }), SealCipher::Aes256Gcm { .. }) => *all = tags,
            _ => return Err(CryptoError::Misuse("the layout has another cipher")),
        }
        Ok(info)
    }

    /// Claims chunk `i`. The bit is set before anything is encrypted, so that of two threads one is refused.
    fn take(&self, i: usize, len: usize) -> Result<(), CryptoError> {
        self.chunks.check(i, len)?;
        let bit = 1 << (i % 64);
        let before = self.sealed.get(i / 64).map(|word| word.fetch_or(bit, Ordering::AcqRel));
        match before {
            Some(before) if before & bit == 0 => Ok(()),
            _ => Err(CryptoError::Misuse("the chunk was sealed before")),
        }
    }
}
