//! Keys at the command line: `keygen`, `encrypt`, `decrypt`, and what every command that reads does with and without
//! them. Owns [`Keys`], a folder with a model and secrets.

mod empty;
mod plain;
mod table;
mod uris;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::run::{Ran, command, finish, listing, tz};

/// What no output may hold.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
/// Bytes that are text, so that they would be seen wherever they went.
const KEY: &str = "0123456789abcdefSECRETKEYBYTES!!";

/// A folder with a small model in both forms and secrets to seal it with.
pub(crate) struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let keys = Self { folder: tempfile::tempdir().expect("folder") };
        tz(keys.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
        tz(keys.path(), &["serialize", "demo", "plain.tensors"]).exits(0);
        keys.secret("key", KEY);
        keys.secret("other", "another key of exactly 32 bytes!");
        keys.secret("pass", &format!("{PASSPHRASE}\n"));
        keys.secret("wrong", "no horse");
        keys
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file that its owner alone can read.
    pub(crate) fn secret(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::write(&path, content).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("file");
    }

    /// Runs a line of words; whatever it says, it gives no secret away.
    #[track_caller]
    pub(crate) fn tz(&self, line: &str) -> Ran {
        self.spoken(command(self.path()).args(line.split(' ')))
    }

    /// The same with a passphrase in the environment.
    #[track_caller]
    fn tz_with_variable(&self, line: &str, passphrase: &str) -> Ran {
        self.spoken(command(self.path()).env("TZ_PASSPHRASE", passphrase).args(line.split(' ')))
    }

    #[track_caller]
    fn spoken(&self, command: &mut std::process::Command) -> Ran {
        let ran = finish(command);
        for words in [&ran.stdout, &ran.stderr] {
            // The key as bytes, in hexadecimal, and as `Debug` prints bytes.
            for secret in [KEY, PASSPHRASE, "53454352455", "83, 69, 67, 82"] {
                assert!(!words.contains(secret), "a secret is shown: {words}");
            }
        }
        ran
    }

    /// Expects exit 5 with one line on the fault and one on what to try, nothing on standard output and no new file.
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str, words: &str) {
        let before = listing(self.path());
        let ran = self.tz(line).exits(5);
        assert!(ran.stderr.starts_with("error (key): "), "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{line}: {}", ran.stderr);
        assert_eq!((ran.stderr.lines().count(), &*ran.stdout), (2, ""), "{line}: {}", ran.stderr);
        assert_eq!(listing(self.path()), before, "{line}");
    }

    /// Encrypts the model in every way that there is; gives each file with the options that open it.
    fn encrypted(&self) -> Vec<(String, &'static str)> {
        let mut files = Vec::new();
        for profile in ["compat", "sealed"] {
            for (name, options) in [("key", "--keyfile key"), ("pass", "--passphrase-file pass")] {
                let file = format!("{profile}-{name}.tensors");
                let line =
                    format!("encrypt plain.tensors {file} --profile {profile} --kdf min {options}");
                self.tz(&line).exits(0);
                files.push((file, options));
            }
        }
        files
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).expect("file")
    }

    /// Copies a file with one bit flipped at `at`, counted from the end if negative.
    fn flipped(&self, from: &str, to: &str, at: isize) {
        let mut bytes = self.bytes(from);
        let at = if at < 0 { bytes.len() - at.unsigned_abs() } else { at.unsigned_abs() };
        bytes[at] ^= 1;
        fs::write(self.path().join(to), bytes).expect("file");
    }
}

