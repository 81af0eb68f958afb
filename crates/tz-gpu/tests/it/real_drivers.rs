//! What real drivers do and a first run would meet: allocations that hold up the device, contexts that others share,
//! streams that wait for others, captures, children of fork. The rows of "Faults found on paper" in `docs/GPU.md`.

use tz_cuda_shim::testing::{FakeDriver, Probe};
use tz_format::{Element, TensorSpec};
use tz_gpu::testing::TestFile;
use tz_gpu::{
    CudaDevice, Device as _, DeviceError, DeviceMemory as _, DeviceTensors, GpuLoader, GpuOptions,
};
use tz_io::{Location, ReadOptions, Selection, TensorFile};

/// Some 100 MiB; in pieces of 2 MiB with [`options`].
fn large_file() -> TestFile {
    let spec = |i| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![10 << 20]);
    TestFile::new((0..10).map(spec).collect())
}

fn load(loader: &mut GpuLoader<CudaDevice>, file: &TestFile) -> DeviceTensors {
    loader.load(&file.open(), &Selection::all(), &ReadOptions::default()).unwrap()
}

fn options() -> GpuOptions {
    let mut options = GpuOptions::local();
    options.buffer_bytes = 2 << 20;
    options
}

fn loader() -> GpuLoader<CudaDevice> {
    GpuLoader::new(CudaDevice::open(0).unwrap(), options()).unwrap()
}

#[track_caller]
fn check_bytes(file: &TestFile, tensors: &DeviceTensors) {
    let host = file.on_host();
    assert_eq!(host.len(), tensors.len());
    for (expect, tensor) in host.iter().zip(tensors) {
        assert!(tensor.to_host().unwrap() == expect.bytes(), "{:?}", tensor.entry().path);
    }
}

/// Row 8.
#[test]
fn a_ring_is_few_allocations_and_no_wait_for_the_whole_device() {
    let test = "real_drivers::a_ring_is_few_allocations_and_no_wait_for_the_whole_device";
    FakeDriver::new().run(test, || {
        let probe = Probe::new();
        let file = large_file();
        let mut loader = loader();
        drop(load(&mut loader, &file));
        drop(load(&mut loader, &file));
        drop(loader);
        let locked = probe.calls("cuMemHostRegister_v2");
        assert!((1..=6).contains(&locked), "{locked}");
        assert_eq!(probe.calls("cuMemHostUnregister"), locked);
        assert_eq!(probe.calls("cuMemAllocHost_v2"), 0, "pages of our own are locked sooner");
        assert_eq!(probe.calls("cuCtxSynchronize"), 0);
        // Two streams, waited for at the end of either load.
        assert_eq!(probe.calls("cuStreamSynchronize"), 4);
    });
}

/// Row 8.
#[test]
fn where_the_driver_locks_no_pages_of_ours_it_allocates_some() {
    let test = "real_drivers::where_the_driver_locks_no_pages_of_ours_it_allocates_some";
    FakeDriver::new().failing("cuMemHostRegister_v2", 801, 1).run(test, || {
        let probe = Probe::new();
        let file = large_file();
        let mut loader = loader();
        let tensors = load(&mut loader, &file);
        check_bytes(&file, &tensors);
        drop((tensors, loader));
        let allocations = probe.calls("cuMemAllocHost_v2");
        assert!((1..=6).contains(&allocations), "{allocations}");
        assert_eq!(probe.calls("cuMemFreeHost"), allocations);
    });
}

/// Row 9.
#[test]
fn events_are_recorded_again() {
    FakeDriver::new().run("real_drivers::events_are_recorded_again", || {
        let probe = Probe::new();
        let mut options = options();
        options.memory_limit = Some(8 * ((2 << 20) + (64 << 10)));
        let mut loader = GpuLoader::new(CudaDevice::open(0).unwrap(), options).unwrap();
        let file = large_file();
        let copy = load(&mut loader, &file).stats().copy;
        assert!(copy.buffers >= 50, "{copy:?}");
        assert_eq!(probe.calls("cuEventRecord"), copy.buffers);
        assert!(probe.calls("cuEventCreate") <= 8, "one a buffer, not one a copy");
    });
}

