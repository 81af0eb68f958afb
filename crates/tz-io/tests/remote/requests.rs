//! How many requests each job sends, for which bytes, and with which headers.

use std::ops::Range;

use tz_io::{PlanOptions, ReadOptions, RemoteOptions, Selection, TensorFile};

use crate::model::{
    contents, file, file_with_long_index, load, object, open, options, readers, signed,
};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};
use crate::server::s3::S3;

const MIB: u64 = 1 << 20;
/// What the first request brings.
const FIRST: u64 = 512 << 10;

fn serve(bytes: &[u8]) -> Server {
    Server::new(Objects::default().with("/model.tensors", Object::new(bytes.to_vec())))
}

/// The fetches of the plan without what opening has brought.
fn planned(file: &TensorFile, selection: &Selection) -> Vec<Range<u64>> {
    let plan = file.plan(selection, &PlanOptions::object_storage()).expect("planned");
    let missing = |range: Range<u64>| range.start.max(FIRST)..range.end;
    let ranges = plan.fetches.into_iter().map(|fetch| missing(fetch.range));
    ranges.filter(|range| !range.is_empty()).collect()
}

#[test]
fn opening_takes_one_request_and_one_tensor_one_more() {
    let bytes = file(&[3 * MIB, 2 * MIB, 100]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    assert_eq!(server.ranges_from(0), vec![0..FIRST]);
    let one = remote.load_one("t1", &ReadOptions::default()).expect("there");
    assert_eq!(one.bytes(), contents(&bytes)["t1"]);
    let entry = &remote.entries()[1];
    let whole = entry.header_offset..entry.data_offset + entry.data_len;
    assert_eq!(server.ranges_from(1), vec![whole]);
    assert_eq!(remote.source().counters().requests, 2);
}

#[test]
fn a_long_index_takes_a_second_request_and_a_tensor_a_third() {
    let bytes = file_with_long_index(&[3 * MIB, 2 * MIB]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    assert_eq!(server.requests(), 2);
    let one = remote.load_one("t1", &ReadOptions::default()).expect("there");
    assert_eq!(one.bytes(), contents(&bytes)["t1"]);
    assert_eq!(server.requests(), 3);
    assert_eq!(remote.source().counters().requests, 3);
}

#[test]
fn a_small_file_takes_one_request_in_all() {
    let bytes = file(&[1000, 0, 2000]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let all = load(&remote, &Selection::all(), &ReadOptions::default()).expect("valid");
    assert_eq!(all, contents(&bytes));
    assert_eq!(server.requests(), 1);
}

#[test]
fn everything_is_read_once_in_pieces_of_sixteen_mebibytes() {
    let bytes = file(&[40 * MIB, MIB, 100, 19 * MIB]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let tensors = remote.load(&Selection::all(), &ReadOptions::default()).expect("valid");
    let ranges = server.ranges_from(1);
    assert_eq!(ranges, planned(&remote, &Selection::all()));
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    // They end where the blocks of stores do, whatever the tensors; the first lacks what opening brought.
    let ends: Vec<u64> = ranges.iter().map(|range| range.end / MIB).collect();
    assert_eq!(ends, [16, 32, 48, 60], "{ranges:?}");
    let counters = remote.source().counters();
    let asked: u64 = server.ranges_from(0).iter().map(|range| range.end - range.start).sum();
    assert_eq!((counters.requests, counters.bytes), (server.requests() as u64, asked));
    assert_eq!((counters.retries, counters.stalls), (0, 0));
    assert_eq!(tensors.stats().requests, counters.requests);
}

#[test]
fn checks_read_what_a_load_reads() {
    // Many small tensors beside large ones, whose headers are read too.
    let mut lens = vec![40 * MIB];
    lens.extend([100_000; 50]);
    lens.push(19 * MIB);
    let bytes = file(&lens);
    let all = Selection::all();
    for limit in [None, Some(64 * MIB), Some(8 * MIB)] {
        let server = serve(&bytes);
        let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
        let mut reading = ReadOptions::default();
        reading.memory_limit = limit;
        assert_eq!(remote.verify(&all, &reading).expect("read"), []);
        let requests = server.requests();
        let sums = remote.checksum(&all, tz_io::Algorithm::Blake3, &reading).expect("read");
        assert_eq!(sums.len(), lens.len());
        // The file is 64 MiB long: as many windows, and the front once.
        let windows = if limit == Some(8 * MIB) { 17 } else { 5 };
        assert!(requests <= 1 + windows, "{requests}");
        assert!(server.requests() - requests <= windows, "{}", server.requests());
        let asked = |range: &Range<u64>| range.end - range.start;
        let whole: u64 = server.ranges_from(0).iter().map(asked).sum();
        assert!(whole <= 2 * bytes.len() as u64, "nothing is read twice by one check");
    }
}

#[test]
fn a_glob_joins_near_tensors_and_skips_far_ones() {
    let bytes = file(&[MIB, 1000, MIB / 2, 1000, 3 * MIB, 1000]);
    let server = serve(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let some = Selection::globs(&["t[135]"]).expect("globs");
    let tensors = load(&remote, &some, &ReadOptions::default()).expect("valid");
    let expected =
        contents(&bytes).into_iter().filter(|(name, _)| ["t1", "t3", "t5"].contains(&&**name));
    assert_eq!(tensors, expected.collect());
    let ranges = server.ranges_from(1);
    assert_eq!(ranges, planned(&remote, &some));
    assert_eq!(ranges.len(), 2, "t1 and t3 are near, t5 is far: {ranges:?}");
}

#[test]
fn every_range_after_the_first_asks_for_the_same_object() {
    let bytes = file(&[3 * MIB, 40 * MIB]);
    let server = serve(&bytes);
    server.fault(|record| record.number == 2, Fault::Status(503, &[], "busy"));
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    load(&remote, &Selection::all(), &readers(2)).expect("valid");
    let log = server.log();
    assert_eq!(log[0].header("if-match"), None);
    for record in &log[1..] {
        assert_eq!(record.header("if-match"), Some("\"first\""), "{record:?}");
        assert_eq!(record.header("accept-encoding"), Some("identity"));
        assert!(record.range().is_some(), "{record:?}");
    }
    assert!(log.len() >= 5, "a retry among them");
}

#[test]
fn a_weak_tag_is_compared_but_not_sent() {
    let bytes = file(&[3 * MIB]);
    let object = Object { etag: Some("W/\"weak\""), ..Object::new(bytes.clone()) };
    let server = Server::new(Objects::default().with("/model.tensors", object));
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    assert_eq!(load(&remote, &Selection::all(), &readers(2)).expect("valid"), contents(&bytes));
    assert!(server.log().iter().all(|record| record.header("if-match").is_none()));
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let bytes = file(&[3 * MIB]);
    let server = serve(&bytes);
    server.fault(|record| record.number == 1, Fault::Truncate { after: 10_000 });
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    assert_eq!(load(&remote, &Selection::all(), &readers(1)).expect("valid"), contents(&bytes));
    let log = server.log();
    let (broken, rest) = (log[1].range().expect("a range"), log[2].range().expect("a range"));
    assert_eq!(rest, broken.start + 10_000..broken.end);
    assert_eq!(log.len(), 3);
    let counters = remote.source().counters();
    let needed = FIRST + broken.end - broken.start;
    assert_eq!((counters.retries, counters.bytes), (1, needed), "nothing came twice");
}

/// Options of a caller who is going to read the whole file: from the socket, and through the library.
fn whole() -> [RemoteOptions; 2] {
    [true, false].map(|direct| {
        let mut options = options();
        (options.whole, options.direct) = (true, direct);
        options
    })
}

#[test]
fn a_whole_file_is_read_on_in_the_first_answer() {
    let bytes = file(&[40 * MIB, MIB, 100, 19 * MIB]);
    for options in whole() {
        let server = serve(&bytes);
        let remote = open(&server.url("/model.tensors"), &options).expect("valid");
        assert_eq!(server.ranges_from(0), vec![0..16 * MIB]);
        // What the reader has not come for waits in the connection.
        assert!((FIRST..2 * FIRST).contains(&remote.source().counters().bytes));
        let tensors = load(&remote, &Selection::all(), &ReadOptions::default()).expect("valid");
        assert_eq!(tensors, contents(&bytes));
        let ends: Vec<u64> = server.ranges_from(0).iter().map(|range| range.end / MIB).collect();
        assert_eq!(ends, [16, 32, 48, 60]);
        let counters = remote.source().counters();
        let len = remote.entries().last().expect("tensors").data_end();
        assert_eq!((counters.requests, counters.bytes, counters.retries), (4, len, 0));
    }
}

#[test]
fn a_whole_file_of_one_piece_takes_one_request_however_it_is_read() {
    let files = [file(&[3 * MIB, 2 * MIB, 100]), file_with_long_index(&[3 * MIB, 2 * MIB])];
    for (bytes, options) in files.iter().flat_map(|bytes| whole().map(|options| (bytes, options))) {
        let server = serve(bytes);
        let remote = open(&server.url("/model.tensors"), &options).expect("valid");
        for entry in remote.entries() {
            let name = entry.path.to_string();
            let one = remote.load_one(&name, &ReadOptions::default()).expect("there");
            assert_eq!(one.bytes(), contents(bytes)[&name]);
        }
        assert_eq!(server.requests(), 1);
        // It has been read, and is asked for again.
        remote.load_one("t1", &ReadOptions::default()).expect("there");
        assert_eq!(server.requests(), 2);
    }
}

#[test]
fn a_first_answer_that_nobody_reads_on_is_left() {
    let bytes = file(&[3 * MIB, 2 * MIB, 100]);
    for options in whole() {
        let server = serve(&bytes);
        let remote = open(&server.url("/model.tensors"), &options).expect("valid");
        let one = remote.load_one("t1", &ReadOptions::default()).expect("there");
        assert_eq!(one.bytes(), contents(&bytes)["t1"]);
        let entry = &remote.entries()[1];
        assert_eq!(server.ranges_from(1), vec![entry.header_offset..entry.data_end()]);
    }
}

#[test]
fn a_first_answer_that_breaks_is_gone_on_with_by_a_range() {
    let bytes = file(&[3 * MIB, 20 * MIB]);
    const CUT: usize = 5_000_000;
    for (cut, options) in [true, false].into_iter().flat_map(|cut| whole().map(|o| (cut, o))) {
        let server = serve(&bytes);
        if cut {
            server.fault(|record| record.number == 0, Fault::Truncate { after: CUT });
        }
        let remote = open(&server.url("/model.tensors"), &options).expect("valid");
        if !cut {
            // A reset takes with it what is on its way: before the front has come, opening would be tried again.
            server.hang_up();
        }
        assert_eq!(load(&remote, &Selection::all(), &readers(1)).expect("valid"), contents(&bytes));
        let log = server.log();
        let rest = log[1].range().expect("a range");
        let came = if cut { CUT as u64..CUT as u64 + 1 } else { FIRST..16 * MIB };
        assert!(came.contains(&rest.start) && rest.end == 16 * MIB, "{rest:?}");
        assert_eq!(log[1].header("if-match"), Some("\"first\""));
        assert_eq!((log.len(), remote.source().counters().retries), (3, 1));
    }
}

#[test]
fn s3_takes_as_many_requests_as_http() {
    let s3 = S3::new(None);
    let bytes = file(&[3 * MIB, 2 * MIB]);
    s3.put("model.tensors", &bytes);
    let server = Server::new(s3);
    let remote = open(&object("model.tensors").to_string(), &signed(&server)).expect("valid");
    assert_eq!(server.requests(), 1);
    let one = remote.load_one("t1", &ReadOptions::default()).expect("there");
    assert_eq!(one.bytes(), contents(&bytes)["t1"]);
    let log = server.log();
    assert_eq!(log.len(), 2);
    assert!(log[1].header("if-match").is_some_and(|tag| tag.starts_with('"')), "{log:?}");
}
