//! Every command, and what a key is for in it. Owns [`COMMANDS`], which the help must agree with: a command that is
//! added joins the table, or a test fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::run::tz;

/// What a key that was given is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyIsFor {
    /// The file that is read.
    Input,
    /// The file that is written, which these lines call `out.tensors`, `packed-out` or `published`.
    Output,
    /// No file of tensors is read or written.
    Nothing,
}

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) key: KeyIsFor,
    /// Lines of arguments. `FILE` is a file of tensors; it is also in the folder `ADAPTER`, with a configuration, as a
    /// packed adapter. `-` is the same file as standard input. `plain.tensors` and `demo` are a model in clear, `lora`
    /// is an adapter of PEFT.
    pub(super) lines: &'static [&'static str],
}

const fn command(name: &'static str, key: KeyIsFor, lines: &'static [&'static str]) -> Command {
    Command { name, key, lines }
}

pub(super) const COMMANDS: &[Command] = &[
    command(
        "serialize",
        KeyIsFor::Output,
        &["serialize FILE out.tensors", "serialize FILE out.tensors --profile sealed"],
    ),
    command(
        "deserialize",
        KeyIsFor::Input,
        &[
            "deserialize FILE",
            "deserialize FILE --filter *",
            "deserialize FILE --no-verify",
            "deserialize FILE --mmap",
            "deserialize FILE --to out.safetensors",
            "deserialize FILE --to out/shards",
            "deserialize -",
        ],
    ),
    command("inspect", KeyIsFor::Input, &["inspect FILE", "inspect FILE --hashes", "inspect -"]),
    command("verify", KeyIsFor::Input, &["verify FILE", "verify FILE --filter *", "verify -"]),
    command(
        "checksum",
        KeyIsFor::Input,
        &["checksum FILE", "checksum FILE --algorithm sha256 --filter *", "checksum -"],
    ),
    command(
        "diff",
        KeyIsFor::Input,
        &[
            "diff FILE FILE",
            "diff FILE plain.tensors",
            "diff plain.tensors FILE",
            "diff FILE demo",
            "diff - FILE",
        ],
    ),
    command("copy", KeyIsFor::Input, &["copy FILE out.tensors", "copy FILE -"]),
    command("keygen", KeyIsFor::Nothing, &["keygen new.key"]),
    command(
        "encrypt",
        KeyIsFor::Output,
        &["encrypt FILE out.tensors", "encrypt FILE out.tensors --profile sealed"],
    ),
    command("decrypt", KeyIsFor::Input, &["decrypt FILE out.tensors", "decrypt - out.tensors"]),
    command(
        "rewrap",
        KeyIsFor::Input,
        &["rewrap FILE", "rewrap FILE --add-keyfile other", "rewrap FILE --remove-slot 0"],
    ),
    command("lora pack", KeyIsFor::Output, &["lora pack lora packed-out"]),
    command("lora unpack", KeyIsFor::Input, &["lora unpack ADAPTER out", "lora unpack lora out"]),
    command("lora inspect", KeyIsFor::Input, &["lora inspect ADAPTER", "lora inspect lora"]),
    command(
        "vllm serialize",
        KeyIsFor::Output,
        &["vllm serialize --model demo --serialized-directory published --suffix v1 --reuse-key"],
    ),
    command(
        "vllm deserialize",
        KeyIsFor::Input,
        &["vllm deserialize --path-to-tensors FILE", "vllm deserialize --path-to-tensors -"],
    ),
    command("bench", KeyIsFor::Input, &["bench FILE --rounds 1", "bench -"]),
    command("synth", KeyIsFor::Nothing, &["synth made --preset llama-tiny"]),
    command("completions", KeyIsFor::Nothing, &["completions bash"]),
    command("man", KeyIsFor::Nothing, &["man"]),
];

/// The words of a line, with `FILE` and `ADAPTER` in their places.
pub(super) fn words(line: &str, file: &str) -> Vec<String> {
    let word = |word: &str| match word {
        "FILE" => file.to_owned(),
        "ADAPTER" => "adapter".to_owned(),
        other => other.to_owned(),
    };
    line.split(' ').map(word).collect()
}

/// Makes `ADAPTER` of a file, and `lora`.
pub(super) fn adapters(folder: &Path, file: &str) {
    crate::made::adapter(&folder.join("lora"), 4);
    fs::create_dir_all(folder.join("adapter")).expect("folder");
    let (config, weights) = ("adapter_config.json", "adapter/adapter_model.tensors");
    fs::copy(folder.join("lora").join(config), folder.join("adapter").join(config)).expect("copy");
    fs::copy(folder.join(file), folder.join(weights)).expect("copy");
}

#[test]
fn every_command_is_in_the_table() {
    let help = tz(Path::new("."), &["markdown-help"]).exits(0).stdout;
    let names: BTreeSet<&str> = help.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    // What has commands of its own does nothing itself.
    let has_commands =
        |name: &str| names.iter().any(|other| other.starts_with(&format!("{name} ")));
    let expected: BTreeSet<&str> =
        names.iter().copied().filter(|name| !has_commands(name)).collect();
    let table: BTreeSet<&str> = COMMANDS.iter().map(|command| command.name).collect();
    assert_eq!(table, expected);
    for Command { name, lines, .. } in COMMANDS {
        assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with(name)), "{name}");
    }
}
