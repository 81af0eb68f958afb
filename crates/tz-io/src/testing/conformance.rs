//! What every source must do. Owns [`range_read_conformance`], run against each transport.

use std::io::{self, IoSliceMut};

use super::paint;
use crate::error::IoError;
use crate::source::RangeRead;

/// Length of the file that the suite reads: some pages and a rest.
const LEN: usize = 100_003;

/// Puts the sources that `make` gives for a file's bytes through every promise of [`RangeRead`].
///
/// # Panics
/// Where a promise is broken.
pub fn range_read_conformance(make: impl Fn(&[u8]) -> Box<dyn RangeRead>) {
    let bytes = paint(0, LEN as u64);
    let source = || make(&bytes);

    let opened = source();
    if let Some(len) = opened.len() {
        assert_eq!(len, LEN as u64, "length");
        assert!(!opened.is_empty(), "not empty");
        assert!(make(&[]).is_empty(), "empty");
    }
    assert!(opened.max_readers() > 0, "at least one reader");
    assert!(!opened.location().is_empty(), "a name for messages");

    for (offset, lens) in [
        (0, vec![LEN]),
        (0, vec![]),
        (0, vec![0]),
        (1, vec![1]),
        (4095, vec![2, 4096, 1]),
        (17, vec![0, 5, 0, 0, 7, 0]),
        (LEN - 1, vec![1]),
        (LEN, vec![0]),
        // More buffers than one system call takes, the last one shorter.
        (3, [vec![40; 2400], vec![1]].concat()),
    ] {
        check(&*source(), &bytes, offset, &lens);
    }
    read_on(&*source(), &bytes);
    past_the_end(&source);
    match source().max_readers() {
        1 => backwards(&*source()),
        readers => in_parallel(&*source(), &bytes, readers.min(4)),
    }
}

/// Reads buffers of `lens` from `offset` on and compares them with `bytes`.
fn check(source: &dyn RangeRead, bytes: &[u8], offset: usize, lens: &[usize]) {
    let mut buffers: Vec<Vec<u8>> = lens.iter().map(|&len| vec![0xee; len]).collect();
    let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    let result = source.read_into(offset as u64, &mut slices);
    result.unwrap_or_else(|error| panic!("{} buffers at {offset}: {error}", lens.len()));
    let read = buffers.concat();
    let expected = bytes.get(offset..offset + read.len());
    assert!(expected == Some(&*read), "{} buffers at {offset}", lens.len());
}

/// Ascending reads with gaps between them, as a plan makes them.
fn read_on(source: &dyn RangeRead, bytes: &[u8]) {
    for (offset, len) in [(0, 73), (73, 1000), (2000, 1), (50_000, 50_000), (LEN, 0)] {
        check(source, bytes, offset, &[len]);
    }
}

/// A range that the file does not hold is an error of input and output, never a short success.
fn past_the_end(source: &impl Fn() -> Box<dyn RangeRead>) {
    for (offset, len) in [(LEN - 5, 6), (LEN, 1), (LEN + 1, 1), (LEN * 2, 10), (0, LEN + 1)] {
        let mut buffer = vec![0; len];
        let source = source();
        let result = source.read_into(offset as u64, &mut [IoSliceMut::new(&mut buffer)]);
        match result {
            Err(IoError::Io { source: error, location, .. }) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len} at {offset}");
                assert_eq!(location, source.location());
            }
            other => panic!("{len} bytes at {offset} of {LEN}: {other:?}"),
        }
    }
}

/// A source of one reader need not go back, but must say that it cannot.
fn backwards(source: &dyn RangeRead) {
    let mut byte = [0];
    let read = |offset, byte: &mut [u8; 1]| source.read_into(offset, &mut [IoSliceMut::new(byte)]);
    assert!(read(10, &mut byte).is_ok(), "forwards");
    let again = read(10, &mut byte);
    assert!(matches!(again, Ok(()) | Err(IoError::Unsupported { .. })), "{again:?}");
    assert!(read(11, &mut byte).is_ok(), "the refusal changed nothing");
}

/// Readers of different places do not disturb each other.
fn in_parallel(source: &dyn RangeRead, bytes: &[u8], readers: usize) {
    std::thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || {
                for round in 0..20 {
                    let offset = (reader * 31_337 + round * 997) % (LEN - 5000);
                    check(source, bytes, offset, &[3000, 1, 1999]);
                }
            });
        }
    });
}
