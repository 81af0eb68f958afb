//! What the hub says of a file: its length, digest and commit.
//!
//! Asked here and not through hf-hub: that follows the redirect to the content network, where these headers are gone.

use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};
use reqwest::{Client, StatusCode, Url};

use super::{FIRST_WAIT, Hub, longer};
use crate::hub::error::HubError;
use crate::hub::id::{is_commit, is_lower_hex};

/// Redirects within the hub: a model that was renamed has one.
const MAX_REDIRECTS: usize = 5;
/// Characters of a SHA-256, which is the ETag of every file that is stored outside of Git.
const SHA256_LEN: usize = 64;

/// A file as the hub describes it.
#[derive(Debug)]
pub(super) struct About {
    pub(super) len: u64,
    /// A digest in hexadecimal digits: nothing else becomes a path.
    pub(super) etag: String,
}

impl About {
    /// SHA-256 of the content, where the hub states it.
    pub(super) fn sha256(&self) -> Option<&str> {
        Some(self.etag.as_str()).filter(|etag| etag.len() == SHA256_LEN)
    }
}

impl Hub<'_> {
    /// Asks about a file of a commit.
    pub(super) async fn about(
        &self,
        client: &Client,
        commit: &str,
        name: &str,
    ) -> Result<About, HubError> {
        let mut url = Url::parse(self.endpoint).map_err(|error| self.not_an_address(error))?;
        let parts = self.id.to_string();
        let path = parts.split('/').chain(["resolve", commit, name]);
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(self.protocol("not an address of a server")),
        };
        let hub = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let (status, headers) = self.head(client, &url).await?;
            let next = text(&headers, LOCATION.as_str()).filter(|_| status.is_redirection());
            // Elsewhere is the content network: this answer describes the file, and the token stays here.
            match next.and_then(|next| url.join(next).ok()).filter(|next| next.origin() == hub) {
                Some(next) => url = next,
                None if status.is_success() || status.is_redirection() => {
                    return self.describe(&headers, commit, name);
                }
                None => return Err(self.refusal(status.as_u16())),
            }
        }
        Err(self.protocol("it redirects without end"))
    }

    async fn head(&self, client: &Client, url: &Url) -> Result<(StatusCode, HeaderMap), HubError> {
        let mut wait = FIRST_WAIT;
        let mut left = self.options.retries();
        loop {
            let mut request = client.head(url.clone());
            if let Some(token) = &self.options.token {
                request = request.bearer_auth(token.as_str());
            }
            let failure = match request.send().await {
                Ok(answer) if !is_passing(answer.status()) => {
                    return Ok((answer.status(), answer.headers().clone()));
                }
                Ok(answer) => self.refusal(answer.status().as_u16()),
                Err(error) => self.unreachable(&error.without_url()),
            };
            if left == 0 {
                return Err(failure);
            }
            left -= 1;
            tokio::time::sleep(wait).await;
            wait = longer(wait);
        }
    }

    fn describe(&self, headers: &HeaderMap, commit: &str, name: &str) -> Result<About, HubError> {
        let wrong = |what: &str| self.protocol(&format!("{name}: {what}"));
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| text(headers, name));
        let etag = first(["x-linked-etag", ETAG.as_str()]).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let is_sha256 = etag.len() == SHA256_LEN && is_lower_hex(etag);
        if !is_sha256 && !is_commit(etag) {
            return Err(wrong("its ETag is no digest"));
        }
        if text(headers, "x-repo-commit") != Some(commit) {
            return Err(wrong("it is of another commit than its model"));
        }
        let len =
            first(["x-linked-size", CONTENT_LENGTH.as_str()]).and_then(|len| len.parse().ok());
        let len = len.ok_or_else(|| wrong("its length is not stated"))?;
        Ok(About { len, etag: etag.to_owned() })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the same request may be answered in a moment.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}
