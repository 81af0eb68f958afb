//! One ranged GET at a time. Owns [`Client`]: requests, answers and what they say about the object.

use std::fmt;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::Scatter;
use super::body::LibraryBody;
use super::direct::{Direct, Head, Refused, SocketBody};
use super::head::{Checked, Identity, checked};
use super::object::Signed;
use super::options::RemoteOptions;
use super::patience::Patience;
use super::retry::{Failure, Retries};
use super::runtime::{attempt, block_on};
use super::target::{RemoteKind, RemoteLocation};
use super::transport::{get, http_client};
use crate::error::IoError;
use crate::options::Cancel;
use crate::source::SourceCounters;
use crate::stats::Counter;

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

impl Answer {
    fn of(head: Checked, body: Body) -> Self {
        let Checked { identity, total, ranged } = head;
        Self { identity, total, ranged, body }
    }
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

    /// Set by the caller's flag for every location, and by the one for this work.
    pub(crate) fn cancel(&self, work: &Cancel) -> Cancel {
        self.options.cancel.or(work)
    }

    /// The tries of one range, until it has come or `cancel` is set.
    pub(crate) fn retries(&self, cancel: &Cancel) -> Retries {
        Retries::new(&self.options, cancel.clone(), Arc::clone(&self.counters))
    }

    /// The first request, for the first `asked` bytes: learns what the object is and brings `wanted` of them. The rest,
    /// and all of it from a server that ignores the range, is left in the body.
    pub(crate) fn first(&self, asked: u64, wanted: u64) -> Result<(Answer, Bytes), IoError> {
        let mut retries = self.retries(&self.options.cancel);
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
        let mut answer = match self.ask(0..asked, None, retries) {
            Err(failure) if failure.is_unsatisfiable() => self.empty(failure, retries)?,
            asked => asked?,
        };
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

    /// The answer of an object that lacks its first byte, if it is empty: no refusal alone makes it that.
    fn empty(&self, refused: Failure, retries: &Retries) -> Result<Answer, Failure> {
        let whole = attempt(retries.patience.within(self.get(None, None, &retries.patience)))?;
        match whole {
            Answer { ranged: false, total: Some(0), .. } => Ok(Answer { ranged: true, ..whole }),
            _ => Err(refused),
        }
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
        attempt(retries.patience.within(self.get(Some(range), identity, &retries.patience)))
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
            Body::Library(body) => attempt(retries.patience.within(body.read_to(len, out))),
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
        let url = attempt(retries.patience.within(self.url()))?;
        if !direct.serves(&url) {
            return Ok(None);
        }
        let tag = identity.and_then(Identity::strong_tag);
        self.counters.requests.add(1);
        match direct.get(&url, range, tag, &retries.patience) {
            Ok(Head { status, headers, body }) => {
                let checked = checked(status, &headers, Some(range), identity)?;
                Ok(Some(Answer::of(checked, Body::Socket(body))))
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

    /// Through the library; without a range, of the whole object.
    async fn get(
        &self,
        range: Option<Range<u64>>,
        identity: Option<&Identity>,
        patience: &Patience,
    ) -> Result<Answer, Failure> {
        let url = self.url().await?;
        let mut headers = HeaderMap::new();
        let mut set = |name, value: &str| -> Result<(), Failure> {
            headers.insert(name, HeaderValue::from_str(value).map_err(Failure::permanent)?);
            Ok(())
        };
        if let Some(range) = &range {
            set(header::RANGE, &format!("bytes={}-{}", range.start, range.end - 1))?;
        }
        // A compressed body has other offsets.
        set(header::ACCEPT_ENCODING, "identity")?;
        if let Some(tag) = identity.and_then(Identity::strong_tag) {
            set(header::IF_MATCH, tag)?;
        }
        self.counters.requests.add(1);
        let asked = get(self.http()?, url, &headers);
        let Ok(response) = tokio::time::timeout(self.options.stall_timeout, asked).await else {
            self.counters.stalls.add(1);
            return Err(Failure::stalled(self.options.stall_timeout));
        };
        let response = response?;
        let (status, headers) = (response.status(), response.headers());
        let checked = checked(status, headers, range.as_ref(), identity)?;
        let counters = Arc::clone(&self.counters);
        let ranged = range.filter(|_| checked.ranged);
        let end = |range: &Range<u64>| checked.total.unwrap_or(range.end).min(range.end);
        let len = ranged.map(|range| end(&range).saturating_sub(range.start));
        let body = LibraryBody::new(response, len, patience, counters);
        Ok(Answer::of(checked, Body::Library(body)))
    }
}
