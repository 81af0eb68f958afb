//! Folders that a checkpoint is written to: no two checkpoints in one, and none left after a failure. Owns
//! [`NewFolders`].

use std::io;
use std::path::{Path, PathBuf};

use tz_io::{Leftover, missing_folders};

use crate::error::Failure;

/// Folders that the work will make; unless [`Self::keep`] is called, they are removed again.
#[derive(Debug)]
pub(crate) struct NewFolders {
    folders: Vec<PathBuf>,
    leftover: Option<Leftover>,
}

impl NewFolders {
    /// `path` and those of its parents that do not exist.
    pub(crate) fn towards(path: &Path) -> Self {
        let folders: Vec<PathBuf> = missing_folders(path).map(Path::to_path_buf).collect();
        let made = folders.clone();
        let leftover = Leftover::new(move || {
            remove(&made);
            None
        });
        Self { folders, leftover: Some(leftover) }
    }

    pub(crate) fn keep(mut self) {
        self.leftover = None;
        self.folders.clear();
    }
}

fn remove(folders: &[PathBuf]) {
    for folder in folders {
        // Not empty means that someone else uses it by now.
        let _ = std::fs::remove_dir(folder);
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        remove(&self.folders);
    }
}

/// Fails where `directory` holds a checkpoint: files of two would be taken for one.
pub(crate) fn refuse_other_checkpoint(directory: &Path) -> Result<(), Failure> {
    let location = directory.display().to_string();
    let failed = |error| Failure::io(&location, "list", &error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let torch = name.starts_with("pytorch_model") && name.ends_with(".bin");
        if torch || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            let failure = Failure::io(&location, "write beside the checkpoint in", &error);
            return Err(failure.hint("remove the old checkpoint, or give another directory"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_and_empty_folders_go() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        let folders = NewFolders::towards(&deep);
        std::fs::create_dir_all(&deep).unwrap();
        drop(folders);
        assert!(root.path().exists() && !root.path().join("a").exists());

        let folders = NewFolders::towards(&deep);
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.path().join("a/mine"), "").unwrap();
        drop(folders);
        assert!(root.path().join("a/mine").exists() && !root.path().join("a/b").exists());

        let folders = NewFolders::towards(&deep);
        std::fs::create_dir_all(&deep).unwrap();
        folders.keep();
        assert!(deep.exists());
    }
}
