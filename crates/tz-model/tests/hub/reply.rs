//! Bodies of the hub's answers. Owns [`Reply`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

/// A body in one piece, after which the connection may break.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Option<Bytes>,
    pub(crate) breaks: bool,
    pub(crate) flushed: bool,
    /// No end comes, and here is counted what does.
    pub(crate) endless: Option<Arc<AtomicUsize>>,
}

impl Reply {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { bytes, flushed: true, ..Self::default() }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(endless) = &self.endless {
            endless.fetch_add(64 << 10, Ordering::SeqCst);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 64 << 10])))));
        }
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if !self.flushed {
            // hyper sends what it holds only when a body makes it wait.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let end = self.breaks.then(|| Err(io::ErrorKind::ConnectionAborted.into()));
        Poll::Ready(end)
    }
}
