//! `CudaDevice` over a driver in host memory: the whole suite, and every way in which a driver can refuse.

use tz_cuda_shim::testing::FakeDriver;
use tz_gpu::testing::{TestFile, run_all};
use tz_gpu::{
    CudaDevice, CudaInfo, Device as _, DeviceError, DeviceId, GpuError, GpuLoader, GpuOptions,
    MemoryKind, Shard, load_shards,
};
use tz_io::{ReadOptions, Selection};

#[test]
fn the_suite_passes() {
    FakeDriver::new().run("fake_cuda::the_suite_passes", || {
        let device = CudaDevice::open(0).unwrap();
        let mut failures = Vec::new();
        let (ran, failed) = run_all(&device, |name, passed| {
            if !passed {
                failures.push(name.to_owned());
            }
        });
        assert!(ran > 0 && failed == 0, "{failures:?}");
    });
}

#[test]
fn the_driver_is_described() {
    FakeDriver::new().run("fake_cuda::the_driver_is_described", || {
        let info = CudaInfo::read().unwrap();
        assert_eq!(info.version, (13, 0));
        assert_eq!(info.devices.first(), Some(&("Fake GPU 0".to_owned(), 256 << 20)));
        assert_eq!(info.devices.len(), 2);
        assert!(info.missing_symbols.contains(&"cuLaunchKernel"));
        assert!(!info.missing_symbols.contains(&"cuMemcpyHtoDAsync_v2"));
    });
}

#[test]
fn without_a_driver_the_reason_and_the_way_out_are_told() {
    FakeDriver::absent().run(
        "fake_cuda::without_a_driver_the_reason_and_the_way_out_are_told",
        || {
            let error = CudaDevice::open(0).unwrap_err();
            assert!(matches!(error, DeviceError::NoDriver { .. }), "{error:?}");
            assert!(error.to_string().starts_with("no CUDA driver: "), "{error}");
            assert!(error.advice().contains("--device cpu"));
        },
    );
}

#[test]
fn a_driver_without_a_device_is_told_apart_from_none() {
    let fake = FakeDriver::new().failing("cuInit", 100, 1);
    fake.run("fake_cuda::a_driver_without_a_device_is_told_apart_from_none", || {
        let expect = DeviceError::NoDevice { device: DeviceId::Cuda(0), count: 0 };
        assert_eq!(CudaDevice::open(0).unwrap_err(), expect);
    });
}

#[test]
fn a_driver_that_cannot_start_is_no_driver() {
    // System driver mismatch: the library and the kernel module are of different versions.
    let fake = FakeDriver::new().failing("cuInit", 803, 1);
    fake.run("fake_cuda::a_driver_that_cannot_start_is_no_driver", || {
        let error = CudaDevice::open(0).unwrap_err();
        assert!(matches!(&error, DeviceError::NoDriver { why } if why.contains("803")), "{error}");
    });
}

#[test]
fn a_device_that_is_not_there_is_counted() {
    FakeDriver::new().run("fake_cuda::a_device_that_is_not_there_is_counted", || {
        let expect = DeviceError::NoDevice { device: DeviceId::Cuda(2), count: 2 };
        assert_eq!(CudaDevice::open(2).unwrap_err(), expect);
    });
}

#[test]
fn a_missing_symbol_fails_the_call_that_needs_it() {
    let fake = FakeDriver::new().without_memory_info();
    fake.run("fake_cuda::a_missing_symbol_fails_the_call_that_needs_it", || {
        let device = CudaDevice::open(0).unwrap();
        let error = device.memory_info().unwrap_err();
        let DeviceError::Driver { call, code, name, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*call, *code), ("cuMemGetInfo", 302));
        assert_eq!(name, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND");
        device.allocate(100).unwrap();
    });
}

