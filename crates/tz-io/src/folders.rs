//! Folders whose names survive a power cut. Owns [`create_folders`] and [`sync_folder`].
//!
//! A new name is durable once the folder that holds it is synced: that goes for files that were renamed, and for
//! folders as well.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::writer::folder;

/// Makes `path` and every folder above it that is missing. With `fsync`, waits until their names are on the disk.
///
/// # Errors
/// Where a folder cannot be made or synced.
pub fn create_folders(path: &Path, fsync: bool) -> io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty());
    let missing: Vec<&Path> = missing.take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(path)?;
    if fsync {
        missing.into_iter().try_for_each(|made| sync_folder(folder(made)))?;
    }
    Ok(())
}

/// Waits until every name in the folder is on the disk, and no name that was removed from it.
///
/// # Errors
/// Where the system refuses.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
