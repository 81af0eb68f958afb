//! An open `.tensors` file. Owns [`TensorFile`]: what can be asked of it; how is in the modules beside it.

use std::io::IoSliceMut;
use std::sync::OnceLock;

use tz_crypto::{CryptoError, FileOpener, TensorOpener};
use tz_format::{Element, FormatError, Front, Limits, Profile, TensorEntry, TensorHeader, frozen};

use crate::buffer::BufferPool;
use crate::check::HeaderFacts;
use crate::decrypt;
use crate::ending::{self, Ending};
use crate::error::{Corruption, IoError};
use crate::front;
use crate::host::{HostTensor, HostTensors};
use crate::load;
use crate::location::Location;
use crate::memory::SharedBytes;
use crate::options::{OpenOptions, ReadOptions};
use crate::plan::{LoadPlan, PlanOptions, Selection};
use crate::remote::RemoteOptions;
use crate::scan::{self, Algorithm, ElementDigest};
use crate::source::RangeRead;
use crate::stats::ReadStats;
use crate::stream::{self, Consumer};

/// A `.tensors` file whose front has been read and checked. Data is read on request only.
#[derive(Debug)]
pub struct TensorFile {
    source: Box<dyn RangeRead>,
    front: Front,
    unlocked: Option<Unlocked>,
    /// What follows the last tensor, once that is known.
    pub(crate) ending: OnceLock<Ending>,
}

/// What the caller's secrets give, in an encrypted file.
#[derive(Debug)]
struct Unlocked {
    opener: FileOpener,
    /// Headers of tensors that were read at offsets, each read once.
    headers: Vec<OnceLock<Box<HeaderFacts>>>,
}

impl TensorFile {
    /// Opens the file at `location`.
    ///
    /// # Errors
    /// [`IoError::Io`] where it cannot be read, [`IoError::Format`] where it is not a whole `.tensors` file.
    pub fn open(location: &Location, limits: &Limits) -> Result<Self, IoError> {
        Self::from_source(location.open(&RemoteOptions::default())?, limits)
    }

    /// Opens the file at `location` with keys, credentials, certificates and limits of the caller's.
    ///
    /// # Errors
    /// As [`Self::open`], and as [`Self::from_source_with`].
    pub fn open_with(location: &Location, options: &OpenOptions) -> Result<Self, IoError> {
        Self::from_source_with(location.open(&options.remote)?, options)
    }

