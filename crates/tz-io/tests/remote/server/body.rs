//! Bodies that break off, stall, come in drips, and count. Owns [`ReplyBody`] and [`Counted`].

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame};

pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body of these frames.
pub(crate) fn frames(
    frames: impl IntoIterator<Item = Bytes, IntoIter: Unpin + Send + 'static>,
) -> ReplyBody {
    Frames(frames.into_iter()).boxed_unsync()
}

struct Frames<I>(I);

impl<I: Iterator<Item = Bytes> + Unpin> Body for Frames<I> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The frames of `first`, then `more`.
pub(crate) fn chain(
    first: ReplyBody,
    more: impl IntoIterator<Item = Bytes, IntoIter: Unpin + Send + 'static>,
) -> ReplyBody {
    Chain(Some(first), more.into_iter()).boxed_unsync()
}

struct Chain<I>(Option<ReplyBody>, I);

impl<I: Iterator<Item = Bytes> + Unpin> Body for Chain<I> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = &mut self.0 {
            match std::task::ready!(Pin::new(first).poll_frame(context)) {
                None => self.0 = None,
                frame => return Poll::Ready(frame),
            }
        }
        Poll::Ready(self.1.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// What follows the last byte of a body that is cut short.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The connection ends.
    Break,
    /// Nothing, and the connection stays.
    Nothing,
}

/// The first `left` bytes of `inner`, then `end`.
pub(crate) fn cut(inner: ReplyBody, left: usize, end: End) -> ReplyBody {
    Cut { inner, left, end, flushed: false }.boxed_unsync()
}

struct Cut {
    inner: ReplyBody,
    left: usize,
    end: End,
    flushed: bool,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left > 0 {
            let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
            if let Some(Ok(frame)) = frame
                && let Ok(bytes) = frame.into_data()
            {
                let bytes = bytes.slice(..bytes.len().min(self.left));
                self.left -= bytes.len();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            self.left = 0;
        }
        if !self.flushed {
            // hyper sends what it holds only when a body makes it wait.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.end {
            End::Break => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            End::Nothing => Poll::Pending,
        }
    }
}

/// `inner` in frames of `size` bytes, each sent on its own.
pub(crate) fn drip(inner: ReplyBody, size: usize) -> ReplyBody {
    Drip { inner, size, ready: VecDeque::new(), flushed: true }.boxed_unsync()
}

struct Drip {
    inner: ReplyBody,
    size: usize,
    ready: VecDeque<Bytes>,
    flushed: bool,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.flushed {
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while self.ready.is_empty() {
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let mut bytes = frame.into_data().unwrap_or_default();
                    while !bytes.is_empty() {
                        let drop = bytes.split_to(bytes.len().min(self.size));
                        self.ready.push_back(drop);
                    }
                }
                end => return Poll::Ready(end),
            }
        }
        self.flushed = false;
        Poll::Ready(self.ready.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// One request in flight, until its answer has been sent or given up.
#[derive(Debug)]
pub(crate) struct Counted {
    in_flight: Arc<AtomicUsize>,
    /// How many there were when it came, itself included.
    pub(crate) now: usize,
}

impl Counted {
    pub(crate) fn new(in_flight: Arc<AtomicUsize>) -> Self {
        let now = in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        Self { in_flight, now }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `body`, which keeps `counted` until its last byte is about to be sent: a client that has an answer whole never
/// finds itself still counted. `left` is its length where the head states it.
pub(crate) fn counted(body: ReplyBody, left: Option<u64>, counted: Counted) -> ReplyBody {
    let counted = Some(counted).filter(|_| left != Some(0));
    Tail { inner: body, left, counted }.boxed_unsync()
}

struct Tail {
    inner: ReplyBody,
    left: Option<u64>,
    counted: Option<Counted>,
}

impl Body for Tail {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let len = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
            Poll::Ready(_) => u64::MAX,
            Poll::Pending => 0,
        };
        self.left = self.left.map(|left| left.saturating_sub(len));
        if self.left == Some(0) || len == u64::MAX {
            self.counted = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
