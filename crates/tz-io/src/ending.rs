//! What follows the last tensor of a sealed file: the terminator, and the journal of a rewrap that was interrupted.
//! Owns [`Ending`] and how readers find it; they never write.

use std::io::{ErrorKind, IoSliceMut};
use std::ops::Range;

use tz_crypto::{CryptoError, Journal, JournalPlace, Tail};
use tz_format::{Front, FrontDecoder, Limits, Step, frozen};

use crate::error::IoError;
use crate::file::TensorFile;
use crate::source::RangeRead;

/// Bytes of a tail that are looked at at once, and of the end of a file in which a journal is searched for.
const STEP: u64 = 64 << 10;

/// How a sealed file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With its terminator. A file that is not sealed counts as one.
    Terminator,
    /// With a journal, whole or cut short.
    Journal,
    /// Too early, or with anything else.
    Foreign,
}

impl Ending {
    /// Looks at the end of the file of `front`; a stream does not show it yet.
    pub(crate) fn of(source: &dyn RangeRead, front: &Front) -> Result<Option<Self>, IoError> {
        let Some(len) = source.len() else { return Ok(None) };
        let Some(place) = JournalPlace::of(front) else { return Ok(Some(Self::Terminator)) };
        Self::at(source, &place, len).map(Some)
    }

    /// The same where the journal's place is known.
    fn at(source: &dyn RangeRead, place: &JournalPlace, len: u64) -> Result<Self, IoError> {
        let Some(tail) = len.checked_sub(place.file_len()) else { return Ok(Self::Foreign) };
        if tail == 0 || tail > place.journal_len() {
            return Ok(if tail == 0 { Self::Terminator } else { Self::Foreign });
        }
        let mut check = Tail::new(place);
        let mut at = place.file_len();
        while at < len && !check.is_decided() {
            let bytes = match read(source, at..len.min(at + STEP)) {
                // A rewrap that was under way has removed its journal since the length was read.
                Err(IoError::Io { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(Self::Terminator);
                }
                bytes => bytes?,
            };
            if !check.push(&bytes) {
                return Ok(Self::Foreign);
            }
            at += bytes.len() as u64;
        }
        Ok(Self::Journal)
    }
}

impl TensorFile {
    /// Whether the file ends in the journal of a rewrap that was interrupted. It is read as if the journal were not
    /// there; the next rewrap recovers it. What a stream ends in is known once its last tensor has been read.
    #[must_use]
    pub fn ends_in_journal(&self) -> bool {
        self.ending.get() == Some(&Ending::Journal)
    }

    pub(crate) fn warn_of_journal(&self) {
        if self.ends_in_journal() {
            tracing::warn!(
                location = self.location(),
                "the file ends in the journal of an interrupted `rewrap`, which changes nothing of what is read; run \
                 `tz-cli rewrap` with a key and a change to remove it"
            );
        }
    }

    /// Refuses a sealed file that ends in anything but its terminator and a journal.
    ///
    /// # Errors
    /// [`IoError::Crypto`].
    pub(crate) fn check_ending(&self) -> Result<(), IoError> {
        let (Some(Ending::Foreign), Some(place)) =
            (self.ending.get(), JournalPlace::of(self.front()))
        else {
            return Ok(());
        };
        let found = self.source().len().unwrap_or(0);
        Err(IoError::crypto(self.location(), None, place.refuse(found)))
    }

    /// Looks at the end of a sealed stream, whose length nobody knew before: called when `tensors` have been read.
    /// Where the last tensor is not among them, the end stays unknown.
    ///
    /// # Errors
    /// As for a file of known length: [`IoError::Crypto`] where the stream is longer or shorter than it was sealed.
    pub(crate) fn check_stream_end(&self, tensors: &[usize]) -> Result<(), IoError> {
        let last = self.entries().iter().rposition(|entry| entry.data_len > 0);
        let is_whole = last.is_none_or(|last| tensors.contains(&last));
        let (true, None, Ok(())) = (is_whole, self.source().len(), self.require_unlocked()) else {
            return Ok(());
        };
        let Some(place) = JournalPlace::of(self.front()) else { return Ok(()) };
        let (data_end, terminator) = (self.front().data_end(), frozen::TERMINATOR_LEN);
        // One byte more than the longest journal shows that it is none.
        let limit = terminator.saturating_add(place.journal_len()).saturating_add(1);
        let Some(bytes) = self.source().read_to_end(data_end, limit)? else { return Ok(()) };
        let found = data_end.saturating_add(bytes.len() as u64);
        let tail = usize::try_from(terminator).ok().and_then(|terminator| bytes.get(terminator..));
        let ending = match tail {
            Some([]) => Ending::Terminator,
            Some(tail) if Tail::new(&place).push(tail) => Ending::Journal,
            _ => return Err(IoError::crypto(self.location(), None, place.refuse(found))),
        };
        if self.ending.set(ending).is_ok() {
            self.warn_of_journal();
        }
        Ok(())
    }
}

/// The bytes of a range that is known to be there, or to be short.
pub(crate) fn read(source: &dyn RangeRead, range: Range<u64>) -> Result<Vec<u8>, IoError> {
    let too_large = |_| IoError::io(source.location(), "read")(ErrorKind::OutOfMemory.into());
    let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(too_large)?;
    let mut bytes = vec![0; len];
    source.read_into(range.start, &mut [IoSliceMut::new(&mut bytes)])?;
    Ok(bytes)
}

/// The journal at the end of a file whose header cannot be decoded, and the header's bytes. Only a whole one states
/// its own position.
pub(crate) fn find_journal(
    source: &dyn RangeRead,
    limits: &Limits,
) -> Result<Option<(Journal, Vec<u8>)>, IoError> {
    let len = source.len().unwrap_or(0);
    if len < frozen::FILE_HEADER_LEN {
        return Ok(None);
    }
    let start = len.saturating_sub(STEP);
    let Some(journal) = Journal::find(&read(source, start..len)?, start) else { return Ok(None) };
    let fixed = read(source, 0..frozen::FILE_HEADER_LEN)?;
    match FrontDecoder::new(limits.clone()).step(&fixed) {
        Ok(Step::Need(header)) if header.end <= journal.file_len() => {
            Ok(Some((journal, read(source, 0..header.end)?)))
        }
        _ => Ok(None),
    }
}

/// `error`, which says why the header cannot be decoded, or that a journal follows the file.
pub(crate) fn undecodable(source: &dyn RangeRead, limits: &Limits, error: IoError) -> IoError {
    match (&error, find_journal(source, limits)) {
        (IoError::Format { .. }, Ok(Some(_))) => {
            IoError::crypto(source.location(), None, CryptoError::FrontAltered.interrupted())
        }
        _ => error,
    }
}