    /// Opens a file over a transport of the caller's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: Box<dyn RangeRead>, limits: &Limits) -> Result<Self, IoError> {
        let (front, _) = front::read(&*source, limits)?;
        Self::locked(source, front).inspect(Self::warn_of_journal)
    }

    /// Over a front that was read. Nobody has vouched for it, so whatever follows the file is no reason to refuse it.
    fn locked(source: Box<dyn RangeRead>, front: Front) -> Result<Self, IoError> {
        let ending = Ending::of(&*source, &front)?.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Self { source, front, unlocked: None, ending })
    }

    /// Opens a file over a transport of the caller's and unlocks it. The front of a sealed file is trusted only after
    /// its MAC was checked. [`OpenOptions::plain`] says what to do with a file that is not encrypted; by default it is
    /// refused if secrets are given, because the caller expects another file. Without secrets an encrypted file opens
    /// too, for what its front tells.
    ///
    /// # Errors
    /// As [`Self::open`], and [`IoError::Crypto`].
    pub fn from_source_with(
        source: Box<dyn RangeRead>,
        options: &OpenOptions,
    ) -> Result<Self, IoError> {
        let (front, bytes) = front::read(&*source, &options.limits)
            .map_err(|error| ending::undecodable(&*source, &options.limits, error))?;
        let mut file = Self::locked(source, front)?;
        if !file.is_encrypted() {
            let refused = || IoError::crypto(file.location(), None, CryptoError::NotEncrypted);
            return if options.refuses_plain() { Err(refused()) } else { Ok(file) };
        }
        if !options.secrets.is_empty() {
            let opener =
                FileOpener::new(&file.front, &bytes, &options.secrets, &options.kdf_limits);
            let opener = opener
                .map_err(|error| if file.ends_in_journal() { error.interrupted() } else { error })
                .map_err(|error| IoError::crypto(file.location(), None, error))?;
            file.check_ending()?;
            let headers = file.entries().iter().map(|_| OnceLock::new()).collect();
            file.unlocked = Some(Unlocked { opener, headers });
        }
        file.warn_of_journal();
        Ok(file)
    }

    /// Opens a file that may be something else; gives the source back where it is, or where only a newer reader
    /// knows what it is.
    ///
    /// # Errors
    /// What the source gives, and [`IoError::Format`] where a `.tensors` file is damaged.
    pub(crate) fn try_from_source(
        source: Box<dyn RangeRead>,
        limits: &Limits,
    ) -> Result<Result<Self, Box<dyn RangeRead>>, IoError> {
        let holds_magic = source.len().is_none_or(|len| len >= frozen::MAGIC.len() as u64);
        match front::read(&*source, limits) {
            Ok((front, _)) => Self::locked(source, front).inspect(Self::warn_of_journal).map(Ok),
            Err(error @ IoError::Format { source: FormatError::Malformed(_), .. })
                if holds_magic =>
            {
                Err(error)
            }
            Err(IoError::Format { .. }) => Ok(Err(source)),
            Err(error) => Err(error),
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
    /// [`IoError::NoSuchTensor`] where a glob matches nothing, [`IoError::MemoryLimit`] where the plan has too many
    /// pieces.
    pub fn plan(&self, selection: &Selection, options: &PlanOptions) -> Result<LoadPlan, IoError> {
        let tensors = selection.select(self.entries(), self.location())?;
        LoadPlan::of_file(self.entries(), tensors, options, self.location())
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
        let plan_options = self.plan_options(options.verify)?;
        load::load(self, &self.plan(selection, &plan_options)?, options)
    }

    /// Loads one tensor.
    ///
    /// # Errors
    /// [`IoError::NoSuchTensor`], and as [`Self::load`].
    pub fn load_one(&self, name: &str, options: &ReadOptions) -> Result<HostTensor, IoError> {
        let missing = || IoError::NoSuchTensor {
            location: self.location().to_owned(),
            pattern: name.to_owned(),
        };
        let tensor = self.position(name).ok_or_else(missing)?;
        let plan_options = self.plan_options(options.verify)?;
        let plan = LoadPlan::of_file(self.entries(), vec![tensor], &plan_options, self.location())?;
        load::load(self, &plan, options)?.iter().next().cloned().ok_or_else(missing)
    }

    /// Maps the selected tensors of a local file: no copy, read from disk as they are touched, hashes unchecked. Meta
    /// tensors are left out, having no bytes to map. Whoever truncates the file while it is mapped faults this process.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] where the file is encrypted or not local, [`IoError::NoSuchTensor`] where a glob
    /// matches nothing.
    pub fn map(&self, selection: &Selection) -> Result<HostTensors, IoError> {
        let unsupported = |why| IoError::Unsupported { location: self.location().to_owned(), why };
        if self.is_encrypted() {
            return Err(unsupported("what an encrypted file would map is ciphertext"));
        }
        let file = self
            .source
            .local_file()
            .ok_or_else(|| unsupported("only local files can be mapped"))?;
        let selected = selection.select(self.entries(), self.location())?;
        let bytes = SharedBytes::map(file).map_err(IoError::io(self.location(), "map"))?;
        let tensor = |entry: &TensorEntry| {
            let start = usize::try_from(entry.data_offset).ok()?;
            let part = bytes.part(start, usize::try_from(entry.data_len).ok()?)?;
            Some(HostTensor::new(entry.clone(), part))
        };
        let selected = selected.iter().filter_map(|&tensor| self.entries().get(tensor));
        let stored = selected.filter(|entry| !entry.is_meta());
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
        let staged = self.source.plan_options().filling(pool.buffer_len());
        let plan_options = self.align(PlanOptions { headers: options.verify, ..staged })?;
        stream::run(self, &self.plan(selection, &plan_options)?, options, pool, consumer)
    }

    /// Digests of the selected tensors' elements, decrypted and little-endian, in file order: equal tensors have equal
    /// digests in every format. Meta tensors count as zeros.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn checksum(
        &self,
        selection: &Selection,
        algorithm: Algorithm,
        options: &ReadOptions,
    ) -> Result<Vec<(usize, String)>, IoError> {
        self.require_unlocked()?;
        let tensors = selection.select(self.entries(), self.location())?;
        let dtype = |tensor: usize| self.entries().get(tensor).map(|entry| entry.dtype);
        let digests = scan::scan(self, &tensors, options, |tensor, _| {
            ElementDigest::new(algorithm, dtype(tensor).unwrap_or(Element::Uint8.into()))
        })?;
        Ok(tensors.into_iter().zip(digests.iter().map(ElementDigest::to_hex)).collect())
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
        self.verify_and_count(selection, options).map(|(failures, _)| failures)
    }

    /// As [`Self::verify`], with the number of tensors for which the file stores no hash.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn verify_and_count(
        &self,
        selection: &Selection,
        options: &ReadOptions,
    ) -> Result<(Vec<Corruption>, usize), IoError> {
        self.require_unlocked()?;
        let tensors = selection.select(self.entries(), self.location())?;
        scan::verify(self, &tensors, options)
    }

    /// Fills `buf` from byte `offset` of a tensor on, decrypted where the file is encrypted; meta tensors read as
    /// zeros. Hashes of a plain file are not looked at.
    ///
    /// # Errors
    /// [`IoError::Io`] beyond the tensor's end, and as [`Self::load`].
    pub fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let eof = || IoError::io(self.location(), "read")(std::io::ErrorKind::UnexpectedEof.into());
        let end = offset.checked_add(buf.len() as u64);
        let entry = self.entries().get(tensor);
        let entry = entry.filter(|entry| end.is_some_and(|end| end <= entry.byte_len()));
        let entry = entry.ok_or_else(eof)?;
        self.require_unlocked()?;
        if entry.is_meta() {
            buf.fill(0);
            return Ok(());
        }
        let Some(unlocked) = &self.unlocked else {
            let at = entry.data_offset + offset;
            return self.source.read_into(at, &mut [IoSliceMut::new(buf)]);
        };
        let header = unlocked.headers.get(tensor).ok_or_else(eof)?;
        if header.get().is_none() {
            // Two threads may read the same header; the first to finish keeps it.
            let _ = header.set(Box::new(self.read_facts(tensor)?));
        }
        header.get().map_or(Ok(()), |facts| decrypt::read_at(self, tensor, facts, offset, buf))
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
        let bytes =
            entry.map_or(Ok(Vec::new()), |entry| front::read_header(&*self.source, entry))?;
        self.facts(tensor, &bytes)
    }

    /// Decodes the header of one tensor from its bytes.
    pub(crate) fn facts(&self, tensor: usize, bytes: &[u8]) -> Result<HeaderFacts, IoError> {
        let none = || IoError::NoSuchTensor {
            location: self.location().to_owned(),
            pattern: tensor.to_string(),
        };
        let entry = self.entries().get(tensor).ok_or_else(none)?;
        let mut facts = HeaderFacts::read(bytes, entry, self.front.header.flags)
            .map_err(IoError::format(self.location()))?;
        if let Some(unlocked) = &self.unlocked {
            let opener = unlocked.opener.tensor(tensor, entry, &facts.header, bytes);
            facts.opener = Some(opener.map_err(|error| self.crypto(tensor, error))?);
        }
        Ok(facts)
    }

    /// Cuts that suit the source and, in an encrypted file, the cipher.
    fn plan_options(&self, headers: bool) -> Result<PlanOptions, IoError> {
        self.align(PlanOptions { headers, ..self.source.plan_options() })
    }

    /// Aligns cuts with the chunks of an encrypted file, by its first tensor with data. That header is nearly always
    /// among the bytes read first. A stream cannot look ahead, but its one reader needs no help: what is not aligned
    /// is refused there.
    fn align(&self, options: PlanOptions) -> Result<PlanOptions, IoError> {
        if !self.is_encrypted() {
            return Ok(options);
        }
        self.require_unlocked()?;
        let options = PlanOptions { headers: true, ..options };
        let first = self.entries().iter().position(|entry| entry.data_len > 0);
        let chunk_size = match first {
            Some(first) if self.source.max_readers() > 1 => {
                self.read_facts(first)?.opener.as_ref().map(TensorOpener::chunk_size)
            }
            // What the reference and this crate write.
            _ => Some(tz_crypto::DEFAULT_COMPAT_CHUNK_SIZE),
        };
        Ok(decrypt::align_pieces(options, chunk_size))
    }

    /// Refuses an encrypted file that was opened without secrets.
    ///
    /// # Errors
    /// [`IoError::KeyMissing`] where the file is encrypted and was opened without secrets.
    pub fn require_unlocked(&self) -> Result<(), IoError> {
        if self.is_encrypted() && self.unlocked.is_none() {
            return Err(IoError::KeyMissing { location: self.location().to_owned() });
        }
        Ok(())
    }

    /// Adds where to what a cipher says of a tensor.
    pub(crate) fn crypto(&self, tensor: usize, error: CryptoError) -> IoError {
        let name = self.entries().get(tensor).map(|entry| entry.path.to_string());
        IoError::crypto(self.location(), name, error)
    }

    pub(crate) fn corrupt(&self, mut failures: Vec<Corruption>) -> Result<(), IoError> {
        if failures.is_empty() {
            return Ok(());
        }
        failures.sort_by_key(|failure| failure.data_offset);
        Err(IoError::Corrupt { location: self.location().to_owned(), failures })
    }
}
