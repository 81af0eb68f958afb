//! The exact requests of each scenario. A change here needs a reason in the commit message.

#![expect(clippy::single_range_in_vec_init, reason = "some scenarios make one request")]

use std::io::{Cursor, IoSliceMut};
use std::ops::Range;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tz_format::{Element, TensorSpec};
use tz_io::testing::{MemoryFile, ReadLog, RecordingSource};
use tz_io::{
    Algorithm, IoError, PlanOptions, RangeRead, ReadOptions, Selection, StreamSource, TensorFile,
};

use crate::model::{
    Model, all, load, open_source, pool, readers, stream, unverified, write_options,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Small tensors around two that are cut into pieces: offsets of the data are
/// a 4 KiB, b 8 KiB, c 5 MiB + 12 KiB, d + 4 KiB, e + 300 KiB + 8 KiB, f one page on.
fn model() -> Model {
    let lens = [("a", 100), ("b", 5 * MIB), ("c", 10), ("d", 300 * KIB), ("e", 10), ("f", 1)];
    let spec = |(name, len): &(&str, u64)| TensorSpec::new(*name, Element::Uint8, vec![*len]);
    Model::painted(lens.iter().map(spec).collect())
}

fn file() -> (TensorFile, ReadLog, Model) {
    let model = model();
    let (source, log) = RecordingSource::new(MemoryFile::new(model.file(&write_options())));
    let file = open_source(source).expect("valid");
    let offsets: Vec<u64> = file.entries().iter().map(|entry| entry.data_offset).collect();
    let c = 8 * KIB + 5 * MIB + 4 * KIB;
    assert_eq!(offsets, [4 * KIB, 8 * KIB, c, c + 4 * KIB, c + 308 * KIB, c + 312 * KIB]);
    (file, log, model)
}

/// Reads with one reader, so that the order is the plan's.
#[track_caller]
fn check(read: impl FnOnce(&TensorFile, &ReadOptions), verify: bool, expect: &[Range<u64>]) {
    let (file, log, _) = file();
    let _ = log.take();
    let mut options = readers(1);
    options.verify = verify;
    read(&file, &options);
    let reads = log.take();
    assert!(reads.iter().all(|read| read.in_flight == 1));
    let ranges: Vec<Range<u64>> = reads.into_iter().map(|read| read.range).collect();
    assert_eq!(ranges, expect);
}

#[test]
fn open_reads_the_front_at_once() {
    let (_, log, _) = file();
    assert_eq!(log.ranges(), [0..512 * KIB]);
}

#[test]
fn open_of_a_file_shorter_than_the_first_read_takes_it_whole() {
    let bytes = Model::of_lens(&[10]).file(&write_options());
    let (source, log) = RecordingSource::new(MemoryFile::new(bytes));
    open_source(source).expect("valid");
    assert_eq!(log.ranges(), [0..4096 + 10 + 8]);
}

#[test]
fn open_of_a_large_index_takes_one_read_more() {
    let mut options = write_options();
    options.alignment = 1;
    let bytes = Model::of_lens(&[1; 14_000]).file(&options);
    let (source, log) = RecordingSource::new(MemoryFile::new(bytes));
    let file = open_source(source).expect("valid");
    let front = file.front().header.front_len();
    assert_eq!(front, 576_989);
    assert_eq!(log.ranges(), [0..512 * KIB, 512 * KIB..front]);
}

#[test]
fn a_stream_is_opened_without_a_byte_too_many() {
    let model = model();
    let reader = Box::new(Cursor::new(model.file(&write_options())));
    let (source, log) = RecordingSource::new(StreamSource::new(reader, "stream"));
    let file = open_source(source).expect("valid");
    let front = file.front().header.front_len();
    assert_eq!(log.ranges(), [0..73, 73..front]);
    load(&file, &readers(4)).expect("valid");
    let first_header = file.entries()[0].header_offset;
    assert_eq!(first_header, front);
    let reads = log.take();
    assert_eq!(reads.first().map(|read| read.range.start), Some(front));
    assert!(reads.iter().all(|read| read.in_flight == 1));
    assert!(reads.is_sorted_by_key(|read| read.range.start));
}

#[test]
fn one_tensor_is_its_header_and_data_in_one_read() {
    check(
        |file, options| drop(file.load_one("c", options).expect("valid")),
        true,
        &[8 * KIB + 5 * MIB..8 * KIB + 5 * MIB + 4 * KIB + 10],
    );
}

#[test]
fn one_tensor_without_verification_is_its_data_alone() {
    let c = 8 * KIB + 5 * MIB + 4 * KIB;
    check(|file, options| drop(file.load_one("c", options).expect("valid")), false, &[c..c + 10]);
}

#[test]
fn a_glob_skips_what_lies_far_and_reads_through_what_lies_near() {
    let c = 8 * KIB + 5 * MIB + 4 * KIB;
    check(
        |file, options| {
            let globs = Selection::globs(&["[ac]", "e", "f"]).expect("globs");
            assert_eq!(file.load(&globs, options).expect("valid").len(), 4);
        },
        false,
        &[
            4 * KIB..4 * KIB + 100,
            // 300 KiB of d lie before e; one page lies between e and f.
            c..c + 10,
            c + 308 * KIB..c + 312 * KIB + 1,
        ],
    );
}

#[test]
fn everything_is_read_once_in_pieces_of_two_megabytes() {
    let c = 8 * KIB + 5 * MIB + 4 * KIB;
    let ranges = [
        // What is small joins the piece that follows it.
        front_len()..8 * KIB + 2 * MIB,
        8 * KIB + 2 * MIB..8 * KIB + 4 * MIB,
        8 * KIB + 4 * MIB..c + 312 * KIB + 1,
    ];
    check(|file, options| drop(load(file, options).expect("valid")), true, &ranges);
}

fn front_len() -> u64 {
    let (file, _, _) = file();
    file.front().header.front_len()
}

#[test]
fn the_plan_that_prints_is_the_plan_that_runs() {
    let (file, log, _) = file();
    let plan = file.plan(&all(), &PlanOptions::local()).expect("plan");
    let _ = log.take();
    load(&file, &readers(1)).expect("valid");
    let planned: Vec<_> = plan.fetches.iter().map(|fetch| fetch.range.clone()).collect();
    assert_eq!(log.ranges(), planned);
}

#[test]
fn counters_are_those_of_the_requests() {
    let (file, log, model) = file();
    let _ = log.take();
    let tensors = file.load(&all(), &readers(2)).expect("valid");
    let reads = log.take();
    let stats = tensors.stats();
    assert_eq!(stats.requests, reads.len() as u64);
    let asked: u64 = reads.iter().map(|read| read.range.end - read.range.start).sum();
    assert_eq!(stats.bytes_fetched, asked);
    let data: usize = model.data.iter().map(Vec::len).sum();
    assert_eq!(stats.bytes_delivered, data as u64);
    let options = readers(2);
    file.load(&all(), &options).expect("valid");
    assert_eq!(options.progress.bytes(), asked, "progress counts every byte once");
}

#[test]
fn staged_reads_fit_their_buffers() {
    let (file, log, _) = file();
    let _ = log.take();
    stream(&file, &readers(1), &pool(256 * 1024, 2)).expect("valid");
    let reads = log.take();
    assert!(reads.iter().all(|read| read.range.end - read.range.start <= 256 * KIB));
    assert!(reads.is_sorted_by_key(|read| read.range.start));
    let covered: u64 = reads.iter().map(|read| read.range.end - read.range.start).sum();
    let last = file.entries().last().expect("tensors").data_end();
    assert_eq!(covered, last - file.front().header.front_len(), "nothing twice");
    // 5.3 MiB in buffers of 256 KiB, of which 64 KiB are kept for a header before a piece.
    assert_eq!(reads.len(), 29);
}

/// A source that is no local file is walked as a server is: by 4 MiB.
#[test]
fn checks_read_each_header_and_then_the_data_in_large_steps() {
    let c = 8 * KIB + 5 * MIB + 4 * KIB;
    let front = front_len();
    let b = 8 * KIB;
    let ranges = [
        front..4 * KIB,
        4 * KIB..4 * KIB + 100,
        4 * KIB + 100..b,
        b..b + 4 * MIB,
        b + 4 * MIB..b + 5 * MIB,
        b + 5 * MIB..c,
        c..c + 10,
        c + 10..c + 4 * KIB,
        c + 4 * KIB..c + 304 * KIB,
        c + 304 * KIB..c + 308 * KIB,
        c + 308 * KIB..c + 308 * KIB + 10,
        c + 308 * KIB + 10..c + 312 * KIB,
        c + 312 * KIB..c + 312 * KIB + 1,
    ];
    check(
        |file, options| assert_eq!(file.verify(&all(), options).expect("valid"), []),
        true,
        &ranges,
    );
    let checksum = |file: &TensorFile, options: &ReadOptions| {
        let digests = file.checksum(&all(), Algorithm::Crc32, options);
        assert_eq!(digests.expect("valid").len(), 6);
    };
    check(checksum, true, &ranges);
}

#[test]
fn a_header_alone_is_one_small_read() {
    check(
        |file, _| drop(file.header(2).expect("valid")),
        true,
        &[8 * KIB + 5 * MIB..8 * KIB + 5 * MIB + 4 * KIB],
    );
}

#[test]
fn a_map_reads_nothing() {
    let written = model().write(&write_options());
    let local = tz_io::LocalFile::open(&written.path).expect("open");
    let (source, log) = RecordingSource::new(local);
    assert!(source.local_file().is_some());
    let file = open_source(source).expect("valid");
    let _ = log.take();
    assert_eq!(file.map(&Selection::all()).expect("local").len(), 6);
    let globs = Selection::globs(&["[ac]", "f"]).expect("globs");
    let mapped = file.map(&globs).expect("local");
    let names: Vec<_> = mapped.iter().map(|tensor| tensor.entry().path.to_string()).collect();
    assert_eq!(names, ["a", "c", "f"]);
    assert_eq!(log.take(), []);
}

/// Keeps the first read after the front waiting until another one has begun; gives up after a while, so that a
/// failure shows as one.
#[derive(Debug)]
struct Paired {
    inner: MemoryFile,
    begun: Mutex<usize>,
    changed: Condvar,
}

impl RangeRead for Paired {
    fn len(&self) -> Option<u64> {
        self.inner.len()
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        if offset > 0 {
            let mut begun = self.begun.lock().expect("no panic");
            *begun += 1;
            self.changed.notify_all();
            let alone = |begun: &mut usize| *begun < 2;
            let patience = Duration::from_secs(60);
            let waited = self.changed.wait_timeout_while(begun, patience, alone);
            drop(waited.expect("no panic"));
        }
        self.inner.read_into(offset, buffers)
    }

    fn max_readers(&self) -> usize {
        2
    }

    fn location(&self) -> &str {
        self.inner.location()
    }
}

#[test]
fn as_many_readers_work_at_once_as_the_source_serves() {
    let model = model();
    let (source, log) = RecordingSource::new(Paired {
        inner: MemoryFile::new(model.file(&write_options())),
        begun: Mutex::new(0),
        changed: Condvar::new(),
    });
    let file = open_source(source).expect("valid");
    let _ = log.take();
    let mut options = unverified();
    options.readers = Some(8);
    assert_eq!(load(&file, &options).expect("valid"), model.contents());
    let most = log.take().iter().map(|read| read.in_flight).max();
    assert_eq!(most, Some(2));
}
