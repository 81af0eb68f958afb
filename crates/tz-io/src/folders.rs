//! Folders whose names survive a power cut. Owns [`create_folders`], [`sync_folder`] and what they go by.
//!
//! A new name is durable once the folder that holds it is synced: that goes for files that were renamed, and for
//! folders as well.

use std::fs::File;
use std::io;
use std::path::Path;

/// The folder that holds `path`.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` and the folders above it that do not exist, the innermost first.
pub fn missing_folders(path: &Path) -> impl Iterator<Item = &Path> {
    let named = path.ancestors().take_while(|path| !path.as_os_str().is_empty());
    named.take_while(|path| !path.exists())
}

/// Makes `path` and every folder above it that is missing. With `fsync`, waits until their names are on the disk.
///
/// # Errors
/// Where a folder cannot be made or synced.
pub fn create_folders(path: &Path, fsync: bool) -> io::Result<()> {
    let missing: Vec<&Path> = missing_folders(path).collect();
    std::fs::create_dir_all(path)?;
    if fsync {
        missing.into_iter().try_for_each(|made| sync_folder(folder_of(made)))?;
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
