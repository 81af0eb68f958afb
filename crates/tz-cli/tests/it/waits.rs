//! One signal ends a command from whatever it waits for, and leaves nothing. So does the deadline. Owns [`Wait`], a
//! command that waits.
//!
//! The promise is a second. [`BOUND`] is longer, because the machine may be busy; it is far below the timeouts that
//! would end these waits otherwise.

mod local;
mod server;
mod settings;
mod uploads;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::made::sparse_checkpoint;
use crate::run::{Ran, command, listing, on_path, ran, tz};
use server::{Act, Server};

/// Longest time from a signal to the end, on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(20);

/// A command that was started.
struct Wait {
    child: Child,
    before: Vec<String>,
    folder: TempDir,
    line: String,
}

impl Wait {
    /// Starts `command`, which must not leave anything in `folder`.
    fn start(folder: TempDir, command: &mut Command) -> Self {
        let line = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let before = listing(folder.path());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        Self { child, before, folder, line }
    }

    /// Waits until the process listens to signals, which it does on a thread of its own.
    fn until_it_listens(&mut self) {
        let tasks = format!("/proc/{}/task", self.child.id());
        self.until(|_| std::fs::read_dir(&tasks).is_ok_and(|tasks| tasks.count() > 1));
    }

    fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            assert_eq!(self.child.try_wait().expect("wait"), None, "over already: {}", self.line);
            std::thread::yield_now();
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// Expects the end, with this code and nothing left.
    #[track_caller]
    fn ends(self, code: i32) -> Ran {
        self.ends_with(&[code])
    }

    #[track_caller]
    fn ends_with(self, codes: &[i32]) -> Ran {
        let (ended, is_ended) = mpsc::channel();
        let pid = Pid::from_child(&self.child);
        let child = self.child;
        std::thread::spawn(move || {
            // Whoever stays behind holds the pipes: this ends with the last of them.
            let _ = ended.send(child.wait_with_output());
        });
        let Ok(output) = is_ended.recv_timeout(BOUND) else {
            kill_process(pid, Signal::KILL).expect("kill");
            panic!("still there after {BOUND:?}: {}", self.line);
        };
        let finished = ran(output.expect("output"));
        let code = finished.code;
        assert!(codes.contains(&code), "{}: {code}: {}", self.line, finished.stderr);
        assert_eq!(listing(self.folder.path()), self.before, "{}", self.line);
        finished
    }

    /// Sends SIGTERM or SIGINT, and expects silence.
    #[track_caller]
    fn stops(self, signal: Signal) {
        self.send(signal);
        let code = if signal == Signal::INT { 130 } else { 143 };
        let line = self.line.clone();
        let finished = self.ends(code);
        assert_eq!((finished.stdout, finished.stderr), (String::new(), String::new()), "{line}");
    }
}

/// A file of 20 MiB: longer than the first request of any command.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| tensors(20));
/// A file that one request brings.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| tensors(0));

fn tensors(mebibytes: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    sparse_checkpoint(&folder.path().join("model.safetensors"), 4, (mebibytes << 18).max(1000));
    tz(folder.path(), &["serialize", "model.safetensors", "model.tensors"]).exits(0);
    std::fs::read(folder.path().join("model.tensors")).expect("read")
}

/// `tz-cli` in `folder`, with keys for S3 and no other place to look for any.
fn with_keys(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(folder);
    command
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("HOME", folder);
    command
}

/// Ways of a server to keep a client waiting, and how many requests show that it does.
const ACTS: [(Act, usize); 6] = [
    (Act::Never, 1),
    (Act::Half, 1),
    (Act::Crawl, 1),
    (Act::Continue, 1),
    (Act::DripHead, 1),
    // Tried again.
    (Act::Status(503), 2),
];

#[test]
fn a_signal_ends_every_wait_for_the_first_answer() {
    for (act, requests) in ACTS {
        for signal in [Signal::TERM, Signal::INT] {
            let server = Server::new(SMALL.clone(), move |_, _, _| act);
            let folder = tempfile::tempdir().unwrap();
            let url = server.url("http", "/model.tensors");
            let mut command = with_keys(folder.path(), &["copy", &url, "out.tensors"]);
            let wait = Wait::start(folder, &mut command);
            server.wait_for(requests, "GET");
            wait.stops(signal);
        }
    }
}

#[test]
fn a_signal_ends_every_wait_for_a_later_answer() {
    for (act, requests) in ACTS {
        let policy = move |number, _: &str, _: &str| if number == 0 { Act::Range } else { act };
        let server = Server::new(LARGE.clone(), policy);
        let folder = tempfile::tempdir().unwrap();
        let url = server.url("http", "/model.tensors");
        let mut command = with_keys(folder.path(), &["copy", &url, "out.tensors"]);
        let mut wait = Wait::start(folder, &mut command);
        server.wait_for(1 + requests, "GET");
        wait.until(|wait| listing(wait.folder.path()).iter().any(|name| name.ends_with(".tmp")));
        wait.stops(Signal::TERM);
    }
}

