//! Requests to S3 about one object, sent over presigned URLs: multipart uploads and the list of unfinished ones. Owns
//! [`S3Object`].
//!
//! `object_store` could send most of them. These count and retry as reads do, tell a slow link from a dead one by
//! whether bytes move, and complete an upload under a condition.

mod unfinished;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use object_store::path::Path;
use object_store::signer::SignedUrlOptions;

use super::bounded::{self, MAX_ANSWER, Unread};
use super::client::Counters;
use super::metered::Metered;
use super::object::{SIGNED_FOR, Signed, failed};
use super::options::RemoteOptions;
use super::prospect::judged;
use super::retry::{Failure, Retries, retry_after};
use super::target::StoreKind;
use super::transport::http_client;
use super::words::{answered, element, entity_tag, is_document, is_error, word_of};
use crate::error::IoError;
use crate::options::Cancel;

pub use unfinished::unfinished_uploads;

pub(crate) const STARTING: &str = "start an upload to";
const UPLOADING: &str = "upload to";
pub(crate) const COMPLETING: &str = "complete the upload to";
pub(crate) const COPYING: &str = "copy on the server";
const REMOVING: &str = "remove an unfinished upload of";
const LISTING: &str = "list unfinished uploads of";

/// Stall timeouts that pass before a server that has every byte is given up: it may take its time to put a part away,
/// or an object together.
const PATIENCE: u32 = 4;

/// Most bytes of a page of unfinished uploads: 1,000 of them, each with a key of up to 1,024 bytes and as much again.
const MAX_LISTING: usize = 2 << 20;

/// An object of S3 and how to reach it.
#[derive(Debug)]
pub(crate) struct S3Object {
    pub(crate) signed: Signed,
    http: reqwest::Client,
    options: RemoteOptions,
    counters: Arc<Counters>,
}

/// What must be at the object's place when it becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition<'a> {
    /// Anything.
    None,
    /// No object.
    New,
    /// The version with this entity tag.
    Version(&'a str),
}

impl Condition<'_> {
    fn header(&self) -> Option<(header::HeaderName, &str)> {
        match self {
            Self::None => None,
            Self::New => Some((header::IF_NONE_MATCH, "*")),
            Self::Version(tag) => Some((header::IF_MATCH, tag)),
        }
    }

    fn failed(self, name: &str) -> IoError {
        match self {
            Self::Version(_) => IoError::Changed { location: name.to_owned() },
            Self::None | Self::New => exists(name),
        }
    }
}

/// One request.
struct Ask<'a> {
    method: Method,
    path: &'a Path,
    query: &'a [(&'a str, &'a str)],
    headers: HeaderMap,
    body: Bytes,
    doing: &'static str,
    /// Bytes that the answer may have.
    most: usize,
    retries: u32,
    /// Ends it. What takes effect on the server ends by itself; who asks for it waits no longer than it can.
    cancel: Cancel,
    patience: u32,
    /// What to do about a request of which nothing is known but that it was not answered.
    unanswered: fn(String) -> Failure,
}

/// What the server said.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    /// Whether an earlier try may have taken effect: it was sent, and not answered.
    in_doubt: bool,
}

impl Answer {
    /// Whether this is a success, told by a whole document of this name.
    fn says(&self, name: &str) -> bool {
        self.status == StatusCode::OK && is_document(&self.text, name)
    }
}

impl S3Object {
    pub(crate) fn new(signed: Signed, options: &RemoteOptions) -> Result<Self, IoError> {
        let http = http_client(options, signed.name())?;
        Ok(Self { signed, http, options: options.clone(), counters: Arc::default() })
    }

    fn ask<'a>(&'a self, method: Method, doing: &'static str) -> Ask<'a> {
        Ask {
            method,
            path: &self.signed.path,
            query: &[],
            headers: HeaderMap::new(),
            body: Bytes::new(),
            doing,
            most: MAX_ANSWER,
            retries: self.options.retries,
            cancel: self.options.cancel.clone(),
            patience: PATIENCE,
            unanswered: Failure::transient,
        }
    }

