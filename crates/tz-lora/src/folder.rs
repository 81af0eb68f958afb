//! Folders that adapters are read from and written to. Owns [`Folder`].

use std::fmt;
use std::path::{Path, PathBuf};

use tz_io::{IoError, Location};

use crate::PACKED_FILE;

/// A directory on disk, or a prefix of keys in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Folder {
    /// A directory.
    Local(PathBuf),
    /// A URI without a slash at its end.
    Remote(String),
}

impl Folder {
    /// Reads a path or URI of a folder, or of the packed file in it.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] for standard input, and for a URI that has no places for files.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        let folder =
            text.strip_suffix(PACKED_FILE).filter(|rest| rest.is_empty() || rest.ends_with('/'));
        let folder = match folder {
            Some("") => ".",
            Some(folder) => folder,
            None => text,
        };
        let trimmed = folder.trim_end_matches('/');
        // Parsed with a file's name, because a bucket alone is a folder but not a file.
        match Location::parse(&format!("{trimmed}/{PACKED_FILE}"))? {
            _ if folder == "-" => Err(IoError::Unsupported {
                location: "-".to_owned(),
                why: "an adapter is a folder of two files, not a stream",
            }),
            Location::File(path) => Ok(Self::Local(path.parent().unwrap_or(&path).to_owned())),
            _ => Ok(Self::Remote(trimmed.to_owned())),
        }
    }

    /// A file of the folder.
    ///
    /// # Errors
    /// As [`Location::parse`].
    pub fn file(&self, name: &str) -> Result<Location, IoError> {
        match self {
            Self::Local(path) => Ok(Location::File(path.join(name))),
            Self::Remote(prefix) => Location::parse(&format!("{prefix}/{name}")),
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Folder {
    fn from(path: &P) -> Self {
        Self::Local(path.as_ref().to_owned())
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            // A location is printed without credentials, whatever the text holds.
            Self::Remote(_) => {
                let file =
                    self.file(PACKED_FILE).map_or_else(|_| String::new(), |at| at.to_string());
                f.write_str(file.strip_suffix(PACKED_FILE).unwrap_or(&file).trim_end_matches('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, file: &str) {
        let folder = Folder::parse(text).unwrap();
        assert_eq!(folder.to_string(), shown, "{text}");
        assert_eq!(folder.file("x").unwrap().to_string(), file, "{text}");
    }

    #[test]
    fn folders_and_their_files() {
        check("a/b", "a/b", "a/b/x");
        check("a/b/", "a/b", "a/b/x");
        check("a/adapter_model.tensors", "a", "a/x");
        check("adapter_model.tensors", ".", "./x");
        check("/", "/", "/x");
        check("file:///a", "/a", "/a/x");
        check("s3://bucket/a/", "s3://bucket/a", "s3://bucket/a/x");
        check("s3://bucket", "s3://bucket", "s3://bucket/x");
        check("s3://bucket/a/adapter_model.tensors", "s3://bucket/a", "s3://bucket/a/x");
        check("https://u:secret@host/a", "https://host/a", "https://host/a/x");
    }

    #[test]
    fn what_is_no_folder() {
        for text in ["-", "ftp://host/a", "s3://id:secret@bucket/a"] {
            let error = Folder::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