#[test]
fn every_command_that_reads_from_a_server_can_be_interrupted() {
    let server = Server::new(Vec::new(), |_, _, _| Act::Never);
    let url = server.url("http", "/model.tensors");
    let secure = server.url("https", "/model.tensors");
    let rows: [&[&str]; 12] = [
        &["inspect", &url],
        &["verify", &url],
        &["checksum", &url],
        &["diff", "small.tensors", &url],
        &["serialize", &url, "out.tensors"],
        &["deserialize", &url, "--to", "out.safetensors"],
        &["decrypt", &url, "out.tensors", "--passphrase-file", "small.tensors"],
        &["verify", "small.tensors", "--keyfile", &url],
        &["bench", &url],
        // The handshake of TLS.
        &["inspect", &secure],
        &["copy", &secure, "out.tensors"],
        // Requests that a library sends.
        &["copy", "s3://bucket/model.tensors", "out.tensors"],
    ];
    for (i, arguments) in rows.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("small.tensors"), &*SMALL).unwrap();
        let mut command = with_keys(folder.path(), arguments);
        command.args(["--s3-endpoint", &server.url("http", ""), "--quiet"]);
        let wait = Wait::start(folder, &mut command);
        server.wait_for(i + 1, "");
        wait.stops(Signal::TERM);
    }
}

#[test]
fn services_that_hand_out_credentials_can_be_interrupted() {
    let server = Server::new(Vec::new(), |_, _, _| Act::Never);
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.args(["copy", "s3://bucket/model.tensors", "out.tensors", "--s3-region", "r"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().contains("AWS"))
    {
        command.env_remove(name);
    }
    command.env("HOME", folder.path());
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url("http", ""));
    let wait = Wait::start(folder, &mut command);
    server.wait_for(1, "");
    wait.stops(Signal::TERM);
}

#[cfg(feature = "hub")]
#[test]
fn downloads_from_hugging_face_can_be_interrupted() {
    const LISTING: &str = "{\"id\":\"org/model\",\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\
        \"siblings\":[{\"rfilename\":\"model.safetensors\"}]}";
    for first in [Act::Never, Act::Crawl, Act::Status(503), Act::Text(LISTING)] {
        let policy = move |number, _: &str, _: &str| if number == 0 { first } else { Act::Never };
        let server = Server::new(SMALL.clone(), policy);
        let folder = tempfile::tempdir().unwrap();
        let mut command = with_keys(folder.path(), &["serialize", "hf://org/model", "out"]);
        command.env("HF_ENDPOINT", server.url("http", "")).env("HF_HUB_OFFLINE", "0");
        command.env("HF_HOME", folder.path().join("hf"));
        let wait = Wait::start(folder, &mut command);
        let requests = if matches!(first, Act::Never | Act::Crawl) { 1 } else { 2 };
        server.wait_for(requests, "");
        wait.stops(Signal::TERM);
    }
}

#[test]
fn a_script_passes_the_signal_on() {
    for (script, arguments, signal) in [
        ("fetch.sh", &["URL", "models"][..], Signal::TERM),
        ("publish.sh", &["demo", "me/demo", "s3://bucket", "v1"], Signal::INT),
    ] {
        let server = Server::new(Vec::new(), |_, _, _| Act::Never);
        let folder = tempfile::tempdir().unwrap();
        tz(folder.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
        std::fs::create_dir(folder.path().join("models")).unwrap();
        let url = server.url("http", "/models");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples").join(script);
        let mut shell = Command::new("sh");
        shell
            .arg(path)
            .args(arguments.iter().map(|&word| if word == "URL" { &*url } else { word }));
        on_path(&mut shell).current_dir(folder.path()).env("HOME", folder.path());
        shell.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
        shell.env("AWS_ENDPOINT_URL", server.url("http", "")).env("AWS_REGION", "r");
        let wait = Wait::start(folder, &mut shell);
        server.wait_for(1, "");
        wait.send(signal);
        wait.ends(143);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_load_onto_a_gpu_can_be_interrupted() {
    for stage in [0, 1] {
        let policy = move |number, _: &str, _: &str| match number < stage {
            true => Act::Range,
            false => Act::Half,
        };
        let server = Server::new(LARGE.clone(), policy);
        let driver = tz_cuda_shim::testing::FakeDriver::new();
        let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let url = server.url("http", "/model.tensors");
        let load = ["deserialize", &url, "--device", "cuda:0"];
        let mut command = with_keys(folder.path(), &load);
        command.envs(driver.install(own.path()));
        let wait = Wait::start(folder, &mut command);
        server.wait_for(stage + 1, "GET");
        wait.stops(Signal::TERM);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_driver_that_does_not_return_can_be_interrupted() {
    const HOUR: u32 = 3_600_000;
    for function in ["cuInit", "cuMemcpyHtoDAsync_v2"] {
        let driver = tz_cuda_shim::testing::FakeDriver::new().slow(function, HOUR);
        let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("small.tensors"), &*SMALL).unwrap();
        let load = ["deserialize", "small.tensors", "--device", "cuda:0"];
        let mut command = with_keys(folder.path(), &load);
        command.envs(driver.install(own.path()));
        let mut wait = Wait::start(folder, &mut command);
        let maps = format!("/proc/{}/maps", wait.child.id());
        wait.until(|_| std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("libfake")));
        wait.stops(Signal::TERM);
    }
}
