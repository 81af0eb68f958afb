//! `keygen`: a new key.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tz_crypto::Key;

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
    write(&args.file)?;
    let path = args.file.display().to_string();
    Ok(Done {
        words: format!("made {path}: keep it safe, and apart from the files that it opens"),
        path,
    })
}

/// Writes a fresh key to a file that must not exist, safe from a power cut: what it will encrypt must not outlive it.
pub(super) fn write(path: &Path) -> Result<Key, Failure> {
    let name = path.display().to_string();
    let key = Key::random()?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| {
        let failure = Failure::io(&name, "create", &error);
        match error.kind() {
            ErrorKind::AlreadyExists => {
                failure.hint("a key that exists is never overwritten: name a new file")
            }
            _ => failure,
        }
    })?;
    let mut fill = || -> io::Result<()> {
        file.write_all(key.as_bytes())?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    fill().map_err(|error| {
        // A part of a key is worse than none.
        let _ = std::fs::remove_file(path);
        Failure::io(&name, "write", &error)
    })?;
    Ok(key)
}
