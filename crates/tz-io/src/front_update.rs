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
use crate::folders::{folder_of, sync_folder};
use crate::location::Location;
use crate::remote::{self, RemoteOptions};

/// Bytes of a front that are compared or put back at once.
const STEP: usize = 1 << 20;

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
    let kept = match File::open(&backup) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(IoError::io(&name, "open the old front beside")(error)),
    };
    let file = FileOptions::new().read(true).write(true).open(path);
    let file = file.map_err(IoError::io(&name, "open for writing"))?;
    let torn = is_torn(&file, &kept).map_err(IoError::io(&name, "read the old front beside"))?;
    if let Some(len) = torn {
        let put_back = || {
            for (offset, old) in steps(len) {
                let mut bytes = vec![0; old];
                kept.read_exact_at(&mut bytes, offset)?;
                file.write_all_at(&bytes, offset)?;
            }
            file.sync_all()
        };
        put_back().map_err(IoError::io(&name, "put back the front of"))?;
    }
    remove(&backup, &name)?;
    Ok(torn.is_some())
}

/// The front's length, where `file` begins with a mixture of the two fronts in `kept`. A file that was replaced since
/// begins otherwise, or is shorter: what stands beside it is not its front.
fn is_torn(file: &File, kept: &File) -> io::Result<Option<u64>> {
    let len = kept.metadata()?.len() / 2;
    if file.metadata()?.len() < len {
        return Ok(None);
    }
    for (offset, step) in steps(len) {
        let [mut found, mut old, mut new] = [(); 3].map(|()| vec![0; step]);
        file.read_exact_at(&mut found, offset)?;
        kept.read_exact_at(&mut old, offset)?;
        kept.read_exact_at(&mut new, len + offset)?;
        let either = |(found, (old, new)): (&u8, (&u8, &u8))| found == old || found == new;
        if !found.iter().zip(old.iter().zip(&new)).all(either) {
            return Ok(None);
        }
    }
    Ok(Some(len))
}

/// Offsets and lengths of the pieces in which so many bytes are gone through: anybody may have put a file there, of any
/// length.
fn steps(len: u64) -> impl Iterator<Item = (u64, usize)> {
    let left = move |offset| usize::try_from(len - offset).map_or(STEP, |left| left.min(STEP));
    (0..len).step_by(STEP).map(move |offset| (offset, left(offset)))
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
        let folder = folder_of(path);
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
    let gone = std::fs::remove_file(backup).and_then(|()| sync_folder(folder_of(backup)));
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
    fn long_fronts_are_put_back_whole_and_files_that_only_begin_like_them_are_left() {
        let front = |byte: u8| vec![byte; 3 << 20 | 5];
        let (old, new) = (front(b'o'), front(b'n'));
        // Torn within the second step.
        let torn = [&new[..(1 << 20) + 7], &old[(1 << 20) + 7..]].concat();
        let (_folder, path) = file(&[&*torn, b"tensors"].concat());
        std::fs::write(backup_path(&path), [&*old, &new].concat()).unwrap();
        assert!(recover_front(&Location::File(path.clone())).unwrap());
        assert!(std::fs::read(&path).unwrap() == [&*old, b"tensors"].concat());
        for content in [[&*old, b"tensors"].concat()[..3 << 20].to_vec(), {
            let mut other = old.clone();
            other[3 << 20] = b'x';
            other
        }] {
            let (_folder, path) = file(&content);
            std::fs::write(backup_path(&path), [&*old, &new].concat()).unwrap();
            assert!(!recover_front(&Location::File(path.clone())).unwrap());
            assert!(std::fs::read(&path).unwrap() == content);
        }
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
