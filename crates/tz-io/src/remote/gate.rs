//! How many requests are in flight. Owns [`Gate`], which follows the link.
//!
//! It starts low and doubles while doubling raises the throughput; the first doubling that does not is taken back.
//! So a link that one connection fills is not flooded, and a store that serves each connection slowly gets many.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Most requests in flight where the caller does not say.
pub(crate) const CEILING: usize = 32;
/// Requests in flight at the start.
const START: usize = 4;
/// A window shorter than this says nothing about a rate.
const SHORTEST_WINDOW: Duration = Duration::from_millis(50);
/// A doubling must gain this factor to be kept.
const WORTHWHILE: f64 = 1.1;

#[derive(Debug)]
pub(crate) struct Gate {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Permits given out or free; `None` once settled.
    growing: Option<usize>,
    best_rate: f64,
    window: Option<Instant>,
    bytes: u64,
    requests: usize,
    /// Permits to take out of circulation as they come back.
    surplus: usize,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let state = State {
            growing: Some(START),
            best_rate: 0.0,
            window: None,
            bytes: 0,
            requests: 0,
            surplus: 0,
        };
        Self { permits: Semaphore::new(START), state: Mutex::new(state) }
    }

    /// The caller chose: no tuning. Takes effect before the first request of a load.
    pub(crate) fn fix(&self, readers: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = state.growing.take() {
            self.permits.add_permits(readers.saturating_sub(now).min(Semaphore::MAX_PERMITS / 2));
            let fewer = now.saturating_sub(readers);
            state.surplus = fewer - self.permits.forget_permits(fewer);
        }
    }

    /// Waits for a place. The semaphore is never closed.
    pub(crate) async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Notes a finished request and gives its place back.
    pub(crate) fn done(&self, permit: Option<SemaphorePermit<'_>>, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(left), Some(permit)) = (state.surplus.checked_sub(1), permit) {
            state.surplus = left;
            permit.forget();
        }
        let Some(now) = state.growing else { return };
        state.bytes += bytes;
        state.requests += 1;
        let Some(since) = state.window else {
            // The first answers pay for connections; the window opens after them.
            if state.requests >= now {
                (state.window, state.bytes, state.requests) = (Some(Instant::now()), 0, 0);
            }
            return;
        };
        let elapsed = since.elapsed();
        if state.requests < now * 2 || elapsed < SHORTEST_WINDOW {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
        let rate = state.bytes as f64 / elapsed.as_secs_f64();
        (state.window, state.bytes, state.requests) = (None, 0, 0);
        if rate < state.best_rate * WORTHWHILE {
            state.surplus = now / 2 - self.permits.forget_permits(now / 2);
            state.growing = None;
            tracing::debug!(requests_in_flight = now / 2, "concurrency settled");
        } else if now * 2 > CEILING {
            state.growing = None;
        } else {
            state.best_rate = rate;
            state.growing = Some(now * 2);
            self.permits.add_permits(now);
        }
    }
}
