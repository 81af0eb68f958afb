//! `checksum`: a digest of every tensor, the same in every format.

use clap::ValueEnum;
use tz_io::Algorithm;

use crate::args::{EffortArgs, FilterArgs};
use crate::error::Failure;
use crate::job::Session;
use crate::report::{Checksum, Checksums, path_json};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli checksum model.tensors > model.b3
  tz-cli checksum checkpoint/ --algorithm sha256 --filter 'model.embed_tokens.*'
  diff <(tz-cli checksum checkpoint/ | sort) <(tz-cli checksum model.tensors | sort)";

/// Print a digest of every tensor, over its contents alone
///
/// Digests cover the elements as they are in memory, so they are equal for equal tensors in any format.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file, a safetensors file or directory, or `-`
    #[arg(value_name = "URI")]
    source: String,
    /// The digest
    #[arg(long, value_enum, default_value_t = Digest::Blake3)]
    algorithm: Digest,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Digest {
    Blake3,
    Sha256,
    Crc32,
}

impl Digest {
    fn row(self) -> (&'static str, Algorithm) {
        match self {
            Self::Blake3 => ("blake3", Algorithm::Blake3),
            Self::Sha256 => ("sha256", Algorithm::Sha256),
            Self::Crc32 => ("crc32", Algorithm::Crc32),
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Checksums, Failure> {
    let source = Source::open_with(&args.source, session, &session.access.open()?)?;
    let job = source.scan(session.job(&args.filter, &args.effort, None)?);
    let selected = source.select(&job.selection)?;
    let (algorithm, digest) = args.algorithm.row();
    let bytes = source.rows(&selected).map(|row| row.byte_len).sum();
    let bar = session.bar("hashing", bytes);
    let digests = source.checksum(&selected, digest, &job)?;
    drop(bar);
    let tensors = source.rows(&selected).zip(digests).map(|(row, digest)| Checksum {
        path: path_json(row.path),
        name: row.path.to_string(),
        digest,
    });
    Ok(Checksums { algorithm, tensors: tensors.collect() })
}
