//! What the hub says of a file: its length, digest and commit. The content network, to which it sends us for the bytes,
//! says none of that.

use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap};
use reqwest::{Client, Method, Url};
use tz_io::wire::digits;

use super::Hub;
use super::ask::Follow;
use crate::hub::error::HubError;
use crate::hub::id::{is_commit, is_lower_hex};

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
    /// Where a file of a commit is.
    pub(super) fn file(&self, commit: &str, name: &str) -> Result<Url, HubError> {
        let id = self.id.to_string();
        self.address(id.split('/').chain(["resolve", commit, name]))
    }

    /// Asks about a file of a commit.
    pub(super) async fn about(
        &self,
        client: &Client,
        commit: &str,
        name: &str,
    ) -> Result<About, HubError> {
        let url = self.file(commit, name)?;
        // Elsewhere is the content network: the answer that leads there describes the file.
        let answer = self.ask(client, Method::HEAD, url, None, Follow::Hub).await?;
        let status = answer.status();
        if status.is_success() || status.is_redirection() {
            return self.describe(answer.headers(), commit, name);
        }
        Err(self.refusal(status.as_u16()))
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
        let len = first(["x-linked-size", CONTENT_LENGTH.as_str()]).and_then(digits);
        let len = len.ok_or_else(|| wrong("its length is not stated"))?;
        Ok(About { len, etag: etag.to_owned() })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
