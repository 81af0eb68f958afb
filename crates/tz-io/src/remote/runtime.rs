//! The runtime that drives connections. Owns [`block_on`]: blocking readers wait for asynchronous transfers; and
//! [`guarded`]: a panic in a library below ends as an error.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};

use super::retry::Failure;
use crate::error::IoError;

/// Started with the first remote location; local work never pays for it.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Runs `work` to its end on the calling thread; connections are driven by the runtime's own threads.
///
/// # Panics
/// Where the system gives no thread for the runtime, or inside an asynchronous task: such a caller must use
/// `spawn_blocking`.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

/// As [`block_on`], for work on the object of this name that libraries have a part in.
pub(crate) fn run<T>(
    name: &str,
    doing: &'static str,
    work: impl Future<Output = Result<T, IoError>>,
) -> Result<T, IoError> {
    block_on(guarded(name, doing, work))
}

/// The same, inside the runtime.
pub(crate) async fn guarded<T>(
    name: &str,
    doing: &'static str,
    work: impl Future<Output = Result<T, IoError>>,
) -> Result<T, IoError> {
    let panicked = |panicked| Err(IoError::io(name, doing)(io::Error::other(panicked)));
    caught(work).await.unwrap_or_else(panicked)
}

/// As [`block_on`], for one try that libraries have a part in.
pub(crate) fn attempt<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on(caught(work)).unwrap_or_else(|panicked| Err(Failure::permanent(panicked)))
}

/// A library panicked, which says on standard error where.
#[derive(Debug, thiserror::Error)]
#[error("the network library panicked, and the request was given up")]
struct Panicked;

/// Runs `work` up to a panic in it. What servers say is checked before a library sees it, and so are the keys that we
/// are given; whatever that misses must not end the process, nor leave anybody waiting for a task that is gone.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // The work is dropped without another look at it.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

pub(crate) fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        let threads = crate::options::available_cores().max(2);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("tz-io")
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime,
            Err(error) => panic!("cannot start the threads that drive connections: {error}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_library_is_an_error() {
        async fn panics(now: bool) -> Result<(), Failure> {
            tokio::task::yield_now().await;
            assert!(!now, "as a library might");
            Ok(())
        }
        attempt(panics(false)).expect("no panic");
        let failure = attempt(panics(true)).expect_err("a panic").into_io();
        assert!(failure.to_string().contains("panicked"), "{failure}");
        let error =
            run("s3://b/k", "read", async { panics(true).await.map_err(|_| unreachable!()) });
        let Err(IoError::Io { location, doing, .. }) = error else { panic!("{error:?}") };
        assert_eq!((&*location, doing), ("s3://b/k", "read"));
    }
}
