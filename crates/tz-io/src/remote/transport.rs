//! The HTTP client below everything. Owns its set-up: certificates, proxies, connections.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use super::options::RemoteOptions;
use super::retry::Failure;
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

/// A request that failed before its answer; `otherwise` says what becomes of one that may have been sent.
pub(crate) fn judged(error: reqwest::Error, otherwise: fn(String) -> Failure) -> Failure {
    let prospect = prospect(&error, error.is_connect());
    let is_ours = error.is_redirect() || error.is_builder();
    let why = cause(error);
    match prospect {
        _ if is_ours => Failure::permanent(why),
        Prospect::Hopeless => Failure::permanent(why),
        Prospect::Poor => Failure::unreachable(why),
        Prospect::Good => otherwise(why),
    }
}

/// A connection that did not come about.
pub(crate) fn not_connected(error: io::Error) -> Failure {
    match prospect(&error, true) {
        Prospect::Hopeless => Failure::permanent(error.to_string()),
        Prospect::Poor => Failure::unreachable(error.to_string()),
        Prospect::Good => Failure::transient(error.to_string()),
    }
}

/// What another try may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// The same: a certificate of nobody we trust, a server that does not speak TLS.
    Hopeless,
    /// Most likely the same: nobody listens, no such name, something else than HTTP.
    Poor,
    Good,
}

/// Judges an error by its causes; `connecting` where it came before the request was sent.
pub(crate) fn prospect(error: &(dyn Error + 'static), connecting: bool) -> Prospect {
    // The types of the libraries for TLS, HTTP and names are no part of `reqwest`'s interface; their text is what
    // users see.
    let last = Last(error).to_string();
    let begins = |starts: &[&str]| starts.iter().any(|start| last.starts_with(start));
    let is = |kind: io::ErrorKind| {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind) {
                return true;
            }
            cause = error.source();
        }
        false
    };
    if begins(&["invalid peer certificate"]) || connecting && is(io::ErrorKind::InvalidData) {
        Prospect::Hopeless
    } else if is(io::ErrorKind::ConnectionRefused)
        || last.ends_with("Name or service not known")
        || begins(&["invalid HTTP", "message head is too large"])
    {
        Prospect::Poor
    } else {
        Prospect::Good
    }
}
