//! What the crates above share of the HTTP here, so that one rule holds for every server. Not part of the interface.

use std::io;
use std::ops::Range;

use http::{HeaderMap, StatusCode};
use url::Url;

use super::bounded::{self, Unread};
use super::head::placed;
use super::retry::Failure;
use super::transport::{self, cause};

pub use super::words::digits;

/// Clients that follow no redirect, send no `Referer` and speak HTTP/1.1.
pub fn client_builder() -> reqwest::ClientBuilder {
    transport::http_builder()
}

/// Where an answer of `url` sends us, without a name and password that are another origin's.
///
/// # Errors
/// Where it names no address of HTTP.
pub fn redirected(url: &Url, status: StatusCode, headers: &HeaderMap) -> io::Result<Option<Url>> {
    transport::redirected(url, status, headers).map_err(Failure::into_io)
}

/// The text of an answer, of at most `most` bytes.
///
/// # Errors
/// Where it is longer, or breaks off.
pub async fn text(response: reqwest::Response, most: usize) -> io::Result<String> {
    bounded::text(response, most).await.map_err(|unread| match unread {
        Unread::TooLong => io::Error::other(format!("an answer of more than {most} bytes")),
        Unread::Broken(error) => io::Error::other(cause(error)),
    })
}

/// Whether a partial answer is `range` of an object of `len` bytes.
///
/// # Errors
/// Where it is another range, or several.
pub fn check_range(headers: &HeaderMap, range: &Range<u64>, len: u64) -> io::Result<()> {
    match placed(headers, range).map_err(Failure::into_io)? {
        Some(total) if total != len => Err(io::Error::other("the server answered another object")),
        _ => Ok(()),
    }
}
