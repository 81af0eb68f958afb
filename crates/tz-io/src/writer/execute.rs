//! Runs the jobs of a write: read, hash, write, then headers and front. Owns [`run`].

use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tz_format::{CryptInfo, Extension, HashKind, Layout, TensorEntry, TensorHash, TensorHeader};

use super::digest_tree::DigestTree;
use super::jobs::{Job, Jobs};
use super::output::Output;
use super::{TensorSource, WriteOptions};
use crate::error::IoError;
use crate::stats::{Counter, WriteStats};
use crate::workers;

/// What is known of a large tensor while its pieces are written.
#[derive(Debug)]
struct Progress {
    /// Offset, length and CRC-32 of each finished piece.
    pieces: Vec<(u64, u64, u32)>,
    left: u64,
    tree: Option<DigestTree>,
}

struct Run<'a> {
    source: &'a dyn TensorSource,
    layout: &'a Layout,
    options: &'a WriteOptions,
    output: &'a dyn Output,
    name: &'a str,
    piece_len: u64,
    /// One slot per tensor; used by tensors of several pieces.
    progress: Vec<Mutex<Option<Progress>>>,
    digests: Option<Vec<Mutex<[u8; 32]>>>,
    read: Counter,
    hash: Counter,
    write: Counter,
}

pub(crate) fn run(
    source: &dyn TensorSource,
    layout: &Layout,
    jobs: &Jobs,
    options: &WriteOptions,
    output: &dyn Output,
    name: &str,
) -> Result<WriteStats, IoError> {
    let tensors = layout.entries().len();
    let run = Run {
        source,
        layout,
        options,
        output,
        name,
        piece_len: jobs.piece_len,
        progress: (0..tensors).map(|_| Mutex::new(None)).collect(),
        digests: options.blake3.then(|| (0..tensors).map(|_| Mutex::new([0; 32])).collect()),
        read: Counter::default(),
        hash: Counter::default(),
        write: Counter::default(),
    };
    workers::for_each(jobs.list.len(), jobs.workers, &options.cancel, Vec::new, |buffer, i| {
        match jobs.list.get(i) {
            Some(Job::Run(tensors)) => run.small_tensors(tensors.clone(), buffer),
            Some(Job::Piece { tensor, data }) => run.piece(*tensor, data.clone(), buffer),
            Some(Job::Whole { tensor }) => run.whole(*tensor, buffer),
            None => Ok(()),
        }
    })?;
    run.front()?;
    Ok(WriteStats {
        file_bytes: layout.file_len(),
        tensor_bytes: layout.header().tensor_bytes,
        read: run.read.duration(),
        hash: run.hash.duration(),
        write: run.write.duration(),
        ..WriteStats::default()
    })
}

fn size(len: u64) -> usize {
    // Lengths of jobs are bounded by the piece length and a header.
    usize::try_from(len).unwrap_or(usize::MAX)
}

