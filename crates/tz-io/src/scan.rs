//! Walks tensors in order, one thread a tensor: digests and full verification. Owns [`Visitor`] and [`scan`].

mod windows;

use std::io::IoSliceMut;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tz_crypto::CryptoError;
use tz_format::{ByteOrder, Dtype, TensorEntry, TensorHash};

use crate::check::{HeaderFacts, corruption};
use crate::decrypt;
use crate::error::{Corruption, IoError};
use crate::file::TensorFile;
use crate::front;
use crate::options::ReadOptions;
use crate::source::{RangeRead, Until};
use crate::workers;
use windows::Windows;

/// Bytes read at a time: what stays in cache between the read and the hash.
const SCAN_PIECE: u64 = 1 << 20;

/// The same of a source of the caller's.
const FOREIGN_PIECE: u64 = 4 << 20;

/// Room in a window for a header beside a piece.
const WINDOW_SLACK: u64 = 64 << 10;

/// Sees the plaintext of one tensor, front to back.
pub trait Visitor: Send {
    /// The next bytes.
    fn update(&mut self, data: &[u8]);

    /// The same bytes as the file stores them: what encryption made of them.
    fn stored(&mut self, _data: &[u8]) {}
}

/// Digest of a tensor's plaintext, as `tz-cli checksum` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// BLAKE3, 32 bytes.
    Blake3,
    /// SHA-256.
    Sha256,
    /// CRC-32 with zlib's polynomial.
    Crc32,
}

/// A digest in progress.
#[derive(Debug, Clone)]
pub enum Digester {
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
    /// SHA-256.
    Sha256(Sha256),
    /// CRC-32.
    Crc32(crc32fast::Hasher),
}

impl Algorithm {
    /// Starts a digest.
    #[must_use]
    pub fn digester(self) -> Digester {
        match self {
            Self::Blake3 => Digester::Blake3(Box::default()),
            Self::Sha256 => Digester::Sha256(Sha256::new()),
            Self::Crc32 => Digester::Crc32(crc32fast::Hasher::new()),
        }
    }
}

impl Digester {
    /// Lower-case hexadecimal of the digest.
    #[must_use]
    pub fn to_hex(self) -> String {
        match self {
            Self::Blake3(hasher) => hasher.finalize().to_hex().to_string(),
            Self::Sha256(hasher) => tz_format::hex(&hasher.finalize()),
            Self::Crc32(hasher) => format!("{:08x}", hasher.finalize()),
        }
    }
}

impl Visitor for Digester {
    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(data);
            }
            Self::Sha256(hasher) => Sha256::update(hasher, data),
            Self::Crc32(hasher) => hasher.update(data),
        }
    }
}

/// A digest of elements in little-endian order, whatever their order in the file: equal tensors have equal digests in
/// every format.
#[derive(Debug)]
pub(crate) struct ElementDigest {
    digester: Digester,
    /// Length of the words to turn around, in an old big-endian file.
    swap: Option<usize>,
    turned: Vec<u8>,
}

impl ElementDigest {
    pub(crate) fn new(algorithm: Algorithm, dtype: Dtype) -> Self {
        let big = dtype.byte_order() == ByteOrder::Big;
        let word = usize::try_from(dtype.word_size()).ok().filter(|&word| big && word > 1);
        Self { digester: algorithm.digester(), swap: word, turned: Vec::new() }
    }

    pub(crate) fn to_hex(&self) -> String {
        self.digester.clone().to_hex()
    }
}

impl Visitor for ElementDigest {
    fn update(&mut self, data: &[u8]) {
        let Some(word) = self.swap else { return self.digester.update(data) };
        // Pieces end at multiples of 64 bytes or with the tensor, so no word is split.
        self.turned.clear();
        self.turned.extend_from_slice(data);
        self.turned.chunks_mut(word).for_each(<[u8]>::reverse);
        self.digester.update(&self.turned);
    }
}

/// Shows every one of `tensors` to a visitor of its own, several at once; gives the visitors in the same order.
/// Meta tensors are shown as the zeros that they load as.
pub(crate) fn scan<V: Visitor>(
    file: &TensorFile,
    tensors: &[usize],
    options: &ReadOptions,
    start: impl Fn(usize, &HeaderFacts) -> V + Sync,
) -> Result<Vec<V>, IoError> {
    walk(file, tensors, options, true, start, |_, error| Err(error))
}

fn walk<V: Visitor>(
    file: &TensorFile,
    tensors: &[usize],
    options: &ReadOptions,
    meta_as_zeros: bool,
    start: impl Fn(usize, &HeaderFacts) -> V + Sync,
    on_error: impl Fn(&mut V, IoError) -> Result<(), IoError> + Sync,
) -> Result<Vec<V>, IoError> {
    let done: Vec<Mutex<Option<V>>> = tensors.iter().map(|_| Mutex::new(None)).collect();
    let mut threads = options.readers_for(file.source(), tensors.len());
    let windows;
    let until = Until::new(file.source(), &options.cancel);
    let source: &dyn RangeRead = if file.source().plan_options().aligned {
        let limit = options.memory_limit.unwrap_or_else(crate::default_staging_bytes);
        let longest = (file.source().plan_options().piece_len + WINDOW_SLACK).min(limit / 2);
        // Each thread keeps one window busy, and may leave another half read.
        threads = threads.min(usize::try_from(limit / (2 * longest.max(1))).unwrap_or(1)).max(1);
        windows = Windows::new(file, &until, tensors, longest)?;
        &windows
    } else {
        &until
    };
    workers::for_each(
        tensors.len(),
        threads,
        &options.cancel,
        Vec::new,
        |buffer: &mut Vec<u8>, i| {
            let Some((tensor, entry)) =
                tensors.get(i).and_then(|&t| Some((t, file.entries().get(t)?)))
            else {
                return Ok(());
            };
            let header = front::read_header(source, entry)?;
            let facts = file.facts(tensor, &header)?;
            let mut visitor = start(tensor, &facts);
            let seen = if file.is_encrypted() && entry.data_len > 0 {
                let show = |_, stored: &[u8], plain: &[u8]| {
                    visitor.stored(stored);
                    visitor.update(plain);
                    options.progress.add(plain.len() as u64);
                };
                decrypt::each_sealed_chunk(file, source, (tensor, &facts), &options.cancel, show)
            } else {
                read_in_order(source, entry, options, meta_as_zeros, buffer, &mut visitor)
            };
            seen.or_else(|error| on_error(&mut visitor, error))?;
            if let Some(slot) = done.get(i) {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(visitor);
            }
            Ok(())
        },
    )?;
    if file.is_encrypted() {
        file.check_stream_end(tensors)?;
    }
    Ok(done
        .into_iter()
        .filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect())
}

