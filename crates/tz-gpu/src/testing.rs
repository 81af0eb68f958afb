//! What every device has to do: one suite for all. Feature `testing`. Owns [`cases`].
//!
//! The suite runs on [`crate::SimDevice`] and on CUDA over a fake driver wherever the tests run, and on a real device
//! through `cargo xtask gpu-test`. A case panics where the device fails it.

mod devices;
mod files;
mod fixtures;
mod loads;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::device::Device;

pub use files::TestFile;
pub use fixtures::run_fixtures;

/// One thing that a device has to do.
#[derive(Debug, Clone, Copy)]
pub struct Case<D: Device> {
    /// What it is.
    pub name: &'static str,
    /// Panics where the device does not do it.
    pub run: fn(&D),
}

/// Every case.
#[must_use]
pub fn cases<D: Device>() -> Vec<Case<D>> {
    let mut cases = devices::cases();
    cases.extend(loads::cases());
    cases
}

/// Runs every case on `device`, telling `report` the name of each and whether it passed; gives how many ran and how
/// many of those failed.
pub fn run_all<D: Device>(device: &D, mut report: impl FnMut(&str, bool)) -> (usize, usize) {
    let (mut ran, mut failed) = (0, 0);
    for case in cases::<D>() {
        let passed = catch_unwind(AssertUnwindSafe(|| (case.run)(device))).is_ok();
        ran += 1;
        failed += usize::from(!passed);
        report(case.name, passed);
    }
    (ran, failed)
}
