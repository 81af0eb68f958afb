//! What every fault of a server leads to: equal bytes, or one class of error and all buffers back.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tz_io::testing::RecordingPool;
use tz_io::{HeapPool, IoError, RemoteOptions, Selection};

use crate::model::{contents, file, impatient, load, open, options, readers, stream};
use crate::server::fault::Fault;
use crate::server::objects::{Content, Object, Objects};
use crate::server::{Record, Reply, Server, body};

const MIB: u64 = 1 << 20;

/// What a load with a fault must end with.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The bytes of the object, after so many retries.
    Equal(u64),
    /// The bytes of the object, after at least so many retries: a slow machine may add stalls of its own.
    EqualAfter(u64),
    /// [`IoError::Io`] of this kind, whose text holds this.
    Io(ErrorKind, &'static str),
}

/// Requests that a fault befalls.
type When = fn(&Record) -> bool;

const OPENING: When = |record| record.number == 0;
const SECOND: When = |record| record.number == 1;
const LATER: When = |record| record.number > 0;
const EVERY: When = |_| true;

/// A server with a fault, and what is to come of it.
struct Case {
    object: Object,
    when: When,
    fault: Fault,
    options: RemoteOptions,
    expect: Expect,
}

impl Case {
    fn new(when: When, fault: Fault, expect: Expect) -> Self {
        let object = Object::new(file(&[700 << 10, 2 * MIB, 900]));
        let mut options = options();
        options.retries = 2;
        Self { object, when, fault, options, expect }
    }

    fn with_options(self, options: RemoteOptions) -> Self {
        Self { options, ..self }
    }

    /// Opens and reads, into memory of its own and through a pool, from the socket and through the library.
    #[track_caller]
    fn check(self) {
        let Self { object, when, fault, mut options, expect } = self;
        let Content::Bytes(bytes) = object.content.clone() else {
            panic!("an object in memory");
        };
        for (direct, through_pool) in [(true, false), (true, true), (false, false), (false, true)] {
            options.direct = direct;
            let objects = Objects::default().with("/model.tensors", object.clone());
            let server = Server::new(objects);
            server.fault(when, fault.clone());
            let pool = RecordingPool::new(HeapPool::new(256 << 10, 3).expect("memory"));
            let result = open(&server.url("/model.tensors"), &options).and_then(|file| {
                let result = match through_pool {
                    true => stream(&file, &readers(3), &pool),
                    false => load(&file, &Selection::all(), &readers(3)),
                };
                Ok((result?, file.source().counters()))
            });
            assert_eq!(pool.out(), 0, "every buffer is back");
            match (expect, result) {
                (Expect::Equal(retries), Ok((tensors, counters))) => {
                    assert_eq!(tensors, contents(&bytes));
                    assert_eq!((counters.retries, counters.stalls), (retries, 0));
                    assert_eq!(counters.requests, server.requests() as u64);
                }
                (Expect::EqualAfter(retries), Ok((tensors, counters))) => {
                    assert_eq!(tensors, contents(&bytes));
                    assert!(counters.retries >= retries && counters.stalls >= retries);
                }
                (Expect::Io(kind, text), Err(IoError::Io { location, source, doing })) => {
                    let shown = format!("{doing}: {source}");
                    assert!(source.kind() == kind && shown.contains(text), "{kind:?} {shown}");
                    assert_eq!(location, server.url("/model.tensors"));
                }
                (expect, result) => {
                    panic!("{expect:?}, but: {:?}", result.map(|(_, counters)| counters));
                }
            }
        }
    }
}

#[track_caller]
fn survives(fault: Fault) {
    for when in [OPENING, SECOND] {
        Case::new(when, fault.clone(), Expect::Equal(1)).check();
    }
}

#[track_caller]
fn fails(fault: Fault, kind: ErrorKind, text: &'static str) {
    for when in [EVERY, LATER] {
        Case::new(when, fault.clone(), Expect::Io(kind, text)).check();
    }
}

#[test]
fn a_reset_connection_is_tried_again() {
    survives(Fault::Reset { after: 1000 });
    survives(Fault::HangUp);
    fails(Fault::HangUp, ErrorKind::Other, "read: ");
    fails(Fault::Reset { after: 0 }, ErrorKind::Other, "read: ");
}

#[test]
fn a_short_body_is_tried_again() {
    survives(Fault::Truncate { after: 1000 });
    survives(Fault::Truncate { after: 0 });
    fails(Fault::Truncate { after: 0 }, ErrorKind::Other, "read: ");
    fails(Fault::Truncate { after: 1000 }, ErrorKind::Other, "read: ");
}

#[test]
fn a_link_that_breaks_often_but_moves_is_not_given_up() {
    // Two retries without progress are allowed; every one of these brings a good part of a range.
    let bytes = file(&[3 << 20]);
    let server = Server::new(Objects::default().with("/model.tensors", Object::new(bytes.clone())));
    server.fault(LATER, Fault::Truncate { after: 300_000 });
    let mut options = options();
    options.retries = 2;
    let remote = open(&server.url("/model.tensors"), &options).expect("valid");
    let loaded = load(&remote, &Selection::all(), &readers(1)).expect("it moves");
    assert_eq!(loaded, contents(&bytes));
    assert_eq!(remote.source().counters().retries, 8);
}

