//! A model's tensors as files hold them today. Owns [`Checkpoint`]: headers are read at `open`, data on demand.

mod index;
mod safetensors_file;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tz_format::{Dtype, TensorSpec};
use tz_io::TensorSource;

use crate::error::{Error, Fault, Place};

pub use safetensors_file::MAX_HEADER_LEN;

/// A tensor of a checkpoint and where its bytes stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Name in the checkpoint.
    pub name: String,
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

    /// What the writer noted about itself (`__metadata__` in safetensors), in file order.
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
}

impl Checkpoint {
    /// Opens a `.safetensors` file or a directory that holds some. In a directory, an index
    /// (`model.safetensors.index.json`) decides which files belong; without one, `model.safetensors` alone; without
    /// that, every `*.safetensors` in order of name.
    ///
    /// Index and shards must agree: a listed tensor that its shard lacks is refused, and so is a tensor of a shard
    /// that the index does not place there, because a loader that follows the index would never see it.
    ///
    /// # Errors
    /// [`Error`] names the file, and the tensor where one is concerned.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let metadata = path
            .metadata()
            .map_err(|error| Error::io(path, "open", error))?;
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
            let (file, own) = safetensors_file::open(path, files.len())?;
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
        let spec = |t: &SourceTensor| TensorSpec::new(t.name.as_str(), t.dtype, t.shape.clone());
        let specs = tensors.iter().map(spec).collect();
        Ok(Self {
            files,
            tensors,
            specs,
            by_name,
        })
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

    /// Fills `buf` from byte `offset` of a tensor's data.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has no such bytes, [`Error::Io`] where the file cannot be read.
    pub fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let out_of_range = || Error::OutOfRange {
            tensor,
            tensors: self.tensors.len(),
            offset,
            len: buf.len(),
        };
        let source = self.tensors.get(tensor).ok_or_else(out_of_range)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > source.byte_len) {
            return Err(out_of_range());
        }
        let file = self.files.get(source.file).ok_or_else(out_of_range)?;
        // `open` checked that the tensor lies within the file, so the sum cannot overflow.
        file.file
            .read_exact_at(buf, source.offset + offset)
            .map_err(|error| Error::Io {
                place: Place::tensor(&file.path, &source.name),
                action: "read",
                source: error,
            })
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
