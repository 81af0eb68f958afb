//! What servers answer, by `tz-io` and the HTTP libraries below it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tz_io::{Location, ReadOptions, Selection, TensorFile};

use crate::files::open_options;
use crate::guard::Bound;
use crate::target::Target;

/// Between the answers of an input.
const SEPARATOR: &[u8] = b"\x1e\x1e";
/// Most answers of an input; the last is repeated.
const MAX_ANSWERS: usize = 8;

/// Any bytes as a server's answers, one for each connection.
pub const HTTP_ANSWER: Target = Target {
    name: "http_answer",
    run: http_answer,
    // The HTTP client, its runtime and certificates; a first read of 512 KiB; staging of one reader.
    bound: Bound { base: 96 << 20, per_byte: 128, resident: false },
};

/// A server on the loopback that gives whatever it was told.
struct Server {
    address: SocketAddr,
    answers: &'static Mutex<Vec<Vec<u8>>>,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    static ANSWERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Whoever is gone needs no answer.
            let _ = answer(connection, &ANSWERS);
        }
    });
    Server { address, answers: &ANSWERS }
});

fn answer(mut connection: TcpStream, answers: &Mutex<Vec<Vec<u8>>>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    connection.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    while !request.ends_with(b"\r\n\r\n") {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
    }
    let answer = {
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() > 1 { answers.pop() } else { answers.first().cloned() }
    };
    connection.write_all(&answer.unwrap_or_default())?;
    connection.shutdown(std::net::Shutdown::Write)
}

fn http_answer(data: &[u8]) {
    // A redirect would lead to any host of the network.
    if data.windows(8).any(|word| word.eq_ignore_ascii_case(b"location")) {
        return;
    }
    let mut answers = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|bytes| bytes == SEPARATOR) {
        if answers.len() + 1 == MAX_ANSWERS {
            break;
        }
        answers.push(rest[..at].to_vec());
        rest = &rest[at + SEPARATOR.len()..];
    }
    answers.push(rest.to_vec());
    answers.reverse();
    *SERVER.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    let mut options = open_options(false);
    options.remote.retries = 0;
    options.remote.stall_timeout = Duration::from_secs(2);
    let location = Location::parse(&format!("http://{}/model.tensors", SERVER.address));
    let location = location.expect("an address");
    let file = match TensorFile::open_with(&location, &options) {
        Ok(file) => file,
        Err(error) => return drop(format!("{error} {error:?}")),
    };
    let mut reading = ReadOptions::default();
    reading.readers = Some(1);
    match file.load(&Selection::all(), &reading) {
        Ok(loaded) => {
            for tensor in loaded.iter() {
                assert_eq!(tensor.bytes().len() as u64, tensor.entry().byte_len());
            }
        }
        Err(error) => drop(format!("{error} {error:?}")),
    }
}
