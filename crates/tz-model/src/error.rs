//! What can go wrong with a checkpoint. Owns [`enum@Error`], [`Place`] and [`Fault`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file and, where one is concerned, a tensor in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file or directory.
    pub path: PathBuf,
    /// Name of the tensor.
    pub tensor: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.tensor {
            Some(tensor) => write!(f, ": tensor {tensor:?}"),
            None => Ok(()),
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self { path: path.to_owned(), tensor: None }
    }
}

impl Place {
    /// A tensor of a file.
    #[must_use]
    pub fn tensor(path: &Path, name: &str) -> Self {
        Self { path: path.to_owned(), tensor: Some(name.to_owned()) }
    }
}

/// Why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; the source says why.
    #[error("{place}: cannot {action}")]
    Io {
        /// File, and tensor where one is concerned.
        place: Place,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The path holds nothing that can be read as a checkpoint.
    #[error("{}: not a checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// What was given.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The bytes break a rule of their format.
    #[error("{place}: {fault}")]
    Malformed {
        /// File, and tensor where one is concerned.
        place: Place,
        /// The rule.
        fault: Fault,
    },
    /// The content is right, but cannot be expressed here.
    #[error("{place}: {what} is not supported")]
    Unsupported {
        /// File, and tensor where one is concerned.
        place: Place,
        /// The content.
        what: String,
    },
    /// The caller asked for bytes that no tensor has.
    #[error("bytes {offset}..{offset}+{len} are not part of tensor {tensor} of {tensors}")]
    OutOfRange {
        /// Index of the tensor.
        tensor: usize,
        /// Number of tensors.
        tensors: usize,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: usize,
    },
    /// `finish` was called before every byte was written.
    #[error("{place}: {written} of {expected} bytes were written")]
    Incomplete {
        /// File and tensor.
        place: Place,
        /// Bytes that the tensor has.
        expected: u64,
        /// Bytes that were written.
        written: u64,
    },
    /// The model's `config.json` is not a configuration.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A model stands where another should go.
    #[error("{location}: there is a model already")]
    Exists {
        /// The file that was found.
        location: String,
    },
    /// A file could not be written to its place, or read from there.
    #[error(transparent)]
    Transfer(tz_io::IoError),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// The rule that a malformed checkpoint breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// A header, index or configuration is longer than any real one.
    #[error("its description is {len} bytes long, over the limit of {limit}")]
    HeaderTooLong {
        /// Length that the file states.
        len: u64,
        /// The bound in force.
        limit: u64,
    },
    /// The file ends before its content does.
    #[error("the file is truncated: it has {found} bytes and needs {expected}")]
    Truncated {
        /// Bytes that the content needs.
        expected: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// Bytes follow the last tensor.
    #[error("the file has {found} bytes, its tensors end at {expected}")]
    TrailingBytes {
        /// End of the last tensor.
        expected: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// Text is not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// Text is not the JSON that stands here.
    #[error("not the expected JSON: {0}")]
    Json(String),
    /// Two tensors have the same name.
    #[error("the name stands twice")]
    DuplicateName,
    /// Tensor data overlaps, leaves a hole, or ends before it begins.
    #[error("its data is at {begin}..{end}, the one before it ends at {expected}")]
    Misplaced {
        /// First byte, from the start of the data.
        begin: u64,
        /// End of the tensor.
        end: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// The product of the dimensions and the element size overflows.
    #[error("the shape's size overflows")]
    ShapeOverflow,
    /// The data does not have the shape's size.
    #[error("it has {found} bytes, its shape needs {expected}")]
    WrongLength {
        /// Bytes that the shape needs.
        expected: u64,
        /// Bytes that the file has for it.
        found: u64,
    },
    /// The index names a shard by something other than a plain file name.
    #[error("the index names the shard {0:?}, which is not a plain file name")]
    BadShardName(String),
    /// The index names a shard that does not exist.
    #[error("the index names the shard {0:?}, which does not exist")]
    MissingShard(String),
    /// The index places a tensor in a shard that lacks it.
    #[error("the index places it in {0:?}, which does not hold it")]
    NotInShard(String),
    /// A shard holds a tensor that the index does not place there.
    #[error("the index does not place it in this file")]
    NotInIndex,
    /// A record of a zip archive is wrong.
    #[error("zip archive at offset {offset}: {why}")]
    Zip {
        /// Place of the record.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A zip archive lacks the pickle that `torch.save` writes.
    #[error("a zip archive, but not one that torch.save wrote: it has no data.pkl")]
    NotTorch,
    /// The pickle refers to an entry that the archive lacks.
    #[error("the archive has no entry {0:?}")]
    MissingEntry(String),
    /// An opcode of a pickle is wrong or has no place in a checkpoint.
    #[error("pickle at offset {offset}: {why}")]
    Pickle {
        /// Place of the opcode.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The pickle names something that is no part of a tensor. It could run any program, so it is refused.
    #[error("the pickle names {0:?}, which is not part of a tensor, and is refused")]
    RefusedGlobal(String),
    /// The pickle's value is not a dict of tensors.
    #[error("the pickle does not hold a dict of tensors")]
    NotAStateDict,
    /// A dict has a key that is neither text nor a non-negative integer.
    #[error("a dict in the pickle has a key that is neither text nor a non-negative integer")]
    BadKey,
    /// Dicts and lists are nested too deeply or in a circle, or repeat each other beyond all measure.
    #[error("dicts and lists in the pickle are nested too deeply or too often")]
    TooNested,
    /// A tensor's last element lies beyond its storage.
    #[error("its last byte is at {end}, its storage has {len}")]
    BeyondStorage {
        /// End of the tensor.
        end: u64,
        /// Bytes of the storage.
        len: u64,
    },
    /// Two shards hold a tensor of the same name.
    #[error("{0:?} holds a tensor of the same name")]
    InTwoShards(String),
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { place: path.into(), action, source }
    }

    pub(crate) fn malformed(path: &Path, fault: Fault) -> Self {
        Self::Malformed { place: path.into(), fault }
    }

    pub(crate) fn of_tensor(path: &Path, tensor: &str, fault: Fault) -> Self {
        Self::Malformed { place: Place::tensor(path, tensor), fault }
    }

    pub(crate) fn unsupported(path: &Path, tensor: &str, what: impl Into<String>) -> Self {
        Self::Unsupported { place: Place::tensor(path, tensor), what: what.into() }
    }
}

impl From<Error> for io::Error {
    /// Keeps the system's kind, and the whole error as the source.
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::NotACheckpoint { .. } => io::ErrorKind::NotFound,
            Error::OutOfRange { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