    /// Starts an upload. One whose answer is lost stays behind without parts, for a later writer to name.
    pub(crate) async fn start(&self) -> Result<String, IoError> {
        let query = [("uploads", "")];
        let ask = self.ask(Method::POST, STARTING);
        let answer = self.send(Ask { query: &query, cancel: Cancel::default(), ..ask }).await?;
        let id = word_of(&answer.text, "UploadId");
        id.filter(|_| answer.says("InitiateMultipartUploadResult"))
            .ok_or_else(|| self.refused(&answer, STARTING))
    }

    /// Sends part `number`, counted from 1; gives its entity tag.
    pub(crate) async fn put_part(
        &self,
        id: &str,
        number: u64,
        body: Bytes,
    ) -> Result<String, IoError> {
        let number = number.to_string();
        let query = [("partNumber", &*number), ("uploadId", id)];
        let answer =
            self.send(Ask { query: &query, body, ..self.ask(Method::PUT, UPLOADING) }).await?;
        let tag = entity_tag(&answer.headers).ok().flatten();
        let is_done = answer.status == StoreKind::S3.put() && !is_error(&answer.text);
        match tag {
            Some(tag) if is_done => Ok(tag.to_owned()),
            _ => Err(self.refused(&answer, UPLOADING)),
        }
    }