/// Row 10.
#[test]
fn the_callers_current_device_stays() {
    FakeDriver::new().run("real_drivers::the_callers_current_device_stays", || {
        let probe = Probe::new();
        let file = TestFile::mixed();
        for current in [Some(1), None] {
            probe.make_current(current);
            let stays = |what: &str| assert_eq!(probe.current_device(), current, "{what}");
            let device = CudaDevice::open(0).unwrap();
            stays("opening a device");
            assert!(CudaDevice::open(7).is_err());
            stays("failing to open one");
            let mut loader = GpuLoader::new(device.clone(), GpuOptions::local()).unwrap();
            stays("making a loader");
            let tensors = load(&mut loader, &file);
            stays("loading");
            let large = tensors.get("large").unwrap().clone();
            large.to_host().unwrap();
            stays("reading back");
            drop(tensors);
            std::thread::spawn(move || {
                probe.make_current(Some(1));
                drop(large);
                assert_eq!(probe.current_device(), Some(1), "freeing on another thread");
                assert_eq!(probe.capture_mode(), 0);
            })
            .join()
            .unwrap();
            assert!(device.allocate(1 << 40).is_err());
            stays("an allocation that fails");
            drop(loader);
            stays("dropping a loader");
            assert_eq!(probe.capture_mode(), 0, "the mode for captures, too");
        }
    });
}

/// Row 10: with the copies of a whole load, the threads that the load starts change their current device once.
#[test]
fn threads_of_the_library_bind_once() {
    FakeDriver::new().run("real_drivers::threads_of_the_library_bind_once", || {
        let probe = Probe::new();
        let mut loader = loader();
        let mut read = ReadOptions::default();
        read.readers = Some(4);
        let file = large_file().open();
        let before = probe.calls("cuCtxSetCurrent");
        // The calling thread reads too, and is not the library's: it keeps the device current itself for once.
        probe.make_current(Some(0));
        let loaded = loader.load(&file, &Selection::all(), &read).unwrap();
        assert!(loaded.stats().copy.buffers >= 50);
        let bound = probe.calls("cuCtxSetCurrent") - before;
        assert!(bound <= 4, "three readers and the thread that pins: {bound}");
    });
}

/// Row 11.
#[test]
fn a_context_outlives_the_last_object_of_the_library() {
    let test = "real_drivers::a_context_outlives_the_last_object_of_the_library";
    FakeDriver::new().run(test, || {
        let probe = Probe::new();
        let file = TestFile::mixed();
        for _ in 0..3 {
            let mut loader = loader();
            // As a program may, which asked the runtime for the context and did not retain it itself.
            probe.make_current(Some(0));
            let tensors = load(&mut loader, &file);
            tensors.get("large").unwrap().to_host().unwrap();
            drop((loader, tensors));
            assert_eq!(probe.context(), 0, "the thread's context is alive");
        }
        assert_eq!(probe.calls("cuDevicePrimaryCtxRetain"), 1);
        assert_eq!(probe.calls("cuDevicePrimaryCtxRelease_v2"), 0);
    });
}

/// Row 12.
#[test]
fn work_of_others_on_the_legacy_stream_holds_nothing_up() {
    let test = "real_drivers::work_of_others_on_the_legacy_stream_holds_nothing_up";
    FakeDriver::new().run(test, || {
        let probe = Probe::new();
        let file = large_file();
        let mut loader = loader();
        probe.start_late_kernel(0);
        let tensors = load(&mut loader, &file);
        assert_eq!((probe.late_kernels(0), probe.fenced()), (1, 0));
        drop(loader);
        check_bytes(&file, &tensors);
    });
}

/// Row 13.
#[test]
fn a_load_neither_fails_nor_ends_another_threads_capture() {
    let test = "real_drivers::a_load_neither_fails_nor_ends_another_threads_capture";
    FakeDriver::new().run(test, || {
        let probe = Probe::new();
        let file = TestFile::mixed();
        let device = CudaDevice::open(0).unwrap();
        probe.capture(true);
        let mut loader = GpuLoader::new(device, GpuOptions::local()).unwrap();
        let tensors = load(&mut loader, &file);
        drop(loader);
        drop(tensors);
        assert_eq!(probe.invalidated_captures(), 0);
        assert_eq!(probe.capture_mode(), 0);
        probe.capture(false);
    });
}

