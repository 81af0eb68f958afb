//! Real servers on 127.0.0.1 for the checks and benchmarks: nginx, an S3 server, and Azurite.
//!
//! Each runs in a temporary folder of its own on a port that was free, and is stopped when it is
//! dropped. A server that does not come up, or that dies, takes its log into the error.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

mod azurite;
mod nginx;
mod s3;

pub(crate) use azurite::Azurite;
pub(crate) use nginx::Nginx;
pub(crate) use s3::{BUCKET, S3};

/// Starting takes a fraction of a second; a machine that is busy with builds gets much more.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// The command of a program that the kernel ends together with this one, however this one ends: a killed check must
/// leave no server behind. Without util-linux's `setpriv`, only an orderly end takes them along.
fn tied(program: &Path) -> Command {
    let setpriv = Path::new("setpriv");
    if !is_installed(setpriv) {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A server program that runs until this is dropped.
#[derive(Debug)]
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    /// Starts it with both outputs going to `log`, and waits until it takes connections.
    fn start(program: &str, command: &mut Command, port: u16, log: &Path) -> Result<Self> {
        let output = fs::File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        let mut running = Self { child, address: (Ipv4Addr::LOCALHOST, port).into() };
        let start = Instant::now();
        while TcpStream::connect(running.address).is_err() {
            let ended = running.child.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let state =
                    ended.map_or("takes no connections".into(), |status| status.to_string());
                bail!("{program}: {state}; its log ends: {}", tail(log));
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither can fail for a child that has not been waited for; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    Ok(listener.local_addr()?.port())
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let mut text = String::new();
    // A log that cannot be read must not hide the failure that it was asked about.
    let _ = fs::File::open(log).and_then(|mut file| file.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Whether this command starts at all.
fn is_installed(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    !command.status().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_dies_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no licence >&2; exit 3"]);
        let port = free_port().unwrap();
        let error =
            Running::start("sh", &mut command, port, &folder.path().join("log")).unwrap_err();
        let words = format!("{error:#}");
        assert!(words.contains("no licence") && words.contains("exit status: 3"), "{words}");
    }

    #[test]
    fn a_server_ends_with_the_program_that_started_it() {
        let server = tied(Path::new("sh"));
        let words = server.get_args().map(|word| word.to_owned());
        let mut starter = Command::new("sh");
        starter.args(["-c", "\"$@\" & wait", "sh"]).arg(server.get_program()).args(words);
        starter.args(["-c", "echo up; exec sleep infinity"]).stdout(Stdio::piped());
        let mut starter = starter.spawn().unwrap();
        let mut output = starter.stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        starter.kill().unwrap();
        starter.wait().unwrap();
        // The server holds the other end: it closes when the server is gone.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn a_missing_program_is_not_installed() {
        assert!(is_installed(Path::new("sh")));
        assert!(!is_installed(Path::new("/no/such/program")));
    }
}
