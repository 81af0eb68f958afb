//! What happens when somebody stops listening or says stop: closed pipes, SIGINT, SIGTERM.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::made::sparse_checkpoint;
use crate::run::{command, listing, ran, tz};

#[test]
fn a_closed_pipe_is_success() {
    let dir = tempfile::tempdir().unwrap();
    // A table longer than a pipe holds.
    sparse_checkpoint(&dir.path().join("many.safetensors"), 3000, 16);
    tz(dir.path(), &["serialize", "many.safetensors", "many.tensors"]).exits(0);
    for arguments in [
        &["inspect", "many.tensors"][..],
        &["inspect", "many.tensors", "--json"],
        &["checksum", "many.tensors"],
        &["diff", "many.tensors", "many.safetensors"],
        &["serialize", "many.safetensors", "-"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ] {
        let mut child = piped(command(dir.path()).args(arguments));
        drop(child.stdout.take());
        let finished = ran(child.wait_with_output().unwrap()).exits(0);
        assert!(!finished.stderr.contains("error"), "{arguments:?}: {}", finished.stderr);
    }
}

#[test]
fn a_pipe_closed_after_the_first_bytes_is_success() {
    let dir = tempfile::tempdir().unwrap();
    sparse_checkpoint(&dir.path().join("big.safetensors"), 4, 4 << 20);
    let mut child = piped(command(dir.path()).args(["serialize", "big.safetensors", "-"]));
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    ran(child.wait_with_output().unwrap()).exits(0);
}

/// Starts `arguments`, waits until a temporary file is there, signals, and expects nothing but `before` to be left.
#[track_caller]
fn stopped(folder: &Path, arguments: &[&str], signal: Signal, code: i32) {
    let before = listing(folder);
    let mut child = piped(command(folder).args(arguments).stdin(Stdio::piped()));
    // What comes from a pipe stops in the middle of the data and never ends.
    let mut stdin = child.stdin.take().expect("pipe");
    if arguments.contains(&"-") {
        let bytes = std::fs::read(folder.join("small.tensors")).expect("read");
        stdin.write_all(&bytes[..bytes.len() / 2]).expect("write");
    }
    while !listing(folder).iter().any(|name| is_temporary(name)) {
        assert_eq!(child.try_wait().expect("wait"), None, "over before a file was there");
        std::thread::yield_now();
    }
    let pid = Pid::from_child(&child);
    kill_process(pid, signal).expect("signal");
    let finished = ran(child.wait_with_output().expect("wait")).exits(code);
    assert_eq!(listing(folder), before, "{arguments:?}");
    assert_eq!((finished.stdout, finished.stderr), (String::new(), String::new()), "{arguments:?}");
    drop(stdin);
}

fn is_temporary(name: &str) -> bool {
    name.ends_with(".tmp") || name.ends_with(".partial")
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start")
}

#[test]
fn a_signal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    sparse_checkpoint(&folder.join("small.safetensors"), 4, 1 << 20);
    tz(folder, &["serialize", "small.safetensors", "small.tensors"]).exits(0);
    // Takes seconds at the least, which the signal does not.
    sparse_checkpoint(&folder.join("huge.safetensors"), 8, 2 << 30);
    let rows: [(&[&str], Signal, i32); 5] = [
        (&["serialize", "huge.safetensors", "out.tensors", "--hash", "sha256"], Signal::INT, 130),
        (&["serialize", "huge.safetensors", "out.tensors", "--hash", "sha256"], Signal::TERM, 143),
        (&["deserialize", "-", "--to", "out.safetensors"], Signal::INT, 130),
        (&["deserialize", "-", "--to", "new/out"], Signal::TERM, 143),
        (&["synth", "made/here", "--size", "4GiB"], Signal::INT, 130),
    ];
    for (arguments, signal, code) in rows {
        stopped(folder, arguments, signal, code);
    }
}
