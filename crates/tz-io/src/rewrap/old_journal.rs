//! The journal of the last version, which stood next to the file as `.NAME.front.bak`. Owns [`OldJournal`].
//!
//! Anybody who can write to the folder can put a file of that name there. It is looked at by a rewrap with a key alone,
//! and believed only if both headers in it are authentic.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tz_crypto::Journal;

use crate::folders::{folder_of, sync_folder};
use crate::options::OpenOptions as HowToOpen;

/// The old and the new header of a rewrap, one after the other.
pub(super) struct OldJournal {
    path: PathBuf,
    pub(super) journal: Journal,
}

/// The journal next to `path`, if there is one of the length of `header`.
pub(super) fn find(path: &Path, header: &[u8], options: &HowToOpen) -> Option<OldJournal> {
    let name = path.file_name()?.to_string_lossy();
    let path = path.with_file_name(format!(".{name}.front.bak"));
    // Neither a link nor a pipe that nobody writes to.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
    let bytes = read(file, header.len().checked_mul(2)?)?;
    let (old, new) = bytes.split_at_checked(header.len())?;
    let journal = Journal::between(old, new, &options.limits)?;
    Some(OldJournal { path, journal })
}

/// A regular file of exactly this length.
fn read(file: File, len: usize) -> Option<Vec<u8>> {
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() != len as u64 {
        return None;
    }
    let mut bytes = Vec::with_capacity(len);
    file.take(len as u64).read_to_end(&mut bytes).ok()?;
    (bytes.len() == len).then_some(bytes)
}

impl OldJournal {
    /// Removes it. One that cannot be removed does no harm: the next rewrap decides again.
    pub(super) fn remove(self, location: &str) {
        let gone =
            std::fs::remove_file(&self.path).and_then(|()| sync_folder(folder_of(&self.path)));
        if let Err(error) = gone {
            let (path, error) = (self.path.display(), error.to_string());
            tracing::warn!(location, %path, error, "cannot remove an old journal, which is of no use now");
        }
    }
}