impl Run<'_> {
    fn entry(&self, tensor: usize) -> Result<&TensorEntry, IoError> {
        let missing = || IoError::NoSuchTensor {
            location: self.name.to_owned(),
            pattern: tensor.to_string(),
        };
        self.layout.entries().get(tensor).ok_or_else(missing)
    }

    /// Builds the image of a run of tensors and writes it in one go.
    fn small_tensors(
        &self,
        tensors: std::ops::Range<usize>,
        image: &mut Vec<u8>,
    ) -> Result<(), IoError> {
        let start = self.entry(tensors.start)?.header_offset;
        image.clear();
        for tensor in tensors.clone() {
            let entry = self.entry(tensor)?;
            let header_at = image.len();
            image.resize(header_at + size(entry.header_len()) + size(entry.data_len), 0);
            let (_, tail) = image.split_at_mut(header_at);
            let (header, data) = tail.split_at_mut(size(entry.header_len()));
            if entry.data_len > 0 {
                self.fill(tensor, entry, 0, data)?;
            }
            let (hashes, digest) = self.hash.time(|| -> Result<_, IoError> {
                let pieces = [(0, data.len() as u64, crc32fast::hash(data))];
                let digest = self.digests.as_ref().map(|_| *blake3::hash(data).as_bytes());
                Ok((self.hashes(tensor, &pieces, Some(data))?, digest))
            })?;
            header.copy_from_slice(&self.header(tensor, &hashes)?);
            self.note_digest(tensor, digest);
            if !self.output.takes_images() {
                self.output.frame(entry.header_offset, header)?;
            }
        }
        if self.output.takes_images() {
            self.write.time(|| self.output.data(start, image))?;
        }
        self.options.progress.add(image.len() as u64);
        Ok(())
    }

    fn piece(
        &self,
        tensor: usize,
        data: std::ops::Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), IoError> {
        let entry = self.entry(tensor)?;
        buffer.resize(size(data.end - data.start), 0);
        self.fill(tensor, entry, data.start, buffer)?;
        self.write.time(|| self.output.data(entry.data_offset + data.start, buffer))?;
        self.options.progress.add(buffer.len() as u64);
        let crc = self.hash.time(|| crc32fast::hash(buffer));
        let finished = self.note_piece(tensor, entry, data.start, buffer, crc)?;
        let Some(progress) = finished else {
            return Ok(());
        };
        self.finish_large(tensor, entry, &progress, None)
    }

    fn whole(&self, tensor: usize, buffer: &mut Vec<u8>) -> Result<(), IoError> {
        let entry = self.entry(tensor)?;
        let mut sha256 = Sha256::new();
        let hashed = self.hashed_header(tensor)?;
        sha256.update(&hashed);
        let mut offset = 0;
        let mut finished = None;
        while offset < entry.data_len {
            self.options.cancel.check()?;
            buffer.resize(size((entry.data_len - offset).min(self.piece_len)), 0);
            self.fill(tensor, entry, offset, buffer)?;
            self.write.time(|| self.output.data(entry.data_offset + offset, buffer))?;
            self.options.progress.add(buffer.len() as u64);
            let crc = self.hash.time(|| {
                sha256.update(&*buffer);
                crc32fast::hash(buffer)
            });
            finished = self.note_piece(tensor, entry, offset, buffer, crc)?;
            offset += buffer.len() as u64;
        }
        match finished {
            Some(progress) => {
                self.finish_large(tensor, entry, &progress, Some(sha256.finalize().into()))
            }
            None => Ok(()),
        }
    }

    fn fill(
        &self,
        tensor: usize,
        entry: &TensorEntry,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), IoError> {
        let failed = |source| IoError::Tensor { tensor: entry.path.to_string(), source };
        self.read.time(|| self.source.read_at(tensor, offset, buf)).map_err(failed)
    }

    /// Adds a finished piece of a large tensor; gives its progress back once it is whole.
    fn note_piece(
        &self,
        tensor: usize,
        entry: &TensorEntry,
        offset: u64,
        data: &[u8],
        crc: u32,
    ) -> Result<Option<Progress>, IoError> {
        let start = || Progress {
            pieces: Vec::new(),
            left: entry.data_len,
            tree: self.digests.as_ref().map(|_| DigestTree::new(entry.data_len, self.piece_len)),
        };
        let Some(slot) = self.progress.get(tensor) else {
            return Ok(None);
        };
        // Hashed outside the lock, so that the workers on one tensor do not wait for each other.
        let hash = || self.hash.time(|| DigestTree::hash(entry.data_len, offset, data));
        let value = self.digests.as_ref().map(|_| hash());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = slot.get_or_insert_with(start);
        progress.pieces.push((offset, data.len() as u64, crc));
        progress.left -= data.len() as u64;
        if let (Some(tree), Some(value)) = (&mut progress.tree, value) {
            tree.add(offset, value);
        }
        Ok(if progress.left == 0 { slot.take() } else { None })
    }

    fn finish_large(
        &self,
        tensor: usize,
        entry: &TensorEntry,
        progress: &Progress,
        sha256: Option<[u8; 32]>,
    ) -> Result<(), IoError> {
        let mut pieces = progress.pieces.clone();
        pieces.sort_unstable();
        let mut hashes = self.hashes(tensor, &pieces, None)?;
        for hash in &mut hashes {
            if let (TensorHash::Sha256(value), Some(digest)) = (hash, sha256) {
                *value = digest;
            }
        }
        self.note_digest(
            tensor,
            progress.tree.as_ref().and_then(|tree| tree.finish(entry.data_len)),
        );
        let header = self.header(tensor, &hashes)?;
        self.write.time(|| self.output.frame(entry.header_offset, &header))
    }

    /// The planned hashes of a tensor: CRC-32 from its pieces, SHA-256 from `data` where that is at hand.
    fn hashes(
        &self,
        tensor: usize,
        pieces: &[(u64, u64, u32)],
        data: Option<&[u8]>,
    ) -> Result<Vec<TensorHash>, IoError> {
        let kinds = &self.layout.options().hashes;
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let hashed = self.hashed_header(tensor)?;
        Ok(kinds
            .iter()
            .map(|kind| match kind {
                HashKind::Crc32 => {
                    let mut whole = crc32fast::Hasher::new();
                    whole.update(&hashed);
                    for &(_, len, crc) in pieces {
                        whole.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
                    }
                    TensorHash::Crc32(whole.finalize())
                }
                HashKind::Sha256 => {
                    let digest = data.map(|data| {
                        Sha256::new().chain_update(&hashed).chain_update(data).finalize()
                    });
                    TensorHash::Sha256(digest.map_or([0; 32], Into::into))
                }
            })
            .collect())
    }

    /// The header's bytes as hashes cover them.
    fn hashed_header(&self, tensor: usize) -> Result<Vec<u8>, IoError> {
        let bytes = self.header(tensor, &self.layout.zero_hashes())?;
        let flags = self.layout.header().flags;
        let header = TensorHeader::decode(&bytes, self.entry(tensor)?, flags);
        Ok(header.map_err(IoError::format(self.name))?.hashed_bytes(&bytes))
    }

    fn header(&self, tensor: usize, hashes: &[TensorHash]) -> Result<Vec<u8>, IoError> {
        let crypt: Option<CryptInfo> = self.layout.crypt_template(tensor);
        self.layout
            .encode_header(tensor, hashes, crypt.as_ref())
            .map_err(IoError::format(self.name))
    }

    fn note_digest(&self, tensor: usize, digest: Option<[u8; 32]>) {
        if let (Some(slot), Some(digest)) =
            (self.digests.as_ref().and_then(|slots| slots.get(tensor)), digest)
        {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = digest;
        }
    }

    /// Terminator, then the front with the digests: the last bytes, which make the file readable.
    fn front(&self) -> Result<(), IoError> {
        let mut extension: Extension = self.layout.options().extension.clone();
        if let Some(digests) = &self.digests {
            let digest =
                |slot: &Mutex<[u8; 32]>| *slot.lock().unwrap_or_else(PoisonError::into_inner);
            extension.blake3 = Some(digests.iter().map(digest).collect());
        }
        let front = self.layout.encode_front(&extension).map_err(IoError::format(self.name))?;
        self.write.time(|| {
            self.output.frame(self.layout.file_len() - 8, &[0; 8])?;
            self.output.frame(0, &front)
        })
    }
}
