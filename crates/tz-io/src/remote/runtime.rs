//! The runtime that drives connections. Owns [`block_on`]: blocking readers wait for asynchronous transfers.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

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
