//! One ranged GET at a time. Owns [`Client`]: requests, answers and what they say about the object.

use std::fmt;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::Scatter;
use super::body::LibraryBody;
use super::direct::{Direct, Head, Refused, SocketBody};
use super::object::Signed;
use super::options::RemoteOptions;
use super::patience::Patience;
use super::retry::{Failure, Retries, refusal};
use super::runtime::block_on;
use super::target::{RemoteKind, RemoteLocation};
use super::transport::{http_client, judged};
use crate::error::IoError;
use crate::options::Cancel;
use crate::source::SourceCounters;
use crate::stats::Counter;

/// What tells one version of an object from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Identity {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
                .map(str::to_owned)
        };
        Self { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) }
    }

    /// A weak tag never satisfies `If-Match`, so only a strong one is sent; both are compared.
    fn strong_tag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|tag| !tag.starts_with("W/"))
    }

    fn differs(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(first), Some(now)) => first != now,
            _ => {
                self.last_modified.is_some()
                    && other.last_modified.is_some()
                    && self.last_modified != other.last_modified
            }
        }
    }
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) identity: Identity,
    /// Length of the whole object.
    pub(crate) total: Option<u64>,
    /// Whether the body is the range that was asked for, rather than the whole object.
    pub(crate) ranged: bool,
    pub(crate) body: Body,
}

/// A body that may be left half read for a while and gone on with.
#[derive(Debug)]
pub(crate) enum Body {
    Socket(SocketBody),
    Library(LibraryBody),
}

/// Counters of one open location.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) bytes: Counter,
    pub(crate) retries: Counter,
    pub(crate) stalls: Counter,
}

/// Sends requests for one object.
pub(crate) struct Client {
    /// Made when something needs it: the system's certificates take longer to read than a request.
    http: OnceLock<reqwest::Client>,
    direct: Option<Direct>,
    target: Target,
    name: String,
    options: RemoteOptions,
    counters: Arc<Counters>,
}

/// Where requests go; the query of a presigned URL must not be printed.
enum Target {
    Url(url::Url),
    Signed(Signed),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) async fn new(
        location: &RemoteLocation,
        options: &RemoteOptions,
    ) -> Result<Self, IoError> {
        let name = location.to_string();
        let target = match &location.kind {
            RemoteKind::Http(url) => Target::Url(url.clone()),
            RemoteKind::Object { .. } => Target::Signed(Signed::new(location, options).await?),
        };
        let http = match options.ca_bundle {
            // What is wrong with it shows wherever the object is.
            Some(_) => http_client(options, &name)?.into(),
            None => OnceLock::new(),
        };
        let direct = options.direct.then(Direct::new);
        let counters = Arc::default();
        Ok(Self { http, direct, target, name, options: options.clone(), counters })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn counters(&self) -> SourceCounters {
        let Counters { requests, bytes, retries, stalls } = &*self.counters;
        SourceCounters {
            requests: requests.value(),
            bytes: bytes.value(),
            retries: retries.value(),
            stalls: stalls.value(),
        }
    }

    /// The tries of one range, until it has come or `cancel` is set.
    pub(crate) fn retries(&self, cancel: &Cancel) -> Retries {
        let cancel = self.options.cancel.or(cancel);
        Retries::new(&self.options, cancel, Arc::clone(&self.counters))
    }

    /// The first request, for the first `asked` bytes: learns what the object is and brings `wanted` of them. The rest,
    /// and all of it from a server that ignores the range, is left in the body.
    pub(crate) fn first(&self, asked: u64, wanted: u64) -> Result<(Answer, Bytes), IoError> {
        let mut retries = self.retries(&Cancel::default());
        loop {
            match self.try_first(asked, wanted, &retries) {
                Ok(found) => return Ok(found),
                Err(failure) => block_on(retries.wait(failure, false, &self.name))?,
            }
        }
    }

    fn try_first(
        &self,
        asked: u64,
        wanted: u64,
        retries: &Retries,
    ) -> Result<(Answer, Bytes), Failure> {
        let mut answer = self.ask(0..asked, None, retries)?;
        if !answer.ranged {
            return Ok((answer, Bytes::new()));
        }
        let total = answer
            .total
            .ok_or_else(|| Failure::permanent("the server does not say how long the object is"))?;
        let len = total.min(asked).min(wanted);
        let mut first = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let mut buffers = [IoSliceMut::new(&mut first)];
        self.read(&mut answer.body, len, &mut Scatter::new(&mut buffers), retries)?;
        Ok((answer, Bytes::from(first)))
    }

    /// Requests `range`, of the object that `identity` describes, by the shortest way that the server's answers allow.
    pub(crate) fn ask(
        &self,
        range: Range<u64>,
        identity: Option<&Identity>,
        retries: &Retries,
    ) -> Result<Answer, Failure> {
        if let Some(answer) = self.ask_direct(&range, identity, retries)? {
            return Ok(answer);
        }
        block_on(retries.patience.within(self.get(range, identity, &retries.patience)))
    }

    /// Reads the next `len` bytes of an answer's body.
    pub(crate) fn read(
        &self,
        body: &mut Body,
        len: u64,
        out: &mut Scatter<'_, '_>,
        retries: &Retries,
    ) -> Result<(), Failure> {
        match body {
            Body::Library(body) => block_on(retries.patience.within(body.read_to(len, out))),
            Body::Socket(body) => {
                let received = |bytes| self.counters.bytes.add(bytes);
                let read = body.read_to(len, out, &retries.patience, received);
                read.inspect_err(|failure| self.count(failure))
            }
        }
    }

    /// Gives back what a body that is not read further leaves.
    pub(crate) fn done(&self, body: Body) {
        if let (Some(direct), Body::Socket(body)) = (&self.direct, body) {
            direct.keep(body);
        }
    }

    /// Past the library; `None` where the request or its answer takes more than that.
    fn ask_direct(
        &self,
        range: &Range<u64>,
        identity: Option<&Identity>,
        retries: &Retries,
    ) -> Result<Option<Answer>, Failure> {
        let Some(direct) = &self.direct else { return Ok(None) };
        let url = block_on(retries.patience.within(self.url()))?;
        if !direct.serves(&url) {
            return Ok(None);
        }
        let tag = identity.and_then(Identity::strong_tag);
        self.counters.requests.add(1);
        match direct.get(&url, range, tag, &retries.patience) {
            Ok(Head { status, headers, body }) => {
                let checked = checked(status, &headers, Some(body.left()), range, identity)?;
                Ok(Some(checked.with(Body::Socket(body))))
            }
            Err(Refused::Unusual) => Ok(None),
            Err(Refused::Failed(failure)) => {
                self.count(&failure);
                Err(failure)
            }
        }
    }

    fn count(&self, failure: &Failure) {
        self.counters.stalls.add(failure.is_stall().into());
    }

    async fn url(&self) -> Result<url::Url, Failure> {
        match &self.target {
            Target::Url(url) => Ok(url.clone()),
            Target::Signed(signed) => signed.url(http::Method::GET).await,
        }
    }

    fn http(&self) -> Result<&reqwest::Client, Failure> {
        if let Some(client) = self.http.get() {
            return Ok(client);
        }
        let client = http_client(&self.options, &self.name);
        let client = client.map_err(|error| Failure::permanent(error.to_string()))?;
        Ok(self.http.get_or_init(|| client))
    }

    /// Through the library.
    async fn get(
        &self,
        range: Range<u64>,
        identity: Option<&Identity>,
        patience: &Patience,
    ) -> Result<Answer, Failure> {
        let url = self.url().await?;
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let mut request = self.http()?.get(url).header(header::RANGE, asked);
        // A compressed body has other offsets.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(tag) = identity.and_then(Identity::strong_tag) {
            request = request.header(header::IF_MATCH, tag);
        }
        self.counters.requests.add(1);
        let sent = tokio::time::timeout(self.options.stall_timeout, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(judged(error, Failure::transient)),
            Err(_) => {
                self.counters.stalls.add(1);
                return Err(Failure::stalled(self.options.stall_timeout));
            }
        };
        let len = response.content_length();
        let checked = checked(response.status(), response.headers(), len, &range, identity)?;
        let counters = Arc::clone(&self.counters);
        let body = LibraryBody::new(response, patience, counters);
        Ok(checked.with(Body::Library(body)))
    }
}

