//! One ranged GET at a time. Owns [`Client`]: requests, answers and what they say about the object.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::Scatter;
use super::direct::{Direct, Refused};
use super::object::Signed;
use super::options::RemoteOptions;
use super::retry::{Failure, Retries, refusal};
use super::runtime::block_on;
use super::target::{RemoteKind, RemoteLocation};
use super::transport::{cause, http_client, is_hopeless};
use crate::error::IoError;
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
    /// Whether further ranges can be read by [`Client::read_direct`].
    pub(crate) direct: bool,
    pub(crate) body: Body,
}

/// Frames of a body; a pause of the stall timeout between two of them is a failure.
#[derive(Debug)]
pub(crate) struct Body {
    response: reqwest::Response,
    stall_timeout: Duration,
    counters: Arc<Counters>,
}

impl Body {
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.stall_timeout, self.response.chunk()).await {
            Ok(Ok(frame)) => {
                self.counters.bytes.add(frame.as_ref().map_or(0, |frame| frame.len() as u64));
                Ok(frame)
            }
            Ok(Err(error)) => Err(Failure::transient(cause(error))),
            Err(_) => {
                self.counters.stalls.add(1);
                Err(Failure::stalled(self.stall_timeout))
            }
        }
    }
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
    http: reqwest::Client,
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
        let http = http_client(options, &name)?;
        Ok(Self { http, target, name, options: options.clone(), counters: Arc::default() })
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

    pub(crate) fn retries(&self) -> Retries {
        Retries::new(self.options.retries, self.options.deadline, Arc::clone(&self.counters))
    }

    /// The first request: learns what the object is and keeps the first bytes of it. A server that ignores the range
    /// leaves the rest of the body to be read.
    pub(crate) async fn first(&self, range: Range<u64>) -> Result<(Answer, Bytes), IoError> {
        let mut retries = self.retries();
        loop {
            let result = async {
                let mut answer = self.get(range.clone(), None).await?;
                let mut first = Vec::new();
                if !answer.ranged {
                    return Ok((answer, Bytes::new()));
                }
                let total = answer.total.ok_or_else(|| {
                    Failure::permanent("the server does not say how long the object is")
                })?;
                // What the server sends beyond that, an endless body or the text of a refusal, is left unread.
                let mut left = usize::try_from(total.min(range.end)).unwrap_or(usize::MAX);
                while left > 0 {
                    let Some(frame) = self.frame(&mut answer.body).await? else {
                        return Err(Failure::transient("the body ended early"));
                    };
                    let frame = frame.slice(..frame.len().min(left));
                    left -= frame.len();
                    first.extend_from_slice(&frame);
                }
                Ok((answer, Bytes::from(first)))
            };
            match retries.within(result).await {
                Ok(found) => return Ok(found),
                Err(failure) => retries.wait(failure, false, &self.name).await?,
            }
        }
    }

    /// Requests `range`, of the object that `identity` describes.
    pub(crate) async fn get(
        &self,
        range: Range<u64>,
        identity: Option<&Identity>,
    ) -> Result<Answer, Failure> {
        let url = match &self.target {
            Target::Url(url) => url.clone(),
            Target::Signed(signed) => signed.url(http::Method::GET).await?,
        };
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let mut request = self.http.get(url).header(header::RANGE, asked);
        // A compressed body has other offsets.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(tag) = identity.and_then(Identity::strong_tag) {
            request = request.header(header::IF_MATCH, tag);
        }
        self.counters.requests.add(1);
        let sent = tokio::time::timeout(self.options.stall_timeout, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if is_hopeless(&error) => {
                return Err(Failure::permanent(cause(error)));
            }
            Ok(Err(error)) => return Err(Failure::transient(cause(error))),
            Err(_) => {
                self.counters.stalls.add(1);
                return Err(Failure::stalled(self.options.stall_timeout));
            }
        };
        self.answer(response, range, identity)
    }

    fn answer(
        &self,
        response: reqwest::Response,
        range: Range<u64>,
        identity: Option<&Identity>,
    ) -> Result<Answer, Failure> {
        let len = response.content_length();
        let checked = checked(response.status(), response.headers(), len, &range, identity)?;
        let Checked { identity, total, ranged } = checked;
        let direct = self.options.direct && ranged && len.is_some();
        let direct = direct && self.goes_direct(&response);
        let stall_timeout = self.options.stall_timeout;
        let body = Body { response, stall_timeout, counters: Arc::clone(&self.counters) };
        Ok(Answer { identity, total, ranged, direct, body })
    }

    /// Whether the answer came from where it was asked, and further ones can be had without a library.
    fn goes_direct(&self, response: &reqwest::Response) -> bool {
        let asked = match &self.target {
            Target::Url(url) => Some(url.clone()),
            Target::Signed(signed) => signed.signed_before(),
        };
        asked.is_some_and(|asked| {
            let came = response.url();
            let end = url::Position::AfterQuery;
            Direct::serves(&asked) && asked[..end] == came[..end]
        })
    }

    /// Reads `range` of the object that `identity` describes into `out`, on this very thread. `false` where the
    /// server's answer takes more than that.
    pub(crate) fn read_direct(
        &self,
        direct: &Direct,
        range: Range<u64>,
        (identity, whole): (&Identity, u64),
        out: &mut Scatter<'_, '_>,
        retries: &Retries,
    ) -> Result<bool, Failure> {
        let url = match &self.target {
            Target::Url(url) => url.clone(),
            Target::Signed(signed) => block_on(signed.url(http::Method::GET))?,
        };
        let stall_timeout = retries.at_most(self.options.stall_timeout);
        self.counters.requests.add(1);
        let count = |failure: Failure| match retries.check() {
            Err(late) if failure.is_stall() => late,
            _ => {
                self.counters.stalls.add(failure.is_stall().into());
                failure
            }
        };
        let head = match direct.get(&url, &range, identity.strong_tag(), stall_timeout) {
            Ok(head) => head,
            Err(Refused::Unusual) => return Ok(false),
            Err(Refused::Failed(failure)) => return Err(count(failure)),
        };
        let len = head.headers.get(header::CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        if head.status.is_redirection()
            || head.status.is_informational()
            || head.headers.contains_key(header::TRANSFER_ENCODING)
        {
            return Ok(false);
        }
        let checked = checked(head.status, &head.headers, len, &range, Some(identity))?;
        let wanted = range.end - range.start;
        match len {
            Some(len) if checked.ranged && checked.total.is_none_or(|total| total == whole) => {
                let received = |bytes| {
                    self.counters.bytes.add(bytes);
                    retries.check()
                };
                let out = (out, len <= wanted);
                let body = direct.body(head, len.min(wanted), out, stall_timeout, received);
                body.map_err(count)?;
                match len < wanted {
                    true => Err(Failure::transient("the body ended early")),
                    false => Ok(true),
                }
            }
            Some(_) if checked.ranged => Err(Failure::changed()),
            _ => Ok(false),
        }
    }

    pub(crate) async fn frame(&self, body: &mut Body) -> Result<Option<Bytes>, Failure> {
        body.next().await
    }
}

/// What the head of an answer says.
struct Checked {
    identity: Identity,
    total: Option<u64>,
    ranged: bool,
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
