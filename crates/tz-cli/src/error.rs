//! What went wrong, for a person: one line that names the place, one that says what to try. Owns [`Failure`].

mod gpu;

use std::io::{self, ErrorKind};
use std::time::Duration;

use tz_crypto::{CryptoError, ErrorClass};
use tz_format::FormatError;
use tz_io::IoError;
use tz_model::Error as ModelError;

use crate::exit::Exit;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The part of the program that refused, as messages name it.
    pub(crate) layer: &'static str,
    pub(crate) message: String,
    /// File or URI.
    pub(crate) location: Option<String>,
    /// What to try.
    pub(crate) hint: String,
}

impl Failure {
    fn new(exit: Exit, layer: &'static str, message: impl Into<String>, hint: &str) -> Self {
        let (message, hint) = (message.into(), hint.to_owned());
        Self { exit, layer, message, location: None, hint }
    }

    /// The command line asks for something that cannot be done.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(
            Exit::Usage,
            "usage",
            message,
            "`tz-cli COMMAND --help` shows what a command takes",
        )
    }

    /// The operating system refused.
    pub(crate) fn io(location: &str, doing: &str, error: &io::Error) -> Self {
        let message = format!("{location}: {doing}: {error}");
        Self::new(Exit::Io, "io", message, hint_at(location, error)).at(location)
    }

    /// A key is missing, wrong or unusable.
    pub(crate) fn key(message: impl Into<String>) -> Self {
        Self::new(Exit::Key, "key", message, KEY_HINT)
    }

    /// The content is right but cannot be expressed where it should go.
    pub(crate) fn unsupported(location: &str, what: &str, hint: &str) -> Self {
        let message = format!("{location}: {what}");
        Self::new(Exit::Malformed, "format", message, hint).at(location)
    }

    /// Standard output does not take what it is given. A closed pipe is how readers say that they have enough.
    pub(crate) fn stdout(error: io::Error) -> Self {
        let mut failure = Self::io("standard output", "write", &error);
        if error.kind() == ErrorKind::BrokenPipe {
            failure.exit = Exit::Done;
        }
        failure
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Exit::Interrupted, "cancelled", "the work was cancelled", "run it again")
    }

    /// The whole command took too long.
    pub(crate) fn deadline(deadline: Duration) -> Self {
        let message = format!("the command did not end within the deadline of {deadline:?}");
        Self::new(Exit::Io, "deadline", message, "raise --deadline, or leave it out")
    }

    #[must_use]
    pub(crate) fn at(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }
}

const KEY_HINT: &str = "--keyfile FILE or --passphrase-file FILE, as the file was encrypted";

/// What to try where this place refused.
fn hint_at(location: &str, error: &io::Error) -> &'static str {
    match location.split_once("://") {
        Some((scheme, _)) => remote_hint(scheme, error.kind()),
        None => io_hint(error),
    }
}

fn remote_hint(scheme: &str, kind: ErrorKind) -> &'static str {
    match (kind, scheme) {
        (ErrorKind::NotFound, "http" | "https") => {
            "check the address: the server has nothing there"
        }
        (ErrorKind::NotFound, _) => "check bucket and key: there is no such object",
        (ErrorKind::PermissionDenied, "s3") => {
            "check the keys, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws; --s3-anonymous reads what is public"
        }
        (ErrorKind::PermissionDenied, _) => "check that your credentials allow it",
        (ErrorKind::AlreadyExists, _) => EXISTS_HINT,
        (_, "s3") => "check --s3-endpoint, --s3-region and the network, then try again",
        _ => "check the address and the network, then try again",
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "check the path; a file is made only in a folder that exists",
        ErrorKind::PermissionDenied => "check who may read and write the path",
        ErrorKind::ReadOnlyFilesystem => "write elsewhere: nothing can be changed there",
        ErrorKind::AlreadyExists => EXISTS_HINT,
        ErrorKind::IsADirectory => "give the path of a file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space, or write elsewhere",
        ErrorKind::WouldBlock => "run it again when the other process has ended",
        ErrorKind::OutOfMemory => "--memory-limit SIZE works in less memory",
        ErrorKind::UnexpectedEof => "the data was cut short: fetch or write it again",
        _ => "try again; if it stays, the device or file system has the fault",
    }
}

const EXISTS_HINT: &str = "give another name: what is there stays";
const MODEL_EXISTS_HINT: &str =
    "another --suffix makes a directory beside it; --overwrite replaces the model";
const STORES_HINT: &str = "check the address (s3://BUCKET/KEY, for example), or work on a local file and `tz-cli copy` it";
const DAMAGED: &str = "the file is damaged or was cut short: fetch or write it again";
const NEWER: &str = "a newer tz-cli may read it";

