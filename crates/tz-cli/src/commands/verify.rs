//! `verify`: structure and every stored hash; of a directory, every file by its manifest.

mod directory;

use std::time::Instant;

use crate::args::{EffortArgs, FilterArgs};
use crate::error::Failure;
use crate::job::{Job, Session};
use crate::report::{FailedTensor, Report, Verification};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli verify model.tensors && echo intact
  tz-cli verify model.tensors --json | jq -r '.failures[].name'
  tz-cli verify models/vllm/facebook/opt-125m/v1
  tz-cli verify s3://my-bucket/vllm/facebook/opt-125m/v1/
  curl -s https://example.com/model.tensors | tz-cli verify -";

/// Check structure and every stored hash; name each tensor that fails
///
/// Exit code 1 means that tensors are damaged and names them; 4 means that the file is not whole, or not a .tensors
/// file at all. Of a safetensors checkpoint, which stores no hashes, the structure is checked. A directory with a
/// manifest.toml, or a URI that ends in a slash, is compared with the manifest: files that are missing, changed or, on
/// this machine, not listed are named, and every .tensors file in it is checked as well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file, a safetensors checkpoint, a directory with a manifest, or `-`
    #[arg(value_name = "URI")]
    source: String,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Report, Failure> {
    if let Some(dir) = directory::named(&args.source)? {
        return directory::run(args, &dir, session).map(Report::VerifyDirectory);
    }
    let job = session.job(&args.filter, &args.effort, None)?;
    let source = Source::open(&args.source, &job.selection, session)?;
    let job = source.scan(job);
    tensors(&source, &job, session).map(Report::Verify)
}

/// The tensors of one source.
fn tensors(source: &Source, job: &Job, session: &Session) -> Result<Verification, Failure> {
    let start = Instant::now();
    let selected = source.select(&job.selection)?;
    let bytes = source.rows(&selected).filter(|row| !row.is_meta).map(|row| row.byte_len).sum();
    let (failures, unhashed) = match source {
        Source::Checkpoint(..) => (Vec::new(), Some(selected.len())),
        Source::Tensors(file) => {
            let _bar = session.bar("verifying", bytes);
            let (failures, unhashed) = file.verify_and_count(&job.selection, &job.read)?;
            // Tags, not hashes, vouch for an encrypted file.
            let unhashed = Some(unhashed).filter(|_| !source.is_stream() && !file.is_encrypted());
            (FailedTensor::group(failures), unhashed)
        }
    };
    Ok(Verification {
        location: source.location().to_owned(),
        ok: failures.is_empty(),
        tensors: selected.len(),
        bytes,
        unhashed,
        ends_in_journal: matches!(source, Source::Tensors(file) if file.ends_in_journal()),
        seconds: start.elapsed().as_secs_f64(),
        failures,
    })
}
