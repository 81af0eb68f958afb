//! A site of objects that are read by ranges. Owns [`Objects`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::body;
use super::fault::plain;
use super::{Reply, ReplyFuture, Site};

/// An object and how it is served.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) content: Content,
    pub(crate) etag: Option<&'static str>,
    pub(crate) last_modified: Option<&'static str>,
    /// Whether ranges are honoured.
    pub(crate) ranges: bool,
    /// Whether `If-Match` is honoured.
    pub(crate) if_match: bool,
    /// A query without which the object is refused, as a presigned URL's.
    pub(crate) query: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// `front`, `middle` over and over for so many bytes, `tail`: large objects that take no memory.
    Repeated {
        front: Bytes,
        middle: Bytes,
        len: u64,
        tail: Bytes,
    },
    /// A redirect.
    Elsewhere(String),
}

impl Object {
    pub(crate) fn new(content: impl Into<Bytes>) -> Self {
        Self::of(Content::Bytes(content.into()))
    }

    pub(crate) fn of(content: Content) -> Self {
        Self {
            content,
            etag: Some("\"first\""),
            last_modified: Some("Mon, 23 Nov 2026 10:00:00 GMT"),
            ranges: true,
            if_match: true,
            query: None,
        }
    }
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Repeated { front, len, tail, .. } => front.len() as u64 + len + tail.len() as u64,
            Self::Elsewhere(_) => 0,
        }
    }

    /// The bytes of `range`, in frames.
    fn frames(self, range: Range<u64>) -> body::ReplyBody {
        let at = |value: u64| usize::try_from(value).expect("in memory");
        match self {
            Self::Bytes(bytes) => body::frames([bytes.slice(at(range.start)..at(range.end))]),
            Self::Repeated { front, middle, len, tail } => {
                let mut next = range.start;
                let (begin, end) = (front.len() as u64, front.len() as u64 + len);
                body::frames(std::iter::from_fn(move || {
                    let left = range.end.checked_sub(next).filter(|&left| left > 0)?;
                    let (from, room) = match next {
                        _ if next < begin => (front.slice(at(next)..), begin - next),
                        _ if next < end => {
                            let skip = (next - begin) % middle.len() as u64;
                            (middle.slice(at(skip)..), end - next)
                        }
                        _ => (tail.slice(at(next - end)..), left),
                    };
                    let frame = from.slice(..from.len().min(at(left.min(room))));
                    next += frame.len() as u64;
                    Some(frame)
                }))
            }
            Self::Elsewhere(_) => body::frames([]),
        }
    }
}

/// Objects by path; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<HashMap<String, Object>>>);

impl Objects {
    pub(crate) fn with(self, path: &str, object: Object) -> Self {
        self.put(path, object);
        self
    }

    pub(crate) fn put(&self, path: &str, object: Object) {
        self.0.lock().expect("no panic").insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().expect("no panic").remove(path);
    }

    pub(crate) fn holds(&self, path: &str) -> bool {
        self.0.lock().expect("no panic").contains_key(path)
    }

    /// What stands there, in memory.
    pub(crate) fn bytes(&self, path: &str) -> Option<Bytes> {
        match &self.0.lock().expect("no panic").get(path)?.content {
            Content::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    fn find(&self, request: &Request<Incoming>) -> Reply {
        let objects = self.0.lock().expect("no panic");
        let Some(object) = objects.get(request.uri().path()) else {
            return plain(404, "no such object");
        };
        if object.query.is_some() && object.query != request.uri().query() {
            return plain(403, "the signature does not match");
        }
        if let Content::Elsewhere(url) = &object.content {
            let mut reply = plain(302, "");
            reply.headers_mut().insert(header::LOCATION, url.parse().expect("a header"));
            return reply;
        }
        object.reply(request.headers())
    }
}

impl Object {
    fn reply(&self, asked: &HeaderMap) -> Reply {
        let text = |name| asked.get(name).and_then(|value| value.to_str().ok());
        if self.if_match && text(header::IF_MATCH).is_some_and(|tag| Some(tag) != self.etag) {
            return plain(412, "another object stands here now");
        }
        let len = self.content.len();
        let range = text(header::RANGE).filter(|_| self.ranges).and_then(parse_range);
        let mut reply = Response::builder();
        for (name, value) in
            [(header::ETAG, self.etag), (header::LAST_MODIFIED, self.last_modified)]
        {
            if let Some(value) = value {
                reply = reply.header(name, value);
            }
        }
        let range = match range {
            None => 0..len,
            Some((start, _)) if start >= len => {
                let mut reply = plain(416, "<html>there is no such range</html>");
                let whole = format!("bytes */{len}").parse().expect("a header");
                reply.headers_mut().insert(header::CONTENT_RANGE, whole);
                return reply;
            }
            Some((start, end)) => {
                let end = end.min(len);
                let shown = format!("bytes {start}-{}/{len}", end - 1);
                reply =
                    reply.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, shown);
                start..end
            }
        };
        reply = reply.header(header::CONTENT_LENGTH, range.end - range.start);
        reply.body(self.content.clone().frames(range)).expect("a reply")
    }
}

impl Site for Objects {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        Box::pin(std::future::ready(self.find(&request)))
    }
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, last.parse::<u64>().ok()? + 1))
}