fn format_hint(error: &FormatError) -> &'static str {
    match error {
        FormatError::NotTensors => {
            "`tz-cli serialize SOURCE DEST` makes a .tensors file of a checkpoint"
        }
        FormatError::UnsupportedVersion(_)
        | FormatError::UnsupportedFlag { .. }
        | FormatError::UnsupportedExtension { .. } => NEWER,
        FormatError::Unwritable(_) => "--filter GLOB leaves tensors out",
        _ => DAMAGED,
    }
}

fn crypto_exit(error: &CryptoError) -> (Exit, &'static str) {
    match (error.class(), error) {
        (_, CryptoError::NotEncrypted) => (
            Exit::Key,
            "leave out the key (and unset TZ_KEYFILE, TZ_PASSPHRASE_FILE and TZ_PASSPHRASE), if a plain file is what you expect",
        ),
        (_, CryptoError::Interrupted(_)) => (
            Exit::Key,
            "check the key; `tz-cli rewrap` with a key and a change recovers the header, if the journal is whole",
        ),
        (_, CryptoError::NotSealed { .. }) => {
            (Exit::Usage, "`tz-cli decrypt` and `tz-cli encrypt` give such a file another key")
        }
        (_, CryptoError::FileLength { .. } | CryptoError::FrontAltered) => {
            (Exit::Key, "the file was changed after it was encrypted: fetch it again")
        }
        (_, CryptoError::LastSlot) => (Exit::Usage, "add another key or passphrase first"),
        (ErrorClass::Key, _) => (Exit::Key, KEY_HINT),
        (ErrorClass::Malformed, _) => (Exit::Malformed, DAMAGED),
        (ErrorClass::System, _) => (Exit::Io, "free some memory, and try again"),
        _ => (Exit::Usage, "`tz-cli COMMAND --help` shows what a command takes"),
    }
}

impl From<IoError> for Failure {
    fn from(error: IoError) -> Self {
        let message = error.to_string();
        match error {
            IoError::Io { location, doing, source } => {
                if location == "standard output" {
                    return Self::stdout(source);
                }
                let mut failure = Self::io(&location, doing, &source);
                if source.kind() == ErrorKind::UnexpectedEof {
                    (failure.exit, failure.layer) = (Exit::Malformed, "format");
                }
                failure
            }
            IoError::Format { location, source } => {
                Self::new(Exit::Malformed, "format", message, format_hint(&source)).at(location)
            }
            IoError::Corrupt { location, .. } => {
                let hint =
                    "`tz-cli verify` names every damaged tensor; fetch or write the file again";
                Self::new(Exit::Malformed, "integrity", message, hint).at(location)
            }
            IoError::KeyMissing { location } => {
                Self::new(Exit::Key, "key", message, KEY_HINT).at(location)
            }
            IoError::Crypto { location, source, .. } => {
                let (exit, hint) = crypto_exit(&source);
                Self::new(exit, "key", message, hint).at(location)
            }
            IoError::Changed { location } => {
                let hint = "run it again: what is there now is another version";
                Self::new(Exit::Io, "io", message, hint).at(location)
            }
            IoError::NoSuchTensor { location, .. } => {
                let hint = "`tz-cli inspect` lists the names; quote a glob so that the shell leaves it alone";
                Self::new(Exit::Usage, "usage", message, hint).at(location)
            }
            IoError::MemoryLimit { location, .. } => {
                let hint = "raise --memory-limit, or lower --num-readers";
                Self::new(Exit::Usage, "usage", message, hint).at(location)
            }
            IoError::Unsupported { location, .. } => {
                let hint = if location.contains("://") {
                    STORES_HINT
                } else {
                    "copy the data to a local file first"
                };
                Self::new(Exit::Usage, "usage", message, hint).at(location)
            }
            IoError::Tensor { tensor, source } => Self::of_tensor(&tensor, source),
            IoError::Cancelled => Self::cancelled(),
            _ => Self::new(Exit::Io, "io", message, "run it again with -v"),
        }
    }
}

