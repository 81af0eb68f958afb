//! The suite on a simulated device and on CUDA over a fake driver; faults, leaks and stress.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod conformance;
mod faults;
mod resident;
mod stress;

#[cfg(feature = "cuda")]
mod fake_cuda;
#[cfg(feature = "cuda")]
mod real_drivers;
