//! Waits for this machine: pipes, terminals, file systems, name lookups, computations.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{LARGE, SMALL, Wait, with_keys};
use crate::made::{adapter, sparse_checkpoint};
use crate::run::{command, listing, tz};

/// A folder with a pipe that nobody writes to, and a small file.
fn with_fifo() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let made = Command::new("mkfifo").arg(folder.path().join("fifo")).status().expect("mkfifo");
    assert!(made.success());
    std::fs::write(folder.path().join("small.tensors"), &*SMALL).expect("write");
    folder
}

#[test]
fn a_pipe_that_nobody_opens_can_be_interrupted() {
    for (arguments, signal) in [
        (&["verify", "fifo"][..], Signal::TERM),
        (&["verify", "fifo"], Signal::INT),
        (&["deserialize", "fifo", "--to", "out.safetensors"], Signal::TERM),
        (&["verify", "small.tensors", "--keyfile", "fifo"], Signal::TERM),
        (&["verify", "small.tensors", "--passphrase-file", "fifo"], Signal::TERM),
        (&["verify", "small.tensors", "--config", "fifo"], Signal::TERM),
        (&["copy", "small.tensors", "fifo"], Signal::TERM),
        (&["serialize", "small.tensors", "fifo"], Signal::TERM),
    ] {
        let folder = with_fifo();
        let mut command = with_keys(folder.path(), arguments);
        // Without the warning that others can read the secret.
        let mut wait = Wait::start(folder, command.arg("--quiet"));
        wait.until_it_listens();
        wait.stops(signal);
    }
}

#[test]
fn a_pipe_that_brings_nothing_more_can_be_interrupted() {
    for brought in [0, 8, SMALL.len() / 2] {
        let folder = with_fifo();
        let fifo = folder.path().join("fifo");
        let mut command = with_keys(folder.path(), &["verify", "fifo"]);
        let wait = Wait::start(folder, &mut command);
        // Opens once the command has.
        let mut writer = OpenOptions::new().write(true).open(fifo).unwrap();
        writer.write_all(&SMALL[..brought]).unwrap();
        wait.stops(Signal::TERM);
    }
}

#[test]
fn standard_input_can_be_interrupted() {
    for arguments in [&["verify", "-"][..], &["deserialize", "-", "--to", "out.safetensors"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        let mut wait = Wait::start(folder, command.args(arguments).stdin(Stdio::piped()));
        let mut stdin = wait.child.stdin.take().unwrap();
        stdin.write_all(&SMALL[..SMALL.len() / 2]).unwrap();
        wait.until_it_listens();
        wait.stops(Signal::INT);
    }
}

#[test]
fn standard_output_that_nobody_reads_can_be_interrupted() {
    for arguments in [
        &["inspect", "many.tensors"][..],
        &["inspect", "many.tensors", "--json"],
        &["checksum", "many.tensors"],
        &["copy", "large.tensors", "-"],
        &["serialize", "many.safetensors", "-"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        // A table longer than a pipe holds.
        sparse_checkpoint(&folder.path().join("many.safetensors"), 3000, 16);
        tz(folder.path(), &["serialize", "many.safetensors", "many.tensors"]).exits(0);
        std::fs::write(folder.path().join("large.tensors"), &*LARGE).unwrap();
        let mut command = command(folder.path());
        let mut wait = Wait::start(folder, command.args(arguments));
        let stdout = wait.child.stdout.take().expect("pipe");
        wait.until(|_| rustix::io::ioctl_fionread(&stdout).is_ok_and(|bytes| bytes > 50_000));
        wait.send(Signal::TERM);
        wait.ends(143);
    }
}

/// Compiled once: whoever builds Rust has a C compiler, because it links.
static HANG: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/waits/hang.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hang.so");
    // Another process of tests may be running the old one.
    let fresh = library.with_extension(std::process::id().to_string());
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&fresh).arg(source);
    let compiled = cc.output().expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::rename(&fresh, &library).expect("rename");
    library
});

/// A command that is going to hang in this function of the system, and the folder in which there is a file once it does.
pub(super) fn hanging(function: &str, arguments: &[&str]) -> (Wait, TempDir) {
    let [folder, marks] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    sparse_checkpoint(&folder.path().join("model.safetensors"), 2, 1000);
    adapter(&folder.path().join("adapter"), 4);
    let mut command = with_keys(folder.path(), arguments);
    command
        .env("LD_PRELOAD", &*HANG)
        .env("HANGS_IN", function)
        .env("HANGS_MARK", marks.path().join("mark"));
    (Wait::start(folder, &mut command), marks)
}

/// A command that hangs.
fn hangs(function: &str, arguments: &[&str]) -> Wait {
    let (mut wait, marks) = hanging(function, arguments);
    let mark = marks.path().join("mark");
    wait.until(|_| mark.exists());
    wait
}

#[test]
fn a_name_lookup_can_be_interrupted() {
    for url in ["http://host.invalid/model.tensors", "https://host.invalid/model.tensors"] {
        hangs("getaddrinfo", &["copy", url, "out.tensors"]).stops(Signal::TERM);
    }
}

#[test]
fn a_file_system_that_does_not_answer_leaves_no_temporary_file() {
    for (function, arguments) in [
        ("pwrite64", &["serialize", "model.safetensors", "out.tensors"][..]),
        ("pwrite64", &["copy", "model.safetensors", "out.safetensors"]),
        ("pwrite64", &["synth", "made/here", "--preset", "llama-tiny"]),
        ("fsync", &["serialize", "model.safetensors", "out.tensors"]),
        ("fsync", &["keygen", "key"]),
        ("fsync", &["lora", "pack", "adapter", "made"]),
    ] {
        let wait = hangs(function, arguments);
        assert_ne!(listing(wait.folder.path()), wait.before, "{arguments:?}: a temporary file");
        wait.stops(Signal::TERM);
    }
}

#[test]
fn a_second_signal_changes_nothing_but_the_time() {
    let wait = hangs("fsync", &["serialize", "model.safetensors", "out.tensors"]);
    wait.send(Signal::INT);
    wait.send(Signal::TERM);
    // Two signals at once may come in any order.
    let (interrupted, terminated) = (130, 143);
    wait.ends_with(&[interrupted, terminated]);
}

#[test]
fn a_key_derivation_can_be_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.tensors"), &*SMALL).unwrap();
    std::fs::write(folder.path().join("words"), "correct horse").unwrap();
    let mut command = with_keys(folder.path(), &["encrypt", "small.tensors", "out.tensors"]);
    command.args(["--passphrase-file", "words", "--memlimit", "512MiB", "--opslimit", "10"]);
    command.arg("--quiet");
    let mut wait = Wait::start(folder, &mut command);
    // The derivation fills its memory first, and goes over it nine times more.
    wait.until(|wait| {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", wait.child.id()));
        let resident = pages.ok().and_then(|pages| pages.split(' ').nth(1)?.parse::<u64>().ok());
        resident.is_some_and(|pages| pages * 4096 > 100 << 20)
    });
    wait.stops(Signal::TERM);
}

#[test]
fn a_connection_that_nobody_accepts_can_be_interrupted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        socket.listen(1).unwrap()
    });
    let address = listener.local_addr().unwrap();
    // Once the queue is full, the system drops what asks for a connection.
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500));
    let _queue: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).take(64).collect();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/model.tensors");
    let mut command = with_keys(folder.path(), &["inspect", &url]);
    let mut wait = Wait::start(folder, &mut command);
    let asking = format!("0100007F:{:04X} 02 ", address.port());
    wait.until(|_| std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&asking));
    wait.stops(Signal::TERM);
}
