//! Replays the kept corpus through every target, under its bound; targets, programs and corpora are the same list.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
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

/// The kept inputs of a target with their names: those of its archive, and files with names of their own.
fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let corpus = fuzz().join("corpus");
    let archive = fs::File::open(corpus.join(format!("{}.tar.gz", target.name)));
    let mut archive = tar::Archive::new(GzDecoder::new(archive.expect("an archive of inputs")));
    let mut inputs = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut input = Vec::new();
        entry.read_to_end(&mut input).expect("an input");
        inputs.push((name, input));
    }
    assert!(!inputs.is_empty(), "no corpus of {}", target.name);
    for entry in fs::read_dir(corpus.join(target.name)).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        inputs.push((path.display().to_string(), fs::read(&path).expect("an input")));
    }
    inputs
}

/// The inputs of a target that break its property or its bound.
fn broken(target: &Target) -> Vec<String> {
    let breaks = |input: &[u8]| std::panic::catch_unwind(|| target.hold(input)).is_err();
    let broken = inputs(target).into_iter().filter(|(_, input)| breaks(input));
    broken.map(|(name, _)| format!("{}: {name}", target.name)).collect()
}

#[test]
fn the_kept_corpus_is_decoded_within_bounds() {
    let broken: Vec<String> = ALL.iter().flat_map(broken).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn every_target_is_a_program_and_has_a_corpus() {
    let targets: BTreeSet<String> = ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), ALL.len(), "a name stands twice");
    assert_eq!(names("fuzz_targets", ".rs"), targets);
    assert_eq!(names("corpus", ".tar.gz"), targets);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target} is no program");
        let program =
            fs::read_to_string(fuzz().join("fuzz_targets").join(target).with_extension("rs"));
        let constant = format!("fuzz_harness::{}.hold(data)", target.to_uppercase());
        assert!(program.expect("a program").contains(&constant), "{target} runs another target");
    }
}
