//! `cargo xtask bench`: us, the raw baseline and the peers, in alternation in one run on the same
//! bytes. Each kind of benchmark is a file of its own; `rounds` and `raw` are shared.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

mod chart;
mod cold;
mod convert;
mod crypto;
mod gpu;
mod hollow;
mod limits;
mod local;
mod lora;
mod outcome;
mod processes;
mod raw;
mod raw_write;
mod remote;
mod rounds;
mod scaling;
mod wire;

pub(crate) use raw::{
    Args as RawReadArgs, TouchArgs, contender as raw_read_of, run as raw_read, touch as raw_touch,
};
pub(crate) use raw_write::{Args as RawWriteArgs, run as raw_write};
pub(crate) use rounds::{Contender, Sample, Series, alternate};
pub(crate) use wire::{DownloadArgs, UploadArgs, download, upload};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Load and save on this machine's disk or memory, warm
    Local(local::Args),
    /// Load the same model plain, sealed and encrypted as the reference does it
    Crypto(crypto::Args),
    /// Load from nginx and from an S3 server on this machine, and upload to the latter
    Remote(remote::Args),
    /// Make a vLLM directory of a checkpoint larger than memory, beside dd of the same bytes
    Convert(convert::Args),
    /// Memory limits and killed uploads over a network, with one large tensor
    Limits(limits::Args),
    /// Load by number of tensors, size of one, readers and memory limit
    Scaling(scaling::Args),
    /// Load onto a GPU, beside copies from pinned memory
    Gpu(gpu::Args),
    /// Load a packed rank-16 adapter of a 7B model, warm
    Lora(lora::Args),
}

/// What every benchmark takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// How often every contender runs; medians need at least five
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Save every sample and ratio here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the medians as an SVG picture here
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// Runs one benchmark.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.kind {
        Kind::Local(args) => local::run(args),
        Kind::Crypto(args) => crypto::run(args),
        Kind::Remote(args) => remote::run(args),
        Kind::Convert(args) => convert::run(args),
        Kind::Limits(args) => limits::run(args),
        Kind::Scaling(args) => scaling::run(args),
        Kind::Gpu(args) => gpu::run(args),
        Kind::Lora(args) => lora::run(args),
    }
}
