//! Places named on a command line or in a configuration. Owns [`Location`].

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::error::IoError;
use crate::remote::{self, RemoteLocation, RemoteOptions};
use crate::source::{LocalFile, RangeRead, StreamSource};

/// Where a file is read from or written to. Printing it never shows credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A path of the local file system.
    File(PathBuf),
    /// Standard input or output, written `-`.
    Stdio,
    /// An object behind HTTP(S), S3, Google Cloud Storage or Azure.
    Remote(RemoteLocation),
}

impl Location {
    /// Reads a path, `-`, or a URI: `file://`, `http(s)://`, `s3://`, `gs://`, `az://`.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] for another scheme, or a URI that names no object.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        match text.split_once("://") {
            _ if text == "-" => Ok(Self::Stdio),
            None => Ok(Self::File(text.into())),
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
                Ok(Self::File(path.into()))
            }
            Some((scheme, _)) => RemoteLocation::parse(scheme, text).map(Self::Remote),
        }
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// [`IoError::Io`], and [`IoError::Unsupported`] where options contradict each other.
    pub fn open(&self, options: &RemoteOptions) -> Result<Box<dyn RangeRead>, IoError> {
        match self {
            Self::File(path) => Ok(Box::new(LocalFile::open(path)?)),
            Self::Stdio => Ok(Box::new(StreamSource::new(Box::new(io::stdin()), "standard input"))),
            Self::Remote(location) => remote::open(location, options),
        }
    }

    /// Whether it is standard input or output.
    #[must_use]
    pub fn is_stdio(&self) -> bool {
        matches!(self, Self::Stdio)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdio => f.write_str("-"),
            Self::Remote(location) => location.fmt(f),
        }
    }
}
