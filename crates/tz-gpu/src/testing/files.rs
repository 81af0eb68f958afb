//! Files for the cases: painted, of every kind of tensor. Owns [`TestFile`].

use std::path::PathBuf;

use tempfile::TempDir;
use tz_format::{Dtype, Element, TensorSpec};
use tz_io::testing::PaintedTensors;
use tz_io::{HostTensors, Location, ReadOptions, Selection, TensorFile, WriteOptions};

/// A file in a folder of its own that goes when it is dropped.
#[derive(Debug)]
pub struct TestFile {
    path: PathBuf,
    _folder: TempDir,
}

impl TestFile {
    /// Writes tensors of these shapes with painted bytes.
    ///
    /// # Panics
    /// Where they cannot be written.
    #[must_use]
    pub fn new(specs: Vec<TensorSpec>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.tensors");
        let mut options = WriteOptions::default();
        options.fsync = false;
        let location = Location::File(path.clone());
        tz_io::write(&PaintedTensors::new(specs), &location, &options).expect("a written file");
        Self { path, _folder: folder }
    }

    /// Tensors of boundary lengths, some larger than any buffer, a scalar, an empty one, one without data, and one
    /// with the most significant byte first.
    ///
    /// # Panics
    /// Where they cannot be written.
    #[must_use]
    pub fn mixed() -> Self {
        let mut specs = tz_format::testing::specs();
        specs.push(TensorSpec::new("large", Element::Bfloat16, vec![1025, 1500]));
        specs.push(TensorSpec::new("scalar", Element::Float32, vec![]));
        specs.push(TensorSpec::new("empty", Element::Float32, vec![3, 0, 5]));
        let mut meta = TensorSpec::new("meta", Element::Float32, vec![100, 100]);
        meta.meta = true;
        specs.push(meta);
        specs.extend(
            (0..300).map(|i| {
                TensorSpec::new(format!("norm.{i}"), Element::Float16, vec![i * 7 % 1000])
            }),
        );
        let big = Dtype::from_wire(">i4").expect("a spelling of the format");
        specs.push(TensorSpec::new("big-endian", big, vec![1000]));
        Self::new(specs)
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> Location {
        Location::File(self.path.clone())
    }

    /// Opens it.
    ///
    /// # Panics
    /// Where it cannot be opened.
    #[must_use]
    pub fn open(&self) -> TensorFile {
        TensorFile::open(&self.location(), &tz_format::Limits::default()).expect("an own file")
    }

    /// Loads it to the host, by another way than the one to a device.
    ///
    /// # Panics
    /// Where it cannot be loaded.
    #[must_use]
    pub fn on_host(&self) -> HostTensors {
        self.open().load(&Selection::all(), &ReadOptions::default()).expect("an own file")
    }

    /// Flips a bit of the file at `offset`.
    ///
    /// # Panics
    /// Where the file has no such byte.
    pub fn flip(&self, offset: u64) {
        let mut bytes = std::fs::read(&self.path).expect("an own file");
        let at = usize::try_from(offset).expect("a place in memory");
        *bytes.get_mut(at).expect("a place in the file") ^= 1;
        std::fs::write(&self.path, bytes).expect("an own file");
    }
}
