//! One file of a model, from the hub to the cache: whole, or not at all.

use std::io::Write as _;
use std::path::Path;

use futures_util::StreamExt as _;
use hf_hub::HFError;
use hf_hub::repository::{HFRepository, RepoTypeModel};
use sha2::{Digest as _, Sha256};
use tz_io::TemporaryFile;

use super::head::About;
use super::{FIRST_WAIT, Hub, longer};
use crate::hub::cache::Repository;
use crate::hub::error::{Damage, HubError};

/// A commit of a model on the hub, and its place in the cache.
pub(super) struct Remote<'a> {
    pub(super) hub: &'a Hub<'a>,
    pub(super) repository: &'a Repository,
    pub(super) remote: &'a HFRepository<RepoTypeModel>,
    /// For questions that must not be redirected elsewhere.
    pub(super) asking: &'a reqwest::Client,
    pub(super) commit: &'a str,
}

/// Why a transfer ended.
enum Stop {
    /// Another try may go on from here.
    Broken(String),
    For(HubError),
}

impl Remote<'_> {
    /// Puts one file into the snapshot, unless it is there.
    pub(super) async fn fetch(&self, name: &str) -> Result<(), HubError> {
        self.check()?;
        let found = self.repository.snapshot(self.commit).join(name);
        if found.is_file() {
            return Ok(());
        }
        let about = self.hub.about(self.asking, self.commit, name).await?;
        if !self.repository.has_blob(&about.etag, about.len) {
            let file = self.transfer(name, &about).await?;
            self.repository.keep(file, &about.etag)?;
        }
        self.repository.link(self.commit, name, &about.etag)
    }

    async fn transfer(&self, name: &str, about: &About) -> Result<TemporaryFile, HubError> {
        let mut part = Part {
            file: self.repository.incomplete()?,
            digest: Sha256::new(),
            done: 0,
            len: about.len,
        };
        let mut wait = FIRST_WAIT;
        // Each try goes on where the one before ended.
        for left in (0..=self.hub.options.retries()).rev() {
            match self.go_on(name, &mut part).await {
                Ok(()) => break,
                Err(Stop::For(error)) => return Err(error),
                Err(Stop::Broken(why)) if left == 0 => {
                    let damage = Damage::Truncated { found: part.done, expected: part.len, why };
                    return Err(self.damaged(name, damage));
                }
                Err(Stop::Broken(_)) => {
                    tokio::time::sleep(wait).await;
                    wait = longer(wait);
                }
            }
        }
        let digest = hex(&part.digest.finalize());
        if about.sha256().is_some_and(|stated| stated != digest) {
            return Err(self.damaged(name, Damage::Digest));
        }
        Ok(part.file)
    }

    /// Receives what is still to come.
    async fn go_on(&self, name: &str, part: &mut Part) -> Result<(), Stop> {
        if part.done == part.len {
            return Ok(());
        }
        let range = (part.done > 0).then_some(part.done..part.len);
        let asked = self.remote.download_file_stream().filename(name).revision(self.commit);
        let (_, mut body) = match asked.maybe_range(range).send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.stop(error)),
        };
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| self.stop(error))?;
            self.check().map_err(Stop::For)?;
            let done = part.done.saturating_add(bytes.len() as u64);
            if done > part.len {
                let damage = Damage::TooLong { expected: part.len };
                return Err(Stop::For(self.damaged(name, damage)));
            }
            part.file.write_all(&bytes).map_err(|error| {
                Stop::For(HubError::io(Path::new(part.file.path()), "write", error))
            })?;
            part.digest.update(&bytes);
            part.done = done;
            self.hub.options.report(name, done, part.len);
        }
        let whole = part.done == part.len;
        if whole { Ok(()) } else { Err(Stop::Broken("the transfer ended early".to_owned())) }
    }

    fn stop(&self, error: HFError) -> Stop {
        match error {
            HFError::Request { source, .. } => Stop::Broken(super::last(&source.without_url())),
            other => Stop::For(self.hub.failure(other)),
        }
    }

    fn damaged(&self, name: &str, damage: Damage) -> HubError {
        HubError::Damaged { id: self.hub.id.to_string(), file: name.to_owned(), damage }
    }

    fn check(&self) -> Result<(), HubError> {
        if self.hub.options.cancel.is_cancelled() { Err(HubError::Cancelled) } else { Ok(()) }
    }
}

/// What has come of a file.
struct Part {
    file: TemporaryFile,
    digest: Sha256,
    done: u64,
    len: u64,
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
