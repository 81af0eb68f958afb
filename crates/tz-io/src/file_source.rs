//! An open `.tensors` file as a source to write from. Owns [`FileSource`].

use std::io;

use tz_format::TensorSpec;

use crate::error::IoError;
use crate::file::TensorFile;
use crate::writer::TensorSource;

/// Tensors of a file, in its order, read at any offset and decrypted where the file is encrypted. Hashes of a plain
/// file are not looked at: who must not copy damage verifies first.
#[derive(Debug)]
pub struct FileSource<'a> {
    file: &'a TensorFile,
    specs: Vec<TensorSpec>,
    /// Position of each tensor in the file.
    tensors: Vec<usize>,
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
                (tensor, spec)
            })
            .unzip();
        Ok(Self { file, specs, tensors })
    }
}

impl TensorSource for FileSource<'_> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let tensor = self.tensors.get(index).ok_or(io::ErrorKind::InvalidInput)?;
        self.file.read_at(*tensor, offset, buf).map_err(io::Error::other)
    }
}
