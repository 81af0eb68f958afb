//! A request body that tells how much of it has been taken. Owns [`Metered`].

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes handed to the connection at a time: what it holds unsent is a few of these, so progress shows on slow links.
const FRAME: usize = 128 << 10;

/// Bytes in frames.
#[derive(Debug)]
pub(crate) struct Metered {
    left: Bytes,
    taken: Arc<AtomicUsize>,
}

impl Metered {
    /// A body, and how many bytes of it the connection has taken so far.
    pub(crate) fn new(bytes: Bytes) -> (Self, Arc<AtomicUsize>) {
        let taken = Arc::default();
        (Self { left: bytes, taken: Arc::clone(&taken) }, taken)
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.left.len().min(FRAME);
        self.taken.fetch_add(len, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
