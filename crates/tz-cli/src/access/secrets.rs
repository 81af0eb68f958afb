//! Keys and passphrases: where they are, and what they are. A secret that is set but empty is an error in every
//! command: whoever set it expects encryption, and would get a file in clear. Owns [`SecretFiles`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{IoSliceMut, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tz_crypto::{CryptoError, Key, Passphrase, Secret};
use tz_io::{IoError, Location};
use zeroize::Zeroizing;

use super::Access;
use crate::error::Failure;
use crate::output::say;

/// Environment variable that holds a passphrase.
pub(super) const PASSPHRASE_VARIABLE: &str = "TZ_PASSPHRASE";
/// Environment variables that name a file with a secret, or hold one.
const VARIABLES: [&str; 3] = ["TZ_KEYFILE", "TZ_PASSPHRASE_FILE", PASSPHRASE_VARIABLE];
/// Longest file of a secret; more is a mistaken path.
const MAX_SECRET_LEN: usize = 64 << 10;

const EMPTY_HINT: &str = "put the secret there, or leave the setting out";

/// Contents of the files of secrets that were read. One command may need a secret more than once, and a pipe
/// (`--keyfile <(…)`) can be read only once.
#[derive(Clone, Default)]
pub(super) struct SecretFiles(Arc<Mutex<HashMap<PathBuf, Zeroizing<Vec<u8>>>>>);

impl std::fmt::Debug for SecretFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretFiles(redacted)")
    }
}

impl Access {
    /// Fails if a secret is set but empty. Every command calls this before anything else, also one that needs no
    /// secret. Pipes and servers are left to the commands that read them, because a pipe can be read only once.
    pub(super) fn refuse_empty(&self) -> Result<(), Failure> {
        for name in VARIABLES {
            if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
                return Err(Failure::usage(format!("{name} is set but empty"))
                    .hint(&format!("put a value into it, or unset {name}")));
            }
        }
        if let Some(place) = self.keyfile() {
            if place.is_empty() {
                return Err(no_name("--keyfile"));
            }
            if let Ok(Location::File(path)) = Location::parse(place)
                && starts(&path).is_some_and(|start| start.is_empty())
            {
                return Err(empty_key(place));
            }
        }
        if let Some(path) = &self.args.passphrase_file {
            if path.as_os_str().is_empty() {
                return Err(no_name("--passphrase-file"));
            }
            if starts(path).is_some_and(|start| without_line_break(&start).is_empty()) {
                return Err(empty_passphrase(path));
            }
        }
        Ok(())
    }

    /// Whether keys or passphrases were given.
    pub(crate) fn has_secrets(&self) -> bool {
        let variable = || std::env::var_os(PASSPHRASE_VARIABLE).is_some();
        self.args.keyfile.is_some() || self.args.passphrase_file.is_some() || variable()
    }

    /// Fails if keys or passphrases were given, for a file that is not encrypted and that they are for.
    pub(crate) fn refuse_plain(&self, location: &str) -> Result<(), Failure> {
        if self.has_secrets() { Err(not_encrypted(location).into()) } else { Ok(()) }
    }

    /// Keys and passphrases that were given.
    pub(crate) fn secrets(&self) -> Result<Vec<Secret>, Failure> {
        let mut secrets = Vec::new();
        if let Some(place) = &self.args.keyfile {
            secrets.push(Secret::Key(self.key(place)?));
        }
        if let Some(passphrase) = self.passphrase()? {
            secrets.push(Secret::Passphrase(passphrase));
        }
        Ok(secrets)
    }

    /// The place of the key, as typed.
    pub(crate) fn keyfile(&self) -> Option<&str> {
        self.args.keyfile.as_deref()
    }

    /// Reads a key of exactly 32 bytes from a path or URI.
    pub(crate) fn key(&self, place: &str) -> Result<Key, Failure> {
        let location = Location::parse(place)?;
        // As it may be printed: a URI can hold a password, a token or a signature.
        let place = &location.to_string();
        let (bytes, is_whole) = match location {
            Location::File(path) if path.as_os_str().is_empty() => {
                return Err(no_name("the key file"));
            }
            Location::File(path) => (self.read_secret(&path, "the key")?, true),
            location => {
                let source = location.open(&self.remote()?)?;
                // One byte more than a key shows that the object is not one, whatever its length.
                let len = source.len().unwrap_or(0).min(33);
                let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(33)]);
                source.read_into(0, &mut [IoSliceMut::new(&mut bytes)])?;
                (bytes, source.len().is_some())
            }
        };
        if bytes.is_empty() && is_whole {
            return Err(empty_key(place));
        }
        Key::from_bytes(&bytes).map_err(|_| {
            Failure::key(format!("{place}: a key file holds exactly 32 bytes, this one does not"))
                .at(place)
                .hint("`tz-cli keygen FILE` makes one; a passphrase goes into --passphrase-file")
        })
    }

    /// The passphrase that was given, by file or environment.
    pub(crate) fn passphrase(&self) -> Result<Option<Passphrase>, Failure> {
        match &self.args.passphrase_file {
            Some(path) => self.passphrase_of(path).map(Some),
            None => {
                let value = std::env::var_os(PASSPHRASE_VARIABLE).map(OsString::into_vec);
                Ok(value.map(Passphrase::new))
            }
        }
    }

    /// Reads a passphrase from a file.
    pub(crate) fn passphrase_of(&self, path: &Path) -> Result<Passphrase, Failure> {
        refuse_uri("a passphrase file", path)?;
        let bytes = self.read_secret(path, "the passphrase")?;
        if bytes.len() > MAX_SECRET_LEN {
            let path = path.display().to_string();
            let failure = Failure::key(format!("{path}: larger than any passphrase"));
            return Err(failure.at(path).hint("check the file"));
        }
        match without_line_break(&bytes) {
            [] => Err(empty_passphrase(path)),
            text => Ok(Passphrase::new(text)),
        }
    }

    /// The contents of a file, cut where it is longer than any secret.
    pub(super) fn read_secret(
        &self,
        path: &Path,
        what: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut read = self.read.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = read.get(path) {
            return Ok(bytes.clone());
        }
        self.warn_if_exposed(path);
        let failed =
            |error| Failure::io(&path.display().to_string(), &format!("read {what}"), &error);
        let file = std::fs::File::open(path).map_err(failed)?;
        // Room for all at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_LEN + 64));
        file.take(MAX_SECRET_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        read.insert(path.to_owned(), bytes.clone());
        Ok(bytes)
    }

    /// A secret that others can read is worth a word, not a refusal: containers mount them that way.
    fn warn_if_exposed(&self, path: &Path) {
        let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 && !self.quiet {
            let path = path.display();
            say(&format!(
                "warning: {path}: others can read this secret (mode {:03o}): chmod 600",
                mode & 0o777
            ));
        }
    }
}

