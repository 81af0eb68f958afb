//! Folders that exist only if the work succeeds. Owns [`NewFolders`].

use std::path::{Path, PathBuf};

/// Folders that the work will make; unless [`Self::keep`] is called, they are removed again.
#[derive(Debug)]
pub(crate) struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// `path` and those of its parents that do not exist.
    pub(crate) fn towards(path: &Path) -> Self {
        let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty());
        Self(missing.take_while(|path| !path.exists()).map(Path::to_path_buf).collect())
    }

    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Not empty means that someone else uses it by now.
            let _ = std::fs::remove_dir(folder);
        }
    }
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
