//! A hub and its content network, each at an address of its own. Speaks the few requests that downloads are made of,
//! writes down what it is asked, and fails on purpose. Owns [`Server`].

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::reply::Reply;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of a model.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Stored outside of Git, and sent by the content network.
    pub(crate) large: bool,
}

/// What the hub says of a model; tests change what they are about.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) id: &'static str,
    pub(crate) revisions: Vec<&'static str>,
    pub(crate) files: Vec<File>,
    /// The token without which nothing is shown.
    pub(crate) token: Option<&'static str>,
    /// Instead of the digest.
    pub(crate) etag: Option<&'static str>,
    /// Instead of the commit, for files.
    pub(crate) commit_of_files: &'static str,
    /// Before the length of large files.
    pub(crate) sign: &'static str,
    /// How the listing is answered.
    pub(crate) listing: Listing,
}

/// How the listing is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    Usual,
    /// By the content network, to which the hub sends everyone.
    Elsewhere,
    /// With this status and no end.
    Endless(u16),
}

/// What befalls bodies of the content network, one answer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// One byte is another.
    Flip,
    /// More bytes come than were announced.
    Long,
    Status(u16),
    /// The range that was asked for is ignored.
    Whole,
    /// The head says so of the range that was asked for.
    Range(&'static str),
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) to_network: bool,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[derive(Debug)]
struct Shared {
    model: Mutex<Model>,
    log: Mutex<Vec<Record>>,
    /// Those to come, last first; the last one stays if `forever`.
    faults: Mutex<(Vec<Fault>, bool)>,
    /// Scheme, host and port of the content network.
    network: OnceLock<String>,
    /// Bytes of answers without end.
    endless: Arc<AtomicUsize>,
}

/// Serves one model until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: String,
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("threads")
    })
}

impl Server {
    pub(crate) fn new(model: Model) -> Self {
        Self::start(model, None)
    }

    /// Both over TLS.
    pub(crate) fn secure(model: Model, tls: TlsAcceptor) -> Self {
        Self::start(model, Some(tls))
    }

    fn start(model: Model, tls: Option<TlsAcceptor>) -> Self {
        let shared = Arc::new(Shared {
            model: Mutex::new(model),
            log: Mutex::default(),
            faults: Mutex::default(),
            network: OnceLock::new(),
            endless: Arc::default(),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listen = || {
            let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
            let address = listener.local_addr().expect("bound");
            (listener, format!("{scheme}://{address}"))
        };
        let (hub, endpoint) = listen();
        let (network, elsewhere) = listen();
        shared.network.set(elsewhere).expect("once");
        let accepting = vec![
            runtime().spawn(accept(hub, Arc::clone(&shared), false, tls.clone())),
            runtime().spawn(accept(network, Arc::clone(&shared), true, tls)),
        ];
        Self { endpoint, shared, accepting }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Bytes of answers without end that were sent.
    pub(crate) fn endless(&self) -> usize {
        self.shared.endless.load(Ordering::SeqCst)
    }

    pub(crate) fn log(&self) -> Vec<Record> {
        self.shared.log.lock().expect("no panic").clone()
    }

    /// Names of files whose bytes were asked for, in order.
    pub(crate) fn sent(&self) -> Vec<String> {
        let gets = self.log().into_iter().filter(|record| record.method == Method::GET);
        let names = gets.filter_map(|record| {
            let (_, name) = record.path.split_once("/resolve/")?;
            Some(name.split_once('/')?.1.to_owned())
        });
        names.collect()
    }

    /// Lets these befall the next bodies of the content network, in this order.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        let faults = faults.iter().rev().copied().collect();
        *self.shared.faults.lock().expect("no panic") = (faults, false);
    }

    /// Lets this befall every body from now on.
    pub(crate) fn fail_always(&self, fault: Fault) {
        *self.shared.faults.lock().expect("no panic") = (vec![fault], true);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.shared.model.lock().expect("no panic"));
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    network: bool,
    tls: Option<TlsAcceptor>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        runtime().spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = shared.answer(&request, network);
                std::future::ready(Ok::<_, io::Error>(answer))
            });
            let builder = hyper::server::conn::http1::Builder::new();
            // A client that hangs up is part of some tests.
            let _ = match tls {
                Some(tls) => {
                    let Ok(socket) = tls.accept(socket).await else { return };
                    builder.serve_connection(TokioIo::new(socket), service).await
                }
                None => builder.serve_connection(TokioIo::new(socket), service).await,
            };
        });
    }
}

type Answer = Response<Reply>;

