//! Help, completions and pages: they exist for every command, teach by example, and are what the repository holds.

use std::path::Path;

use crate::run::tz;

const COMMANDS: &[&str] = &[
    "serialize",
    "deserialize",
    "inspect",
    "verify",
    "checksum",
    "diff",
    "bench",
    "synth",
    "completions",
    "man",
    "lora",
    "vllm",
    "vllm serialize",
    "vllm deserialize",
];

#[test]
fn every_command_teaches_by_example() {
    let here = Path::new(".");
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').collect();
        let help = tz(here, &[&words[..], &["--help"]].concat()).exits(0);
        assert!(help.stdout.contains("Examples:\n  "), "{command}");
        assert_eq!(help.stderr, "");
        for line in help.stdout.lines().filter(|line| line.starts_with("  tz-cli ")) {
            assert!(line.contains(&format!("tz-cli {command}")), "{command}: {line}");
        }
        let short = tz(here, &[&words[..], &["-h"]].concat()).exits(0).stdout;
        assert!(short.contains("Usage: tz-cli "), "{command}");
    }
    let help = tz(here, &["--help"]).exits(0).stdout;
    for word in ["Exit codes:", "Settings:", "Examples:", "143"] {
        assert!(help.contains(word), "{word}");
    }
    assert!(!help.contains("markdown-help"));
}

#[test]
fn no_help_line_is_too_long() {
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').collect();
        let help = tz(Path::new("."), &[&words[..], &["--help"]].concat()).exits(0).stdout;
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
}

#[test]
fn docs_cli_md_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let stored = std::fs::read_to_string(page).expect("docs/cli.md");
    let current = tz(Path::new("."), &["markdown-help"]).exits(0).stdout;
    assert!(stored == current, "run `tz-cli markdown-help > docs/cli.md`");
}

#[test]
fn version_is_the_crates() {
    let version = tz(Path::new("."), &["--version"]).exits(0).stdout;
    assert_eq!(version.trim(), concat!("tz-cli ", env!("CARGO_PKG_VERSION")));
}
