//! Reads the front of a file from whatever bytes a transport has so far. Owns [`FrontDecoder`] and [`Front`].

use std::ops::Range;

use crate::error::{Fault, FormatError};
use crate::extension::{Extension, Places};
use crate::file_header::FileHeader;
use crate::frozen::FILE_HEADER_LEN;
use crate::index::{self, TensorEntry};
use crate::limits::Limits;
use crate::wire::Reader;

/// Progress of a decoder that does no I/O itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<T> {
    /// Call again with at least this range of the file.
    Need(Range<u64>),
    /// All that there is to decode.
    Done(T),
}

/// Everything that stands before the first tensor.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Front {
    /// The fixed part.
    pub header: FileHeader,
    /// One entry per tensor, in file order.
    pub entries: Vec<TensorEntry>,
    /// Our own additions, where the file has them.
    pub extension: Extension,
    places: Places,
}

/// Decodes the front of a file. Feed it a growing prefix of the file until it is done:
///
/// ```
/// # use tz_format::{FrontDecoder, Limits, Step, testing};
/// # let file = testing::file();
/// let decoder = FrontDecoder::new(Limits::default());
/// let mut have = 0;
/// let front = loop {
///     match decoder.step(&file[..have])? {
///         Step::Need(range) => have = range.end as usize, // fetch it, over any transport
///         Step::Done(front) => break front,
///     }
/// };
/// assert_eq!(front.entries.len(), 3);
/// # Ok::<(), tz_format::FormatError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FrontDecoder {
    limits: Limits,
}

impl FrontDecoder {
    /// A decoder that refuses what `limits` excludes.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// Looks at `prefix`, the first bytes of the file: states the range it needs, or gives the front.
    /// More bytes than needed do no harm.
    ///
    /// # Errors
    /// As soon as the bytes at hand show that the file cannot be read.
    pub fn step(&self, prefix: &[u8]) -> Result<Step<Front>, FormatError> {
        let magic_len = prefix.len().min(crate::frozen::MAGIC.len());
        if prefix.get(..magic_len) != crate::frozen::MAGIC.get(..magic_len) {
            return Err(FormatError::NotTensors);
        }
        let Some(fixed) = usize::try_from(FILE_HEADER_LEN).ok().and_then(|len| prefix.get(..len))
        else {
            return Ok(Step::Need(0..FILE_HEADER_LEN));
        };
        let header = FileHeader::read(fixed, &self.limits)?;
        let front_len = header.front_len();
        let index = usize::try_from(front_len).ok().and_then(|len| prefix.get(fixed.len()..len));
        let Some(index) = index else {
            return Ok(Step::Need(0..front_len));
        };
        self.front(header, index).map(Step::Done)
    }

    fn front(&self, header: FileHeader, index: &[u8]) -> Result<Front, FormatError> {
        let mut r = Reader::new(index, FILE_HEADER_LEN);
        let entries = index::read_entries(
            &mut r,
            header.tensor_count,
            header.version,
            header.flags,
            header.front_len(),
            &self.limits,
        )?;
        let extension_at = r.offset();
        let (extension, places) = Extension::read(r, entries.len(), &self.limits)?;
        if !extension.fits(header.flags.profile()) {
            return Err(FormatError::malformed(
                "extension block",
                extension_at,
                Fault::WrongProfile,
            ));
        }
        Ok(Front { header, entries, extension, places })
    }
}

impl Front {
    /// Refuses tensors that lie beyond the end of a file of `file_len` bytes, naming the first.
    ///
    /// # Errors
    /// [`Fault::OutOfFile`].
    pub fn check_file_len(&self, file_len: u64) -> Result<(), FormatError> {
        for entry in &self.entries {
            let end = entry.data_end();
            if end > file_len {
                let fault = Fault::OutOfFile { end, file_len };
                let error = FormatError::malformed("data", entry.data_offset, fault);
                return Err(error.of_tensor(&entry.path));
            }
        }
        Ok(())
    }

    /// Where the last tensor's data ends; the terminator may follow.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.entries.last().map_or(self.header.front_len(), TensorEntry::data_end)
    }

    /// Where the 32 bytes of the metadata MAC stand in the file, for a sealed one.
    #[must_use]
    pub fn metadata_mac_at(&self) -> Option<Range<u64>> {
        self.places.metadata_mac.map(|at| at..at + 32)
    }

    /// Where the body of the key-slot record stands in the file, for a sealed one.
    #[must_use]
    pub fn key_slots_at(&self) -> Option<Range<u64>> {
        let len = self.extension.key_slots.as_ref()?.len() as u64;
        self.places.key_slots.map(|at| at..at + len)
    }

    /// Whether a skipped extension record could matter to a newer reader; none is critical.
    #[must_use]
    pub fn has_unknown_extensions(&self) -> bool {
        // A critical one would have been refused.
        !self.extension.unknown.is_empty()
    }
}
