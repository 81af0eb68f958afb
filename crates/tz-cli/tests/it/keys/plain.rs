//! A key is for reading an encrypted file: one that is not encrypted is refused, with exit 5, by every command. A key
//! for the output says nothing about the input.

use std::fs;
use std::path::Path;

use super::table::{COMMANDS, KeyIsFor, adapters, words};
use super::{Keys, PASSPHRASE};
use crate::run::{Ran, command, finish, finish_on, listing, tz};

/// A file of the reference, encrypted, with one bit of its version flipped: it reads as one that is not encrypted.
const FLIPPED: &str = "compat_v3_as_v2";

/// Puts [`FLIPPED`] and its key into the folder.
fn put_flipped(keys: &Keys) {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inputs");
    for ending in ["tensors", "key"] {
        let name = format!("{FLIPPED}.{ending}");
        fs::copy(inputs.join(&name), keys.path().join(&name)).expect("copy");
    }
}

/// One way to give a secret.
#[derive(Debug)]
struct Way {
    options: Vec<String>,
    variable: Option<(&'static str, String)>,
}

impl Way {
    fn options(options: &[&str]) -> Self {
        let options = options.iter().map(|&word| word.to_owned()).collect();
        Self { options, variable: None }
    }

    fn variable(name: &'static str, value: &str) -> Self {
        Self { options: Vec::new(), variable: Some((name, value.to_owned())) }
    }

    /// All of them: options, a settings file, variables.
    fn all(key: &str) -> [Self; 6] {
        [
            Self::options(&["--keyfile", key]),
            Self::options(&["--passphrase-file", "pass"]),
            Self::options(&["--config", "tz.toml"]),
            Self::variable("TZ_KEYFILE", key),
            Self::variable("TZ_PASSPHRASE_FILE", "pass"),
            Self::variable("TZ_PASSPHRASE", PASSPHRASE),
        ]
    }

