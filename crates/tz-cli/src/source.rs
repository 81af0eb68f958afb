//! Where tensors come from: a `.tensors` file, or a checkpoint of safetensors or PyTorch files. Owns [`Source`], which makes both look
//! alike, and the streaming through bounded memory.

mod staging;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::{Map, Value};
use tz_crypto::CryptoError;
use tz_format::{Dtype, TensorKind, TensorPath};
use tz_io::{
    Algorithm, Digester, IoError, Location, OpenOptions, Selection, StreamSource, TensorFile,
    Visitor as _,
};
use tz_model::{Checkpoint, MAX_HEADER_LEN};

use crate::error::Failure;
use crate::job::{Job, Session};
use crate::parallel;
use crate::stdin::Stdin;

/// What ids of Hugging Face begin with.
const HUB: &str = "hf://";
/// Bytes read at a time where tensors are walked front to back: what stays in cache between read and use.
const WALK_BYTES: usize = 1 << 20;

/// An open source: its table of tensors is in memory, its data is not.
#[derive(Debug)]
pub(crate) enum Source {
    Tensors(Box<TensorFile>),
    Checkpoint(Checkpoint, String),
}

/// One tensor of a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) path: &'a TensorPath,
    pub(crate) kind: TensorKind,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [u64],
    /// Bytes in memory.
    pub(crate) byte_len: u64,
    /// Whether the file holds no bytes of it: it loads as zeros.
    pub(crate) is_meta: bool,
}

impl Source {
    /// Opens a path, a URI or `-` to read what is selected, with the keys that were given; a file that is not encrypted
    /// is refused then.
    pub(crate) fn open(
        text: &str,
        selection: &Selection,
        session: &Session,
    ) -> Result<Self, Failure> {
        let mut options = session.access.open()?;
        options.remote.whole = selection.is_all();
        Self::open_with(text, session, &options)
    }

    /// Opens a path, a URI or `-`. What a file is follows from its first bytes, not from its name.
    pub(crate) fn open_with(
        text: &str,
        session: &Session,
        options: &OpenOptions,
    ) -> Result<Self, Failure> {
        if let Some(id) = text.strip_prefix(HUB) {
            return Self::checkpoint(&hub(id, session)?, text, options);
        }
        let location = Location::parse(text)?;
        let path = match &location {
            Location::Stdio => {
                let stdin = io::stdin();
                return Self::stream_of(&stdin, "standard input", session, options);
            }
            Location::File(path) => path.as_path(),
            _ => {
                return Ok(Self::Tensors(TensorFile::open_with(&location, options)?.into()));
            }
        };
        let metadata = path.metadata().map_err(|error| Failure::io(text, "open", &error))?;
        if metadata.is_dir() {
            return Self::checkpoint(path, text, options);
        }
        if !metadata.is_file() {
            let file = open_stream(path).map_err(|error| Failure::io(text, "open", &error))?;
            return Self::stream_of(&file, text, session, options);
        }
        match Kind::of(path).map_err(|error| Failure::io(text, "read", &error))? {
            Kind::Checkpoint => Self::checkpoint(path, text, options),
            Kind::Tensors => Ok(Self::Tensors(TensorFile::open_with(&location, options)?.into())),
        }
    }

    /// A checkpoint is never encrypted, so one in the place of an encrypted file is refused like any plain file.
    fn checkpoint(path: &Path, text: &str, options: &OpenOptions) -> Result<Self, Failure> {
        if options.refuses_plain() {
            let (location, source) = (text.to_owned(), CryptoError::NotEncrypted);
            return Err(IoError::Crypto { location, tensor: None, source }.into());
        }
        Ok(Self::Checkpoint(Checkpoint::open(path)?, text.to_owned()))
    }

