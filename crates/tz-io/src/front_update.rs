//! Replaces the front of a file in place: what changing key slots needs. Owns [`replace_front`].
//!
//! The tensors are not touched. On disk both fronts are kept beside the file, synced, until the new one is in place: a
//! power cut may tear the front, and the next call puts the old one back. On S3 a new object is made of the new
//! front and a server-side copy of the rest, and replaces the old one at once.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::IoError;
use crate::file::TensorFile;
use crate::folders::sync_folder;
use crate::location::Location;
use crate::remote::{self, RemoteOptions};
use crate::writer::folder;

impl TensorFile {
    /// The bytes before the first tensor.
    ///
    /// # Errors
    /// [`IoError::Io`].
    pub fn front_bytes(&self) -> Result<Vec<u8>, IoError> {
        // Bounded by the limits when the file was opened.
        let len = usize::try_from(self.front().header.front_len()).unwrap_or(0);
        let mut bytes = vec![0; len];
        self.source().read_into(0, &mut [IoSliceMut::new(&mut bytes)])?;
        Ok(bytes)
    }
}

/// Writes `new` over `old`, the front of the file at `location`; both have one length.
///
/// # Errors
/// [`IoError::Changed`] where the file no longer begins with `old`, [`IoError::Unsupported`] where the place cannot be
/// written in part, [`IoError::Io`].
pub fn replace_front(
    location: &Location,
    old: &[u8],
    new: &[u8],
    options: &RemoteOptions,
) -> Result<(), IoError> {
    let unsupported = |why| IoError::Unsupported { location: location.to_string(), why };
    if old.len() != new.len() {
        return Err(unsupported("the new front differs in length from the old one"));
    }
    match location {
        Location::File(path) => on_disk(path, &location.to_string(), old, new),
        Location::Remote(remote) => remote::replace_front(remote, old, new, options),
        Location::Stdio => Err(unsupported("a stream cannot be changed")),
    }
}

fn backup_path(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.front.bak"))
}

/// Puts back the front that an interrupted change left beside the file. Nothing to do is success.
///
/// # Errors
/// [`IoError::Io`].
pub fn recover_front(location: &Location) -> Result<bool, IoError> {
    let Location::File(path) = location else { return Ok(false) };
    let name = location.to_string();
    let backup = backup_path(path);
    let fronts = match std::fs::read(&backup) {
        Ok(fronts) => fronts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(IoError::io(&name, "read the old front beside")(error)),
    };
    let (old, new) = fronts.split_at(fronts.len() / 2);
    let file = FileOptions::new().read(true).write(true).open(path);
    let file = file.map_err(IoError::io(&name, "open for writing"))?;
    let mut found = vec![0; old.len()];
    // A file that was replaced since begins otherwise, or is shorter: what stands beside it is not its front.
    let torn = file.read_exact_at(&mut found, 0).is_ok()
        && found
            .iter()
            .zip(old.iter().zip(new))
            .all(|(found, (old, new))| found == old || found == new);
    if torn {
        write(&file, old, &name)?;
    }
    remove(&backup, &name)?;
    Ok(torn)
}

fn on_disk(path: &Path, name: &str, old: &[u8], new: &[u8]) -> Result<(), IoError> {
    let file = FileOptions::new().read(true).write(true).open(path);
    let file = file.map_err(IoError::io(name, "open for writing"))?;
    let mut found = vec![0; old.len()];
    file.read_exact_at(&mut found, 0).map_err(IoError::io(name, "read"))?;
    if found != old {
        return Err(IoError::Changed { location: name.to_owned() });
    }
    let backup = backup_path(path);
    let kept = || -> io::Result<()> {
        let folder = folder(path);
        let mut temporary =
            tempfile::Builder::new().prefix(".tz-").suffix(".tmp").tempfile_in(folder)?;
        io::Write::write_all(&mut temporary, old)?;
        io::Write::write_all(&mut temporary, new)?;
        temporary.as_file().sync_all()?;
        temporary.persist(&backup).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    kept().map_err(|error| {
        // Nothing was changed yet. A file that stays says the same as the front that is there.
        let _ = std::fs::remove_file(&backup);
        IoError::io(name, "keep the old front beside")(error)
    })?;
    if let Err(error) = write(&file, new, name) {
        // What cannot be undone now is undone by the next call, as after a power cut.
        let _ = write(&file, old, name).and_then(|()| remove(&backup, name));
        return Err(error);
    }
    remove(&backup, name)
}

fn write(file: &File, front: &[u8], name: &str) -> Result<(), IoError> {
    file.write_all_at(front, 0).map_err(IoError::io(name, "write the front of"))?;
    file.sync_all().map_err(IoError::io(name, "sync"))
}

fn remove(backup: &Path, name: &str) -> Result<(), IoError> {
    let gone = std::fs::remove_file(backup).and_then(|()| sync_folder(folder(backup)));
    gone.map_err(IoError::io(name, "remove the old front beside"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tensors");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn only_the_front_changes_and_nothing_is_left_beside() {
        let (folder, path) = file(b"old front, tensors");
        let location = Location::File(path.clone());
        replace_front(&location, b"old front", b"new front", &RemoteOptions::default()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new front, tensors");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn an_interrupted_change_is_undone() {
        let (folder, path) = file(b"nld front, tensors");
        std::fs::write(backup_path(&path), b"old frontnew front").unwrap();
        assert!(recover_front(&Location::File(path.clone())).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old front, tensors");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        assert!(!recover_front(&Location::File(path)).unwrap(), "nothing to do");
    }

    #[test]
    fn a_file_that_was_replaced_since_keeps_its_front() {
        let (folder, path) = file(b"another file altogether");
        std::fs::write(backup_path(&path), b"old frontnew front").unwrap();
        assert!(!recover_front(&Location::File(path.clone())).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"another file altogether");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_left_alone() {
        let (_folder, path) = file(b"other front, tensors");
        let location = Location::File(path.clone());
        let result =
            replace_front(&location, b"old front", b"new front", &RemoteOptions::default());
        assert!(matches!(result, Err(IoError::Changed { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"other front, tensors");
    }
}
