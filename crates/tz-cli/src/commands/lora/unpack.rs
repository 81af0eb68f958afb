//! `lora unpack`: the PEFT directory back.

use std::time::Instant;

use tz_lora::{Adapter, PACKED_FILE, PackedAdapter};

use super::{WriteArgs, files, folder, shown, usage};
use crate::args::{EffortArgs, FilterArgs, VerifyArgs};
use crate::error::Failure;
use crate::folders::NewFolders;
use crate::job::Session;
use crate::report::AdapterWritten;

const EXAMPLES: &str = "\
Examples:
  tz-cli lora unpack packed my-adapter
  tz-cli lora unpack s3://bucket/my-adapter my-adapter
  tz-cli lora unpack secret my-adapter --keyfile model.key";

/// Unpack an adapter into the directory that PEFT, and vLLM from 0.32 on, reads
///
/// Writes adapter_config.json, byte for byte, and adapter_model.safetensors. Of an adapter that `lora pack` made from
/// safetensors, it is the very same file; of any other, the file that the safetensors library would write. Memory stays
/// within --memory-limit.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory or URI with adapter_config.json and adapter_model.tensors
    #[arg(value_name = "SRC")]
    source: String,
    /// Directory or s3:// prefix to write to; made if missing
    #[arg(value_name = "DIR")]
    destination: String,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<AdapterWritten, Failure> {
    let start = Instant::now();
    let (source, destination) = (folder(&args.source)?, folder(&args.destination)?);
    if let Some(dir) = source.local()
        && Adapter::is_at(dir)
        && !dir.join(PACKED_FILE).exists()
    {
        session.access.refuse_plain(&args.source)?;
        let words = format!("{}: the adapter is not packed: PEFT reads it as it is", args.source);
        return Err(Failure::usage(words)
            .at(&args.source)
            .hint("`tz-cli lora pack DIR DEST` packs it"));
    }
    let adapter = PackedAdapter::open(&source, &session.access.open()?)?;
    let read = session.job(&FilterArgs::default(), &args.effort, Some(args.verify))?.read;
    let options = args.write.options(session, &args.effort)?;
    let bytes = adapter.tensors().iter().map(|tensor| tensor.byte_len).sum();
    let made = destination.local().map(NewFolders::towards);
    let bar = session.bar("unpacking", bytes);
    let published = adapter.unpack(&destination, &read, &options)?;
    drop(bar);
    if let Some(made) = made {
        made.keep();
    }
    let rank = adapter.config().rank();
    Ok(AdapterWritten {
        destination: shown(&destination),
        rank,
        tensors: adapter.tensors().len(),
        bytes,
        files: files(published),
        seconds: start.elapsed().as_secs_f64(),
        usage: usage::plain(&destination, rank),
    })
}
