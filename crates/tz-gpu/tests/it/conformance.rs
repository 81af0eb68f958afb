//! Every case of the suite on simulated devices of several tempers.

use tz_gpu::testing::run_all;
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
