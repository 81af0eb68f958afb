//! The baselines of `bench remote`: plain ranged downloads and plain multipart uploads over N
//! connections, without any of our libraries.
//!
//! Processes of their own (the hidden `raw-download` and `raw-upload`), so that no earlier allocation
//! warms them. URLs are signed beforehand; the clock covers connecting, transfer, fresh memory and, for
//! uploads, reading the file and completing the object.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::processes::Timing;
use crate::sys::FreshMemory;

/// Bytes of one ranged request: as many as our own loads ask for, and where the blocks of stores end, too.
const RANGE: usize = 16 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct DownloadArgs {
    url: String,
    #[arg(long)]
    bytes: u64,
    #[arg(long)]
    connections: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UploadArgs {
    file: PathBuf,
    /// JSON with the signed URLs of the parts and of the completion
    plan: PathBuf,
    #[arg(long)]
    part_bytes: u64,
    #[arg(long)]
    connections: usize,
}

/// Signed URLs of one multipart upload.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) parts: Vec<String>,
    pub(super) complete: String,
}

/// Downloads once into fresh huge-page memory and prints the [`Timing`].
pub(crate) fn download(args: &DownloadArgs) -> Result<()> {
    let start = Instant::now();
    let mut memory = FreshMemory::new(usize::try_from(args.bytes)?)?;
    let pieces = Mutex::new(memory.as_mut_slice().chunks_mut(RANGE).zip((0..).step_by(RANGE)));
    in_parallel(args.connections, || {
        let mut connection = Connection::open(&args.url)?;
        loop {
            let next = pieces.lock().map_or(None, |mut pieces| pieces.next());
            let Some((piece, offset)) = next else {
                return Ok(());
            };
            let range = format!("Range: bytes={offset}-{}\r\n", offset + piece.len() - 1);
            let answer = connection.ask("GET", &args.url, &range, &[])?;
            if answer.status != 206 || answer.len != piece.len() {
                bail!("{}: {} bytes for a range of {}", answer.status, answer.len, piece.len());
            }
            connection.reader.read_exact(piece)?;
        }
    })?;
    print_timing(start, args.bytes)
}

/// Uploads once and prints the [`Timing`].
pub(crate) fn upload(args: &UploadArgs) -> Result<()> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(&args.plan)?)?;
    let start = Instant::now();
    let file = File::open(&args.file).with_context(|| args.file.display().to_string())?;
    let bytes = file.metadata()?.len();
    let (next, tags) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); plan.parts.len()]));
    in_parallel(args.connections, || {
        let mut connection = Connection::open(&plan.complete)?;
        let mut buffer = vec![0; usize::try_from(args.part_bytes)?];
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            let Some(url) = plan.parts.get(part) else {
                return Ok(());
            };
            let offset = args.part_bytes * u64::try_from(part)?;
            let len = usize::try_from(args.part_bytes.min(bytes.saturating_sub(offset)))?;
            let buffer = &mut buffer[..len];
            file.read_exact_at(buffer, offset)?;
            let answer = connection.ask("PUT", url, "", buffer)?;
            connection.skip(answer.len)?;
            let tag = answer.tag.context("a part without an entity tag")?;
            if let Ok(mut tags) = tags.lock() {
                tags[part] = tag;
            }
        }
    })?;
    let tags = tags.into_inner().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    let mut body = String::from("<CompleteMultipartUpload>");
    for (number, tag) in (1..).zip(&tags) {
        let part = format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        body.push_str(&part);
    }
    body.push_str("</CompleteMultipartUpload>");
    Connection::open(&plan.complete)?.ask("POST", &plan.complete, "", body.as_bytes())?;
    print_timing(start, bytes)
}

fn print_timing(start: Instant, bytes: u64) -> Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&Timing { seconds, bytes })?);
    Ok(())
}

fn in_parallel(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(&work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })
}

/// One kept-alive connection of HTTP/1.1.
struct Connection {
    reader: BufReader<TcpStream>,
}

/// The head of an answer.
struct Answer {
    status: u16,
    len: usize,
    tag: Option<String>,
}

impl Connection {
    fn open(url: &str) -> Result<Self> {
        let (host, _) = split(url)?;
        let socket = TcpStream::connect(host).with_context(|| host.to_owned())?;
        socket.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(socket) })
    }

    /// Sends one request and reads the head of its answer, which must be a success.
    fn ask(&mut self, method: &str, url: &str, headers: &str, body: &[u8]) -> Result<Answer> {
        let (host, target) = split(url)?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len(),
        );
        let mut socket = self.reader.get_ref();
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).unwrap_or("").parse().context("a status line")?;
        let mut answer = Answer { status, len: 0, tag: None };
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match &*name.to_ascii_lowercase() {
                "content-length" => answer.len = value.trim().parse().context("a length")?,
                "etag" => answer.tag = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        if !(200..300).contains(&status) {
            let mut words = vec![0; answer.len];
            self.reader.read_exact(&mut words)?;
            bail!("{method}: {status}: {}", String::from_utf8_lossy(&words));
        }
        Ok(answer)
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        let mut rest = vec![0; len];
        Ok(self.reader.read_exact(&mut rest)?)
    }
}

/// Host with port, and what is asked of it.
fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("only plain http:// URLs")?;
    let slash = rest.find('/').context("a URL without a path")?;
    Ok(rest.split_at(slash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_before_the_path() {
        assert_eq!(split("http://127.0.0.1:80/a?b=/c").unwrap(), ("127.0.0.1:80", "/a?b=/c"));
        assert!(split("https://127.0.0.1/a").is_err());
        assert!(split("http://127.0.0.1").is_err());
    }
}
