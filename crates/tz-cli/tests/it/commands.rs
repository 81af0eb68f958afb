//! Every command's cases, and what takes more than a case.

use std::fs;

use tz_io::WriteOptions;

use crate::case::{folder, run_all};
use crate::made::{spec, tensors};
use crate::run::{listing, tz, tz_on};

const COMMANDS: &[&str] = &[
    "bench",
    "checksum",
    "completions",
    "copy",
    "decrypt",
    "deserialize",
    "diff",
    "encrypt",
    "errors",
    "inspect",
    "keygen",
    "lora",
    "man",
    "rewrap",
    "serialize",
    "settings",
    "synth",
    "verify",
    "vllm",
];

macro_rules! cases {
    ($($name:ident)*) => { $(#[test] fn $name() { run_all(stringify!($name)); })* };
}

cases! {
    bench checksum completions copy decrypt deserialize diff encrypt errors inspect keygen lora
    man rewrap serialize settings synth verify vllm
}

#[test]
fn every_folder_of_cases_is_run() {
    let mut folders: Vec<String> = fs::read_dir(folder())
        .expect("cases")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    assert_eq!(folders, COMMANDS);
}

#[test]
fn every_command_has_cases() {
    let help = tz(&folder(), &["--help"]).exits(0).stdout;
    let commands = help.split("Commands:\n").nth(1).expect("a list of commands");
    let commands = commands.split("\n\n").next().unwrap_or_default();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        assert!(COMMANDS.contains(&name), "no cases for {name}");
    }
}

#[test]
fn serialize_to_a_stream_writes_the_bytes_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    tz(dir.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
    for hash in ["crc32", "none", "sha256,crc32,blake3"] {
        tz(dir.path(), &["serialize", "demo", "file.tensors", "--hash", hash]).exits(0);
        let output = crate::run::command(dir.path())
            .args(["serialize", "demo", "-", "--hash", hash])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(output.stdout == fs::read(dir.path().join("file.tensors")).unwrap(), "{hash}");
    }
}

#[test]
fn big_endian_files_come_out_little_endian() {
    let dir = tempfile::tempdir().unwrap();
    let floats: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_be_bytes()).collect();
    let complex: Vec<u8> = [1.0_f32, 3.0].iter().flat_map(|value| value.to_be_bytes()).collect();
    let written = [
        (spec("f", ">f4", &[2]), floats),
        (spec("c", ">c8", &[1]), complex),
        (spec("b", "|u1", &[3]), vec![1, 2, 3]),
    ];
    tensors(&dir.path().join("old.tensors"), &written, &WriteOptions::default());
    tz(dir.path(), &["deserialize", "old.tensors", "--to", "new.safetensors"]).exits(0);
    tz(dir.path(), &["diff", "old.tensors", "new.safetensors"]).exits(0);
    tz(dir.path(), &["diff", "new.safetensors", "old.tensors"]).exits(0);

    let plain: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let expected = [(spec("f", "<f4", &[2]), plain)];
    tensors(&dir.path().join("expected.tensors"), &expected, &WriteOptions::default());
    let digest = |file: &str| tz(dir.path(), &["checksum", file, "--filter", "f"]).exits(0).stdout;
    assert_eq!(digest("new.safetensors"), digest("expected.tensors"));
    let same = "digests are of the elements, whatever their order in the file";
    assert_eq!(digest("old.tensors"), digest("expected.tensors"), "{same}");

    // A copy keeps the byte order, a cast ends it.
    tz(dir.path(), &["serialize", "old.tensors", "copy.tensors"]).exits(0);
    assert_eq!(digest("copy.tensors"), digest("old.tensors"));
    tz(dir.path(), &["serialize", "old.tensors", "wide.tensors", "--dtype", "float64"]).exits(0);
    let back = ["serialize", "wide.tensors", "back.tensors", "--dtype", "float32"];
    tz(dir.path(), &back).exits(0);
    assert_eq!(digest("back.tensors"), digest("expected.tensors"));
}

