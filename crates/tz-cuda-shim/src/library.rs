//! Finds the driver library and the addresses of its functions, once per process. Owns [`Driver`] and `Symbol`.
#![allow(
    unsafe_code,
    reason = "loading a library runs its initialisers, and looking a symbol up trusts its type"
)]

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use cust_raw::CUresult;
use libloading::Library;
use thiserror::Error;

use crate::generated::SYMBOLS;

/// Environment variable that names another driver library, by path or by a name for the dynamic linker.
pub const DRIVER_VARIABLE: &str = "TZ_CUDA_DRIVER";
/// The driver library where the variable is not set.
pub const DEFAULT_DRIVER: &str = "libcuda.so.1";

static DRIVER: OnceLock<Result<Driver, NoDriver>> = OnceLock::new();

/// The driver library of this process. It stays loaded until the process ends.
#[derive(Debug)]
pub struct Driver {
    name: String,
    library: Library,
}

/// No driver library could be loaded.
#[derive(Debug, Clone, Error)]
#[error("{library}: {why}")]
#[non_exhaustive]
pub struct NoDriver {
    /// What was to be loaded.
    pub library: String,
    /// The dynamic linker's words.
    pub why: String,
}

/// The driver library, loaded on the first call.
///
/// # Errors
/// [`NoDriver`], the same on every later call: a driver that is installed meanwhile needs a new process.
pub fn driver() -> Result<&'static Driver, &'static NoDriver> {
    DRIVER.get_or_init(load).as_ref()
}

fn load() -> Result<Driver, NoDriver> {
    let named = std::env::var_os(DRIVER_VARIABLE).filter(|name| !name.is_empty());
    let path = PathBuf::from(named.unwrap_or_else(|| DEFAULT_DRIVER.into()));
    let name = path.display().to_string();
    // SAFETY: a CUDA driver's initialisers may run on any thread; a library that is named instead is the choice of
    // whoever sets this process's environment, who could as well preload it.
    match unsafe { Library::new(&path) } {
        Ok(library) => Ok(Driver { name, library }),
        Err(error) => {
            // The dynamic linker's own words are in the source, and mostly begin with the name.
            let words = error.source().unwrap_or(&error).to_string();
            let why = words.strip_prefix(&name).and_then(|rest| rest.strip_prefix(": "));
            Err(NoDriver { why: why.unwrap_or(&words).to_owned(), library: name })
        }
    }
}

impl Driver {
    /// The library, as it was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Functions that this crate forwards and the driver does not have.
    #[must_use]
    pub fn missing_symbols(&self) -> Vec<&'static str> {
        let missing = |symbol: &&&Symbol| self.find(symbol.name).is_none();
        let names = SYMBOLS.iter().filter(missing);
        names.map(|symbol| symbol.name).collect()
    }

    /// The driver's name for a result code, where it has one.
    #[must_use]
    pub fn code_name(&self, code: i32) -> Option<String> {
        let address = self.find("cuGetErrorName")?;
        // SAFETY: the driver's function of this name takes a C `int` and a place for a pointer to a C string.
        let name_of = unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
            >(address)
        };
        let mut name = ptr::null();
        // SAFETY: the place is a live pointer; the function accepts any number.
        let result = unsafe { name_of(code, &raw mut name) };
        if result != 0 || name.is_null() {
            return None;
        }
        // SAFETY: on success the driver gives a static C string.
        let name = unsafe { CStr::from_ptr(name) };
        Some(name.to_string_lossy().into_owned())
    }

    pub(crate) fn find(&self, name: &str) -> Option<*mut c_void> {
        // SAFETY: the address is only carried about here; the type it has is the business of the forwarder.
        let symbol = unsafe { self.library.get::<*mut c_void>(name) }.ok()?;
        // SAFETY: taken from a loaded library, so the library's lifetime bounds the address; it is never unloaded.
        unsafe { symbol.try_as_raw_ptr() }.filter(|address| !address.is_null())
    }
}

/// One function of the driver.
#[derive(Debug)]
pub(crate) struct Symbol {
    name: &'static str,
    /// Null until the first call.
    address: AtomicPtr<c_void>,
}

impl Symbol {
    pub(crate) const fn new(name: &'static str) -> Self {
        let address = AtomicPtr::new(ptr::null_mut());
        Self { name, address }
    }

    /// The function's address, or what its caller gets instead of a result.
    pub(crate) fn address(&self) -> Result<*mut c_void, CUresult> {
        let known = self.address.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(known);
        }
        let driver = driver().map_err(|_| CUresult::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED)?;
        let missing = CUresult::CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND;
        let found = driver.find(self.name).ok_or(missing)?;
        // Threads that race here find the same address.
        self.address.store(found, Ordering::Release);
        Ok(found)
    }
}
