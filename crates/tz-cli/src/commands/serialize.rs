//! `serialize`: a checkpoint into a `.tensors` file.

mod write_source;

use std::time::Instant;

use clap::ValueEnum;
use tz_format::{Element, HashKind};
use tz_io::{Location, TensorSource as _, WriteOptions, plan_write, unfinished_uploads, write};

use super::encrypt::SealArgs;
use super::inspect;
use super::keygen::MadeKey;
use crate::args::{DtypeArgs, EffortArgs, FilterArgs, VerifyArgs};
use crate::error::Failure;
use crate::job::{Job, Session};
use crate::process;
use crate::report::{Report, Written, rate, write_phases};
use crate::source::Source;
use write_source::WriteSource;

const EXAMPLES: &str = "\
Examples:
  tz-cli serialize checkpoint/ model.tensors
  tz-cli serialize model.safetensors model.tensors --dtype bfloat16 --hash crc32,blake3
  tz-cli serialize checkpoint/ model.tensors --metadata source=meta-llama/Llama-3.2-1B
  tz-cli serialize checkpoint/ model.tensors --dry-run
  tz-cli serialize checkpoint/ - | zstd > model.tensors.zst";

/// Save a checkpoint as a .tensors file
///
/// The file appears under its name when it is whole; after a failure nothing is left. It is read by Python tensorizer
/// from 2.10 on, and by vLLM. Memory stays within --memory-limit whatever the size of the model.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A safetensors file, a directory of safetensors shards, or a .tensors file
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The .tensors file to write, or `-`. To a stream, the source is read twice: hashes stand before the data
    #[arg(value_name = "DEST")]
    destination: String,
    /// Where tensor data starts: at multiples of this many bytes. 4096 suits mmap and direct I/O, none packs
    #[arg(long, value_enum, default_value_t = Alignment::Page)]
    alignment: Alignment,
    /// Hashes to store, separated by commas. Readers check crc32; blake3 stands in the front of the file, where
    /// `inspect` sees it; sha256 is slow
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "crc32")]
    hash: Vec<Hash>,
    /// A word about the model, kept in the front of the file; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Do not wait until the file is safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    /// Refuse to replace what stands at DEST
    #[arg(long)]
    if_none_match: bool,
    /// Remove what killed uploads of DEST left behind, if no other writer is at work there
    #[arg(long)]
    abort_unfinished: bool,
    #[command(flatten)]
    seal: SealArgs,
    /// Print the layout that the file would have, and write nothing
    #[arg(long, conflicts_with = "generate_key")]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Alignment {
    #[value(name = "4096")]
    Page,
    #[value(name = "512")]
    Sector,
    #[value(name = "64")]
    CacheLine,
    None,
}

