//! Keys, servers and credentials: what was typed, and what it opens. Owns [`AccessArgs`] and [`Access`].
//!
//! Every command takes these options. Secrets come from files or the environment, never from the command line, and are
//! used only when a command needs them.

mod secrets;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use tz_io::{Addressing, Cancel, IoError, OpenOptions, PlainFiles, RemoteOptions};

use crate::args::duration;
use crate::config::Config;
use crate::error::Failure;
pub(crate) use secrets::refuse_uri;
use secrets::{PASSPHRASE_VARIABLE, SecretFiles};

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
        value_parser = any_path(),
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
    /// Time without progress before a request is cancelled and sent again, for example 10s; a number alone is seconds [default: 30s]
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
    /// Times that a failed request is sent again; the count restarts when bytes arrive [default: 8]
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

/// A path that may be empty: [`Access::new`] refuses that, and knows whether an option or the environment said it.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Options and settings file together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    args: AccessArgs,
    quiet: bool,
    read: SecretFiles,
    cancel: Cancel,
}

impl Access {
    /// The file is weaker than options and environment. Fails if a secret is set but empty.
    pub(crate) fn new(
        args: &AccessArgs,
        config: &Config,
        quiet: bool,
        cancel: Cancel,
    ) -> Result<Self, Failure> {
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
        if !typed && std::env::var_os(PASSPHRASE_VARIABLE).is_none() {
            (args.keyfile, args.passphrase_file) = (keyfile, passphrase_file);
        }
        args.s3_endpoint = args.s3_endpoint.or(s3_endpoint);
        args.s3_region = args.s3_region.or(s3_region);
        args.s3_config_path = args.s3_config_path.or(s3_config_path);
        args.ca_bundle = args.ca_bundle.or(ca_bundle);
        args.stall_timeout = args.stall_timeout.or(stall_timeout);
        args.retries = args.retries.or(retries);
        let access = Self { args, quiet, read: SecretFiles::default(), cancel };
        access.refuse_empty()?;
        Ok(access)
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
            let secret = std::str::from_utf8(&secret).map_err(|_| {
                let path = path.display().to_string();
                let failure = Failure::key(format!("{path}: the secret access key is not text"));
                failure.at(path).hint("check the file")
            })?;
            remote.s3.secret_access_key = Some(secret.trim().to_owned());
        }
        Ok(remote)
    }

    /// The settings of waits that go for every server.
    #[cfg(feature = "hub")]
    pub(crate) fn waits(&self) -> (Option<Duration>, Option<u32>) {
        (self.args.stall_timeout, self.args.retries)
    }

    /// How to open a file to read all of it. Keys that were given are for this file, so it must be encrypted.
    pub(crate) fn open(&self) -> Result<OpenOptions, Failure> {
        let mut options = self.open_any()?;
        options.plain = PlainFiles::RefusedWithSecrets;
        Ok(options)
    }

    /// The same, if the keys that were given may be for another file: the output, or the other file that is read.
    pub(crate) fn open_any(&self) -> Result<OpenOptions, Failure> {
        let mut options = self.open_without_keys()?;
        options.secrets = self.secrets()?;
        Ok(options)
    }

    /// The same, if the keys that were given are for the output alone.
    pub(crate) fn open_without_keys(&self) -> Result<OpenOptions, Failure> {
        let mut options = OpenOptions::default();
        options.remote = self.remote()?;
        options.remote.whole = true;
        options.plain = PlainFiles::Accepted;
        Ok(options)
    }

    /// How to open a file for its header, which needs no key. Keys that were given are not used, but they are for this
    /// file, so it must be encrypted.
    pub(crate) fn open_front(&self) -> Result<OpenOptions, Failure> {
        let mut options = OpenOptions::default();
        options.remote = self.remote()?;
        if self.has_secrets() {
            options.plain = PlainFiles::Refused;
        }
        Ok(options)
    }
}

impl From<tz_crypto::CryptoError> for Failure {
    fn from(source: tz_crypto::CryptoError) -> Self {
        IoError::Crypto { location: "key".to_owned(), tensor: None, source }.into()
    }
}
