//! Changes who can open a sealed file, in the place where it lies. Owns [`rewrap()`] and what it makes of an earlier
//! rewrap that was interrupted; tensors are not touched.
//!
//! On disk the header is written in place. A journal behind the terminator holds both versions of it until the new one
//! is safe, and the file is locked. On S3 a new object is made of the new header and a server-side copy of the rest,
//! and takes the place of the version that was read.

mod in_place;
mod old_journal;

use std::path::Path;

use tz_crypto::{CryptoError, ErrorClass, FileOpener, Journal, JournalPlace, Outcome, SlotChange};
use tz_format::{Front, FrontDecoder, Step};

use crate::ending::{self, Ending};
use crate::error::IoError;
use crate::front;
use crate::location::Location;
use crate::options::OpenOptions;
use crate::remote::{self, RemoteLocation};
use crate::source::RangeRead;
use in_place::Locked;

/// What [`rewrap()`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rewrapped {
    /// The new header.
    pub front: Front,
    /// What had become of an earlier rewrap, where one was interrupted.
    pub earlier: Option<EarlierRewrap>,
}

/// What became of an earlier rewrap that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRewrap {
    /// Nothing: the header is as it was before.
    NotDone,
    /// It is done.
    Done,
}

/// Applies `changes` to the key slots of the file at `location`, which one of [`OpenOptions::secrets`] must open. An
/// earlier rewrap that was interrupted is recovered from first.
///
/// # Errors
/// [`IoError::KeyMissing`] and [`IoError::Crypto`], as [`tz_crypto::rewrap()`] and for a file that ends in anything but
/// its terminator and a journal; [`IoError::Changed`] where it was replaced meanwhile; [`IoError::Unsupported`] where the
/// place cannot be written in part; [`IoError::Io`], of the kind `WouldBlock` where another rewrap is at work.
pub fn rewrap(
    location: &Location,
    options: &OpenOptions,
    changes: &[SlotChange],
) -> Result<Rewrapped, IoError> {
    match location {
        Location::File(path) => on_disk(path, options, changes),
        Location::Remote(remote) => in_store(location, remote, options, changes),
        Location::Stdio => {
            let why = "a stream cannot be changed";
            Err(IoError::Unsupported { location: location.to_string(), why })
        }
    }
}

fn on_disk(
    path: &Path,
    options: &OpenOptions,
    changes: &[SlotChange],
) -> Result<Rewrapped, IoError> {
    let name = path.display().to_string();
    let file = Locked::open(path, &name)?;
    let found = Found::read(&file.source()?, options)?;
    let old_journal = old_journal::find(path, &found.header, options);
    let recovered = found.recover(old_journal.as_ref().map(|old| &old.journal), options)?;
    file.recover(&recovered)?;
    if let (Some(old), true) = (old_journal, recovered.is_old_journal_ours) {
        old.remove(&name);
    }
    let change = recovered.change(&name, options, changes)?;
    let journal = change.journal(&options.limits).map_err(|error| crypto(&name, error))?;
    file.replace(&change, &journal)?;
    let front = decode(&name, change.header(), options)?;
    Ok(Rewrapped { front, earlier: recovered.earlier })
}

/// A store gives no part of an object another content: the new one appears whole, without a journal, or not at all.
fn in_store(
    location: &Location,
    remote: &RemoteLocation,
    options: &OpenOptions,
    changes: &[SlotChange],
) -> Result<Rewrapped, IoError> {
    let source = location.open(&options.remote)?;
    let found = Found::read(&*source, options)?;
    let recovered = found.recover(None, options)?;
    let change = recovered.change(source.location(), options, changes)?;
    let len = recovered.file_len;
    remote::replace_header(remote, &found.header, change.header(), len, &options.remote)?;
    let front = decode(source.location(), change.header(), options)?;
    Ok(Rewrapped { front, earlier: recovered.earlier })
}

/// A file before anything is believed of it.
struct Found {
    name: String,
    len: u64,
    /// The header's bytes, and what they say, if they can be decoded.
    header: Vec<u8>,
    front: Option<Front>,
    ending: Ending,
    /// What follows the terminator, if it is a whole journal.
    journal: Option<Journal>,
}

impl Found {
    fn read(source: &dyn RangeRead, options: &OpenOptions) -> Result<Self, IoError> {
        let name = source.location().to_owned();
        let Some(len) = source.len() else {
            return Err(IoError::Unsupported { location: name, why: "a stream cannot be changed" });
        };
        let (front, mut header) = match front::read(source, &options.limits) {
            Ok(read) => read,
            Err(error @ IoError::Format { .. }) => {
                // A header that was torn where its structure is: the journal alone tells.
                let Some((journal, header)) = ending::find_journal(source, &options.limits)? else {
                    return Err(error);
                };
                let (ending, journal) = (Ending::Journal, Some(journal));
                return Ok(Self { name, len, header, front: None, ending, journal });
            }
            Err(error) => return Err(error),
        };
        header.truncate(usize::try_from(front.header.front_len()).unwrap_or(usize::MAX));
        let Some(place) = JournalPlace::of(&front) else {
            let misled = !front.header.flags.encrypted && !options.secrets.is_empty();
            return Err(crypto(
                &name,
                match misled {
                    true => CryptoError::NotEncrypted,
                    false => CryptoError::not_sealed(&front),
                },
            ));
        };
        if options.secrets.is_empty() {
            return Err(IoError::KeyMissing { location: name });
        }
        let ending = Ending::of(source, &front)?.unwrap_or(Ending::Foreign);
        let journal = match ending {
            Ending::Journal => Journal::read(&ending::read(source, place.file_len()..len)?, &place),
            Ending::Terminator | Ending::Foreign => None,
        };
        Ok(Self { name, len, header, front: Some(front), ending, journal })
    }

