//! Where bytes come from. Owns the [`RangeRead`] trait and its local and streaming implementations.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::IoError;

/// Most buffers that one `preadv` takes (`IOV_MAX` of Linux).
const MAX_BUFFERS: usize = 1024;

/// A file that can be read by ranges, from several threads at once.
///
/// Calls block. Implement it to read over a transport of your own.
pub trait RangeRead: Send + Sync + fmt::Debug {
    /// Length of the file, where it is known before it is read.
    fn len(&self) -> Option<u64>;

    /// Whether the file is known to have no bytes.
    fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Fills `buffers`, one after the other, from `offset` on.
    ///
    /// # Errors
    /// [`IoError::Io`], also where the file ends before the buffers are full.
    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError>;

    /// How many readers the source can serve at once; a stream serves one, in order.
    fn max_readers(&self) -> usize;

    /// File or URI for messages, without credentials.
    fn location(&self) -> &str;

    /// The local file behind it, where there is one.
    fn local_file(&self) -> Option<&File> {
        None
    }
}

/// A file of the local file system, read at positions.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    len: u64,
    name: String,
}

impl LocalFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`IoError::Io`].
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(IoError::io(&name, "open"))?;
        let metadata = file
            .metadata()
            .map_err(IoError::io(&name, "read metadata"))?;
        if metadata.is_dir() {
            return Err(IoError::io(&name, "open")(
                io::ErrorKind::IsADirectory.into(),
            ));
        }
        Ok(Self {
            file,
            len: metadata.len(),
            name,
        })
    }
}

impl RangeRead for LocalFile {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn read_into(&self, mut offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        let failed = |source| IoError::io(&self.name, "read")(source);
        let mut rest = buffers;
        loop {
            while rest.first().is_some_and(|buffer| buffer.is_empty()) {
                rest = rest
                    .split_first_mut()
                    .map(|(_, rest)| rest)
                    .unwrap_or_default();
            }
            if rest.is_empty() {
                return Ok(());
            }
            let batch = rest.len().min(MAX_BUFFERS);
            let read = rest
                .get_mut(..batch)
                .map(|batch| rustix::io::preadv(&self.file, batch, offset));
            match read {
                Some(Ok(0)) | None => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Some(Ok(n)) => {
                    offset += n as u64;
                    IoSliceMut::advance_slices(&mut rest, n);
                }
                Some(Err(rustix::io::Errno::INTR)) => {}
                Some(Err(errno)) => return Err(failed(errno.into())),
            }
        }
    }

    fn max_readers(&self) -> usize {
        usize::MAX
    }

    fn location(&self) -> &str {
        &self.name
    }

    fn local_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// A stream that is read once, front to back: standard input, a pipe, a response body.
pub struct StreamSource {
    state: Mutex<StreamState>,
    name: String,
}

struct StreamState {
    reader: Box<dyn Read + Send>,
    position: u64,
}

impl fmt::Debug for StreamSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSource")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl StreamSource {
    /// Reads `reader`, called `name` in messages.
    #[must_use]
    pub fn new(reader: Box<dyn Read + Send>, name: impl Into<String>) -> Self {
        Self {
            state: Mutex::new(StreamState {
                reader,
                position: 0,
            }),
            name: name.into(),
        }
    }
}

impl RangeRead for StreamSource {
    fn len(&self) -> Option<u64> {
        None
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(skip) = offset.checked_sub(state.position) else {
            let why = "a stream cannot be read twice or out of order";
            return Err(IoError::Unsupported {
                location: self.name.clone(),
                why,
            });
        };
        let failed = |source| IoError::io(&self.name, "read")(source);
        let skipped =
            io::copy(&mut state.reader.by_ref().take(skip), &mut io::sink()).map_err(failed)?;
        state.position += skipped;
        if skipped < skip {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        for buffer in buffers {
            state.reader.read_exact(buffer).map_err(failed)?;
            state.position += buffer.len() as u64;
        }
        Ok(())
    }

    fn max_readers(&self) -> usize {
        1
    }

    fn location(&self) -> &str {
        &self.name
    }
}

/// A place named on a command line or in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A path of the local file system.
    File(PathBuf),
    /// Standard input or output, written `-`.
    Stdio,
}

impl Location {
    /// Reads a path, or `-`.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] for a URI scheme that this version does not know.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        match text.split_once("://") {
            _ if text == "-" => Ok(Self::Stdio),
            None => Ok(Self::File(text.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(_) => Err(IoError::Unsupported {
                location: text.to_owned(),
                why: "this URI scheme is not supported",
            }),
        }
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// [`IoError::Io`].
    pub fn open(&self) -> Result<Box<dyn RangeRead>, IoError> {
        match self {
            Self::File(path) => Ok(Box::new(LocalFile::open(path)?)),
            Self::Stdio => Ok(Box::new(StreamSource::new(
                Box::new(io::stdin()),
                "standard input",
            ))),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdio => f.write_str("-"),
        }
    }
}
