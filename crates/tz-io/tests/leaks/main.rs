//! Nothing stays behind: threads and file descriptors of the process are counted before and after.

use std::io::Cursor;

use tz_format::{Element, Limits, TensorSpec};
use tz_io::testing::{PaintedTensors, RecordingPool};
use tz_io::{
    Cancel, HeapPool, Location, Piece, ReadOptions, Selection, StreamSource, TensorFile,
    WriteOptions, write,
};

/// Entries of a folder of `/proc/self`: one per thread, or one per descriptor.
fn count(folder: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{folder}")).expect("/proc").count()
}

/// Memory mappings of the process.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    maps.lines().count()
}

#[test]
fn a_thousand_loads_leave_no_thread_descriptor_or_mapping_behind() {
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
        let stream = StreamSource::new(Box::new(Cursor::new(bytes)), "stream");
        let file = TensorFile::from_source(Box::new(stream), &Limits::default()).expect("valid");
        assert_eq!(file.load(&Selection::all(), &reading).expect("valid").len(), 8);
        write(&source, &location, &options).expect("written");
    };
    // What the process keeps once it has warmed up (stacks that the C library caches) is no leak.
    for _ in 0..20 {
        round();
    }
    let before = (count("task"), count("fd"), mappings());
    for _ in 0..1_000 {
        round();
    }
    let (tasks, descriptors, mapped) = (count("task"), count("fd"), mappings());
    assert_eq!((tasks, descriptors), (before.0, before.1));
    // The allocator may add an arena; a mapping a load would add a thousand.
    assert!(mapped < before.2 + 100, "{} mappings became {mapped}", before.2);
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
}
