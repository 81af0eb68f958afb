//! How many requests are in flight. Owns [`Gate`], which follows the link.
//!
//! It starts at what a fast server needs and doubles while doubling raises the throughput; the first doubling that does not is taken back.
//! So a link that one connection fills is not flooded, and a store that serves each connection slowly gets many.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Most requests in flight where the caller does not say.
pub(crate) const CEILING: usize = 32;
/// Requests in flight at the start. Over loopback from nginx, 512 MiB in requests of 16 MiB, medians of seven: 0.24 s
/// with 4 in flight, 0.20 s with 8, 0.18 s with 16; most loads are over before the number has found itself.
const START: usize = 16;
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
    /// Requests that may be in flight once the surplus is gone.
    places: usize,
    /// Permits to take out of circulation as they come back.
    surplus: usize,
    /// Whether the number still follows the link.
    tuning: bool,
    best_rate: f64,
    window: Option<Instant>,
    bytes: u64,
    requests: usize,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let state = State {
            places: START,
            surplus: 0,
            tuning: true,
            best_rate: 0.0,
            window: None,
            bytes: 0,
            requests: 0,
        };
        Self { permits: Semaphore::new(START), state: Mutex::new(state) }
    }

    /// The caller chose, for the loads from now on: no tuning.
    pub(crate) fn fix(&self, readers: usize) {
        let mut state = self.state();
        state.tuning = false;
        self.resize(&mut state, readers.clamp(1, Semaphore::MAX_PERMITS / 2));
    }

    /// Waits for a place. The semaphore is never closed.
    pub(crate) async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Notes a finished request and gives its place back.
    pub(crate) fn done(&self, permit: Option<SemaphorePermit<'_>>, bytes: u64) {
        let mut state = self.state();
        if let (Some(left), Some(permit)) = (state.surplus.checked_sub(1), permit) {
            state.surplus = left;
            permit.forget();
        }
        self.tune(&mut state, bytes, Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, state: &mut State, places: usize) {
        match places.checked_sub(state.places) {
            Some(more) => {
                let kept = more.min(state.surplus);
                state.surplus -= kept;
                self.permits.add_permits(more - kept);
            }
            None => {
                let fewer = state.places - places;
                state.surplus += fewer - self.permits.forget_permits(fewer);
            }
        }
        state.places = places;
    }

    fn tune(&self, state: &mut State, bytes: u64, now: Instant) {
        if !state.tuning {
            return;
        }
        state.bytes += bytes;
        state.requests += 1;
        let Some(since) = state.window else {
            // The first answers pay for connections; the window opens after them.
            if state.requests >= state.places {
                (state.window, state.bytes, state.requests) = (Some(now), 0, 0);
            }
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if state.requests < state.places * 2 || elapsed < SHORTEST_WINDOW {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
        let rate = state.bytes as f64 / elapsed.as_secs_f64();
        (state.window, state.bytes, state.requests) = (None, 0, 0);
        if rate < state.best_rate * WORTHWHILE {
            state.tuning = false;
            self.resize(state, state.places / 2);
            tracing::debug!(requests_in_flight = state.places, "concurrency settled");
        } else if state.places * 2 > CEILING {
            state.tuning = false;
        } else {
            state.best_rate = rate;
            self.resize(state, state.places * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places after many requests over a link that gains nothing from more than `useful` connections.
    fn settled(useful: usize) -> usize {
        const PIECE: u64 = 8 << 20;
        let gate = Gate::new();
        let mut now = Instant::now();
        for _ in 0..1000 {
            let mut state = gate.state();
            // 64 MiB/s a connection.
            now += Duration::from_millis(125) / u32::try_from(state.places.min(useful)).unwrap();
            gate.tune(&mut state, PIECE, now);
            assert!(state.places <= CEILING);
        }
        let state = gate.state();
        assert!(!state.tuning);
        assert_eq!(gate.permits.available_permits(), state.places + state.surplus);
        state.places
    }

    #[test]
    fn concurrency_follows_the_link() {
        assert_eq!(settled(1), START, "one connection fills the link");
        assert_eq!(settled(START), START);
        assert_eq!(settled(1000), CEILING, "every connection is slow");
    }

    #[test]
    fn a_caller_may_choose_more_than_once() {
        let gate = Gate::new();
        for readers in [1, 40, 3, 7, 7, 0] {
            gate.fix(readers);
            assert_eq!(gate.permits.available_permits(), readers.max(1));
        }
    }

    #[tokio::test]
    async fn places_in_use_go_as_they_come_back() {
        let gate = Gate::new();
        gate.fix(3);
        let (first, second, third) =
            (gate.acquire().await, gate.acquire().await, gate.acquire().await);
        gate.fix(1);
        gate.done(first, 1);
        assert_eq!(gate.permits.available_permits(), 0, "one is allowed and two are out");
        gate.fix(2);
        gate.done(second, 1);
        assert_eq!(gate.permits.available_permits(), 1);
        gate.done(third, 1);
        assert_eq!(gate.permits.available_permits(), 2);
    }
}
