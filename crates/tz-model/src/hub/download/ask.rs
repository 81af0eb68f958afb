//! One request to the hub, and on to where it leads. Owns what is sent along: the token goes to the hub's own origin
//! (scheme, host and port) and to no other.

use std::ops::Range;

use reqwest::header::RANGE;
use reqwest::{Client, Method, Response, StatusCode, Url};
use tz_io::wire::redirected;

use super::{FIRST_WAIT, Hub, longer};
use crate::hub::error::HubError;

/// Redirects that a request follows: a model that was renamed has one, a large file another.
const MAX_REDIRECTS: usize = 5;
/// Most retries of a hub that accepts no connection.
const UNREACHED: usize = 5;

/// How far a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// To the content network, too.
    Everywhere,
    /// Within the hub: what it says when it sends us elsewhere is the answer.
    Hub,
}

impl Hub<'_> {
    /// The address of these segments on the hub.
    pub(super) fn address<'s>(
        &self,
        segments: impl Iterator<Item = &'s str>,
    ) -> Result<Url, HubError> {
        let mut url = Url::parse(self.endpoint).map_err(|error| self.not_an_address(error))?;
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(segments),
            Err(()) => return Err(self.protocol("not an address of a server")),
        };
        Ok(url)
    }

    /// Sends a request, and again where it fails in passing.
    pub(super) async fn ask(
        &self,
        client: &Client,
        method: Method,
        mut url: Url,
        range: Option<&Range<u64>>,
        follow: Follow,
    ) -> Result<Response, HubError> {
        let hub = Url::parse(self.endpoint).map_err(|error| self.not_an_address(error))?.origin();
        for _ in 0..=MAX_REDIRECTS {
            let send = || {
                let mut request = client.request(method.clone(), url.clone());
                if let Some(token) = self.options.token.as_ref().filter(|_| url.origin() == hub) {
                    request = request.bearer_auth(token.as_str());
                }
                if let Some(Range { start, end }) = range {
                    request = request.header(RANGE, format!("bytes={start}-{}", end - 1));
                }
                request.send()
            };
            let answer = self.persist(send).await?;
            let next = redirected(&url, answer.status(), answer.headers());
            let next = next.map_err(|error| self.protocol(&error.to_string()))?;
            match next.filter(|next| follow == Follow::Everywhere || next.origin() == hub) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(self.protocol("it redirects without end"))
    }

    async fn persist<F>(&self, send: impl Fn() -> F) -> Result<Response, HubError>
    where
        F: Future<Output = reqwest::Result<Response>>,
    {
        let mut wait = FIRST_WAIT;
        let mut left = self.options.retries();
        let mut unreached = 0;
        loop {
            let failure = match send().await {
                Ok(answer) if !is_passing(answer.status()) => return Ok(answer),
                Ok(answer) => self.refusal(answer.status().as_u16()),
                Err(error) => {
                    unreached += usize::from(error.is_connect());
                    self.unreachable(&error.without_url())
                }
            };
            if left == 0 || unreached > UNREACHED {
                return Err(failure);
            }
            left -= 1;
            tokio::time::sleep(wait).await;
            wait = longer(wait);
        }
    }
}

/// Whether the same request may be answered in a moment.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}
