//! Runs the jobs of a write: read, hash, encrypt, write, then headers and front. Owns [`run`].

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tz_format::{Extension, HashKind, Layout, Tag, TensorEntry, TensorHash, TensorHeader};

use super::digest_tree::DigestTree;
use super::jobs::{Job, Jobs};
use super::output::Output;
use super::sealing::Sealing;
use super::{TensorSource, WriteOptions};
use crate::error::IoError;
use crate::stats::{Counter, WriteStats};
use crate::workers;

/// What a header says of the data before it.
#[derive(Debug, Default)]
struct Sums {
    /// Offset, length and CRC-32 of each piece of plaintext.
    pieces: Vec<(u64, u64, u32)>,
    /// SHA-256 of hashed header and plaintext, where it is wanted.
    sha256: Option<[u8; 32]>,
    /// BLAKE3 of the stored data, where it is wanted.
    digest: Option<[u8; 32]>,
    /// One tag per chunk, in an encrypted file.
    tags: Vec<Tag>,
}

/// What is known of a large tensor while several workers write its pieces.
#[derive(Debug)]
struct Progress {
    left: u64,
    pieces: Vec<(u64, u64, u32)>,
    tags: Vec<(u64, Vec<Tag>)>,
    tree: Option<DigestTree>,
}

/// Memory of one worker.
#[derive(Debug, Default)]
struct Buffers {
    plain: Vec<u8>,
    /// Ciphertext, or the image of a run.
    stored: Vec<u8>,
}

struct Run<'a> {
    source: &'a dyn TensorSource,
    layout: &'a Layout,
    options: &'a WriteOptions,
    output: &'a dyn Output,
    name: &'a str,
    piece_len: u64,
    sealing: Option<Sealing<'a>>,
    /// One slot per tensor; used by tensors of several pieces.
    progress: Vec<Mutex<Option<Progress>>>,
    digests: Option<Vec<Mutex<[u8; 32]>>>,
    read: Counter,
    hash: Counter,
    encrypt: Counter,
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
    let with_digests = layout.options().extension.blake3.is_some();
    let run = Run {
        source,
        layout,
        options,
        output,
        name,
        piece_len: jobs.piece_len,
        sealing: options.seal.as_ref().map(|sealer| Sealing::new(sealer, layout, name)),
        progress: (0..tensors).map(|_| Mutex::new(None)).collect(),
        digests: with_digests.then(|| (0..tensors).map(|_| Mutex::new([0; 32])).collect()),
        read: Counter::default(),
        hash: Counter::default(),
        encrypt: Counter::default(),
        write: Counter::default(),
    };
    let cancel = &options.cancel;
    workers::for_each(jobs.list.len(), jobs.workers, cancel, Buffers::default, |buffers, i| {
        match jobs.list.get(i) {
            Some(Job::Run(tensors)) => run.small_tensors(tensors.clone(), buffers),
            Some(Job::Piece { tensor, data }) => run.piece(*tensor, data.clone(), buffers),
            Some(Job::Whole { tensor }) => run.whole(*tensor, buffers),
            None => Ok(()),
        }
    })?;
    run.front()?;
    Ok(WriteStats {
        file_bytes: layout.file_len(),
        tensor_bytes: layout.header().tensor_bytes,
        read: run.read.duration(),
        hash: run.hash.duration(),
        encrypt: run.encrypt.duration(),
        write: run.write.duration(),
        ..WriteStats::default()
    })
}

