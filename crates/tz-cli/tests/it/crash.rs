//! The crash table of `docs/TESTING.md`: whatever ends a command that writes, its destination is old or new.
//!
//! Owns the commands that write files ([`CASES`]), the folder that each runs in ([`World`]), and the verdict over what
//! it left there ([`World::judge`]).

mod disk_full;
mod killed;
mod power_cut;
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::made::{adapter, sparse_checkpoint};
use crate::run::tz;

/// A command that writes below `out`. Lines are run in a folder that has `src` beside `out`.
struct Case {
    line: &'static str,
    /// What stood at the destination before: lines that make it.
    before: &'static [&'static str],
    /// Lines that succeed on the new state and on no unfinished one. None where every run gives the same bytes.
    proof: &'static [&'static str],
    /// Several files make the destination. Between old and new it may be unfinished, and is then no use to a reader.
    is_folder: bool,
    /// The file is changed where it is: between old and new, a journal follows it.
    is_in_place: bool,
    /// What the same line says when the new state, or a part of it, is there.
    refuses: Option<&'static str>,
}

const CASE: Case =
    Case { line: "", before: &[], proof: &[], is_folder: false, is_in_place: false, refuses: None };

const MODEL: &str =
    "vllm serialize --model src/demo --layout hf --serialized-directory out --suffix v";

/// Every command that writes files of this machine.
const CASES: &[Case] = &[
    Case { line: "serialize src/a.safetensors out/m.tensors", ..CASE },
    Case {
        line: "serialize src/a.safetensors out/m.tensors --no-fsync --hash sha256,blake3",
        before: &["copy src/b.tensors out/m.tensors"],
        ..CASE
    },
    Case {
        line: "serialize src/a.safetensors out/m.tensors --keyfile out/key --generate-key",
        before: &["copy src/b.tensors out/m.tensors"],
        proof: &["diff src/a.safetensors out/m.tensors --keyfile out/key"],
        refuses: Some("never overwritten"),
        is_folder: true,
        ..CASE
    },
    Case {
        line: "copy src/a.tensors out/m.tensors",
        before: &["copy src/b.tensors out/m.tensors"],
        ..CASE
    },
    Case {
        line: "copy src/a.tensors out/m.tensors --if-none-match",
        refuses: Some("exists"),
        ..CASE
    },
    Case {
        line: "encrypt src/a.tensors out/m.tensors --keyfile src/key",
        before: &["copy src/b.tensors out/m.tensors"],
        proof: &["diff src/a.tensors out/m.tensors --keyfile src/key"],
        ..CASE
    },
    Case {
        line: "encrypt src/a.tensors out/m.tensors --keyfile src/key --profile sealed",
        proof: &["diff src/a.tensors out/m.tensors --keyfile src/key"],
        ..CASE
    },
    Case {
        line: "decrypt src/sealed.tensors out/m.tensors --keyfile src/key",
        before: &["copy src/b.tensors out/m.tensors"],
        ..CASE
    },
    Case {
        line: "rewrap out/m.tensors --keyfile src/key --add-keyfile src/other",
        before: &["copy src/sealed.tensors out/m.tensors"],
        proof: &["verify out/m.tensors --keyfile src/other"],
        is_in_place: true,
        ..CASE
    },
    Case {
        line: "deserialize src/a.tensors --to out/m.safetensors",
        before: &["deserialize src/b.tensors --to out/m.safetensors"],
        ..CASE
    },
    Case {
        line: "deserialize src/a.tensors --to out/new/shards --max-shard-size 50000",
        proof: &["diff src/a.tensors out/new/shards"],
        is_folder: true,
        refuses: Some("remove the old checkpoint"),
        ..CASE
    },
    Case {
        line: "keygen out/key",
        refuses: Some("never overwritten"),
        proof: &["encrypt src/a.tensors src/scratch --keyfile out/key"],
        ..CASE
    },
    Case {
        line: "lora pack src/adapter out/new/packed --with-safetensors",
        is_folder: true,
        proof: &["lora inspect out/new/packed"],
        ..CASE
    },
    Case {
        line: "lora pack src/adapter out",
        before: &["lora pack src/adapter8 out"],
        is_folder: true,
        proof: &["lora inspect out"],
        ..CASE
    },
    Case {
        line: "lora unpack src/packed out",
        before: &["lora unpack src/packed8 out"],
        is_folder: true,
        proof: &["lora inspect out"],
        ..CASE
    },
    Case {
        line: MODEL,
        is_folder: true,
        proof: &["verify out/vllm/src/demo/v"],
        refuses: Some("--overwrite replaces the model"),
        ..CASE
    },
    Case {
        line: "vllm serialize --model src/demo --layout hf --serialized-directory out --suffix v --overwrite \
               --keyfile out/key --overwrite-key",
        before: &[MODEL],
        is_folder: true,
        proof: &["verify out/vllm/src/demo/v --keyfile out/key"],
        ..CASE
    },
    Case {
        line: "synth out/new/demo --preset llama-tiny",
        is_folder: true,
        proof: &["diff src/demo out/new/demo"],
        refuses: Some("remove the old checkpoint"),
        ..CASE
    },
    Case {
        line: "synth out/new/demo --preset llama-tiny --format pytorch",
        is_folder: true,
        proof: &["diff src/demo out/new/demo"],
        refuses: Some("remove the old checkpoint"),
        ..CASE
    },
];

