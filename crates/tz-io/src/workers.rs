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
                let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                // A failure wakes workers that wait for the failed one. They give up as if cancelled, and may be
                // the first to say so.
                if first.as_ref().is_none_or(|first| matches!(first, IoError::Cancelled)) {
                    *first = Some(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        // The calling thread works too: one reader needs no thread at all.
        for _ in 1..threads.min(pieces) {
            // Where the system gives no more threads, those that there are do the work.
            if std::thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, mpsc};

    /// Tells when its worker is done: its error has been noted by then.
    struct Done(mpsc::SyncSender<()>);

    impl Drop for Done {
        fn drop(&mut self) {
            // Nobody listens for the second worker's end.
            let _ = self.0.try_send(());
        }
    }

    #[test]
    fn a_failure_is_told_even_after_one_who_gave_up_because_of_it() {
        let (done, other_is_done) = mpsc::sync_channel(2);
        let other_is_done = Mutex::new(other_is_done);
        let both_at_work = Barrier::new(2);
        let result = for_each(
            2,
            2,
            &Cancel::default(),
            || Done(done.clone()),
            |_, piece| {
                both_at_work.wait();
                if piece == 0 {
                    return Err(IoError::Cancelled);
                }
                other_is_done.lock().unwrap().recv().unwrap();
                Err(IoError::KeyMissing { location: "here".to_owned() })
            },
        );
        assert!(matches!(result, Err(IoError::KeyMissing { .. })), "{result:?}");
    }
}
