//! Opens encrypted files. Owns [`FileOpener`], which holds what a file's secrets give, and [`TensorOpener`], which
//! turns sealed chunks into plaintext or refuses them.

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use tz_format::{Cipher, CryptInfo, Front, KeyDerivation, Profile, Tag, TensorEntry, TensorHeader};

use crate::aead::{Aead, Aes256Gcm, GcmNonce};
use crate::chunks::Chunks;
use crate::error::{CryptoError, Needs};
use crate::front::{self, SealedFront};
use crate::frozen::{GCM_NONCE_LEN, SEALED_CHUNKS_MAX};
use crate::kdf::{Deriver, KdfLimits};
use crate::key::{Key, Passphrase, Secret};
use crate::schedule::FileKey;
use crate::secretbox::{self, Nonce, chunk_nonce};

/// Opens the tensors of one file. Of a sealed file it exists only if the front is authentic.
#[derive(Debug)]
pub struct FileOpener(Opener);

#[derive(Debug)]
enum Opener {
    Compat(CompatOpener),
    Sealed { file_key: FileKey, slot: usize },
}

/// Secrets of a compat file, and the keys that passphrases became so far.
#[derive(Debug)]
struct CompatOpener {
    keys: Vec<Key>,
    passphrases: Vec<Passphrase>,
    /// Locked while a key is derived: two threads never take the memory for the same key.
    derived: Mutex<Derived>,
}

#[derive(Debug)]
struct Derived {
    deriver: Deriver,
    keys: Vec<(KeyDerivation, Vec<Key>)>,
}

impl FileOpener {
    /// Prepares to open the file of `front`, which was decoded from `front_bytes`: its first bytes, up to the end
    /// of the index or beyond.
    ///
    /// For a sealed file this finds a key slot that one of `secrets` opens and checks the metadata MAC, so that
    /// the caller may trust `front` afterwards. For a compat file nothing can be checked before a chunk is opened.
    ///
    /// # Errors
    /// [`CryptoError::NotEncrypted`], [`CryptoError::KeyMissing`], [`CryptoError::WrongKey`],
    /// [`CryptoError::FrontAltered`], [`CryptoError::KdfTooCostly`], or a broken rule of the key slots.
    pub fn new(
        front: &Front,
        front_bytes: &[u8],
        secrets: &[Secret],
        limits: &KdfLimits,
    ) -> Result<Self, CryptoError> {
        if !front.header.flags.encrypted {
            return Err(CryptoError::NotEncrypted);
        }
        if front.header.flags.profile() == Profile::Sealed {
            let sealed = SealedFront::open(front, front_bytes, secrets, limits)?;
            let SealedFront { file_key, slot, .. } = sealed;
            return Ok(Self(Opener::Sealed { file_key, slot }));
        }
        front::whole(front, front_bytes)?;
        if secrets.is_empty() {
            let needs = Needs::Either;
            return Err(CryptoError::KeyMissing { needs });
        }
        let (mut keys, mut passphrases) = (Vec::new(), Vec::new());
        for secret in secrets {
            match secret {
                Secret::Key(key) => keys.push(key.clone()),
                Secret::Passphrase(passphrase) => passphrases.push(passphrase.clone()),
            }
        }
        let derived = Derived { deriver: Deriver::new(limits), keys: Vec::new() };
        Ok(Self(Opener::Compat(CompatOpener { keys, passphrases, derived: Mutex::new(derived) })))
    }

    /// The file's profile. Whoever relies on authenticated metadata must insist on [`Profile::Sealed`].
    #[must_use]
    pub fn profile(&self) -> Profile {
        match self.0 {
            Opener::Compat(_) => Profile::Compat,
            Opener::Sealed { .. } => Profile::Sealed,
        }
    }

    /// Number of the key slot that opened a sealed file, as [`crate::key_slots`] counts them.
    #[must_use]
    pub fn slot(&self) -> Option<usize> {
        match self.0 {
            Opener::Compat(_) => None,
            Opener::Sealed { slot, .. } => Some(slot),
        }
    }

