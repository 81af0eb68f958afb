//! `rewrap` at the command line: who opens a sealed file, before and after, also while other processes change it.

mod interrupted;
mod neighbours;

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::keys::Keys;
use crate::run::{command, listing, ran};

const TENSORS: &str = "s.tensors";

fn sealed() -> Keys {
    let keys = Keys::new();
    keys.tz("encrypt plain.tensors s.tensors --profile sealed --keyfile key").exits(0);
    keys
}

/// Which of the secrets open the file.
#[track_caller]
fn opens(keys: &Keys, expected: &[&str]) {
    for options in ["--keyfile key", "--keyfile other", "--passphrase-file pass"] {
        let code = if expected.contains(&options) { 0 } else { 5 };
        keys.tz(&format!("deserialize s.tensors {options}")).exits(code);
    }
}

#[test]
fn slots_are_added_replaced_and_removed_without_touching_tensors() {
    let keys = sealed();
    let read = || fs::read(keys.path().join(TENSORS)).unwrap();
    let files = listing(keys.path());
    let before = read();
    let table = keys.tz("inspect s.tensors --json").exits(0).json();
    let first = table["tensors"][0]["header_offset"].as_u64().unwrap();
    let tensors = usize::try_from(first).unwrap();

    let line = "rewrap s.tensors --keyfile key --add-passphrase-file pass --kdf min --json";
    let report = keys.tz(line).exits(0).json();
    assert_eq!(report["changed"], true);
    let kinds: Vec<_> =
        report["slots"].as_array().unwrap().iter().map(|slot| slot["kind"].clone()).collect();
    assert_eq!(kinds, ["key", "passphrase"]);
    opens(&keys, &["--keyfile key", "--passphrase-file pass"]);

    keys.tz("rewrap s.tensors --passphrase-file pass --replace-slot 0 --add-keyfile other")
        .exits(0);
    opens(&keys, &["--keyfile other", "--passphrase-file pass"]);

    // Numbers are those before any change, and a key may take over in one step.
    keys.tz("rewrap s.tensors --keyfile other --add-keyfile key --remove-slot 0 --remove-slot 1")
        .exits(0);
    opens(&keys, &["--keyfile key"]);
    let after = read();
    assert_eq!(after.len(), before.len());
    assert_eq!(after[tensors..], before[tensors..]);
    assert_ne!(after[..tensors], before[..tensors]);
    assert_eq!(listing(keys.path()), files);
}

#[test]
fn what_cannot_be_changed_is_left_as_it_is() {
    let keys = sealed();
    keys.tz("encrypt plain.tensors c.tensors --keyfile key").exits(0);
    let before = fs::read(keys.path().join(TENSORS)).unwrap();
    keys.refuses("rewrap s.tensors --add-keyfile other", "key");
    keys.refuses(
        "rewrap s.tensors --keyfile other --add-passphrase-file pass --kdf min",
        "opens the file",
    );
    keys.refuses("rewrap s.tensors --passphrase-file pass --add-keyfile other", "key");
    for line in [
        "rewrap s.tensors --keyfile key --remove-slot 0",
        "rewrap s.tensors --keyfile key --remove-slot 7",
        "rewrap s.tensors --keyfile key --replace-slot 0",
        "rewrap s.tensors --keyfile key --replace-slot 9 --add-keyfile other",
        "rewrap c.tensors",
        "rewrap plain.tensors",
        "rewrap c.tensors --keyfile key --add-keyfile other",
    ] {
        let ran = keys.tz(line).exits(2);
        assert_eq!((ran.stderr.lines().count(), &*ran.stdout), (2, ""), "{line}: {}", ran.stderr);
    }
    keys.refuses("rewrap plain.tensors --keyfile key --add-keyfile other", "not encrypted");
    assert_eq!(fs::read(keys.path().join(TENSORS)).unwrap(), before);
}

#[test]
fn slots_are_listed_without_a_key() {
    let keys = sealed();
    let ran = keys.tz("rewrap s.tensors").exits(0);
    assert!(ran.stdout.starts_with("slot 0: key, id "), "{}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 1);
    let report = keys.tz("rewrap s.tensors --json").exits(0).json();
    assert_eq!((&report["changed"], &report["recovered"]), (&false.into(), &false.into()));
    assert_eq!(
        (&report["earlier_rewrap"], &report["ends_in_journal"]),
        (&Value::Null, &false.into())
    );
    let id = report["slots"][0]["key_id"].clone();
    let table = keys.tz("inspect s.tensors --json").exits(0).json();
    assert_eq!(table["encryption"]["slots"][0]["key_id"], id);
}

#[test]
fn a_file_that_another_process_changes_is_busy() {
    let keys = sealed();
    let before = fs::read(keys.path().join(TENSORS)).unwrap();
    let file = fs::File::open(keys.path().join(TENSORS)).unwrap();
    file.lock().unwrap();
    let ran = keys.tz("rewrap s.tensors --keyfile key --add-keyfile other").exits(3);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stderr);
    assert!(lines[0].contains("another process changes the file"), "{}", ran.stderr);
    assert!(lines[1].starts_with("try: run it again"), "{}", ran.stderr);
    // Who reads asks for no lock.
    keys.tz("rewrap s.tensors").exits(0);
    opens(&keys, &["--keyfile key"]);
    assert_eq!(fs::read(keys.path().join(TENSORS)).unwrap(), before);
    file.unlock().unwrap();
    keys.tz("rewrap s.tensors --keyfile key --add-keyfile other").exits(0);
}

/// However they meet: whatever says that it is done, is done, and nothing else is.
#[test]
fn rewraps_at_once_lose_no_change_and_report_no_false_success() {
    let keys = sealed();
    let names = ["a", "b", "c", "d"];
    for (byte, name) in (b'a'..).zip(names) {
        keys.secret(name, &String::from_utf8(vec![byte; 32]).unwrap());
    }
    let whole = fs::read(keys.path().join(TENSORS)).unwrap();
    for _ in 0..8 {
        fs::write(keys.path().join(TENSORS), &whole).unwrap();
        let start = |name: &&str| {
            let mut command = command(keys.path());
            command.args(["rewrap", TENSORS, "--keyfile", "key", "--add-keyfile", name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let running: Vec<_> = names.iter().map(start).collect();
        let mut done = 0;
        for (child, name) in running.into_iter().zip(names) {
            let ran = ran(child.wait_with_output().unwrap());
            let is_busy = ran.code == 3 && ran.stderr.contains("another process");
            assert!(ran.code == 0 || is_busy, "{name}: {}", ran.stderr);
            done += usize::from(ran.code == 0);
            let code = if ran.code == 0 { 0 } else { 5 };
            keys.tz(&format!("verify s.tensors --keyfile {name}")).exits(code);
        }
        assert!(done > 0);
        let report = keys.tz("rewrap s.tensors --json").exits(0).json();
        assert_eq!(report["slots"].as_array().unwrap().len(), 1 + done);
        assert_eq!(fs::read(keys.path().join(TENSORS)).unwrap().len(), whole.len());
    }
}
