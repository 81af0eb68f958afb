//! What callers choose about servers. Owns [`RemoteOptions`] and [`S3Options`]; secrets never print.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::options::Cancel;

/// How to talk to servers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteOptions {
    /// Credentials and endpoint of S3.
    pub s3: S3Options,
    /// File of PEM certificates to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// A transfer that brings no byte for this long, or less than 32 bytes per second over it, is broken off and
    /// resumed. Default 30 s.
    pub stall_timeout: Duration,
    /// Retries of one range that bring no progress, before the read fails. Default 8; at most 5 where nothing accepts
    /// connections.
    pub retries: u32,
    /// A read that has waited this long for one range fails, retries included. Default none.
    pub deadline: Option<Duration>,
    /// The whole file is going to be read. The first request then asks for a whole piece, and what stands behind the
    /// front waits in the connection for the reader that goes on there: a request less, and a file of up to 16 MiB in
    /// one. Default false: who wants the front or single tensors keeps the connection for those.
    pub whole: bool,
    /// Ends every wait for a server when set, and the work with [`crate::IoError::Cancelled`]. [`crate::ReadOptions`]
    /// and [`crate::WriteOptions`] have a flag for one load or one write.
    pub cancel: Cancel,
    /// Read plain HTTP from the socket into the caller's memory, past the HTTP library. Default true; there is no
    /// reason to turn it off but a server that is served better by the library.
    pub direct: bool,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            s3: S3Options::default(),
            ca_bundle: None,
            stall_timeout: Duration::from_secs(30),
            retries: 8,
            deadline: None,
            whole: false,
            cancel: Cancel::default(),
            direct: true,
        }
    }
}

/// Where the bucket's name goes in a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Virtual-host style for AWS, `cwobject.com` and `cwlota.com`; path style for other endpoints.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// Credentials and endpoint of S3; what is not given is looked up as `docs/REMOTE.md` says.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct S3Options {
    /// Access key id.
    pub access_key_id: Option<String>,
    /// Secret access key.
    pub secret_access_key: Option<String>,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
    /// Endpoint, with or without `https://`.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// A file in s3cmd's format instead of `~/.s3cfg`.
    pub config_path: Option<PathBuf>,
    /// Do not sign requests: public buckets.
    pub anonymous: bool,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("S3Options")
            .field("access_key_id", &hidden(&self.access_key_id))
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("session_token", &hidden(&self.session_token))
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("config_path", &self.config_path)
            .field("anonymous", &self.anonymous)
            .field("addressing", &self.addressing)
            .finish()
    }
}
