//! Replays the kept corpus through every target, under its bound.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz_harness::{ALL, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).expect("a folder of fuzz");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        name.strip_suffix(ending).map(str::to_owned)
    };
    entries.filter_map(name).collect()
}

/// The inputs of a target that break its property or its bound.
fn broken(target: &Target) -> Vec<PathBuf> {
    let folder = fuzz().join("corpus").join(target.name);
    let inputs = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry"));
    let mut inputs: Vec<PathBuf> = inputs.map(|entry| entry.path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no corpus of {}", target.name);
    inputs.retain(|path| {
        let input = fs::read(path).expect("an input");
        std::panic::catch_unwind(|| target.hold(&input)).is_err()
    });
    inputs
}

#[test]
fn the_kept_corpus_is_decoded_within_bounds() {
    let broken: Vec<PathBuf> = ALL.iter().flat_map(broken).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn every_target_is_a_program_and_has_a_corpus() {
    let targets: BTreeSet<String> = ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), ALL.len(), "a name stands twice");
    assert_eq!(names("fuzz_targets", ".rs"), targets);
    assert_eq!(names("corpus", ""), targets);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target} is no program");
        let program =
            fs::read_to_string(fuzz().join("fuzz_targets").join(target).with_extension("rs"));
        let constant = format!("fuzz_harness::{}.hold(data)", target.to_uppercase());
        assert!(program.expect("a program").contains(&constant), "{target} runs another target");
    }
}
