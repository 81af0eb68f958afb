//! Which failures are worth another try, and when. Owns [`Failure`] and [`Retries`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode, header};

use super::client::Counters;
use super::options::RemoteOptions;
use super::patience::Patience;
use crate::error::IoError;
use crate::options::Cancel;

/// First wait; doubles with every retry.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait, also where a server asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Most retries where nothing accepts connections, 3 s in all: a server that is being replaced is back by then, and a
/// wrong address never heals.
const UNREACHED: u32 = 5;

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    source: io::Error,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Another try may succeed; the server may have said when.
    Transient(Option<Duration>),
    /// Nobody was there to answer; the server has seen nothing.
    Unreachable,
    /// Another try would fail the same way.
    Permanent,
    /// The object is no longer the one that was opened.
    Changed,
    /// The work was told to stop.
    Cancelled,
}

impl From<IoError> for Failure {
    fn from(error: IoError) -> Self {
        let kind = match error {
            IoError::Cancelled => Kind::Cancelled,
            _ => Kind::Permanent,
        };
        Self { kind, source: io::Error::other(error) }
    }
}

impl Failure {
    pub(crate) fn transient(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Transient(None), source: io::Error::other(why) }
    }

    pub(crate) fn stalled(after: Duration) -> Self {
        let why = format!("no bytes for {after:?}");
        Self { kind: Kind::Transient(None), source: io::Error::new(io::ErrorKind::TimedOut, why) }
    }

    pub(crate) fn crawling(bytes: u64, time: Duration) -> Self {
        let why = format!("only {bytes} bytes in {time:.1?}");
        Self { kind: Kind::Transient(None), source: io::Error::new(io::ErrorKind::TimedOut, why) }
    }

    pub(crate) fn unreachable(why: String) -> Self {
        Self { kind: Kind::Unreachable, source: io::Error::other(why) }
    }

    pub(crate) fn late() -> Self {
        let why = "the transfer was still under way";
        Self { kind: Kind::Transient(None), source: io::Error::new(io::ErrorKind::TimedOut, why) }
    }

    pub(crate) fn busy(why: String, retry_after: Option<Duration>) -> Self {
        Self {
            kind: Kind::Transient(retry_after),
            source: io::Error::new(io::ErrorKind::ResourceBusy, why),
        }
    }

    pub(crate) fn permanent(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Permanent, source: io::Error::other(why) }
    }

    pub(crate) fn refused(kind: io::ErrorKind, why: String) -> Self {
        Self { kind: Kind::Permanent, source: io::Error::new(kind, why) }
    }

    pub(crate) fn changed() -> Self {
        Self { kind: Kind::Changed, source: io::Error::other("the object was replaced") }
    }

    /// A range that is not there, of an object that may be empty.
    pub(crate) fn unsatisfiable() -> Self {
        let why = format!("the server answered {}", StatusCode::RANGE_NOT_SATISFIABLE);
        Self::refused(io::ErrorKind::UnexpectedEof, why)
    }

    pub(crate) fn is_unsatisfiable(&self) -> bool {
        self.kind == Kind::Permanent && self.source.kind() == io::ErrorKind::UnexpectedEof
    }

    /// Whether nothing came for the stall timeout.
    pub(crate) fn is_stall(&self) -> bool {
        self.source.kind() == io::ErrorKind::TimedOut
    }

    /// Whether the server said so, and did nothing else.
    pub(crate) fn is_answer(&self) -> bool {
        self.source.kind() == io::ErrorKind::ResourceBusy
    }

    pub(crate) fn into_io(self) -> io::Error {
        self.source
    }

    pub(crate) fn into_error(self, location: &str, doing: &'static str) -> IoError {
        match self.kind {
            Kind::Changed => IoError::Changed { location: location.to_owned() },
            Kind::Cancelled => IoError::Cancelled,
            _ => IoError::io(location, doing)(self.source),
        }
    }
}

/// What a status other than success means for another try.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap, conditional: bool) -> Failure {
    let why = format!("the server answered {status}");
    match status {
        StatusCode::PRECONDITION_FAILED if conditional => Failure::changed(),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Failure::busy(why, retry_after(headers))
        }
        StatusCode::NOT_IMPLEMENTED => Failure::permanent(why),
        _ if status.is_server_error() => Failure::busy(why, retry_after(headers)),
        StatusCode::NOT_FOUND => Failure::refused(io::ErrorKind::NotFound, why),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::refused(io::ErrorKind::PermissionDenied, why)
        }
        StatusCode::RANGE_NOT_SATISFIABLE if conditional => Failure::changed(),
        _ => Failure::permanent(why),
    }
}