/// Refuses a URI where only a path of this machine is taken, without printing what may be secret in it.
pub(crate) fn refuse_uri(what: &str, path: &Path) -> Result<(), Failure> {
    match path.to_str().map(Location::parse) {
        Some(Ok(location @ Location::Remote(_))) => {
            let location = location.to_string();
            let failure =
                Failure::usage(format!("{location}: {what} is on this machine, not on a server"));
            Err(failure.at(location).hint("give a path"))
        }
        Some(Err(error)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The error for a file that is not encrypted although a key was given for it.
fn not_encrypted(location: &str) -> IoError {
    let (location, source) = (location.to_owned(), CryptoError::NotEncrypted);
    IoError::Crypto { location, tensor: None, source }
}

/// The first bytes of a regular file, enough to tell an empty secret. `None` if there is no such file: the command that
/// needs it says what is wrong.
fn starts(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let mut start = Zeroizing::new(Vec::with_capacity(8));
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    std::fs::File::open(path).ok()?.take(3).read_to_end(&mut start).ok()?;
    Some(start)
}

/// A passphrase as its file holds it, without one line break at the end.
fn without_line_break(bytes: &[u8]) -> &[u8] {
    let Some(text) = bytes.strip_suffix(b"\n") else { return bytes };
    text.strip_suffix(b"\r").unwrap_or(text)
}

fn empty_key(place: &str) -> Failure {
    Failure::usage(format!("{place}: the key file is empty")).at(place).hint(EMPTY_HINT)
}

fn empty_passphrase(path: &Path) -> Failure {
    let path = path.display().to_string();
    Failure::usage(format!("{path}: the passphrase is empty")).at(path).hint(EMPTY_HINT)
}

fn no_name(what: &str) -> Failure {
    Failure::usage(format!("the name of {what} is empty"))
        .hint("name the file, or leave the setting out")
}
