//! Where a file is written to. Owns [`Output`]: bytes at places, in any order, then made visible at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use tz_format::Layout;

use super::{TensorSource, WriteOptions};
use crate::error::IoError;
use crate::folders::{folder_of, sync_folder};
use crate::leftovers::TemporaryFile;

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

/// Longest part of the destination's name that a temporary file repeats, in bytes: with what surrounds it, it must not
/// exceed the 255 bytes that file systems allow.
const MAX_PREFIX: usize = 200;

/// A temporary file beside the destination that takes its name when it is whole.
#[derive(Debug)]
pub(crate) struct LocalOutput {
    file: TemporaryFile,
    path: PathBuf,
    name: String,
}

impl LocalOutput {
    pub(crate) fn create(path: &Path, name: &str, len: u64) -> Result<Self, IoError> {
        let path = &target(path);
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(file_name) = file_name.filter(|_| !path.is_dir()) else {
            return Err(IoError::io(name, "create")(io::ErrorKind::IsADirectory.into()));
        };
        let prefix = file_name.get(..file_name.floor_char_boundary(MAX_PREFIX)).unwrap_or_default();
        let file = TemporaryFile::create_in(folder_of(path), &format!(".{prefix}."), ".tmp");
        let file = file.map_err(IoError::io(name, "create a temporary file beside"))?;
        reserve(file.as_file(), len).map_err(IoError::io(name, "reserve the space of"))?;
        Ok(Self { file, path: path.to_owned(), name: name.to_owned() })
    }

    /// Makes the file durable, then visible.
    pub(crate) fn finish(self, fsync: bool, create_only: bool) -> Result<(), IoError> {
        if fsync {
            self.file.as_file().sync_all().map_err(IoError::io(&self.name, "sync"))?;
        }
        let persisted = self.file.persist(&self.path, create_only);
        persisted.map_err(IoError::io(&self.name, "rename the temporary file to"))?;
        if fsync {
            // The name is durable once its folder is.
            sync_folder(folder_of(&self.path))
                .map_err(IoError::io(&self.name, "sync the folder of"))?;
        }
        Ok(())
    }
}

/// What `statfs` calls a file system in memory (`TMPFS_MAGIC` of Linux).
const TMPFS: u64 = 0x0102_1994;

/// Gives a new file its length and, where the file system can, its blocks: workers then write without taking turns
/// for them, and a full disk says so before the work. In memory that would only mean to clear every page twice.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    let in_memory =
        rustix::fs::fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(TMPFS));
    if in_memory {
        return file.set_len(len);
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(errno.into()),
        // Many file systems have no such call; the blocks come with the bytes there.
        Err(_) => file.set_len(len),
    }
}

/// The file that a link leads to: the link stays, as it does for every program that opens it for writing. It may be
/// `/dev/stdout`, which the rename would otherwise take away from the whole machine.
fn target(path: &Path) -> PathBuf {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let target = if is_link { path.canonicalize().ok() } else { None };
    target.unwrap_or_else(|| path.to_owned())
}

impl Output for LocalOutput {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.file.as_file().write_all_at(bytes, offset).map_err(IoError::io(&self.name, "write"))
    }
}

/// Keeps the frame and drops the data, which [`StreamOutput::emit`] reads again.
#[derive(Debug, Default)]
pub(crate) struct StreamOutput {
    frames: Mutex<Vec<Frame>>,
}

/// Part of the frame. Padding, which is most of an aligned header, is counted, not kept.
#[derive(Debug)]
struct Frame {
    offset: u64,
    head: Box<[u8]>,
    zeros: usize,
    /// What stands after the padding: in a header, the data length.
    tail: Box<[u8]>,
}

impl Frame {
    fn new(offset: u64, bytes: &[u8]) -> Self {
        let (body, tail) = bytes.split_at(bytes.len().saturating_sub(8));
        let head_len = body.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let (head, padding) = body.split_at(head_len);
        Self { offset, head: head.into(), zeros: padding.len(), tail: tail.into() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        bytes.resize(self.head.len() + self.zeros, 0);
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

impl Output for StreamOutput {
    fn data(&self, _offset: u64, _bytes: &[u8]) -> Result<(), IoError> {
        Ok(())
    }

    fn frame(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let frame = Frame::new(offset, bytes);
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
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
        frames.sort_unstable_by_key(|frame| frame.offset);
        let mut buffer = vec![0; 1 << 20];
        let mut frames = frames.into_iter();
        let mut write = |bytes: &[u8]| sink.write_all(bytes).map_err(IoError::io(name, "write"));
        // The frames are: front, one header per tensor, terminator.
        if let Some(front) = frames.next() {
            write(&front.bytes())?;
        }
        for (header, (tensor, entry)) in frames.by_ref().zip(layout.entries().iter().enumerate()) {
            write(&header.bytes())?;
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
