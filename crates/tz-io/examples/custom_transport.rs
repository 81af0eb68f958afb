//! Loads a model over a transport of one's own: whatever can give a range of bytes, from several threads at once.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use tz_format::{Element, Limits, TensorSpec};
use tz_io::{
    IoError, Location, MemorySource, RangeRead, ReadOptions, Selection, TensorFile, WriteOptions,
    write,
};

/// Bytes behind an interface that counts how often it is asked: stand-in for a cache, a database, a radio link.
#[derive(Debug)]
struct Cache {
    bytes: Vec<u8>,
    asked: &'static AtomicUsize,
}

impl RangeRead for Cache {
    fn len(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let from = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..));
        let mut rest = from.unwrap_or_default();
        for buffer in buffers {
            io::Read::read_exact(&mut rest, buffer).map_err(|source| IoError::Io {
                location: self.location().to_owned(),
                doing: "read",
                source,
            })?;
        }
        Ok(())
    }

    fn max_readers(&self) -> usize {
        8
    }

    fn location(&self) -> &str {
        "cache:model"
    }
}

static ASKED: AtomicUsize = AtomicUsize::new(0);

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.tensors");
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("weight", Element::Uint8, vec![3]), &[1, 2, 3])?;
    write(&source, &Location::File(path.clone()), &WriteOptions::default())?;

    let cache = Cache { bytes: std::fs::read(path)?, asked: &ASKED };
    let file = TensorFile::from_source(Box::new(cache), &Limits::default())?;
    let tensors = file.load(&Selection::all(), &ReadOptions::default())?;
    assert_eq!(tensors.get("weight").map(|tensor| tensor.bytes()), Some(&[1, 2, 3][..]));
    println!("{} reads of {}", ASKED.load(Ordering::Relaxed), file.location());
    Ok(())
}
