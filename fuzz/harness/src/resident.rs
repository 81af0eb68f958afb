//! Peak of the process's resident memory, from Linux. Owns nothing.

use std::fs;

/// Starts the peak again from what is resident now, in bytes; `None` where the kernel does not allow it.
pub(crate) fn restart() -> Option<u64> {
    // 5 resets the peak and nothing else: proc_pid_clear_refs(5).
    fs::write("/proc/self/clear_refs", "5").ok()?;
    peak()
}

/// The peak since it was last started, in bytes.
pub(crate) fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
