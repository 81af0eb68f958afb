//! Which device is current on a thread. Owns [`Primary`] and [`Bound`].
//!
//! A driver's functions work in the context that is current on the calling thread. That thread may belong to a program
//! which chose a device of its own, so every call here restores what was current before. Threads that this library
//! started keep the device current instead.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cust::context::Context;

use super::driver::{self, CaptureMode, RawContext};
use crate::device::DeviceId;
use crate::error::DeviceError;

/// Contexts by the ordinal of their device. They are never released: the program's threads and the memory of others
/// may still use a context when the last object of this library is gone, and the last release would end it for all.
static RETAINED: Mutex<BTreeMap<u32, &'static Context>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The context that stays current on this thread; null on threads of others.
    static KEPT: Cell<RawContext> = const { Cell::new(ptr::null_mut()) };
}

/// A device's primary context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Primary {
    id: DeviceId,
    context: &'static Context,
}

impl Primary {
    /// Starts the driver and the device, once in a process.
    pub(super) fn open(ordinal: u32) -> Result<Self, DeviceError> {
        let id = DeviceId::Cuda(ordinal);
        driver::start(id)?;
        let known = retained().get(&ordinal).copied();
        let context = match known {
            Some(context) => context,
            None => {
                // Retaining makes the context current. It may take a second: other devices need not wait for it.
                let mut restore = Restore::new();
                restore.context = Some(driver::current(id)?);
                let context = driver::retain(ordinal, id)?;
                // Whoever was faster has retained the same context; once is enough.
                *retained().entry(ordinal).or_insert_with(|| Box::leak(Box::new(context)))
            }
        };
        Ok(Self { id, context })
    }

    pub(super) fn id(self) -> DeviceId {
        self.id
    }

    /// Makes the context current on this thread for as long as the result lives.
    pub(super) fn bind(self) -> Result<Bound, DeviceError> {
        if KEPT.get() == self.context.as_raw() {
            return Ok(Bound { id: self.id, _restore: None });
        }
        let mut restore = Restore::new();
        let before = driver::current(self.id)?;
        if before != self.context.as_raw() {
            driver::make_current(self.id, self.context)?;
            restore.context = Some(before);
        }
        Ok(Bound { id: self.id, _restore: Some(restore) })
    }

    /// Makes the context current on this thread, which the library started, until the thread ends.
    pub(super) fn keep(self) -> Result<(), DeviceError> {
        if KEPT.get() != self.context.as_raw() {
            driver::make_current(self.id, self.context)?;
            driver::relax_capture();
            KEPT.set(self.context.as_raw());
        }
        Ok(())
    }
}

fn retained() -> MutexGuard<'static, BTreeMap<u32, &'static Context>> {
    RETAINED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Proof that a device is current on this thread.
#[derive(Debug)]
pub(super) struct Bound {
    id: DeviceId,
    /// Ties the proof to its thread, too: a context's address may not be sent to another one.
    _restore: Option<Restore>,
}

impl Bound {
    pub(super) fn id(&self) -> DeviceId {
        self.id
    }
}

/// What a thread of others had before, and has again when this is dropped.
#[derive(Debug)]
struct Restore {
    context: Option<RawContext>,
    capture: CaptureMode,
}

impl Restore {
    /// Another thread may be capturing a graph, which forbids allocations, and questions about events, unless the
    /// thread that makes them says that they have nothing to do with the capture.
    fn new() -> Self {
        Self { context: None, capture: driver::relax_capture() }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        driver::restore(self.context, self.capture);
    }
}
