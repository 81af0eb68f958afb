//! The CUDA driver's functions, found when they are first called instead of when a program starts.
//!
//! `cust` declares driver functions and expects the linker to find `libcuda`; a program built that way neither
//! builds on a machine without CUDA nor starts on one without a driver. This crate defines those functions itself.
//! Each definition looks its namesake up in the installed driver on its first call and passes the call on.
//!
//! - The driver is `libcuda.so.1`, or whatever library the environment variable [`DRIVER_VARIABLE`] names.
//! - Where no driver can be loaded, every function returns `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED`; where the driver
//!   lacks just that function, `CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND`.
//! - `cust_raw` models result codes as a closed Rust enum of CUDA 11.4. A newer driver may return a code that the
//!   enum lacks, which must never reach it: such codes arrive as `CUDA_ERROR_UNKNOWN`, and [`last_code`] gives
//!   the number.
//!
//! The crate takes no part in what the functions do; contracts of their pointers are between caller and driver.
//!
//! ```
//! match tz_cuda_shim::driver() {
//!     Ok(driver) => println!("{}; lacks {:?}", driver.name(), driver.missing_symbols()),
//!     Err(error) => println!("no CUDA driver: {error}"),
//! }
//! ```

#[macro_use]
mod forward;

#[rustfmt::skip]
mod generated;
mod library;
mod result;

#[cfg(feature = "testing")]
pub mod testing;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use library::{DEFAULT_DRIVER, DRIVER_VARIABLE, Driver, NoDriver, driver};
pub use result::last_code;
