//! Writes an object by multipart upload, in any order and bounded memory. Owns [`MultipartOutput`].
//!
//! Bytes land in part-sized buffers; a part is sent as soon as it is full. A part that holds the header of a large
//! tensor fills when the tensor is done, the first part when everything is: so the object's front, which makes it
//! readable, is sent last, and nothing is visible before the upload is completed. Dropping it unfinished aborts.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{MultipartId, PutMode, PutOptions, PutPayload};
use tokio::sync::watch;

use super::clouds::commit_new;
use super::object::{Signed, failed};
use super::options::RemoteOptions;
use super::presigned::{Condition, S3Object, exists};
use super::runtime::{block_on, runtime};
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use crate::error::IoError;
use crate::writer::Output;

/// Default length of a part: large enough for a request to pay, small enough for many in flight.
const PART_LEN: u64 = 16 << 20;
/// Least length of every part but the last that S3 takes.
const MIN_PART_LEN: u64 = 5 << 20;
/// Most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;
/// Part lengths are rounded up to this.
const PART_QUANTUM: u64 = 1 << 20;
/// What a part's failure is said to have befallen.
const UPLOADING: &str = "upload to";
/// Time that parts on their way get to arrive before a failed upload is aborted: an abort that overtakes a part
/// leaves it behind.
const GRACE: Duration = Duration::from_secs(5);

/// An upload in progress.
#[derive(Debug)]
pub(crate) struct MultipartOutput {
    shared: Arc<Shared>,
    options: RemoteOptions,
    file_len: u64,
    part_len: u64,
    most_buffers: usize,
    create_only: bool,
    finished: bool,
}

#[derive(Debug)]
struct Shared {
    name: String,
    route: Route,
    state: Mutex<State>,
    changed: Condvar,
    /// Set to break off the parts on their way.
    stopped: watch::Sender<bool>,
}

/// How the bytes get there.
#[derive(Debug)]
enum Route {
    /// The object is one part and is put in one request.
    One(Signed, PutMode),
    /// Parts of an upload to S3.
    S3(Box<S3Object>, String),
    /// Parts of an upload to another store.
    Other(Signed, MultipartId),
}

