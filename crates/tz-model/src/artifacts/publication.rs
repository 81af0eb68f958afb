//! The order in which a directory becomes visible. Owns [`Publication`] and [`TensorPublication`].
//!
//! Small files come first, then tensors, the manifest last. Every file appears complete or not at all, so whatever
//! moment a publication ends at, a directory whose tensors are all there has everything that vLLM reads, and one that
//! has a manifest is whole. What a failure leaves in a folder of this machine is removed; in an object store, objects
//! that were finished stay.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tz_crypto::{DEFAULT_COMPAT_CHUNK_SIZE, FileSealer, Key, SealSecret};
use tz_io::{
    Cancel, IoError, Location, ReadOptions, TemporaryFile, TensorSource, WriteOptions, WriteStats,
    copy, create_folders, digest, missing_folders, sync_folder, write,
};

use super::{ArtifactDir, tensors_name};
use crate::error::Error;
use crate::manifest::{Facts, FileEntry, MANIFEST_NAME, Manifest, is_missing};

/// Most ranks whose files a new publication looks for among those of an old one.
const MAX_RANKS: u32 = 1024;

/// A directory that takes its small files.
#[derive(Debug)]
pub struct Publication<'a> {
    dir: &'a ArtifactDir,
    options: WriteOptions,
    key: Option<SealSecret>,
    files: Vec<FileEntry>,
    made: Made,
}

/// Files that go again unless the publication is finished.
#[derive(Debug, Default)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        // A folder was made before what is in it.
        for path in self.0.iter().rev() {
            // What is gone already was to go; a folder that is not empty is somebody else's too by now.
            if std::fs::remove_file(path).is_err() {
                let _ = std::fs::remove_dir(path);
            }
        }
    }
}

impl<'a> Publication<'a> {
    /// Begins to fill `dir` with a model for `degree` ranks. Of `options`, those on durability, memory, workers and
    /// servers apply to every file.
    ///
    /// A directory that holds a model already is refused, unless `replace` says otherwise. It then loses its tensors
    /// and its manifest before anything else changes, so that nothing ever serves half of the old and half of the
    /// new. An object store cannot remove here; the tensors that this publication will write become empty objects.
    ///
    /// # Errors
    /// [`Error::Exists`], and what the place gives.
    pub fn begin(
        dir: &'a ArtifactDir,
        options: WriteOptions,
        degree: u32,
        replace: bool,
    ) -> Result<Self, Error> {
        let scheme = dir.as_str().split_once("://").map_or("", |(scheme, _)| scheme);
        if ["http", "https"].iter().any(|read_only| scheme.eq_ignore_ascii_case(read_only)) {
            let why = "HTTP servers can be read from, not written to";
            return Err(IoError::Unsupported { location: dir.to_string(), why }.into());
        }
        let found = present(dir, &options, degree)?;
        if let (Some(first), false) = (found.first(), replace) {
            return Err(Error::Exists { location: dir.join(first)?.to_string() });
        }
        let mut made = Made::default();
        match dir.local() {
            Some(folder) => {
                made.0.extend(missing_folders(folder).map(Path::to_path_buf));
                made.0.reverse();
                create_folders(folder, options.fsync)
                    .map_err(|error| Error::io(folder, "create", error))?;
                for name in &found {
                    let path = folder.join(name);
                    std::fs::remove_file(&path)
                        .map_err(|error| Error::io(&path, "remove", error))?;
                }
                if options.fsync && !found.is_empty() {
                    // A power cut must not bring the old manifest back beside new files.
                    sync_folder(folder).map_err(|error| Error::io(folder, "sync", error))?;
                }
            }
            None => {
                for name in &found {
                    put(&dir.join(name)?, &[], &options)?;
                }
            }
        }
        Ok(Self { dir, options, key: None, files: Vec::new(), made })
    }

    /// Encrypts all tensors with this key, as vLLM reads them; small files stay as they are.
    #[must_use]
    pub fn encrypted_with(mut self, key: &Key) -> Self {
        self.key = Some(SealSecret::Key(key.clone()));
        self
    }

    /// Copies a file of this machine into the directory.
    ///
    /// # Errors
    /// What either place gives.
    pub fn copy(&mut self, from: &Path, name: &str) -> Result<(), Error> {
        let to = self.place(name)?;
        let from = Location::File(from.to_owned());
        let (bytes, blake3) = digest(&from, &self.options.remote, &read_options(&self.options))?;
        copy(&from, &to, &self.options)?;
        self.files.push(FileEntry::new(name, bytes, blake3));
        Ok(())
    }

