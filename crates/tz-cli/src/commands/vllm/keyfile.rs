//! The key of a new model: made, used again, or replaced. Owns [`KeyArgs`] and [`ModelKey`].

use std::path::PathBuf;

use tz_crypto::Key;
use tz_io::Location;

use crate::commands::keygen::{self, MadeKey};
use crate::error::Failure;
use crate::job::Session;

/// What becomes of a key file that is there.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct KeyArgs {
    /// Encrypt with the key that stands at --keyfile, instead of making one
    #[arg(long, conflicts_with = "overwrite_key", help_heading = "Keys")]
    reuse_key: bool,
    /// Make a new key although one stands at --keyfile; what only the old one opens is lost
    #[arg(long, help_heading = "Keys")]
    overwrite_key: bool,
}

/// What to encrypt with, decided but not made yet.
#[derive(Debug)]
pub(super) enum KeyPlan {
    /// Nothing is encrypted.
    Plain,
    /// The key at this place.
    Reuse(Location, Key),
    /// A key that is yet to be made.
    Make { path: PathBuf, replace: bool },
}

/// The key of this publication.
#[derive(Debug)]
pub(super) struct ModelKey {
    pub(super) key: Option<Key>,
    /// Removed again where nothing was published under it.
    made: MadeKey,
}

impl KeyArgs {
    /// What the options and the key's place ask for. Nothing is written yet.
    pub(super) fn plan(self, session: &Session) -> Result<KeyPlan, Failure> {
        let access = &session.access;
        if access.passphrase()?.is_some() {
            return Err(Failure::usage("vLLM opens models with a key, never with a passphrase")
                .hint("give --keyfile, and leave out --passphrase-file and TZ_PASSPHRASE"));
        }
        let Some(place) = access.keyfile() else {
            if self.reuse_key || self.overwrite_key {
                return Err(Failure::usage("--reuse-key and --overwrite-key are about --keyfile"));
            }
            return Ok(KeyPlan::Plain);
        };
        if self.reuse_key {
            return Ok(KeyPlan::Reuse(Location::parse(place)?, access.key(place)?));
        }
        let location = Location::parse(place)?;
        let Location::File(path) = location else {
            let place = location.to_string();
            return Err(Failure::usage(format!("{place}: a new key is written to this machine"))
                .at(place)
                .hint("--reuse-key takes a key that is there; `tz-cli keygen FILE` makes one"));
        };
        if path.symlink_metadata().is_ok() && !self.overwrite_key {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(Failure::io(place, "make a key at", &exists)
                .hint("--reuse-key encrypts with it; --overwrite-key makes another in its place"));
        }
        Ok(KeyPlan::Make { path, replace: self.overwrite_key })
    }
}

impl KeyPlan {
    /// The key's place on this machine.
    pub(super) fn local(&self) -> Option<PathBuf> {
        match self {
            Self::Plain => None,
            Self::Reuse(Location::File(path), _) => Some(path.clone()),
            Self::Reuse(..) => None,
            Self::Make { path, .. } => Some(path.clone()),
        }
    }

    /// Where vLLM finds the key: an absolute path, or a URI.
    pub(super) fn shown(&self) -> Option<String> {
        match (self, self.local()) {
            (Self::Reuse(location, _), None) => Some(location.to_string()),
            (_, path) => {
                let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
                path.map(|path| absolute(path).display().to_string())
            }
        }
    }

    /// Whether a key is yet to be made.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::Make { .. })
    }

    /// Makes the key where one is to be made: called once nothing else can be refused.
    pub(super) fn obtain(self) -> Result<ModelKey, Failure> {
        match self {
            Self::Plain => Ok(ModelKey { key: None, made: MadeKey::default() }),
            Self::Reuse(_, key) => Ok(ModelKey { key: Some(key), made: MadeKey::default() }),
            Self::Make { path, replace } => {
                if !replace {
                    return Ok(ModelKey {
                        key: Some(keygen::write(&path)?),
                        made: MadeKey::at(path),
                    });
                }
                let key = keygen::replace(&path)?;
                // The old key is gone: what was made in its place stays, whatever comes.
                Ok(ModelKey { key: Some(key), made: MadeKey::default() })
            }
        }
    }
}

impl ModelKey {
    /// Others may have what is encrypted under the key: it must stay.
    pub(super) fn keep(&mut self) {
        self.made.keep();
    }
}
