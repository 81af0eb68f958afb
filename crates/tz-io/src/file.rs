//! An open `.tensors` file. Owns [`TensorFile`]: what can be asked of it; how is in the modules beside it.

use std::io::IoSliceMut;

use tz_format::{
    Fault, Front, FrontDecoder, Limits, Malformed, Profile, Step, TensorEntry, TensorHeader,
};

use crate::buffer::BufferPool;
use crate::check::HeaderFacts;
use crate::error::{Corruption, IoError};
use crate::host::{self, HostTensor, HostTensors};
use crate::location::Location;
use crate::memory::SharedBytes;
use crate::options::{OpenOptions, ReadOptions};
use crate::plan::{LoadPlan, PlanOptions, Selection};
use crate::remote::RemoteOptions;
use crate::scan::{self, Algorithm, Digester};
use crate::source::RangeRead;
use crate::stats::ReadStats;
use crate::stream::{self, Consumer};

/// First read of a file: the front of models of up to some thousand tensors in one go.
const FIRST_READ: u64 = 512 << 10;

/// A `.tensors` file whose front has been read and checked. Data is read on request only.
#[derive(Debug)]
pub struct TensorFile {
    source: Box<dyn RangeRead>,
    front: Front,
}

impl TensorFile {
    /// Opens the file at `location`.
    ///
    /// # Errors
    /// [`IoError::Io`] where it cannot be read, [`IoError::Format`] where it is not a whole `.tensors` file.
    pub fn open(location: &Location, limits: &Limits) -> Result<Self, IoError> {
        Self::from_source(location.open(&RemoteOptions::default())?, limits)
    }

    /// Opens the file at `location` with credentials, certificates and limits of the caller's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(location: &Location, options: &OpenOptions) -> Result<Self, IoError> {
        Self::from_source(location.open(&options.remote)?, &options.limits)
    }

    /// Opens a file over a transport of the caller's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: Box<dyn RangeRead>, limits: &Limits) -> Result<Self, IoError> {
        let front = read_front(&*source, limits)?;
        Ok(Self { source, front })
    }

    /// Opens a file that may be something else; gives the source back where it is.
    pub(crate) fn try_from_source(
        source: Box<dyn RangeRead>,
        limits: &Limits,
    ) -> Result<Self, Box<dyn RangeRead>> {
        match read_front(&*source, limits) {
            Ok(front) => Ok(Self { source, front }),
            Err(_) => Err(source),
        }
    }

    /// Everything that stands before the first tensor.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// One entry per tensor, in file order.
    #[must_use]
    pub fn entries(&self) -> &[TensorEntry] {
        &self.front.entries
    }

    /// File or URI, without credentials.
    #[must_use]
    pub fn location(&self) -> &str {
        self.source.location()
    }

    /// Where the bytes come from.
    #[must_use]
    pub fn source(&self) -> &dyn RangeRead {
        &*self.source
    }

    /// Whether reading needs a key.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.front.header.flags.encrypted
    }

    /// The profile that the file was written in.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.front.header.flags.profile()
    }

    /// Position of the tensor of that name (plain, or a path joined with `/`).
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.entries().iter().position(|entry| match entry.path.plain() {
            Some(plain) => plain == name,
            None => entry.path.to_string() == name,
        })
    }

    /// Plans reading the selected tensors: no I/O happens.
    ///
    /// # Errors
    /// [`IoError::NoSuchTensor`] where a glob matches nothing.
    pub fn plan(&self, selection: &Selection, options: &PlanOptions) -> Result<LoadPlan, IoError> {
        let tensors = selection.select(self.entries(), self.location())?;
        Ok(LoadPlan::new(self.entries(), tensors, options))
    }

    /// Loads the selected tensors into owned memory. Every byte lands at its place without a further copy.
    ///
    /// # Errors
    /// [`IoError::Corrupt`] where a stored hash does not match, and as [`Self::open`].
    pub fn load(
        &self,
        selection: &Selection,
        options: &ReadOptions,
    ) -> Result<HostTensors, IoError> {
        self.require_plain()?;
        let plan_options = PlanOptions { headers: options.verify, ..PlanOptions::local() };
        host::load(self, &self.plan(selection, &plan_options)?, options)
    }

    /// Loads one tensor.
    ///
    /// # Errors
    /// [`IoError::NoSuchTensor`], and as [`Self::load`].
    pub fn load_one(&self, name: &str, options: &ReadOptions) -> Result<HostTensor, IoError> {
        self.require_plain()?;
        let missing = || IoError::NoSuchTensor {
            location: self.location().to_owned(),
            pattern: name.to_owned(),
        };
        let tensor = self.position(name).ok_or_else(missing)?;
        let plan_options = PlanOptions { headers: options.verify, ..PlanOptions::local() };
        let plan = LoadPlan::new(self.entries(), vec![tensor], &plan_options);
        host::load(self, &plan, options)?.iter().next().cloned().ok_or_else(missing)
    }

    /// Maps a local file: tensors without a copy, read from disk as they are touched, hashes unchecked. Meta tensors
    /// are left out, having no bytes to map. Whoever truncates the file while it is mapped faults this process.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] where the file is encrypted or not local.
    pub fn map(&self) -> Result<HostTensors, IoError> {
        self.require_plain()?;
        let unsupported = |why| IoError::Unsupported { location: self.location().to_owned(), why };
        let file = self
            .source
            .local_file()
            .ok_or_else(|| unsupported("only local files can be mapped"))?;
        let bytes = SharedBytes::map(file).map_err(IoError::io(self.location(), "map"))?;
        let tensor = |entry: &TensorEntry| {
            let start = usize::try_from(entry.data_offset).ok()?;
            let part = bytes.part(start, usize::try_from(entry.data_len).ok()?)?;
            Some(HostTensor::new(entry.clone(), part))
        };
        let stored = self.entries().iter().filter(|entry| !entry.is_meta());
        let tensors = stored.map(tensor).collect::<Option<Vec<_>>>();
        let tensors =
            tensors.ok_or_else(|| unsupported("the file was truncated after it was opened"))?;
        Ok(HostTensors::new(tensors, ReadStats::default()))
    }

    /// Reads the selected tensors piece by piece through `pool`, in memory bounded by it. Several threads call
    /// `consumer`, in no fixed order. Meta tensors have no pieces.
    ///
    /// # Errors
    /// [`IoError::Corrupt`] after the last piece where a stored hash does not match, [`IoError::MemoryLimit`] where
    /// the pool's buffers are shorter than a tensor header, and as [`Self::open`].
    pub fn stream(
        &self,
        selection: &Selection,
        options: &ReadOptions,
        pool: &dyn BufferPool,
        consumer: &dyn Consumer,
    ) -> Result<ReadStats, IoError> {
        self.require_plain()?;
        let plan_options = PlanOptions { headers: options.verify, ..self.source.plan_options() };
        let plan_options = plan_options.staged(pool.buffer_len());
        stream::run(self, &self.plan(selection, &plan_options)?, options, pool, consumer)
    }

    /// Digests of the selected tensors' plaintext, in file order. Meta tensors count as zeros.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn checksum(
        &self,
        selection: &Selection,
        algorithm: Algorithm,
        options: &ReadOptions,
    ) -> Result<Vec<(usize, String)>, IoError> {
        self.require_plain()?;
        let tensors = selection.select(self.entries(), self.location())?;
        let digests = scan::scan(self, &tensors, options, |_, _| algorithm.digester())?;
        Ok(tensors.into_iter().zip(digests.into_iter().map(Digester::to_hex)).collect())
    }

    /// Compares the selected tensors with every hash that the file stores of them; gives those that differ.
    ///
    /// # Errors
    /// As [`Self::open`]. A mismatch is a result, not an error.
    pub fn verify(
        &self,
        selection: &Selection,
        options: &ReadOptions,
    ) -> Result<Vec<Corruption>, IoError> {
        self.require_plain()?;
        let tensors = selection.select(self.entries(), self.location())?;
        scan::verify(self, &tensors, options)
    }

    /// Reads the header of one tensor: hashes and encryption parameters.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn header(&self, tensor: usize) -> Result<TensorHeader, IoError> {
        Ok(self.read_facts(tensor)?.header)
    }

    pub(crate) fn read_facts(&self, tensor: usize) -> Result<HeaderFacts, IoError> {
        let entry = self.entries().get(tensor);
        let len = entry.map_or(0, TensorEntry::header_len);
        // Bounded by the limits when the index was read.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let offset = entry.map_or(0, |entry| entry.header_offset);
        self.source.read_into(offset, &mut [IoSliceMut::new(&mut bytes)])?;
        self.facts(tensor, &bytes)
    }

    /// Decodes the header of one tensor from its bytes.
    pub(crate) fn facts(&self, tensor: usize, bytes: &[u8]) -> Result<HeaderFacts, IoError> {
        let none = || IoError::NoSuchTensor {
            location: self.location().to_owned(),
            pattern: tensor.to_string(),
        };
        let entry = self.entries().get(tensor).ok_or_else(none)?;
        HeaderFacts::read(bytes, entry, self.front.header.flags)
            .map_err(IoError::format(self.location()))
    }

    pub(crate) fn require_plain(&self) -> Result<(), IoError> {
        if self.is_encrypted() {
            return Err(IoError::KeyMissing { location: self.location().to_owned() });
        }
        Ok(())
    }

    pub(crate) fn corrupt(&self, mut failures: Vec<Corruption>) -> Result<(), IoError> {
        if failures.is_empty() {
            return Ok(());
        }
        failures.sort_by_key(|failure| failure.data_offset);
        Err(IoError::Corrupt { location: self.location().to_owned(), failures })
    }
}