/// Lengths of jobs are bounded by the piece length and a header.
fn size(len: u64) -> usize {
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

    fn wants(&self, kind: HashKind) -> bool {
        self.layout.options().hashes.contains(&kind)
    }

    /// Builds the image of a run of tensors and writes it in one go.
    fn small_tensors(&self, tensors: Range<usize>, buffers: &mut Buffers) -> Result<(), IoError> {
        let start = self.entry(tensors.start)?.header_offset;
        let Buffers { plain, stored: image } = buffers;
        image.clear();
        for tensor in tensors {
            let entry = self.entry(tensor)?;
            let header_at = image.len();
            let header_len = size(entry.header_len());
            image.resize(header_at + header_len + size(entry.data_len), 0);
            let (header, data) = image.split_at_mut(header_at).1.split_at_mut(header_len);
            let mut sums = Sums::default();
            if let Some(sealing) = &self.sealing {
                plain.resize(data.len(), 0);
                self.fill(tensor, 0, plain)?;
                sums.tags = self.encrypt.time(|| sealing.seal(tensor, 0, plain, data))?;
            } else {
                self.fill(tensor, 0, data)?;
            }
            let plain: &[u8] = if self.sealing.is_some() { plain } else { data };
            self.hash.time(|| -> Result<(), IoError> {
                sums.pieces.push(self.crc(0, plain));
                if self.wants(HashKind::Sha256) {
                    sums.sha256 = Some(self.sha256(tensor)?.chain_update(plain).finalize().into());
                }
                sums.digest = self.digests.as_ref().map(|_| *blake3::hash(data).as_bytes());
                Ok(())
            })?;
            header.copy_from_slice(&self.header(tensor, sums)?);
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

    /// Writes one piece of a large tensor; whoever writes the last one adds the header.
    fn piece(&self, tensor: usize, data: Range<u64>, buffers: &mut Buffers) -> Result<(), IoError> {
        let entry = self.entry(tensor)?;
        let tags = self.copy(tensor, data.clone(), buffers)?;
        let stored = self.stored(buffers);
        let (crc, value) = self.hash.time(|| {
            let value = || DigestTree::hash(entry.data_len, data.start, stored);
            (self.crc(data.start, &buffers.plain), self.digests.as_ref().map(|_| value()))
        });
        let done = {
            let Some(slot) = self.progress.get(tensor) else { return Ok(()) };
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let progress = slot.get_or_insert_with(|| Progress {
                left: entry.data_len,
                pieces: Vec::new(),
                tags: Vec::new(),
                tree: value.map(|_| DigestTree::new(entry.data_len, self.piece_len)),
            });
            progress.left -= data.end - data.start;
            progress.pieces.push(crc);
            progress.tags.push((data.start, tags));
            if let (Some(tree), Some(value)) = (&mut progress.tree, value) {
                tree.add(data.start, value);
            }
            if progress.left == 0 { slot.take() } else { None }
        };
        let Some(Progress { mut pieces, mut tags, tree, .. }) = done else { return Ok(()) };
        pieces.sort_unstable();
        tags.sort_unstable_by_key(|(offset, _)| *offset);
        let digest = tree.and_then(|tree| tree.finish(entry.data_len));
        let tags = tags.into_iter().flat_map(|(_, tags)| tags).collect();
        self.finish(tensor, entry, Sums { pieces, sha256: None, digest, tags })
    }

    /// Writes a large tensor front to back, for hashes that must see it in order.
    fn whole(&self, tensor: usize, buffers: &mut Buffers) -> Result<(), IoError> {
        let entry = self.entry(tensor)?;
        let mut sums = Sums::default();
        let mut sha256 =
            if self.wants(HashKind::Sha256) { Some(self.sha256(tensor)?) } else { None };
        let mut digest = self.digests.as_ref().map(|_| blake3::Hasher::new());
        let mut offset = 0;
        while offset < entry.data_len {
            self.options.cancel.check()?;
            let end = entry.data_len.min(offset + self.piece_len);
            sums.tags.extend(self.copy(tensor, offset..end, buffers)?);
            self.hash.time(|| {
                sums.pieces.push(self.crc(offset, &buffers.plain));
                if let Some(sha256) = &mut sha256 {
                    sha256.update(&buffers.plain);
                }
                if let Some(digest) = &mut digest {
                    digest.update(self.stored(buffers));
                }
            });
            offset = end;
        }
        sums.sha256 = sha256.map(|sha256| sha256.finalize().into());
        sums.digest = digest.map(|digest| *digest.finalize().as_bytes());
        self.finish(tensor, entry, sums)
    }

    /// Reads a range of a tensor, encrypts it where that is wanted, and writes it.
    fn copy(
        &self,
        tensor: usize,
        data: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<Vec<Tag>, IoError> {
        let entry = self.entry(tensor)?;
        let len = size(data.end - data.start);
        buffers.plain.resize(len, 0);
        self.fill(tensor, data.start, &mut buffers.plain)?;
        let mut tags = Vec::new();
        if let Some(sealing) = &self.sealing {
            let Buffers { plain, stored } = buffers;
            stored.resize(len, 0);
            tags = self.encrypt.time(|| sealing.seal(tensor, data.start, plain, stored))?;
        }
        let stored = self.stored(buffers);
        self.write.time(|| self.output.data(entry.data_offset + data.start, stored))?;
        self.options.progress.add(len as u64);
        Ok(tags)
    }

    fn stored<'b>(&self, buffers: &'b Buffers) -> &'b [u8] {
        if self.sealing.is_some() { &buffers.stored } else { &buffers.plain }
    }

    fn fill(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        if buf.is_empty() {
            return Ok(());
        }
        let name = || self.entry(tensor).map_or_else(|_| String::new(), |e| e.path.to_string());
        let failed = |source| IoError::Tensor { tensor: name(), source };
        self.read.time(|| self.source.read_at(tensor, offset, buf)).map_err(failed)
    }

    fn crc(&self, offset: u64, plain: &[u8]) -> (u64, u64, u32) {
        let crc = if self.wants(HashKind::Crc32) { crc32fast::hash(plain) } else { 0 };
        (offset, plain.len() as u64, crc)
    }

    /// A SHA-256 that has seen the header.
    fn sha256(&self, tensor: usize) -> Result<Sha256, IoError> {
        Ok(Sha256::new().chain_update(self.hashed_header(tensor)?))
    }

    fn finish(&self, tensor: usize, entry: &TensorEntry, sums: Sums) -> Result<(), IoError> {
        let header = self.header(tensor, sums)?;
        self.write.time(|| self.output.frame(entry.header_offset, &header))
    }

    /// The final header of a tensor; notes its digest for the front.
    fn header(&self, tensor: usize, sums: Sums) -> Result<Vec<u8>, IoError> {
        let Sums { pieces, sha256, digest, tags } = sums;
        let mut hashes = self.layout.zero_hashes();
        for hash in &mut hashes {
            match hash {
                TensorHash::Crc32(value) => {
                    let mut whole = crc32fast::Hasher::new();
                    whole.update(&self.hashed_header(tensor)?);
                    for &(_, len, crc) in &pieces {
                        whole.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
                    }
                    *value = whole.finalize();
                }
                TensorHash::Sha256(value) => *value = sha256.unwrap_or_default(),
            }
        }
        if let (Some(slot), Some(digest)) =
            (self.digests.as_ref().and_then(|slots| slots.get(tensor)), digest)
        {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = digest;
        }
        let crypt = match &self.sealing {
            Some(sealing) => Some(sealing.finish(tensor, tags)?),
            None => None,
        };
        let header = self.layout.encode_header(tensor, &hashes, crypt.as_ref());
        header.map_err(IoError::format(self.name))
    }

    /// The header's bytes as hashes cover them: neither hash values nor the crypt block count.
    fn hashed_header(&self, tensor: usize) -> Result<Vec<u8>, IoError> {
        let template = self.layout.crypt_template(tensor);
        let hashes = self.layout.zero_hashes();
        let bytes = self.layout.encode_header(tensor, &hashes, template.as_ref());
        let bytes = bytes.map_err(IoError::format(self.name))?;
        let header = TensorHeader::decode(&bytes, self.entry(tensor)?, self.layout.header().flags);
        Ok(header.map_err(IoError::format(self.name))?.hashed_bytes(&bytes))
    }

    /// Terminator, then the front with digests and MAC: the last bytes, which make the file readable.
    fn front(&self) -> Result<(), IoError> {
        let mut extension: Extension = self.layout.options().extension.clone();
        if let Some(digests) = &self.digests {
            let digest =
                |slot: &Mutex<[u8; 32]>| *slot.lock().unwrap_or_else(PoisonError::into_inner);
            extension.blake3 = Some(digests.iter().map(digest).collect());
        }
        let front = self.layout.encode_front(&extension);
        let mut front = front.map_err(IoError::format(self.name))?;
        if let Some(sealing) = &self.sealing {
            sealing.seal_front(&mut front)?;
        }
        self.write.time(|| {
            self.output.frame(self.layout.file_len() - 8, &[0; 8])?;
            self.output.frame(0, &front)
        })
    }
}
