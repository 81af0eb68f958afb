//! One suite, every source: local file, stream, memory, and each of them behind the wrappers of the tests.

use std::io::{self, Cursor, Read};

use tz_io::testing::{FaultSource, MemoryFile, RecordingSource, range_read_conformance};
use tz_io::{Algorithm, LocalFile, RangeRead, StreamSource};

use crate::model::{Model, all, load, open_source, pool, readers, stream, write_options};

/// A file that is gone from its folder once it is open.
fn local(bytes: &[u8]) -> Box<dyn RangeRead> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("written");
    Box::new(LocalFile::open(file.path()).expect("open"))
}

fn memory(bytes: &[u8]) -> Box<dyn RangeRead> {
    Box::new(MemoryFile::new(bytes))
}

fn streamed(bytes: &[u8]) -> Box<dyn RangeRead> {
    let reader = Box::new(Cursor::new(bytes.to_vec()));
    Box::new(StreamSource::new(reader, "stream"))
}

/// A pipe gives what is there, be it one byte, and is interrupted now and then.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    reads: usize,
}

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(1 + self.reads % 4000);
        self.bytes.read(&mut buf[..len])
    }
}

fn trickled(bytes: &[u8]) -> Box<dyn RangeRead> {
    let bytes = Cursor::new(bytes.to_vec());
    let reader = Trickle { bytes, reads: 0 };
    Box::new(StreamSource::new(Box::new(reader), "trickle"))
}

fn wrapped(bytes: &[u8]) -> Box<dyn RangeRead> {
    let (recording, _) = RecordingSource::new(MemoryFile::new(bytes));
    Box::new(FaultSource::new(recording))
}

type Make = fn(&[u8]) -> Box<dyn RangeRead>;

const SOURCES: &[(&str, Make)] = &[
    ("local file", local),
    ("memory", memory),
    ("stream", streamed),
    ("stream in small reads", trickled),
    ("behind the wrappers", wrapped),
];

#[test]
fn every_source_reads_ranges() {
    for (name, make) in SOURCES {
        println!("{name}");
        range_read_conformance(make);
    }
}

#[test]
fn every_source_gives_the_same_tensors() {
    let model = Model::of_lens(&[0, 1, 4095, 4096, 4097, 3_000_000, 10, 0]);
    let bytes = model.file(&write_options());
    let expected = model.contents();
    for (name, make) in SOURCES {
        let open = || tz_io::TensorFile::from_source(make(&bytes), &Default::default());
        let open = || open().expect(name);
        for threads in [1, 3] {
            let options = readers(threads);
            assert_eq!(load(&open(), &options).expect(name), expected, "{name}");
            let staged = stream(&open(), &options, &pool(1 << 17, 2));
            assert_eq!(staged.expect(name), expected, "{name}");
            assert_eq!(open().verify(&all(), &options).expect(name), [], "{name}");
            let digests = open().checksum(&all(), Algorithm::Blake3, &options);
            let plain = expected.iter().enumerate().map(|(i, (_, bytes))| {
                let digest = blake3::hash(bytes).to_hex().to_string();
                (i, digest)
            });
            assert_eq!(digests.expect(name), plain.collect::<Vec<_>>(), "{name}");
        }
        let one = open().load_one("t4", &readers(2)).expect(name);
        assert_eq!(one.bytes(), expected[4].1, "{name}");
    }
}

#[test]
fn the_suite_finds_a_source_that_serves_another_range() {
    use tz_io::testing::SourceFault;

    let shifted = |bytes: &[u8]| -> Box<dyn RangeRead> {
        let source = FaultSource::new(MemoryFile::new(bytes));
        Box::new(source.on_offset(4096, SourceFault::Shifted))
    };
    let found = std::panic::catch_unwind(|| range_read_conformance(shifted));
    assert!(found.is_err());
}

#[test]
fn a_stream_is_read_no_further_than_the_tensors_asked_for() {
    let model = Model::of_lens(&[10, 20, 30]);
    let bytes = model.file(&write_options());
    let (recording, reads) =
        RecordingSource::new(StreamSource::new(Box::new(Cursor::new(bytes)), "stream"));
    let file = open_source(recording).expect("valid");
    let first = file.load_one("t0", &readers(1)).expect("valid");
    assert_eq!(first.bytes(), model.data[0]);
    let end = file.entries()[0].data_end();
    assert_eq!(reads.ranges().last().map(|range| range.end), Some(end));
    let third = file.load_one("t2", &readers(1)).expect("further on");
    assert_eq!(third.bytes(), model.data[2]);
    let again = file.load_one("t1", &readers(1)).expect_err("gone by");
    let text = "stream: a stream cannot be read twice or out of order";
    assert_eq!(again.to_string(), text);
}