    /// A `.tensors` stream from a pipe or terminal.
    fn stream_of(
        file: &impl std::os::fd::AsFd,
        name: &str,
        session: &Session,
        options: &OpenOptions,
    ) -> Result<Self, Failure> {
        // A copy of the descriptor, so that nothing between it and the reads buffers.
        let fd = file.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| Failure::io(name, "open", &error))?;
        let reader = Stdin::new(File::from(fd), session.cancel.clone());
        let stream = StreamSource::new(Box::new(reader), name);
        let file = TensorFile::from_source_with(Box::new(stream), options)?;
        Ok(Self::Tensors(file.into()))
    }

    /// Path or URI, as messages name it.
    pub(crate) fn location(&self) -> &str {
        match self {
            Self::Tensors(file) => file.location(),
            Self::Checkpoint(_, location) => location,
        }
    }

    /// Whether it can be read only once and in order.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            Self::Tensors(file) => file.source().len().is_none(),
            Self::Checkpoint(..) => false,
        }
    }

    /// How many readers work at once.
    pub(crate) fn readers(&self, job: &Job) -> usize {
        match self {
            Self::Tensors(file) => {
                let readers = job.read.readers.unwrap_or_else(|| file.source().default_readers());
                readers.min(file.source().max_readers())
            }
            Self::Checkpoint(..) => job.threads,
        }
    }

    /// The same job for a walk over whole tensors, one thread each, within the memory limit.
    pub(crate) fn scan(&self, mut job: Job) -> Job {
        let most = usize::try_from(job.staging_bytes() / WALK_BYTES as u64).unwrap_or(usize::MAX);
        if self.readers(&job) > most {
            job.read.readers = Some(most.max(1));
            job.threads = most.max(1);
        }
        job
    }

    /// A `.tensors` file, or a word on what needs one.
    pub(crate) fn tensors(&self, what: &str) -> Result<&TensorFile, Failure> {
        match self {
            Self::Tensors(file) => Ok(file),
            Self::Checkpoint(_, location) => Err(Failure::unsupported(
                location,
                &format!("{what} is about .tensors files, this is a checkpoint"),
                "`tz-cli serialize SOURCE DEST` makes a .tensors file of it",
            )),
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tensors(file) if file.is_encrypted())
    }

    /// Fails where the source is encrypted and no key was given: nothing but its table can be read.
    pub(crate) fn require_unlocked(&self) -> Result<(), Failure> {
        match self {
            Self::Tensors(file) => Ok(file.require_unlocked()?),
            Self::Checkpoint(..) => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tensors(file) => file.entries().len(),
            Self::Checkpoint(checkpoint, _) => checkpoint.tensors().len(),
        }
    }

    pub(crate) fn row(&self, tensor: usize) -> Option<Row<'_>> {
        match self {
            Self::Tensors(file) => file.entries().get(tensor).map(|entry| Row {
                path: &entry.path,
                kind: entry.kind,
                dtype: entry.dtype,
                shape: &entry.shape,
                byte_len: entry.byte_len(),
                is_meta: entry.is_meta(),
            }),
            Self::Checkpoint(checkpoint, _) => {
                let (spec, tensor) =
                    checkpoint.specs().get(tensor).zip(checkpoint.tensors().get(tensor))?;
                Some(Row {
                    path: &spec.path,
                    kind: spec.kind,
                    dtype: spec.dtype,
                    shape: &spec.shape,
                    byte_len: tensor.byte_len,
                    is_meta: false,
                })
            }
        }
    }

    /// Rows of the tensors at these positions.
    pub(crate) fn rows<'a>(&'a self, tensors: &'a [usize]) -> impl Iterator<Item = Row<'a>> {
        tensors.iter().filter_map(|&tensor| self.row(tensor))
    }

    /// Positions of the selected tensors, ascending.
    pub(crate) fn select(&self, selection: &Selection) -> Result<Vec<usize>, Failure> {
        let names = (0..self.len()).map(|tensor| self.row(tensor).map(|row| row.path.to_string()));
        Ok(selection.select_names(names.map(Option::unwrap_or_default), self.location())?)
    }

    /// Fills `buf` from byte `offset` of a tensor, decrypted but not hashed; meta tensors read as zeros.
    pub(crate) fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Checkpoint(checkpoint, _) => Ok(checkpoint.read_at(tensor, offset, buf)?),
            Self::Tensors(file) => file.read_at(tensor, offset, buf).map_err(io::Error::other),
        }
    }

    /// Digests of the tensors at these positions, which `job` selects.
    pub(crate) fn checksum(
        &self,
        tensors: &[usize],
        algorithm: Algorithm,
        job: &Job,
    ) -> Result<Vec<String>, Failure> {
        let checkpoint = match self {
            Self::Tensors(file) => {
                let digests = file.checksum(&job.selection, algorithm, &job.read)?;
                return Ok(digests.into_iter().map(|(_, digest)| digest).collect());
            }
            Self::Checkpoint(checkpoint, _) => checkpoint,
        };
        let digests: Vec<std::sync::OnceLock<String>> =
            tensors.iter().map(|_| std::sync::OnceLock::new()).collect();
        parallel::for_each(tensors.len(), job.threads, &job.read.cancel, |i| {
            let Some((&tensor, slot)) = tensors.get(i).zip(digests.get(i)) else {
                return Ok(());
            };
            let len = checkpoint.tensors().get(tensor).map_or(0, |tensor| tensor.byte_len);
            let mut digester: Digester = algorithm.digester();
            let mut buffer = vec![0; usize::try_from(len).unwrap_or(WALK_BYTES).min(WALK_BYTES)];
            let mut offset = 0;
            while offset < len {
                if job.read.cancel.is_cancelled() {
                    return Err(Failure::cancelled());
                }
                let step = usize::try_from(len - offset).unwrap_or(WALK_BYTES).min(WALK_BYTES);
                let piece = buffer.get_mut(..step).unwrap_or_default();
                checkpoint.read_at(tensor, offset, piece)?;
                digester.update(piece);
                offset += step as u64;
            }
            // Every index is claimed once, so the slot is empty.
            let _ = slot.set(digester.to_hex());
            Ok(())
        })?;
        Ok(digests.into_iter().map(|slot| slot.into_inner().unwrap_or_default()).collect())
    }

    /// What the writer of the source said beyond tensors; shards say it together.
    pub(crate) fn user_metadata(&self) -> Map<String, Value> {
        match self {
            Self::Tensors(file) => file.front().extension.user_metadata.clone().unwrap_or_default(),
            Self::Checkpoint(checkpoint, _) => {
                let entries = checkpoint.files().iter().flat_map(|file| file.user_metadata());
                let mut metadata = Map::new();
                for (key, value) in entries {
                    metadata.entry(key).or_insert_with(|| value.as_str().into());
                }
                metadata
            }
        }
    }
}