#[test]
fn a_code_younger_than_the_bindings_keeps_its_number() {
    let fake = FakeDriver::new().failing("cuMemcpyHtoDAsync_v2", 721, 1);
    fake.run("fake_cuda::a_code_younger_than_the_bindings_keeps_its_number", || {
        let error = load(CudaDevice::open(0).unwrap()).unwrap_err();
        let GpuError::Device(DeviceError::Driver { code, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*code, 721, "{error}");
    });
}

#[test]
fn too_little_memory_is_told_with_numbers() {
    let fake = FakeDriver::new().with_memory(1 << 20);
    fake.run("fake_cuda::too_little_memory_is_told_with_numbers", || {
        let error = load(CudaDevice::open(1).unwrap()).unwrap_err();
        let GpuError::Device(refused) = error else { panic!("{error:?}") };
        // Row 15 of "Faults found on paper" in `docs/GPU.md`.
        assert!(refused.advice().contains("torch.cuda.empty_cache()"));
        let DeviceError::OutOfMemory { device, memory, needed, free } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((device, memory), (DeviceId::Cuda(1), MemoryKind::Device));
        assert!(needed > 1 << 20 && free == Some(1 << 20));
    });
}

#[test]
fn too_little_pinned_memory_is_told_apart() {
    let fake = FakeDriver::new().with_pinned(1000);
    fake.run("fake_cuda::too_little_pinned_memory_is_told_apart", || {
        let error = load(CudaDevice::open(0).unwrap()).unwrap_err();
        let GpuError::Device(DeviceError::OutOfMemory { memory, free, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!((memory, free), (MemoryKind::Pinned, None));
    });
}

/// `call` fails from its `nth` time on. The fake driver reports what is still allocated when the process ends.
fn check_failure(test: &str, call: &str, nth: u32) {
    FakeDriver::new().failing(call, 700, nth).run(&format!("fake_cuda::{test}"), || {
        let error = load(CudaDevice::open(0).unwrap()).unwrap_err();
        let GpuError::Device(DeviceError::Driver { code, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*code, 700, "{error}");
    });
}

#[test]
fn a_copy_that_cannot_start_is_reported_and_everything_is_returned() {
    let test = "a_copy_that_cannot_start_is_reported_and_everything_is_returned";
    check_failure(test, "cuMemcpyHtoDAsync_v2", 3);
}

#[test]
fn an_event_that_cannot_be_recorded_is_reported_and_everything_is_returned() {
    let test = "an_event_that_cannot_be_recorded_is_reported_and_everything_is_returned";
    check_failure(test, "cuEventRecord", 4);
}

#[test]
fn a_copy_that_failed_is_reported_by_a_query_and_everything_is_returned() {
    let test = "a_copy_that_failed_is_reported_by_a_query_and_everything_is_returned";
    check_failure(test, "cuEventQuery", 5);
}

#[test]
fn a_copy_that_failed_is_reported_at_the_end_and_everything_is_returned() {
    let test = "a_copy_that_failed_is_reported_at_the_end_and_everything_is_returned";
    check_failure(test, "cuStreamSynchronize", 1);
}

#[test]
fn each_device_gets_its_shard() {
    FakeDriver::new().run("fake_cuda::each_device_gets_its_shard", || {
        let file = TestFile::mixed();
        let (opened, host) = (file.open(), file.on_host());
        let loader = |ordinal| {
            let device = CudaDevice::open(ordinal).unwrap();
            GpuLoader::new(device, GpuOptions::local()).unwrap()
        };
        let (mut first, mut second) = (loader(0), loader(1));
        let all = Selection::all();
        let loaded = load_shards(
            &mut [
                Shard { loader: &mut first, file: &opened, selection: &all },
                Shard { loader: &mut second, file: &opened, selection: &all },
            ],
            &ReadOptions::default(),
        );
        for (ordinal, tensors) in (0..).zip(&loaded.unwrap()) {
            let large = tensors.get("large").unwrap();
            assert_eq!(large.device(), DeviceId::Cuda(ordinal));
            assert!(large.to_host().unwrap() == host.get("large").unwrap().bytes());
        }
    });
}

fn load(device: CudaDevice) -> Result<(), GpuError> {
    let file = TestFile::mixed();
    let mut options = GpuOptions::local();
    options.buffer_bytes = 64 << 10;
    options.memory_limit = Some(512 << 10);
    let mut loader = GpuLoader::new(device, options)?;
    loader.load(&file.open(), &Selection::all(), &ReadOptions::default()).map(drop)
}
