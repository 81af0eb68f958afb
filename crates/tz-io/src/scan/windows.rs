//! Reads of a scan over a network, served from the fetches of a plan. Owns [`Windows`].
//!
//! A scan reads headers and tensors bit by bit, several tensors at once. Each of its reads would be a request; instead
//! the first that touches a fetch brings it whole, and the others wait for it. A fetch is dropped when all of it has
//! been read, so about as many are in memory as there are threads, which take tensors in file order.

use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::IoError;
use crate::file::TensorFile;
use crate::plan::LoadPlan;
use crate::source::RangeRead;

/// A source whose reads are joined.
#[derive(Debug)]
pub(crate) struct Windows<'a> {
    source: &'a dyn RangeRead,
    /// Ascending, without overlap.
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    range: Range<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: Option<Vec<u8>>,
    /// Wanted bytes that nobody has read yet.
    left: u64,
}

impl<'a> Windows<'a> {
    /// Windows over `tensors` of `file` and their headers, read from `source`, each of at most `longest` bytes or a header.
    pub(crate) fn new(
        file: &TensorFile,
        source: &'a dyn RangeRead,
        tensors: &[usize],
        longest: u64,
    ) -> Result<Self, IoError> {
        let longest = usize::try_from(longest).unwrap_or(usize::MAX);
        let options = file.source().plan_options().staged(longest);
        let plan = LoadPlan::of_file(file.entries(), tensors.to_vec(), &options, file.location())?;
        let window = |fetch: crate::plan::Fetch| {
            let left = fetch.parts.iter().map(|part| part.len as u64).sum();
            Window { range: fetch.range, state: Mutex::new(State { bytes: None, left }) }
        };
        Ok(Self { source, windows: plan.fetches.into_iter().map(window).collect() })
    }

    /// Fills the front of `buf` from the window at `offset`; gives the number of bytes.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, IoError> {
        let at = self.windows.partition_point(|window| window.range.end <= offset);
        let window = self.windows.get(at).filter(|window| window.range.contains(&offset));
        let Some(window) = window else { return self.direct(offset, buf) };
        let mut state = window.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.left == 0 {
            return self.direct(offset, buf);
        }
        let bytes = match state.bytes.take() {
            Some(bytes) => bytes,
            None => {
                let len = usize::try_from(window.range.end - window.range.start);
                let mut bytes = vec![0; len.unwrap_or(usize::MAX)];
                self.source.read_into(window.range.start, &mut [IoSliceMut::new(&mut bytes)])?;
                bytes
            }
        };
        let from = usize::try_from(offset - window.range.start).unwrap_or(usize::MAX);
        let here = bytes.get(from..).unwrap_or_default();
        let len = here.len().min(buf.len());
        if let (Some(to), Some(here)) = (buf.get_mut(..len), here.get(..len)) {
            to.copy_from_slice(here);
        }
        state.left = state.left.saturating_sub(len as u64);
        state.bytes = Some(bytes).filter(|_| state.left > 0);
        Ok(len)
    }

    /// What no window holds, or holds no longer.
    fn direct(&self, offset: u64, buf: &mut [u8]) -> Result<usize, IoError> {
        self.source.read_into(offset, &mut [IoSliceMut::new(buf)])?;
        Ok(buf.len())
    }
}

impl RangeRead for Windows<'_> {
    fn len(&self) -> Option<u64> {
        self.source.len()
    }

    fn read_into(&self, mut offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        for buffer in buffers {
            let mut rest: &mut [u8] = buffer;
            while !rest.is_empty() {
                let read = self.read(offset, rest)?;
                rest = rest.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
        }
        Ok(())
    }

    fn max_readers(&self) -> usize {
        self.source.max_readers()
    }

    fn location(&self) -> &str {
        self.source.location()
    }
}
