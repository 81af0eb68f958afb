//! The HTTP below `object_store`. Owns [`Connector`].
//!
//! Stores and the services that hand out keys are asked through it, by code that follows redirects with every header,
//! makes room for as many bytes as an answer announces, and puts what answers say into requests as it comes. Here
//! redirects are answers, bodies are bounded, and words are checked.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use http::{Method, StatusCode, header};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use tokio::time::timeout;
use url::Url;

use super::bounded::{MAX_ANSWER, Unread, read, reason};
use super::head::unencoded;
use super::options::RemoteOptions;
use super::prospect::{Prospect, Reach, prospect};
use super::retry::Failure;
use super::target::StoreKind;
use super::transport::{CONNECT_TIMEOUT, Last, bare_client, has_proxy, http_client};
use super::words::{self, Use, answered, content_length, digits, entity_tag, is_error};
use crate::error::IoError;

/// Stall timeouts that a request gets: a part of an upload may take long on a slow link.
const PATIENCE: u32 = 4;

/// Makes clients for `object_store`, each of which asks one store or one service.
#[derive(Debug)]
pub(crate) struct Connector {
    options: RemoteOptions,
    name: String,
    kind: StoreKind,
}

impl Connector {
    /// For requests about the object of this name in a store of this kind.
    pub(crate) fn new(
        options: &RemoteOptions,
        name: &str,
        kind: StoreKind,
    ) -> Result<Self, IoError> {
        if options.ca_bundle.is_some() {
            // What is wrong with it shows now.
            http_client(options, name)?;
        }
        Ok(Self { options: options.clone(), name: name.to_owned(), kind })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let told = |key| options.get_config_value(&key);
        let seconds = told(ClientConfigKey::ConnectTimeout);
        let seconds = seconds.and_then(|text| digits(text.strip_suffix('s')?));
        let guard = Guard {
            options: self.options.clone(),
            name: self.name.clone(),
            kind: self.kind,
            tls_only: told(ClientConfigKey::AllowHttp).as_deref() == Some("false"),
            connect_timeout: seconds.map_or(CONNECT_TIMEOUT, Duration::from_secs),
            reach: Reach::default(),
            bare: OnceLock::new(),
            full: OnceLock::new(),
        };
        Ok(HttpClient::new(guard))
    }
}

/// Sends requests and looks at the answers before the store does.
#[derive(Debug)]
struct Guard {
    options: RemoteOptions,
    name: String,
    kind: StoreKind,
    tls_only: bool,
    connect_timeout: Duration,
    reach: Reach,
    /// For plain HTTP: the system's certificates take longer to read than a request.
    bare: OnceLock<reqwest::Client>,
    full: OnceLock<reqwest::Client>,
}

impl HttpService for Guard {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.exchange(request))
    }
}

impl Guard {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url = Url::parse(&request.uri().to_string());
        let url = url.map_err(|_| refused("the address of a request is none"))?;
        if self.tls_only && url.scheme() != "https" {
            return Err(refused("the service must be asked over TLS"));
        }
        let is_get = request.method() == Method::GET;
        let is_put = request.method() == Method::PUT;
        let range = request.headers().get(header::RANGE).filter(|_| is_get);
        let asked = range.and_then(|range| range_len(range.to_str().ok()?));
        let goes_to = if is_get { Use::Address } else { Use::Header };
        let patience = self.options.stall_timeout.saturating_mul(PATIENCE);
        let late =
            |_| HttpError::new(HttpErrorKind::Timeout, Odd(format!("no answer for {patience:?}")));
        let sent = self.client(&url)?.call(request);
        let sent = timeout(patience, sent).await.map_err(late)?;
        let answer = sent.map_err(|error| self.judged(error))?;
        self.reach.is_lost(Prospect::Good);
        let (head, mut body) = answer.into_parts();
        let odd = |odd: Failure| refused(odd.into_io().to_string());
        content_length(&head.headers).map_err(odd)?;
        entity_tag(&head.headers).map_err(odd)?;
        if !head.status.is_success() {
            return Ok(HttpResponse::from_parts(head, reason(&mut body).await.into()));
        }
        let is_data = head.status == StatusCode::PARTIAL_CONTENT;
        let asked = asked.filter(|_| is_data);
        if is_data {
            unencoded(&head.headers).map_err(odd)?;
        }
        let most = asked.unwrap_or(MAX_ANSWER);
        let mut bytes = Vec::new();
        timeout(patience, read(&mut body, most, &mut bytes)).await.map_err(late)?.map_err(
            |unread| match unread {
                Unread::TooLong => refused(format!("an answer of more than {most} bytes")),
                Unread::Broken(error) => error,
            },
        )?;
        let text = String::from_utf8_lossy(&bytes);
        if is_put && (head.status != self.kind.put() || is_error(&text)) {
            let why = answered(&head.status.to_string(), &text);
            return Err(refused(format!("{why}, which is not the answer to this request")));
        }
        if asked.is_none() {
            bytes = words::checked(&bytes, goes_to).map_err(refused)?.to_vec();
        }
        Ok(HttpResponse::from_parts(head, bytes.into()))
    }

    /// Lets the store repeat only what may succeed then.
    fn judged(&self, error: HttpError) -> HttpError {
        let is_connecting = error.kind() == HttpErrorKind::Connect;
        match self.reach.is_lost(prospect(&error, is_connecting)) {
            true => refused(Last(&error).to_string()),
            false => error,
        }
    }

    fn client(&self, url: &Url) -> Result<&reqwest::Client, HttpError> {
        let is_bare = url.scheme() == "http" && !has_proxy();
        let place = if is_bare { &self.bare } else { &self.full };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let made = match is_bare {
            true => bare_client(self.connect_timeout, &self.name),
            false => http_client(&self.options, &self.name),
        };
        let made = made.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        Ok(place.get_or_init(|| made))
    }
}

/// How many bytes `bytes=first-last` asks for.
fn range_len(range: &str) -> Option<usize> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let len = digits(last)?.checked_sub(digits(first)?)?.checked_add(1)?;
    usize::try_from(len).ok()
}

/// Something that another try would not change.
fn refused(why: impl Into<String>) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, Odd(why.into()))
}

#[derive(Debug)]
struct Odd(String);

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Odd {}
