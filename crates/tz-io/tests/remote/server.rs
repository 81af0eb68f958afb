//! An HTTP/1 server on 127.0.0.1 that writes down what it is asked and fails on purpose. Owns [`Server`].

pub(crate) mod body;
pub(crate) mod fault;
pub(crate) mod google;
pub(crate) mod objects;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod s3;
pub(crate) mod socket;
pub(crate) mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use body::{Counted, ReplyBody};
use fault::{Fault, Rule};
use socket::{ResetSwitch, Socket};

pub(crate) type Reply = Response<ReplyBody>;
pub(crate) type ReplyFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Answers requests that no fault has taken.
pub(crate) trait Site: Send + Sync + 'static {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture;
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Counted from 0.
    pub(crate) number: usize,
    pub(crate) method: Method,
    /// Host of an absolute URI, as a proxy gets it.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn range(&self) -> Option<Range<u64>> {
        let (start, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(start.parse().ok()?..last.parse::<u64>().ok()? + 1)
    }

    /// A parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_deref()?.as_bytes());
        let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        values.next()
    }
}

struct Shared {
    site: Arc<dyn Site>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Record>>,
    came: Condvar,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: AtomicUsize,
    connections: AtomicUsize,
    befallen: AtomicUsize,
    meeting: Mutex<Option<Meeting>>,
}

/// Requests that are answered once all of them have come.
struct Meeting {
    when: Box<dyn Fn(&Record) -> bool + Send>,
    barrier: Arc<Barrier>,
    to_come: usize,
}

impl Meeting {
    /// The place to wait at, for those who are to come.
    fn join(&mut self, record: &Record) -> Option<Arc<Barrier>> {
        if !(self.when)(record) {
            return None;
        }
        self.to_come = self.to_come.checked_sub(1)?;
        Some(Arc::clone(&self.barrier))
    }
}

/// Serves a site until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    /// Whoever is sent over it is told when every connection has ended.
    hang_up: mpsc::UnboundedSender<oneshot::Sender<()>>,
    scheme: &'static str,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Threads of every server of the process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("server").enable_all().build().expect("threads")
    })
}

impl Server {
    pub(crate) fn new(site: impl Site) -> Self {
        Self::start(site, None)
    }

    /// Serves over TLS.
    pub(crate) fn secure(site: impl Site, acceptor: TlsAcceptor) -> Self {
        Self::start(site, Some(acceptor))
    }

    fn start(site: impl Site, tls: Option<TlsAcceptor>) -> Self {
        let shared = Arc::new(Shared {
            site: Arc::new(site),
            rules: Mutex::default(),
            log: Mutex::default(),
            came: Condvar::new(),
            in_flight: Arc::default(),
            most_in_flight: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            befallen: AtomicUsize::new(0),
            meeting: Mutex::default(),
        });
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (hang_up, hung_up) = mpsc::unbounded_channel();
        let accepting = runtime().spawn(accept(listener, tls, Arc::clone(&shared), hung_up));
        Self { address, shared, accepting, hang_up, scheme }
    }

    /// `http://127.0.0.1:port` and the path, which starts with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets `fault` befall every request for which `when` holds, unless an earlier rule does.
    pub(crate) fn fault(&self, when: impl Fn(&Record) -> bool + Send + 'static, fault: Fault) {
        let rule = Rule { when: Box::new(when), fault };
        self.shared.rules.lock().expect("no panic").push(rule);
    }

    /// Takes back every fault.
    pub(crate) fn forgive(&self) {
        self.shared.rules.lock().expect("no panic").clear();
    }

    /// Lets `fault` befall about this share of the requests after the first, the same numbers for the same seed.
    pub(crate) fn fault_share(&self, share: f64, seed: u64, fault: Fault) {
        let hit = move |record: &Record| {
            let mut rng = fastrand::Rng::with_seed(seed ^ (record.number as u64) << 20);
            record.number > 0 && rng.f64() < share
        };
        self.fault(hit, fault);
    }

    /// Lets the next so many requests wait for each other.
    pub(crate) fn meet(&self, size: usize) {
        self.meet_if(|_| true, size);
    }