/// Row 13: the wait for the whole device is gone, and what it protected is protected still.
#[test]
fn pinned_memory_is_freed_only_after_the_copies_that_read_it() {
    let test = "real_drivers::pinned_memory_is_freed_only_after_the_copies_that_read_it";
    // The driver reports memory that is freed too early when the process ends.
    FakeDriver::new().run(test, || {
        let probe = Probe::new();
        let device = CudaDevice::open(0).unwrap();
        let other = CudaDevice::open(1).unwrap();
        let target = device.allocate(1 << 20).unwrap();
        for stream_first in [true, false] {
            let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
            let idle = other.stream().unwrap();
            let mut pinned = other.pin(1 << 20).unwrap();
            pinned.fill(7);
            for stream in [&first, &second] {
                for _ in 0..3 {
                    device.copy_to_device(stream, &pinned, &target, 0).unwrap();
                }
            }
            device.synchronize(&first).unwrap();
            let before = probe.calls("cuStreamSynchronize");
            if stream_first {
                drop(second);
                drop(pinned);
            } else {
                drop(pinned);
                drop(second);
            }
            assert_eq!(probe.calls("cuStreamSynchronize") - before, 1, "only the busy stream");
            drop((first, idle));
            let mut back = vec![0; 1 << 20];
            device.copy_to_host(&target, 0, &mut back).unwrap();
            assert!(back.iter().all(|&byte| byte == 7));
        }
        assert_eq!(probe.calls("cuCtxSynchronize"), 0);
        assert_eq!(target.len(), 1 << 20);
    });
}

/// Row 14: the driver takes whole pages only, and no page twice.
#[test]
fn mapped_files_are_locked_by_pages_and_unlocked() {
    FakeDriver::new().run("real_drivers::mapped_files_are_locked_by_pages_and_unlocked", || {
        let device = CudaDevice::open(0).unwrap();
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
        let open = |name: &str| {
            let location = Location::File(root.join(name));
            TensorFile::open(&location, &tz_format::Limits::default()).unwrap()
        };
        let mut odd = 0;
        for opened in [open("valid/packed.tensors"), TestFile::mixed().open()] {
            let mapped = opened.map(&Selection::all()).unwrap();
            for tensor in mapped.iter().filter(|tensor| tensor.bytes().len() > 1) {
                let bytes = tensor.bytes();
                odd += usize::from(!bytes.as_ptr().addr().is_multiple_of(4096));
                let locked = device.register(tensor.shared_bytes()).unwrap();
                let refused = device.register(tensor.shared_bytes()).unwrap_err();
                assert!(matches!(refused, DeviceError::Driver { code: 712, .. }), "{refused}");
                let target = device.allocate(bytes.len() as u64).unwrap();
                let stream = device.stream().unwrap();
                device.copy_to_device(&stream, &locked, &target, 0).unwrap();
                // While the copy is under way: it is waited for.
                drop(locked);
                let mut back = vec![0; bytes.len()];
                device.copy_to_host(&target, 0, &mut back).unwrap();
                assert!(back == bytes, "{:?}", tensor.entry().path);
            }
        }
        assert!(odd > 0, "some tensor begins within a page");
    });
}

/// Row 14.
#[test]
fn a_device_that_cannot_read_read_only_memory_says_so() {
    let fake = FakeDriver::new().with_attribute(113, 0);
    fake.run("real_drivers::a_device_that_cannot_read_read_only_memory_says_so", || {
        let opened = TestFile::mixed().open();
        let mapped = opened.map(&Selection::all()).unwrap();
        let bytes = mapped.iter().find(|tensor| tensor.bytes().len() > 1).unwrap().shared_bytes();
        let refused = CudaDevice::open(0).unwrap().register(bytes).unwrap_err();
        assert!(matches!(refused, DeviceError::Unsupported { .. }), "{refused}");
        assert_eq!(Probe::new().calls("cuMemHostRegister_v2"), 0);
    });
}

/// Row 15.
#[test]
fn a_child_of_fork_is_told_to_be_spawned() {
    FakeDriver::new().run("real_drivers::a_child_of_fork_is_told_to_be_spawned", || {
        let probe = Probe::new();
        CudaDevice::open(0).unwrap();
        assert!(probe.in_forked_child(|| CudaDevice::open(0).err() == Some(DeviceError::Forked)));
    });
    assert!(DeviceError::Forked.advice().contains("spawn"));
}

/// Row 15: CUDA was started by another part of the parent.
#[test]
fn a_driver_that_another_process_started_is_told_apart_from_none() {
    let fake = FakeDriver::new().failing("cuInit", 3, 1);
    let test = "real_drivers::a_driver_that_another_process_started_is_told_apart_from_none";
    fake.run(test, || assert_eq!(CudaDevice::open(0).unwrap_err(), DeviceError::Forked));
}
