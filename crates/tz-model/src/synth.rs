//! Synthetic checkpoints: real families' names and shapes with random weights. Owns [`synthesize`]: who writes what,
//! on how many threads.

mod files;
mod preset;
mod torch_writer;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tz_io::{Cancel, create_folders};

use crate::error::Error;
use crate::safetensors_plan::{DEFAULT_MAX_SHARD_BYTES, ShardedPlan};
use crate::safetensors_writer::{Durability, ShardedWriter, withdraw};

pub use preset::Preset;
use torch_writer::TorchWriter;
use weights::{BLOCK_BYTES, Weights};

/// How a synthetic checkpoint is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SynthOptions {
    /// The same seed gives the same bytes, on any machine and any number of threads. Default 0.
    pub seed: u64,
    /// Threads that generate and write. Default: as many as the machine has cores.
    pub threads: usize,
    /// Most bytes of data in one shard. Default 5 GB.
    pub max_shard_bytes: u64,
    /// Format of the weights. Default safetensors.
    pub format: SynthFormat,
    /// Whether to wait for the disk. Default not: the files can be made again.
    pub durability: Durability,
    /// Ends the work at its next block when set; no weights are left then.
    pub cancel: Cancel,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_shard_bytes: DEFAULT_MAX_SHARD_BYTES,
            format: SynthFormat::Safetensors,
            durability: Durability::Cached,
            cancel: Cancel::default(),
        }
    }
}

impl SynthOptions {
    /// Sets the seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the flag that ends the work early.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Sets the format of the weights.
    #[must_use]
    pub fn with_format(mut self, format: SynthFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets the shard size.
    #[must_use]
    pub fn with_max_shard_bytes(mut self, bytes: u64) -> Self {
        self.max_shard_bytes = bytes;
        self
    }
}

/// Format of a synthetic checkpoint's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynthFormat {
    /// `model.safetensors`, or shards with their index.
    Safetensors,
    /// `pytorch_model.bin`, one file as `torch.save` writes it: what some old models have and nothing else.
    PyTorch,
}

/// A writer of either format.
#[derive(Debug)]
enum Writer {
    Safetensors(ShardedWriter),
    PyTorch(TorchWriter),
}

impl Writer {
    fn create(dir: &Path, preset: &Preset, options: &SynthOptions) -> Result<Self, Error> {
        let decls = preset.tensors();
        create_folders(dir, options.durability == Durability::Synced)
            .map_err(|error| Error::io(dir, "create", error))?;
        Ok(match options.format {
            SynthFormat::Safetensors => {
                let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
                let plan = ShardedPlan::new(dir, decls, &metadata, options.max_shard_bytes)?;
                Self::Safetensors(ShardedWriter::create(dir, plan, options.durability)?)
            }
            SynthFormat::PyTorch => {
                let path = dir.join("pytorch_model.bin");
                Self::PyTorch(TorchWriter::create(&path, decls, options.durability)?)
            }
        })
    }

    fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<(), Error> {
        match self {
            Self::Safetensors(writer) => writer.write_at(tensor, offset, data),
            Self::PyTorch(writer) => writer.write_at(tensor, offset, data),
        }
    }

    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Safetensors(writer) => writer.finish(),
            Self::PyTorch(writer) => writer.finish(),
        }
    }
}

/// A piece of one tensor that one thread makes and writes at once.
#[derive(Debug, Clone, Copy)]
struct Job {
    tensor: usize,
    offset: u64,
    len: usize,
}

/// Writes a checkpoint directory: configuration, tokenizer stubs, and the weights in the format asked for. The directory is created if missing. Returns the bytes of all tensors.
///
/// # Errors
/// [`Error`] where the directory cannot be written; [`Error::Cancelled`].
pub fn synthesize(dir: &Path, preset: &Preset, options: &SynthOptions) -> Result<u64, Error> {
    let decls = preset.tensors();
    let writer = Writer::create(dir, preset, options)?;
    let weights: Vec<Weights> = decls.iter().map(|decl| Weights::new(decl, options.seed)).collect();
    let mut jobs = Vec::new();
    for (tensor, weights) in weights.iter().enumerate() {
        let mut offset = 0;
        while offset < weights.byte_len() {
            let len = (weights.byte_len() - offset).min(BLOCK_BYTES);
            jobs.push(Job { tensor, offset, len: usize::try_from(len).unwrap_or(usize::MAX) });
            offset += len;
        }
    }
    run(&jobs, options.threads, |job, block| {
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if let Some(weights) = weights.get(job.tensor) {
            weights.fill(job.offset / BLOCK_BYTES, block);
        }
        writer.write_at(job.tensor, job.offset, block)
    })?;
    let small = files::write(dir, preset, options.durability)?;
    writer.finish().inspect_err(|_| withdraw(&small))?;
    Ok(weights.iter().map(Weights::byte_len).sum())
}

/// Runs every job on one of `threads`, each with its own block; the first failure stops the others.
fn run(
    jobs: &[Job],
    threads: usize,
    work: impl Fn(&Job, &mut [u8]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let worker = || {
        let mut block = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            block.resize(job.len, 0);
            if let Err(error) = work(job, &mut block) {
                next.store(jobs.len(), Ordering::Relaxed);
                if let Ok(mut slot) = failure.lock() {
                    slot.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        // A poisoned lock means that a worker panicked, which `scope` has already passed on.
        Ok(None) | Err(_) => Ok(()),
    }
}
