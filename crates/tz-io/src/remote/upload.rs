//! Writes an object by multipart upload, in any order and bounded memory. Owns [`MultipartOutput`].
//!
//! Bytes land in part-sized buffers; a part is sent as soon as it is full. A part that holds the header of a large
//! tensor fills when the tensor is done, the first part when everything is: so the object's front, which makes it
//! readable, is sent last, and nothing is visible before the upload is completed. Dropping it unfinished aborts.

mod route;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::options::RemoteOptions;
use super::presigned::{COMPLETING, STARTING};
use super::runtime::{block_on, guarded, run, runtime};
use super::target::RemoteLocation;
use crate::error::IoError;
use crate::leftovers::Leftover;
use crate::options::Cancel;
use crate::writer::Output;
use route::{Route, UPLOADING, Wish};

/// Default length of a part: large enough for a request to pay, small enough for many in flight.
const PART_LEN: u64 = 16 << 20;
/// Least length of every part but the last that S3 takes.
const MIN_PART_LEN: u64 = 5 << 20;
/// Most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;
/// Part lengths are rounded up to this.
const PART_QUANTUM: u64 = 1 << 20;
/// What to do about an upload that stays.
pub(crate) const ADVICE: &str = "--abort-unfinished removes it with the next one";
/// Time that parts on their way get to arrive before a failed upload is aborted: an abort that overtakes a part
/// leaves it behind.
const GRACE: Duration = Duration::from_secs(5);
/// Time that a request which takes effect (start, completion, abort) gets once the work is cancelled: a process that is
/// told to end has a second for everything.
pub(crate) const SOON: Duration = Duration::from_millis(250);

/// An upload in progress.
#[derive(Debug)]
pub(crate) struct MultipartOutput {
    shared: Arc<Shared>,
    options: RemoteOptions,
    file_len: u64,
    part_len: u64,
    most_buffers: usize,
    create_only: bool,
    state: Stage,
    /// Aborts the upload if the process ends at once.
    leftover: Option<Leftover>,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sending,
    /// The completion was sent, and not answered.
    Completing,
    Finished,
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

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the upload of a process that ends at once.
    fn removal(self: &Arc<Self>) -> impl FnOnce() -> Option<String> + Send + 'static {
        let shared = Arc::clone(self);
        move || {
            let upload = shared.route.upload()?;
            let why = shared.abort(SOON, &Cancel::default()).err()?;
            let name = &shared.name;
            Some(format!(
                "{name}: the unfinished upload {upload} could not be removed: {why}; {ADVICE}"
            ))
        }
    }

    fn abort(&self, patience: Duration, cancel: &Cancel) -> Result<(), String> {
        let abort = guarded(&self.name, UPLOADING, self.route.abort());
        let abort = cancel.unless_after(SOON, abort);
        // A timer belongs to the runtime: it is made inside.
        match block_on(async { tokio::time::timeout(patience, abort).await }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(IoError::Cancelled)) => Err(format!("no answer for {SOON:?}")),
            Ok(Err(error)) => Err(std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string)),
            Err(_) => Err(format!("no answer for {patience:?}")),
        }
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
        let part_len = part_len(file_len, memory);
        let is_starting = AtomicBool::new(false);
        let wish = Wish { is_one_part: file_len <= part_len, create_only };
        let started = Route::start(location, options, wish, &is_starting);
        let route = run(&name, STARTING, options.cancel.unless_after(SOON, started));
        if let Err(IoError::Cancelled) = route
            && is_starting.load(Ordering::Relaxed)
        {
            tracing::warn!(
                location = name,
                "an upload was being started when the work was cancelled; {ADVICE}"
            );
        }
        let route = route?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Shared { name, route, state, changed, stopped: watch::Sender::new(false) };
        let most_buffers = usize::try_from(memory / part_len).unwrap_or(usize::MAX).max(2);
        let shared = Arc::new(shared);
        let leftover = shared.route.upload().map(|_| Leftover::new(shared.removal()));
        Ok(Self {
            shared,
            options: options.clone(),
            file_len,
            part_len,
            most_buffers,
            create_only,
            state: Stage::Sending,
            leftover,
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
            state = self.wait(state)?;
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
        let cancel = self.options.cancel.clone();
        runtime().spawn(async move {
            let bytes = Bytes::from(bytes);
            let mut stopped = shared.stopped.subscribe();
            let put = guarded(&shared.name, UPLOADING, shared.route.put(part, bytes.clone()));
            let result = tokio::select! {
                result = cancel.unless(put) => Some(result),
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
        let shared = Arc::clone(&self.shared);
        self.state = Stage::Completing;
        let done = shared.route.complete(tags, self.file_len, self.create_only, &self.options);
        let done = self.options.cancel.unless_after(SOON, done);
        run(&shared.name, COMPLETING, done).inspect_err(|error| {
            // A refusal is an answer.
            if !matches!(error, IoError::Cancelled) {
                self.state = Stage::Sending;
            }
        })?;
        self.state = Stage::Finished;
        Ok(())
    }

    /// Waits for a part to arrive.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, IoError> {
        self.options.cancel.check()?;
        Ok(self.options.cancel.wait(&self.shared.changed, state))
    }

    fn tags(&self) -> Result<Vec<String>, IoError> {
        let mut state = self.shared.state();
        while state.sending > 0 && state.failed.is_none() {
            state = self.wait(state)?;
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let count = self.file_len.div_ceil(self.part_len).max(1);
        let tags: Option<Vec<String>> = (0..count).map(|part| state.sent.remove(&part)).collect();
        let missing = || io::Error::other("a part was never written");
        tags.ok_or_else(|| IoError::io(&self.shared.name, COMPLETING)(missing()))
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
        if let (false, Some(id)) = (self.state == Stage::Finished, self.shared.route.upload()) {
            let cancel = &self.options.cancel;
            let start = Instant::now();
            let mut state = self.shared.state();
            while state.sending > 0 && start.elapsed() < GRACE && !cancel.is_cancelled() {
                state = cancel.wait(&self.shared.changed, state);
            }
            self.shared.stopped.send_replace(true);
            while state.sending > 0 {
                state = cancel.wait(&self.shared.changed, state);
            }
            drop(state);
            let (location, upload) = (&self.shared.name, id);
            match self.shared.abort(self.options.stall_timeout, cancel) {
                Ok(()) if self.state == Stage::Completing => tracing::warn!(
                    location,
                    upload,
                    "the upload was being completed when the work was cancelled: look whether the object is new"
                ),
                Ok(()) => {}
                Err(error) => tracing::warn!(
                    location,
                    upload,
                    error,
                    "the unfinished upload could not be removed; {ADVICE}"
                ),
            }
        }
        self.leftover = None;
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
