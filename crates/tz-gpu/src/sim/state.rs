//! What a simulated device is doing: work waiting on streams, calls counted, memory in use. Owns `State`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::{Block, addresses};
use super::{SimCall, SimEvent, SimOptions, SimUsage};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: SimOptions,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) random: u64,
    pub(super) calls: Vec<(SimCall, u64)>,
    pub(super) streams: Vec<StreamState>,
    pub(super) failed: bool,
    pub(super) violations: Vec<String>,
    pub(super) usage: SimUsage,
    /// Where pinned buffers begin and end, and whether anything was copied from them.
    pub(super) buffers: BTreeMap<usize, (usize, bool)>,
}

#[derive(Debug, Default)]
pub(super) struct StreamState {
    pub(super) waiting: VecDeque<Work>,
    pub(super) queued: u64,
    pub(super) done: u64,
}

#[derive(Debug)]
pub(super) struct Work {
    /// Steps until it runs.
    pub(super) steps: u64,
    /// Host addresses that it reads.
    pub(super) source: Range<usize>,
    pub(super) bytes: Vec<u8>,
    pub(super) target: Arc<Block>,
    pub(super) offset: usize,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is being done to host memory that a copy still reads.
    pub(super) fn watch_host(&self, memory: &[u8], doing: &str) {
        let mut state = self.lock();
        let used = addresses(memory);
        let overlaps = |work: &&Work| work.source.start < used.end && used.start < work.source.end;
        let waiting = state.streams.iter().flat_map(|stream| &stream.waiting);
        let reading = waiting.filter(overlaps).count();
        if reading > 0 {
            let violation = format!("{doing} a buffer that {reading} copies still read");
            state.violations.push(violation);
        }
    }
}

impl State {
    /// The next number of a xorshift generator; a seed of zero is replaced.
    pub(super) fn random(&mut self) -> u64 {
        let mut x = self.random.max(1);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }

    pub(super) fn is_due(&mut self, call: SimCall, options: &SimOptions) -> bool {
        let count = match self.calls.iter_mut().find(|(counted, _)| *counted == call) {
            Some((_, count)) => count,
            None => {
                self.calls.push((call, 0));
                match self.calls.last_mut() {
                    Some((_, count)) => count,
                    None => return false,
                }
            }
        };
        *count += 1;
        options.failures.contains(&(call, *count))
    }

    /// Counts the buffer that is copied from, once.
    pub(super) fn note_source(&mut self, source: Range<usize>) {
        let buffer = self.buffers.range_mut(..=source.start).next_back();
        if let Some((_, (end, used))) = buffer
            && source.end <= *end
            && !std::mem::replace(used, true)
        {
            self.usage.buffers_used += 1;
        }
    }

    /// Does all work on all streams.
    pub(super) fn run_all(&mut self, options: &SimOptions) {
        while self.streams.iter().any(|stream| !stream.waiting.is_empty()) {
            self.step(options);
        }
    }

    /// Lets one stream that has work, any, take a step.
    pub(super) fn step(&mut self, options: &SimOptions) {
        let busy = |(_, stream): &(usize, &StreamState)| !stream.waiting.is_empty();
        let busy = self.streams.iter().enumerate().filter(busy).map(|(i, _)| i);
        let busy: Vec<usize> = busy.collect();
        let chosen = self.random() % (busy.len() as u64).max(1);
        if let Some(&chosen) = usize::try_from(chosen).ok().and_then(|chosen| busy.get(chosen)) {
            self.step_stream(chosen, options);
        }
    }

    pub(super) fn step_stream(&mut self, chosen: usize, options: &SimOptions) {
        let Some(stream) = self.streams.get_mut(chosen) else {
            return;
        };
        let Some(front) = stream.waiting.front_mut() else {
            return;
        };
        front.steps = front.steps.saturating_sub(1);
        if front.steps > 0 {
            return;
        }
        stream.done += 1;
        let Some(work) = stream.waiting.pop_front() else {
            return;
        };
        if self.is_due(SimCall::LateCopy, options) {
            self.failed = true;
            return;
        }
        let mut target = work.target.lock();
        let range = work.offset..work.offset.saturating_add(work.bytes.len());
        if let Some(target) = target.get_mut(range) {
            target.copy_from_slice(&work.bytes);
        }
    }

    pub(super) fn is_done(&self, event: SimEvent) -> bool {
        let stream = self.streams.get(event.stream);
        stream.is_none_or(|stream| stream.done >= event.after)
    }
}
