//! Downloads what the cache lacks. Owns the conversation with the hub: what `hf-hub` is asked, and what its answers must
//! be before a byte is kept.

mod head;
mod transfer;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hf_hub::repository::{HFRepository, RepoTypeModel};
use hf_hub::{HFClient, HFError};
use reqwest::redirect::Policy;

use super::cache::Repository;
use super::error::HubError;
use super::id::{ModelId, Revision, is_commit};
use super::options::{DEFAULT_ENDPOINT, HubOptions};
use crate::checkpoint::index::shard_names;

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
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl HubOptions {
    fn retries(&self) -> usize {
        usize::try_from(self.retries.unwrap_or(RETRIES)).unwrap_or(usize::MAX)
    }
}

impl Hub<'_> {
    async fn download(&self, repository: &Repository) -> Result<String, HubError> {
        let remote = self.connect(self.client(Policy::default())?)?;
        let asked = remote.info().revision(self.revision.as_str());
        let info = asked.send().await.map_err(|error| self.failure(error))?;
        let commit = info.sha.filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| self.protocol("the answer names no commit"))?;
        let listing = info.siblings.ok_or_else(|| self.protocol("the answer lists no files"))?;
        if listing.len() > MAX_FILES {
            return Err(self.protocol("the answer lists too many files"));
        }
        let names: Vec<String> = listing.into_iter().map(|file| file.rfilename).collect();
        let needed = self.options.files.choose(&names).ok_or_else(|| HubError::NoWeights {
            id: self.id.to_string(),
            revision: self.revision.to_string(),
            wanted: self.options.files.wanted(),
        })?;
        let asking = self.client(Policy::none())?;
        let remote =
            Remote { hub: self, repository, remote: &remote, asking: &asking, commit: &commit };
        remote.fetch_all(&needed.first).await?;
        let mut weights = needed.weights;
        if let Some(index) = needed.index {
            remote.fetch(&index).await?;
            let shards = shard_names(&repository.snapshot(&commit).join(&index))?;
            let listed: HashSet<&String> = names.iter().collect();
            if let Some(missing) = shards.iter().find(|shard| !listed.contains(shard)) {
                return Err(self.protocol(&format!("{index} names {missing}, which is not there")));
            }
            weights = shards.into_iter().collect();
        }
        remote.fetch_all(&weights).await?;
        repository.refer(self.revision, &commit)?;
        Ok(commit)
    }

    fn client(&self, redirects: Policy) -> Result<reqwest::Client, HubError> {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(self.options.stall_timeout.unwrap_or(READ_TIMEOUT))
            .redirect(redirects)
            .user_agent(concat!("tz/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| self.unreachable(&error))
    }

    fn connect(&self, client: reqwest::Client) -> Result<HFRepository<RepoTypeModel>, HubError> {
        // Left without a token, hf-hub looks for one in the environment, which is the caller's to decide. A line feed
        // cannot stand in a header, so that none is sent.
        let token = self.options.token.as_ref().map_or("\n", |token| token.as_str());
        let client = HFClient::builder()
            .client(client)
            .endpoint(self.endpoint)
            .token(token)
            .cache_enabled(false)
            .retry_max_attempts(self.options.retries())
            .build()
            .map_err(|error| self.failure(error))?;
        let (owner, name) = self.id.parts();
        Ok(client.model(owner, name))
    }
}

impl Remote<'_> {
    async fn fetch_all(&self, names: &[String]) -> Result<(), HubError> {
        let files = stream::iter(names).map(|name| self.fetch(name));
        files.buffer_unordered(FILES_AT_ONCE).try_collect().await
    }
}

/// Errors: what hf-hub says becomes what the user can do. Its own messages hold addresses, which may be signed.
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

    fn failure(&self, error: HFError) -> HubError {
        match error {
            HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. }
            | HFError::Http { context } => self.refusal(context.status.as_u16()),
            HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. } => self.not_found(),
            HFError::Request { source, .. } => self.unreachable(&source.without_url()),
            HFError::MalformedResponse { what, .. } => self.protocol(&what),
            HFError::Json(error) => self.protocol(&error.to_string()),
            HFError::Url(error) => self.not_an_address(error),
            HFError::Xet { operation, source } => {
                self.protocol(&format!("{operation}: {}", last(source.as_ref())))
            }
            other => self.protocol(&last(&other)),
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
