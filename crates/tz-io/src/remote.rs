//! Files behind HTTP(S) and object stores, read by ranges. Owns [`RemoteFile`].
//!
//! The first request asks for the front and tells the length and the entity tag; what it brought is kept, so that
//! opening a file costs one request. Where the whole file is wanted it asks for the first piece, and what stands behind
//! the front is left in the connection for the range that goes on there. Every later range must come from the same
//! object: it carries `If-Match`, and the tag and length of each answer are compared with the first. A range that fails
//! is resumed where it broke off.

mod body;
mod bounded;
mod client;
mod clouds;
mod connector;
mod credentials;
mod direct;
mod gate;
mod head;
mod metered;
mod object;
mod options;
mod patience;
mod presigned;
mod prospect;
mod retry;
mod rewrite;
mod runtime;
mod target;
mod transport;
mod upload;
pub mod wire;
mod words;

use std::fmt;
use std::io::{self, IoSliceMut, Read};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::IoError;
use crate::options::Cancel;
use crate::plan::PlanOptions;
use crate::source::{RangeRead, SourceCounters, StreamSource};
use client::{Answer, Body, Client};
use gate::Gate;
use head::Identity;
use retry::{Failure, Retries};
use runtime::{block_on, run};

pub use options::{Addressing, RemoteOptions, S3Options};
pub use presigned::unfinished_uploads;
pub(crate) use rewrite::replace_header;
pub use target::RemoteLocation;
pub(crate) use upload::MultipartOutput;

/// First read: the front of most models, and 256 KiB indices of the reference with the first tensor header.
const FIRST_READ: u64 = 512 << 10;

/// Bytes that must have come before a range gets its tries back: a link that is slow and breaks often is not given up,
/// one that brings a few bytes and breaks every time is.
const PROGRESS: u64 = 64 << 10;

