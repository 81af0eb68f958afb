//! Ranges over plain HTTP, from the socket into the caller's memory. Owns [`Direct`].
//!
//! Inside a cluster objects often come over HTTP without TLS, as fast as memory is written; there a library's buffers,
//! and its threads that wake ours, cost more than the transfer. The reader's own thread speaks to the server here. What
//! is out of the ordinary (an answer without a length, a redirect) is left to the library: [`Refused::Unusual`].

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use url::Url;

use super::Scatter;
use super::retry::Failure;
use super::transport::{CONNECT_TIMEOUT, USER_AGENT, has_proxy};
use super::words::content_length;

/// Longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
const ENDED_EARLY: &str = "the body ended early";
/// Most header fields of an answer.
const MAX_FIELDS: usize = 100;
/// How long a connection may wait for its next request: servers close them after five seconds and more.
const KEPT: Duration = Duration::from_secs(4);

/// Asks one server.
#[derive(Debug)]
pub(crate) struct Direct {
    /// Connections that wait for their next request.
    idle: Mutex<Vec<Connection>>,
    /// Whether there is a proxy, or an answer was out of the ordinary: others would be, too.
    refused: AtomicBool,
}

/// Why there is no body to be read.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Something that the library understands and this does not.
    Unusual,
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A connection, and what came on it that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    ahead: Vec<u8>,
    /// When its last answer ended.
    since: Instant,
}

/// The head of an answer, whose body is to be read from the connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: SocketBody,
}

/// What is still to come of a body.
#[derive(Debug)]
pub(crate) struct SocketBody {
    connection: Connection,
    left: u64,
    /// Whether the server closes the connection after it.
    closes: bool,
}

impl Direct {
    pub(crate) fn new() -> Self {
        Self { idle: Mutex::default(), refused: has_proxy().into() }
    }

    /// Whether requests to `url` may go by it.
    pub(crate) fn serves(&self, url: &Url) -> bool {
        !self.refused.load(Ordering::Relaxed)
            && url.scheme() == "http"
            && url.username().is_empty()
            && url.password().is_none()
    }

    /// Asks for `range` and reads the head of the answer.
    pub(crate) fn get(
        &self,
        url: &Url,
        range: &Range<u64>,
        tag: Option<&str>,
        stall_timeout: Duration,
    ) -> Result<Head, Refused> {
        let asked = self.try_get(url, range, tag, stall_timeout);
        if matches!(asked, Err(Refused::Unusual)) {
            self.refused.store(true, Ordering::Relaxed);
        }
        asked
    }

    fn try_get(
        &self,
        url: &Url,
        range: &Range<u64>,
        tag: Option<&str>,
        stall_timeout: Duration,
    ) -> Result<Head, Refused> {
        let request = request(url, range, tag).ok_or(Refused::Unusual)?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => Connection::open(url)?,
        };
        connection.limit(stall_timeout)?;
        let (status, headers) = match connection.exchange(&request) {
            Ok(head) => head,
            Err(Gone::Broken(error)) => return Err(timed(error, stall_timeout).into()),
            Err(Gone::Unusual) => return Err(Refused::Unusual),
        };
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let len = content_length(&headers)?.filter(|_| !is_chunked);
        let left = match len {
            Some(left) if !status.is_redirection() => left,
            // Nobody reads why.
            None if status.is_client_error() || status.is_server_error() => 0,
            _ => return Err(Refused::Unusual),
        };
        let closes = text(header::CONNECTION).map(str::to_ascii_lowercase);
        let closes = len.is_none() || closes.is_some_and(|value| value.contains("close"));
        Ok(Head { status, headers, body: SocketBody { connection, left, closes } })
    }

    /// A connection that the server is not likely to have closed since.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.since.elapsed() < KEPT);
        idle.pop()
    }

    /// Keeps the connection of a body that has been read to its end for the next request.
    pub(crate) fn keep(&self, body: SocketBody) {
        let SocketBody { mut connection, left, closes } = body;
        if left == 0 && !closes && connection.ahead.is_empty() {
            connection.since = Instant::now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl SocketBody {
    /// Reads the next `len` bytes to where `out` wants them. `received` is told of every read.
    pub(crate) fn read_to(
        &mut self,
        len: u64,
        out: &mut Scatter<'_, '_>,
        stall_timeout: Duration,
        received: impl Fn(u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.connection.limit(stall_timeout)?;
        let mut wanted = len;
        while wanted > 0 {
            let room = out.room();
            let most = room.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            let room = room.get_mut(..most).filter(|room| !room.is_empty());
            let room = room.ok_or_else(|| Failure::permanent("more bytes than room"))?;
            match self.receive(room).map_err(|error| timed(error, stall_timeout))? {
                0 => return Err(Failure::transient(ENDED_EARLY)),
                read => {
                    out.advance(read);
                    wanted -= read as u64;
                    received(read as u64)?;
                }
            }
        }
        Ok(())
    }
}

/// As a stream, which must not end before the length that was stated.
impl Read for SocketBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.receive(buf)? {
            0 if self.left > 0 && !buf.is_empty() => Err(io::Error::other(ENDED_EARLY)),
            read => Ok(read),
        }
    }
}

impl SocketBody {
    /// Some of the next bytes; none at the end of the body, and where the server ends it early.
    fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        let Connection { socket, ahead, .. } = &mut self.connection;
        let read = if ahead.is_empty() {
            loop {
                match socket.read(buf) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            }
        } else {
            let read = ahead.as_slice().read(buf)?;
            ahead.drain(..read);
            read
        };
        self.left -= read as u64;
        Ok(read)
    }
}

