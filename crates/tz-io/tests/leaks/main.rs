//! Nothing stays behind: threads and file descriptors of the process are counted before and after.

use std::io::Cursor;

use tz_format::{Element, Limits, TensorSpec};
use tz_io::testing::{
    FaultSource, MemoryFile, PaintedTensors, RecordingPool, SourceFault, threads,
};
use tz_io::{
    Cancel, HeapPool, IoError, Location, Piece, ReadOptions, Selection, StreamSource, TensorFile,
    WriteOptions, write,
};

/// Open descriptors of the process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// Memory mappings of the process.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    maps.lines().count()
}

/// Writable mappings of at least `len` bytes: arenas of loads. The allocator's reserves are not writable.
fn arenas(len: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let is_arena = |line: &&str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("a range");
        let at = |text| usize::from_str_radix(text, 16).expect("an address");
        fields.next() == Some("rw-p") && at(end) - at(start) >= len
    };
    maps.lines().filter(is_arena).count()
}

/// A load of `bytes` that `fault` befalls where byte `at` is read.
fn disturbed(
    bytes: &MemoryFile,
    at: u64,
    fault: SourceFault,
    options: &ReadOptions,
) -> Result<usize, IoError> {
    let source = FaultSource::new(bytes.clone()).on_offset(at, fault);
    let file = TensorFile::from_source(Box::new(source), &Limits::default())?;
    file.load(&Selection::all(), options).map(|tensors| tensors.len())
}

fn reading(cancel: Cancel) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.readers = Some(3);
    options.cancel = cancel;
    options
}

/// Wherever a load is cancelled or fails, its arena is unmapped when it returns.
fn arenas_of_broken_loads_are_unmapped() {
    const LEN: usize = 24 << 20;
    let spec = TensorSpec::new("large", Element::Uint8, vec![LEN as u64]);
    let source = PaintedTensors::new(vec![spec]);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("large.tensors");
    let mut options = WriteOptions::default();
    options.fsync = false;
    write(&source, &Location::File(path.clone()), &options).expect("written");
    let bytes = MemoryFile::new(std::fs::read(&path).expect("read"));
    let file = TensorFile::from_source(Box::new(bytes.clone()), &Limits::default());
    let file = file.expect("valid");
    let data = file.entries()[0].data_offset;
    let none = arenas(LEN);
    let whole = file.load(&Selection::all(), &ReadOptions::default()).expect("valid");
    assert_eq!(arenas(LEN), none + 1, "an arena would be seen");
    drop(whole);
    assert_eq!(arenas(LEN), none);
    for at in [0, LEN / 2, LEN - (8 << 20)] {
        for kind in [None, Some(std::io::ErrorKind::TimedOut)] {
            let cancel = Cancel::default();
            let fault = kind.map_or(SourceFault::Cancel(cancel.clone()), SourceFault::Fail);
            let broken = disturbed(&bytes, data + at as u64, fault, &reading(cancel));
            // Other readers may have taken every piece before the flag was set.
            assert!(broken.is_err() || kind.is_none(), "{broken:?}");
            assert_eq!(arenas(LEN), none, "broken at {at}");
        }
    }
}

#[test]
fn a_thousand_loads_leave_no_thread_descriptor_or_mapping_behind() {
    arenas_of_broken_loads_are_unmapped();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.tensors");
    let location = Location::File(path.clone());
    let specs = (0..8).map(|i| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![5000]));
    let source = PaintedTensors::new(specs.collect());
    let mut options = WriteOptions::default();
    options.fsync = false;
    write(&source, &location, &options).expect("written");

    let mut reading = ReadOptions::default();
    reading.readers = Some(3);
    let mut cancelled = reading.clone();
    cancelled.cancel = Cancel::default();
    cancelled.cancel.cancel();
    let round = || {
        let open = || TensorFile::open(&location, &Limits::default()).expect("valid");
        let file = open();
        let tensors = file.load(&Selection::all(), &reading).expect("valid");
        assert_eq!((tensors.len(), file.map(&Selection::all()).expect("local").len()), (8, 8));
        let pool = RecordingPool::new(HeapPool::new(1 << 17, 2).expect("memory"));
        let drop_all = |_: Piece| Ok(());
        file.stream(&Selection::all(), &reading, &pool, &drop_all).expect("valid");
        assert!(open().load(&Selection::all(), &cancelled).is_err());
        let bytes = std::fs::read(&path).expect("read");
        let stream = StreamSource::new(Box::new(Cursor::new(bytes.clone())), "stream");
        let file = TensorFile::from_source(Box::new(stream), &Limits::default()).expect("valid");
        assert_eq!(file.load(&Selection::all(), &reading).expect("valid").len(), 8);
        write(&source, &location, &options).expect("written");
        let (bytes, absent) = (MemoryFile::new(bytes), Location::File(path.with_extension("no")));
        assert!(TensorFile::open(&absent, &Limits::default()).is_err());
        for fault in [SourceFault::Flip, SourceFault::Short] {
            let data = file.entries()[3].data_offset;
            assert!(disturbed(&bytes, data + 1, fault, &reading).is_err());
        }
    };
    // What the process keeps once it has warmed up (stacks that the C library caches) is no leak.
    for _ in 0..20 {
        round();
    }
    let before = (threads(usize::MAX).expect("/proc"), descriptors(), mappings());
    for _ in 0..1_000 {
        round();
    }
    // A thread may have been on its way out when they were counted first; one that stays with each load makes a
    // thousand.
    let tasks = threads(before.0).expect("/proc");
    assert!(tasks <= before.0, "{} threads became {tasks}", before.0);
    assert_eq!(descriptors(), before.1);
    let mapped = mappings();
    // The allocator may add an arena; a mapping a load would add a thousand.
    assert!(mapped < before.2 + 100, "{} mappings became {mapped}", before.2);
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
}
