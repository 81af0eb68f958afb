//! Every case of the suite on simulated devices of several tempers.

use tz_gpu::testing::{run_all, run_fixtures};
use tz_gpu::{SimDevice, SimOptions};

#[track_caller]
fn check(options: SimOptions) {
    let device = SimDevice::new(options.clone());
    let mut failures = Vec::new();
    let (ran, failed) = run_all(&device, |name, passed| {
        if !passed {
            failures.push(name.to_owned());
        }
    });
    assert!(ran > 0 && failed == 0, "{failures:?} with {options:?}");
    assert_eq!(device.violations(), Vec::<String>::new(), "{options:?}");
    let usage = device.usage();
    assert_eq!((usage.device_bytes, usage.pinned_bytes), (0, 0), "{options:?}");
}

#[test]
fn a_prompt_device_passes() {
    let mut options = SimOptions::default();
    options.delay = 1;
    check(options);
}

#[test]
fn a_slow_device_passes() {
    let mut options = SimOptions::default();
    options.delay = 40;
    options.seed = 7;
    check(options);
}

#[test]
fn every_fixture_goes_there_and_back() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
    let device = SimDevice::new(SimOptions::default());
    let mut failures = Vec::new();
    let (loaded, refused, failed) = run_fixtures(&device, root, |name, agreed| {
        if !agreed {
            failures.push(name.to_owned());
        }
    });
    assert_eq!((failed, &failures), (0, &Vec::new()));
    assert!(loaded >= 40 && refused >= 5, "{loaded} loaded, {refused} refused");
    assert_eq!(device.violations(), Vec::<String>::new());
    assert_eq!((device.usage().device_bytes, device.usage().pinned_bytes), (0, 0));
}
