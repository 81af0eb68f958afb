//! Disks that are full, files that may not grow, and errors of the system at every step: the command says so, and
//! leaves what was there.

use std::path::Path;
use std::process::Command;

use super::tracer::Step;
use super::{CASES, Case, State, Verdict, World};
use crate::run::{Ran, command, finish};

/// What a run that failed must have said and left. A step after which the new state stands may fail too.
#[track_caller]
fn check(world: &World, case: &Case, old: &State, new: &State, ran: &Ran, failed: Option<&Step>) {
    let state = world.state("out");
    let verdict = world.judge(case, old, new, &state);
    let what = format!("{} at {failed:?}: {}{:?}", case.line, ran.stderr, state.files.keys());
    if ran.code == 0 {
        // Where a file system cannot reserve space, the bytes bring their blocks.
        assert_eq!(verdict, Verdict::New, "{what}");
        return;
    }
    assert_eq!(ran.code, 3, "{what}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [error, hint] = lines[..] else { panic!("{what}") };
    assert!(error.starts_with("error (") && error.contains("out"), "{what}");
    assert!(hint.starts_with("try: "), "{what}");
    let tidied = failed.is_none_or(|step| step.name != "remove");
    assert!(state.left.is_empty() || !tidied, "{what}: {:?}", state.left);
    if verdict == Verdict::Old {
        assert!(state.folders == old.folders || !tidied, "{what}: {:?}", state.folders);
        assert!(state.files == old.files, "{what}: a journal is left");
    }
    // A folder that is replaced loses the old state first; that is the one way to end between.
    assert!(verdict != Verdict::Unfinished || !old.files.is_empty(), "{what}");
}

/// The new state, by a run that nothing disturbs.
fn undisturbed(world: &World, case: &Case) -> State {
    world.prepare(case);
    world.run(case.line).exits(0);
    world.state("out")
}

/// The program under a shell that has prepared its surroundings by `script`, which ends by `exec "$@"` or the like.
fn within(world: &World, script: &str, line: &str) -> Ran {
    let program = command(world.root.path());
    let mut shell = Command::new("sh");
    shell.current_dir(world.root.path()).args(["-c", script, "sh"]).arg(program.get_program());
    shell.args(line.split_whitespace()).env("TZ_LIMIT_CPU_CONCURRENCY", "1");
    finish(&mut shell)
}

#[test]
fn a_file_that_may_not_grow_leaves_the_old_one_and_no_other() {
    let world = World::new();
    for case in CASES {
        let new = undisturbed(&world, case);
        let mut failures = 0;
        // In blocks of 512 bytes: nothing at all, small files, some of the tensors.
        for blocks in [0, 8, 100] {
            let old = world.prepare(case);
            // Ignored, so that the call fails instead of the process.
            let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
            let ran = within(&world, &script, case.line);
            check(&world, case, &old, &new, &ran, None);
            failures += usize::from(ran.code != 0);
        }
        assert!(failures > 0, "{}", case.line);
    }
}

const PAGE: usize = 4096;
/// What the shell says where this machine lets nobody mount.
const NO_MOUNT: i32 = 77;

#[test]
fn a_full_disk_leaves_the_old_file_and_tells_so() {
    let world = World::new();
    let mut ran_on = 0;
    'cases: for case in CASES {
        let new = undisturbed(&world, case);
        let old = world.prepare(case);
        let pages: usize = old.files.values().map(|bytes| bytes.len().div_ceil(PAGE)).sum();
        let mut failures = 0;
        // Full from the start, and full in the midst of it.
        for free in [0, 1, 3, 10, 20] {
            world.restore(&old);
            // One page is taken by a file that is no part of the case: a size of 0 would mean no limit.
            let bytes = (1 + pages + free) * PAGE;
            // The mount ends with the namespace, so what is in it is carried out.
            let script = format!(
                "exec unshare -rm sh -c 'cp -a out kept && mount -t tmpfs -o size={bytes} tz out \
                 || exit {NO_MOUNT}; cp -a kept/. out && head -c {PAGE} /dev/zero > out/page && \"$@\"; \
                 code=$?; rm -rf out/page kept seen; cp -a out seen; exit $code' sh \"$@\""
            );
            let ran = within(&world, &script, case.line);
            if ran.code == NO_MOUNT || ran.stderr.contains("unshare") {
                println!("no file system can be mounted here: {}", ran.stderr);
                break 'cases;
            }
            std::fs::remove_dir_all(world.path("out")).expect("remove");
            std::fs::rename(world.path("seen"), world.path("out")).expect("rename");
            check(&world, case, &old, &new, &ran, None);
            if ran.code != 0 {
                failures += 1;
                assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
            }
        }
        assert!(failures > 0, "{}", case.line);
        ran_on += 1;
    }
    println!("{ran_on} of {} commands ran on a full tmpfs", CASES.len());
    let mounts = Path::new("/proc/self/mounts");
    let text = std::fs::read_to_string(mounts).expect("mounts");
    assert!(!text.contains("tz "), "nothing stays mounted");
}

/// Errors take the place of calls by the registers of one kind of processor.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_error_at_any_step_leaves_the_old_file_and_no_other() {
    use super::killed::at_every_step;
    use super::tracer::Event;

    /// `ENOSPC` and `EIO` of Linux.
    const NO_SPACE: i32 = 28;
    const IO: i32 = 5;

    let error = |step: usize, steps: &[Step]| {
        let takes_space = ["create", "write", "reserve", "truncate", "mkdir"];
        let name = steps.get(step - 1).map_or("", |step| step.name.as_str());
        Event::Fail(step, if takes_space.contains(&name) { NO_SPACE } else { IO })
    };
    let world = World::new();
    for case in CASES {
        at_every_step(&world, case, error, |old, new, traced| {
            let failed = traced.instead().cloned();
            check(&world, case, old, new, &traced.ran, failed.as_ref());
        });
    }
}
