//! Why an id does not become a directory. Owns [`HubError`]; no message holds a token or a signed address.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an id does not become a directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a directory nor an id.
    #[error("{id:?} is neither a directory nor a Hugging Face id (name or organisation/name)")]
    NotAnId {
        /// What was given.
        id: String,
    },
    /// The revision is no name of a branch, tag or commit.
    #[error("{id}: {revision:?} is no name of a branch, tag or commit")]
    NotARevision {
        /// The model.
        id: String,
        /// What was given.
        revision: String,
    },
    /// Nothing says where the cache is.
    #[error("no folder for downloaded models: set HF_HOME")]
    NoCache,
    /// The hub has no such model, revision or file.
    #[error("{id}: {endpoint} has no such model or no revision {revision:?}")]
    NotFound {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
        /// Who was asked.
        endpoint: String,
    },
    /// The hub refuses: the model is private or gated, or does not exist (to strangers the hub says the same).
    #[error(
        "{id}: {endpoint} refuses access ({status}): {}",
        if *with_token {
            "the token is not valid or has no access to it (gated models must be asked for on their page)"
        } else {
            "it is private, gated or misspelt: set HF_TOKEN"
        }
    )]
    Refused {
        /// The model.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The network is off and the cache lacks files of the model.
    #[error(
        "{id}: offline, and revision {revision:?} is not whole in {}: unset HF_HUB_OFFLINE to download it",
        cache.display()
    )]
    Offline {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub cannot be reached, or falls silent.
    #[error("{endpoint} cannot be reached: {why}")]
    Unreachable {
        /// Who was asked.
        endpoint: String,
        /// The last cause.
        why: String,
    },
    /// The hub answers with an error of its own.
    #[error("{id}: {endpoint} answers {status}")]
    Server {
        /// The model.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// The HTTP status.
        status: u16,
    },
    /// What the hub says is not what a hub says.
    #[error("{id}: {endpoint}: {why}")]
    Protocol {
        /// The model.
        id: String,
        /// Who was asked.
        endpoint: String,
        /// What is wrong or missing.
        why: String,
    },
    /// A file did not arrive as the hub describes it; nothing of it was kept.
    #[error("{id}: {file}: {damage}")]
    Damaged {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// How it differs.
        damage: Damage,
    },
    /// The model has no file that could be its weights.
    #[error("{id}: revision {revision:?} holds no {wanted}")]
    NoWeights {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The operating system refused; the source says why.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The index of the weights is not one.
    #[error(transparent)]
    Index(#[from] crate::Error),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// How a download differs from what the hub describes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// The transfer ended early, again after every further try.
    #[error("{found} of {expected} bytes came: {why}")]
    Truncated {
        /// Bytes that came.
        found: u64,
        /// Bytes that the hub states.
        expected: u64,
        /// The last cause.
        why: String,
    },
    /// More bytes came than the hub states.
    #[error("more than its {expected} bytes came")]
    TooLong {
        /// Bytes that the hub states.
        expected: u64,
    },
    /// The bytes are not those that the hub names.
    #[error("its SHA-256 is not the one that the hub states")]
    Digest,
}

impl HubError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}
