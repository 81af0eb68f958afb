//! How many requests are in flight. Owns [`Gate`], which follows the link.
//!
//! It starts at what a fast server needs and doubles while doubling raises the throughput; the first doubling that does
//! not is taken back. Where no request is done after a while, it doubles without waiting for more. So a link that one
//! connection fills is not flooded, and a store that serves each connection slowly gets many.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Most requests in flight where the caller does not say.
pub(crate) const CEILING: usize = 32;
/// Requests in flight at the start: most loads are over before the number has found itself. Over loopback, 512 MiB in
/// requests of 16 MiB, medians of nine: nginx takes 0.136 s with 4, 0.138 s with 8 and 0.130 s with 16; Garage, which
/// reads a whole block before it answers, 0.406 s with 4, 0.386 s with 8, 0.394 s with 12 and 0.415 s with 16.
const START: usize = 8;
/// A link where no request is done after this long serves each connection slowly, below 80 MiB/s: as object stores do.
const PATIENCE: Duration = Duration::from_millis(200);
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

impl State {
    /// Whether no request is done and nothing has been decided.
    fn is_fresh(&self) -> bool {
        self.tuning && self.window.is_none() && self.requests == 0 && self.places == START
    }
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
        if self.state().is_fresh() {
            match tokio::time::timeout(PATIENCE, self.permits.acquire()).await {
                Ok(permit) => return permit.ok(),
                Err(_) => self.hurry(),
            }
        }
        self.permits.acquire().await.ok()
    }

    /// Doubles, once, where nothing is done yet.
    fn hurry(&self) {
        let mut state = self.state();
        if state.is_fresh() {
            self.resize(&mut state, START * 2);
            tracing::debug!(requests_in_flight = state.places, "a slow start");
        }
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

    /// Takes every place there is.
    async fn exhausted(gate: &Gate) -> Vec<Option<SemaphorePermit<'_>>> {
        let mut permits = Vec::new();
        while gate.permits.available_permits() > 0 {
            permits.push(gate.acquire().await);
        }
        permits
    }

    #[tokio::test]
    async fn a_link_that_brings_nothing_for_a_while_gets_more_requests_once() {
        let gate = Gate::new();
        let first = exhausted(&gate).await;
        let begin = Instant::now();
        let one_more = gate.acquire().await;
        assert!(one_more.is_some() && begin.elapsed() >= PATIENCE);
        let second = exhausted(&gate).await;
        assert_eq!(first.len() + 1 + second.len(), START * 2);
        gate.hurry();
        assert_eq!(gate.permits.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_link_that_has_brought_something_is_not_hurried() {
        let gate = Gate::new();
        gate.done(gate.acquire().await, 1);
        gate.hurry();
        assert_eq!(gate.permits.available_permits(), START);
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
