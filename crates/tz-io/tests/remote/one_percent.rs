//! One range in a hundred fails, in every way that may pass: every load ends with the bytes of the object.

use std::sync::OnceLock;

use tz_io::testing::RecordingPool;
use tz_io::{HeapPool, RemoteOptions};

use crate::model::{contents, file, impatient, open, options, readers, stream};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};

/// Fetches of this length: 500 of them make a load.
const BUFFER: usize = 80 << 10;

fn bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| file(&[20 << 20, 1000, 20 << 20]))
}

#[track_caller]
fn check(fault: Fault, options: &RemoteOptions) {
    // From the socket, and through the library; with the front alone first, and with all that stands behind it.
    for (direct, whole) in [(true, false), (false, true)] {
        let mut options = options.clone();
        (options.direct, options.whole) = (direct, whole);
        check_one(fault.clone(), &options);
    }
}

#[track_caller]
fn check_one(fault: Fault, options: &RemoteOptions) {
    let server = Server::new(Objects::default().with("/model.tensors", Object::new(bytes())));
    server.fault_share(0.01, 3, fault);
    let remote = open(&server.url("/model.tensors"), options).expect("valid");
    let pool = RecordingPool::new(HeapPool::new(BUFFER, 8).expect("memory"));
    let tensors = stream(&remote, &readers(8), &pool).expect("every fault passes");
    assert_eq!(tensors, contents(bytes()));
    assert_eq!(pool.out(), 0);
    let counters = remote.source().counters();
    assert!(counters.requests > 500 && counters.retries > 2, "{counters:?}");
    assert_eq!(counters.requests, server.requests() as u64);
}

#[test]
fn resets() {
    check(Fault::Reset { after: 5000 }, &options());
    check(Fault::HangUp, &options());
}

#[test]
fn short_bodies() {
    check(Fault::Truncate { after: 5000 }, &options());
}

#[test]
fn stalls() {
    check(Fault::Stall { after: 5000 }, &impatient());
    check(Fault::Silence, &impatient());
}

#[test]
fn busy_answers() {
    check(Fault::Status(503, &[], "<Error><Code>SlowDown</Code></Error>"), &options());
    check(Fault::Status(500, &[], ""), &options());
    check(Fault::Status(429, &[("retry-after", "0")], ""), &options());
}