impl Alignment {
    fn bytes(self) -> u64 {
        match self {
            Self::Page => 4096,
            Self::Sector => 512,
            Self::CacheLine => 64,
            Self::None => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hash {
    Crc32,
    Sha256,
    Blake3,
    None,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is needed".to_owned()),
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Report, Failure> {
    let start = Instant::now();
    let destination = destination(args, session)?;
    let job = session.job(&args.filter, &args.effort, Some(args.verify))?;
    // The key is for the output. It also opens an encrypted source, unless it is yet to be made.
    let open = match args.seal.generate_key {
        true => session.access.open_without_keys()?,
        false => session.access.open_any()?,
    };
    let source = Source::open_with(&args.source, session, &open)?;
    require_seekable(&source, "serialize")?;
    source.require_unlocked()?;
    let dtype = session.dtype(args.dtype);
    let (options, mut made) = options(args, session, &source, &destination)?;
    if args.dry_run {
        let selected = source.select(&job.selection)?;
        return plan(&WriteSource::new(&source, &selected, dtype)?, &options, &args.destination);
    }
    if let (true, Location::Remote(remote)) = (args.abort_unfinished, &destination) {
        unfinished_uploads(remote, &options.remote, true)?;
    }
    let target = Target { source: &source, destination: &destination, options: &options, start };
    target.write(&job, dtype, session).inspect(|_| made.keep()).map(Report::Serialize)
}

/// Where tensors go, and how.
pub(super) struct Target<'a> {
    pub(super) source: &'a Source,
    pub(super) destination: &'a Location,
    pub(super) options: &'a WriteOptions,
    pub(super) start: Instant,
}

impl Target<'_> {
    /// Writes the selected tensors of the source, cast to `dtype`.
    pub(super) fn write(
        &self,
        job: &Job,
        dtype: Option<Element>,
        session: &Session,
    ) -> Result<Written, Failure> {
        let selected = self.source.select(&job.selection)?;
        let input = WriteSource::new(self.source, &selected, dtype)?;
        if job.read.verify {
            check(self.source, &selected, job, session)?;
        }
        let bar = session.bar("writing", input.bytes());
        let stats = write(&input, self.destination, self.options)?;
        drop(bar);
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(Written {
            destination: self.destination.to_string(),
            tensors: input.specs().len(),
            bytes: stats.tensor_bytes,
            file_bytes: stats.file_bytes,
            seconds,
            bytes_per_second: rate(stats.tensor_bytes, seconds),
            peak_host_bytes: process::peak_bytes(),
            phases: write_phases(&stats),
        })
    }
}

/// Fails for a stream: what writes hashes or tags before the data reads its source more than once.
pub(super) fn require_seekable(source: &Source, command: &str) -> Result<(), Failure> {
    if !source.is_stream() {
        return Ok(());
    }
    let location = source.location();
    let failure = Failure::usage(format!("{location}: {command} reads its source more than once"));
    Err(failure.hint("write the stream to a file first"))
}

fn destination(args: &Args, session: &Session) -> Result<Location, Failure> {
    let text = args.destination.as_str();
    let location = Location::parse(text)?;
    let refused =
        |why: &str, hint: &str| Err(Failure::usage(format!("{text}: {why}")).at(text).hint(hint));
    match &location {
        Location::Stdio if session.speech.json && !args.dry_run => refused(
            "the file and --json both want standard output",
            "leave out --json, or write to a file",
        ),
        Location::File(path) if path.extension().is_some_and(|end| end == "safetensors") => {
            refused(
                "serialize writes .tensors files",
                "`tz-cli deserialize SOURCE --to DEST` writes safetensors",
            )
        }
        _ => Ok(location),
    }
}

fn options(
    args: &Args,
    session: &Session,
    source: &Source,
    destination: &Location,
) -> Result<(WriteOptions, MadeKey), Failure> {
    let mut options = write_options(session, &args.effort, source)?;
    options.create_only = args.if_none_match;
    let made = args.seal.seal_if_asked(&mut options, session, destination)?;
    options.alignment = args.alignment.bytes();
    options.hashes.clear();
    if args.hash.contains(&Hash::None) && args.hash.len() > 1 {
        return Err(Failure::usage("--hash: none stands alone"));
    }
    for hash in &args.hash {
        let kind = match hash {
            Hash::Crc32 => HashKind::Crc32,
            Hash::Sha256 => HashKind::Sha256,
            Hash::Blake3 => {
                options.blake3 = true;
                continue;
            }
            Hash::None => continue,
        };
        if !options.hashes.contains(&kind) {
            options.hashes.push(kind);
        }
    }
    let metadata = args.metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    options.user_metadata.get_or_insert_default().extend(metadata);
    options.user_metadata = options.user_metadata.filter(|metadata| !metadata.is_empty());
    options.fsync = !args.no_fsync;
    Ok((options, made))
}

/// What every command that writes tensors chooses alike.
pub(super) fn write_options(
    session: &Session,
    effort: &EffortArgs,
    source: &Source,
) -> Result<WriteOptions, Failure> {
    let mut options = WriteOptions::default();
    options.user_metadata = Some(source.user_metadata()).filter(|metadata| !metadata.is_empty());
    options.workers = Some(session.cores(effort));
    options.memory_limit = session.memory_limit(effort);
    options.remote = session.access.remote()?;
    options.cancel = session.cancel.clone();
    options.progress = session.progress.clone();
    Ok(options)
}

/// Damage must not be copied under a fresh hash: what is stored is checked before it is believed.
fn check(source: &Source, selected: &[usize], job: &Job, session: &Session) -> Result<(), Failure> {
    if matches!(source, Source::Tensors(_)) {
        let bytes = source.rows(selected).map(|row| row.byte_len).sum();
        let _bar = session.bar("verifying", bytes);
        source.stream(selected, job, &|_, _, _| Ok(()))?;
    }
    Ok(())
}

fn plan(
    input: &WriteSource<'_>,
    options: &WriteOptions,
    location: &str,
) -> Result<Report, Failure> {
    let layout = plan_write(input, options).map_err(|source| {
        let location = location.to_owned();
        tz_io::IoError::Format { location, source }
    })?;
    let mut report = inspect::describe(layout.header(), &layout.options().extension, location);
    report.file_bytes = Some(layout.file_len());
    for entry in layout.entries() {
        report.push(inspect::row(entry));
    }
    Ok(Report::Inspect(report))
}
