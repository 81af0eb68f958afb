//! The HTTP client below everything. Owns its set-up: certificates, proxies, connections, redirects.
//!
//! Clients follow no redirect by themselves and send no `Referer`, which would show a presigned address to others. A
//! redirect of a read is followed by [`get`], without what is meant for the first server; every other request ends
//! with it.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use reqwest::redirect::Policy;
use url::Url;

use super::options::RemoteOptions;
use super::prospect::judged;
use super::retry::Failure;
use crate::error::IoError;

/// Time to reach a server before another try.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Who we are to servers.
pub(crate) const USER_AGENT: &str = concat!("tz/", env!("CARGO_PKG_VERSION"));

/// Redirects that a read follows.
const MAX_REDIRECTS: usize = 10;

/// Variables that name proxies: then nothing goes to a server over plain HTTP directly.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// Whether plain HTTP may go through a proxy.
pub(crate) fn has_proxy() -> bool {
    let named = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    PROXIES.iter().any(named)
}

/// A client that reuses connections, trusts `ca_bundle` in addition to the system's certificates and honours `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
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
            None => return bare_client(CONNECT_TIMEOUT, name),
        },
    };
    built.map_err(not_set_up(name))
}

/// A client that trusts no certificate: for plain HTTP.
pub(crate) fn bare_client(
    connect_timeout: Duration,
    name: &str,
) -> Result<reqwest::Client, IoError> {
    let builder = http_builder().connect_timeout(connect_timeout).tls_certs_only([]);
    builder.build().map_err(not_set_up(name))
}

fn not_set_up(name: &str) -> impl FnOnce(reqwest::Error) -> IoError + use<'_> {
    move |error| IoError::io(name, "set up HTTP")(io::Error::other(error))
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

pub(crate) fn http_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        .tcp_nodelay(true)
        .redirect(Policy::none())
        .referer(false)
        .user_agent(USER_AGENT)
}

/// Asks for what is at `url`, wherever its server says that it is.
pub(crate) async fn get(
    client: &reqwest::Client,
    mut url: Url,
    headers: &HeaderMap,
) -> Result<reqwest::Response, Failure> {
    for _ in 0..=MAX_REDIRECTS {
        let sent = client.get(url.clone()).headers(headers.clone()).send().await;
        let response = sent.map_err(|error| judged(error, Failure::transient))?;
        match redirected(&url, response.status(), response.headers())? {
            Some(next) => url = next,
            None => return Ok(response),
        }
    }
    Err(Failure::permanent("too many redirects"))
}

/// Where an answer of `url` sends us. A name and a password stay with the origin that they were given for: the same
/// scheme, host and port.
pub(crate) fn redirected(
    url: &Url,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<Url>, Failure> {
    let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(place) = headers.get(header::LOCATION).filter(|_| is_redirect) else {
        return Ok(None);
    };
    let next = place.to_str().ok().and_then(|place| url.join(place).ok());
    let next = next.filter(|next| matches!(next.scheme(), "http" | "https"));
    let mut next = next.ok_or_else(|| Failure::permanent("a redirect to no address"))?;
    let (user, password) = match next.origin() == url.origin() {
        true => (url.username(), url.password()),
        false => ("", None),
    };
    // Both fail only for addresses without a host.
    let _ = next.set_username(user);
    let _ = next.set_password(password);
    Ok(Some(next))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Where `from` leads with this `Location`; `None` where it is an error.
    #[track_caller]
    fn check(from: &str, to: &str, expect: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, to.parse().unwrap());
        let found = redirected(&Url::parse(from).unwrap(), StatusCode::FOUND, &headers);
        assert_eq!(found.ok().flatten().as_ref().map(Url::as_str), expect, "{from} {to}");
    }

    #[test]
    fn passwords_stay_with_their_origin() {
        let from = "http://n:p@host:80/a?token=t";
        check(from, "/b", Some("http://n:p@host/b"));
        check(from, "http://host/b", Some("http://n:p@host/b"));
        check(from, "http://host:8080/b", Some("http://host:8080/b"));
        check(from, "https://host/b", Some("https://host/b"));
        check(from, "http://other/b", Some("http://other/b"));
        check(from, "//other/b?x=1", Some("http://other/b?x=1"));
        check(from, "http://m:q@other/b", Some("http://other/b"));
        check("https://n:p@host/a", "http://host/b", Some("http://host/b"));
        for none in ["ftp://host/b", "file:///etc/passwd", "http://[", "mailto:a@b"] {
            check(from, none, None);
        }
    }

    #[test]
    fn only_redirects_redirect() {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, "/b".parse().unwrap());
        let url = Url::parse("http://host/a").unwrap();
        for status in [200, 201, 206, 300, 304, 305, 306, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(redirected(&url, status, &headers).unwrap().is_none(), "{status}");
        }
        assert!(redirected(&url, StatusCode::FOUND, &HeaderMap::new()).unwrap().is_none());
    }
}
