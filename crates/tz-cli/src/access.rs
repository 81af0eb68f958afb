//! Keys, servers and credentials: what was typed, and what it opens. Owns [`AccessArgs`] and [`Access`].
//!
//! Every command takes these options. Secrets come from files or the environment, never from the command line, and are
//! read only when a command needs them.

use std::collections::HashMap;
use std::io::{IoSliceMut, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tz_crypto::{Key, Passphrase, Secret};
use tz_io::{Addressing, Cancel, IoError, Location, OpenOptions, RemoteOptions};
use zeroize::Zeroizing;

use crate::args::duration;
use crate::config::Config;
use crate::error::Failure;
use crate::output::say;

/// Environment variable that holds a passphrase.
const PASSPHRASE_VARIABLE: &str = "TZ_PASSPHRASE";
/// Longest file of a secret; more is a mistaken path.
const MAX_SECRET_LEN: usize = 64 << 10;

/// Where keys and credentials are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AccessArgs {
    /// File or URI of a key: 32 raw bytes, as `tz-cli keygen` makes them
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TZ_KEYFILE",
        hide_env_values = true,
        help_heading = "Keys"
    )]
    pub(crate) keyfile: Option<String>,
    /// File that holds a passphrase; one line break at its end does not count. TZ_PASSPHRASE may hold it instead
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TZ_PASSPHRASE_FILE",
        hide_env_values = true,
        help_heading = "Keys"
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Endpoint of S3: host and port, with `http://` before them for a server without TLS
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_endpoint: Option<String>,
    /// Region of S3
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_region: Option<String>,
    /// Access key id of S3
    #[arg(
        long,
        global = true,
        value_name = "ID",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_access_key_id: Option<String>,
    /// File that holds the secret access key of S3
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_secret_access_key_file: Option<PathBuf>,
    /// File in s3cmd's format with credentials and endpoint, instead of ~/.s3cfg
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_config_path: Option<PathBuf>,
    /// Do not sign requests: for public buckets
    #[arg(long, global = true, help_heading = "Servers", hide_short_help = true)]
    s3_anonymous: bool,
    /// Where the bucket's name goes in a request
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "STYLE",
        help_heading = "Servers",
        hide_short_help = true
    )]
    s3_addressing: Option<Style>,
    /// File of PEM certificates to trust beside the system's
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Servers",
        hide_short_help = true
    )]
    ca_bundle: Option<PathBuf>,
    /// Time without progress before a request is broken off and sent again, for example 10s [default: 30s]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        value_parser = duration,
        env = "TZ_STALL_TIMEOUT",
        hide_env_values = true,
        help_heading = "Servers",
        hide_short_help = true
    )]
    stall_timeout: Option<Duration>,
    /// Times that a failed request is sent again; progress restores them [default: 8]
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "TZ_RETRIES",
        hide_env_values = true,
        help_heading = "Servers",
        hide_short_help = true
    )]
    retries: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// Virtual hosts on AWS and CoreWeave, paths elsewhere
    Auto,
    /// In the path
    Path,
    /// In the host name
    Virtual,
}

/// What a command does with a file that is not encrypted although a key was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Refuse it: it is not the file that the user takes it for.
    Refuse,
    /// Read it: the key is for another file, or for the output.
    Accept,
}

/// Options and settings file together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    args: AccessArgs,
    quiet: bool,
    read: SecretFiles,
    cancel: Cancel,
}

/// Contents of the files of secrets that were read. One command may need a secret more than once, and a pipe
/// (`--keyfile <(…)`) can be read only once.
#[derive(Clone, Default)]
struct SecretFiles(Arc<Mutex<HashMap<PathBuf, Zeroizing<Vec<u8>>>>>);

impl std::fmt::Debug for SecretFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretFiles(redacted)")
    }
}

impl Access {
    /// The file is weaker than options and environment.
    pub(crate) fn new(args: &AccessArgs, config: &Config, quiet: bool, cancel: Cancel) -> Self {
        let mut args = args.clone();
        let Config {
            keyfile,
            passphrase_file,
            s3_endpoint,
            s3_region,
            s3_config_path,
            ca_bundle,
            stall_timeout,
            retries,
            ..
        } = config.clone();
        let typed = args.keyfile.is_some() || args.passphrase_file.is_some();
        if !typed && passphrase_variable().is_none() {
            (args.keyfile, args.passphrase_file) = (keyfile, passphrase_file);
        }
        args.s3_endpoint = args.s3_endpoint.or(s3_endpoint);
        args.s3_region = args.s3_region.or(s3_region);
        args.s3_config_path = args.s3_config_path.or(s3_config_path);
        args.ca_bundle = args.ca_bundle.or(ca_bundle);
        args.stall_timeout = args.stall_timeout.or(stall_timeout);
        args.retries = args.retries.or(retries);
        Self { args, quiet, read: SecretFiles::default(), cancel }
    }

