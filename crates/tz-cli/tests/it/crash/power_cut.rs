//! What a power cut may take: names and bytes that were not synced. The order of the calls is held against the rules.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::tracer::{Event, Step, traced};
use super::{CASES, Case, World, is_temporary};

/// Replays steps, and remembers what a power cut could still undo.
#[derive(Debug, Default, PartialEq, Eq)]
struct Disk {
    /// Files with bytes that were not synced.
    dirty: BTreeSet<PathBuf>,
    /// Folders with names that were not synced.
    unsynced: BTreeSet<PathBuf>,
    /// Folders from which a visible name was removed since they were synced.
    removed: BTreeSet<PathBuf>,
}

impl Disk {
    /// Takes one step; says which rule it breaks.
    fn take(&mut self, step: &Step) -> Result<(), &'static str> {
        let path = &step.path;
        match step.name.as_str() {
            "write" | "truncate" | "reserve" => {
                // Changed in place, as `rewrap` does: the journal comes before the header, and goes after it.
                if !is_hidden(path) && self.dirty.contains(path) {
                    return Err("a visible file is changed before its last change is safe");
                }
                self.dirty.insert(path.clone());
            }
            "sync" => {
                self.dirty.remove(path);
                self.unsynced.remove(path);
                self.removed.remove(path);
            }
            "rename" | "link" => {
                let to = step.to.as_deref().unwrap_or(path);
                if self.dirty.remove(path) {
                    return Err("a file gets its name before its bytes are safe");
                }
                if !is_hidden(to) && self.removed.contains(folder(to)) {
                    return Err("a new name appears before the removal of an old one is safe");
                }
                self.unsynced.insert(folder(to).to_owned());
            }
            "remove" if is_hidden(path) => {
                self.dirty.remove(path);
            }
            "remove" => {
                self.removed.insert(folder(path).to_owned());
                self.unsynced.insert(folder(path).to_owned());
            }
            "mkdir" if !is_hidden(path) => {
                self.unsynced.insert(folder(path).to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().expect("absolute")
}

fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| is_temporary(&part.as_os_str().to_string_lossy()))
}

/// Commands that promise nothing about power cuts.
fn is_cached(line: &str) -> bool {
    line.contains("--no-fsync") || line.starts_with("synth")
}

#[test]
fn bytes_are_safe_before_their_name_and_names_before_success() {
    let world = World::new();
    for case in CASES {
        world.prepare(case);
        let run = traced(world.root.path(), &world.path("out"), case.line, Event::None);
        run.ran.exits(0);
        let steps: Vec<&Step> = run.steps.iter().filter(|step| step.outcome == "done").collect();
        let mut disk = Disk::default();
        for (at, step) in steps.iter().enumerate() {
            match disk.take(step) {
                Err(_) if is_cached(case.line) => {}
                told => assert_eq!(told, Ok(()), "{}: step {at} of {steps:#?}", case.line),
            }
        }
        let syncs = steps.iter().filter(|step| step.name == "sync").count();
        if is_cached(case.line) {
            assert_eq!(syncs, 0, "{}: what is not promised costs nothing", case.line);
        } else {
            assert_eq!(disk, Disk::default(), "{}", case.line);
            assert!(syncs >= 2, "{}", case.line);
        }
    }
}

#[test]
fn without_fsync_a_file_still_gets_its_name_after_its_last_byte() {
    let world = World::new();
    let flagged = |line: &str| format!("{line} --no-fsync");
    let is_named = |case: &&Case| !case.line.starts_with("keygen") && !case.is_in_place;
    for case in CASES.iter().filter(is_named) {
        let line = match case.line {
            line if is_cached(line) => line.to_owned(),
            line => flagged(line),
        };
        world.prepare(case);
        let run = traced(world.root.path(), &world.path("out"), &line, Event::None);
        run.ran.exits(0);
        let key_is_synced = line.contains("out/key");
        let mut visible = BTreeSet::new();
        for step in run.steps.iter().filter(|step| step.outcome == "done") {
            match (step.name.as_str(), &step.to) {
                ("rename" | "link", Some(to)) => drop(visible.insert(to.clone())),
                ("write" | "truncate" | "reserve", _) => {
                    assert!(!visible.contains(&step.path), "{line}: {step:?}");
                }
                ("sync", _) => assert!(key_is_synced, "{line}: {step:?}"),
                _ => {}
            }
        }
        assert!(!visible.is_empty(), "{line}");
    }
}

#[test]
fn the_rules_notice_every_order_that_is_wrong() {
    let step = |name: &str, path: &str, to: &str| Step {
        name: name.to_owned(),
        outcome: "done".to_owned(),
        path: path.into(),
        to: Some(to).filter(|to| !to.is_empty()).map(PathBuf::from),
    };
    let rows: [(&[Step], bool); 7] = [
        (&[step("write", "/d/.tz-a", ""), step("rename", "/d/.tz-a", "/d/a")], false),
        (
            &[
                step("write", "/d/.tz-a", ""),
                step("sync", "/d/.tz-a", ""),
                step("rename", "/d/.tz-a", "/d/a"),
            ],
            true,
        ),
        (&[step("remove", "/d/a", ""), step("rename", "/d/.tz-b", "/d/b")], false),
        (
            &[
                step("remove", "/d/a", ""),
                step("sync", "/d", ""),
                step("rename", "/d/.tz-b", "/d/b"),
            ],
            true,
        ),
        (&[step("write", "/d/a", ""), step("write", "/d/a", "")], false),
        (&[step("write", "/d/a", ""), step("sync", "/d/a", ""), step("write", "/d/a", "")], true),
        (&[step("write", "/d/a", ""), step("truncate", "/d/a", "")], false),
    ];
    for (steps, is_right) in rows {
        let mut disk = Disk::default();
        let told: Result<Vec<()>, _> = steps.iter().map(|step| disk.take(step)).collect();
        assert_eq!(told.is_ok(), is_right, "{steps:?}: {told:?}");
    }
}
