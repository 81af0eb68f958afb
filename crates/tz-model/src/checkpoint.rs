//! A model's tensors as files hold them today. Owns [`Checkpoint`]: headers are read at `open`, data on demand.

mod digests;
pub(crate) mod index;
mod safetensors_file;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tz_format::{Dtype, TensorPath, TensorSpec};
use tz_io::{Cancel, TensorSource};

use crate::error::{Error, Fault, Place};
use crate::strided::Strided;
use crate::torch;
use digests::FileDigests;

pub use safetensors_file::MAX_HEADER_LEN;

/// A tensor of a checkpoint and where its bytes stand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceTensor {
    /// Name in the checkpoint; keys of nested dicts are joined with `/`.
    pub name: String,
    /// The same as keys.
    pub path: TensorPath,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes of data.
    pub byte_len: u64,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// First byte of the data, from the start of that file.
    pub offset: u64,
    /// Steps between elements along each dimension, in elements, where the data does not lie in C order: PyTorch saves
    /// views as they are. Reading gives C order all the same.
    pub strides: Option<Vec<u64>>,
}

/// One file of a checkpoint, kept open.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    byte_len: u64,
    user_metadata: Vec<(String, String)>,
}

impl SourceFile {
    pub(crate) fn new(
        path: &Path,
        file: File,
        byte_len: u64,
        user_metadata: Vec<(String, String)>,
    ) -> Self {
        Self { path: path.to_owned(), file, byte_len, user_metadata }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the whole file.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// What stands beside the tensors, in file order: `__metadata__` of a safetensors file, numbers and texts of a
    /// PyTorch file.
    #[must_use]
    pub fn user_metadata(&self) -> &[(String, String)] {
        &self.user_metadata
    }
}

/// An open checkpoint: one file, or a directory of shards.
///
/// Tensors stand in file order (by file, then by position), so reading them in order is sequential. Reads are
/// positioned, so that many threads may read at once.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<SourceFile>,
    tensors: Vec<SourceTensor>,
    specs: Vec<TensorSpec>,
    by_name: HashMap<String, usize>,
    digests: Option<FileDigests>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a file that `torch.save` wrote (`.bin`, `.pt`, `.pth`), or a directory that holds
    /// some. In a directory, an index (`model.safetensors.index.json`) decides which files belong; without one,
    /// `model.safetensors` alone; without that, every `*.safetensors` in order of name. Where there is no safetensors
    /// file at all, the same goes for `pytorch_model.bin` and PyTorch's endings.
    ///
    /// Index and shards must agree: a listed tensor that its shard lacks is refused, and so is a tensor of a shard
    /// that the index does not place there, because a loader that follows the index would never see it.
    ///
    /// # Errors
    /// [`Error`] names the file, and the tensor where one is concerned.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let metadata = path.metadata().map_err(|error| Error::io(path, "open", error))?;
        if metadata.is_dir() {
            let (paths, index) = index::discover(path)?;
            let checkpoint = Self::open_files(&paths)?;
            if let Some(index) = index {
                index.check(&checkpoint)?;
            }
            Ok(checkpoint)
        } else if metadata.is_file() {
            Self::open_files(&[path.to_owned()])
        } else {
            Err(Error::NotACheckpoint {
                path: path.to_owned(),
                reason: "neither a file nor a directory",
            })
        }
    }

    fn open_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::with_capacity(paths.len());
        let mut tensors: Vec<SourceTensor> = Vec::new();
        for path in paths {
            let (file, own) = open_file(path, files.len())?;
            files.push(file);
            tensors.extend(own);
        }
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            match by_name.entry(tensor.name.clone()) {
                Entry::Vacant(entry) => entry.insert(i),
                Entry::Occupied(entry) => {
                    let other = tensors.get(*entry.get()).and_then(|t| files.get(t.file));
                    let other = other.map_or(String::new(), |f| index::file_name(&f.path));
                    let path = files.get(tensor.file).map_or(Path::new(""), |f| &f.path);
                    let fault = Fault::InTwoShards(other);
                    return Err(Error::of_tensor(path, &tensor.name, fault));
                }
            };
        }
        let spec = |t: &SourceTensor| TensorSpec::new(t.path.clone(), t.dtype, t.shape.clone());
        let specs = tensors.iter().map(spec).collect();
        Ok(Self { files, tensors, specs, by_name, digests: None })
    }

    /// The tensors, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The same tensors as state-dict entries of a `.tensors` file.
    #[must_use]
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// The files, in the order in which tensors name them.
    #[must_use]
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Index of the tensor called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let add = |sum: u64, tensor: &SourceTensor| sum.saturating_add(tensor.byte_len);
        self.tensors.iter().fold(0, add)
    }

    /// Hashes, from now on, what is read for [`Self::file_digests`].
    pub fn digest_reads(&mut self) {
        self.digests = Some(FileDigests::new(&self.files));
    }

    /// BLAKE3 digest of every file. Bytes that nobody has read since [`Self::digest_reads`] are read now, on so many
    /// threads.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Cancelled`].
    pub fn file_digests(&self, threads: usize, cancel: &Cancel) -> Result<Vec<[u8; 32]>, Error> {
        match &self.digests {
            Some(digests) => digests.finish(&self.files, threads, cancel),
            None => FileDigests::new(&self.files).finish(&self.files, threads, cancel),
        }
    }

    /// Fills `buf` from byte `offset` of a tensor's data.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has no such bytes, [`Error::Io`] where the file cannot be read.
    pub fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let out_of_range =
            || Error::OutOfRange { tensor, tensors: self.tensors.len(), offset, len: buf.len() };
        let source = self.tensors.get(tensor).ok_or_else(out_of_range)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > source.byte_len) {
            return Err(out_of_range());
        }
        let file = self.files.get(source.file).ok_or_else(out_of_range)?;
        let fetch = |from: u64, buf: &mut [u8]| {
            file.file.read_exact_at(buf, from).map_err(|error| Error::Io {
                place: Place::tensor(&file.path, &source.name),
                action: "read",
                source: error,
            })?;
            if let Some(digests) = &self.digests {
                digests.saw(source.file, from, buf);
            }
            Ok(())
        };
        // `open` checked that every element lies within the file, so no sum can overflow.
        let Some(strides) = &source.strides else {
            return fetch(source.offset + offset, buf);
        };
        let view = Strided {
            first: 0,
            shape: source.shape.clone(),
            strides: strides.clone(),
            element: source.dtype.size(),
        };
        view.read(offset, buf, &|from, buf| fetch(source.offset + from, buf))
    }
}

/// Opens a file of either kind; its first bytes decide, not its name.
fn open_file(path: &Path, index: usize) -> Result<(SourceFile, Vec<SourceTensor>), Error> {
    let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    match torch::sniff(path, &file)? {
        torch::Looks::Zip => torch::open(path, file, index),
        torch::Looks::OldPickle => Err(torch::refuse_old(path)),
        torch::Looks::Other => safetensors_file::open(path, file, index),
    }
}

impl TensorSource for Checkpoint {
    fn specs(&self) -> &[TensorSpec] {
        self.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Ok(Self::read_at(self, index, offset, buf)?)
    }
}
