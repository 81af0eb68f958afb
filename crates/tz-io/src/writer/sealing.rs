//! Encrypts pieces of tensors as they are written. Owns [`Sealing`].

use std::sync::{Arc, Mutex, PoisonError};

use tz_crypto::{CryptoError, FileSealer, TensorSealer};
use tz_format::{CryptInfo, Layout, Tag};

use crate::error::IoError;

/// The sealers of the tensors of one file, each made when its first piece is.
#[derive(Debug)]
pub(crate) struct Sealing<'a> {
    file: &'a FileSealer,
    layout: &'a Layout,
    name: &'a str,
    tensors: Vec<Mutex<Option<Arc<TensorSealer>>>>,
}

impl<'a> Sealing<'a> {
    pub(crate) fn new(file: &'a FileSealer, layout: &'a Layout, name: &'a str) -> Self {
        let tensors = layout.entries().iter().map(|_| Mutex::new(None)).collect();
        Self { file, layout, name, tensors }
    }

    fn failed(&self, tensor: usize) -> impl Fn(CryptoError) -> IoError {
        let name = self.layout.entries().get(tensor).map(|entry| entry.path.to_string());
        move |error| IoError::crypto(self.name, name.clone(), error)
    }

    fn tensor(&self, tensor: usize) -> Result<Arc<TensorSealer>, IoError> {
        let slot = self.tensors.get(tensor).ok_or(CryptoError::Misuse("no such tensor"));
        let slot = slot.map_err(self.failed(tensor))?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealer) = &*slot {
            return Ok(Arc::clone(sealer));
        }
        let sealer = self.file.tensor(self.layout, tensor).map_err(self.failed(tensor))?;
        Ok(Arc::clone(slot.insert(Arc::new(sealer))))
    }

    /// Encrypts `plain`, whole chunks that begin at `offset` of the tensor, into `out`.
    pub(crate) fn seal(
        &self,
        tensor: usize,
        offset: u64,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Vec<Tag>, IoError> {
        let sealer = self.tensor(tensor)?;
        let size = sealer.chunk_size().max(1);
        let first = usize::try_from(offset / size).unwrap_or(usize::MAX);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let chunks = plain.chunks(size).zip(out.chunks_mut(size)).zip(first..);
        let seal =
            |((plain, out), i): ((&[u8], &mut [u8]), usize)| sealer.seal_chunk(i, plain, out);
        chunks.map(seal).collect::<Result<_, _>>().map_err(self.failed(tensor))
    }

    /// The crypt block of a tensor whose every chunk was sealed.
    pub(crate) fn finish(&self, tensor: usize, tags: Vec<Tag>) -> Result<CryptInfo, IoError> {
        // A tensor without data was never sealed, but has a block.
        drop(self.tensor(tensor)?);
        let slot = self.tensors.get(tensor);
        let sealer =
            slot.and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Every piece was noted after its worker let go of the sealer, so this is the last reference.
        let sealer =
            sealer.and_then(Arc::into_inner).ok_or(CryptoError::Misuse("a piece is missing"));
        sealer.and_then(|sealer| sealer.finish(tags)).map_err(self.failed(tensor))
    }

    /// Writes the metadata MAC of a sealed file.
    pub(crate) fn seal_front(&self, front: &mut [u8]) -> Result<(), IoError> {
        let Some(mac_at) = self.layout.metadata_mac_at() else { return Ok(()) };
        let sealed = self.file.seal_front(front, mac_at);
        sealed.map_err(|error| IoError::crypto(self.name, None, error))
    }
}