/// What the head of an answer says.
struct Checked {
    identity: Identity,
    total: Option<u64>,
    ranged: bool,
}

impl Checked {
    fn with(self, body: Body) -> Answer {
        let Self { identity, total, ranged } = self;
        Answer { identity, total, ranged, body }
    }
}

/// Holds the head of an answer against what was asked.
fn checked(
    status: StatusCode,
    headers: &HeaderMap,
    len: Option<u64>,
    range: &Range<u64>,
    identity: Option<&Identity>,
) -> Result<Checked, Failure> {
    let now = Identity::of(headers);
    let content_range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (total, ranged) = match status {
        StatusCode::PARTIAL_CONTENT => {
            let placed = content_range.and_then(parse_content_range);
            let (start, total) = placed
                .ok_or_else(|| Failure::permanent("an answer without a valid Content-Range"))?;
            if start != range.start {
                return Err(Failure::permanent("the server answered another range"));
            }
            (total, true)
        }
        StatusCode::OK => (len, false),
        // An empty object has no byte 0: the answer to `bytes=0-` is 416, from most servers with its length.
        StatusCode::RANGE_NOT_SATISFIABLE
            if range.start == 0 && matches!(content_range, None | Some("bytes */0")) =>
        {
            (Some(0), true)
        }
        _ => return Err(refusal(status, headers, identity.is_some())),
    };
    if identity.is_some_and(|identity| identity.differs(&now)) {
        return Err(Failure::changed());
    }
    Ok(Checked { identity: now, total, ranged })
}

/// `bytes start-end/total`, total possibly `*`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/100"), Some((5, Some(100))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes */5", "bytes 5/9", "5-9/100", "bytes a-b/c"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn identities() {
        let tag = |etag: &str| Identity { etag: Some(etag.into()), last_modified: None };
        let date = |date: &str| Identity { etag: None, last_modified: Some(date.into()) };
        assert!(tag("\"a\"").differs(&tag("\"b\"")) && !tag("\"a\"").differs(&tag("\"a\"")));
        assert!(date("x").differs(&date("y")) && !date("x").differs(&tag("\"a\"")));
        assert_eq!((tag("W/\"a\"").strong_tag(), tag("\"a\"").strong_tag()), (None, Some("\"a\"")));
    }
}