    /// Servers and credentials.
    pub(crate) fn remote(&self) -> Result<RemoteOptions, Failure> {
        let mut remote = RemoteOptions::default();
        let args = &self.args;
        remote.ca_bundle.clone_from(&args.ca_bundle);
        remote.stall_timeout = args.stall_timeout.unwrap_or(remote.stall_timeout);
        remote.retries = args.retries.unwrap_or(remote.retries);
        remote.cancel = self.cancel.clone();
        remote.s3.endpoint.clone_from(&args.s3_endpoint);
        remote.s3.region.clone_from(&args.s3_region);
        remote.s3.access_key_id.clone_from(&args.s3_access_key_id);
        remote.s3.config_path.clone_from(&args.s3_config_path);
        remote.s3.anonymous = args.s3_anonymous;
        remote.s3.addressing = match args.s3_addressing {
            None | Some(Style::Auto) => Addressing::Auto,
            Some(Style::Path) => Addressing::Path,
            Some(Style::Virtual) => Addressing::Virtual,
        };
        if let Some(path) = &args.s3_secret_access_key_file {
            let secret = self.read_secret(path, "the secret access key")?;
            let secret = std::str::from_utf8(&secret)
                .map_err(|_| unusable(path, "the secret access key is not text"))?;
            remote.s3.secret_access_key = Some(secret.trim().to_owned());
        }
        Ok(remote)
    }

    /// The settings of waits that go for every server.
    #[cfg(feature = "hub")]
    pub(crate) fn waits(&self) -> (Option<Duration>, Option<u32>) {
        (self.args.stall_timeout, self.args.retries)
    }

    /// How to open a file that may be encrypted, to read all of it.
    pub(crate) fn open(&self, plain: Plain) -> Result<OpenOptions, Failure> {
        let mut options = OpenOptions::default();
        options.remote = self.remote()?;
        options.secrets = self.secrets()?;
        options.plain_allowed = plain == Plain::Accept;
        options.remote.whole = true;
        Ok(options)
    }

    /// The same without the keys that were given.
    pub(crate) fn open_without_keys(&self) -> Result<OpenOptions, Failure> {
        let mut options = self.open_front()?;
        options.remote.whole = true;
        Ok(options)
    }

    /// How to open a file for what stands in its front.
    pub(crate) fn open_front(&self) -> Result<OpenOptions, Failure> {
        let mut options = OpenOptions::default();
        options.remote = self.remote()?;
        Ok(options)
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
        let bytes = match Location::parse(place)? {
            Location::File(path) => self.read_secret(&path, "the key")?,
            location => {
                let source = location.open(&self.remote()?)?;
                // One byte more than a key shows that the object is not one, whatever its length.
                let len = source.len().unwrap_or(0).min(33);
                let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(33)]);
                source.read_into(0, &mut [IoSliceMut::new(&mut bytes)])?;
                bytes
            }
        };
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
            None => Ok(passphrase_variable()),
        }
    }

    /// Reads a passphrase from a file.
    pub(crate) fn passphrase_of(&self, path: &Path) -> Result<Passphrase, Failure> {
        let bytes = self.read_secret(path, "the passphrase")?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let text = text.strip_suffix(b"\r").filter(|_| text.len() < bytes.len()).unwrap_or(text);
        match text {
            _ if bytes.len() > MAX_SECRET_LEN => Err(unusable(path, "larger than any passphrase")),
            [] => Err(unusable(path, "the passphrase is empty")),
            text => Ok(Passphrase::new(text)),
        }
    }

    /// The contents of a file, cut where it is longer than any secret.
    fn read_secret(&self, path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
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

fn passphrase_variable() -> Option<Passphrase> {
    let value = std::env::var_os(PASSPHRASE_VARIABLE).filter(|value| !value.is_empty())?;
    Some(Passphrase::new(std::os::unix::ffi::OsStringExt::into_vec(value)))
}

fn unusable(path: &Path, why: &str) -> Failure {
    let path = path.display().to_string();
    Failure::key(format!("{path}: {why}")).at(path).hint("check the file")
}

impl From<tz_crypto::CryptoError> for Failure {
    fn from(source: tz_crypto::CryptoError) -> Self {
        IoError::Crypto { location: "key".to_owned(), tensor: None, source }.into()
    }
}