    fn tensors(&mut self, name: &str, source: &dyn TensorSource) -> Result<WriteStats, Error> {
        let to = self.place(name)?;
        let mut options = self.options.clone();
        options.file_digest = true;
        if let Some(key) = &self.key {
            // One sealer is good for one file: nonces must not be used again.
            let sealer = FileSealer::compat(key, DEFAULT_COMPAT_CHUNK_SIZE).map_err(|source| {
                Error::Transfer(IoError::Crypto { location: to.to_string(), tensor: None, source })
            })?;
            options.seal = Some(Arc::new(sealer));
        }
        let stats = write(source, &to, &options)?;
        let blake3 = stats.file_digest.unwrap_or_default();
        self.files.push(FileEntry::new(name, stats.file_bytes, blake3));
        Ok(stats)
    }

    /// Goes on to the model's tensors: no small file comes after them.
    #[must_use]
    pub fn into_tensors(self) -> TensorPublication<'a> {
        TensorPublication { publication: self }
    }

    /// The place of a file, its folder made where it is on this machine. Until the end, the file is one to remove.
    fn place(&mut self, name: &str) -> Result<Location, Error> {
        let location = self.dir.join(name)?;
        if let Location::File(path) = &location {
            if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
                self.made.0.push(folder.to_owned());
                create_folders(folder, self.options.fsync)
                    .map_err(|error| Error::io(folder, "create", error))?;
            }
            if !path.exists() {
                self.made.0.push(path.clone());
            }
        }
        Ok(location)
    }
}

/// A directory that takes the model's tensors.
#[derive(Debug)]
pub struct TensorPublication<'a> {
    publication: Publication<'a>,
}

impl TensorPublication<'_> {
    /// Writes the tensors of one rank among `degree`; gives the file's place.
    ///
    /// # Errors
    /// What the source or the place gives.
    pub fn write(
        &mut self,
        degree: u32,
        rank: u32,
        source: &dyn TensorSource,
    ) -> Result<(Location, WriteStats), Error> {
        let name = tensors_name(degree, rank);
        let stats = self.publication.tensors(&name, source)?;
        Ok((self.publication.dir.join(&name)?, stats))
    }

    /// Writes the manifest; the directory is whole then.
    ///
    /// # Errors
    /// What the place gives.
    pub fn finish(self, facts: Facts) -> Result<Manifest, Error> {
        let mut publication = self.publication;
        let place = publication.place(MANIFEST_NAME)?;
        let Publication { options, files, mut made, .. } = publication;
        let manifest = Manifest::new(facts, files);
        put(&place, manifest.to_text()?.as_bytes(), &options)?;
        made.0.clear();
        Ok(manifest)
    }
}

/// Names of a model's files that are in `dir`: its manifest and its tensors. On this machine those of any number of
/// ranks count, elsewhere those that a publication for `degree` ranks would write.
fn present(dir: &ArtifactDir, options: &WriteOptions, degree: u32) -> Result<Vec<String>, Error> {
    let there = |name: &String| -> Result<bool, Error> {
        match dir.join(name)? {
            Location::File(path) => Ok(path.symlink_metadata().is_ok()),
            location => match location.open(&options.remote) {
                Ok(source) => Ok(source.len() != Some(0)),
                Err(error) if is_missing(&error) => Ok(false),
                Err(error) => Err(error.into()),
            },
        }
    };
    let ranks = if dir.local().is_some() { MAX_RANKS } else { degree };
    let mut names = vec![MANIFEST_NAME.to_owned(), tensors_name(1, 0)];
    names.extend((0..ranks).filter(|_| ranks > 1).map(|rank| tensors_name(ranks, rank)));
    let mut found = Vec::new();
    for name in names {
        if there(&name)? {
            found.push(name);
        }
    }
    Ok(found)
}

/// Writes `bytes` to a place by way of a temporary file, which is how every place takes a file whole.
fn put(to: &Location, bytes: &[u8], options: &WriteOptions) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::io(&path, "write", error)
    };
    let folder = std::env::temp_dir();
    let file = TemporaryFile::private_in(&folder, ".tz-", ".tmp");
    let mut file = file.map_err(failed(Path::new("temporary file")))?;
    file.write_all(bytes).map_err(failed(file.path()))?;
    let from = Location::File(file.path().to_owned());
    copy(&from, to, options)?;
    Ok(())
}

fn read_options(options: &WriteOptions) -> ReadOptions {
    let mut read = ReadOptions::default();
    read.readers = options.workers;
    read.memory_limit = options.memory_limit;
    read.cancel = Cancel::clone(&options.cancel);
    read
}

impl From<IoError> for Error {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Cancelled => Self::Cancelled,
            other => Self::Transfer(other),
        }
    }
}
