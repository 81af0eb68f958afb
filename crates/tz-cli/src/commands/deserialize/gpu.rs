//! `deserialize --device cuda:N`: tensors into a device's memory, and with `--to` from there into files.

use std::time::Instant;

use super::Args;
use super::export::{Target, export_from_device};
use crate::error::Failure;
use crate::gpu::{Gpu, Opened};
use crate::job::Session;
use crate::process;
use crate::report::{Loading, device_phases, rate};

pub(super) fn run(args: &Args, ordinal: u32, session: &Session) -> Result<Loading, Failure> {
    let job = session.job(&args.filter, &args.effort, Some(args.verify))?;
    let dtype = session.dtype(args.dtype);
    let target = args.to.as_deref();
    let target =
        target.map(|to| Target::new(to, args.max_shard_size, !args.no_fsync)).transpose()?;
    let start = Instant::now();
    let Opened { gpu, mut loader, source } =
        Gpu::open_beside(ordinal, &args.source, session, &job, dtype)?;
    let file = source.tensors("--device")?;
    source.require_unlocked()?;
    let selected = source.select(&job.selection)?;
    let open = start.elapsed().saturating_sub(gpu.opening);
    let bar = session.bar("loading", source.rows(&selected).map(|row| row.byte_len).sum());
    let tensors = loader.load(file, &job.selection, &job.read)?;
    let seconds = start.elapsed().as_secs_f64();
    drop(bar);
    let facts = gpu.facts(tensors.stats());
    let bytes = tensors.iter().map(tz_gpu::DeviceTensor::byte_len).sum();
    let report = Loading {
        tensors: tensors.len(),
        bytes,
        seconds,
        bytes_per_second: rate(bytes, seconds),
        peak_host_bytes: process::peak_bytes(),
        device: args.device.to_string(),
        phases: device_phases(open, Some(gpu.opening), tensors.stats()),
        streamed: false,
        verified: job.read.verify,
        readers: source.readers(&job),
        destination: args.to.clone(),
        gpu: Some(facts),
    };
    if let Some(target) = &target {
        let bar = session.bar("writing", 0);
        export_from_device(&source, &selected, &job, dtype, target, &tensors)?;
        drop(bar);
    }
    Ok(report)
}