fn read_in_order(
    source: &dyn RangeRead,
    entry: &TensorEntry,
    options: &ReadOptions,
    meta_as_zeros: bool,
    buffer: &mut Vec<u8>,
    visitor: &mut impl Visitor,
) -> Result<(), IoError> {
    let len = if meta_as_zeros { entry.byte_len() } else { entry.data_len };
    let mut offset = 0;
    // A read that is not of a local file must pay for itself.
    let longest = if source.local_file().is_none() { FOREIGN_PIECE } else { SCAN_PIECE };
    buffer.clear();
    buffer.resize(usize::try_from(len.min(longest)).unwrap_or(0), 0);
    while offset < len {
        options.cancel.check()?;
        let step = (len - offset).min(longest);
        let piece =
            usize::try_from(step).ok().and_then(|step| buffer.get_mut(..step)).unwrap_or_default();
        if entry.data_len > 0 {
            source.read_into(entry.data_offset + offset, &mut [IoSliceMut::new(piece)])?;
        }
        visitor.stored(piece);
        visitor.update(piece);
        options.progress.add(step);
        offset += step;
    }
    Ok(())
}

/// Every stored hash of one tensor, in progress.
struct HashCheck {
    hashes: Vec<(TensorHash, Digester)>,
    blake3: Option<([u8; 32], Box<blake3::Hasher>)>,
    /// A chunk did not authenticate, so there is no plaintext to hash.
    tag_differs: bool,
}

impl Visitor for HashCheck {
    fn update(&mut self, data: &[u8]) {
        for (_, digester) in &mut self.hashes {
            digester.update(data);
        }
    }

    fn stored(&mut self, data: &[u8]) {
        if let Some((_, hasher)) = &mut self.blake3 {
            hasher.update(data);
        }
    }
}

impl HashCheck {
    fn new(facts: &HeaderFacts, digest: Option<[u8; 32]>) -> Self {
        let start = |hash: &TensorHash| {
            let algorithm = match hash {
                TensorHash::Crc32(_) => Algorithm::Crc32,
                TensorHash::Sha256(_) => Algorithm::Sha256,
            };
            let mut digester = algorithm.digester();
            digester.update(&facts.hashed);
            (*hash, digester)
        };
        let hashes = facts.header.hashes.iter().map(start).collect();
        Self { hashes, blake3: digest.map(|digest| (digest, Box::default())), tag_differs: false }
    }

    /// Names of the checks that failed.
    fn failed(self) -> Vec<&'static str> {
        if self.tag_differs {
            return vec!["tag"];
        }
        let mut failed = Vec::new();
        for (stored, digester) in self.hashes {
            if stored.to_hex() != digester.to_hex() {
                failed.push(match stored {
                    TensorHash::Crc32(_) => "crc32",
                    TensorHash::Sha256(_) => "sha256",
                });
            }
        }
        if self.blake3.is_some_and(|(stored, hasher)| *hasher.finalize().as_bytes() != stored) {
            failed.push("blake3");
        }
        failed
    }
}

/// Compares `tensors` with every hash that the file stores of them; counts those without any.
pub(crate) fn verify(
    file: &TensorFile,
    tensors: &[usize],
    options: &ReadOptions,
) -> Result<(Vec<Corruption>, usize), IoError> {
    let digests = file.front().extension.blake3.as_deref();
    let start = |tensor: usize, facts: &HeaderFacts| {
        HashCheck::new(facts, digests.and_then(|digests| digests.get(tensor)).copied())
    };
    let on_error = |check: &mut HashCheck, error| match error {
        IoError::Crypto { source: CryptoError::Open, .. } => {
            check.tag_differs = true;
            Ok(())
        }
        error => Err(error),
    };
    let checked = walk(file, tensors, options, false, start, on_error)?;
    // A wrong key looks like data that was altered, but everywhere.
    let with_data =
        |&&tensor: &&usize| file.entries().get(tensor).is_some_and(|entry| entry.data_len > 0);
    let wrong = checked.iter().filter(|check| check.tag_differs).count();
    if wrong > 0 && wrong == tensors.iter().filter(with_data).count() {
        return Err(IoError::crypto(file.location(), None, CryptoError::Open));
    }
    let is_bare = |check: &&HashCheck| check.hashes.is_empty() && check.blake3.is_none();
    let unhashed = checked.iter().filter(is_bare).count();
    let failures = tensors.iter().zip(checked).flat_map(|(&tensor, check)| {
        let entry = file.entries().get(tensor);
        check.failed().into_iter().filter_map(move |check| Some(corruption(entry?, check)))
    });
    Ok((failures.collect(), unhashed))
}
