//! The commands, one file each. Owns their list and the dispatch.

mod bench;
mod checksum;
mod completions;
mod copy;
mod decrypt;
mod deserialize;
mod diff;
mod encrypt;
mod inspect;
mod keygen;
mod lora;
mod man;
mod markdown_help;
mod rewrap;
mod serialize;
mod synth;
mod verify;
mod vllm;

use clap::Subcommand;

use crate::error::Failure;
use crate::job::Session;
use crate::report::Report;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serialize(serialize::Args),
    Deserialize(deserialize::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Checksum(checksum::Args),
    Diff(diff::Args),
    Copy(copy::Args),
    Keygen(keygen::Args),
    Encrypt(encrypt::Args),
    Decrypt(decrypt::Args),
    Rewrap(rewrap::Args),
    Lora(lora::Args),
    Vllm(vllm::Args),
    Bench(bench::Args),
    Synth(synth::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    MarkdownHelp(markdown_help::Args),
}

/// Does it.
pub(crate) fn run(command: Command, session: &Session) -> Result<Report, Failure> {
    match command {
        Command::Serialize(args) => serialize::run(&args, session),
        Command::Deserialize(args) => deserialize::run(&args, session).map(Report::Deserialize),
        Command::Inspect(args) => inspect::run(&args, session).map(Report::Inspect),
        Command::Verify(args) => verify::run(&args, session),
        Command::Checksum(args) => checksum::run(&args, session).map(Report::Checksum),
        Command::Diff(args) => diff::run(&args, session).map(Report::Diff),
        Command::Copy(args) => copy::run(&args, session).map(Report::Copy),
        Command::Keygen(args) => keygen::run(&args).map(Report::Done),
        Command::Encrypt(args) => encrypt::run(&args, session).map(Report::Serialize),
        Command::Decrypt(args) => decrypt::run(&args, session).map(Report::Serialize),
        Command::Rewrap(args) => rewrap::run(&args, session).map(Report::Rewrap),
        Command::Lora(args) => lora::run(&args, session).map(Report::Lora),
        Command::Vllm(args) => vllm::run(&args, session),
        Command::Bench(args) => bench::run(&args, session),
        Command::Synth(args) => synth::run(&args, session).map(Report::Synth),
        Command::Completions(args) => Ok(Report::Text(completions::run(&args))),
        Command::Man(args) => man::run(&args).map(Report::Text),
        Command::MarkdownHelp(args) => Ok(Report::Text(markdown_help::run(&args))),
    }
}
