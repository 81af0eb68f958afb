//! Writes planned safetensors files by positioned writes. Owns their temporary names: a file appears complete or
//! not at all, and a writer that is dropped leaves nothing behind.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tz_io::{TemporaryFile, create_folders, sync_folder};

use crate::error::{Error, Place};
use crate::safetensors_plan::{SafetensorsPlan, ShardedPlan};

/// Whether `finish` waits until the bytes would survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Flush file and directory to the device before and after the rename.
    #[default]
    Synced,
    /// Leave flushing to the system: for scratch files and benchmarks.
    Cached,
}

/// One safetensors file in the making. Chunks may arrive in any order from any number of threads.
#[derive(Debug)]
#[must_use = "nothing exists at the destination until `finish`"]
pub struct SafetensorsWriter {
    dest: PathBuf,
    temp: TemporaryFile,
    plan: SafetensorsPlan,
    /// Bytes written per tensor. It detects forgotten chunks, not chunks written twice.
    written: Vec<AtomicU64>,
    durability: Durability,
}

impl SafetensorsWriter {
    /// Creates the temporary file beside `dest` and writes the header.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of `dest` cannot be written.
    pub fn create(
        dest: &Path,
        plan: SafetensorsPlan,
        durability: Durability,
    ) -> Result<Self, Error> {
        let dest = &target(dest);
        let temp = temp_beside(dest)?;
        let fail = |error| Error::io(dest, "write", error);
        temp.as_file().set_len(plan.file_len).map_err(fail)?;
        temp.as_file().write_all_at(&plan.header, 0).map_err(fail)?;
        let written = plan.tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self { dest: dest.to_owned(), temp, plan, written, durability })
    }

    /// Writes `data` at byte `offset` of the tensor with this index in the plan's order.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has no such bytes, [`Error::Io`] where the disk refuses.
    pub fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<(), Error> {
        let out_of_range = || Error::OutOfRange {
            tensor,
            tensors: self.plan.tensors.len(),
            offset,
            len: data.len(),
        };
        let placed = self.plan.tensors.get(tensor).ok_or_else(out_of_range)?;
        let written = self.written.get(tensor).ok_or_else(out_of_range)?;
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > placed.len) {
            return Err(out_of_range());
        }
        let file = self.temp.as_file();
        file.write_all_at(data, placed.offset + offset).map_err(|source| Error::Io {
            place: Place::tensor(&self.dest, &placed.name),
            action: "write",
            source,
        })?;
        written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the file appear at its destination.
    ///
    /// # Errors
    /// [`Error::Incomplete`] where bytes are missing, [`Error::Io`] where the disk refuses; nothing is left then.
    pub fn finish(self) -> Result<(), Error> {
        let durability = self.durability;
        let (temp, dest) = self.seal()?;
        publish(temp, &dest)?;
        sync_parent(&dest, durability)
    }

    /// Everything of `finish` that can fail for want of bytes or space.
    fn seal(self) -> Result<(TemporaryFile, PathBuf), Error> {
        for (placed, written) in self.plan.tensors.iter().zip(&self.written) {
            let written = written.load(Ordering::Relaxed);
            if written != placed.len {
                return Err(Error::Incomplete {
                    place: Place::tensor(&self.dest, &placed.name),
                    expected: placed.len,
                    written,
                });
            }
        }
        sync(self.temp.as_file(), &self.dest, self.durability)?;
        Ok((self.temp, self.dest))
    }
}

/// A directory of safetensors shards in the making, with the same promises as [`SafetensorsWriter`]. The index
/// appears last.
#[derive(Debug)]
#[must_use = "nothing exists at the destination until `finish`"]
pub struct ShardedWriter {
    dir: PathBuf,
    shards: Vec<SafetensorsWriter>,
    places: Vec<(usize, usize)>,
    index: Option<String>,
    durability: Durability,
}