/// Reads and checks everything that stands before the first tensor.
fn read_front(source: &dyn RangeRead, limits: &Limits) -> Result<Front, IoError> {
    let decoder = FrontDecoder::new(limits.clone());
    let mut prefix = Vec::new();
    let front = loop {
        let need = match decoder.step(&prefix).map_err(IoError::format(source.location()))? {
            Step::Done(front) => break front,
            Step::Need(range) => range.end,
        };
        read_prefix(source, &mut prefix, need)?;
    };
    if let Some(len) = source.len() {
        front.check_file_len(len).map_err(IoError::format(source.location()))?;
    }
    Ok(front)
}

/// Grows `prefix` towards `need` bytes.
fn read_prefix(source: &dyn RangeRead, prefix: &mut Vec<u8>, need: u64) -> Result<(), IoError> {
    let have = prefix.len() as u64;
    let want = match source.len() {
        Some(len) if have == len => {
            let fault = Fault::Truncated;
            let malformed = Malformed { field: "index", offset: have, tensor: None, fault };
            return Err(IoError::malformed(source.location(), malformed));
        }
        Some(len) => need.max(FIRST_READ).min(len),
        // A stream must not be read beyond the front, and memory is taken only as fast as bytes prove to be there.
        None => need.min(have + (have / 2).max(FIRST_READ)),
    };
    let too_large = |_| {
        IoError::io(source.location(), "read the front")(std::io::ErrorKind::OutOfMemory.into())
    };
    prefix.resize(usize::try_from(want).map_err(too_large)?, 0);
    let fresh = usize::try_from(have).ok().and_then(|have| prefix.get_mut(have..));
    source.read_into(have, &mut [IoSliceMut::new(fresh.unwrap_or_default())])
}
