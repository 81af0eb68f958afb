//! Each fault: the error it gives, every buffer and byte given back, no buffer touched too early.

use std::io;

use tz_format::{Element, TensorSpec};
use tz_gpu::testing::TestFile;
use tz_gpu::{
    Bus, DeviceError, GpuError, GpuLoader, GpuOptions, INJECTED_CODE, MemoryKind, Placement,
    SimCall, SimDevice, SimOptions,
};
use tz_io::testing::{FaultSource, SourceFault};
use tz_io::{IoError, Location, ReadOptions, Selection, TensorFile};

/// A file of some 40 pieces in a ring of three buffers.
fn file() -> TestFile {
    let spec = |i| TensorSpec::new(format!("t{i}"), Element::Float32, vec![50_000]);
    TestFile::new((0..14).map(spec).collect())
}

fn options() -> GpuOptions {
    let mut options = GpuOptions::local();
    options.buffer_bytes = 64 << 10;
    options.memory_limit = Some(3 * (128 << 10));
    options
}

fn device(failures: Vec<(SimCall, u64)>, seed: u64) -> SimDevice {
    let mut options = SimOptions::default();
    options.failures = failures;
    options.seed = seed;
    options.delay = 5;
    SimDevice::new(options)
}

/// Loads on a device, then asserts that nothing is left on it and nothing was touched too early.
fn load_and_account(
    device: &SimDevice,
    options: GpuOptions,
    file: &TensorFile,
) -> Result<(), GpuError> {
    let result = GpuLoader::new(device.clone(), options).and_then(|mut loader| {
        let loaded = loader.load(file, &Selection::all(), &ReadOptions::default());
        loaded.map(drop)
    });
    assert_eq!(device.violations(), Vec::<String>::new());
    let usage = device.usage();
    assert_eq!((usage.device_bytes, usage.pinned_bytes), (0, 0));
    result
}

/// The call fails at its `nth` time; the load reports just that, for many orders of completion.
#[track_caller]
fn check(call: SimCall, nth: u64) {
    let file = file();
    let opened = file.open();
    for seed in 1..20 {
        let device = device(vec![(call, nth)], seed);
        match load_and_account(&device, options(), &opened) {
            Err(GpuError::Device(DeviceError::Driver { code: INJECTED_CODE, .. })) => {}
            other => panic!("{call:?} {nth}, seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn failing_calls_are_reported_and_everything_is_returned() {
    check(SimCall::Allocate, 1);
    check(SimCall::Stream, 2);
    check(SimCall::Copy, 1);
    check(SimCall::Copy, 7);
    check(SimCall::Event, 2);
    check(SimCall::Record, 5);
    check(SimCall::Query, 3);
    check(SimCall::LateCopy, 4);
    check(SimCall::Synchronize, 1);
}

#[test]
fn the_bus_gives_everything_back_whatever_fails() {
    let calls =
        [SimCall::Allocate, SimCall::Pin, SimCall::Stream, SimCall::Copy, SimCall::Synchronize];
    for call in calls.into_iter().map(Some).chain([None]) {
        let device = device(call.map(|call| (call, 1)).into_iter().collect(), 7);
        let bytes = 40 << 20;
        let copied = Bus::new(device.clone(), bytes).and_then(|bus| bus.copy(100 << 20));
        assert_eq!(copied.is_ok(), call.is_none(), "{call:?}: {copied:?}");
        let usage = device.usage();
        assert_eq!((usage.device_bytes, usage.pinned_bytes), (0, 0), "{call:?}");
        assert_eq!(device.violations(), Vec::<String>::new(), "{call:?}");
        if call.is_none() {
            // 16 MiB each, and the last one the rest of 100 MiB.
            assert_eq!(usage.copies, 7);
        }
    }
}

#[test]
fn the_last_of_many_allocations_fails() {
    let file = file();
    let mut options = options();
    options.placement = Placement::PerTensor;
    let device = device(vec![(SimCall::Allocate, 14)], 1);
    let result = load_and_account(&device, options, &file.open());
    assert!(matches!(result, Err(GpuError::Device(_))), "{result:?}");
}

#[test]
fn a_model_larger_than_the_device_is_refused() {
    let file = file();
    let mut small = SimOptions::default();
    small.memory = 1 << 20;
    let device = SimDevice::new(small);
    match load_and_account(&device, options(), &file.open()) {
        Err(GpuError::Device(error @ DeviceError::OutOfMemory { memory, free, .. })) => {
            assert_eq!((memory, free), (MemoryKind::Device, Some(1 << 20)));
            assert!(error.advice().contains("nvidia-smi"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ring_that_cannot_be_pinned_whole_is_filled_up_with_ordinary_memory() {
    let file = file();
    let mut scarce = SimOptions::default();
    scarce.pinnable = 2 * (128 << 10);
    let device = SimDevice::new(scarce);
    load_and_account(&device, options(), &file.open()).unwrap();
    assert_eq!(device.usage().peak_pinned_bytes, 2 * (128 << 10));
}

#[test]
fn a_ring_that_cannot_be_pinned_at_all_is_an_error() {
    let file = file();
    let mut none = SimOptions::default();
    none.pinnable = 1000;
    let result = load_and_account(&SimDevice::new(none), options(), &file.open());
    let Err(GpuError::Device(DeviceError::OutOfMemory { memory, .. })) = result else {
        panic!("{result:?}");
    };
    assert_eq!(memory, MemoryKind::Pinned);
}

#[test]
fn a_source_that_fails_midway_is_reported_as_such() {
    let file = file();
    let Location::File(path) = file.location() else { unreachable!("test files are local") };
    let bytes = std::fs::read(path).unwrap();
    for seed in 1..20 {
        let memory = tz_io::testing::MemoryFile::new(bytes.clone());
        let source =
            FaultSource::new(memory).on_read(12, SourceFault::Fail(io::ErrorKind::ConnectionReset));
        let opened = TensorFile::from_source(Box::new(source), &Default::default()).unwrap();
        match load_and_account(&device(Vec::new(), seed), options(), &opened) {
            Err(GpuError::Io(IoError::Io { source, .. })) => {
                assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn cancelling_ends_the_load() {
    let file = file();
    let device = device(Vec::new(), 1);
    let mut loader = GpuLoader::new(device.clone(), options()).unwrap();
    let read = ReadOptions::default();
    read.cancel.cancel();
    let result = loader.load(&file.open(), &Selection::all(), &read);
    assert!(matches!(result, Err(GpuError::Io(IoError::Cancelled))), "{result:?}");
    drop(loader);
    assert_eq!((device.usage().device_bytes, device.usage().pinned_bytes), (0, 0));
}

#[test]
fn limits_that_leave_no_room_are_refused() {
    let device = device(Vec::new(), 1);
    let mut none = options();
    none.memory_limit = Some(60 << 10);
    let refused = GpuLoader::new(device.clone(), none).unwrap_err();
    let GpuError::RingTooSmall { limit, needed } = refused else { panic!("{refused:?}") };
    assert_eq!((limit, needed), (60 << 10, 68 << 10));

    let mut integers = options();
    integers.dtype = Some(Element::Int32);
    let refused = GpuLoader::new(device, integers).unwrap_err();
    assert!(matches!(refused, GpuError::UnsupportedCast { dtype: "int32" }), "{refused:?}");
}