    /// Makes an object of `len` bytes of the parts with these tags, where `condition` holds.
    pub(crate) async fn complete(
        &self,
        id: &str,
        tags: &[String],
        len: u64,
        condition: Condition<'_>,
    ) -> Result<(), IoError> {
        let mut body = String::from("<CompleteMultipartUpload>");
        for (number, tag) in (1_u32..).zip(tags) {
            let tag = tag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            body.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            ));
        }
        body.push_str("</CompleteMultipartUpload>");
        let query = [("uploadId", id)];
        let mut ask =
            Ask { query: &query, body: body.into(), ..self.ask(Method::POST, COMPLETING) };
        ask.cancel = Cancel::default();
        let name = self.signed.name();
        if let Some((header, value)) = condition.header() {
            let value = HeaderValue::from_str(value).map_err(io::Error::other);
            ask.headers.insert(header, value.map_err(IoError::io(name, COMPLETING))?);
            // Whether it took effect cannot be told: the next one would be refused either way.
            ask.unanswered = Failure::permanent;
        }
        let answer = self.send(ask).await?;
        match answer.status {
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT
                if condition != Condition::None =>
            {
                Err(condition.failed(name))
            }
            // The store may keep the connection alive and answer 200 before it knows; what it knows is the document.
            _ if answer.says("CompleteMultipartUploadResult") => Ok(()),
            // The upload is gone, and a completion was not answered: most likely it was that which took effect.
            StatusCode::NOT_FOUND if answer.in_doubt && self.signed.len().await == Some(len) => {
                Ok(())
            }
            _ => Err(self.refused(&answer, COMPLETING)),
        }
    }

    /// Has the server copy what `headers` name to part `number`, counted from 1; gives its entity tag.
    pub(crate) async fn copy_part(
        &self,
        id: &str,
        number: usize,
        headers: HeaderMap,
    ) -> Result<String, IoError> {
        let number = number.to_string();
        let query = [("partNumber", &*number), ("uploadId", id)];
        let ask = self.ask(Method::PUT, COPYING);
        // Nothing of a long copy is seen before its end.
        let ask = Ask { query: &query, headers, patience: 2 * PATIENCE, ..ask };
        let answer = self.send(ask).await?;
        match word_of(&answer.text, "ETag").filter(|_| answer.says("CopyPartResult")) {
            Some(tag) => Ok(tag),
            None if answer.status == StatusCode::PRECONDITION_FAILED => {
                Err(IoError::Changed { location: self.signed.name().to_owned() })
            }
            None => Err(self.refused(&answer, COPYING)),
        }
    }

    /// Removes an upload and its parts.
    pub(crate) async fn abort(&self, id: &str) -> Result<(), IoError> {
        let query = [("uploadId", id)];
        let answer = self
            .send(Ask {
                query: &query,
                cancel: Cancel::default(),
                ..self.ask(Method::DELETE, REMOVING)
            })
            .await?;
        match answer.status {
            // An earlier try may have removed it.
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refused(&answer, REMOVING)),
        }
    }

    /// Sends the request until the server answers it with more than that it is busy.
    async fn send(&self, ask: Ask<'_>) -> Result<Answer, IoError> {
        let (name, doing) = (self.signed.name(), ask.doing);
        let mut sign = SignedUrlOptions::new().with_query(ask.query.iter().copied());
        sign.signed_headers.clone_from(&ask.headers);
        let store = &self.signed.store;
        let url = store.signed_url_opts(ask.method.clone(), ask.path, SIGNED_FOR, &sign).await;
        let mut url = url.map_err(failed(name, doing))?;
        if self.signed.is_anonymous() {
            // Signed with placeholders only to learn the address.
            url.query_pairs_mut().clear().extend_pairs(ask.query);
        }
        let counters = Arc::clone(&self.counters);
        let mut retries =
            Retries::new(&self.options, ask.cancel.clone(), counters).at_most(ask.retries);
        let mut in_doubt = false;
        loop {
            let request = self.http.request(ask.method.clone(), url.clone());
            let request = request.headers(ask.headers.clone());
            let tried = self.exchange(request, &ask);
            match retries.patience.within(tried).await {
                Ok(answer) => return Ok(Answer { in_doubt, ..answer }),
                Err(failure) => {
                    in_doubt |= !failure.is_answer();
                    match retries.wait(failure, false, name).await {
                        Ok(()) => {}
                        Err(IoError::Io { source, .. }) => {
                            return Err(IoError::io(name, doing)(source));
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends the request once. It is broken off when nothing moves, however long it takes.
    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        ask: &Ask<'_>,
    ) -> Result<Answer, Failure> {
        let Ask { most, patience, unanswered, .. } = *ask;
        let len = ask.body.len();
        let (body, taken) = Metered::new(ask.body.clone());
        let request = request.body(reqwest::Body::wrap(body));
        self.counters.requests.add(1);
        let mut exchange = pin!(async {
            let response = request.send().await.map_err(Unread::Broken)?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok((status, headers, bounded::text(response, most).await?))
        });
        let (mut before, mut still) = (0, 0);
        let stall_timeout = self.options.stall_timeout;
        let outcome: Result<_, Unread<reqwest::Error>> = loop {
            if let Ok(outcome) = tokio::time::timeout(stall_timeout, &mut exchange).await {
                break outcome;
            }
            let now = taken.load(Ordering::Relaxed);
            still = if now > before { 0 } else { still + 1 };
            before = now;
            if still >= if now < len { 1 } else { patience } {
                self.counters.stalls.add(1);
                return Err(unanswered(format!("no answer for {:?}", stall_timeout * still)));
            }
        };
        let (status, headers, text) = outcome.map_err(|unread| match unread {
            Unread::TooLong => Failure::permanent(format!("an answer of more than {most} bytes")),
            Unread::Broken(error) => judged(error, unanswered),
        })?;
        let is_busy = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            || matches!(
                element(&text, "Code"),
                Some("InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout")
            );
        match is_busy {
            true => Err(Failure::busy(answered(&status.to_string(), &text), retry_after(&headers))),
            false => Ok(Answer { status, headers, text, in_doubt: false }),
        }
    }

    fn refused(&self, answer: &Answer, doing: &'static str) -> IoError {
        let kind = match answer.status {
            StatusCode::NOT_FOUND => io::ErrorKind::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        let mut why = answered(&answer.status.to_string(), &answer.text);
        if answer.status.is_success() {
            why.push_str(", which is not the answer to this request");
        }
        IoError::io(self.signed.name(), doing)(io::Error::new(kind, why))
    }
}

pub(crate) fn exists(name: &str) -> IoError {
    IoError::io(name, "create")(io::ErrorKind::AlreadyExists.into())
}
