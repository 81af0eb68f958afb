//! The HTTP client below everything. Owns its set-up: certificates, proxies, connections.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use super::options::RemoteOptions;
use crate::error::IoError;

/// Time to reach a server before another try.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Who we are to servers.
pub(crate) const USER_AGENT: &str = concat!("tz/", env!("CARGO_PKG_VERSION"));

/// A client that reuses connections, trusts `ca_bundle` beside the system's certificates, follows redirects and
/// honours `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
pub(crate) fn http_client(options: &RemoteOptions, name: &str) -> Result<reqwest::Client, IoError> {
    let built = match &options.ca_bundle {
        Some(path) => {
            let shown = path.display().to_string();
            let pem = std::fs::read(path).map_err(IoError::io(&shown, "read certificates from"))?;
            let invalid =
                |error| IoError::io(&shown, "read certificates from")(io::Error::other(error));
            let bundle = reqwest::Certificate::from_pem_bundle(&pem).map_err(invalid)?;
            http_builder().tls_certs_merge(bundle).build()
        }
        None => match shared_client() {
            Some(client) => Ok(client.clone()),
            None => http_builder().tls_certs_only([]).build(),
        },
    };
    built.map_err(|error| IoError::io(name, "set up HTTP")(io::Error::other(error)))
}

/// One client for every location without certificates of its own: reading those of the system takes longer than a
/// request. `None` where the system has none, as in a bare container: plain HTTP must work there all the same.
fn shared_client() -> Option<&'static reqwest::Client> {
    static SHARED: OnceLock<Option<reqwest::Client>> = OnceLock::new();
    let build = || {
        let built = http_builder().build();
        let warn = |error: &reqwest::Error| {
            tracing::warn!(error = %Last(error), "no certificates of the system: HTTPS will fail");
        };
        built.inspect_err(warn).ok()
    };
    SHARED.get_or_init(build).as_ref()
}

/// Whether the system has certificates to trust. A bare container has none, and speaks plain HTTP all the same.
pub(crate) fn has_system_certificates() -> bool {
    shared_client().is_some()
}

fn http_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        .tcp_nodelay(true)
        .user_agent(USER_AGENT)
}

/// Prints the last cause of an error: "connection refused" rather than "error sending request".
pub(crate) struct Last<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Last<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0;
        while let Some(source) = last.source() {
            last = source;
        }
        write!(f, "{last}")
    }
}

/// What went wrong with a transfer, without the URL.
pub(crate) fn cause(error: reqwest::Error) -> String {
    Last(&error.without_url()).to_string()
}

/// Whether another try would fail the same way: too many redirects, an invalid URL, a certificate of nobody we trust.
pub(crate) fn is_hopeless(error: &reqwest::Error) -> bool {
    // The TLS library's own types are no part of `reqwest`'s interface; its text is what users see.
    let is_certificate = || Last(error).to_string().starts_with("invalid peer certificate");
    error.is_redirect() || error.is_builder() || is_certificate()
}
