//! `copy`: a file from place to place, byte for byte.

use std::time::Instant;

use tz_crypto::CryptoError;
use tz_io::{IoError, Location, TensorFile, WriteOptions, copy, unfinished_uploads};

use crate::args::EffortArgs;
use crate::error::Failure;
use crate::job::Session;
use crate::report::{Copied, rate};

const EXAMPLES: &str = "\
Examples:
  tz-cli copy model.tensors s3://bucket/models/model.tensors
  tz-cli copy https://example.com/model.tensors model.tensors
  tz-cli copy s3://bucket/a.tensors s3://other/a.tensors --if-none-match";

/// Copy a file between disk, HTTP(S) and S3, byte for byte
///
/// Hashes of a plain .tensors file are checked from the very bytes that are written; the copy appears complete or not
/// at all. An encrypted file is copied as it is and needs no key. If a key is given, a .tensors file that is not
/// encrypted is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Path or URI to read
    #[arg(value_name = "SRC")]
    source: String,
    /// Path or URI to write, or `-`
    #[arg(value_name = "DST")]
    destination: String,
    /// Refuse to replace what stands at the destination
    #[arg(long)]
    if_none_match: bool,
    /// Remove what killed uploads of DST left behind, if no other writer is at work there
    #[arg(long)]
    abort_unfinished: bool,
    /// Do not wait until a file on disk is safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Copied, Failure> {
    let start = Instant::now();
    let source = Location::parse(&args.source)?;
    let destination = Location::parse(&args.destination)?;
    let mut options = WriteOptions::default();
    options.workers = session.readers(&args.effort);
    options.memory_limit = session.memory_limit(&args.effort);
    options.fsync = !args.no_fsync;
    options.create_only = args.if_none_match;
    options.remote = session.access.remote()?;
    options.cancel = session.cancel.clone();
    options.progress = session.progress.clone();
    refuse_plain(&source, session)?;
    if let (true, Location::Remote(remote)) = (args.abort_unfinished, &destination) {
        unfinished_uploads(remote, &options.remote, true)?;
    }
    let bar = session.bar("copying", 0);
    let report = copy(&source, &destination, &options)?;
    drop(bar);
    let seconds = start.elapsed().as_secs_f64();
    Ok(Copied {
        destination: destination.to_string(),
        bytes: report.bytes,
        tensors_checked: report.tensors_checked,
        seconds,
        bytes_per_second: rate(report.bytes, seconds),
    })
}

/// Fails if a key was given and the source is a `.tensors` file that is not encrypted. Any other file is copied: the
/// small files of a model lie next to its tensors, and are never encrypted.
fn refuse_plain(source: &Location, session: &Session) -> Result<(), Failure> {
    // What can be read only once is left alone: copying refuses it anyway.
    let can_reopen = match source {
        Location::File(path) => path.is_file(),
        Location::Stdio => false,
        _ => true,
    };
    if !session.access.has_secrets() || !can_reopen {
        return Ok(());
    }
    match TensorFile::open_with(source, &session.access.open_front()?) {
        Err(error @ IoError::Crypto { source: CryptoError::NotEncrypted, .. }) => Err(error.into()),
        // What is wrong with the source, copying it says.
        _ => Ok(()),
    }
}
