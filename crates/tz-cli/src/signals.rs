//! What ends a command early: SIGINT, SIGTERM and the deadline. Owns [`Signals`].
//!
//! The first of them asks the work to stop and clean up. Work that has not ended after [`GRACE`], whatever it waits for,
//! is abandoned: temporary files are removed and the process ends, a second after the signal at most. A second signal
//! skips the wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;
use signal_hook::low_level;
use tz_io::{Cancel, remove_leftovers};

use crate::error::Failure;
use crate::exit::Exit;
use crate::output::{Output, say};

/// Time that the work gets to stop by itself. The rest of the second is for removing what it leaves.
const GRACE: Duration = Duration::from_millis(600);
/// Time that last words get: nobody may be reading standard error.
const WORDS: Duration = Duration::from_millis(100);

/// Why the work was told to stop.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Signal(i32),
    Deadline(Duration, Output),
}

/// Signals of this process, and its deadline.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    cancel: Cancel,
    cause: Arc<OnceLock<Cause>>,
    told: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen. Where that is impossible, signals keep their usual effect.
    pub(crate) fn install() -> Self {
        let signals = Self::default();
        if let Ok(mut incoming) = Incoming::new([SIGINT, SIGTERM]) {
            let signals = signals.clone();
            thread::spawn(move || {
                for signal in incoming.forever() {
                    signals.stop(Cause::Signal(signal));
                }
            });
        }
        signals
    }

    /// Ends the command when `deadline` has passed since `start`.
    pub(crate) fn end_after(&self, deadline: Duration, start: Instant, output: Output) {
        let signals = self.clone();
        thread::spawn(move || {
            thread::sleep(deadline.saturating_sub(start.elapsed()));
            // A signal that came first is what ends the command.
            if signals.cause.get().is_none() {
                signals.stop(Cause::Deadline(deadline, output));
            }
        });
    }

    /// Set by the first cause.
    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The exit of a command that failed after it was told to stop: what failed then is a consequence.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let cause = *self.cause.get()?;
        self.tell(cause);
        Some(cause.exit())
    }

    fn stop(&self, cause: Cause) {
        let is_first = self.cause.set(cause).is_ok();
        self.cancel.cancel();
        if !is_first {
            self.abandon();
        }
        let signals = self.clone();
        let wait = move || {
            thread::sleep(GRACE);
            signals.abandon();
        };
        if thread::Builder::new().spawn(wait).is_err() {
            self.abandon();
        }
    }

    /// Says, once, what a signal leaves unsaid.
    fn tell(&self, cause: Cause) {
        if let Cause::Deadline(deadline, output) = cause
            && !self.told.swap(true, Ordering::Relaxed)
        {
            output.failure(&Failure::deadline(deadline));
        }
    }

    /// Ends the process although work is under way.
    fn abandon(&self) {
        let Some(&cause) = self.cause.get() else { return };
        let stays = remove_leftovers();
        // On a thread of its own: standard error may be a pipe that nobody reads, or locked by who waits for one.
        let (told, is_told) = mpsc::channel();
        let signals = self.clone();
        let words = move || {
            stays.iter().for_each(|words| say(&format!("warning: {words}")));
            signals.tell(cause);
            // Nobody waits any more if this took too long.
            let _ = told.send(());
        };
        if thread::Builder::new().spawn(words).is_ok() {
            let _ = is_told.recv_timeout(WORDS);
        }
        // Without what runs at an exit, which may wait for the very threads that are abandoned.
        low_level::exit(cause.exit().code().into());
    }
}

impl Cause {
    fn exit(self) -> Exit {
        match self {
            Self::Signal(SIGTERM) => Exit::Terminated,
            Self::Signal(_) => Exit::Interrupted,
            Self::Deadline(..) => Exit::Io,
        }
    }
}
