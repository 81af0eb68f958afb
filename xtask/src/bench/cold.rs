//! A cold page cache, for the rows of `--cold`.
//!
//! Without being root nobody can empty the cache, but anyone can ask the kernel to forget the pages of a file, and look
//! whether it did. That makes this machine's cache cold. What lies below it, the cache of a virtual machine's host or
//! of a disk, stays as it is, so such rows are compared within one run and are no measure of a disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::report::mebibytes;
use crate::sys;

/// Takes files, and those in folders, out of the cache; fails where any of them stays, as what is kept in memory does.
pub(super) fn forget(sources: &[&Path]) -> Result<()> {
    for file in files(sources)? {
        let kept = sys::drop_cached(&file).with_context(|| file.display().to_string())?;
        if kept > 0 {
            bail!("the cache keeps {} of {}", mebibytes(kept), file.display());
        }
    }
    Ok(())
}

/// The files themselves, and those in the folders.
fn files(sources: &[&Path]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for source in sources {
        if !source.is_dir() {
            files.push(source.to_path_buf());
            continue;
        }
        for entry in fs::read_dir(source).with_context(|| source.display().to_string())? {
            files.push(entry?.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_in_memory_cannot_be_forgotten() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [7; 5000]).unwrap();
        assert_eq!(files(&[folder.path(), &file]).unwrap(), [file.clone(), file]);
        let error = forget(&[folder.path()]).unwrap_err().to_string();
        assert!(error.contains("the cache keeps"), "{error}");
    }
}
