//! How many requests are in flight, as the server counts them.

use std::io::IoSliceMut;
use std::sync::atomic::{AtomicU64, Ordering};

use tz_io::{HeapPool, Selection};

use crate::model::{contents, file, load, location, open, options, readers, stream};
use crate::server::Server;
use crate::server::objects::{Object, Objects};

const MIB: u64 = 1 << 20;
/// Most requests in flight where nobody says how many.
const CEILING: usize = 32;
/// Requests in flight at the start of a load, where nobody says how many.
const START: usize = 8;

fn serve(bytes: &[u8]) -> Server {
    Server::new(Objects::default().with("/model.tensors", Object::new(bytes.to_vec())))
}

#[test]
fn as_many_requests_are_in_flight_as_the_caller_says() {
    let bytes = file(&[8 * MIB]);
    for wanted in [1, 2, 7, 40] {
        let server = serve(&bytes);
        let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
        // None of them is answered before that many have come: fewer would wait until the stall timeout.
        server.meet(wanted);
        let pool = HeapPool::new(80 << 10, wanted).expect("memory");
        let all = stream(&remote, &readers(wanted), &pool).expect("valid");
        assert_eq!(all, contents(&bytes));
        assert_eq!(server.most_in_flight(), wanted);
        assert_eq!(remote.source().counters().stalls, 0);
    }
}

#[test]
fn a_caller_may_choose_anew_for_every_load() {
    let bytes = file(&[8 * MIB]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    for wanted in [2, 9, 3, 12] {
        server.meet(wanted);
        let pool = HeapPool::new(80 << 10, wanted).expect("memory");
        stream(&remote, &readers(wanted), &pool).expect("valid");
        assert_eq!(remote.source().counters().stalls, 0);
    }
    assert_eq!(server.most_in_flight(), 12);
}

#[test]
fn one_reader_asks_in_file_order() {
    let bytes = file(&[20 * MIB, 100]);
    for wanted in [1, 0] {
        let server = serve(&bytes);
        let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
        let all = load(&remote, &Selection::all(), &readers(wanted)).expect("valid");
        assert_eq!(all, contents(&bytes));
        let asked: Vec<_> = server.log().iter().filter_map(|record| record.range()).collect();
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
        assert_eq!(server.most_in_flight(), 1);
    }
}

#[test]
fn requests_in_flight_never_exceed_the_ceiling() {
    let server = serve(&vec![7; 1 << 20]);
    let source = location(&server.url("/model.tensors")).open(&options()).expect("there");
    // So many are in flight at the start, however slowly the threads come.
    server.meet(START);
    let (next, end) = (AtomicU64::new(512 << 10), 1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..2 * CEILING {
            scope.spawn(|| {
                let mut buffer = [0; 128];
                loop {
                    let offset = next.fetch_add(128, Ordering::Relaxed);
                    if offset >= end {
                        break;
                    }
                    let buffers = &mut [IoSliceMut::new(&mut buffer)];
                    source.read_into(offset, buffers).expect("there");
                    assert_eq!(buffer, [7; 128]);
                }
            });
        }
    });
    assert_eq!(server.requests(), 4097);
    let most = server.most_in_flight();
    assert!((START..=CEILING).contains(&most), "{most}");
}