    /// Prepares to open tensor `index`: `entry` is its index entry, `header` was decoded from `header_bytes`.
    ///
    /// What `header` says beyond the index is authentic in a sealed file once a chunk has opened, and in a compat
    /// file never. The first tensor of each passphrase-derived key takes the derivation's time and memory.
    ///
    /// # Errors
    /// [`CryptoError::KeyMissing`] where the tensor needs another kind of secret,
    /// [`CryptoError::KdfTooCostly`], or a broken rule of the crypt block.
    pub fn tensor(
        &self,
        index: usize,
        entry: &TensorEntry,
        header: &TensorHeader,
        header_bytes: &[u8],
    ) -> Result<TensorOpener, CryptoError> {
        let Some(info) = &header.crypt else {
            return Err(malformed("an encrypted file has one in every header"));
        };
        match &self.0 {
            Opener::Compat(compat) => compat.tensor(entry.data_len, info),
            Opener::Sealed { file_key, .. } => {
                let aad = header.sealed_aad(header_bytes);
                sealed_tensor(file_key, index as u64, entry.data_len, info, aad)
            }
        }
    }
}

impl CompatOpener {
    fn tensor(&self, data_len: u64, info: &CryptInfo) -> Result<TensorOpener, CryptoError> {
        let (chunks, nonce, tags) = match &info.cipher {
            None => (Chunks::split(data_len, 1)?, Nonce::default(), Vec::new()),
            Some(Cipher::XSalsa20Whole { nonce, tag }) => {
                (Chunks::whole(data_len), *nonce, vec![*tag])
            }
            Some(Cipher::XSalsa20Chunked { nonce, tags, .. }) if tags.len() == 1 => {
                (Chunks::whole(data_len), *nonce, tags.clone())
            }
            Some(Cipher::XSalsa20Chunked { chunk_size, nonce, tags }) => {
                (Chunks::split(data_len, *chunk_size)?, *nonce, tags.clone())
            }
            Some(Cipher::Sealed { .. }) => {
                return Err(malformed("a cipher of the sealed profile in a compat file"));
            }
        };
        if tags.len() != chunks.count() {
            return Err(malformed("not one tag per chunk"));
        }
        // Nothing to open: no key is needed, and none is derived.
        let keys = if tags.is_empty() {
            Vec::new()
        } else {
            self.candidates(info.key_derivation.as_ref())?
        };
        Ok(TensorOpener {
            chunks,
            tags,
            cipher: TensorCipher::XSalsa20 { keys, nonce, right: OnceLock::new() },
        })
    }

    /// Every key that may be the right one. The file does not tell: a chunk that opens does.
    fn candidates(&self, kdf: Option<&KeyDerivation>) -> Result<Vec<Key>, CryptoError> {
        let mut keys = match kdf {
            Some(kdf) if !self.passphrases.is_empty() => match self.derived(kdf) {
                // A raw key may still be the right one.
                Err(_) if !self.keys.is_empty() => Vec::new(),
                derived => derived?,
            },
            _ => Vec::new(),
        };
        // A derived key that was kept opens a passphrase file too, as in the reference.
        keys.extend(self.keys.iter().cloned());
        if keys.is_empty() {
            let needs = if kdf.is_some() { Needs::Passphrase } else { Needs::Key };
            return Err(CryptoError::KeyMissing { needs });
        }
        Ok(keys)
    }

    fn derived(&self, kdf: &KeyDerivation) -> Result<Vec<Key>, CryptoError> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let Derived { deriver, keys } = &mut *derived;
        if let Some((_, keys)) = keys.iter().find(|(known, _)| known == kdf) {
            return Ok(keys.clone());
        }
        let fresh = self.passphrases.iter().map(|pass| deriver.derive(pass, kdf));
        let fresh = fresh.collect::<Result<Vec<_>, _>>()?;
        keys.push((kdf.clone(), fresh.clone()));
        Ok(fresh)
    }
}

fn sealed_tensor(
    file_key: &FileKey,
    index: u64,
    data_len: u64,
    info: &CryptInfo,
    aad: Vec<u8>,
) -> Result<TensorOpener, CryptoError> {
    let (Some(Cipher::Sealed { chunk_size, tags }), None) = (&info.cipher, &info.key_derivation)
    else {
        return Err(malformed("a cipher of the compat profile in a sealed file"));
    };
    let chunks = Chunks::split(data_len, *chunk_size)?;
    if tags.len() != chunks.count() || tags.len() as u64 > SEALED_CHUNKS_MAX {
        return Err(malformed("not one tag per chunk"));
    }
    let cipher = Aes256Gcm::new(&file_key.tensor_key(index))?;
    Ok(TensorOpener { chunks, tags: tags.clone(), cipher: TensorCipher::Aes256Gcm { cipher, aad } })
}

/// Opens the chunks of one tensor, in any order and from any number of threads.
#[derive(Debug)]
pub struct TensorOpener {
    chunks: Chunks,
    tags: Vec<Tag>,
    cipher: TensorCipher,
}

