//! `lora pack`: a PEFT directory into the form that vLLM up to 0.31 reads.

use std::time::Instant;

use tz_lora::{Adapter, Forms, PACKED_FILE};

use super::{RulesArgs, WriteArgs, directory, files, folder, shown, usage};
use crate::args::EffortArgs;
use crate::commands::encrypt::{ProfileName, SealArgs};
use crate::error::Failure;
use crate::folders::NewFolders;
use crate::job::Session;
use crate::report::AdapterWritten;

const EXAMPLES: &str = "\
Examples:
  tz-cli lora pack my-adapter packed
  tz-cli lora pack my-adapter s3://bucket/my-adapter --max-lora-rank 16
  tz-cli lora pack my-adapter packed --base-config Llama-2-7b-hf/config.json
  tz-cli lora pack my-adapter both --with-safetensors
  tz-cli lora pack my-adapter secret --keyfile model.key";

/// Pack a PEFT adapter for vLLM up to 0.31
///
/// Writes adapter_config.json, byte for byte, and adapter_model.tensors with PEFT's own names and types. The adapter is
/// checked first: what vLLM would refuse when it is first used, or apply wrongly without a word, is refused here. The
/// files appear when all are whole, the tensors last. They are encrypted only where a key is given: vLLM then needs the
/// same key for model and adapter.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory with adapter_config.json and adapter_model.safetensors, .bin or .pt
    #[arg(value_name = "DIR")]
    source: String,
    /// Directory or s3:// prefix to write to; made if missing
    #[arg(value_name = "DEST")]
    destination: String,
    /// Write adapter_model.safetensors beside it, for vLLM from 0.32 on; it is never encrypted
    #[arg(long)]
    with_safetensors: bool,
    #[command(flatten)]
    rules: RulesArgs,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<AdapterWritten, Failure> {
    let start = Instant::now();
    let destination = folder(&args.destination)?;
    let adapter = Adapter::open(directory(&args.source)?)?;
    adapter.validate(&args.rules.rules()?)?;
    let mut options = args.write.options(session, &args.effort)?;
    let packed = destination.join(PACKED_FILE)?;
    let mut made_key = args.seal.seal_if_asked(&mut options, session, &packed)?;
    let forms = if args.with_safetensors { Forms::BOTH } else { Forms::PACKED };
    let bytes = adapter.tensors().iter().map(|tensor| tensor.byte_len).sum();
    let made = destination.local().map(NewFolders::towards);
    let bar = session.bar("packing", bytes);
    let published = adapter.publish(&destination, forms, &options)?;
    made_key.keep();
    drop(bar);
    if let Some(made) = made {
        made.keep();
    }
    let key = match args.seal.profile {
        _ if options.seal.is_none() => usage::Key::None,
        ProfileName::Sealed => usage::Key::Sealed,
        ProfileName::Compat => {
            session.access.keyfile().map_or(usage::Key::Passphrase, usage::Key::File)
        }
    };
    let rank = adapter.config().rank();
    Ok(AdapterWritten {
        destination: shown(&destination),
        rank,
        tensors: adapter.tensors().len(),
        bytes,
        files: files(published),
        seconds: start.elapsed().as_secs_f64(),
        usage: usage::packed(&destination, rank, args.with_safetensors, key),
    })
}
