//! Runs independent pieces of work on several threads. Owns [`for_each`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tz_io::Cancel;

use crate::error::Failure;

/// Calls `work` once with every index below `count`, claimed in ascending order by `threads` threads. The first
/// failure stops the rest and is returned.
pub(crate) fn for_each(
    count: usize,
    threads: usize,
    cancel: &Cancel,
    work: impl Fn(usize) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let first = Mutex::new(None);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result =
                if cancel.is_cancelled() { Err(Failure::cancelled()) } else { work(index) };
            if let Err(failure) = result {
                next.store(count, Ordering::Relaxed);
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(run);
        }
        run();
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_once_and_the_first_failure_ends_it() {
        let seen: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        for_each(100, 4, &Cancel::default(), |i| {
            seen[i].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));

        let after = AtomicUsize::new(0);
        let result = for_each(1000, 1, &Cancel::default(), |i| {
            after.store(i, Ordering::Relaxed);
            if i == 3 { Err(Failure::cancelled()) } else { Ok(()) }
        });
        assert!(result.is_err());
        assert_eq!(after.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_set_flag_stops_before_the_first() {
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(for_each(1, 1, &cancel, |_| panic!("ran")).is_err());
    }
}