/// Files below `out`, with their contents, and folders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
    /// Temporary files and folders: hidden, and by their names ours.
    left: BTreeSet<String>,
}

/// What stands at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Old,
    New,
    /// Some files of a folder, each whole; readers refuse the folder.
    Unfinished,
}

/// A folder with `src`, in which cases run one after the other.
struct World {
    root: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { root: tempfile::tempdir().expect("folder") };
        let src = world.path("src");
        std::fs::create_dir(&src).expect("folder");
        // More than one write each, and lengths that no block size divides. Of the last block of `a`, less is free than a
        // journal takes.
        sparse_checkpoint(&src.join("a.safetensors"), 3, 32_001);
        sparse_checkpoint(&src.join("b.safetensors"), 2, 45_003);
        adapter(&src.join("adapter"), 4);
        adapter(&src.join("adapter8"), 8);
        for line in [
            "keygen src/key",
            "keygen src/other",
            "serialize src/a.safetensors src/a.tensors",
            "serialize src/b.safetensors src/b.tensors",
            "encrypt src/a.tensors src/sealed.tensors --keyfile src/key --profile sealed",
            "lora pack src/adapter src/packed",
            "lora pack src/adapter8 src/packed8",
            "synth src/demo --preset llama-tiny",
        ] {
            world.run(line).exits(0);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, line: &str) -> crate::run::Ran {
        tz(self.root.path(), &line.split_whitespace().collect::<Vec<_>>())
    }

    /// `out` as it is before `case`.
    fn prepare(&self, case: &Case) -> State {
        self.restore(&State::default());
        for line in case.before {
            self.run(line).exits(0);
        }
        self.state("out")
    }

    /// Makes `out` hold this and nothing else.
    fn restore(&self, state: &State) {
        let out = self.path("out");
        match std::fs::remove_dir_all(&out) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => std::fs::create_dir(&out).expect("folder"),
        }
        for folder in &state.folders {
            std::fs::create_dir_all(out.join(folder)).expect("folder");
        }
        for (name, bytes) in &state.files {
            std::fs::write(out.join(name), bytes).expect("write");
        }
    }

    fn state(&self, folder: &str) -> State {
        let mut state = State::default();
        let folder = self.path(folder);
        for name in crate::run::listing(&folder) {
            if name.split('/').any(is_temporary) {
                state.left.insert(name);
            } else if name.ends_with('/') {
                state.folders.insert(name);
            } else {
                let bytes = std::fs::read(folder.join(&name)).expect("read");
                state.files.insert(name, bytes);
            }
        }
        state
    }

    /// What `out` holds, which is `state`, after a run of `case` that came to some end. `new` is what a run without an
    /// end of that kind leaves.
    #[track_caller]
    fn judge(&self, case: &Case, old: &State, new: &State, state: &State) -> Verdict {
        if state.files == old.files {
            return Verdict::Old;
        }
        let names: Vec<&String> = state.files.keys().collect();
        for (name, bytes) in &state.files {
            assert!(
                self.is_whole(name, bytes, old, new),
                "{}: {name} is not whole, among {names:?}",
                case.line
            );
        }
        let is_followed = |(name, bytes): (&String, &Vec<u8>)| {
            state.files.get(name).is_some_and(|now| now.starts_with(bytes))
        };
        if case.is_in_place && old.files.iter().all(is_followed) {
            return Verdict::Old;
        }
        let is_new = match case.proof {
            [] => state.files == new.files,
            lines => lines.iter().all(|line| self.run(line).code == 0),
        };
        assert!(is_new || case.is_folder, "{}: neither old nor new: {names:?}", case.line);
        if is_new { Verdict::New } else { Verdict::Unfinished }
    }

    /// Whether a file is that of the old state, that of the new one, or one of a kind that differs each time.
    fn is_whole(&self, name: &str, bytes: &[u8], old: &State, new: &State) -> bool {
        if [old, new].iter().any(|state| state.files.get(name).is_some_and(|known| known == bytes))
        {
            return true;
        }
        if name.ends_with("key") {
            return bytes.len() == 32;
        }
        // Encrypted, so that each run gives others, or with the time of day in it.
        let keys = ["", " --keyfile out/key", " --keyfile src/key"];
        let readable = |key| self.run(&format!("verify out/{name}{key}")).code == 0;
        name.ends_with("/manifest.toml") || name.ends_with(".tensors") && keys.iter().any(readable)
    }
}

/// The names of `docs/TESTING.md`, which every command passes over.
fn is_temporary(name: &str) -> bool {
    let endings = [".tmp", ".partial"];
    name.starts_with(".tz-")
        || name.starts_with('.') && endings.iter().any(|ending| name.ends_with(ending))
}
