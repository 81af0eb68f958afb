//! The exceptions that `tidy` admits, each with its reason. An entry that is no longer needed fails.

/// Files that may be longer than the limit, and why.
pub(super) const LONG_FILES: &[(&str, &str)] = &[];

/// Every file with `unsafe`, how often the word stands in its code, and why it must.
pub(super) const UNSAFE_FILES: &[(&str, usize, &str)] = &[
    (
        "crates/tz-cuda-shim/src/forward.rs",
        5,
        "exports the driver's functions under their own names",
    ),
    ("crates/tz-cuda-shim/src/library.rs", 7, "dlopen and dlsym of the driver library"),
    (
        "crates/tz-cuda-shim/src/testing/probe.rs",
        4,
        "a function of the fake driver, and a check in the child of a fork",
    ),
    ("crates/tz-gpu/src/cuda/driver.rs", 33, "the driver's calls"),
    ("crates/tz-gpu/src/cuda/memory.rs", 10, "device and page-locked memory as slices"),
    ("crates/tz-gpu/src/cuda/register.rs", 2, "page cache registered with the driver"),
    ("crates/tz-gpu/src/cuda/stream.rs", 2, "streams and events of the driver"),
    ("crates/tz-gpu/src/dlpack.rs", 17, "DLPack's C structures and their destructors"),
    ("crates/tz-gpu/src/dlpack/capi.rs", 23, "functions that C calls"),
    ("crates/tz-io/src/memory.rs", 14, "huge-page arenas shared by readers, views of files"),
    ("fuzz/harness/src/guard.rs", 9, "an allocator that counts"),
    ("xtask/src/sys.rs", 10, "mmap and madvise for the raw read, statvfs, fstatfs and fallocate"),
    ("xtask/src/sys/cache.rs", 4, "posix_fadvise and mincore for a cold page cache"),
    ("xtask/src/sys/child.rs", 3, "wait4 and ptrace for a child's own peak memory"),
];
