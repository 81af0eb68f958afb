//! Runs a list of pieces on several threads. Owns [`for_each`], the only place that starts reader threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::IoError;
use crate::options::Cancel;

/// Calls `work` with every index below `pieces`, each once, claimed in ascending order by `threads` threads; the
/// first error stops the rest and is returned. `make` gives each thread its own state, such as a scratch buffer.
pub(crate) fn for_each<S>(
    pieces: usize,
    threads: usize,
    cancel: &Cancel,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<(), IoError> + Sync,
) -> Result<(), IoError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let run = || {
        let mut state = make();
        while !stop.load(Ordering::Relaxed) {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            if let Err(error) = cancel.check().and_then(|()| work(&mut state, piece)) {
                stop.store(true, Ordering::Relaxed);
                first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        // The calling thread works too: one reader needs no thread at all.
        for _ in 1..threads.min(pieces) {
            scope.spawn(run);
        }
        run();
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
