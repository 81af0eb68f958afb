//! Where a file is written to. Owns [`Output`]: bytes at places, in any order, then made visible at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;
use tz_format::Layout;

use super::{TensorSource, WriteOptions};
use crate::error::IoError;

/// Takes every byte of the file exactly once.
pub(crate) trait Output: Sync {
    /// Tensor data.
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError>;

    /// Front, tensor headers and terminator.
    fn frame(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.data(offset, bytes)
    }

    /// Whether the bytes of a run of small tensors may come as one image of frame and data.
    fn takes_images(&self) -> bool {
        true
    }
}

/// A temporary file beside the destination that takes its name when it is whole.
#[derive(Debug)]
pub(crate) struct LocalOutput {
    file: NamedTempFile,
    path: PathBuf,
    name: String,
}

impl LocalOutput {
    pub(crate) fn create(path: &Path, name: &str, len: u64) -> Result<Self, IoError> {
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(file_name) = file_name.filter(|_| !path.is_dir()) else {
            return Err(IoError::io(name, "create")(io::ErrorKind::IsADirectory.into()));
        };
        let file = tempfile::Builder::new()
            .prefix(&format!(".{file_name}."))
            .suffix(".tmp")
            // What `File::create` gives, the umask applied: temporary files are private by default.
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(folder(path));
        let file = file.map_err(IoError::io(name, "create a temporary file beside"))?;
        file.as_file().set_len(len).map_err(IoError::io(name, "set the length of"))?;
        Ok(Self { file, path: path.to_owned(), name: name.to_owned() })
    }

    /// Makes the file durable, then visible.
    pub(crate) fn finish(self, fsync: bool, create_only: bool) -> Result<(), IoError> {
        if fsync {
            self.file.as_file().sync_all().map_err(IoError::io(&self.name, "sync"))?;
        }
        let persisted = if create_only {
            self.file.persist_noclobber(&self.path)
        } else {
            self.file.persist(&self.path)
        };
        persisted.map_err(|error| {
            IoError::io(&self.name, "rename the temporary file to")(error.error)
        })?;
        if fsync {
            // The name is durable once its folder is.
            File::open(folder(&self.path))
                .and_then(|folder| folder.sync_all())
                .map_err(IoError::io(&self.name, "sync the folder of"))?;
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Output for LocalOutput {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.file.as_file().write_all_at(bytes, offset).map_err(IoError::io(&self.name, "write"))
    }
}

/// Keeps the frame and drops the data, which [`StreamOutput::emit`] reads again.
#[derive(Debug, Default)]
pub(crate) struct StreamOutput {
    frames: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Output for StreamOutput {
    fn data(&self, _offset: u64, _bytes: &[u8]) -> Result<(), IoError> {
        Ok(())
    }

    fn frame(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push((offset, bytes.to_vec()));
        Ok(())
    }

    fn takes_images(&self) -> bool {
        false
    }
}

impl StreamOutput {
    /// Writes frames and data in file order.
    pub(crate) fn emit(
        self,
        source: &dyn TensorSource,
        layout: &Layout,
        sink: &mut dyn io::Write,
        name: &str,
        options: &WriteOptions,
    ) -> Result<(), IoError> {
        let mut frames = self.frames.into_inner().unwrap_or_else(PoisonError::into_inner);
        frames.sort_unstable_by_key(|(offset, _)| *offset);
        let mut buffer = vec![0; 1 << 20];
        let mut frames = frames.into_iter();
        let mut write = |bytes: &[u8]| sink.write_all(bytes).map_err(IoError::io(name, "write"));
        // The frames are: front, one header per tensor, terminator.
        if let Some((_, front)) = frames.next() {
            write(&front)?;
        }
        for ((_, header), (tensor, entry)) in
            frames.by_ref().zip(layout.entries().iter().enumerate())
        {
            write(&header)?;
            let mut offset = 0;
            while offset < entry.data_len {
                options.cancel.check()?;
                let step = (entry.data_len - offset).min(buffer.len() as u64);
                let piece = usize::try_from(step)
                    .ok()
                    .and_then(|step| buffer.get_mut(..step))
                    .unwrap_or_default();
                source
                    .read_at(tensor, offset, piece)
                    .map_err(|source| IoError::Tensor { tensor: entry.path.to_string(), source })?;
                write(piece)?;
                options.progress.add(step);
                offset += step;
            }
        }
        write(&[0; 8])?;
        sink.flush().map_err(IoError::io(name, "write"))
    }
}
