//! Models to write, and every way to read them back. Owns [`Model`].

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;
use tz_format::{Element, Limits, TensorPath, TensorSpec};
use tz_io::testing::{MemoryFile, paint};
use tz_io::{
    BufferPool, HeapPool, HostTensors, IoError, Location, MemorySource, Piece, RangeRead,
    ReadOptions, Selection, StreamSource, TensorFile, WriteOptions, write,
};

/// Tensors by path, in file order: what every way of reading must give.
pub(crate) type Contents = Vec<(TensorPath, Vec<u8>)>;

/// Tensors and their bytes.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) specs: Vec<TensorSpec>,
    pub(crate) data: Vec<Vec<u8>>,
}

impl Model {
    /// Painted tensors of these shapes.
    pub(crate) fn painted(specs: Vec<TensorSpec>) -> Self {
        let data = specs.iter().enumerate().map(|(i, spec)| {
            let len = if spec.meta { 0 } else { byte_len(spec) };
            paint(i, len)
        });
        let data = data.collect();
        Self { specs, data }
    }

    /// `uint8` tensors of these lengths, named `t0`, `t1`, ….
    pub(crate) fn of_lens(lens: &[u64]) -> Self {
        let spec =
            |(i, &len): (usize, &u64)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]);
        Self::painted(lens.iter().enumerate().map(spec).collect())
    }

    pub(crate) fn source(&self) -> MemorySource<'_> {
        let mut source = MemorySource::new();
        for (spec, data) in self.specs.iter().zip(&self.data) {
            source.push(spec.clone(), data).expect("lengths fit");
        }
        source
    }

    /// What readers must give: meta tensors as zeros.
    pub(crate) fn contents(&self) -> Contents {
        let tensor = |(spec, data): (&TensorSpec, &Vec<u8>)| {
            let zeros = || vec![0; usize::try_from(byte_len(spec)).expect("small")];
            let data = if spec.meta { zeros() } else { data.clone() };
            (spec.path.clone(), data)
        };
        self.specs.iter().zip(&self.data).map(tensor).collect()
    }

    pub(crate) fn write(&self, options: &WriteOptions) -> Written {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.tensors");
        write(&self.source(), &Location::File(path.clone()), options).expect("writable");
        Written { path, _folder: folder }
    }

    /// The bytes of the file.
    pub(crate) fn file(&self, options: &WriteOptions) -> Vec<u8> {
        std::fs::read(&self.write(options).path).expect("written")
    }
}

fn byte_len(spec: &TensorSpec) -> u64 {
    if spec.shape.contains(&0) {
        return 0;
    }
    spec.shape.iter().product::<u64>() * spec.dtype.size()
}

/// A written file in a folder of its own.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Written {
    pub(crate) fn open(&self) -> TensorFile {
        open_path(&self.path).expect("valid")
    }
}

/// Options of a test: nothing to wait for at the end.
pub(crate) fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.fsync = false;
    options
}

pub(crate) fn readers(readers: usize) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.readers = Some(readers);
    options
}

pub(crate) fn unverified() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.verify = false;
    options
}

pub(crate) fn all() -> Selection {
    Selection::all()
}

pub(crate) fn open_path(path: &Path) -> Result<TensorFile, IoError> {
    TensorFile::open(&Location::File(path.to_owned()), &Limits::default())
}

pub(crate) fn open_source(source: impl RangeRead + 'static) -> Result<TensorFile, IoError> {
    TensorFile::from_source(Box::new(source), &Limits::default())
}

pub(crate) fn open_memory(bytes: &[u8]) -> Result<TensorFile, IoError> {
    open_source(MemoryFile::new(bytes))
}

/// Opens bytes as they come from a pipe.
pub(crate) fn open_stream(bytes: &[u8]) -> Result<TensorFile, IoError> {
    let reader = Box::new(Cursor::new(bytes.to_vec()));
    open_source(StreamSource::new(reader, "stream"))
}

pub(crate) fn pool(buffer_len: usize, buffers: usize) -> HeapPool {
    HeapPool::new(buffer_len, buffers).expect("memory")
}

pub(crate) fn contents_of(tensors: &HostTensors) -> Contents {
    let contents = tensors.iter().map(|tensor| {
        let path = &tensor.entry().path;
        let found = tensors.get(&path.to_string()).expect("found by its name");
        assert_eq!(found.entry().path, *path);
        (path.clone(), tensor.bytes().to_vec())
    });
    contents.collect()
}

pub(crate) fn load(file: &TensorFile, options: &ReadOptions) -> Result<Contents, IoError> {
    file.load(&all(), options).map(|tensors| contents_of(&tensors))
}

/// Collects what `stream` delivers. Every stored byte must come exactly once.
pub(crate) fn stream(
    file: &TensorFile,
    options: &ReadOptions,
    pool: &dyn BufferPool,
) -> Result<Contents, IoError> {
    let empty = |len: u64| Mutex::new((vec![0; usize::try_from(len).expect("small")], 0));
    let taken: Vec<Mutex<(Vec<u8>, u64)>> =
        file.entries().iter().map(|entry| empty(entry.byte_len())).collect();
    let take = |piece: Piece| {
        for (part, bytes) in piece.parts() {
            let mut tensor = taken[part.tensor].lock().expect("no panic");
            let at = usize::try_from(part.offset).expect("small");
            tensor.0[at..at + bytes.len()].copy_from_slice(bytes);
            tensor.1 += bytes.len() as u64;
        }
        Ok(())
    };
    file.stream(&all(), options, pool, &take)?;
    let tensors = file.entries().iter().zip(taken).map(|(entry, taken)| {
        let (bytes, delivered) = taken.into_inner().expect("no panic");
        assert_eq!(delivered, entry.data_len, "{} came once", entry.path);
        (entry.path.clone(), bytes)
    });
    Ok(tensors.collect())
}
