//! How long a wait for a server may take. Owns [`Patience`], the bounds of one wait, and [`Pace`], the speed of a
//! transfer.

use std::io;
use std::time::{Duration, Instant};

use super::retry::Failure;
use crate::error::IoError;
use crate::options::{Cancel, POLL};

/// Bytes per second below which a transfer counts as stalled: a thousandth of what any link brings, and far above a
/// server that sends a byte now and then to keep a connection.
const SLOWEST: u64 = 32;

/// Bounds of the waits for one answer.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    pub(crate) stall_timeout: Duration,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Cancel,
}

impl Patience {
    /// Whether the work is cancelled or the deadline has passed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(IoError::Cancelled.into());
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Failure::late()),
            _ => Ok(()),
        }
    }

    /// How long a call may block before [`Self::check`] is due. Sockets take no timeout of zero.
    pub(crate) fn look(&self) -> Duration {
        self.stall_timeout.clamp(Duration::from_millis(1), POLL)
    }

    /// Runs one wait until the work is cancelled or the deadline has passed: a transfer that crawls never stalls.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let work = self.cancel.unless(work);
        match self.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(result) => result,
                Err(_) => Err(Failure::late()),
            },
            None => work.await,
        }
    }
}

/// Tells a transfer that moves from one that does not.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the last byte came.
    last: Instant,
    /// Bytes since then, looked at once per stall timeout.
    window: (Instant, u64),
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { last: now, window: (now, 0) }
    }

    /// Fails where no byte has come for the stall timeout.
    pub(crate) fn silent(&self, stall_timeout: Duration) -> Result<(), Failure> {
        if self.last.elapsed() < stall_timeout {
            Ok(())
        } else {
            Err(Failure::stalled(stall_timeout))
        }
    }

    /// Notes bytes that came. Fails where those of a whole stall timeout are next to none.
    pub(crate) fn came(&mut self, bytes: usize, stall_timeout: Duration) -> Result<(), Failure> {
        self.last = Instant::now();
        self.window.1 += bytes as u64;
        let (start, came) = self.window;
        let time = self.last.saturating_duration_since(start);
        if time < stall_timeout {
            return Ok(());
        }
        self.window = (self.last, 0);
        if u128::from(came) * 1000 < u128::from(SLOWEST) * stall_timeout.as_millis() {
            return Err(Failure::crawling(came, time));
        }
        Ok(())
    }
}

/// Whether a socket's error only says that its timeout has passed.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_is_no_transfer() {
        let timeout = Duration::from_secs(30);
        let Some(before) = Instant::now().checked_sub(timeout) else { return };
        for (bytes, moves) in [(1, false), (900, false), (1000, true), (1 << 20, true)] {
            let mut pace = Pace { last: before, window: (before, 0) };
            assert_eq!(pace.came(bytes, timeout).is_ok(), moves, "{bytes}");
            // What came is forgotten with its window.
            assert_eq!(pace.window.1, 0, "{bytes}");
        }
        let mut pace = Pace::new();
        assert!(pace.came(1, timeout).is_ok(), "the timeout has not passed");
    }
}
