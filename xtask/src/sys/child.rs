//! One child process from start to end: its words, its exit status, its seconds, and the most memory that it had.
//! Owns [`Finished`].
//!
//! What `wait4` tells of a child's memory is never less than the parent's own peak: before `exec` the child shares
//! the parent's memory, and the kernel counts that in. So the child is traced, but only to be stopped on its way out,
//! where `/proc` still knows the peak of the memory that is its own. Until then it runs as if nobody watched.
#![allow(unsafe_code, reason = "ptrace and wait4 have no safe wrapper in std")]

use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What one finished child process did and used.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) wall: Duration,
    /// High-water mark of the child's resident memory. Where it may not be traced, or is killed, or ends before it
    /// can be watched, what `wait4` says, which is at least this process's own.
    pub(crate) peak_bytes: u64,
}

/// Runs a command to its end with both outputs captured; standard input is as the caller set it.
pub(crate) fn run_measured(command: &mut Command) -> Result<Finished> {
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let pid = libc::pid_t::try_from(child.id()).context("process id")?;
    watch(pid);
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let (status, peak_bytes) = wait(pid)?;
    let wall = start.elapsed();
    Ok(Finished { status, stdout: join(stdout), stderr: join(stderr), wall, peak_bytes })
}

type Drain = std::thread::JoinHandle<Vec<u8>>;

/// Reads a pipe on a thread of its own, so that a child that fills both never blocks.
fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> Option<Drain> {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A broken pipe ends the text early; the exit status then says what happened.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    })
}

fn join(thread: Option<Drain>) -> String {
    let bytes = thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks for a stop when the child ends. A refusal is no failure: its peak is then less exact.
fn watch(pid: libc::pid_t) {
    trace(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_TRACEEXIT);
}

/// Lets a stopped child go on, with the signal that it was stopped for.
fn let_go(pid: libc::pid_t, signal: libc::c_int) {
    trace(libc::PTRACE_CONT, pid, signal);
}

/// One request about a child of ours; a child that is gone refuses it, and waiting for it tells.
fn trace(request: libc::c_uint, pid: libc::pid_t, data: libc::c_int) {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests made here reads or writes memory of this process.
    unsafe { libc::ptrace(request, pid, nothing, libc::c_long::from(data)) };
}

/// Waits for the end of the child; gives its status and its peak.
fn wait(pid: libc::pid_t) -> Result<(ExitStatus, u64)> {
    let mut own_peak = None;
    loop {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are to live locals of the types that wait4 fills; the child is
        // ours and nobody else waits for it.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited != pid {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error).context("wait4");
        }
        if !libc::WIFSTOPPED(status) {
            // SAFETY: wait4 succeeded and filled it; all-zero was a valid value before, too.
            let usage = unsafe { usage.assume_init() };
            let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
            let peak = own_peak.unwrap_or(kibibytes.saturating_mul(1024));
            return Ok((ExitStatus::from_raw(status), peak));
        }
        match status >> 16 {
            libc::PTRACE_EVENT_EXIT => {
                own_peak = peak_bytes(pid);
                let_go(pid, 0);
            }
            // The whole process has been stopped, as by Ctrl-Z, or goes on after that.
            libc::PTRACE_EVENT_STOP if libc::WSTOPSIG(status) == libc::SIGTRAP => let_go(pid, 0),
            libc::PTRACE_EVENT_STOP => trace(libc::PTRACE_LISTEN, pid, 0),
            _ => let_go(pid, libc::WSTOPSIG(status)),
        }
    }
}

/// The most resident memory that a process has had since it began to run its program.
fn peak_bytes(pid: libc::pid_t) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::FreshMemory;
    use super::*;

    fn shell(script: &str) -> Finished {
        run_measured(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_child_is_measured_and_its_words_kept() {
        let finished = shell("echo out; echo err >&2; exit 3");
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.stderr, "err\n");
        assert!(finished.peak_bytes > 0);
    }

    #[test]
    fn a_childs_peak_is_its_own_and_not_its_parents() {
        let mut memory = FreshMemory::new(256 << 20).unwrap();
        memory.as_mut_slice().fill(1);
        // Ends once it is watched; gives up where nobody may watch it.
        let watched = "until grep -q 'TracerPid:.*[1-9]' /proc/$$/status; do \
             i=$((i+1)); [ $i -lt 10000 ] || exit 9; done";
        let finished = shell(watched);
        assert_eq!(finished.status.code(), Some(0), "the child was not watched");
        assert!(finished.peak_bytes < 64 << 20, "{}", finished.peak_bytes);
    }

    #[test]
    fn signals_reach_a_child_that_is_watched() {
        assert_eq!(shell("kill -TERM $$").status.signal(), Some(libc::SIGTERM));
        assert_eq!(shell("kill -KILL $$").status.signal(), Some(libc::SIGKILL));
        assert_eq!(shell("trap 'echo caught' USR1; kill -USR1 $$").stdout, "caught\n");
        let stopped = "(kill -STOP $$; kill -CONT $$) & wait; echo on";
        assert_eq!(shell(stopped).stdout, "on\n");
    }
}