impl Route {
    /// Sends one part, counted from 0, or the whole object. Gives the part's entity tag.
    async fn put(&self, part: u64, bytes: Bytes) -> Result<String, IoError> {
        match self {
            Self::One(Signed { store, path, .. }, mode) => {
                let put = store.put_opts(path, bytes.into(), PutOptions::from(mode.clone())).await;
                let create_only = *mode == PutMode::Create;
                match put {
                    Ok(put) => Ok(put.e_tag.unwrap_or_default()),
                    Err(
                        object_store::Error::AlreadyExists { .. }
                        | object_store::Error::Precondition { .. },
                    ) if create_only => Err(exists(self.name())),
                    Err(error) => Err(failed(self.name(), UPLOADING)(error)),
                }
            }
            Self::S3(object, id) => object.put_part(id, part + 1, bytes).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let part = usize::try_from(part).unwrap_or(usize::MAX);
                let put = store.put_part(path, id, part, PutPayload::from(bytes)).await;
                put.map(|put| put.content_id).map_err(failed(self.name(), UPLOADING))
            }
        }
    }

    /// Makes the object visible.
    async fn complete(
        &self,
        tags: Vec<String>,
        len: u64,
        create_only: bool,
        options: &RemoteOptions,
    ) -> Result<(), IoError> {
        match self {
            Self::One(..) => Ok(()),
            Self::S3(object, id) => {
                let condition = if create_only { Condition::New } else { Condition::None };
                object.complete(id, &tags, len, condition).await
            }
            Self::Other(signed, _) if create_only => commit_new(signed, options, &tags).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let parts = tags.into_iter().map(|content_id| PartId { content_id }).collect();
                let done = store.complete_multipart(path, id, parts).await;
                done.map(drop).map_err(failed(self.name(), "complete the upload to"))
            }
        }
    }

    async fn abort(&self) -> Result<(), IoError> {
        match self {
            Self::One(..) => Ok(()),
            Self::S3(object, id) => object.abort(id).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let done = store.abort_multipart(path, id).await;
                done.map_err(failed(self.name(), "remove an unfinished upload of"))
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::One(signed, _) | Self::Other(signed, _) => signed.name(),
            Self::S3(object, _) => object.signed.name(),
        }
    }

    fn upload(&self) -> Option<&str> {
        match self {
            Self::One(..) => None,
            Self::S3(_, id) | Self::Other(_, id) => Some(id),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    filling: HashMap<u64, Part>,
    /// Memory of parts that have arrived, for those to come.
    spare: Vec<Vec<u8>>,
    sending: usize,
    sent: HashMap<u64, String>,
    failed: Option<IoError>,
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    filled: usize,
}

impl MultipartOutput {
    /// Starts an upload of `file_len` bytes that holds about `memory` bytes at a time. `create_only` refuses to
    /// replace an object.
    pub(crate) fn create(
        location: &RemoteLocation,
        options: &RemoteOptions,
        file_len: u64,
        memory: u64,
        create_only: bool,
    ) -> Result<Self, IoError> {
        let name = location.to_string();
        let RemoteKind::Object { store, key, .. } = &location.kind else {
            let why = "HTTP servers can be read from, not written to";
            return Err(IoError::Unsupported { location: name, why });
        };
        let part_len = part_len(file_len, memory);
        let route = block_on(async {
            let signed = Signed::new(location, options).await?;
            // Cheaper to learn now than after the upload. The condition decides, where the store knows it: Garage 2.5
            // ignores it on a single request.
            if create_only && signed.len().await.is_some() {
                return Err(exists(&name));
            }
            let one_part = file_len <= part_len;
            if one_part {
                let mode = if create_only { PutMode::Create } else { PutMode::Overwrite };
                return Ok(Route::One(signed, mode));
            }
            if *store != StoreKind::S3 {
                if create_only && *store == StoreKind::Gcs {
                    let why = "Google Cloud Storage creates no object conditionally that is \
                        larger than one part";
                    return Err(IoError::Unsupported { location: name.clone(), why });
                }
                let id = signed.store.create_multipart(&signed.path).await;
                let id = id.map_err(failed(&name, "start an upload to"))?;
                return Ok(Route::Other(signed, id));
            }
            let object = S3Object::new(signed, options)?;
            object.warn_of_unfinished(key).await;
            let id = object.start().await?;
            Ok(Route::S3(Box::new(object), id))
        })?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Shared { name, route, state, changed, stopped: watch::Sender::new(false) };
        let most_buffers = usize::try_from(memory / part_len).unwrap_or(usize::MAX).max(2);
        Ok(Self {
            shared: Arc::new(shared),
            options: options.clone(),
            file_len,
            part_len,
            most_buffers,
            create_only,
            finished: false,
        })
    }

    /// Copies `bytes` into one part; gives the part back once it is full.
    fn fill(&self, part: u64, at: usize, bytes: &[u8]) -> Result<Option<Vec<u8>>, IoError> {
        let mut state = self.shared.state();
        // Waiting makes sense only for parts on their way: those in the making may need this very thread.
        while !state.filling.contains_key(&part)
            && state.failed.is_none()
            && state.sending > 0
            && state.sending + state.filling.len() >= self.most_buffers
        {
            state = self.shared.wait(state);
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let len =
            usize::try_from(self.part_len.min(self.file_len - part * self.part_len)).unwrap_or(0);
        let State { filling, spare, .. } = &mut *state;
        let filling =
            filling.entry(part).or_insert_with(|| Part { bytes: room(spare, len), filled: 0 });
        if let Some(place) = filling.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        filling.filled += bytes.len();
        if filling.filled < len {
            return Ok(None);
        }
        let full = state.filling.remove(&part).map(|part| part.bytes);
        state.sending += usize::from(full.is_some());
        Ok(full)
    }

    fn send(&self, part: u64, bytes: Vec<u8>) {
        let shared = Arc::clone(&self.shared);
        runtime().spawn(async move {
            let bytes = Bytes::from(bytes);
            let mut stopped = shared.stopped.subscribe();
            let result = tokio::select! {
                result = shared.route.put(part, bytes.clone()) => Some(result),
                _ = stopped.wait_for(|stopped| *stopped) => None,
            };
            let mut state = shared.state();
            state.sending -= 1;
            match result {
                Some(Ok(tag)) => {
                    state.sent.insert(part, tag);
                }
                Some(Err(error)) => {
                    state.failed.get_or_insert(error);
                }
                None => {}
            }
            // A connection that is about to end may still hold it.
            if bytes.is_unique() {
                state.spare.push(bytes.into());
            }
            shared.changed.notify_all();
        });
    }

    /// Waits for the parts and makes the object visible.
    pub(crate) fn finish(mut self) -> Result<(), IoError> {
        if self.file_len == 0 {
            self.shared.state().sending += 1;
            self.send(0, Vec::new());
        }
        let tags = self.tags()?;
        let route = &self.shared.route;
        block_on(route.complete(tags, self.file_len, self.create_only, &self.options))?;
        self.finished = true;
        Ok(())
    }

    fn tags(&self) -> Result<Vec<String>, IoError> {
        let mut state = self.shared.state();
        while state.sending > 0 && state.failed.is_none() {
            state = self.shared.wait(state);
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let count = self.file_len.div_ceil(self.part_len).max(1);
        let tags: Option<Vec<String>> = (0..count).map(|part| state.sent.remove(&part)).collect();
        let missing = || io::Error::other("a part was never written");
        tags.ok_or_else(|| IoError::io(&self.shared.name, "complete the upload to")(missing()))
    }
}

/// Memory of a part: what it holds is written over before it is sent.
fn room(spare: &mut Vec<Vec<u8>>, len: usize) -> Vec<u8> {
    match spare.pop() {
        Some(mut bytes) => {
            bytes.resize(len, 0);
            bytes
        }
        None => vec![0; len],
    }
}

impl Output for MultipartOutput {
    fn data(&self, offset: u64, mut bytes: &[u8]) -> Result<(), IoError> {
        let mut offset = offset;
        while !bytes.is_empty() {
            let part = offset / self.part_len;
            let at = usize::try_from(offset % self.part_len).unwrap_or(usize::MAX);
            let room = usize::try_from(self.part_len).unwrap_or(usize::MAX) - at;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(full) = self.fill(part, at, now)? {
                self.send(part, full);
            }
            offset += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

impl Drop for MultipartOutput {
    fn drop(&mut self) {
        if let (false, Some(id)) = (self.finished, self.shared.route.upload()) {
            let on_their_way = |state: &mut State| state.sending > 0;
            let waited =
                self.shared.changed.wait_timeout_while(self.shared.state(), GRACE, on_their_way);
            drop(waited);
            self.shared.stopped.send_replace(true);
            let mut state = self.shared.state();
            while state.sending > 0 {
                state = self.shared.wait(state);
            }
            drop(state);
            let patience = self.options.stall_timeout;
            let abort = self.shared.route.abort();
            // A timer belongs to the runtime: it is made inside.
            let why = match block_on(async { tokio::time::timeout(patience, abort).await }) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string),
                Err(_) => format!("no answer for {patience:?}"),
            };
            tracing::warn!(
                location = self.shared.name,
                upload = id,
                error = why,
                "the unfinished upload could not be removed; --abort-unfinished removes it with the next one"
            );
        }
    }
}

/// Longest part that leaves room for several, within S3's bounds.
fn part_len(file_len: u64, memory: u64) -> u64 {
    let wanted = PART_LEN.min(memory / 4).max(MIN_PART_LEN);
    wanted.max(file_len.div_ceil(MAX_PARTS)).next_multiple_of(PART_QUANTUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_the_rules_of_s3_and_the_memory() {
        for file_len in [0, 1, 5 << 20, 1 << 30, 1 << 40, 5 << 40] {
            for memory in [0, 64 << 20, 256 << 20, 4 << 30] {
                let len = part_len(file_len, memory);
                assert!(
                    len >= MIN_PART_LEN && file_len.div_ceil(len) <= MAX_PARTS,
                    "{file_len} {memory}: {len}"
                );
            }
        }
        assert_eq!(part_len(1 << 30, 64 << 20), 16 << 20);
    }
}
