//! The page cache: drops a file from it, and looks whether it is gone.
#![allow(unsafe_code, reason = "posix_fadvise, mmap and mincore have no safe wrapper in std")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

/// How often the kernel is asked: pages that a processor has just touched wait in a list of its own and stay once.
const TRIES: u32 = 3;
/// What `mincore` counts in, on most machines; zero is zero on all.
const PAGE: u64 = 4096;

/// Writes a file's pages out and asks the kernel to forget them. Gives how many bytes it keeps all the same: all of
/// them where the file system is memory itself.
pub(crate) fn drop_cached(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    // Pages that still have to be written are never dropped.
    file.sync_all()?;
    let mut kept = 0;
    for _ in 0..TRIES {
        // SAFETY: the call takes an open descriptor and numbers, no memory of ours.
        let refused =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        kept = cached_bytes(&file)?;
        if kept == 0 {
            break;
        }
    }
    Ok(kept)
}

/// Bytes of the file, in whole pages, that are in the page cache.
fn cached_bytes(file: &File) -> io::Result<u64> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(0);
    }
    // SAFETY: a new mapping at an address of the kernel's choice; nothing is read through it.
    let mapping = unsafe {
        libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pages = vec![0_u8; len.div_ceil(usize::try_from(PAGE).map_err(io::Error::other)?)];
    // SAFETY: the mapping was made above, and the vector has a byte for every page of it.
    let refused = unsafe { libc::mincore(mapping, len, pages.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: exactly the mapping made above, which nothing refers to.
    unsafe { libc::munmap(mapping, len) };
    if refused != 0 {
        return Err(error);
    }
    let cached = pages.iter().filter(|page| **page & 1 != 0).count();
    Ok(PAGE * u64::try_from(cached).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn what_was_written_is_cached_and_then_dropped() {
        // A temporary folder may be memory, where nothing is dropped; the target folder hardly ever is.
        let folder = tempfile::tempdir_in(workspace::target().unwrap()).unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        assert_eq!(cached_bytes(&File::open(&path).unwrap()).unwrap(), 1 << 20);
        assert_eq!(drop_cached(&path).unwrap(), 0);
        std::fs::read(&path).unwrap();
        assert_eq!(cached_bytes(&File::open(&path).unwrap()).unwrap(), 1 << 20);
    }

    #[test]
    fn an_empty_file_is_never_cached_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        assert_eq!(drop_cached(&path).unwrap(), 0);
        assert!(drop_cached(&folder.path().join("no")).is_err());
    }
}