#[test]
fn keygen_makes_32_bytes_that_only_the_owner_reads_and_never_overwrites() {
    let keys = Keys::new();
    keys.tz("keygen new.key").exits(0);
    let path = keys.path().join("new.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read(&path).unwrap();
    assert_eq!(first.len(), 32);
    let again = keys.tz("keygen new.key").exits(3);
    assert!(again.stderr.contains("never overwritten"), "{}", again.stderr);
    assert_eq!(fs::read(&path).unwrap(), first);
    keys.tz("keygen second.key").exits(0);
    assert_ne!(keys.bytes("second.key"), first);
    keys.tz("keygen no/such/folder").exits(3);
    keys.tz("encrypt plain.tensors a.tensors --keyfile new.key --generate-key").exits(3);
    assert_eq!(fs::read(&path).unwrap(), first);
    assert!(!keys.path().join("a.tensors").exists());
}

#[test]
fn what_was_encrypted_is_decrypted_to_the_same_tensors() {
    let keys = Keys::new();
    for (file, options) in keys.encrypted() {
        for line in [
            format!("verify {file} {options}"),
            format!("deserialize {file} {options}"),
            format!("bench {file} {options} --rounds 1"),
            format!("decrypt {file} back.tensors {options}"),
            format!("diff plain.tensors {file} {options}"),
            format!("diff {file} demo {options}"),
            "diff plain.tensors back.tensors".to_owned(),
            "verify back.tensors".to_owned(),
            format!("deserialize {file} --to back.safetensors {options}"),
            "diff demo back.safetensors".to_owned(),
            format!("copy {file} copy.tensors"),
            format!("verify copy.tensors {options}"),
        ] {
            keys.tz(&line).exits(0);
        }
        let sums = |line: String| keys.tz(&line).exits(0).stdout;
        assert_eq!(
            sums(format!("checksum {file} {options}")),
            sums("checksum plain.tensors".to_owned())
        );
        assert_eq!(keys.bytes("copy.tensors"), keys.bytes(&file));
    }
}

#[test]
fn the_plaintext_is_not_in_the_file_nor_its_hashes() {
    let keys = Keys::new();
    let plain = keys.bytes("plain.tensors");
    let needle = &plain[plain.len() - 72..plain.len() - 8];
    assert!(needle.iter().any(|&byte| byte != 0));
    for (file, _) in keys.encrypted() {
        assert!(!keys.bytes(&file).windows(needle.len()).any(|window| window == needle), "{file}");
        let table = keys.tz(&format!("inspect {file} --hashes --json")).exits(0).json();
        for row in table["tensors"].as_array().unwrap() {
            assert_eq!(row["hashes"], serde_json::json!({}), "{file}");
        }
    }
}

#[test]
fn serialize_encrypts_with_a_key_and_makes_one_on_request() {
    let keys = Keys::new();
    let line = "serialize demo s.tensors --keyfile made.key --generate-key --profile sealed";
    keys.tz(line).exits(0);
    assert_eq!(keys.bytes("made.key").len(), 32);
    keys.tz("diff demo s.tensors --keyfile made.key").exits(0);
    keys.tz(&format!("{line} --dry-run")).exits(2);
    keys.tz("serialize demo - --generate-key").exits(2);
    keys.tz("serialize demo never.tensors --keyfile key --chunk-size 1000").exits(2);
    let before = listing(keys.path());
    for line in ["serialize demo -", "encrypt plain.tensors -"] {
        let ran = keys.tz(&format!("{line} --keyfile new --generate-key")).exits(2);
        assert!(ran.stderr.contains("to a stream") && ran.stdout.is_empty(), "{}", ran.stderr);
    }
    assert_eq!(listing(keys.path()), before);
}

#[test]
fn a_key_that_cannot_be_used_is_not_made() {
    let keys = Keys::new();
    let before = listing(keys.path());
    for options in [
        "--passphrase-file pass",
        "--chunk-size 1000",
        "--profile sealed --chunk-size 1KiB",
        "--profile sealed --chunk-size 128MiB",
        "--passphrase-file pass --profile sealed --memlimit 2GiB",
    ] {
        let line = format!("encrypt plain.tensors e.tensors --keyfile n --generate-key {options}");
        keys.tz(&line).exits(2);
        assert_eq!(listing(keys.path()), before, "{options}");
    }
    keys.tz("encrypt plain.tensors e.tensors").exits(2);
    keys.tz("encrypt plain.tensors e.tensors --generate-key").exits(2);
}

#[test]
fn costs_that_no_reader_here_would_pay_are_not_written() {
    let keys = Keys::new();
    let before = listing(keys.path());
    for options in
        ["--opslimit 11", "--opslimit 0", "--memlimit 2GiB", "--memlimit 4KiB", "--salt 00"]
    {
        let line = format!("encrypt plain.tensors e.tensors --passphrase-file pass {options}");
        keys.tz(&line).exits(2);
        assert_eq!(listing(keys.path()), before, "{options}");
    }
    let exact = "--opslimit 2 --memlimit 64KiB --salt 000102030405060708090a0b0c0d0e0f";
    let line = format!("encrypt plain.tensors e.tensors --passphrase-file pass {exact}");
    keys.tz(&line).exits(0);
    keys.tz("verify e.tensors --passphrase-file pass").exits(0);
    let table = keys.tz("inspect e.tensors --json").exits(0).json();
    let kdf = serde_json::json!({"algorithm": "argon2id", "passes": 2, "memory_bytes": 65536});
    assert_eq!(table["encryption"]["key_derivation"], kdf);
}

#[test]
fn without_the_right_secret_nothing_is_read_and_nothing_left() {
    let keys = Keys::new();
    for (file, options) in keys.encrypted() {
        let fault = if file.starts_with("compat") { "the key is wrong" } else { "opens the file" };
        let (wrong, other_kind, needed) = if options.contains("key") {
            ("--keyfile other", "--passphrase-file pass", "key")
        } else {
            ("--passphrase-file wrong", "--keyfile key", "passphrase")
        };
        for job in [
            format!("deserialize {file}"),
            format!("deserialize {file} --to out.safetensors"),
            format!("deserialize {file} --to out/shards"),
            format!("decrypt {file} out.tensors"),
            format!("serialize {file} out.tensors"),
            format!("checksum {file}"),
            format!("bench {file}"),
            format!("diff {file} plain.tensors"),
            format!("diff plain.tensors {file}"),
        ] {
            keys.refuses(&job, "key");
            keys.refuses(&format!("{job} {wrong}"), fault);
            keys.refuses(&format!("{job} {other_kind}"), needed);
        }
        keys.refuses(&format!("verify {file}"), "key");
    }
}

#[test]
fn a_passphrase_comes_from_the_environment_too_and_the_option_wins() {
    let keys = Keys::new();
    let line = "encrypt plain.tensors e.tensors --kdf min";
    keys.tz_with_variable(line, PASSPHRASE).exits(0);
    keys.tz_with_variable("verify e.tensors", PASSPHRASE).exits(0);
    keys.tz("verify e.tensors --passphrase-file pass").exits(0);
    keys.tz_with_variable("checksum e.tensors", "no horse").exits(5);
    keys.tz_with_variable("verify e.tensors --passphrase-file pass", "no horse").exits(0);
    // The settings file is the weakest.
    fs::write(keys.path().join("tz.toml"), "keyfile = \"other\"\n").unwrap();
    let line = "encrypt plain.tensors f.tensors --kdf min --config tz.toml";
    keys.tz_with_variable(line, PASSPHRASE).exits(0);
    keys.tz("verify f.tensors --passphrase-file pass").exits(0);
}

#[test]
fn line_ends_after_a_passphrase_do_not_count_and_others_do() {
    let keys = Keys::new();
    keys.tz("encrypt plain.tensors e.tensors --kdf min --passphrase-file pass").exits(0);
    for (end, code) in [("", 0), ("\n", 0), ("\r\n", 0), ("\n\n", 5), (" ", 5), ("\r", 5)] {
        keys.secret("ended", &format!("{PASSPHRASE}{end}"));
        keys.tz("checksum e.tensors --passphrase-file ended").exits(code);
    }
    keys.secret("huge", &"x".repeat(70_000));
    keys.refuses("verify e.tensors --passphrase-file huge", "larger");
}

#[test]
fn a_key_has_exactly_32_bytes() {
    let keys = Keys::new();
    for len in [1, 31, 33, 64, 100_000] {
        keys.secret("long", &"k".repeat(len));
        keys.refuses("encrypt plain.tensors e.tensors --keyfile long", "exactly 32 bytes");
        keys.refuses("verify plain.tensors --keyfile long", "exactly 32 bytes");
    }
    keys.tz("verify plain.tensors --keyfile absent").exits(3);
}

#[test]
fn a_secret_that_others_can_read_is_used_with_one_warning() {
    let keys = Keys::new();
    for (file, options) in [("key", "--keyfile key"), ("pass", "--kdf min --passphrase-file pass")]
    {
        let path = keys.path().join(file);
        for (mode, warned) in [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let ran = keys.tz(&format!("serialize demo e.tensors {options}")).exits(0);
            let count = ran.stderr.matches("others can read this secret").count();
            assert_eq!(count, warned, "{mode:o}: {}", ran.stderr);
            assert!(warned == 0 || ran.stderr.contains(&format!("mode {mode:03o}")));
            let quiet = keys.tz(&format!("serialize demo e.tensors -q {options}")).exits(0);
            assert_eq!(quiet.stderr, "");
        }
    }
}

#[test]
fn a_key_may_come_through_a_pipe() {
    let keys = Keys::new();
    keys.tz("encrypt plain.tensors e.tensors --keyfile key").exits(0);
    for line in
        ["serialize e.tensors f.tensors", "deserialize e.tensors", "decrypt e.tensors p.tensors"]
    {
        let words = format!("{line} --keyfile /dev/stdin");
        let ran =
            crate::run::tz_on(keys.path(), &words.split(' ').collect::<Vec<_>>(), KEY.as_bytes());
        ran.exits(0);
    }
    keys.tz("diff e.tensors f.tensors --keyfile key").exits(0);
}

#[test]
fn an_altered_file_is_refused_and_leaves_nothing() {
    let keys = Keys::new();
    for (file, options) in keys.encrypted() {
        // The last byte of the last tensor stands before the terminator.
        keys.flipped(&file, "bad.tensors", -9);
        for job in [
            "deserialize bad.tensors",
            "checksum bad.tensors",
            "deserialize bad.tensors --no-verify",
        ] {
            keys.refuses(&format!("{job} {options}"), "model.norm.weight");
        }
        for job in
            ["decrypt bad.tensors out.tensors", "deserialize bad.tensors --to out.safetensors"]
        {
            keys.refuses(&format!("{job} {options}"), "model.norm.weight");
        }
        let before = listing(keys.path());
        let verify = keys.tz(&format!("verify bad.tensors {options}")).exits(1);
        assert!(verify.stdout.contains("model.norm.weight"), "{}", verify.stdout);
        assert_eq!(listing(keys.path()), before);
        // Cut off in the middle of the data.
        let bytes = keys.bytes(&file);
        fs::write(keys.path().join("cut.tensors"), &bytes[..bytes.len() / 2]).unwrap();
        let ran = keys.tz(&format!("decrypt cut.tensors out.tensors {options}"));
        assert!([4, 5].contains(&ran.code), "{}: {}", ran.code, ran.stderr);
        assert!(!keys.path().join("out.tensors").exists());
    }
    // In the front of a sealed file, padding of the file header included.
    keys.flipped("sealed-key.tensors", "bad.tensors", 50);
    keys.refuses("deserialize bad.tensors --keyfile key", "altered");
    keys.refuses("verify bad.tensors --keyfile key", "altered");
}

#[test]
fn damage_of_a_plain_file_is_not_sealed_as_if_it_were_meant() {
    let keys = Keys::new();
    keys.flipped("plain.tensors", "bad.tensors", -9);
    let before = listing(keys.path());
    let ran = keys.tz("encrypt bad.tensors e.tensors --keyfile key").exits(4);
    assert!(ran.stderr.contains("model.norm.weight"), "{}", ran.stderr);
    assert_eq!(listing(keys.path()), before);
    keys.tz("encrypt bad.tensors e.tensors --keyfile key --no-verify").exits(0);
}

#[test]
fn inspect_tells_the_parameters_without_a_key() {
    let keys = Keys::new();
    keys.encrypted();
    let kdf = serde_json::json!({"algorithm": "argon2id", "passes": 1, "memory_bytes": 8192});
    for (file, cipher, chunk, derivation) in [
        ("compat-key", "xsalsa20-poly1305", 2 << 20, None),
        ("compat-pass", "xsalsa20-poly1305", 2 << 20, Some(&kdf)),
        ("sealed-key", "aes-256-gcm", 1 << 20, None),
        ("sealed-pass", "aes-256-gcm", 1 << 20, Some(&kdf)),
    ] {
        let json = keys.tz(&format!("inspect {file}.tensors --json")).exits(0).json();
        let encryption = &json["encryption"];
        assert_eq!(
            (&encryption["cipher"], &encryption["chunk_bytes"]),
            (&cipher.into(), &chunk.into())
        );
        let slots = encryption["slots"].as_array().unwrap();
        let stated = if cipher == "aes-256-gcm" {
            assert_eq!(slots.len(), 1, "{file}");
            assert_eq!(slots[0]["key_id"].as_str().unwrap().len(), 16);
            &slots[0]["key_derivation"]
        } else {
            assert!(slots.is_empty(), "{file}");
            &encryption["key_derivation"]
        };
        assert_eq!(stated, derivation.unwrap_or(&serde_json::Value::Null), "{file}");
        let text = keys.tz(&format!("inspect {file}.tensors")).exits(0).stdout;
        let cost = "Argon2id, 1 pass over 8.0 KiB";
        assert_eq!(text.contains(cost), derivation.is_some(), "{text}");
        assert!(text.contains("chunks of"), "{text}");
    }
    let json = keys.tz("inspect plain.tensors --json").exits(0).json();
    assert_eq!(json["encryption"], serde_json::Value::Null);
}
