//! SIGKILL, and errors of the system, at every step of every command that writes.

use super::tracer::{Event, Step, Traced, traced};
use super::{CASES, Case, State, Verdict, World};

/// Every run of `case` that `event` ends at a step of its own, with what it left.
pub(super) fn at_every_step(
    world: &World,
    case: &Case,
    event: impl Fn(usize, &[Step]) -> Event,
    mut check: impl FnMut(&State, &State, Traced),
) -> usize {
    let out = world.path("out").canonicalize().unwrap_or_else(|_| world.path("out"));
    let old = world.prepare(case);
    let whole = traced(world.root.path(), &out, case.line, Event::None);
    let steps = whole.steps;
    whole.ran.exits(0);
    let new = world.state("out");
    assert!(new.left.is_empty(), "{}: {:?}", case.line, new.left);
    assert_ne!(new.files, old.files, "{}", case.line);
    for step in 1.. {
        world.restore(&old);
        let traced = traced(world.root.path(), &out, case.line, event(step, &steps));
        if traced.instead().is_none() {
            traced.ran.exits(0);
            return step - 1;
        }
        check(&old, &new, traced);
    }
    0
}

#[track_caller]
fn killed(cases: impl Iterator<Item = &'static Case>) {
    let world = World::new();
    for case in cases {
        let mut verdicts = Vec::new();
        let steps = at_every_step(
            &world,
            case,
            |step, _| Event::Kill(step),
            |old, new, traced| {
                let step = traced.instead().expect("stopped").clone();
                assert_eq!(traced.ran.code, 128 + 9, "{}", case.line);
                let state = world.state("out");
                let verdict = world.judge(case, old, new, &state);
                verdicts.push(verdict);
                // Whoever starts the command again needs no cleaning first.
                let again = world.run(case.line);
                let after = world.state("out");
                if again.code == 0 {
                    assert_eq!(world.judge(case, old, new, &after), Verdict::New, "{step:?}");
                    return;
                }
                let words = case.refuses.unwrap_or("(no refusal)");
                let what = format!("{}, after {step:?}: {}", case.line, again.stderr);
                assert!(again.code == 3 && again.stderr.contains(words), "{what}");
                assert!(verdict != Verdict::Old && after.files == state.files, "{what}");
            },
        );
        let is_ordered = verdicts.is_sorted_by_key(|&verdict| rank(verdict));
        let what = format!("{}, {steps} steps: {verdicts:?}", case.line);
        assert!(is_ordered && verdicts.first() == Some(&Verdict::Old), "{what}");
    }
}

/// Old, then unfinished, then new, and never back.
fn rank(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Old => 0,
        Verdict::Unfinished => 1,
        Verdict::New => 2,
    }
}

#[test]
fn killed_at_any_step_a_file_is_old_or_new() {
    killed(CASES.iter().filter(|case| !case.is_folder));
}

#[test]
fn killed_at_any_step_a_folder_is_old_or_new_or_refused() {
    killed(CASES.iter().filter(|case| case.is_folder));
}
