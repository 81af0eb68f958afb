//! `synth`: a checkpoint to try things on.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use tz_model::{DEFAULT_MAX_SHARD_BYTES, Preset, SynthFormat, SynthOptions, synthesize};

use crate::args::{EffortArgs, size};
use crate::error::Failure;
use crate::folders::{self, NewFolders};
use crate::job::Session;
use crate::report::Synthesised;

const DEFAULT_PRESET: &str = "opt-125m";

const EXAMPLES: &str = "\
Examples:
  tz-cli synth demo --preset llama-tiny
  tz-cli synth demo --preset qwen2-0.5b --seed 7
  tz-cli synth demo --size 2GiB --max-shard-size 512MiB
  tz-cli synth demo --preset opt-125m --format pytorch";

/// Make a synthetic checkpoint with a real family's names and shapes
///
/// Writes a directory as transformers would: random weights, configuration, tokenizer stubs. The same
/// preset and seed give the same bytes on every machine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory to write into; made if missing
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Which model's names and shapes
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, conflicts_with = "size",
        value_parser = PossibleValuesParser::new(Preset::names()))]
    preset: String,
    /// A llama of about this many bytes instead of a preset
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// Where the random weights start from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most bytes of data in one safetensors file
    #[arg(long, value_name = "SIZE", value_parser = size, default_value_t = DEFAULT_MAX_SHARD_BYTES)]
    max_shard_size: u64,
    /// Format of the weights; pytorch is one pytorch_model.bin, which is all that some old models have
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    #[command(flatten)]
    effort: EffortArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Pytorch,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Synthesised, Failure> {
    let start = Instant::now();
    let (name, preset) = match args.size {
        Some(bytes) => (format!("llama of about {bytes} bytes"), Some(Preset::sized(bytes))),
        None => (args.preset.clone(), Preset::named(&args.preset)),
    };
    let preset =
        preset.ok_or_else(|| Failure::usage(format!("--preset: {name:?} is not known")))?;
    let options = SynthOptions::default()
        .with_seed(args.seed)
        .with_threads(session.cores(&args.effort))
        .with_max_shard_bytes(args.max_shard_size)
        .with_format(match args.format {
            Format::Safetensors => SynthFormat::Safetensors,
            Format::Pytorch => SynthFormat::PyTorch,
        })
        .with_cancel(session.cancel.clone());
    if args.destination.is_dir() {
        folders::refuse_other_checkpoint(&args.destination)?;
    }
    let made = NewFolders::towards(&args.destination);
    let bytes = synthesize(&args.destination, &preset, &options)?;
    made.keep();
    Ok(Synthesised {
        destination: args.destination.display().to_string(),
        preset: name,
        seed: args.seed,
        tensors: preset.tensors().len(),
        bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}
