//! Files of an adapter on their way to a folder. Owns [`Stage`]: on disk, all of them are whole before one appears.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tz_io::{Location, TemporaryFolder, WriteOptions, copy, create_folders, sync_folder};
use tz_model::ArtifactDir;

use crate::CONFIG_FILE;
use crate::error::Error;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The files, in the order in which they appeared.
    pub files: Vec<PublishedFile>,
}

/// One file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// Its path or URI, without credentials.
    pub location: String,
    /// Its length.
    pub bytes: u64,
}

/// A folder of temporary files, inside the final one where that is local, so that they can be renamed.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    folder: &'a ArtifactDir,
    options: &'a WriteOptions,
    files: Vec<PublishedFile>,
    temporary: TemporaryFolder,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(folder: &'a ArtifactDir, options: &'a WriteOptions) -> Result<Self, Error> {
        let path = match folder.local() {
            Some(path) => {
                create_folders(path, options.fsync).map_err(Error::io(path, "create"))?;
                path.to_owned()
            }
            None => std::env::temp_dir(),
        };
        let temporary = TemporaryFolder::create_in(&path, ".tz-lora-");
        let temporary = temporary.map_err(Error::io(&path, "create a folder in"))?;
        Ok(Self { folder, options, files: Vec::new(), temporary })
    }

    /// Fails where the caller wants nothing replaced and one of these files is there. A store is asked when the file
    /// is written.
    pub(crate) fn require_absent(&self, names: &[&str]) -> Result<(), Error> {
        let Some(folder) = self.folder.local() else { return Ok(()) };
        let mut paths = names.iter().map(|name| folder.join(name));
        match paths.find(|path| self.options.create_only && path.exists()) {
            Some(path) => Err(Error::io(&path, "create")(io::ErrorKind::AlreadyExists.into())),
            None => Ok(()),
        }
    }

    /// Where a file is made that must be local first.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Where a file is made that may as well go to its final place at once, where that is remote.
    pub(crate) fn target(&self, name: &str) -> Result<Location, Error> {
        match self.folder.local() {
            Some(_) => Ok(Location::File(self.path(name))),
            None => Ok(self.folder.join(name)?),
        }
    }

    /// A small file.
    pub(crate) fn put(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(bytes));
        written.map_err(Error::io(&path, "write"))?;
        self.staged(name)
    }

    /// The file at [`Self::path`] is whole.
    pub(crate) fn staged(&mut self, name: &'static str) -> Result<(), Error> {
        let path = self.path(name);
        let bytes = path.metadata().map_err(Error::io(&path, "read"))?.len();
        if self.folder.local().is_some() && self.options.fsync {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(Error::io(&path, "sync"))?;
        }
        if self.folder.local().is_none() {
            copy(&Location::File(path), &self.folder.join(name)?, self.options)?;
        }
        self.written(name, bytes);
        Ok(())
    }

    /// The file at [`Self::target`] is whole.
    pub(crate) fn written(&mut self, name: &'static str, bytes: u64) {
        let location = self.folder.join(name).map_or_else(|_| name.to_owned(), |at| at.to_string());
        self.files.push(PublishedFile { name, location, bytes });
    }

    /// Makes local files appear, in the order in which they were made: the configuration, then weights. Weights never
    /// stand beside a configuration that is not theirs: old ones go first, unless theirs is the new one.
    pub(crate) fn finish(self) -> Result<Published, Error> {
        if let Some(folder) = self.folder.local() {
            if !self.keeps_configuration(folder) {
                for file in self.files.iter().filter(|file| file.name != CONFIG_FILE) {
                    remove(&folder.join(file.name))?;
                }
                self.sync(folder)?;
            }
            let mut appeared = Vec::new();
            for file in &self.files {
                let path = folder.join(file.name);
                let renamed = std::fs::rename(self.path(file.name), &path)
                    .map_err(Error::io(&path, "rename the finished file to"));
                if renamed.is_ok() {
                    appeared.push(path);
                }
                // Names reach the disk in this order, too.
                let done = renamed.and_then(|()| self.sync(folder));
                if done.is_err() && appeared.len() < self.files.len() {
                    // A part of an adapter is worse than none; the error is the one to tell.
                    appeared.iter().for_each(|path| drop(std::fs::remove_file(path)));
                }
                done?;
            }
        }
        Ok(Published { files: self.files })
    }

    /// Whether the configuration in `folder` is the one that is about to be written.
    fn keeps_configuration(&self, folder: &Path) -> bool {
        let old = std::fs::read(folder.join(CONFIG_FILE)).ok();
        old.is_some() && old == std::fs::read(self.path(CONFIG_FILE)).ok()
    }

    fn sync(&self, folder: &Path) -> Result<(), Error> {
        if !self.options.fsync {
            return Ok(());
        }
        sync_folder(folder).map_err(Error::io(folder, "sync"))
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(path, "remove")(error))
        }
        _ => Ok(()),
    }
}
