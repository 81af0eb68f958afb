//! What the system says about this process.

/// Most resident memory that this process had so far, in bytes; 0 where the system does not say.
pub(crate) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes.saturating_mul(1024))
}

/// Lets the system count the peak anew; where it does not, [`peak_bytes`] stays that of the whole run.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    #[test]
    fn peak_is_known_and_grows() {
        let before = super::peak_bytes();
        let block = vec![1_u8; 64 << 20];
        assert!(block.iter().all(|&byte| byte == 1));
        assert!(before > 0 && super::peak_bytes() >= before.max(64 << 20));
    }
}
