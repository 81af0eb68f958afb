//! `decrypt`: an encrypted file back to a plain one.

use std::time::Instant;

use tz_io::Location;

use super::serialize::{self, Target};
use crate::args::{EffortArgs, FilterArgs};
use crate::error::Failure;
use crate::job::Session;
use crate::report::Written;
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli decrypt secret.tensors model.tensors --keyfile model.key
  tz-cli decrypt s3://bucket/sealed.tensors model.tensors --passphrase-file pass";

/// Decrypt a file into a plain .tensors file
///
/// Every chunk is authenticated before it is written; a wrong key or altered data leaves nothing at DST.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// An encrypted .tensors file
    #[arg(value_name = "SRC")]
    source: String,
    /// The .tensors file to write
    #[arg(value_name = "DST")]
    destination: String,
    /// Do not wait until the file is safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Written, Failure> {
    let start = Instant::now();
    let destination = Location::parse(&args.destination)?;
    let source = Source::open_with(&args.source, session, &session.access.open()?)?;
    if !source.is_encrypted() {
        return Err(Failure::key(format!("{}: the file is not encrypted", source.location()))
            .at(source.location())
            .hint("`tz-cli copy` copies a plain file"));
    }
    source.require_unlocked()?;
    serialize::require_seekable(&source, "decrypt")?;
    let mut options = serialize::write_options(session, &args.effort, &source)?;
    options.fsync = !args.no_fsync;
    let job = session.job(&FilterArgs::default(), &args.effort, None)?;
    Target { source: &source, destination: &destination, options: &options, start }
        .write(&job, None, session)
}
