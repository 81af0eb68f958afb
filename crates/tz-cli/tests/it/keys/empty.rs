//! A secret that is set but empty is an error, with exit 2, in every command: whoever set it expects encryption.

use std::fs;

use super::table::{COMMANDS, adapters, words};
use super::{Keys, PASSPHRASE};
use crate::run::{command, finish, listing, tz_on};
use crate::s3::S3;

/// A name, and the arguments and variables that set an empty secret by it.
type Way = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const WAYS: &[Way] = &[
    ("a passphrase in the environment", &[], &[("TZ_PASSPHRASE", "")]),
    ("one that an option overrides", &["--keyfile", "key"], &[("TZ_PASSPHRASE", "")]),
    ("the name of a key in the environment", &[], &[("TZ_KEYFILE", "")]),
    ("the name of a passphrase in the environment", &[], &[("TZ_PASSPHRASE_FILE", "")]),
    ("an empty key by the environment", &[], &[("TZ_KEYFILE", "empty")]),
    ("an empty passphrase by the environment", &[], &[("TZ_PASSPHRASE_FILE", "newline")]),
    ("the name of a key", &["--keyfile", ""], &[]),
    ("the name of a passphrase", &["--passphrase-file", ""], &[]),
    ("an empty key", &["--keyfile", "empty"], &[]),
    ("an empty passphrase", &["--passphrase-file", "empty"], &[]),
    ("a line break for a passphrase", &["--passphrase-file", "newline"], &[]),
    ("a line break of Windows", &["--passphrase-file", "crlf"], &[]),
    ("an empty passphrase next to a key", &["--keyfile", "key", "--passphrase-file", "empty"], &[]),
    ("the name of a key in the settings", &["--config", "no-key.toml"], &[]),
    ("the name of a passphrase in the settings", &["--config", "no-passphrase.toml"], &[]),
    ("an empty key by the settings", &["--config", "empty-key.toml"], &[]),
    ("an empty passphrase by the settings", &["--config", "empty-passphrase.toml"], &[]),
];

fn keys_with_empty_secrets() -> Keys {
    let keys = Keys::new();
    for (name, content) in [
        ("empty", ""),
        ("newline", "\n"),
        ("crlf", "\r\n"),
        ("no-key.toml", "keyfile = \"\"\n"),
        ("no-passphrase.toml", "passphrase-file = \"\"\n"),
        ("empty-key.toml", "keyfile = \"empty\"\n"),
        ("empty-passphrase.toml", "passphrase-file = \"newline\"\n"),
    ] {
        keys.secret(name, content);
    }
    keys
}

#[test]
fn e24_an_empty_secret_is_an_error_in_every_command_and_from_every_place() {
    let keys = keys_with_empty_secrets();
    adapters(keys.path(), "plain.tensors");
    let before = listing(keys.path());
    for line in COMMANDS.iter().filter_map(|row| row.lines.first()) {
        for (name, options, variables) in WAYS {
            let mut command = command(keys.path());
            command.args(words(line, "plain.tensors")).args(*options);
            let ran = finish(command.envs(variables.iter().copied()));
            let about = format!("{line}, {name}: {}", ran.stderr);
            assert_eq!(ran.code, 2, "{about}");
            assert!(ran.stderr.starts_with("error (usage): "), "{about}");
            assert!(ran.stderr.contains("empty"), "{about}");
            assert_eq!((ran.stderr.lines().count(), &*ran.stdout), (2, ""), "{about}");
            assert_eq!(listing(keys.path()), before, "{about}");
        }
    }
}

#[test]
fn e24_what_cannot_be_looked_at_beforehand_is_refused_when_it_is_read() {
    let keys = keys_with_empty_secrets();
    for options in [
        &["--keyfile", "/dev/stdin"],
        &["--passphrase-file", "/dev/stdin"],
        &["--keyfile", "/dev/null"],
    ] {
        let line = [&["encrypt", "plain.tensors", "e.tensors"], &options[..]].concat();
        let ran = tz_on(keys.path(), &line, b"").exits(2);
        assert!(ran.stderr.contains("empty"), "{options:?}: {}", ran.stderr);
    }
    let s3 = S3::start();
    fs::write(s3.path("empty"), "").unwrap();
    let line = ["encrypt", "plain.tensors", "e.tensors", "--keyfile", "s3://bucket/empty"];
    let ran = s3.tz(keys.path(), &line).exits(2);
    assert!(ran.stderr.contains("s3://bucket/empty: the key file is empty"), "{}", ran.stderr);
    assert!(!keys.path().join("e.tensors").exists());

    // Secrets that a file is to be opened with from now on.
    let line = "encrypt plain.tensors s.tensors --profile sealed --keyfile key";
    keys.tz(line).exits(0);
    let sealed = keys.bytes("s.tensors");
    for added in [
        &["--add-keyfile", "empty"],
        &["--add-keyfile", ""],
        &["--add-passphrase-file", "newline"],
        &["--add-passphrase-file", ""],
    ] {
        let line = [&["rewrap", "s.tensors", "--keyfile", "key"], &added[..]].concat();
        finish(command(keys.path()).args(line)).exits(2);
        assert_eq!(keys.bytes("s.tensors"), sealed, "{added:?}");
    }
}

#[test]
fn what_only_looks_empty_is_a_secret() {
    let keys = keys_with_empty_secrets();
    for content in [" ", "\n\n", "\r", "\r\n\n"] {
        keys.secret("blank", content);
        keys.tz("encrypt plain.tensors e.tensors --kdf min --passphrase-file blank").exits(0);
        keys.tz("verify e.tensors --passphrase-file blank").exits(0);
        keys.tz("checksum e.tensors --passphrase-file pass").exits(5);
    }
    keys.tz_with_variable("encrypt plain.tensors e.tensors --kdf min", " ").exits(0);
    keys.tz_with_variable("verify e.tensors", " ").exits(0);
    // A setting that is not used names a file that nobody looks at.
    fs::write(keys.path().join("tz.toml"), "keyfile = \"empty\"\n").unwrap();
    keys.tz_with_variable("serialize demo f.tensors --kdf min --config tz.toml", PASSPHRASE)
        .exits(0);
    keys.tz("verify f.tensors --passphrase-file pass").exits(0);
}

#[test]
fn empty_credentials_of_a_store_count_as_unset_and_v_says_so() {
    let keys = keys_with_empty_secrets();
    let s3 = S3::start();
    let line = ["copy", "plain.tensors", "s3://bucket/a.tensors", "-v", "--s3-access-key-id", ""];
    let mut command = s3.command(keys.path(), &line);
    command.args(["--s3-secret-access-key-file", "empty"]);
    let ran = finish(command.env("AWS_SESSION_TOKEN", "")).exits(0);
    for name in ["access key id", "secret access key", "AWS_SESSION_TOKEN"] {
        let said = "set but empty: counts as unset";
        let found = ran.stderr.lines().any(|line| line.contains(name) && line.contains(said));
        assert!(found, "{name}: {}", ran.stderr);
    }
    let quiet = s3.command(keys.path(), &line[..3]).env("AWS_SESSION_TOKEN", "").output().unwrap();
    let words = String::from_utf8(quiet.stderr).unwrap();
    assert!(quiet.status.success() && !words.contains("unset"), "{words}");
}
