//! What can go wrong, by what the caller can do about it. Owns [`IoError`] and [`Corruption`].

use std::fmt;
use std::io;

use thiserror::Error;
use tz_crypto::CryptoError;
use tz_format::{FormatError, Malformed};

/// Why a file could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IoError {
    /// The operating system or the network refused.
    #[error("{location}: {doing}: {source}")]
    Io {
        /// File or URI, without credentials.
        location: String,
        /// What was being done.
        doing: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The bytes are not a file that this version reads, or the tensors cannot be written as one.
    #[error("{location}: {source}")]
    Format {
        /// File or URI.
        location: String,
        /// The rule that is broken, and where.
        source: FormatError,
    },
    /// Stored hashes do not match the data of these tensors.
    #[error("{location}: {}", Corruption::list(.failures))]
    Corrupt {
        /// File or URI.
        location: String,
        /// One entry per failed check.
        failures: Vec<Corruption>,
    },
    /// The file is encrypted and no key was given.
    #[error("{location}: the file is encrypted and no key was given")]
    KeyMissing {
        /// File or URI.
        location: String,
    },
    /// A key is wrong, or encrypted data does not authenticate.
    #[error("{location}: {}{source}", .tensor.as_ref().map_or(String::new(), |name| format!("tensor {name:?}: ")))]
    Crypto {
        /// File or URI.
        location: String,
        /// Name of the tensor, where the front itself is not at fault.
        tensor: Option<String>,
        /// What the cipher says.
        source: CryptoError,
    },
    /// A tensor was asked for that the file does not have.
    #[error("{location}: no tensor matches {pattern:?}")]
    NoSuchTensor {
        /// File or URI.
        location: String,
        /// Name or glob that was asked for.
        pattern: String,
    },
    /// The work cannot be done in the memory allowed.
    #[error("{location}: {what} needs {needed} bytes, the memory limit is {limit}")]
    MemoryLimit {
        /// File or URI.
        location: String,
        /// What needs the memory.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The object was replaced while it was read: what was read so far belongs to the old one.
    #[error("{location}: the object was replaced while it was being read")]
    Changed {
        /// URI, without credentials.
        location: String,
    },
    /// The place cannot do what was asked of it.
    #[error("{location}: {why}")]
    Unsupported {
        /// File or URI.
        location: String,
        /// What cannot be done there.
        why: &'static str,
    },
    /// A tensor's data could not be read from its source, or not be taken by its consumer.
    #[error("tensor {tensor:?}: {source}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// The source's or consumer's own error.
        source: io::Error,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl IoError {
    pub(crate) fn io(location: &str, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let location = location.to_owned();
        move |source| Self::Io { location, doing, source }
    }

    pub(crate) fn format(location: &str) -> impl FnOnce(FormatError) -> Self {
        let location = location.to_owned();
        move |source| Self::Format { location, source }
    }

    pub(crate) fn crypto(location: &str, tensor: Option<String>, source: CryptoError) -> Self {
        Self::Crypto { location: location.to_owned(), tensor, source }
    }

    pub(crate) fn malformed(location: &str, malformed: Malformed) -> Self {
        Self::Format { location: location.to_owned(), source: malformed.into() }
    }
}

/// A tensor whose data does not match a stored check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Name of the tensor.
    pub tensor: String,
    /// Which check failed: `crc32`, `sha256`, `blake3` or `tag`.
    pub check: &'static str,
    /// Offset of the tensor's data in the file.
    pub data_offset: u64,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, check, data_offset } = self;
        write!(f, "tensor {tensor:?}: {check} does not match the data at offset {data_offset}")
    }
}

impl Corruption {
    fn list(failures: &[Self]) -> String {
        let shown = failures.iter().take(3).map(Self::to_string).collect::<Vec<_>>().join("; ");
        match failures.len() {
            0..=3 => shown,
            more => format!("{shown}; and {} more", more - 3),
        }
    }
}
