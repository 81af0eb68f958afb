//! `lora`: PEFT adapters. Owns the list of its commands, and what they share: rules, options, failures.

mod inspect;
mod pack;
mod unpack;
mod usage;

use std::path::PathBuf;

use clap::Subcommand;
use tz_io::{Location, WriteOptions};
use tz_lora::{ArtifactDir, BaseModel, Error, PACKED_FILE, Published, Rules};

use crate::args::EffortArgs;
use crate::error::Failure;
use crate::job::Session;
use crate::report::{Adapted, WrittenFile};

const EXAMPLES: &str = "\
Examples:
  tz-cli lora inspect my-adapter
  tz-cli lora pack my-adapter s3://bucket/my-adapter
  tz-cli lora unpack s3://bucket/my-adapter back";

/// Pack, unpack and check LoRA adapters of PEFT
///
/// vLLM up to 0.31 reads adapters as adapter_config.json with adapter_model.tensors; newer versions read plain
/// safetensors only. `pack` makes the former, `unpack` gives the very same safetensors file back. docs/LORA.md says
/// what is checked and why.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: LoraCommand,
}

#[derive(Debug, Subcommand)]
enum LoraCommand {
    Pack(pack::Args),
    Unpack(unpack::Args),
    Inspect(inspect::Args),
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Adapted, Failure> {
    match &args.command {
        LoraCommand::Pack(args) => pack::run(args, session).map(Adapted::Written),
        LoraCommand::Unpack(args) => unpack::run(args, session).map(Adapted::Written),
        LoraCommand::Inspect(args) => inspect::run(args, session).map(Adapted::Inspected),
    }
}

/// What an adapter is held against.
#[derive(Debug, Clone, clap::Args)]
struct RulesArgs {
    /// Largest rank that the server takes: its own --max-lora-rank [default: any]
    #[arg(long, value_name = "N", help_heading = "Checks")]
    max_lora_rank: Option<u64>,
    /// config.json of the base model, or its directory: names of layers and shapes are checked against it
    #[arg(long, value_name = "PATH", help_heading = "Checks")]
    base_config: Option<PathBuf>,
    /// Accept names in target_modules for which there is no tensor
    #[arg(long, help_heading = "Checks")]
    allow_unused_targets: bool,
}

impl RulesArgs {
    fn rules(&self) -> Result<Rules, Failure> {
        let mut rules = Rules::default();
        rules.max_lora_rank = self.max_lora_rank;
        rules.base = self.base_config.as_ref().map(BaseModel::read).transpose()?;
        rules.unused_targets = self.allow_unused_targets;
        Ok(rules)
    }
}

/// How files are written.
#[derive(Debug, Clone, clap::Args)]
struct WriteArgs {
    /// Do not wait until the files are safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    /// Refuse to replace what stands at the destination
    #[arg(long)]
    if_none_match: bool,
}

impl WriteArgs {
    fn options(&self, session: &Session, effort: &EffortArgs) -> Result<WriteOptions, Failure> {
        let mut options = WriteOptions::default();
        options.workers = Some(session.cores(effort));
        options.memory_limit = session.memory_limit(effort);
        options.fsync = !self.no_fsync;
        options.create_only = self.if_none_match;
        options.remote = session.access.remote()?;
        options.cancel = session.cancel.clone();
        options.progress = session.progress.clone();
        Ok(options)
    }
}

/// The folder that adapters are written to or read from; the packed file in it stands for it.
fn folder(text: &str) -> Result<ArtifactDir, Failure> {
    let within =
        text.strip_suffix(PACKED_FILE).filter(|rest| rest.is_empty() || rest.ends_with('/'));
    Ok(ArtifactDir::parse(within.map_or(text, |rest| if rest.is_empty() { "." } else { rest }))?)
}

/// A folder as messages name it, without credentials.
fn shown(folder: &ArtifactDir) -> String {
    let file = folder.join(PACKED_FILE).map_or_else(|_| String::new(), |file| file.to_string());
    let folder = file.strip_suffix(PACKED_FILE).unwrap_or(&file);
    folder.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(folder).to_owned()
}

/// A local directory.
fn directory(text: &str) -> Result<PathBuf, Failure> {
    match Location::parse(text)? {
        Location::File(path) => Ok(path),
        _ => Err(Failure::usage(format!("{text}: a PEFT directory is read from this machine"))
            .at(text)
            .hint("fetch its files first: `tz-cli copy SRC DST` copies any file")),
    }
}

fn files(published: Published) -> Vec<WrittenFile> {
    let files = published.files.into_iter();
    files.map(|file| WrittenFile { location: file.location, bytes: file.bytes }).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let adapter = |location: &str, hint: &str| {
            let mut failure = Self::unsupported(location, "", hint);
            failure.message.clone_from(&message);
            failure.layer = "adapter";
            failure
        };
        match error {
            Error::Io(error) => error.into(),
            Error::Checkpoint(error) => (*error).into(),
            Error::NotAnAdapter { location, .. } => adapter(
                &location,
                "give the directory that PEFT's save_pretrained wrote, or one that `tz-cli lora pack` wrote",
            ),
            Error::Refused { location, refusals } => {
                let advice = refusals.first().map_or("", |first| first.advice());
                let all = "`tz-cli lora inspect` lists everything";
                match refusals.len() {
                    0 | 1 => adapter(&location, advice),
                    _ => adapter(&location, &format!("{advice}; {all}")),
                }
            }
            Error::Header { location, .. } => {
                adapter(&location, "the file is damaged: pack the adapter again")
            }
            Error::Config { location, .. } => adapter(&location, "check the file"),
            _ => adapter("", "run it again with -v"),
        }
    }
}
