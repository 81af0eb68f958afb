//! Files behind HTTP(S) and object stores, read by ranges. Owns [`RemoteFile`].
//!
//! The first request asks for the front and tells the length and the entity tag; what it brought is kept, so that
//! opening a file costs one request. Every later range must come from the same object: it carries `If-Match`, and the
//! tag and length of each answer are compared with the first. A range that fails is resumed where it broke off.

mod client;
mod clouds;
mod credentials;
mod direct;
mod gate;
mod metered;
mod object;
mod options;
mod presigned;
mod retry;
mod rewrite;
mod runtime;
mod target;
mod transport;
mod upload;

use std::fmt;
use std::io::{self, IoSliceMut, Read};
use std::ops::Range;

use bytes::Bytes;

use crate::error::IoError;
use crate::plan::PlanOptions;
use crate::source::{RangeRead, SourceCounters, StreamSource};
use client::{Answer, Client, Identity};
use direct::Direct;
use gate::Gate;
use retry::{Failure, Retries};
use runtime::block_on;

pub use options::{Addressing, RemoteOptions, S3Options};
pub use presigned::unfinished_uploads;
pub(crate) use rewrite::replace_front;
pub use target::RemoteLocation;
pub(crate) use upload::MultipartOutput;

/// First request: the front of most models, and 256 KiB indices of the reference with the first tensor header.
const FIRST_REQUEST: u64 = 512 << 10;

/// Bytes that must have come before a range gets its tries back: a link that is slow and breaks often is not given up,
/// one that brings a few bytes and breaks every time is.
const PROGRESS: u64 = 64 << 10;

/// A file on a server that answers ranged requests.
pub(crate) struct RemoteFile {
    client: Client,
    identity: Identity,
    len: u64,
    first: Bytes,
    gate: Gate,
    /// Where ranges need no library.
    direct: Option<Direct>,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile")
            .field("location", &self.client.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Opens `location`. A server that ignores ranges gives a stream, which is read once and in order.
pub(crate) fn open(
    location: &RemoteLocation,
    options: &RemoteOptions,
) -> Result<Box<dyn RangeRead>, IoError> {
    block_on(async {
        let client = Client::new(location, options).await?;
        let (answer, first) = client.first(0..FIRST_REQUEST).await?;
        let Answer { identity, total, ranged, direct, body } = answer;
        if ranged && let Some(len) = total {
            let gate = Gate::new();
            let direct = direct.then(Direct::default);
            let file = RemoteFile { client, identity, len, first, gate, direct };
            return Ok(Box::new(file) as Box<dyn RangeRead>);
        }
        tracing::info!(location = client.name(), "the server ignores ranges: reading one stream");
        let name = client.name().to_owned();
        let reader = BodyReader { body, ready: first };
        Ok(Box::new(StreamSource::new(Box::new(reader), name)) as Box<dyn RangeRead>)
    })
}

impl RemoteFile {
    /// One try of a range, by the shortest way that the server's answers allow.
    fn attempt(
        &self,
        range: Range<u64>,
        out: &mut Scatter<'_, '_>,
        retries: &Retries,
    ) -> Result<(), Failure> {
        if let Some(direct) = &self.direct {
            let object = (&self.identity, self.len);
            if self.client.read_direct(direct, range.clone(), object, out, retries)? {
                return Ok(());
            }
        }
        block_on(retries.within(self.transfer(range, out)))
    }

    /// Requests `range` and copies what comes into `out` until it is full or the transfer breaks off.
    async fn transfer(&self, range: Range<u64>, out: &mut Scatter<'_, '_>) -> Result<(), Failure> {
        let mut answer = self.client.get(range.clone(), Some(&self.identity)).await?;
        if !answer.ranged {
            return Err(Failure::permanent("the server stopped answering ranges"));
        }
        if answer.total.is_some_and(|total| total != self.len) {
            return Err(Failure::changed());
        }
        let mut left = range.end - range.start;
        while left > 0 {
            let Some(frame) = self.client.frame(&mut answer.body).await? else {
                return Err(Failure::transient("the body ended early"));
            };
            let frame = frame.slice(..frame.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= frame.len() as u64;
            out.write(&frame);
        }
        Ok(())
    }
}

impl RangeRead for RemoteFile {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
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
        let permit = block_on(self.gate.acquire());
        let mut retries = self.client.retries();
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
        PlanOptions::object_storage()
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

/// The body of one answer as a blocking stream.
struct BodyReader {
    body: client::Body,
    ready: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            match block_on(self.body.next()) {
                Ok(Some(frame)) => self.ready = frame,
                Ok(None) => return Ok(0),
                Err(failure) => return Err(failure.into_io()),
            }
        }
        let step = buf.len().min(self.ready.len());
        let now = self.ready.split_to(step);
        if let Some(buf) = buf.get_mut(..step) {
            buf.copy_from_slice(&now);
        }
        Ok(step)
    }
}
