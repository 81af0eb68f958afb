//! The header of a file on disk, written in place behind a journal. Owns [`Locked`].
//!
//! Whatever ends the process or the machine, the file opens by its old header or its new one, or its journal is whole:
//! each step is on the disk before the next begins.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use tz_crypto::{CryptoError, HeaderChange, Journal, frozen::JOURNAL_MAGIC};

use super::{Recovered, crypto};
use crate::error::IoError;
use crate::source::LocalFile;

/// What a disk writes at once at the least: bytes of one sector are never written in part.
const SECTOR: u64 = 512;

/// A file that no other rewrap changes as long as this lives.
pub(super) struct Locked<'a> {
    file: File,
    name: &'a str,
}

impl<'a> Locked<'a> {
    /// Opens the file to read and write it, and locks it.
    pub(super) fn open(path: &Path, name: &'a str) -> Result<Self, IoError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(IoError::io(name, "open for writing"))?;
        let metadata = |metadata: io::Result<std::fs::Metadata>| {
            metadata.map_err(IoError::io(name, "read metadata"))
        };
        let opened = metadata(file.metadata())?;
        if !opened.is_file() {
            let why = "only a regular file can be changed in place";
            return Err(IoError::Unsupported { location: name.to_owned(), why });
        }
        file.try_lock().map_err(|error| {
            IoError::io(name, "lock")(match error {
                TryLockError::WouldBlock => {
                    let why = "another process changes the file";
                    io::Error::new(io::ErrorKind::WouldBlock, why)
                }
                TryLockError::Error(error) => error,
            })
        })?;
        // Replaced before it was locked: a change of the old file would be lost without a word.
        let now = metadata(path.metadata())?;
        if (now.dev(), now.ino()) != (opened.dev(), opened.ino()) {
            return Err(IoError::Changed { location: name.to_owned() });
        }
        Ok(Self { file, name })
    }

    /// The same open file as a source.
    pub(super) fn source(&self) -> Result<LocalFile, IoError> {
        let file = self.file.try_clone().map_err(IoError::io(self.name, "open"))?;
        LocalFile::of(file, self.name)
    }

    /// Makes the file what it is to be, and removes the journal.
    pub(super) fn recover(&self, recovered: &Recovered) -> Result<(), IoError> {
        if let Some(journal) = &recovered.torn {
            self.put(journal.offset(), journal.new_part(), "write the header of")?;
            if self.read_back(recovered.header.len())? != recovered.header {
                return Err(crypto(self.name, CryptoError::FrontAltered));
            }
        }
        if recovered.has_tail { self.shorten(recovered.file_len) } else { Ok(()) }
    }

    /// Replaces the header: journal, header, end of the journal.
    pub(super) fn replace(&self, change: &HeaderChange, journal: &Journal) -> Result<(), IoError> {
        self.append(journal).inspect_err(|_| {
            // The header was not touched. A journal that stays is cut short, and readers pass over it.
            let _ = self.shorten(journal.file_len());
        })?;
        let replaced = self
            .put(journal.offset(), journal.new_part(), "write the header of")
            .and_then(|()| self.read_back(change.header().len()))
            .and_then(|header| change.check(&header).map_err(|error| crypto(self.name, error)));
        replaced.inspect_err(|_| {
            // Where this fails too, the journal stays, and the next rewrap decides by it.
            let _ = self
                .put(journal.offset(), journal.old_part(), "write the header of")
                .and_then(|()| self.shorten(journal.file_len()));
        })?;
        let removed = self.file.set_len(journal.file_len()).and_then(|()| self.file.sync_all());
        removed.map_err(IoError::io(self.name, "the change took effect, but its journal stays"))
    }

    /// Writes the journal, its magic first: [`tz_crypto::Tail`] knows it by that. A magic on two sectors takes two
    /// steps.
    fn append(&self, journal: &Journal) -> Result<(), IoError> {
        let (at, bytes) = (journal.file_len(), journal.to_bytes());
        let in_sector = usize::try_from(SECTOR - at % SECTOR).unwrap_or(usize::MAX);
        let mut written = 0;
        for end in [in_sector.min(JOURNAL_MAGIC.len()), JOURNAL_MAGIC.len(), bytes.len()] {
            let part = bytes.get(written..end).unwrap_or_default();
            if !part.is_empty() {
                self.put(at.saturating_add(written as u64), part, "write the journal of")?;
            }
            written = end;
        }
        Ok(())
    }

    fn put(&self, offset: u64, bytes: &[u8], doing: &'static str) -> Result<(), IoError> {
        let written = self.file.write_all_at(bytes, offset).and_then(|()| self.file.sync_all());
        written.map_err(IoError::io(self.name, doing))
    }

    fn read_back(&self, len: usize) -> Result<Vec<u8>, IoError> {
        let mut header = vec![0; len];
        let read = self.file.read_exact_at(&mut header, 0);
        read.map_err(IoError::io(self.name, "read back the header of"))?;
        Ok(header)
    }

    fn shorten(&self, len: u64) -> Result<(), IoError> {
        let shortened = self.file.set_len(len).and_then(|()| self.file.sync_all());
        shortened.map_err(IoError::io(self.name, "remove the journal of"))
    }
}
