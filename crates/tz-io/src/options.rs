//! What callers can choose about reading. Owns [`ReadOptions`], [`Cancel`] and [`Progress`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Duration;

use tz_crypto::{KdfLimits, Secret};
use tz_format::Limits;

use crate::error::IoError;
use crate::remote::RemoteOptions;
use crate::source::RangeRead;

/// Most readers that are started when the caller does not say how many.
pub const DEFAULT_MAX_READERS: usize = 16;
/// Staging memory where the caller sets no limit: enough for every reader to have a piece in hand and one in use.
pub const DEFAULT_STAGING_BYTES: u64 = 256 << 20;

/// How to open a file.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Bounds on what the file may state.
    pub limits: Limits,
    /// Servers and credentials.
    pub remote: RemoteOptions,
    /// Keys and passphrases to unlock an encrypted file with.
    pub secrets: Vec<Secret>,
    /// What to do with a file that is not encrypted.
    pub plain: PlainFiles,
    /// Bounds on the key derivation that a file may ask for.
    pub kdf_limits: KdfLimits,
}

impl OpenOptions {
    /// Whether a file that is not encrypted is refused.
    #[must_use]
    pub fn refuses_plain(&self) -> bool {
        match self.plain {
            PlainFiles::RefusedWithSecrets => !self.secrets.is_empty(),
            PlainFiles::Refused => true,
            PlainFiles::Accepted => false,
        }
    }
}

/// What to do with a file that is not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainFiles {
    /// Refuse it if there are secrets: the caller expects the file that they open.
    #[default]
    RefusedWithSecrets,
    /// Refuse it, with secrets or without.
    Refused,
    /// Accept it: the secrets are for another file.
    Accepted,
}

/// How to read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Reader threads; `None` takes one per core up to [`DEFAULT_MAX_READERS`].
    pub readers: Option<usize>,
    /// Check stored hashes. Default true: CRC-32 where there is one, else SHA-256.
    pub verify: bool,
    /// Most bytes of staging memory; `None` takes [`crate::default_staging_bytes`]. Memory that the caller asked to own,
    /// such as loaded tensors, does not count.
    pub memory_limit: Option<u64>,
    /// Stops the work early when set.
    pub cancel: Cancel,
    /// Counts bytes as they arrive.
    pub progress: Progress,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            readers: None,
            verify: true,
            memory_limit: None,
            cancel: Cancel::default(),
            progress: Progress::default(),
        }
    }
}

impl ReadOptions {
    /// Reader threads for `source` and `pieces` of work.
    pub(crate) fn readers_for(&self, source: &dyn RangeRead, pieces: usize) -> usize {
        if let Some(readers) = self.readers {
            source.readers_chosen(readers);
        }
        let readers = self.readers.unwrap_or_else(|| source.default_readers());
        readers.min(source.max_readers()).min(pieces).max(1)
    }
}

/// Cores that this process may use, up to [`DEFAULT_MAX_READERS`].
pub(crate) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_MAX_READERS)
}

/// How often a wait looks whether the work was cancelled.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// A flag that stops work in progress; clones share it.
///
/// Work stops at its next piece. A wait for a server (name lookup, connection, handshake, answer, retry, upload) ends
/// within 100 ms. A call into the operating system on a local file, a computation such as a key derivation, and a
/// [`RangeRead`] or [`TensorSource`](crate::TensorSource) of the caller's are not interrupted; the work stops after them.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    /// Flags that set this one, too.
    either: Option<[Cancel; 2]>,
}

impl Cancel {
    /// Stops the work.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let either = || self.0.either.iter().flatten().any(Self::is_cancelled);
        self.0.set.load(Ordering::Relaxed) || either()
    }

    /// A flag that is set as soon as this one or `other` is.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let either = Some([self.clone(), other.clone()]);
        Self(Arc::new(Flag { set: AtomicBool::new(false), either }))
    }

    /// Waits until `changed` is signalled, for 50 ms at most: the caller then looks at both again. For implementers of
    /// [`crate::BufferPool`].
    pub fn wait<'a, T>(&self, changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        changed.wait_timeout(guard, POLL).unwrap_or_else(PoisonError::into_inner).0
    }

    /// # Errors
    /// [`IoError::Cancelled`] once the flag is set.
    pub(crate) fn check(&self) -> Result<(), IoError> {
        if self.is_cancelled() { Err(IoError::Cancelled) } else { Ok(()) }
    }

    /// Waits for the flag. It needs a runtime of `tokio` with timers.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs `work` until the flag is set.
    pub(crate) async fn unless<T, E: From<IoError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(IoError::Cancelled.into()),
            result = work => result,
        }
    }

    /// Runs `work` that takes effect on a server: once the flag is set, it has `grace` to end.
    pub(crate) async fn unless_after<T>(
        &self,
        grace: Duration,
        work: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        tokio::select! {
            biased;
            result = work => result,
            () = async { self.cancelled().await; tokio::time::sleep(grace).await } => {
                Err(IoError::Cancelled)
            }
        }
    }
}

/// Bytes done so far, for progress displays; clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes done.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}
