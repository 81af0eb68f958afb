//! How much memory the container allows. Owns [`default_staging_bytes`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::options::DEFAULT_STAGING_BYTES;

/// Staging may take this part of what a container allows: the rest is for tensors and the program.
const SHARE: u64 = 4;
/// Below this a reader has no room for a piece; a tighter container fails on its own terms.
const LEAST: u64 = 16 << 20;

/// Staging memory where the caller sets no limit: [`DEFAULT_STAGING_BYTES`], or less in a container that allows less
/// than four times as much.
#[must_use]
pub fn default_staging_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        share_of(limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup")))
    })
}

fn share_of(limit: Option<u64>) -> u64 {
    limit.map_or(DEFAULT_STAGING_BYTES, |limit| (limit / SHARE).clamp(LEAST, DEFAULT_STAGING_BYTES))
}

/// The tightest limit between this process's group and the root: version 2 where it is mounted, else version 1.
fn limit(root: &Path, membership: &Path) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let own = fs::read_to_string(membership).unwrap_or_default();
    let group = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let mut folders: Vec<PathBuf> = root.join(group).ancestors().map(Path::to_path_buf).collect();
    folders.retain(|folder| folder.starts_with(root));
    let second = folders.into_iter().filter_map(|folder| number(folder.join("memory.max")));
    let first = number(root.join("memory/memory.limit_in_bytes"));
    second.chain(first).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_above_the_process_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (root, membership) = (folder.path().join("cgroup"), folder.path().join("self"));
        fs::create_dir_all(root.join("pod/container")).unwrap();
        fs::write(&membership, "0::/pod/container\n").unwrap();
        assert_eq!(limit(&root, &membership), None);
        fs::write(root.join("pod/container/memory.max"), "max\n").unwrap();
        assert_eq!(limit(&root, &membership), None);
        fs::write(root.join("pod/memory.max"), "536870912\n").unwrap();
        assert_eq!(limit(&root, &membership), Some(512 << 20));
        fs::write(root.join("pod/container/memory.max"), "268435456\n").unwrap();
        assert_eq!(limit(&root, &membership), Some(256 << 20));
    }

    #[test]
    fn staging_takes_a_share_within_bounds() {
        for (limit, share) in [
            (None, DEFAULT_STAGING_BYTES),
            (Some(64 << 30), DEFAULT_STAGING_BYTES),
            (Some(256 << 20), 64 << 20),
            (Some(1 << 20), LEAST),
        ] {
            assert_eq!(share_of(limit), share, "{limit:?}");
        }
    }
}
