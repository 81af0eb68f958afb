//! `rewrap`: who can open a sealed file, changed without touching its tensors.

use std::path::PathBuf;

use tz_crypto::{CryptoError, SealSecret, SlotChange};
use tz_io::{EarlierRewrap, IoError, Location, OpenOptions, TensorFile, rewrap};

use super::encrypt::KdfArgs;
use crate::error::Failure;
use crate::job::Session;
use crate::report::{Rewrapped, Slot};

const EXAMPLES: &str = "\
Examples:
  tz-cli rewrap sealed.tensors --keyfile old.key --add-keyfile new.key
  tz-cli rewrap sealed.tensors --keyfile new.key --remove-slot 0
  tz-cli rewrap s3://bucket/sealed.tensors --keyfile a.key --replace-slot 0 --add-passphrase-file pass
  tz-cli rewrap sealed.tensors                    list the slots";

/// Change which keys and passphrases open a sealed file
///
/// Rewrites the header of the file in place; tensors stay as they are, on S3 by a copy on the server. A change that was
/// interrupted is recovered from first. A file that another `rewrap` is changing is refused with exit code 3. Without a
/// change it lists the slots, which needs no key and writes nothing. A removed key opens copies made before.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A sealed .tensors file on disk or S3
    #[arg(value_name = "URI")]
    source: String,
    /// A key that will open the file; may be repeated
    #[arg(long, value_name = "FILE")]
    add_keyfile: Vec<String>,
    /// A passphrase that will open the file; may be repeated
    #[arg(long, value_name = "FILE")]
    add_passphrase_file: Vec<PathBuf>,
    /// A slot to remove, by number; may be repeated
    #[arg(long, value_name = "N")]
    remove_slot: Vec<usize>,
    /// A slot that the one added key or passphrase takes over
    #[arg(long, value_name = "N", conflicts_with = "remove_slot")]
    replace_slot: Option<usize>,
    #[command(flatten)]
    kdf: KdfArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Rewrapped, Failure> {
    let location = Location::parse(&args.source)?;
    let changes = changes(args, session)?;
    let mut options = session.access.open_front()?;
    if changes.is_empty() {
        return list(&location, &options);
    }
    options.secrets = session.access.secrets()?;
    let done = rewrap(&location, &options, &changes)?;
    Ok(Rewrapped {
        location: location.to_string(),
        changed: true,
        recovered: done.earlier.is_some(),
        earlier_rewrap: done.earlier.map(earlier),
        ends_in_journal: false,
        slots: Slot::list(&done.front)?,
    })
}

/// Reads and nothing else.
fn list(location: &Location, options: &OpenOptions) -> Result<Rewrapped, Failure> {
    let file = TensorFile::open_with(location, options)?;
    let front = file.front();
    if !front.header.flags.sealed {
        let (location, source) = (location.to_string(), CryptoError::not_sealed(front));
        return Err(IoError::Crypto { location, tensor: None, source }.into());
    }
    Ok(Rewrapped {
        location: location.to_string(),
        changed: false,
        recovered: false,
        earlier_rewrap: None,
        ends_in_journal: file.ends_in_journal(),
        slots: Slot::of(&file)?,
    })
}

fn earlier(rewrap: EarlierRewrap) -> &'static str {
    match rewrap {
        EarlierRewrap::NotDone => "not_done",
        EarlierRewrap::Done => "done",
    }
}

fn changes(args: &Args, session: &Session) -> Result<Vec<SlotChange>, Failure> {
    let mut added = Vec::new();
    for place in &args.add_keyfile {
        added.push(SealSecret::Key(session.access.key(place)?));
    }
    for path in &args.add_passphrase_file {
        added.push(args.kdf.secret(session.access.passphrase_of(path)?)?);
    }
    if let Some(number) = args.replace_slot {
        let mut added = added.into_iter();
        return match (added.next(), added.next()) {
            (Some(one), None) => Ok(vec![SlotChange::Replace(number, one)]),
            _ => Err(Failure::usage(
                "--replace-slot takes exactly one --add-keyfile or --add-passphrase-file",
            )),
        };
    }
    let removed = args.remove_slot.iter().map(|&number| SlotChange::Remove(number));
    Ok(removed.chain(added.into_iter().map(SlotChange::Add)).collect())
}
