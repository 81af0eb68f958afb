//! Files of an adapter on their way to a folder. Owns [`Stage`]: on disk, all of them are whole before one appears.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use tempfile::TempDir;
use tz_io::{Location, WriteOptions, copy};
use tz_model::ArtifactDir;

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
    temporary: TempDir,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(folder: &'a ArtifactDir, options: &'a WriteOptions) -> Result<Self, Error> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tz-lora-");
        let temporary = match folder.local() {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
                builder.tempdir_in(path).map_err(Error::io(path, "create a folder in"))?
            }
            None => {
                let path = std::env::temp_dir();
                builder.tempdir().map_err(Error::io(&path, "create a folder in"))?
            }
        };
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
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(Error::io(&path, "write"))?;
        self.staged(name)
    }

    /// The file at [`Self::path`] is whole.
    pub(crate) fn staged(&mut self, name: &'static str) -> Result<(), Error> {
        let path = self.path(name);
        let bytes = path.metadata().map_err(Error::io(&path, "read"))?.len();
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

    /// Makes local files appear, in the order in which they were made.
    pub(crate) fn finish(self) -> Result<Published, Error> {
        if let Some(folder) = self.folder.local() {
            for file in &self.files {
                let path = folder.join(file.name);
                std::fs::rename(self.path(file.name), &path)
                    .map_err(Error::io(&path, "rename the finished file to"))?;
            }
            if self.options.fsync {
                let synced = File::open(folder).and_then(|folder| folder.sync_all());
                synced.map_err(Error::io(folder, "sync"))?;
            }
        }
        Ok(Published { files: self.files })
    }
}
