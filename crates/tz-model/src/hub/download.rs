//! Downloads what the cache lacks. Owns the conversation with the hub: what it is asked, and what its answers must be
//! before a byte is kept.

mod ask;
mod head;
mod transfer;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::{Client, Method};
use serde::Deserialize;
use tz_io::wire::{client_builder, text};

use super::cache::Repository;
use super::error::HubError;
use super::id::{ModelId, Revision, is_commit};
use super::options::{DEFAULT_ENDPOINT, HubOptions};
use crate::checkpoint::index::shard_names;

use ask::Follow;
use transfer::Remote;

/// Time to reach the hub, and longest silence within an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Further tries of what fails in passing, each after up to twice the wait of the one before.
const RETRIES: u32 = 3;
/// Wait before another try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Files at a time: one connection of the hub's network rarely fills a link, and many are throttled.
const FILES_AT_ONCE: usize = 4;
/// Far above any model's listing.
const MAX_FILES: usize = 100_000;
/// Most bytes of a file that is not weights: large tokenizers have some 40 MB.
const MAX_SMALL_FILE: u64 = 256 << 20;
/// Most bytes of a listing: that many names, and the words about the model that come with them.
const MAX_LISTING: usize = 16 << 20;

/// The wait after this one.
fn longer(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(LONGEST_WAIT)
}

/// Who is asked, for what, and how that is told.
#[derive(Debug)]
struct Hub<'a> {
    id: &'a ModelId,
    revision: &'a Revision,
    options: &'a HubOptions,
    endpoint: &'a str,
}

/// Completes a snapshot and gives its commit.
pub(super) fn download(
    repository: &Repository,
    id: &ModelId,
    revision: &Revision,
    options: &HubOptions,
) -> Result<String, HubError> {
    let endpoint = options.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    let hub = Hub { id, revision, options, endpoint };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| hub.unreachable(&error))?;
        let result = runtime.block_on(async {
            tokio::select! {
                result = hub.download(repository) => result,
                () = options.cancel.cancelled() => Err(HubError::Cancelled),
            }
        });
        // A name lookup may still be under way.
        runtime.shutdown_background();
        result
    };
    // A thread of its own, because the caller's may be driving a runtime already.
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        // Standard error says where.
        Err(_) => Err(hub.protocol("the download panicked")),
    })
}

impl HubOptions {
    fn retries(&self) -> usize {
        usize::try_from(self.retries.unwrap_or(RETRIES)).unwrap_or(usize::MAX)
    }
}

/// What the hub says of a revision.
#[derive(Debug, Deserialize)]
struct Info {
    sha: Option<String>,
    siblings: Option<Vec<Sibling>>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub<'_> {
    async fn download(&self, repository: &Repository) -> Result<String, HubError> {
        let silence = self.options.stall_timeout.unwrap_or(READ_TIMEOUT);
        let client = client_builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(silence);
        let client = client.build().map_err(|error| self.unreachable(&error))?;
        let Info { sha, siblings } = self.info(&client).await?;
        let commit = sha.filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| self.protocol("the answer names no commit"))?;
        let listing = siblings.ok_or_else(|| self.protocol("the answer lists no files"))?;
        if listing.len() > MAX_FILES {
            return Err(self.protocol("the answer lists too many files"));
        }
        let names: Vec<String> = listing.into_iter().map(|file| file.rfilename).collect();
        let needed = self.options.files.choose(&names).ok_or_else(|| HubError::NoWeights {
            id: self.id.to_string(),
            revision: self.revision.to_string(),
            wanted: self.options.files.wanted(),
        })?;
        let remote = Remote { hub: self, repository, client: &client, commit: &commit };
        remote.fetch_all(&needed.first, MAX_SMALL_FILE).await?;
        let mut weights = needed.weights;
        if let Some(index) = needed.index {
            remote.fetch(&index, MAX_SMALL_FILE).await?;
            let shards = shard_names(&repository.snapshot(&commit).join(&index))?;
            let listed: HashSet<&String> = names.iter().collect();
            if let Some(missing) = shards.iter().find(|shard| !listed.contains(shard)) {
                return Err(self.protocol(&format!("{index} names {missing}, which is not there")));
            }
            weights = shards.into_iter().collect();
        }
        remote.fetch_all(&weights, u64::MAX).await?;
        repository.refer(self.revision, &commit)?;
        Ok(commit)
    }

    async fn info(&self, client: &Client) -> Result<Info, HubError> {
        let id = self.id.to_string();
        // A revision with slashes is one segment all the same.
        let path = ["api", "models"].into_iter().chain(id.split('/'));
        let url = self.address(path.chain(["revision", self.revision.as_str()]))?;
        let answer = self.ask(client, Method::GET, url, None, Follow::Everywhere).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer.status().as_u16()));
        }
        let text = text(answer, MAX_LISTING).await;
        let text = text.map_err(|error| self.protocol(&format!("its listing: {error}")))?;
        // What the parser quotes of the text is left out.
        serde_json::from_str(&text).map_err(|_| self.protocol("its listing is not one"))
    }
}

impl Remote<'_> {
    /// Fetches files of at most `most` bytes each.
    async fn fetch_all(&self, names: &[String], most: u64) -> Result<(), HubError> {
        let files = stream::iter(names).map(|name| self.fetch(name, most));
        files.buffer_unordered(FILES_AT_ONCE).try_collect().await
    }
}

/// Errors: what goes wrong becomes what the user can do. No message holds an address, which may be signed.
impl Hub<'_> {
    /// The endpoint without what identifies anybody.
    fn endpoint(&self) -> String {
        let url = reqwest::Url::parse(self.endpoint);
        url.map_or_else(|_| "the hub".to_owned(), |url| url.origin().ascii_serialization())
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint(), why: last(error) }
    }

    fn protocol(&self, why: &str) -> HubError {
        let (id, endpoint) = (self.id.to_string(), self.endpoint());
        HubError::Protocol { id, endpoint, why: why.to_owned() }
    }

    fn not_an_address(&self, error: impl std::fmt::Display) -> HubError {
        self.protocol(&format!("not an address: {error}"))
    }

    fn not_found(&self) -> HubError {
        let (id, endpoint) = (self.id.to_string(), self.endpoint());
        HubError::NotFound { id, revision: self.revision.to_string(), endpoint }
    }

    /// An answer that is none.
    fn refusal(&self, status: u16) -> HubError {
        let (id, endpoint) = (self.id.to_string(), self.endpoint());
        match status {
            401 | 403 => {
                let with_token = self.options.token.is_some();
                HubError::Refused { id, endpoint, status, with_token }
            }
            404 => self.not_found(),
            _ => HubError::Server { id, endpoint, status },
        }
    }
}

/// The last cause: "connection refused" rather than "error sending request".
fn last(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
