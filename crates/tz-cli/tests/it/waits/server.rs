//! Servers that keep a client waiting, on 127.0.0.1. Owns [`Server`].

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The range that is asked for, of the file.
    Range,
    /// Nothing at all.
    Never,
    /// Half of the range, then nothing.
    Half,
    /// The range, a byte at a time.
    Crawl,
    /// `100 Continue`, again and again.
    Continue,
    /// The head, a byte at a time and without end.
    DripHead,
    /// A status line of this status, and nothing else.
    Status(u16),
    /// What is no HTTP: a TLS alert.
    Alert,
    /// A document.
    Text(&'static str),
    /// Success, with an entity tag.
    Stored,
}

/// A request: its number, method and target.
pub(super) type Policy = dyn Fn(usize, &str, &str) -> Act + Send + Sync;

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<String>>,
    changed: Condvar,
}

/// Answers every request as its policy says, until the test ends.
pub(super) struct Server {
    address: SocketAddr,
    log: Arc<Log>,
}

impl Server {
    pub(super) fn new(
        file: Vec<u8>,
        policy: impl Fn(usize, &str, &str) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("port");
        let address = listener.local_addr().expect("address");
        let log = Arc::new(Log::default());
        let (policy, file): (Arc<Policy>, _) = (Arc::new(policy), Arc::new(file));
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let (log, policy) = (Arc::clone(&shared), Arc::clone(&policy));
                let file = Arc::clone(&file);
                // A client that goes away ends its own connection only.
                std::thread::spawn(move || serve(socket, &log, &*policy, &file));
            }
        });
        Self { address, log }
    }

    pub(super) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }

    /// Requests so far, as `METHOD TARGET`. A connection on which no HTTP came is `?`.
    pub(super) fn requests(&self) -> Vec<String> {
        self.log.requests.lock().expect("log").clone()
    }

    /// Waits until `count` requests that begin with `start` have come.
    pub(super) fn wait_for(&self, count: usize, start: &str) {
        let mut requests = self.log.requests.lock().expect("log");
        while requests.iter().filter(|request| request.starts_with(start)).count() < count {
            let timeout = Duration::from_secs(60);
            let (woken, late) = self.log.changed.wait_timeout(requests, timeout).expect("log");
            requests = woken;
            assert!(!late.timed_out(), "no {start:?} among {requests:?}");
        }
    }
}

fn serve(socket: TcpStream, log: &Log, policy: &Policy, file: &[u8]) {
    let mut reader = BufReader::new(socket.try_clone().expect("socket"));
    while let Some(request) = read_request(&mut reader) {
        let mut requests = log.requests.lock().expect("log");
        let number = requests.len();
        requests.push(format!("{} {}", request.method, request.target));
        drop(requests);
        log.changed.notify_all();
        let act = policy(number, &request.method, &request.target);
        // What is no HTTP has no second request either.
        if answer(&socket, act, request.range, file).is_none() || request.method == "?" {
            return;
        }
    }
}

struct Request {
    method: String,
    target: String,
    range: Option<(usize, usize)>,
}

/// `None` where the client has gone. What is no HTTP is a request without method and target.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let first = reader.fill_buf().ok().filter(|bytes| !bytes.is_empty())?;
    if !first.first()?.is_ascii_uppercase() {
        let taken = first.len();
        reader.consume(taken);
        return Some(Request { method: "?".into(), target: String::new(), range: None });
    }
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let field = |name: &str| {
        let fields = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.clone().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let len = field("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.by_ref().take(len), &mut std::io::sink()).ok()?;
    let range = field("range").and_then(|range| {
        let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, last.parse().ok()?))
    });
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    Some(Request { method: words.next()?, target: words.next()?, range })
}

/// `None` ends the connection.
fn answer(mut out: &TcpStream, act: Act, range: Option<(usize, usize)>, file: &[u8]) -> Option<()> {
    let (start, last) = range.unwrap_or((0, usize::MAX));
    let last = last.min(file.len().saturating_sub(1));
    let body = file.get(start..=last).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"e\"\r\nContent-Range: bytes {start}-{last}/{}\r\n\
         Content-Length: {}\r\n\r\n",
        file.len(),
        body.len()
    );
    match act {
        Act::Range => {
            out.write_all(head.as_bytes()).ok()?;
            out.write_all(body).ok()
        }
        Act::Never => silence(out),
        Act::Half => {
            out.write_all(head.as_bytes()).ok()?;
            out.write_all(body.get(..body.len() / 2).unwrap_or_default()).ok()?;
            silence(out)
        }
        Act::Crawl => {
            out.write_all(head.as_bytes()).ok()?;
            body.iter().try_for_each(|&byte| drip(out, &[byte]))
        }
        Act::Continue => loop {
            drip(out, b"HTTP/1.1 100 Continue\r\n\r\n")?;
        },
        Act::DripHead => {
            out.write_all(b"HTTP/1.1 200 OK\r\nX-Filler: ").ok()?;
            loop {
                drip(out, b"x")?;
            }
        }
        Act::Status(status) => {
            write!(out, "HTTP/1.1 {status} Word\r\nContent-Length: 0\r\n\r\n").ok()
        }
        Act::Alert => {
            out.write_all(b"\x15\x03\x03\x00\x02\x02\x46").ok()?;
            None
        }
        Act::Text(text) => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).ok()
        }
        Act::Stored => {
            out.write_all(b"HTTP/1.1 200 OK\r\nETag: \"p\"\r\nContent-Length: 0\r\n\r\n").ok()
        }
    }
}

/// A little, and a pause before the next in which the client may go away.
fn drip(mut out: &TcpStream, bytes: &[u8]) -> Option<()> {
    out.write_all(bytes).ok()?;
    out.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
    match out.read(&mut [0]) {
        Ok(0) => None,
        _ => Some(()),
    }
}

/// Until the client goes away.
fn silence(mut out: &TcpStream) -> Option<()> {
    let _ = out.read(&mut [0]);
    None
}