/// Opens a pipe or device without waiting for a writer: the reads wait, and can be interrupted.
fn open_stream(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// The snapshot of `organisation/name`, or of `organisation/name@revision`.
#[cfg(feature = "hub")]
fn hub(id: &str, session: &Session) -> Result<PathBuf, Failure> {
    use tz_model::hub::{HubOptions, resolve_id};

    let (id, revision) = id.split_once('@').map_or((id, None), |(id, at)| (id, Some(at)));
    let mut options = HubOptions::from_env()?;
    options.revision = revision.map(ToOwned::to_owned);
    options.cancel = session.cancel.clone();
    (options.stall_timeout, options.retries) = session.access.waits();
    Ok(resolve_id(id, &options)?.dir)
}

#[cfg(not(feature = "hub"))]
fn hub(id: &str, _: &Session) -> Result<PathBuf, Failure> {
    let failure = Failure::usage(format!("{HUB}{id}: this program was built without Hugging Face"));
    Err(failure.hint("give the directory of a checkpoint"))
}

/// What a regular file is.
enum Kind {
    Tensors,
    Checkpoint,
}

/// How names of checkpoints end.
const CHECKPOINT_ENDINGS: [&str; 4] = ["safetensors", "bin", "pt", "pth"];
/// First bytes of PyTorch's files: a zip archive today, a bare pickle long ago.
const TORCH_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02\x8a\x0a"];

impl Kind {
    /// Looks at the first bytes; a file that they do not tell is what its name says, or meant to be a `.tensors` file.
    fn of(path: &Path) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(path)?.take(9).read_to_end(&mut start)?;
        if start.starts_with(tz_format::frozen::MAGIC) {
            return Ok(Self::Tensors);
        }
        let named = path
            .extension()
            .is_some_and(|ending| CHECKPOINT_ENDINGS.iter().any(|known| ending == *known));
        let torch = TORCH_MAGICS.iter().any(|magic| start.starts_with(magic));
        // The length of a header, then its opening brace.
        let safetensors = start.split_last_chunk::<1>().is_some_and(|(len, mark)| {
            let len = <[u8; 8]>::try_from(len).map(u64::from_le_bytes);
            len.is_ok_and(|len| len <= MAX_HEADER_LEN) && mark == b"{"
        });
        Ok(if named || torch || safetensors { Self::Checkpoint } else { Self::Tensors })
    }
}