#[test]
fn a_stall_is_broken_off_and_tried_again() {
    for fault in [Fault::Stall { after: 1000 }, Fault::Silence] {
        for when in [OPENING, SECOND] {
            let case = Case::new(when, fault.clone(), Expect::EqualAfter(1));
            case.with_options(impatient()).check();
        }
    }
    let timed_out = Expect::Io(ErrorKind::TimedOut, "read: no bytes for 250ms");
    let mut options = impatient();
    options.retries = 1;
    for fault in [Fault::Silence, Fault::Stall { after: 0 }] {
        for when in [EVERY, LATER] {
            Case::new(when, fault.clone(), timed_out).with_options(options.clone()).check();
        }
    }
}

#[test]
fn a_transfer_that_outlasts_the_deadline_is_broken_off() {
    // No stall within the stall timeout: only the deadline can end this.
    let mut options = options();
    options.deadline = Some(Duration::from_millis(250));
    let late = "read within the deadline: the transfer was still under way";
    for fault in [Fault::Silence, Fault::Stall { after: 1000 }] {
        for when in [EVERY, LATER] {
            let case = Case::new(when, fault.clone(), Expect::Io(ErrorKind::TimedOut, late));
            case.with_options(options.clone()).check();
        }
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    survives(Fault::Status(503, &[], "<Error><Code>SlowDown</Code></Error>"));
    survives(Fault::Status(500, &[], ""));
    survives(Fault::Status(429, &[("retry-after", "0")], ""));
    survives(Fault::Status(408, &[], ""));
    let busy = ErrorKind::ResourceBusy;
    fails(Fault::Status(503, &[], ""), busy, "the server answered 503 Service Unavailable");
    fails(Fault::Status(429, &[], ""), busy, "the server answered 429 Too Many Requests");
}

#[test]
fn a_server_that_says_how_long_to_wait_is_obeyed() {
    // Longer than the deadline allows: the read fails at once instead of asking too early.
    let later = Fault::Status(429, &[("retry-after", "15")], "");
    let late = Expect::Io(ErrorKind::ResourceBusy, "read within the deadline");
    for when in [EVERY, LATER] {
        let mut case = Case::new(when, later.clone(), late);
        case.options.deadline = Some(Duration::from_secs(10));
        case.check();
    }
}

#[test]
fn refusals_are_not_tried_again() {
    for (status, kind, text) in [
        (404, ErrorKind::NotFound, "404 Not Found"),
        (403, ErrorKind::PermissionDenied, "403 Forbidden"),
        (401, ErrorKind::PermissionDenied, "401 Unauthorized"),
        (400, ErrorKind::Other, "400 Bad Request"),
    ] {
        fails(Fault::Status(status, &[], "<html>no</html>"), kind, text);
        let server = Server::new(Objects::default());
        server.fault(EVERY, Fault::Status(status, &[], ""));
        let refused = open(&server.url("/model.tensors"), &options());
        assert!(matches!(refused, Err(IoError::Io { .. })), "{refused:?}");
        assert_eq!(server.requests(), 1, "{status}");
    }
}

#[test]
fn bodies_without_a_length_and_slow_starts_are_no_faults() {
    for fault in [Fault::Unframed, Fault::Drip(2000)] {
        Case::new(EVERY, fault, Expect::Equal(0)).check();
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let range = |range| Fault::header("content-range", range);
    let other = ErrorKind::Other;
    fails(range("bytes 1-524287/2900000"), other, "the server answered another range");
    fails(range("items 0-1/2"), other, "an answer without a valid Content-Range");
    fails(Fault::without("content-range"), other, "an answer without a valid Content-Range");
    let whole = Fault::Edit(Arc::new(|reply: &mut Reply| {
        *reply.status_mut() = http::StatusCode::OK;
    }));
    Case::new(LATER, whole, Expect::Io(other, "the server stopped answering ranges")).check();
}

#[test]
fn an_answer_that_keeps_its_length_to_itself_is_refused() {
    let secretive = Fault::Edit(Arc::new(|reply: &mut Reply| {
        let shown = reply.headers()["content-range"].to_str().expect("text");
        let (range, _) = shown.split_once('/').expect("a total");
        let hidden = format!("{range}/*").parse().expect("a header");
        reply.headers_mut().insert("content-range", hidden);
    }));
    let why = "the server does not say how long the object is";
    Case::new(OPENING, secretive.clone(), Expect::Io(ErrorKind::Other, why)).check();
    Case::new(LATER, secretive, Expect::Equal(0)).check();
}

#[test]
fn a_body_longer_than_its_range_is_refused() {
    let endless = Fault::Edit(Arc::new(|reply: &mut Reply| {
        reply.headers_mut().remove("content-length");
        let more = std::iter::repeat_with(|| bytes::Bytes::from_static(&[7; 1000]));
        let body = std::mem::take(reply.body_mut());
        *reply.body_mut() = body::chain(body, more);
    }));
    fails(endless, ErrorKind::Other, "a body longer than its range");
}
