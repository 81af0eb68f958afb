//! `deserialize`: tensors into memory, with figures, or out as safetensors.

mod export;
mod gpu;

use std::time::{Duration, Instant};

use tz_gpu::DeviceId;
use tz_io::ReadStats;

use crate::args::{DtypeArgs, EffortArgs, FilterArgs, VerifyArgs, size};
use crate::error::Failure;
use crate::job::Session;
use crate::load::{load, map};
use crate::process;
use crate::report::{Loading, phases, rate};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli deserialize model.tensors
  tz-cli deserialize model.tensors --to model.safetensors
  tz-cli deserialize model.tensors --to checkpoint/ --max-shard-size 2GB
  tz-cli deserialize model.tensors --memory-limit 64MiB --num-readers 4
  tz-cli deserialize model.tensors --device cuda:0 --dtype bfloat16
  tz-cli deserialize model.tensors --mmap
  zstd -dc model.tensors.zst | tz-cli deserialize - --json";

/// Load every tensor and report speed and memory, or write them out as safetensors
///
/// Without --to, every selected tensor is loaded into memory of this process, checked, and dropped: the figures are
/// what a program that loads the file would see. If the tensors exceed --memory-limit, they are streamed through that
/// much memory instead, and the report says so. With --to, they are always streamed.
///
/// With --device cuda:N they go through a ring of pinned memory into the GPU's, decrypted and checked on the way. Times
/// by phase are summed over threads; copies run beside the other phases, and what threads waited for them is `copy`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file, a safetensors file or directory, or `-`
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Write the tensors here: one file if DEST ends in .safetensors, otherwise a directory of shards. Nested paths
    /// become names joined with `/`, meta tensors become zeros
    #[arg(long, value_name = "DEST")]
    to: Option<String>,
    /// Most bytes of data in one file of a directory
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "to",
        default_value_t = tz_model::DEFAULT_MAX_SHARD_BYTES)]
    max_shard_size: u64,
    /// Do not wait until what was written is safe from a power cut
    #[arg(long, requires = "to")]
    no_fsync: bool,
    /// Where the tensors go: cpu, or cuda:N. On a GPU, --memory-limit is the pinned memory that they go through, and
    /// --to writes what was read back from the device
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceId,
    /// Map a plain local file and bring its pages in, instead of copying them into memory of this process. Stored
    /// hashes are not checked
    #[arg(long, conflicts_with_all = ["to", "dtype", "verify"])]
    mmap: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Loading, Failure> {
    if let DeviceId::Cuda(ordinal) = args.device {
        if args.mmap {
            return Err(Failure::usage(
                "--mmap: what is mapped stays in host memory; leave out --device",
            ));
        }
        return gpu::run(args, ordinal, session);
    }
    let job = session.job(&args.filter, &args.effort, Some(args.verify))?;
    let dtype = session.dtype(args.dtype);
    let start = Instant::now();
    let source = Source::open(&args.source, &job.selection, session)?;
    let selected = source.select(&job.selection)?;
    let open = start.elapsed();
    let bytes = source.rows(&selected).map(|row| row.byte_len).sum();
    let done = |stats: &ReadStats, bytes, streamed, took: Duration| {
        let seconds = took.as_secs_f64();
        Loading {
            tensors: selected.len(),
            bytes,
            seconds,
            bytes_per_second: rate(bytes, seconds),
            peak_host_bytes: process::peak_bytes(),
            device: args.device.to_string(),
            phases: phases(open, stats),
            streamed,
            verified: job.read.verify && !args.mmap && matches!(source, Source::Tensors(_)),
            readers: source.readers(&job),
            destination: args.to.clone(),
            gpu: None,
        }
    };
    if let Some(destination) = &args.to {
        let bar = session.bar("writing", bytes);
        let target = export::Target::new(destination, args.max_shard_size, !args.no_fsync)?;
        let exported = export::export(&source, &selected, &job, dtype, &target)?;
        drop(bar);
        return Ok(done(&exported.stats, exported.bytes, true, start.elapsed()));
    }
    let bar = session.bar("loading", bytes);
    let loaded =
        if args.mmap { map(&source, &job)? } else { load(&source, &selected, &job, dtype)? };
    let took = start.elapsed();
    drop(bar);
    Ok(done(&loaded.stats, loaded.bytes, loaded.kept.is_nothing(), took))
}