/// How an exchange ended without the head of an answer.
enum Gone {
    Broken(io::Error),
    Unusual,
}

impl Connection {
    fn open(url: &Url) -> Result<Self, Failure> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let addresses = (host, url.port_or_known_default().unwrap_or(80)).to_socket_addrs();
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses.map_err(broken)? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(socket) => {
                    socket.set_nodelay(true).map_err(broken)?;
                    return Ok(Self { socket, ahead: Vec::new(), since: Instant::now() });
                }
                Err(error) => last = error,
            }
        }
        Err(broken(last))
    }

    /// How long a read or write may wait.
    fn limit(&self, stall_timeout: Duration) -> Result<(), Failure> {
        let limited = self.socket.set_read_timeout(Some(stall_timeout));
        limited.and_then(|()| self.socket.set_write_timeout(Some(stall_timeout))).map_err(broken)
    }

    fn exchange(&mut self, request: &[u8]) -> Result<(StatusCode, HeaderMap), Gone> {
        self.socket.write_all(request).map_err(Gone::Broken)?;
        self.ahead.clear();
        let mut buffer = [0; 4096];
        loop {
            let read = match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let read = read.map_err(Gone::Broken)?;
            self.ahead.extend_from_slice(buffer.get(..read).unwrap_or_default());
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.ahead) {
                Ok(httparse::Status::Complete(len)) => {
                    let head = understood(&response).ok_or(Gone::Unusual)?;
                    self.ahead.drain(..len);
                    return Ok(head);
                }
                Ok(httparse::Status::Partial) if self.ahead.len() < MAX_HEAD => {}
                _ => return Err(Gone::Unusual),
            }
        }
    }
}

fn understood(response: &httparse::Response<'_, '_>) -> Option<(StatusCode, HeaderMap)> {
    let status = StatusCode::from_u16(response.code?).ok()?;
    let mut headers = HeaderMap::new();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    (response.version == Some(1)).then_some((status, headers))
}

/// The request as it is sent; nothing in it may break out of its line.
fn request(url: &Url, range: &Range<u64>, tag: Option<&str>) -> Option<Vec<u8>> {
    let host = url.host_str()?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let condition = tag.map(|tag| format!("if-match: {tag}\r\n")).unwrap_or_default();
    let (path, last) = (url.path(), range.end.checked_sub(1)?);
    let line = |text: &str| !text.contains(|c: char| c.is_control());
    if ![host, path, &query, tag.unwrap_or_default()].iter().all(|text| line(text)) {
        return None;
    }
    let request = format!(
        "GET {path}{query} HTTP/1.1\r\nhost: {host}{port}\r\nrange: bytes={}-{last}\r\n{condition}\
         accept: */*\r\naccept-encoding: identity\r\nuser-agent: {USER_AGENT}\r\n\r\n",
        range.start,
    );
    Some(request.into_bytes())
}

fn broken(error: io::Error) -> Failure {
    Failure::transient(error.to_string())
}

fn timed(error: io::Error, stall_timeout: Duration) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::stalled(stall_timeout),
        _ => broken(error),
    }
}
