//! The hidden `markdown-help`: `docs/cli.md`, made from the command line's own description.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use crate::args::Cli;

/// Print docs/cli.md
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> String {
    let mut cli = Cli::command().term_width(100);
    cli.build();
    let mut page = String::from(
        "# The command line: `tz-cli`\n\nMade by `tz-cli markdown-help`; do not edit. The contract behind it is in \
         the README of the crate.\n",
    );
    // Writing to a string cannot fail.
    let _ = text(&mut page, &cli);
    page
}

fn text(page: &mut String, cli: &Command) -> std::fmt::Result {
    writeln!(page, "\n{}\n", cli.get_long_about().map(ToString::to_string).unwrap_or_default())?;
    let commands = || cli.get_subcommands().filter(|command| !command.is_hide_set());
    writeln!(page, "| command | does |\n| --- | --- |")?;
    for command in commands() {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(page, "| [`{name}`](#{name}) | {about} |")?;
    }
    if let Some(help) = cli.get_after_long_help() {
        writeln!(page, "\n```text\n{help}\n```")?;
    }
    for command in commands() {
        one(page, command, command.get_name())?;
        for nested in command.get_subcommands().filter(|nested| nested.get_name() != "help") {
            one(page, nested, &format!("{} {}", command.get_name(), nested.get_name()))?;
        }
    }
    Ok(())
}

/// `name` includes the command that it belongs to.
fn one(page: &mut String, command: &Command, name: &str) -> std::fmt::Result {
    writeln!(page, "\n## {name}\n")?;
    let about = command.get_long_about().or(command.get_about());
    writeln!(page, "{}\n", about.map(ToString::to_string).unwrap_or_default())?;
    let usage = command.clone().render_usage().to_string();
    writeln!(page, "```text\n{}\n```\n", usage.trim())?;
    writeln!(page, "| argument | meaning |\n| --- | --- |")?;
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        writeln!(page, "| `{}` | {} |", spelling(argument), meaning(argument))?;
    }
    if let Some(examples) = command.get_after_help() {
        writeln!(page, "\n```text\n{examples}\n```")?;
    }
    Ok(())
}

/// `-q, --quiet`, `--num-readers <N>`, `<SOURCE>`.
fn spelling(argument: &Arg) -> String {
    let value = argument.get_num_args().is_some_and(|count| count.takes_values());
    let names = argument.get_value_names().unwrap_or_default();
    let value =
        if value { names.iter().map(|name| format!("<{name}>")).collect() } else { Vec::new() };
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let spelling = if flags.is_empty() {
        value.join(" ")
    } else {
        format!("{} {}", flags.join(", "), value.join(" "))
    };
    spelling.trim().to_owned()
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    let mut meaning = help.map(ToString::to_string).unwrap_or_default();
    let takes_values = argument.get_num_args().is_some_and(|count| count.takes_values());
    let values = argument.get_possible_values();
    if takes_values && !values.is_empty() && !argument.is_hide_possible_values_set() {
        let values: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(meaning, "; one of {}", values.join(", "));
    }
    let defaults = argument.get_default_values();
    if takes_values && !defaults.is_empty() {
        let defaults: Vec<_> =
            defaults.iter().map(|value| format!("`{}`", value.display())).collect();
        let _ = write!(meaning, "; default {}", defaults.join(", "));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(meaning, "; environment `{}`", variable.display());
    }
    meaning.replace('|', "\\|").replace('\n', " ")
}