#[test]
fn names_from_a_file_never_reach_the_terminal_as_commands() {
    let dir = tempfile::tempdir().unwrap();
    let written = [(spec("evil\u{1b}[2Jname\nline", "|u1", &[1]), vec![7])];
    tensors(&dir.path().join("evil.tensors"), &written, &WriteOptions::default());
    for arguments in [&["inspect", "evil.tensors"][..], &["checksum", "evil.tensors"]] {
        let ran = tz(dir.path(), arguments).exits(0);
        assert!(!ran.stdout.contains('\u{1b}'), "{:?}", ran.stdout);
        assert!(ran.stdout.contains("evil\\u{1b}[2Jname\\nline"), "{:?}", ran.stdout);
    }
    let checksum = tz(dir.path(), &["checksum", "evil.tensors"]).stdout;
    assert_eq!(checksum.lines().count(), 1);
    let json = tz(dir.path(), &["checksum", "evil.tensors", "--json"]).exits(0).json();
    assert_eq!(json["tensors"][0]["name"], "evil\u{1b}[2Jname\nline");
}

#[test]
fn two_paths_that_would_have_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nested = tz_format::TensorPath::new(vec!["a".into(), "b".into()]).unwrap();
    let written = [(spec("a/b", "|u1", &[1]), vec![1]), (spec(nested, "|u1", &[1]), vec![2])];
    tensors(&dir.path().join("two.tensors"), &written, &WriteOptions::default());
    let ran = tz(dir.path(), &["deserialize", "two.tensors", "--to", "out.safetensors"]).exits(4);
    assert!(ran.stderr.contains("a/b"), "{}", ran.stderr);
    assert_eq!(listing(dir.path()), ["two.tensors"]);
}

#[test]
fn a_damaged_source_is_never_written_on() {
    let dir = tempfile::tempdir().unwrap();
    tz(dir.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
    tz(dir.path(), &["serialize", "demo", "good.tensors"]).exits(0);
    let mut bytes = fs::read(dir.path().join("good.tensors")).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(dir.path().join("bad.tensors"), bytes).unwrap();
    fs::remove_file(dir.path().join("good.tensors")).unwrap();
    let before = listing(dir.path());
    for arguments in [
        &["serialize", "bad.tensors", "new.tensors"][..],
        &["deserialize", "bad.tensors", "--to", "new.safetensors"],
        &["deserialize", "bad.tensors", "--to", "new/deep"],
        &["deserialize", "bad.tensors"],
        &["deserialize", "bad.tensors", "--dtype", "float32"],
        &["deserialize", "bad.tensors", "--memory-limit", "256KiB"],
    ] {
        let ran = tz(dir.path(), arguments).exits(4);
        assert!(ran.stderr.contains("model.norm.weight"), "{arguments:?}: {}", ran.stderr);
        assert_eq!(listing(dir.path()), before, "{arguments:?}");
    }
    for arguments in [
        &["deserialize", "bad.tensors", "--no-verify"][..],
        &["serialize", "bad.tensors", "new.tensors", "--no-verify"],
    ] {
        tz(dir.path(), arguments).exits(0);
    }
}

#[test]
fn every_cut_of_a_stream_is_told() {
    let dir = tempfile::tempdir().unwrap();
    tz(dir.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
    tz(dir.path(), &["serialize", "demo", "model.tensors", "--alignment", "none"]).exits(0);
    let bytes = fs::read(dir.path().join("model.tensors")).unwrap();
    for len in [0, 4, 72, 1000, bytes.len() / 2, bytes.len() - 9] {
        let cut = &bytes[..len];
        let ran = tz_on(dir.path(), &["deserialize", "-"], cut).exits(4);
        assert!(ran.stderr.contains(&format!("offset {len}")), "{len}: {}", ran.stderr);
    }
    // The terminator may be missing.
    tz_on(dir.path(), &["deserialize", "-"], &bytes[..bytes.len() - 8]).exits(0);
}
