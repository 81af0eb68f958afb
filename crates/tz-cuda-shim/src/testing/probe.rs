//! Questions to the fake driver of this process, and orders to it. Owns [`Probe`].
#![allow(unsafe_code, reason = "a C function of the fake driver, and the child of a fork")]

use std::ffi::{CString, c_char, c_long, c_void};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::driver;

/// The fake driver that this process has loaded.
#[derive(Debug, Clone, Copy)]
pub struct Probe(());

impl Probe {
    /// Loads the driver.
    ///
    /// # Panics
    /// Where the driver of this process is not the fake one.
    #[must_use]
    pub fn new() -> Self {
        let probe = Self(());
        assert!(probe.ask("fenced", 0) >= 0, "the fake driver answers");
        probe
    }

    /// How often `function` of the driver was called.
    #[must_use]
    pub fn calls(self, function: &str) -> u64 {
        self.count(function)
    }

    /// The device whose context is current on this thread.
    #[must_use]
    pub fn current_device(self) -> Option<u32> {
        u32::try_from(self.ask("current device", 0)).ok()
    }

    /// Makes a device's primary context current on this thread, as another part of the program might.
    pub fn make_current(self, device: Option<u32>) {
        self.ask("make current", device.map_or(-1, c_long::from));
    }

    /// The code that a call in this thread's current context would give: 0, 201 without one, 709 with one that ended.
    #[must_use]
    pub fn context(self) -> i64 {
        self.ask("context", 0)
    }

    /// Begins or ends a stream capture in the global mode, on another thread.
    pub fn capture(self, going_on: bool) {
        self.ask("capture", c_long::from(going_on));
    }

    /// How many calls would have ended the capture.
    #[must_use]
    pub fn invalidated_captures(self) -> u64 {
        self.count("invalidated")
    }

    /// The capture mode of this thread, 0 being the default.
    #[must_use]
    pub fn capture_mode(self) -> i64 {
        self.ask("capture mode", 0)
    }

    /// Starts work on the device's legacy stream that ends only after ten thousand queries, or when somebody waits.
    pub fn start_late_kernel(self, device: u32) {
        self.ask("late kernel", c_long::from(device));
    }

    /// How many of those are still running.
    #[must_use]
    pub fn late_kernels(self, device: u32) -> i64 {
        self.ask("late kernels", c_long::from(device))
    }

    /// How often something waited for the legacy stream.
    #[must_use]
    pub fn fenced(self) -> u64 {
        self.count("fenced")
    }

    /// Runs `check` in a child of fork, where a driver that the parent started does not work, and gives what it says.
    ///
    /// # Panics
    /// Where the child cannot be started.
    #[must_use]
    pub fn in_forked_child(self, check: fn() -> bool) -> bool {
        let mut command = Command::new("true");
        // SAFETY: the closure runs in a child whose only thread is this one. The C library keeps its allocator usable
        // across a fork, and the test takes no other lock that a thread of the parent might hold.
        unsafe {
            command.pre_exec(
                move || if check() { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) },
            )
        };
        command.status().is_ok_and(|status| status.success())
    }

    fn count(self, what: &str) -> u64 {
        u64::try_from(self.ask(what, 0)).unwrap_or(0)
    }

    fn ask(self, what: &str, argument: c_long) -> i64 {
        let address = driver().ok().and_then(|driver| driver.find("fake_cuda"));
        let address = address.expect("a fake driver");
        // SAFETY: the fake driver's function of this name has this type.
        let function = unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_long) -> c_long>(
                address,
            )
        };
        let what = CString::new(what).expect("words without a zero");
        // SAFETY: the words end in a zero and live until the call returns.
        unsafe { function(what.as_ptr(), argument) }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}
