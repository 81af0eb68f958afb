//! The cache that Hugging Face's libraries share. Owns its layout, and how files appear in it.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use tz_io::TemporaryFile;

use super::error::HubError;
use super::id::{ModelId, Revision, is_commit};

/// One model's part of the cache.
#[derive(Debug)]
pub(super) struct Repository {
    root: PathBuf,
}

impl Repository {
    pub(super) fn new(cache: &Path, id: &ModelId) -> Self {
        Self { root: cache.join(id.folder()) }
    }

    /// The commit that a revision meant when it was last downloaded.
    pub(super) fn commit(&self, revision: &Revision) -> Result<Option<String>, HubError> {
        if revision.is_commit() {
            return Ok(Some(revision.to_string()));
        }
        let path = self.reference(revision);
        let mut text = String::new();
        let read = fs::File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(HubError::io(&path, "read", error)),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    fn reference(&self, revision: &Revision) -> PathBuf {
        self.root.join("refs").join(revision.as_str())
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    /// Whether the bytes are here already, under another name or commit.
    pub(super) fn has_blob(&self, etag: &str, len: u64) -> bool {
        self.blob(etag).metadata().is_ok_and(|found| found.is_file() && found.len() == len)
    }

    /// A file that becomes a blob when it is whole; dropped, it leaves nothing.
    pub(super) fn incomplete(&self) -> Result<TemporaryFile, HubError> {
        let folder = self.blobs();
        create_folder(&folder)?;
        create_file(&folder)
    }

    pub(super) fn keep(&self, file: TemporaryFile, etag: &str) -> Result<(), HubError> {
        let path = self.blob(etag);
        let fail = |error| HubError::io(&path, "write", error);
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&path, false).map_err(fail)
    }

    /// Gives a blob its name in a snapshot.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let folder = self.snapshot(commit);
        create_folder(&folder)?;
        let path = folder.join(name);
        let fail = |error| HubError::io(&path, "link", error);
        // Names of the top folder only, so that the way to the blobs is always the same.
        let target = Path::new("../../blobs").join(etag);
        match std::os::unix::fs::symlink(&target, &path) {
            // Another process was quicker, or the link points to a blob that is gone.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.exists() => {
                fs::remove_file(&path).map_err(fail)?;
                std::os::unix::fs::symlink(&target, &path).map_err(fail)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(fail),
        }
    }

    /// Notes what a revision means.
    pub(super) fn refer(&self, revision: &Revision, commit: &str) -> Result<(), HubError> {
        if revision.is_commit() {
            return Ok(());
        }
        let path = self.reference(revision);
        let fail = |error| HubError::io(&path, "write", error);
        let folder = path.parent().unwrap_or(&self.root);
        create_folder(folder)?;
        let file = create_file(folder)?;
        fs::write(file.path(), commit).map_err(fail)?;
        file.persist(&path, false).map_err(fail)
    }
}

fn create_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|error| HubError::io(path, "create", error))
}

/// A file that nobody sees under a name of the cache, with the permissions of any other file.
fn create_file(folder: &Path) -> Result<TemporaryFile, HubError> {
    TemporaryFile::create_in(folder, ".tz-", ".incomplete")
        .map_err(|error| HubError::io(folder, "create a file in", error))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