    /// Lets the next so many requests for which `when` holds wait for each other.
    pub(crate) fn meet_if(&self, when: impl Fn(&Record) -> bool + Send + 'static, size: usize) {
        let barrier = Arc::new(Barrier::new(size));
        let meeting = Meeting { when: Box::new(when), barrier, to_come: size };
        *self.shared.meeting.lock().expect("no panic") = Some(meeting);
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Record> {
        self.shared.log.lock().expect("no panic").clone()
    }

    /// Waits until a request for which `is_it` holds has come.
    pub(crate) fn wait_for(&self, is_it: impl Fn(&Record) -> bool) {
        let log = self.shared.log.lock().expect("no panic");
        let patience = Duration::from_secs(60);
        let none = |log: &mut Vec<Record>| !log.iter().any(&is_it);
        let waited = self.shared.came.wait_timeout_while(log, patience, none).expect("no panic");
        assert!(!waited.1.timed_out(), "{:?}", waited.0);
    }

    /// How many requests there were so far.
    pub(crate) fn requests(&self) -> usize {
        self.shared.log.lock().expect("no panic").len()
    }

    /// Resets every connection that there is, whatever is under way on it.
    pub(crate) fn hang_up(&self) {
        let (done, ended) = oneshot::channel();
        self.hang_up.send(done).expect("the server listens");
        runtime().block_on(ended).expect("the server listens");
    }

    /// How many requests a fault has befallen so far.
    pub(crate) fn befallen(&self) -> usize {
        self.shared.befallen.load(Ordering::SeqCst)
    }

    /// How many connections there were so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ranges asked for, from request `from` on, ascending.
    pub(crate) fn ranges_from(&self, from: usize) -> Vec<Range<u64>> {
        let mut ranges: Vec<_> = self.log().iter().skip(from).filter_map(Record::range).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges
    }

    /// Most requests that were being answered at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }
}

/// Connections end with it: clients keep theirs as long as the process lives, and a site holds folders.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut hung_up: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    let mut connections = JoinSet::new();
    let mut switches: Vec<ResetSwitch> = Vec::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => break,
            },
            Some(done) = hung_up.recv() => {
                switches.drain(..).for_each(|switch| switch.on());
                connections.shutdown().await;
                // Nobody waits any more where the test has failed.
                let _ = done.send(());
                continue;
            }
        };
        let (shared, tls, reset) = (Arc::clone(&shared), tls.clone(), ResetSwitch::default());
        shared.connections.fetch_add(1, Ordering::SeqCst);
        switches.push(reset.clone());
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            stream.set_nodelay(true).expect("a socket");
            let socket = Socket::new(stream, reset.clone());
            match tls {
                // A client that refuses the certificate ends the handshake.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(stream, shared, reset).await;
                    }
                }
                None => serve(socket, shared, reset).await,
            }
        });
    }
}

async fn serve<S>(stream: S, shared: Arc<Shared>, reset: ResetSwitch)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (shared, reset) = (Arc::clone(&shared), reset.clone());
        async move { shared.answer(request, &reset).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Broken connections are what this server is for.
    let _ = connection.await;
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, reset: &ResetSwitch) -> io::Result<Reply> {
        let counted = Counted::new(Arc::clone(&self.in_flight));
        self.most_in_flight.fetch_max(counted.now, Ordering::SeqCst);
        let record = self.note(&request);
        let meeting = {
            let mut meeting = self.meeting.lock().expect("no panic");
            meeting.as_mut().and_then(|meeting| meeting.join(&record))
        };
        if let Some(barrier) = meeting {
            barrier.wait().await;
        }
        let fault = {
            let rules = self.rules.lock().expect("no panic");
            rules.iter().find(|rule| (rule.when)(&record)).map(|rule| rule.fault.clone())
        };
        let reply = match fault {
            Some(fault) => {
                self.befallen.fetch_add(1, Ordering::SeqCst);
                fault.befall(request, &*self.site, reset).await?
            }
            None => self.site.reply(request).await,
        };
        let len = reply.headers().get(http::header::CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
        Ok(reply.map(|body| body::counted(body, len, counted)))
    }

    fn note(&self, request: &Request<Incoming>) -> Record {
        let mut log = self.log.lock().expect("no panic");
        let record = Record {
            number: log.len(),
            method: request.method().clone(),
            host: request.uri().host().map(str::to_owned),
            path: request.uri().path().to_owned(),
            query: request.uri().query().map(str::to_owned),
            headers: request.headers().clone(),
        };
        log.push(record.clone());
        self.came.notify_all();
        record
    }
}