    /// Decides what the file is to be, by its journal and by one that the last version of this program kept next to it.
    /// Nothing is written yet.
    fn recover(
        &self,
        old_journal: Option<&Journal>,
        options: &OpenOptions,
    ) -> Result<Recovered, IoError> {
        let mut recovered = Recovered {
            header: self.header.clone(),
            file_len: 0,
            torn: None,
            has_tail: self.ending == Ending::Journal,
            is_old_journal_ours: false,
            earlier: None,
        };
        let mut refusal = None;
        let decided = match &self.journal {
            Some(journal) => {
                recovered.follow(journal, options).map_err(|error| refusal = Some(error)).is_ok()
            }
            None => false,
        };
        if let Some(journal) = old_journal {
            // Anybody may have put it there: one that is not authentic does not exist.
            recovered.is_old_journal_ours = recovered.follow(journal, options).is_ok();
        }
        let front = match (&recovered.torn, &self.front) {
            (None, Some(front)) => front.clone(),
            (None, None) => {
                let error = self.refusal(refusal, CryptoError::FrontAltered);
                return Err(crypto(&self.name, error));
            }
            (Some(_), _) => decode(&self.name, &recovered.header, options)?,
        };
        let place = JournalPlace::of(&front)
            .ok_or_else(|| crypto(&self.name, CryptoError::FrontAltered))?;
        recovered.file_len = place.file_len();
        if !decided && self.ending != Ending::Terminator {
            // What follows is no whole journal of this file: the header was not touched, and must be authentic.
            let opener =
                FileOpener::new(&front, &recovered.header, &options.secrets, &options.kdf_limits);
            opener.map_err(|error| crypto(&self.name, self.refusal(refusal, error)))?;
            if self.ending == Ending::Foreign {
                return Err(crypto(&self.name, place.refuse(self.len)));
            }
            recovered.earlier = recovered.earlier.or(Some(EarlierRewrap::NotDone));
        }
        Ok(recovered)
    }

    /// Why the file does not open: by what its journal said, or else its header. What a torn header looks like says
    /// nothing but that it is not authentic.
    fn refusal(&self, journal: Option<CryptoError>, header: CryptoError) -> CryptoError {
        let tells = |error: &CryptoError| error.class() != ErrorClass::Malformed;
        match journal {
            _ if self.ending == Ending::Foreign => header,
            Some(error) if tells(&error) => error,
            _ if tells(&header) => header,
            _ => CryptoError::FrontAltered,
        }
    }
}

/// What the file is to be before it is changed.
struct Recovered {
    header: Vec<u8>,
    /// Length without a journal.
    file_len: u64,
    /// The journal whose new bytes are to be written, because the header is torn.
    torn: Option<Journal>,
    has_tail: bool,
    is_old_journal_ours: bool,
    earlier: Option<EarlierRewrap>,
}

impl Recovered {
    /// Takes over what a journal says, if it is one of this file.
    fn follow(&mut self, journal: &Journal, options: &OpenOptions) -> Result<(), CryptoError> {
        let OpenOptions { secrets, kdf_limits, limits, .. } = options;
        let earlier = match journal.outcome(&self.header, secrets, kdf_limits, limits)? {
            Outcome::NotDone => EarlierRewrap::NotDone,
            Outcome::Done => EarlierRewrap::Done,
            Outcome::Torn => {
                self.header = journal.new_header(&self.header)?;
                self.torn = Some(journal.clone());
                EarlierRewrap::Done
            }
            // A later rewrap has got through.
            Outcome::Superseded => return Ok(()),
        };
        self.earlier = self.earlier.or(Some(earlier));
        Ok(())
    }

    fn change(
        &self,
        name: &str,
        options: &OpenOptions,
        changes: &[SlotChange],
    ) -> Result<tz_crypto::HeaderChange, IoError> {
        let front = decode(name, &self.header, options)?;
        let OpenOptions { secrets, kdf_limits, .. } = options;
        tz_crypto::rewrap(&front, &self.header, secrets, kdf_limits, changes)
            .map_err(|error| crypto(name, error))
    }
}

fn decode(name: &str, header: &[u8], options: &OpenOptions) -> Result<Front, IoError> {
    match FrontDecoder::new(options.limits.clone()).step(header) {
        Ok(Step::Done(front)) => Ok(front),
        Ok(Step::Need(_)) => Err(crypto(name, CryptoError::FrontAltered)),
        Err(error) => Err(IoError::format(name)(error)),
    }
}

fn crypto(name: &str, error: CryptoError) -> IoError {
    IoError::crypto(name, None, error)
}
