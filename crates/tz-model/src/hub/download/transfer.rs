//! One file of a model, from the hub to the cache: whole, or not at all.

use std::io::Write as _;
use std::path::Path;

use reqwest::{Client, Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tz_format::hex;
use tz_io::TemporaryFile;
use tz_io::wire::check_range;

use super::ask::Follow;
use super::head::About;
use super::{FIRST_WAIT, Hub, longer};
use crate::hub::cache::Repository;
use crate::hub::error::{Damage, HubError};

/// A commit of a model on the hub, and its place in the cache.
pub(super) struct Remote<'a> {
    pub(super) hub: &'a Hub<'a>,
    pub(super) repository: &'a Repository,
    pub(super) client: &'a Client,
    pub(super) commit: &'a str,
}

/// Why a transfer ended.
enum Stop {
    /// Another try may go on from here.
    Broken(String),
    For(HubError),
}

impl Remote<'_> {
    /// Puts one file of at most `most` bytes into the snapshot, unless it is there.
    pub(super) async fn fetch(&self, name: &str, most: u64) -> Result<(), HubError> {
        self.check()?;
        let found = self.repository.snapshot(self.commit).join(name);
        if found.is_file() {
            return Ok(());
        }
        let about = self.hub.about(self.client, self.commit, name).await?;
        if about.len > most {
            let why = format!("{name}: a file next to the weights has at most {most} bytes");
            return Err(self.hub.protocol(&why));
        }
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
        // Each try resumes where the one before ended.
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
        let url = self.hub.file(self.commit, name).map_err(Stop::For)?;
        let asked = self.hub.ask(self.client, Method::GET, url, range.as_ref(), Follow::Everywhere);
        let mut answer = asked.await.map_err(Stop::For)?;
        let wrong = |why: &str| Stop::For(self.hub.protocol(&format!("{name}: {why}")));
        match (answer.status(), &range) {
            (StatusCode::OK, None) => {}
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                check_range(answer.headers(), range, part.len)
                    .map_err(|error| wrong(&error.to_string()))?;
            }
            (status, _) if status.is_success() => {
                return Err(wrong("the server answered another range"));
            }
            (status, _) => return Err(Stop::For(self.hub.refusal(status.as_u16()))),
        }
        let broken = |error: reqwest::Error| Stop::Broken(super::last(&error.without_url()));
        while let Some(bytes) = answer.chunk().await.map_err(broken)? {
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
