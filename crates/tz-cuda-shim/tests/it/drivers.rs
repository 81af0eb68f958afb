//! What a caller meets with a whole driver, a driver that lacks a function, an unwilling one and none.

use cust::CudaFlags;
use cust::context::Context;
use cust::device::Device;
use cust::error::CudaError;
use cust::memory::{CopyDestination, DeviceBuffer, LockedBuffer, mem_get_info};
use tz_cuda_shim::testing::{FakeDriver, Probe};
use tz_cuda_shim::{DRIVER_VARIABLE, driver, last_code};

const FORWARDED: &str = include_str!("../../src/generated.rs");

fn context() -> Context {
    cust::init(CudaFlags::empty()).unwrap();
    Context::new(Device::get_device(0).unwrap()).unwrap()
}

#[test]
fn calls_of_cust_reach_the_driver_that_is_named() {
    FakeDriver::new().run("drivers::calls_of_cust_reach_the_driver_that_is_named", || {
        let named = std::env::var(DRIVER_VARIABLE).unwrap();
        assert_eq!(driver().unwrap().name(), named);
        let _context = context();
        assert_eq!(Device::get_device(1).unwrap().name().unwrap(), "Fake GPU 1");
        let painted = LockedBuffer::new(&7_u8, 1000).unwrap();
        let on_device = DeviceBuffer::from_slice(&painted).unwrap();
        let mut back = [0; 1000];
        on_device.copy_to(&mut back).unwrap();
        assert_eq!(back, [7; 1000]);
    });
}

#[test]
fn a_function_that_the_driver_lacks_fails_alone() {
    let fake = FakeDriver::new().without_memory_info();
    fake.run("drivers::a_function_that_the_driver_lacks_fails_alone", || {
        let _context = context();
        let missing = driver().unwrap().missing_symbols();
        assert!(missing.contains(&"cuMemGetInfo_v2"), "{missing:?}");
        assert!(!missing.contains(&"cuMemAlloc_v2"), "{missing:?}");
        assert_eq!(mem_get_info().unwrap_err(), CudaError::SharedObjectSymbolNotFound);
        DeviceBuffer::from_slice(&[1_u8]).expect("the other functions work");
    });
}

#[test]
fn a_code_younger_than_the_bindings_arrives_as_unknown_with_its_number() {
    let fake = FakeDriver::new().failing("cuMemGetInfo_v2", 46, 1);
    let name = "drivers::a_code_younger_than_the_bindings_arrives_as_unknown_with_its_number";
    fake.run(name, || {
        let _context = context();
        assert_eq!(mem_get_info().unwrap_err(), CudaError::UnknownError);
        assert_eq!(last_code(), Some(46));
        DeviceBuffer::from_slice(&[1_u8]).expect("the other functions work");
    });
}

#[test]
fn out_of_memory_arrives_as_such() {
    let fake = FakeDriver::new().with_memory(1 << 20);
    fake.run("drivers::out_of_memory_arrives_as_such", || {
        let _context = context();
        let too_much = vec![0_u8; (1 << 20) + 1];
        let error = DeviceBuffer::from_slice(&too_much).unwrap_err();
        assert_eq!((error, last_code()), (CudaError::OutOfMemory, Some(2)));
        let name = driver().unwrap().code_name(2);
        assert_eq!(name.as_deref(), Some("CUDA_ERROR_OUT_OF_MEMORY"));
        assert_eq!(driver().unwrap().code_name(12_345), None);
    });
}

/// Row 16 of "Faults found on paper" in `docs/GPU.md`.
#[test]
fn functions_for_memory_of_others_reach_the_driver() {
    FakeDriver::new().run("drivers::functions_for_memory_of_others_reach_the_driver", || {
        let missing = driver().unwrap().missing_symbols();
        for function in [
            "cuMemcpy2DAsync_v2",
            "cuStreamGetCtx",
            "cuStreamIsCapturing",
            "cuStreamWaitEvent",
            "cuThreadExchangeStreamCaptureMode",
        ] {
            assert!(!missing.contains(&function), "{function}");
            // A function that is not forwarded is never missing.
            assert!(FORWARDED.contains(&format!("fn {function}(")), "{function}");
        }
    });
}

#[test]
fn a_slow_function_of_the_fake_driver_is_slow() {
    let fake = FakeDriver::new().slow("cuDevicePrimaryCtxRetain", 300);
    fake.run("drivers::a_slow_function_of_the_fake_driver_is_slow", || {
        let start = std::time::Instant::now();
        drop(context());
        assert!(start.elapsed() >= std::time::Duration::from_millis(300));
        assert_eq!(Probe::new().calls("cuDevicePrimaryCtxRetain"), 1);
    });
}

#[test]
fn a_context_of_the_fake_driver_ends_with_its_last_release() {
    FakeDriver::new().run(
        "drivers::a_context_of_the_fake_driver_ends_with_its_last_release",
        || {
            let (first, second) = (context(), context());
            drop(first);
            mem_get_info().expect("one is left");
            drop(second);
            mem_get_info().unwrap_err();
            assert_eq!(last_code(), Some(709));
            let _again = context();
            mem_get_info().expect("it has begun anew");
        },
    );
}

#[test]
fn without_a_driver_every_call_says_so() {
    FakeDriver::absent().run("drivers::without_a_driver_every_call_says_so", || {
        let error = driver().unwrap_err();
        assert_eq!(error.library, std::env::var(DRIVER_VARIABLE).unwrap());
        assert!(error.why.contains("cannot open"), "{error}");
        let refused = cust::init(CudaFlags::empty()).unwrap_err();
        assert_eq!(refused, CudaError::SharedObjectInitFailed);
        assert_eq!(mem_get_info().unwrap_err(), CudaError::SharedObjectInitFailed);
    });
}
