//! What can go wrong with an adapter. Owns [`enum@Error`].

use std::io;
use std::path::Path;

use thiserror::Error;
use tz_io::IoError;

use crate::refusal::Refusal;

/// Why an adapter cannot be read, checked or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder lacks a file that every adapter has.
    #[error("{location}: not an adapter: {reason}")]
    NotAnAdapter {
        /// File or folder.
        location: String,
        /// What is missing.
        reason: &'static str,
    },
    /// A JSON file is not the configuration that it should be.
    #[error("{location}: {reason}")]
    Config {
        /// The file.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// vLLM would not take the adapter, or silently compute something else with it.
    #[error("{location}: {}", Refusal::list(.refusals))]
    Refused {
        /// The adapter.
        location: String,
        /// Everything that is wrong, the configuration first, then the tensors in file order. Never empty.
        refusals: Vec<Refusal>,
    },
    /// The safetensors header that a packed adapter carries does not describe its tensors.
    #[error("{location}: the safetensors header kept in the file {reason}")]
    Header {
        /// The packed file.
        location: String,
        /// In what they differ.
        reason: &'static str,
    },
    /// A `.tensors` file or a place cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A safetensors or PyTorch file cannot be read.
    #[error(transparent)]
    Checkpoint(Box<tz_model::Error>),
}

impl From<tz_model::Error> for Error {
    fn from(error: tz_model::Error) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl Error {
    /// A refusal of the operating system, in the words of `tz-io`.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let location = path.display().to_string();
        move |source| Self::Io(IoError::Io { location, doing, source })
    }
}
