//! Where a model's files go. Owns [`ArtifactDir`]: a folder on disk or a prefix of an object store.

use std::fmt;
use std::path::Path;

use tz_io::{IoError, Location};

/// The text cannot be a part of a directory's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {why}")]
pub struct NotADirectoryName {
    /// Which part.
    pub what: &'static str,
    /// As it was given.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// A directory of artifacts: a path, or a URI such as `s3://bucket/models`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactDir {
    base: String,
}

impl ArtifactDir {
    /// The directory that `text` names. A slash at its end does not count, because vLLM would take `dir//model.tensors`
    /// for another object.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] for what cannot hold files.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        let trimmed = text.trim_end_matches('/');
        if text.contains("://") && !trimmed.contains("://") {
            return Err(unsupported(text, "names no bucket"));
        }
        let base = if trimmed.is_empty() && !text.is_empty() { "/" } else { trimmed };
        let dir = Self { base: base.to_owned() };
        match dir.join("model.tensors")? {
            Location::Stdio => Err(unsupported(text, "standard output is no directory")),
            _ if base.is_empty() || base == "-" => Err(unsupported(text, "names no directory")),
            _ => Ok(dir),
        }
    }

    /// The directory that vLLM's script makes of these: `<self>/vllm/<model>/<suffix>`.
    ///
    /// # Errors
    /// [`NotADirectoryName`] where a part is empty or leads elsewhere.
    pub fn of_model(&self, model: &str, suffix: &str) -> Result<Self, NotADirectoryName> {
        relative("model name", model)?;
        relative("suffix", suffix)?;
        let base = if self.base == "/" { "" } else { &self.base };
        Ok(Self { base: format!("{base}/vllm/{model}/{suffix}") })
    }

    /// A file of the directory.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] for a scheme that is not known.
    pub fn join(&self, name: &str) -> Result<Location, IoError> {
        let slash = if self.base == "/" { "" } else { "/" };
        Location::parse(&format!("{}{slash}{name}", self.base))
    }

    /// The same as text, as vLLM takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.base
    }

    /// The folder, where it is on this machine.
    #[must_use]
    pub fn local(&self) -> Option<&Path> {
        match self.base.split_once("://") {
            None => Some(Path::new(&self.base)),
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => Some(Path::new(path)),
            Some(_) => None,
        }
    }
}

impl fmt::Display for ArtifactDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Fails where `text` is not a relative path of plain names.
pub(crate) fn relative(what: &'static str, text: &str) -> Result<(), NotADirectoryName> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.contains(char::is_control) || text.contains('\\') {
        "it holds a character that names do not have"
    } else if text.contains("://") || text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "it must be names with single slashes between them"
    } else {
        return Ok(());
    };
    Err(NotADirectoryName { what, text: text.to_owned(), why })
}

fn unsupported(text: &str, why: &'static str) -> IoError {
    IoError::Unsupported { location: text.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_models() {
        for (base, model, expected) in [
            ("out", "facebook/opt-125m", "out/vllm/facebook/opt-125m/v1"),
            ("out//", "m", "out/vllm/m/v1"),
            ("s3://b", "m", "s3://b/vllm/m/v1"),
            ("s3://b/p/", "org/m", "s3://b/p/vllm/org/m/v1"),
            ("/", "m", "/vllm/m/v1"),
            (".", "m", "./vllm/m/v1"),
        ] {
            let dir = ArtifactDir::parse(base).unwrap().of_model(model, "v1").unwrap();
            assert_eq!(dir.as_str(), expected);
            let file = dir.join("model.tensors").unwrap().to_string();
            assert_eq!(file, format!("{expected}/model.tensors"));
            assert_eq!(dir.local().is_some(), !base.starts_with("s3"));
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        for text in ["", "-", "ftp://x/y", "s3://", "s3://key:secret@b/p"] {
            assert!(ArtifactDir::parse(text).is_err(), "{text}");
        }
        let dir = ArtifactDir::parse("out").unwrap();
        for part in ["", "..", "a/../b", "/abs", "a//b", "a/", ".", "a\nb", "s3://b", "a\\b"] {
            assert!(dir.of_model(part, "v1").is_err(), "{part:?}");
            assert!(dir.of_model("m", part).is_err(), "{part:?}");
        }
    }
}