fn status(code: u16, error_code: &str) -> Answer {
    let status = StatusCode::from_u16(code).expect("a status");
    let answer = Response::builder().status(status).header("x-error-code", error_code);
    answer.body(Reply::whole(Bytes::from_static(b"{\"error\": \"no\"}"))).expect("a response")
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>, network: bool) -> Answer {
        let path = request.uri().path().to_owned();
        let headers = request.headers().clone();
        let record =
            Record { method: request.method().clone(), path, headers, to_network: network };
        self.log.lock().expect("no panic").push(record.clone());
        let model = self.model.lock().expect("no panic").clone();
        let is_listing = record.path.starts_with("/api/models/");
        if network && !is_listing {
            return self.content(&model, &record);
        }
        match model.listing {
            Listing::Elsewhere if is_listing && !network => {
                let place = format!("{}{}", self.network.get().expect("set"), record.path);
                let answer = Response::builder().status(307).header("location", place);
                return answer.body(Reply::whole(Bytes::new())).expect("a response");
            }
            Listing::Endless(status) if is_listing => {
                let reply = Reply { endless: Some(Arc::clone(&self.endless)), ..Reply::default() };
                return Response::builder().status(status).body(reply).expect("a response");
            }
            _ => {}
        }
        let expected = model.token.map(|token| format!("Bearer {token}"));
        if expected.is_some() && !network && record.header("authorization") != expected.as_deref() {
            return status(if record.header("authorization").is_some() { 403 } else { 401 }, "");
        }
        if let Some(rest) = record.path.strip_prefix("/api/models/") {
            let Some(revision) = rest.strip_prefix(&format!("{}/revision/", model.id)) else {
                return status(404, "RepoNotFound");
            };
            return model.about(&revision.replace("%2F", "/"));
        }
        let prefix = format!("/{}/resolve/{COMMIT}/", model.id);
        let name = record.path.strip_prefix(&prefix);
        match name.and_then(|name| model.files.iter().find(|file| file.name == name)) {
            Some(file) => self.resolve(&model, file, &record),
            None => status(404, "EntryNotFound"),
        }
    }

    /// A file of the hub: its bytes, or the way to them.
    fn resolve(&self, model: &Model, file: &File, record: &Record) -> Answer {
        let etag = model.etag.map_or_else(|| file.etag(), str::to_owned);
        let answer = Response::builder().header("x-repo-commit", model.commit_of_files);
        if !file.large {
            let head = record.method == Method::HEAD;
            let answer = answer
                .header("etag", format!("\"{etag}\""))
                .header("content-length", file.bytes.len());
            let bytes = if head { Bytes::new() } else { file.bytes.clone().into() };
            return answer.body(Reply::whole(bytes)).expect("a response");
        }
        let network = self.network.get().expect("set");
        answer
            .status(StatusCode::FOUND)
            .header("x-linked-etag", format!("\"{etag}\""))
            .header("x-linked-size", format!("{}{}", model.sign, file.bytes.len()))
            .header("location", format!("{network}/{}?signature=do-not-tell", file.name))
            .body(Reply::whole(Bytes::new()))
            .expect("a response")
    }

    fn content(&self, model: &Model, record: &Record) -> Answer {
        let name = record.path.trim_start_matches('/');
        let Some(file) = model.files.iter().find(|file| file.name == name) else {
            return status(404, "");
        };
        let fault = (record.method == Method::GET).then(|| self.next_fault()).flatten();
        if let Some(Fault::Status(code)) = fault {
            return status(code, "");
        }
        let range = record.header("range").filter(|_| fault != Some(Fault::Whole));
        let start = range.map_or(0, |range| {
            let start = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            start.expect("a range").0.parse().expect("a number")
        });
        let mut bytes = file.bytes.get(start..).unwrap_or_default().to_vec();
        let code = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut answer = Response::builder().status(code).header("accept-ranges", "bytes");
        if range.is_some() {
            let (last, len) = (file.bytes.len() - 1, file.bytes.len());
            let shown = match fault {
                Some(Fault::Range(shown)) => shown.to_owned(),
                _ => format!("bytes {start}-{last}/{len}"),
            };
            answer = answer.header("content-range", shown);
        }
        match fault {
            Some(Fault::Flip) => bytes[0] ^= 1,
            Some(Fault::Long) => bytes.push(0),
            _ => {}
        }
        let answer = answer.header("content-length", bytes.len());
        let reply = match fault {
            _ if record.method == Method::HEAD => Reply::whole(Bytes::new()),
            Some(Fault::Cut(len)) => {
                bytes.truncate(len);
                Reply { bytes: Some(bytes.into()), breaks: true, ..Reply::default() }
            }
            _ => Reply::whole(bytes.into()),
        };
        answer.body(reply).expect("a response")
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("no panic");
        if faults.1 { faults.0.last().copied() } else { faults.0.pop() }
    }
}

impl Model {
    /// What the hub says of a revision.
    fn about(&self, revision: &str) -> Answer {
        if revision != COMMIT && !self.revisions.contains(&revision) {
            return status(404, "RevisionNotFound");
        }
        let files = self.files.iter().map(|file| format!("{{\"rfilename\": {:?}}}", file.name));
        let files = files.collect::<Vec<_>>().join(", ");
        let text =
            format!("{{\"id\": {:?}, \"sha\": {COMMIT:?}, \"siblings\": [{files}]}}", self.id);
        let answer = Response::builder().header("content-type", "application/json");
        answer.body(Reply::whole(text.into())).expect("a response")
    }
}

impl File {
    pub(crate) fn new(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name, bytes: bytes.into(), large: false }
    }

    pub(crate) fn large(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { large: true, ..Self::new(name, bytes) }
    }

    /// As the hub names it: large files by their SHA-256, those of Git by forty digits.
    pub(crate) fn etag(&self) -> String {
        let digest = Sha256::digest(&self.bytes);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex[..if self.large { 64 } else { 40 }].to_owned()
    }
}

/// Runs a future on the servers' threads.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}
