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
            let unknown = || {
                Failure::usage(format!("there is no command {name:?}"))
                    .hint("`tz-cli --help` lists the commands")
            };
            let command = found.ok_or_else(unknown)?.clone();
            let title = format!("tz-cli-{name}");
            command.display_name(title)
        }
    };
    let help = page.get_after_long_help().or(page.get_after_help()).map(ToString::to_string);
    let page = page.after_help("").after_long_help("");
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::io("manual page", "render", &error))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.extend(help.iter().map(|help| as_is("NOTES", help)));
    Ok(text)
}

/// A section whose lines stay as they are.
fn as_is(title: &str, lines: &str) -> String {
    let escaped = lines.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    // A line that begins with a dot would be a command.
    let escaped = escaped.replace("\n.", "\n\\&.");
    format!(".SH {title}\n.nf\n{escaped}\n.fi\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_from_the_formatter() {
        let section = as_is("NOTES", "a-b 'c'\n.d \\");
        assert_eq!(section, ".SH NOTES\n.nf\na\\-b \\(aqc\\(aq\n\\&.d \\e\n.fi\n");
    }
}