/// A file on a server that answers ranged requests.
pub(crate) struct RemoteFile {
    client: Client,
    identity: Identity,
    len: u64,
    first: Bytes,
    /// What the first answer still holds, until somebody wants it.
    rest: Mutex<Option<Rest>>,
    gate: Gate,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile")
            .field("location", &self.client.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The body of the first answer, from this position on.
struct Rest {
    body: Body,
    range: Range<u64>,
}

/// Opens `location`. A server that ignores ranges gives a stream, which is read once and in order.
pub(crate) fn open(
    location: &RemoteLocation,
    options: &RemoteOptions,
) -> Result<Box<dyn RangeRead>, IoError> {
    let client = options.cancel.unless(Client::new(location, options));
    let client = run(&location.to_string(), "read", client)?;
    let asked = if options.whole { plan_options().piece_len } else { FIRST_READ };
    let (answer, first) = client.first(asked, FIRST_READ)?;
    let Answer { identity, total, ranged, body } = answer;
    if ranged && let Some(len) = total {
        let range = first.len() as u64..len.min(asked);
        let rest = Mutex::new(None);
        let file = RemoteFile { client, identity, len, first, rest, gate: Gate::new() };
        file.leave(Rest { body, range });
        return Ok(Box::new(file));
    }
    tracing::info!(location = client.name(), "the server ignores ranges: reading one stream");
    let name = client.name().to_owned();
    let body: Box<dyn Read + Send> = match body {
        Body::Socket(body) => Box::new(body),
        Body::Library(body) => Box::new(body),
    };
    Ok(Box::new(StreamSource::new(body, name)))
}

impl RemoteFile {
    /// One try of a range, with what the first answer still holds of it.
    fn attempt(
        &self,
        mut range: Range<u64>,
        out: &mut Scatter<'_, '_>,
        retries: &Retries,
    ) -> Result<(), Failure> {
        if let Some(mut rest) = self.rest_from(range.start) {
            let len = rest.range.end.min(range.end) - range.start;
            self.client.read(&mut rest.body, len, out, retries)?;
            (range.start, rest.range.start) = (range.start + len, rest.range.start + len);
            self.leave(rest);
        }
        if range.is_empty() {
            return Ok(());
        }
        let mut answer = self.client.ask(range.clone(), Some(&self.identity), retries)?;
        if !answer.ranged {
            return Err(Failure::permanent("the server stopped answering ranges"));
        }
        if answer.total.is_some_and(|total| total != self.len) {
            return Err(Failure::changed());
        }
        self.client.read(&mut answer.body, range.end - range.start, out, retries)?;
        self.client.done(answer.body);
        Ok(())
    }

    /// Takes what is left of the first answer, if it goes on at `position`.
    fn rest_from(&self, position: u64) -> Option<Rest> {
        self.rest().take_if(|rest| rest.range.start == position)
    }

    /// Leaves what nobody has wanted yet of the first answer to the next range.
    fn leave(&self, rest: Rest) {
        if rest.range.is_empty() {
            self.client.done(rest.body);
        } else {
            *self.rest() = Some(rest);
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<Rest>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How loads from servers are cut.
fn plan_options() -> PlanOptions {
    PlanOptions::object_storage()
}

impl RangeRead for RemoteFile {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        self.read_into_until(offset, buffers, &Cancel::default())
    }

    fn read_into_until(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        cancel: &Cancel,
    ) -> Result<(), IoError> {
        let wanted: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let end = offset.checked_add(wanted).filter(|&end| end <= self.len);
        let end = end.ok_or_else(|| {
            IoError::io(self.location(), "read")(io::ErrorKind::UnexpectedEof.into())
        })?;
        let mut out = Scatter::new(buffers);
        if let Some(kept) = usize::try_from(offset).ok().and_then(|offset| self.first.get(offset..))
        {
            out.write(kept);
        }
        if offset + out.written >= end {
            return Ok(());
        }
        let cancel = self.client.cancel(cancel);
        let permit = async { Ok::<_, IoError>(self.gate.acquire().await) };
        let permit = block_on(cancel.unless(permit))?;
        let mut retries = self.client.retries(&cancel);
        let before = out.written;
        let mut restored = before;
        loop {
            let from = offset + out.written;
            match self.attempt(from..end, &mut out, &retries) {
                Ok(()) => {
                    self.gate.done(permit, out.written - before);
                    return Ok(());
                }
                Err(failure) => {
                    let progress = out.written - restored >= PROGRESS;
                    if progress {
                        restored = out.written;
                    }
                    block_on(retries.wait(failure, progress, self.location()))?;
                }
            }
        }
    }

    fn max_readers(&self) -> usize {
        usize::MAX
    }

    fn default_readers(&self) -> usize {
        gate::CEILING
    }

    fn plan_options(&self) -> PlanOptions {
        plan_options()
    }

    fn location(&self) -> &str {
        self.client.name()
    }

    fn counters(&self) -> SourceCounters {
        self.client.counters()
    }

    fn readers_chosen(&self, readers: usize) {
        self.gate.fix(readers);
    }
}

/// Copies frames into a list of buffers, one after the other.
struct Scatter<'a, 'b> {
    buffers: &'a mut [IoSliceMut<'b>],
    current: usize,
    at: usize,
    written: u64,
}

impl<'a, 'b> Scatter<'a, 'b> {
    fn new(buffers: &'a mut [IoSliceMut<'b>]) -> Self {
        Self { buffers, current: 0, at: 0, written: 0 }
    }

    /// What is free of the buffer that is being filled; empty once all are full.
    fn room(&mut self) -> &mut [u8] {
        while self.buffers.get(self.current).is_some_and(|buffer| buffer.len() == self.at) {
            self.current += 1;
            self.at = 0;
        }
        let buffer = self.buffers.get_mut(self.current);
        buffer.and_then(|buffer| buffer.get_mut(self.at..)).unwrap_or_default()
    }

    /// Notes that so much of [`Self::room`] has been filled.
    fn advance(&mut self, len: usize) {
        self.at += len;
        self.written += len as u64;
    }

    /// Copies as much of `bytes` as there is room for.
    fn write(&mut self, mut bytes: &[u8]) {
        while let Some(buffer) = self.buffers.get_mut(self.current) {
            let room = buffer.get_mut(self.at..).unwrap_or_default();
            let step = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(step);
            if let Some(room) = room.get_mut(..step) {
                room.copy_from_slice(now);
            }
            bytes = later;
            self.at += step;
            self.written += step as u64;
            if bytes.is_empty() {
                return;
            }
            self.current += 1;
            self.at = 0;
        }
    }
}
