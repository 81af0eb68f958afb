//! `keygen`: a new key. Owns how key files come into being ([`write()`], [`replace`]) and go again ([`MadeKey`]).

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tz_crypto::Key;
use tz_io::{Leftover, TemporaryFile, folder_of, sync_folder};

use crate::access::refuse_uri;
use crate::error::Failure;
use crate::report::Done;

const EXAMPLES: &str = "\
Examples:
  tz-cli keygen model.key
  tz-cli encrypt model.tensors sealed.tensors --keyfile model.key --profile sealed";

/// Make a key: 32 random bytes in a file that only you can read
///
/// The file works for tz-cli, for Python tensorizer and for vLLM's --encryption-keyfile. Whoever has it reads every
/// file that it encrypts; without it nobody does. A file that exists is never overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<Done, Failure> {
    refuse_uri("a new key", &args.file)?;
    write(&args.file)?;
    let path = args.file.display().to_string();
    Ok(Done {
        words: format!("made {path}: keep it safe, and apart from the files that it opens"),
        path,
    })
}

/// Writes a fresh key to a file that must not exist, safe from a power cut: what it will encrypt must not outlive it.
pub(super) fn write(path: &Path) -> Result<Key, Failure> {
    let key = Key::random()?;
    stage(path, &key)?.persist(path, true).map_err(|error| {
        let failure = Failure::io(&path.display().to_string(), "create", &error);
        match error.kind() {
            ErrorKind::AlreadyExists => {
                failure.hint("a key that exists is never overwritten: name a new file")
            }
            _ => failure,
        }
    })?;
    // A name that a power cut may take away again is not one to encrypt under.
    sync(path).inspect_err(|_| drop(std::fs::remove_file(path)))?;
    Ok(key)
}

/// As [`write()`], in the place of the key that may be there: at any moment one of them is whole.
pub(super) fn replace(path: &Path) -> Result<Key, Failure> {
    let key = Key::random()?;
    stage(path, &key)?
        .persist(path, false)
        .map_err(|error| Failure::io(&path.display().to_string(), "replace the key at", &error))?;
    sync(path)?;
    Ok(key)
}

/// The key in a file beside `path` that only its owner reads, as temporary files are.
fn stage(path: &Path, key: &Key) -> Result<TemporaryFile, Failure> {
    let failed = |doing| {
        let name = path.display().to_string();
        move |error| Failure::io(&name, doing, &error)
    };
    let staged = TemporaryFile::private_in(folder_of(path), ".tz-", ".tmp");
    let mut staged = staged.map_err(failed("create a temporary file beside"))?;
    staged.write_all(key.as_bytes()).map_err(failed("write"))?;
    staged.as_file().sync_all().map_err(failed("sync"))?;
    Ok(staged)
}

fn sync(path: &Path) -> Result<(), Failure> {
    sync_folder(folder_of(path))
        .map_err(|error| Failure::io(&path.display().to_string(), "sync the folder of", &error))
}

/// A key file that was just made; it goes again unless something may be encrypted under it.
#[derive(Debug, Default)]
pub(super) struct MadeKey {
    path: Option<PathBuf>,
    /// The file to be encrypted, and what stood there when the key was made.
    target: Option<(PathBuf, Option<Identity>)>,
    /// Removes it if the process ends at once: only where it can be told that nothing is encrypted under it.
    leftover: Option<Leftover>,
}

/// Device and number of a file: another file under the same name has others.
type Identity = (u64, u64);

impl MadeKey {
    pub(super) fn at(path: PathBuf) -> Self {
        let mut made = Self::default();
        made.path = Some(path);
        made
    }

    /// The key is for this file: if that is replaced, the key stays, whatever else fails.
    pub(super) fn encrypts(&mut self, target: &Path) {
        let (target, old) = (target.to_owned(), identity(target));
        self.leftover = self.path.clone().map(|path| {
            let target = target.clone();
            Leftover::new(move || {
                // Files get their names under the lock that this runs under.
                if identity(&target) == old {
                    let _ = std::fs::remove_file(path);
                }
                None
            })
        });
        self.target = Some((target, old));
    }

    /// Others may have what is encrypted under the key: it must stay.
    pub(super) fn keep(&mut self) {
        self.path = None;
        self.leftover = None;
    }
}

impl Drop for MadeKey {
    fn drop(&mut self) {
        let is_replaced = self.target.as_ref().is_some_and(|(path, old)| identity(path) != *old);
        if let (Some(path), false) = (&self.path, is_replaced) {
            // If it stays, the next run says that it is there.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