    /// Runs a line with `file` as standard input.
    fn run(&self, keys: &Keys, line: &str, file: &str) -> Ran {
        let mut command = command(keys.path());
        command.args(words(line, file)).args(&self.options);
        command.envs(self.variable.iter().map(|(name, value)| (name, value)));
        match line.split(' ').any(|word| word == "-") {
            true => finish_on(&mut command, &keys.bytes(file)),
            false => finish(&mut command),
        }
    }
}

#[test]
fn e21_with_a_key_no_command_reads_a_plain_file() {
    let keys = Keys::new();
    put_flipped(&keys);
    let flipped = format!("{FLIPPED}.tensors");
    for (file, key) in [("plain.tensors", "key"), (&flipped, &format!("{FLIPPED}.key"))] {
        adapters(keys.path(), file);
        fs::write(keys.path().join("tz.toml"), format!("keyfile = \"{key}\"\n")).unwrap();
        let before = listing(keys.path());
        for row in COMMANDS.iter().filter(|row| row.key == KeyIsFor::Input) {
            // Where a secret comes from is decided before the line is looked at: one line is enough for all the ways.
            for (number, line) in row.lines.iter().enumerate() {
                for way in Way::all(key).into_iter().take(if number == 0 { usize::MAX } else { 1 })
                {
                    let ran = way.run(&keys, line, file);
                    let about = format!("{line} ({file}, {way:?})");
                    assert_eq!(ran.code, 5, "{about}: {}", ran.stderr);
                    assert!(ran.stderr.contains("not encrypted"), "{about}: {}", ran.stderr);
                    assert_eq!(ran.stdout, "", "{about}");
                    assert_eq!(listing(keys.path()), before, "{about}");
                }
            }
        }
    }
}

#[test]
fn e21_a_key_for_the_output_is_none_for_the_input() {
    let keys = Keys::new();
    adapters(keys.path(), "plain.tensors");
    let before = listing(keys.path());
    for row in COMMANDS.iter().filter(|row| row.key == KeyIsFor::Output) {
        for line in row.lines {
            for file in ["plain.tensors", "demo"] {
                let way = Way::options(&["--keyfile", "key"]);
                way.run(&keys, line, file).exits(0);
                let written = [
                    "out.tensors",
                    "packed-out/adapter_model.tensors",
                    "published/vllm/demo/v1/model.tensors",
                ];
                let written = written.iter().find(|name| keys.path().join(name).exists());
                let written = written.expect("a file");
                let table = keys.tz(&format!("inspect {written} --json")).exits(0).json();
                assert_eq!(table["encrypted"], true, "{line}");
                for made in listing(keys.path()).iter().filter(|name| !before.contains(name)) {
                    let path = keys.path().join(made);
                    let _ = fs::remove_dir_all(&path);
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }
    // The key opens an encrypted source of `serialize` too: there is no other to open it with.
    keys.tz("encrypt plain.tensors e.tensors --keyfile key").exits(0);
    keys.tz("serialize e.tensors f.tensors --keyfile key").exits(0);
    keys.refuses("serialize e.tensors g.tensors --keyfile other", "key");
    keys.refuses("encrypt e.tensors g.tensors --keyfile key", "encrypted already");
}

#[test]
fn encryption_that_a_flipped_bit_hides_is_not_encrypted_again() {
    let keys = Keys::new();
    put_flipped(&keys);
    let before = listing(keys.path());
    for command in ["serialize", "encrypt"] {
        keys.tz(&format!("{command} {FLIPPED}.tensors out.tensors --keyfile key")).exits(4);
        assert_eq!(listing(keys.path()), before);
    }
}

#[test]
fn a_plain_file_in_the_place_of_an_encrypted_one_is_refused() {
    let keys = Keys::new();
    // A checkpoint is recognised by its first bytes, so it may have any name.
    let model = "demo/model.safetensors";
    fs::copy(keys.path().join(model), keys.path().join("disguised.tensors")).unwrap();
    for file in ["disguised.tensors", "demo"] {
        for job in [
            "verify FILE",
            "checksum FILE",
            "deserialize FILE",
            "bench FILE",
            "diff FILE demo",
            "diff plain.tensors FILE",
            "vllm deserialize --path-to-tensors FILE",
            "inspect FILE",
        ] {
            keys.refuses(&format!("{} --keyfile key", words(job, file).join(" ")), "not encrypted");
        }
        keys.refuses(&format!("decrypt {file} out.tensors --keyfile key"), "not encrypted");
        keys.refuses(&format!("decrypt {file} out.tensors"), "not encrypted");
    }
    let ran = keys.tz_with_variable("verify plain.tensors", PASSPHRASE).exits(5);
    assert!(ran.stderr.contains("TZ_PASSPHRASE"), "{}", ran.stderr);
}

#[test]
fn one_side_of_a_comparison_is_enough() {
    let keys = Keys::new();
    keys.tz("encrypt plain.tensors e.tensors --keyfile key").exits(0);
    for line in ["diff e.tensors plain.tensors", "diff demo e.tensors", "diff e.tensors e.tensors"]
    {
        keys.tz(&format!("{line} --keyfile key")).exits(0);
    }
}

#[test]
fn a_small_file_next_to_tensors_is_copied_with_a_key() {
    let keys = Keys::new();
    keys.tz("copy demo/config.json config.json --keyfile key").exits(0);
    keys.tz("copy demo/model.safetensors m.safetensors --keyfile key").exits(0);
    keys.tz("encrypt plain.tensors e.tensors --keyfile key").exits(0);
    keys.tz("copy e.tensors f.tensors --keyfile key").exits(0);
}

const DIRECTORY: &str = "out/vllm/demo/v1";

/// A directory for two ranks with its manifest.
fn published(keys: &Keys, options: &[&str]) {
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "out"];
    let more = ["--suffix", "v1", "--no-fsync", "--overwrite", "--tensor-parallel-size", "2"];
    tz(keys.path(), &[&job[..], &more, options].concat()).exits(0);
}

#[test]
fn e21_with_a_key_every_file_of_tensors_in_a_directory_is_encrypted() {
    let keys = Keys::new();
    let verify = format!("verify {DIRECTORY} --keyfile key");
    let path = |name: &str| keys.path().join(DIRECTORY).join(name);

    published(&keys, &[]);
    keys.tz(&format!("verify {DIRECTORY}")).exits(0);
    keys.refuses(&verify, "not encrypted");
    let ran = keys.tz_with_variable(&format!("verify {DIRECTORY}"), PASSPHRASE).exits(5);
    assert!(ran.stderr.contains("not encrypted"), "{}", ran.stderr);
    let plain = fs::read(path("model-rank-001.tensors")).unwrap();
    let manifest = fs::read_to_string(path("manifest.toml")).unwrap();
    // Whoever can replace the tensors can replace the manifest.
    let claims = manifest.replace("encrypted = false", "encrypted = true");
    assert_ne!(claims, manifest);
    fs::write(path("manifest.toml"), claims).unwrap();
    keys.refuses(&verify, "model-rank-000.tensors");

    published(&keys, &["--keyfile", "key", "--reuse-key"]);
    keys.tz(&verify).exits(0);
    keys.tz(&format!("verify {DIRECTORY}")).exits(0);
    // One file of two, although its digest gives it away as well.
    fs::write(path("model-rank-001.tensors"), plain).unwrap();
    keys.refuses(&verify, "model-rank-001.tensors");
    keys.tz(&format!("verify {DIRECTORY}")).exits(1);

    // A manifest without tensors leaves nothing that the key could be for.
    let is_kept = |block: &&str| !block.contains(".tensors\"");
    let kept: Vec<&str> = manifest.split("[[files]]").filter(is_kept).collect();
    fs::write(path("manifest.toml"), kept.join("[[files]]")).unwrap();
    keys.refuses(&verify, "not encrypted");
}
