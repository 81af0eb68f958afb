//! `completions`: what a shell needs to complete command lines.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;

const EXAMPLES: &str = "\
Examples:
  source <(tz-cli completions bash)
  tz-cli completions zsh > ~/.zfunc/_tz-cli
  tz-cli completions fish > ~/.config/fish/completions/tz-cli.fish";

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tz-cli", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
