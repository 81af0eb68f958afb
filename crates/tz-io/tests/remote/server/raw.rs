//! A server that sends bytes as they are given, for heads that no library would write. Owns [`Raw`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers every request with the same bytes and closes the connection; ends with the process.
pub(crate) struct Raw {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) fn new(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (answer, requests) = (answer.into(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if read_head(&stream).is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                    // A client that refuses the head hangs up.
                    let _ = (&stream).write_all(&answer);
                }
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Reads up to the empty line.
fn read_head(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(head)
}
