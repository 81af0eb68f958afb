//! One range in a hundred fails, in every way that may pass: every load ends with the bytes of the object.

use std::sync::OnceLock;

use tz_io::testing::RecordingPool;
use tz_io::{Fetch, HeapPool, PlanOptions, RemoteOptions, Selection};

use crate::model::{contents, file, impatient, open, options, readers, stream};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};

/// Fetches of this length: more than 500 of them lie behind the first answer, however much that holds.
const BUFFER: usize = 44 << 10;
/// What the first answer holds: the front, or a piece of a file that is going to be read whole.
const FRONT: u64 = 512 << 10;
const PIECE: u64 = 16 << 20;
/// Bytes before an answer breaks off: every fetch is longer.
const AFTER: usize = 5000;

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

    // Which fetches go on in the first answer is up to the order of the readers. All others take a request each, and
    // another one for every retry.
    let plan = PlanOptions::object_storage().staged(BUFFER);
    let plan = remote.plan(&Selection::all(), &plan).expect("planned");
    let asked_for = |f: &Fetch| f.range.end.saturating_sub(f.range.start.max(FRONT));
    assert!(plan.fetches.iter().all(|f| asked_for(f) == 0 || asked_for(f) > AFTER as u64));
    let behind = |position| plan.fetches.iter().filter(|f| f.range.end > position).count() as u64;
    let asked = counters.requests - counters.retries;
    let least = behind(if options.whole { PIECE } else { FRONT });
    assert!(least > 500 && (1 + least..=1 + behind(FRONT)).contains(&asked), "{counters:?}");

    // A slow machine adds stalls of its own, where the timeout is short; then the server may not have read a request
    // that was given up. What the server does on purpose always takes a retry.
    let (seen, befallen) = (server.requests() as u64, server.befallen() as u64);
    assert!(befallen > 2 && counters.retries >= befallen, "{befallen} faults: {counters:?}");
    let are_all_seen = seen == counters.requests || counters.stalls > 0 && seen < counters.requests;
    assert!(are_all_seen, "{seen} requests: {counters:?}");
}

#[test]
fn resets() {
    check(Fault::Reset { after: AFTER }, &options());
    check(Fault::HangUp, &options());
}

#[test]
fn short_bodies() {
    check(Fault::Truncate { after: AFTER }, &options());
}

#[test]
fn stalls() {
    check(Fault::Stall { after: AFTER }, &impatient());
    check(Fault::Silence, &impatient());
}

#[test]
fn busy_answers() {
    check(Fault::Status(503, &[], "<Error><Code>SlowDown</Code></Error>"), &options());
    check(Fault::Status(500, &[], ""), &options());
    check(Fault::Status(429, &[("retry-after", "0")], ""), &options());
}