impl Failure {
    /// A source or consumer failed in the middle of a tensor; errors of our own travel inside.
    fn of_tensor(tensor: &str, error: io::Error) -> Self {
        let kind = error.kind();
        let error = match error.downcast::<IoError>() {
            Ok(own) => return own.into(),
            Err(error) => error,
        };
        match error.downcast::<ModelError>() {
            Ok(own) => own.into(),
            Err(error) => {
                let message = format!("tensor {tensor:?}: {error}");
                Self::new(Exit::Io, "io", message, io_hint(&kind.into()))
            }
        }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let error = match error {
            ModelError::Transfer(error) => return error.into(),
            other => other,
        };
        let message = error.to_string();
        let malformed = |location: String, hint| {
            Self::new(Exit::Malformed, "checkpoint", message.clone(), hint).at(location)
        };
        match &error {
            ModelError::Io { place, source, .. } => {
                let message = format!("{message}: {source}");
                Self::new(Exit::Io, "io", message, io_hint(source))
                    .at(place.path.display().to_string())
            }
            ModelError::NotACheckpoint { path, .. } => malformed(
                path.display().to_string(),
                "give a .tensors file, a .safetensors file, or a directory that holds some",
            ),
            ModelError::Malformed { place, .. } => {
                malformed(place.path.display().to_string(), DAMAGED)
            }
            ModelError::Unsupported { place, .. } => malformed(
                place.path.display().to_string(),
                "--filter GLOB leaves tensors out; `tz-cli serialize` keeps every dtype",
            ),
            ModelError::Incomplete { place, .. } => {
                malformed(place.path.display().to_string(), "run it again")
            }
            ModelError::Config { path, .. } => {
                malformed(path.display().to_string(), "check the file")
            }
            ModelError::Exists { location } => {
                let location = location.clone();
                Self::new(Exit::Io, "io", message, MODEL_EXISTS_HINT).at(location)
            }
            ModelError::Cancelled => Self::cancelled(),
            _ => Self::new(Exit::Io, "checkpoint", message, "run it again with -v"),
        }
    }
}

#[cfg(feature = "hub")]
impl From<tz_model::hub::HubError> for Failure {
    fn from(error: tz_model::hub::HubError) -> Self {
        use tz_model::hub::HubError;

        let message = error.to_string();
        let of = |exit, hint| Self::new(exit, "hub", message.clone(), hint);
        match error {
            HubError::NotAnId { .. } => of(
                Exit::Usage,
                "give a directory, or an id of Hugging Face such as facebook/opt-125m",
            ),
            HubError::NotARevision { .. } | HubError::NoCache => {
                of(Exit::Usage, "`tz-cli vllm serialize --help` says what --model takes")
            }
            HubError::NotFound { .. } => {
                of(Exit::Io, "check id and --revision; a directory needs its path, such as ./model")
            }
            HubError::Refused { .. } => {
                of(Exit::Io, "HF_TOKEN holds a token that may read the model")
            }
            HubError::Offline { .. } => of(Exit::Io, "or give the directory of a checkpoint"),
            HubError::Unreachable { .. } => of(
                Exit::Io,
                "check the network and HF_ENDPOINT, or give a directory by its path, such as ./model; what has arrived whole is kept",
            ),
            HubError::NoWeights { .. } => {
                of(Exit::Malformed, "safetensors and PyTorch weights are read, no others")
            }
            HubError::Io { source, path, .. } => {
                let message = format!("{message}: {source}");
                let failure = Self::new(Exit::Io, "io", message, io_hint(&source));
                failure.at(path.display().to_string())
            }
            HubError::Index(error) => error.into(),
            HubError::Cancelled => Self::cancelled(),
            _ => of(Exit::Io, "try again; what has arrived whole is kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What no test can bring about as root, or without a network.
    #[test]
    fn a_refusal_says_what_to_try_by_its_place_and_kind() {
        for (location, kind, hint) in [
            ("a.tensors", ErrorKind::PermissionDenied, "who may read and write"),
            ("a.tensors", ErrorKind::ReadOnlyFilesystem, "write elsewhere"),
            ("a.tensors", ErrorKind::StorageFull, "free some space"),
            ("a.tensors", ErrorKind::Other, "the device or file system"),
            ("s3://b/k", ErrorKind::PermissionDenied, "AWS_ACCESS_KEY_ID"),
            ("s3://b/k", ErrorKind::ConnectionRefused, "--s3-endpoint"),
            ("gs://b/k", ErrorKind::PermissionDenied, "your credentials"),
            ("gs://b/k", ErrorKind::AlreadyExists, "another name"),
            ("https://host/k", ErrorKind::NotFound, "check the address"),
            ("https://host/k", ErrorKind::TimedOut, "the network"),
        ] {
            let failure = Failure::io(location, "read", &kind.into());
            assert!(failure.hint.contains(hint), "{location}: {kind}: {}", failure.hint);
            assert_eq!((failure.exit, failure.location.as_deref()), (Exit::Io, Some(location)));
        }
    }
}
