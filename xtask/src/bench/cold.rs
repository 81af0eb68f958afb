//! The rows of `bench local --cold`: loads of files that the page cache does not hold.
//!
//! Without being root nobody can empty the cache, but anyone can ask the kernel to forget the pages of a file, and look
//! whether it did. That makes this machine's cache cold. What lies below it, the cache of a virtual machine's host or
//! of a disk, stays as it is, so such rows are compared within one run and are no measure of a disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::raw;
use super::rounds::{Contender, Series, alternate_after};
use crate::report::mebibytes;
use crate::sys;

/// What the names of these rows begin with.
pub(super) const COLD: &str = "cold: ";

/// Runs the loads with these files and folders out of the cache before each; `settled` bytes of memory are made present
/// first. Gives nothing, and says why, where the cache cannot be emptied of them.
pub(super) fn measure(
    loads: Vec<Contender<'_>>,
    sources: &[&Path],
    rounds: u32,
    settled: u64,
) -> Result<Vec<Series>> {
    if let Err(error) = forget(sources) {
        println!("no rows of a cold cache: {error:#}");
        return Ok(Vec::new());
    }
    let named = loads.into_iter().map(|load| {
        let name = format!("{COLD}{}", load.name);
        load.named(name)
    });
    let contenders: Vec<_> = named.collect();
    alternate_after(&contenders, rounds, || {
        raw::settle(settled)?;
        forget(sources)
    })
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

/// Takes files and folders out of the cache; fails where any of it stays.
pub(super) fn forget(sources: &[&Path]) -> Result<()> {
    for file in files(sources)? {
        let kept = sys::drop_cached(&file).with_context(|| file.display().to_string())?;
        if kept > 0 {
            bail!("{} of {} stay in memory", mebibytes(kept), file.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rounds::Sample;
    use super::*;

    #[test]
    fn rows_say_that_they_are_cold_or_are_left_out_where_files_are_memory() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [7; 5000]).unwrap();
        let load = || {
            let sample = Sample { seconds: 1.0, process_seconds: 1.0, peak_bytes: 1 };
            vec![Contender::new("load", move || Ok(sample))]
        };
        assert!(measure(load(), &[folder.path()], 1, 4096).unwrap().is_empty());
        assert_eq!(files(&[folder.path(), &file]).unwrap(), [file.clone(), file]);
    }
}
