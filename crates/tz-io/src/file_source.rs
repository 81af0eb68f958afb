//! An open `.tensors` file as a source to write from. Owns [`FileSource`].

use std::io::{self, IoSliceMut};
use std::sync::OnceLock;

use tz_crypto::TensorOpener;
use tz_format::TensorSpec;

use crate::check::HeaderFacts;
use crate::error::IoError;
use crate::file::TensorFile;
use crate::writer::TensorSource;

/// Tensors of a file, in its order, read at any offset and decrypted where the file is encrypted. Hashes of a plain
/// file are not looked at: who must not copy damage verifies first.
#[derive(Debug)]
pub struct FileSource<'a> {
    file: &'a TensorFile,
    specs: Vec<TensorSpec>,
    /// Position of each tensor in the file, and its header once it was needed.
    tensors: Vec<(usize, OnceLock<HeaderFacts>)>,
}

impl<'a> FileSource<'a> {
    /// The tensors at these positions of `file`.
    ///
    /// # Errors
    /// [`IoError::KeyMissing`], and [`IoError::Unsupported`] for a stream, which cannot be read at offsets.
    pub fn new(file: &'a TensorFile, tensors: &[usize]) -> Result<Self, IoError> {
        file.require_unlocked()?;
        if file.source().max_readers() == 1 {
            let why = "a stream cannot be read at offsets";
            return Err(IoError::Unsupported { location: file.location().to_owned(), why });
        }
        let chosen =
            tensors.iter().filter_map(|&tensor| Some((tensor, file.entries().get(tensor)?)));
        let (tensors, specs) = chosen
            .map(|(tensor, entry)| {
                let mut spec =
                    TensorSpec::new(entry.path.clone(), entry.dtype, entry.shape.clone());
                spec.kind = entry.kind;
                spec.meta = entry.is_meta();
                ((tensor, OnceLock::new()), spec)
            })
            .unzip();
        Ok(Self { file, specs, tensors })
    }

    /// Decrypts the chunks that hold `offset..offset + buf.len()`.
    fn open_at(
        &self,
        opener: &TensorOpener,
        tensor: usize,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), IoError> {
        let data_offset = self.file.entries().get(tensor).map_or(0, |entry| entry.data_offset);
        let end = offset + buf.len() as u64;
        let place =
            |at: u64, base: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        let first = place(offset / opener.chunk_size().max(1), 0);
        for i in first..opener.chunk_count() {
            let chunk = opener.chunk_range(i);
            if chunk.start >= end {
                break;
            }
            stored.resize(place(chunk.end, chunk.start), 0);
            let at = data_offset + chunk.start;
            self.file.source().read_into(at, &mut [IoSliceMut::new(&mut stored)])?;
            let (from, to) = (chunk.start.max(offset), chunk.end.min(end));
            let out = buf.get_mut(place(from, offset)..place(to, offset)).unwrap_or_default();
            let opened = if out.len() == stored.len() {
                opener.open_chunk(i, &stored, out)
            } else {
                plain.resize(stored.len(), 0);
                let opened = opener.open_chunk(i, &stored, &mut plain);
                let wanted = place(from, chunk.start)..place(to, chunk.start);
                out.copy_from_slice(plain.get(wanted).unwrap_or_default());
                opened
            };
            opened.map_err(|error| self.file.crypto(tensor, error))?;
        }
        Ok(())
    }
}

impl TensorSource for FileSource<'_> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (tensor, facts) = self.tensors.get(index).ok_or(io::ErrorKind::InvalidInput)?;
        let entry = self.file.entries().get(*tensor).ok_or(io::ErrorKind::InvalidInput)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > entry.data_len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.file.is_encrypted() {
            let at = entry.data_offset + offset;
            let read = self.file.source().read_into(at, &mut [IoSliceMut::new(buf)]);
            return read.map_err(io::Error::other);
        }
        if facts.get().is_none() {
            // Two threads may read the same header; the first to finish keeps it.
            let _ = facts.set(self.file.read_facts(*tensor).map_err(io::Error::other)?);
        }
        let opener = facts.get().and_then(|facts| facts.opener.as_ref());
        let opener = opener.ok_or(io::ErrorKind::PermissionDenied)?;
        self.open_at(opener, *tensor, offset, buf).map_err(io::Error::other)
    }
}