#[derive(Debug)]
enum TensorCipher {
    XSalsa20 {
        keys: Vec<Key>,
        nonce: Nonce,
        /// Which of the keys opened a chunk.
        right: OnceLock<usize>,
    },
    Aes256Gcm {
        cipher: Aes256Gcm,
        aad: Vec<u8>,
    },
}

impl TensorOpener {
    /// Number of chunks; a tensor without data may have none.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.count()
    }

    /// Bytes of chunk `i` within the tensor's data, the same before and after opening. Beyond the last chunk it
    /// is empty.
    #[must_use]
    pub fn chunk_range(&self, i: usize) -> Range<u64> {
        self.chunks.range(i)
    }

    /// Bytes of every chunk but the last, which may be shorter. A chunk opens as a whole, so this is the memory
    /// that a reader needs; a compat file may hold a whole tensor in one.
    #[must_use]
    pub fn chunk_size(&self) -> u64 {
        self.chunks.size()
    }

    /// Decrypts chunk `i` from `sealed` into `out`. On failure `out` is all zeros.
    ///
    /// # Errors
    /// [`CryptoError::Open`] where the chunk does not authenticate, [`CryptoError::Misuse`] where `i` or a length
    /// is wrong.
    pub fn open_chunk(&self, i: usize, sealed: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        let opened = self.check(i, sealed.len()).and_then(|tag| {
            if sealed.len() != out.len() {
                return Err(CryptoError::Misuse("input and output differ in length"));
            }
            match &self.cipher {
                TensorCipher::XSalsa20 { keys, nonce, right } => {
                    open_xsalsa20(keys, right, &chunk_nonce(nonce, i as u64), sealed, tag, out)
                }
                TensorCipher::Aes256Gcm { cipher, aad } => {
                    cipher.open(&self.gcm_nonce(i), aad, sealed, tag, out)
                }
            }
        });
        wipe_on_error(opened, out)
    }

    /// Decrypts chunk `i` where it is. On failure `data` is all zeros. For a compat file this takes a copy:
    /// [`Self::open_chunk`] is faster there.
    ///
    /// # Errors
    /// As [`Self::open_chunk`].
    pub fn open_chunk_in_place(&self, i: usize, data: &mut [u8]) -> Result<(), CryptoError> {
        let opened = self.check(i, data.len()).and_then(|tag| match &self.cipher {
            TensorCipher::XSalsa20 { keys, nonce, right } => {
                let sealed = data.to_vec();
                open_xsalsa20(keys, right, &chunk_nonce(nonce, i as u64), &sealed, tag, data)
            }
            TensorCipher::Aes256Gcm { cipher, aad } => {
                cipher.open_in_place(&self.gcm_nonce(i), aad, data, tag)
            }
        });
        wipe_on_error(opened, data)
    }

    fn check(&self, i: usize, len: usize) -> Result<&Tag, CryptoError> {
        self.chunks.check(i, len)?;
        self.tags.get(i).ok_or(CryptoError::Misuse("no chunk of that index"))
    }

    fn gcm_nonce(&self, i: usize) -> GcmNonce {
        gcm_nonce(i as u64, self.chunks.is_last(i))
    }
}

/// `u64 chunk index, u32 1 for the last chunk or 0`.
pub(crate) fn gcm_nonce(i: u64, last: bool) -> GcmNonce {
    let mut nonce = [0; GCM_NONCE_LEN];
    let (index, flag) = nonce.split_at_mut(8);
    index.copy_from_slice(&i.to_le_bytes());
    flag.copy_from_slice(&u32::from(last).to_le_bytes());
    nonce
}

fn open_xsalsa20(
    keys: &[Key],
    right: &OnceLock<usize>,
    nonce: &Nonce,
    sealed: &[u8],
    tag: &Tag,
    out: &mut [u8],
) -> Result<(), CryptoError> {
    if let Some(key) = right.get().and_then(|&number| keys.get(number)) {
        return secretbox::open(key, nonce, sealed, tag, out);
    }
    for (number, key) in keys.iter().enumerate() {
        if secretbox::open(key, nonce, sealed, tag, out).is_ok() {
            right.get_or_init(|| number);
            return Ok(());
        }
    }
    Err(CryptoError::Open)
}

fn wipe_on_error(opened: Result<(), CryptoError>, out: &mut [u8]) -> Result<(), CryptoError> {
    if opened.is_err() {
        out.fill(0);
    }
    opened
}

fn malformed(why: &'static str) -> CryptoError {
    CryptoError::malformed("crypt block", why)
}
