//! Requests to S3 about one object, sent over presigned URLs: multipart uploads and the list of unfinished ones. Owns
//! [`S3Object`] and [`unfinished_uploads`].
//!
//! `object_store` could send most of them. These count and retry as reads do, tell a slow link from a dead one by
//! whether bytes move, and complete an upload under a condition.

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
use super::retry::{Failure, Retries, retry_after};
use super::runtime::run;
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use super::transport::{cause, http_client, is_hopeless};
use super::words::{answered, element, is_document, is_word, unescaped, word_of};
use crate::error::IoError;

const STARTING: &str = "start an upload to";
const UPLOADING: &str = "upload to";
pub(crate) const COMPLETING: &str = "complete the upload to";
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
            patience: PATIENCE,
            unanswered: Failure::transient,
        }
    }

    /// Starts an upload. One whose answer is lost stays behind without parts, for a later writer to name.
    pub(crate) async fn start(&self) -> Result<String, IoError> {
        let query = [("uploads", "")];
        let answer = self.send(Ask { query: &query, ..self.ask(Method::POST, STARTING) }).await?;
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
        let tag = answer.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
        match tag.filter(|tag| is_word(tag)) {
            Some(tag) if answer.status.is_success() => Ok(tag.to_owned()),
            _ => Err(self.refused(&answer, UPLOADING)),
        }
    }

    /// Makes an object of `len` bytes of the parts with these tags; with `create_only`, unless there is one.
    pub(crate) async fn complete(
        &self,
        id: &str,
        tags: &[String],
        len: u64,
        create_only: bool,
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
        if create_only {
            ask.headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            // Whether it took effect cannot be told: the next one would be refused either way.
            ask.unanswered = Failure::permanent;
        }
        let answer = self.send(ask).await?;
        match answer.status {
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT if create_only => {
                Err(exists(self.signed.name()))
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

    /// Removes an upload and its parts.
    pub(crate) async fn abort(&self, id: &str) -> Result<(), IoError> {
        let query = [("uploadId", id)];
        let answer = self.send(Ask { query: &query, ..self.ask(Method::DELETE, REMOVING) }).await?;
        match answer.status {
            // An earlier try may have removed it.
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refused(&answer, REMOVING)),
        }
    }

    /// Names uploads of the object that were never finished. What a killed writer leaves is invisible but costs money;
    /// only a person knows whether another writer is at work.
    pub(crate) async fn warn_of_unfinished(&self, key: &str) {
        // Listing may be forbidden or unknown to the store: no reason not to write, nor to wait long.
        for upload in self.uploads(key, 0).await.unwrap_or_default() {
            let location = self.signed.name();
            tracing::warn!(
                location,
                upload,
                "an earlier upload of this object was never finished; if no other writer is at work, \
                 --abort-unfinished removes it"
            );
        }
    }

    /// `ListMultipartUploads` of the uploads of `key`. One page holds 1,000, and keys sort before the keys that they
    /// begin.
    async fn uploads(&self, key: &str, retries: u32) -> Result<Vec<String>, IoError> {
        let query = [("uploads", ""), ("prefix", key)];
        let root = Path::default();
        let ask = self.ask(Method::GET, LISTING);
        let most = MAX_LISTING;
        let ask = Ask { path: &root, query: &query, most, retries, patience: 1, ..ask };
        let answer = self.send(ask).await?;
        match answer.says("ListMultipartUploadsResult") {
            true => Ok(upload_ids(&answer.text, key)),
            false => Err(self.refused(&answer, LISTING)),
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
        let mut retries = Retries::new(ask.retries, self.options.deadline, counters);
        let mut in_doubt = false;
        loop {
            let request = self.http.request(ask.method.clone(), url.clone());
            let request = request.headers(ask.headers.clone());
            let tried = self.exchange(request, &ask);
            match retries.within(tried).await {
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
            Unread::Broken(error) if is_hopeless(&error) => Failure::permanent(cause(error)),
            Unread::Broken(error) => unanswered(cause(error)),
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

/// Uploads of this object that were never completed, which is what a killed writer leaves, by upload id. `abort`
/// removes them: only for who knows that no other writer is at work. Stores other than S3 clean up by themselves.
///
/// # Errors
/// [`IoError::Io`] where the store does not list or remove uploads.
pub fn unfinished_uploads(
    location: &RemoteLocation,
    options: &RemoteOptions,
    abort: bool,
) -> Result<Vec<String>, IoError> {
    let RemoteKind::Object { store: StoreKind::S3, key, .. } = &location.kind else {
        return Ok(Vec::new());
    };
    run(&location.to_string(), LISTING, async {
        let object = S3Object::new(Signed::new(location, options).await?, options)?;
        let ids = object.uploads(key, options.retries).await?;
        if abort {
            for id in &ids {
                object.abort(id).await?;
            }
        }
        Ok(ids)
    })
}

pub(crate) fn exists(name: &str) -> IoError {
    IoError::io(name, "create")(io::ErrorKind::AlreadyExists.into())
}

/// Upload ids of exactly `key` in a `ListMultipartUploadsResult`.
fn upload_ids(listing: &str, key: &str) -> Vec<String> {
    let text = |upload, name| element(upload, name).map(unescaped);
    let uploads = listing.split("<Upload>").skip(1);
    uploads
        .filter(|upload| text(upload, "Key").as_deref() == Some(key))
        .filter_map(|upload| word_of(upload, "UploadId"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_name_uploads_of_the_very_key() {
        let listing = "<ListMultipartUploadsResult><Upload><Key>a/b</Key><UploadId>1</UploadId></Upload>\
            <Upload><Key>a/b.bak</Key><UploadId>2</UploadId></Upload><Upload><UploadId>3&amp;</UploadId>\
            <Key>a/b</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(upload_ids(listing, "a/b"), ["1", "3&"]);
        let odd = "<Upload><Key>a/b</Key><UploadId>\u{1b}[2J</UploadId></Upload>";
        assert_eq!(upload_ids(odd, "a/b"), [""; 0], "ids are printed");
    }
}
