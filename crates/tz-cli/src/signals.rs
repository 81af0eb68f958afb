//! SIGINT and SIGTERM: the first asks the work to stop and clean up, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;
use signal_hook::low_level::emulate_default_handler;
use tz_io::Cancel;

use crate::exit::Exit;

/// Signals of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    cancel: Cancel,
    received: Arc<AtomicI32>,
}

impl Signals {
    /// Starts to listen. Where that is impossible, signals keep their usual effect.
    pub(crate) fn install() -> Self {
        let signals = Self { cancel: Cancel::default(), received: Arc::default() };
        if let Ok(mut incoming) = Incoming::new([SIGINT, SIGTERM]) {
            let (cancel, received) = (signals.cancel.clone(), Arc::clone(&signals.received));
            std::thread::spawn(move || {
                for signal in incoming.forever() {
                    if received.swap(signal, Ordering::SeqCst) != 0 {
                        // Returns only where the signal cannot end the process, and then the work goes on stopping.
                        let _ = emulate_default_handler(signal);
                    }
                    cancel.cancel();
                }
            });
        }
        signals
    }

    /// Set by the first signal.
    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The exit that a received signal asks for.
    pub(crate) fn received(&self) -> Option<Exit> {
        match self.received.load(Ordering::SeqCst) {
            0 => None,
            SIGTERM => Some(Exit::Terminated),
            _ => Some(Exit::Interrupted),
        }
    }
}
