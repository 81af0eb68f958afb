//! Where bytes come from. Owns the [`RangeRead`] trait and its local and streaming implementations.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::IoError;
use crate::options::{Cancel, available_cores};
use crate::plan::PlanOptions;

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

    /// As [`Self::read_into`], until `cancel` is set. Implement it where a read can wait for long and can be given up;
    /// else it is looked at once, before the read.
    ///
    /// # Errors
    /// [`IoError::Cancelled`], and those of [`Self::read_into`].
    fn read_into_until(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        cancel: &Cancel,
    ) -> Result<(), IoError> {
        cancel.check()?;
        self.read_into(offset, buffers)
    }

    /// How many readers the source can serve at once; a stream serves one, in order.
    fn max_readers(&self) -> usize;

    /// File or URI for messages, without credentials.
    fn location(&self) -> &str;

    /// How many readers suit the source where the caller does not say.
    fn default_readers(&self) -> usize {
        available_cores()
    }

    /// Tells the source how many readers the caller insists on.
    fn readers_chosen(&self, _readers: usize) {}

    /// How a plan for this source cuts and joins.
    fn plan_options(&self) -> PlanOptions {
        PlanOptions::local()
    }

    /// What the source has done so far.
    fn counters(&self) -> SourceCounters {
        SourceCounters::default()
    }

    /// The bytes of a source of unknown length from `offset` to its end, `limit` of them at most: what follows the
    /// last tensor of a stream. `None` where the source cannot tell; whoever knows its length need not.
    ///
    /// # Errors
    /// [`IoError::Io`], but not where the source ends before `offset`: then there are no bytes.
    fn read_to_end(&self, _offset: u64, _limit: u64) -> Result<Option<Vec<u8>>, IoError> {
        Ok(None)
    }

    /// The local file behind it, where there is one.
    fn local_file(&self) -> Option<&File> {
        None
    }
}

/// A source whose reads end when the work is cancelled.
#[derive(Debug)]
pub(crate) struct Until<'a> {
    source: &'a dyn RangeRead,
    cancel: &'a Cancel,
}

impl<'a> Until<'a> {
    pub(crate) fn new(source: &'a dyn RangeRead, cancel: &'a Cancel) -> Self {
        Self { source, cancel }
    }
}

impl RangeRead for Until<'_> {
    fn len(&self) -> Option<u64> {
        self.source.len()
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        self.source.read_into_until(offset, buffers, self.cancel)
    }

    fn max_readers(&self) -> usize {
        self.source.max_readers()
    }

    fn location(&self) -> &str {
        self.source.location()
    }

    fn local_file(&self) -> Option<&File> {
        self.source.local_file()
    }
}

/// What a remote source has done since it was opened; zeros for a local one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceCounters {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Requests that were tried again.
    pub retries: u64,
    /// Transfers that were broken off because nothing came.
    pub stalls: u64,
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
        let metadata = file.metadata().map_err(IoError::io(&name, "read metadata"))?;
        if metadata.is_dir() {
            return Err(IoError::io(&name, "open")(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file, len: metadata.len(), name })
    }

    /// A file that is open, called `name` in messages.
    pub(crate) fn of(file: File, name: &str) -> Result<Self, IoError> {
        let metadata = file.metadata().map_err(IoError::io(name, "read metadata"))?;
        Ok(Self { file, len: metadata.len(), name: name.to_owned() })
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
                rest = rest.split_first_mut().map(|(_, rest)| rest).unwrap_or_default();
            }
            if rest.is_empty() {
                return Ok(());
            }
            let batch = rest.len().min(MAX_BUFFERS);
            let read =
                rest.get_mut(..batch).map(|batch| rustix::io::preadv(&self.file, batch, offset));
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
        f.debug_struct("StreamSource").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StreamSource {
    /// Reads `reader`, called `name` in messages.
    #[must_use]
    pub fn new(reader: Box<dyn Read + Send>, name: impl Into<String>) -> Self {
        Self { state: Mutex::new(StreamState { reader, position: 0 }), name: name.into() }
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
            return Err(IoError::Unsupported { location: self.name.clone(), why });
        };
        let failed = |source: io::Error| match source.downcast() {
            // A stream over a server that the work was told to leave.
            Ok(IoError::Cancelled) => IoError::Cancelled,
            Ok(error) => IoError::io(&self.name, "read")(io::Error::other(error)),
            Err(source) => IoError::io(&self.name, "read")(source),
        };
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

    fn read_to_end(&self, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, IoError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| IoError::io(&self.name, "read")(source);
        let Some(skip) = offset.checked_sub(state.position) else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut rest = state.reader.by_ref().take(skip.saturating_add(limit));
        let read = io::copy(&mut rest.by_ref().take(skip), &mut io::sink())
            .and_then(|_| rest.read_to_end(&mut bytes));
        match read {
            // A reader may call its end an error: nobody asks it for more than there should be.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(failed(error)),
            _ => {
                state.position = offset.saturating_add(bytes.len() as u64);
                Ok(Some(bytes))
            }
        }
    }

    fn max_readers(&self) -> usize {
        1
    }

    fn location(&self) -> &str {
        &self.name
    }
}