impl ShardedWriter {
    /// Creates `dir` if it is missing, and the temporary files in it.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be written.
    pub fn create(dir: &Path, plan: ShardedPlan, durability: Durability) -> Result<Self, Error> {
        create_folders(dir, durability == Durability::Synced)
            .map_err(|error| Error::io(dir, "create", error))?;
        let shards = plan
            .shards
            .into_iter()
            .map(|(name, plan)| SafetensorsWriter::create(&dir.join(name), plan, durability))
            .collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), shards, places: plan.places, index: plan.index, durability })
    }

    /// Writes `data` at byte `offset` of the tensor with this index in the plan's order.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::write_at`].
    pub fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<(), Error> {
        let place = self.places.get(tensor);
        let shard = place.and_then(|&(shard, own)| Some((self.shards.get(shard)?, own)));
        match shard {
            Some((shard, own)) => shard.write_at(own, offset, data),
            None => Err(Error::OutOfRange {
                tensor,
                tensors: self.places.len(),
                offset,
                len: data.len(),
            }),
        }
    }

    /// Makes the shards appear, then the index.
    ///
    /// # Errors
    /// [`Error::Incomplete`] where bytes are missing, [`Error::Io`] where the disk refuses. Shards are checked and
    /// flushed before the first one is renamed; if a rename fails all the same, those that were renamed go again.
    pub fn finish(self) -> Result<(), Error> {
        let sealed =
            self.shards.into_iter().map(SafetensorsWriter::seal).collect::<Result<Vec<_>, _>>()?;
        let path = self.dir.join("model.safetensors.index.json");
        let index = self
            .index
            .map(|text| {
                let mut temp = temp_beside(&path)?;
                temp.write_all(text.as_bytes())
                    .map_err(|error| Error::io(&path, "write", error))?;
                sync(temp.as_file(), &path, self.durability)?;
                Ok::<_, Error>(temp)
            })
            .transpose()?;
        publish_all(sealed.into_iter().chain(index.map(|temp| (temp, path.clone()))))?;
        sync_parent(&path, self.durability)
    }
}

/// The file that a link leads to: the link stays, as it does for every program that opens it for writing.
fn target(path: &Path) -> PathBuf {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let target = if is_link { path.canonicalize().ok() } else { None };
    target.unwrap_or_else(|| path.to_owned())
}

pub(crate) fn temp_beside(dest: &Path) -> Result<TemporaryFile, Error> {
    TemporaryFile::create_in(parent(dest), ".tz-", ".partial")
        .map_err(|error| Error::io(dest, "create", error))
}

pub(crate) fn publish(temp: TemporaryFile, dest: &Path) -> Result<(), Error> {
    temp.persist(dest, false).map_err(|error| Error::io(dest, "rename the finished file to", error))
}

/// Makes files appear in this order, all or none: of a checkpoint, a part is worse than nothing.
pub(crate) fn publish_all(
    files: impl Iterator<Item = (TemporaryFile, PathBuf)>,
) -> Result<Vec<PathBuf>, Error> {
    let mut published = Vec::new();
    for (temp, dest) in files {
        if let Err(error) = publish(temp, &dest) {
            withdraw(&published);
            return Err(error);
        }
        published.push(dest);
    }
    Ok(published)
}

/// Takes back files that were published.
pub(crate) fn withdraw(published: &[PathBuf]) {
    for path in published {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(path);
    }
}

pub(crate) fn sync(file: &File, path: &Path, durability: Durability) -> Result<(), Error> {
    match durability {
        Durability::Cached => Ok(()),
        Durability::Synced => file.sync_all().map_err(|error| Error::io(path, "flush", error)),
    }
}

pub(crate) fn sync_parent(path: &Path, durability: Durability) -> Result<(), Error> {
    if durability == Durability::Cached {
        return Ok(());
    }
    let dir = parent(path);
    sync_folder(dir).map_err(|error| Error::io(dir, "flush", error))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}