/// Seconds; the HTTP-date form is rare and waits as usual.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Tries left for one range.
#[derive(Debug)]
pub(crate) struct Retries {
    left: u32,
    most: u32,
    /// Tries in a row that reached nobody.
    unreached: u32,
    pub(crate) patience: Patience,
    counters: Arc<Counters>,
}

impl Retries {
    /// What `options` allow a request that `cancel` ends.
    pub(crate) fn new(options: &RemoteOptions, cancel: Cancel, counters: Arc<Counters>) -> Self {
        let deadline = options.deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let patience = Patience { stall_timeout: options.stall_timeout, deadline, cancel };
        Self { left: options.retries, most: options.retries, unreached: 0, patience, counters }
    }

    /// With so many retries instead.
    pub(crate) fn at_most(mut self, retries: u32) -> Self {
        (self.left, self.most) = (retries, retries);
        self
    }

    /// Waits before the next try. Progress since the last one restores the tries: a slow, flaky link that moves is
    /// not given up.
    ///
    /// # Errors
    /// The failure, where another try is pointless or none is left.
    pub(crate) async fn wait(
        &mut self,
        failure: Failure,
        progress: bool,
        location: &str,
    ) -> Result<(), IoError> {
        if progress {
            self.left = self.most;
        }
        let Some(wait) = self.next(&failure) else {
            return Err(failure.into_error(location, "read"));
        };
        let deadline = self.patience.deadline;
        if deadline.is_some_and(|deadline| Instant::now() + wait > deadline) {
            return Err(failure.into_error(location, "read within the deadline"));
        }
        self.counters.retries.add(1);
        tracing::debug!(location, error = %failure.source, wait_ms = wait.as_millis(), "retrying");
        let slept = async {
            tokio::time::sleep(wait).await;
            Ok(())
        };
        self.patience.cancel.unless(slept).await
    }
}

impl Retries {
    /// The wait before another try, where there is to be one.
    fn next(&mut self, failure: &Failure) -> Option<Duration> {
        self.unreached = match failure.kind {
            Kind::Unreachable => self.unreached + 1,
            _ => 0,
        };
        let left = self.left.checked_sub(1)?;
        let wait = match failure.kind {
            Kind::Transient(retry_after) => pause(self.most - self.left, retry_after),
            Kind::Unreachable if self.unreached <= UNREACHED => pause(self.unreached - 1, None),
            _ => return None,
        };
        self.left = left;
        Some(wait)
    }
}

/// Exponential backoff with full jitter above half, unless the server said how long.
fn pause(retry: u32, retry_after: Option<Duration>) -> Duration {
    let doubled =
        FIRST_WAIT.saturating_mul(1_u32.checked_shl(retry).unwrap_or(u32::MAX)).min(LONGEST_WAIT);
    let jittered = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
    retry_after.map_or(jittered, |asked| asked.min(LONGEST_WAIT).max(jittered.min(FIRST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries() -> Retries {
        Retries::new(&RemoteOptions::default(), Cancel::default(), Arc::default())
    }

    #[test]
    fn nobody_there_is_not_asked_for_long() {
        let refused = || Failure::unreachable("connection refused".to_owned());
        let mut tries = retries();
        let waits: Vec<Duration> = std::iter::from_fn(|| tries.next(&refused())).collect();
        assert_eq!(waits.len(), 5);
        assert!(waits.iter().sum::<Duration>() <= Duration::from_millis(3100), "{waits:?}");
        // Somebody who answers, if only that it is busy, gets all tries.
        let mut tries = retries();
        let mut count = 0;
        while tries.next(&Failure::busy(String::new(), None)).is_some() {
            count += 1;
        }
        assert_eq!(count, 8);
        // In between, it is asked anew.
        let mut tries = retries();
        for _ in 0..3 {
            assert!(tries.next(&refused()).is_some());
            assert!(tries.next(&Failure::busy(String::new(), None)).is_some());
        }
    }

    #[test]
    fn what_is_cancelled_is_not_tried_again() {
        let failure: Failure = IoError::Cancelled.into();
        assert!(retries().next(&failure).is_none());
        assert!(matches!(failure.into_error("place", "read"), IoError::Cancelled));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_obey_the_server() {
        for retry in 0..40 {
            let wait = pause(retry, None);
            let full = FIRST_WAIT
                .saturating_mul(1_u32.checked_shl(retry).unwrap_or(u32::MAX))
                .min(LONGEST_WAIT);
            assert!(wait >= full / 2 && wait <= full, "{retry}: {wait:?}");
        }
        assert_eq!(pause(0, Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(pause(0, Some(Duration::from_secs(3600))), LONGEST_WAIT);
    }
}
