//! `man`: manual pages, made from the command line's own description.

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::error::Failure;

const EXAMPLES: &str = "\
Examples:
  tz-cli man | man -l -
  tz-cli man serialize | man -l -
  tz-cli man > ~/.local/share/man/man1/tz-cli.1";

/// Print the manual page of tz-cli, or of one of its commands
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A command; without it, the page is about all of them
    command: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<String, Failure> {
    let mut cli = Cli::command();
    // Built first, so that the page of a command shows the options that all commands share.
    cli.build();
    let page = match &args.command {
        None => cli,
        Some(name) => {
            let found = cli.find_subcommand(name).filter(|command| !command.is_hide_set());
            let unknown = || Failure::usage(format!("there is no command {name:?}"));
            let command = found.ok_or_else(unknown)?.clone();
            let title = format!("tz-cli-{name}");
            command.display_name(title)
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::io("manual page", "render", &error))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
