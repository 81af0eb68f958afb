//! Ranges over plain HTTP, from the socket into the caller's memory. Owns [`Direct`].
//!
//! Inside a cluster objects often come over HTTP without TLS, as fast as memory is written; there a library's buffers,
//! and its threads that wake ours, cost more than the transfer. The reader's own thread speaks to the server here. What
//! is out of the ordinary (an answer without a length, a redirect) is left to the library: [`Refused::Unusual`].

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use url::Url;

use super::Scatter;
use super::patience::{Pace, Patience, is_timeout};
use super::prospect::not_connected;
use super::retry::Failure;
use super::runtime::block_on;
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
    /// For who reads it as a stream.
    patience: Patience,
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
        patience: &Patience,
    ) -> Result<Head, Refused> {
        let asked = self.try_get(url, range, tag, patience);
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
        patience: &Patience,
    ) -> Result<Head, Refused> {
        let request = request(url, range, tag).ok_or(Refused::Unusual)?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => Connection::open(url, patience)?,
        };
        let (status, headers) = connection.exchange(&request, patience)?;
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
        // The deadline is for the answer to a range, not for a stream.
        let patience = Patience { deadline: None, ..patience.clone() };
        Ok(Head { status, headers, body: SocketBody { connection, left, closes, patience } })
    }

    /// A connection that the server is not likely to have closed since.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.since.elapsed() < KEPT);
        idle.pop()
    }

    /// Keeps the connection of a body that has been read to its end for the next request.
    pub(crate) fn keep(&self, body: SocketBody) {
        let SocketBody { mut connection, left, closes, .. } = body;
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
        patience: &Patience,
        received: impl Fn(u64),
    ) -> Result<(), Failure> {
        let mut pace = Pace::new();
        let mut wanted = len;
        while wanted > 0 {
            let room = out.room();
            let most = room.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            let room = room.get_mut(..most).filter(|room| !room.is_empty());
            let room = room.ok_or_else(|| Failure::permanent("more bytes than room"))?;
            match self.some(room, &mut pace, patience)? {
                0 => return Err(Failure::transient(ENDED_EARLY)),
                read => {
                    out.advance(read);
                    wanted -= read as u64;
                    received(read as u64);
                    patience.check()?;
                }
            }
        }
        Ok(())
    }

    /// Some of the bytes that are left; none where the server has ended early.
    fn some(
        &mut self,
        buf: &mut [u8],
        pace: &mut Pace,
        patience: &Patience,
    ) -> Result<usize, Failure> {
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        let Connection { socket, ahead, .. } = &mut self.connection;
        let read = if ahead.is_empty() {
            let read = wait(patience, pace, || socket.read(buf))?;
            pace.came(read, patience.stall_timeout)?;
            read
        } else {
            let read = ahead.as_slice().read(buf).map_err(broken)?;
            ahead.drain(..read);
            read
        };
        self.left -= read as u64;
        Ok(read)
    }
}

/// As a stream, which must not end before the length that was stated.
impl Read for SocketBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let patience = self.patience.clone();
        match self.some(buf, &mut Pace::new(), &patience).map_err(Failure::into_io)? {
            0 if self.left > 0 && !buf.is_empty() => Err(io::Error::other(ENDED_EARLY)),
            read => Ok(read),
        }
    }
}

/// Repeats a call on a socket, which blocks for a moment at most, until something moves.
fn wait(
    patience: &Patience,
    pace: &Pace,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Result<usize, Failure> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => {
                patience.check()?;
                pace.silent(patience.stall_timeout)?;
            }
            done => return done.map_err(broken),
        }
    }
}

impl Connection {
    /// Looks up the name and connects on the runtime, where both can be given up.
    fn open(url: &Url, patience: &Patience) -> Result<Self, Failure> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let connected = async {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in tokio::net::lookup_host((host, port)).await.map_err(not_connected)? {
                let connecting = tokio::net::TcpStream::connect(address);
                match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                    Ok(Ok(socket)) => return socket.into_std().map_err(broken),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(not_connected(last))
        };
        let socket = block_on(patience.within(connected))?;
        let look = Some(patience.look());
        let set_up = socket.set_nonblocking(false).and_then(|()| socket.set_nodelay(true));
        let set_up = set_up.and_then(|()| socket.set_read_timeout(look));
        set_up.and_then(|()| socket.set_write_timeout(look)).map_err(broken)?;
        Ok(Self { socket, ahead: Vec::new(), since: Instant::now() })
    }

    /// Sends a request and reads the head of the answer, which must be whole before the stall timeout.
    fn exchange(
        &mut self,
        request: &[u8],
        patience: &Patience,
    ) -> Result<(StatusCode, HeaderMap), Refused> {
        let pace = Pace::new();
        let mut unsent = request;
        while !unsent.is_empty() {
            let sent = wait(patience, &pace, || self.socket.write(unsent))?;
            unsent = unsent.get(sent..).unwrap_or_default();
        }
        self.ahead.clear();
        let mut buffer = [0; 4096];
        loop {
            let read = wait(patience, &pace, || self.socket.read(&mut buffer))?;
            if read == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()).into());
            }
            self.ahead.extend_from_slice(buffer.get(..read).unwrap_or_default());
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.ahead) {
                Ok(httparse::Status::Complete(len)) => {
                    let head = understood(&response).ok_or(Refused::Unusual)?;
                    self.ahead.drain(..len);
                    return Ok(head);
                }
                Ok(httparse::Status::Partial) if self.ahead.len() < MAX_HEAD => {
                    patience.check()?;
                    pace.silent(patience.stall_timeout)?;
                }
                _ => return Err(Refused::Unusual),
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
