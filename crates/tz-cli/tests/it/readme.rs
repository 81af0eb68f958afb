//! The walk of the repository's README, run as it is printed there: a model verified, encrypted, published on S3 and
//! loaded back. And what it says where the server is not as the walk expects.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::run::{Ran, finish, on_path, tz};
use crate::s3::S3;

const README: &str = include_str!("../../../../README.md");
const HEADING: &str = "### From a checkpoint to S3 and back";

/// The first shell block under the heading.
fn walk() -> &'static str {
    let section = README.split_once(HEADING).expect("the heading").1;
    let section = section.split_once("\n#").map_or(section, |(section, _)| section);
    let block = section.split_once("```sh\n").expect("a block").1;
    block.split_once("```").expect("its end").0
}

/// Runs a script of the walk in a folder, with the built program first on the path and `s3` as the server.
fn run(folder: &Path, s3: &S3, script: &str) -> Ran {
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(folder);
    finish(s3.environment(on_path(&mut shell), folder))
}

#[test]
fn the_walk_ends_with_equal_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let s3 = S3::start();
    let ran = run(folder, &s3, walk()).exits(0);
    let last = ran.stderr.lines().last().expect("words");
    assert_eq!(last, "equal: 21 tensors, 404.1 kB");

    let key = fs::metadata(folder.join("demo.key")).unwrap();
    assert_eq!((key.len(), key.permissions().mode() & 0o777), (32, 0o600));
    let published = fs::read(s3.path("demo.tensors")).unwrap();
    let plain = fs::read(folder.join("demo.tensors")).unwrap();
    let data = plain.chunks_exact(4096).last().expect("data");
    assert!(published.len() >= plain.len());
    assert!(!published.windows(data.len()).any(|window| window == data), "not encrypted");
    tz(folder, &["deserialize", s3.path("demo.tensors").to_str().unwrap()]).exits(5);
}

#[test]
fn the_walk_stops_where_the_published_file_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let s3 = S3::start();
    let (publish, load) = walk().split_once("tz-cli verify s3://").expect("verified there");
    run(folder, &s3, publish).exits(0);
    let object = s3.path("demo.tensors");
    let mut bytes = fs::read(&object).unwrap();
    // Among the data of the last tensors: what ends a file is not checked.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    run(folder, &s3, &format!("tz-cli verify s3://{load}")).exits(1);
    assert!(!folder.join("back").exists());
}

/// The promise of the README: fewer than ten commands, the installation among them.
#[test]
fn the_walk_is_short_and_whole() {
    let commands: Vec<&str> = walk().lines().filter(|line| line.starts_with("tz-cli ")).collect();
    assert!(1 + commands.len() < 10, "{commands:?}");
    for step in ["serialize", "verify", "encrypt", "copy", "deserialize", "diff"] {
        let step = format!("tz-cli {step} ");
        assert!(commands.iter().any(|command| command.starts_with(&step)), "no {step}");
    }
}

/// What a newcomer meets who has no server, no keys, or the wrong ones: the last line says what to look at.
#[test]
fn failures_at_the_server_say_what_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let s3 = S3::start();
    run(folder, &s3, "tz-cli synth demo --preset llama-tiny").exits(0);
    for (script, says, hint) in [
        ("verify s3://bucket/none.tensors", "404 Not Found", "try: check bucket and key"),
        ("verify s3://none/x.tensors", "404 Not Found", "try: check bucket and key"),
        ("verify s3://bucket/x.tensors --s3-anonymous", "403 Forbidden", "try: check the keys"),
        (
            "verify s3://bucket/x.tensors --s3-access-key-id AKIDOTHER --s3-secret-access-key-file demo/config.json",
            "403 Forbidden",
            "try: check the keys",
        ),
    ] {
        let ran = run(folder, &s3, &format!("tz-cli {script} -q")).exits(3);
        let [error, last] = &*ran.stderr.lines().collect::<Vec<_>>() else {
            panic!("{script}: {}", ran.stderr);
        };
        assert!(error.starts_with("error (io): s3://") && error.contains(says), "{error}");
        assert!(last.starts_with(hint), "{script}: {last}");
    }
}
