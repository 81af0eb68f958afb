//! Tests against a driver in host memory. Owns [`FakeDriver`]. Feature `testing`.
//!
//! A process finds its driver once, so every test that wants a driver of its own runs in a process of its own: the
//! test starts its own executable again, with just itself selected and the driver named in the environment. There, a
//! [`Probe`] tells what the driver was asked to do.

mod probe;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::DRIVER_VARIABLE;

pub use probe::Probe;

/// Set in the process that a test started; holds the test's name.
const CHILD_VARIABLE: &str = "TZ_FAKE_DRIVER_TEST";
const REPORT_VARIABLE: &str = "FAKE_CUDA_REPORT";
/// Name of the report in the driver's folder.
const REPORT: &str = "report";

/// How the fake driver behaves. Needs a C compiler: `$CC`, or `cc`.
#[derive(Debug, Clone, Default)]
pub struct FakeDriver {
    settings: BTreeMap<&'static str, String>,
    defines: Vec<&'static str>,
    absent: bool,
    may_leak: bool,
}

impl FakeDriver {
    /// Two devices of 256 MiB on which everything works.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No driver at all: a library that does not exist is named.
    #[must_use]
    pub fn absent() -> Self {
        Self { absent: true, ..Self::default() }
    }

    /// Lets `function` return `code` from its `nth` call on.
    #[must_use]
    pub fn failing(self, function: &str, code: i32, nth: u32) -> Self {
        self.with_rule("FAKE_CUDA_FAIL", &format!("{function}:{code}:{nth}"))
    }

    /// Lets every call of `function` take that much longer.
    #[must_use]
    pub fn slow(self, function: &str, milliseconds: u32) -> Self {
        self.with_rule("FAKE_CUDA_SLOW", &format!("{function}:{milliseconds}"))
    }

    /// Gives every device this value of the attribute of that number.
    #[must_use]
    pub fn with_attribute(self, attribute: u32, value: i32) -> Self {
        self.with_rule("FAKE_CUDA_ATTRIBUTE", &format!("{attribute}:{value}"))
    }

    fn with_rule(mut self, variable: &'static str, rule: &str) -> Self {
        let rules = self.settings.entry(variable).or_default();
        if !rules.is_empty() {
            rules.push(',');
        }
        rules.push_str(rule);
        self
    }

    /// Gives every device this many bytes.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.settings.insert("FAKE_CUDA_MEMORY", bytes.to_string());
        self
    }

    /// Lets this many bytes of host memory be pinned.
    #[must_use]
    pub fn with_pinned(mut self, bytes: usize) -> Self {
        self.settings.insert("FAKE_CUDA_PINNED", bytes.to_string());
        self
    }

    /// Leaves `cuMemGetInfo_v2` out of the library.
    #[must_use]
    pub fn without_memory_info(mut self) -> Self {
        self.defines.push("-DWITHOUT_MEM_GET_INFO");
        self
    }

    /// Accepts that something is still allocated when the process ends: where freeing itself is made to fail.
    #[must_use]
    pub fn may_leak(mut self) -> Self {
        self.may_leak = true;
        self
    }

    /// Makes the driver in `folder`, and gives the environment in which any program that has the shim finds it.
    ///
    /// # Panics
    /// Where it cannot be compiled.
    #[must_use]
    pub fn install(&self, folder: &Path) -> Vec<(&'static str, OsString)> {
        let library = folder.join("libfake.so");
        if !self.absent {
            self.compile(&library);
        }
        let settings = self.settings.iter().map(|(&name, value)| (name, value.into()));
        let places =
            [(DRIVER_VARIABLE, library.into()), (REPORT_VARIABLE, folder.join(REPORT).into())];
        settings.chain(places).collect()
    }

    /// Checks that a process with the driver in `folder`, which has ended, gave everything back.
    ///
    /// # Panics
    /// Where something was left allocated, or the driver was never loaded.
    #[track_caller]
    pub fn check_nothing_left(&self, folder: &Path) {
        if self.absent || self.may_leak {
            return;
        }
        let left = std::fs::read_to_string(folder.join(REPORT));
        let left = left.expect("the driver was loaded and reported");
        let clean = left.split(' ').all(|count| count.ends_with("=0"));
        assert!(clean, "something was left behind: {left}");
    }

    /// Runs `body`, the body of the test named `test`, in a process with this driver; then checks that the process
    /// gave everything back to the driver.
    ///
    /// # Panics
    /// Where the body panics, the driver cannot be compiled, or something was left allocated.
    #[track_caller]
    pub fn run(&self, test: &str, body: impl FnOnce()) {
        if std::env::var_os(CHILD_VARIABLE).is_some_and(|name| name == test) {
            return body();
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = Command::new(std::env::current_exe().expect("the test's executable"))
            .args([test, "--exact", "--nocapture"])
            .envs(self.install(folder.path()))
            .env(CHILD_VARIABLE, test)
            .output()
            .expect("the test's executable starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{test} with {self:?}: {}\n{said}\n{complained}",
            output.status
        );
        self.check_nothing_left(folder.path());
    }

    fn compile(&self, library: &Path) {
        let source: PathBuf = library.with_extension("c");
        std::fs::write(&source, include_str!("testing/fake_driver.c")).expect("a writable folder");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-pthread", "-o"])
            .arg(library)
            .args(&self.defines)
            .arg(&source)
            .output()
            .expect("a C compiler");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complained}");
    }
}
