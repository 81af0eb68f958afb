//! The body of one answer, as it comes from the HTTP library. Owns [`LibraryBody`].

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::Scatter;
use super::client::Counters;
use super::patience::{Pace, Patience};
use super::retry::Failure;
use super::runtime::attempt;
use super::transport::cause;

/// What is still to come of a body. A pause of the stall timeout within it is a failure; one of its reader is not.
#[derive(Debug)]
pub(crate) struct LibraryBody {
    response: reqwest::Response,
    /// What came and was not wanted yet.
    ready: Bytes,
    /// Bytes of the range that are still to come; nothing may follow them.
    left: Option<u64>,
    /// For who reads it as a stream.
    patience: Patience,
    counters: Arc<Counters>,
}

impl LibraryBody {
    /// The body of a range of `len` bytes, or of a whole object.
    pub(crate) fn new(
        response: reqwest::Response,
        len: Option<u64>,
        patience: &Patience,
        counters: Arc<Counters>,
    ) -> Self {
        // The deadline is for the answer to a range, not for a stream.
        let patience = Patience { deadline: None, ..patience.clone() };
        Self { response, ready: Bytes::new(), left: len, patience, counters }
    }

    /// Copies the next `len` bytes to where `out` wants them.
    pub(crate) async fn read_to(
        &mut self,
        len: u64,
        out: &mut Scatter<'_, '_>,
    ) -> Result<(), Failure> {
        let mut left = len;
        let mut pace = Pace::new();
        while left > 0 {
            let next = self.next(usize::try_from(left).unwrap_or(usize::MAX)).await?;
            let next = next.ok_or_else(|| Failure::transient("the body ended early"))?;
            let paced = pace.came(next.len(), self.patience.stall_timeout);
            paced.inspect_err(|_| self.counters.stalls.add(1))?;
            left -= next.len() as u64;
            out.write(&next);
        }
        self.left = self.left.map(|left| left.saturating_sub(len));
        if self.left == Some(0) { self.end().await } else { Ok(()) }
    }

    /// Waits for the end, which a body without a stated length puts off as it likes.
    async fn end(&mut self) -> Result<(), Failure> {
        while let Some(more) = self.next(1).await? {
            if !more.is_empty() {
                return Err(Failure::permanent("a body longer than its range"));
            }
        }
        Ok(())
    }

    /// Some of the next `most` bytes; `None` at the end.
    async fn next(&mut self, most: usize) -> Result<Option<Bytes>, Failure> {
        if self.ready.is_empty() {
            let stall_timeout = self.patience.stall_timeout;
            match tokio::time::timeout(stall_timeout, self.response.chunk()).await {
                Ok(Ok(Some(frame))) => self.ready = frame,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(Failure::transient(cause(error))),
                Err(_) => {
                    self.counters.stalls.add(1);
                    return Err(Failure::stalled(stall_timeout));
                }
            }
            self.counters.bytes.add(self.ready.len() as u64);
        }
        Ok(Some(self.ready.split_to(most.min(self.ready.len()))))
    }
}

/// As a blocking stream.
impl Read for LibraryBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let patience = self.patience.clone();
        let next = attempt(patience.within(self.next(buf.len()))).map_err(Failure::into_io)?;
        let next = next.unwrap_or_default();
        if let Some(buf) = buf.get_mut(..next.len()) {
            buf.copy_from_slice(&next);
        }
        Ok(next.len())
    }
}
