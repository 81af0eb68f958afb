//! Directories of `tz-cli vllm serialize`, loaded by the reference into a tree of modules as vLLM's loader does it:
//! every family, one rank and several, encrypted, from either kind of checkpoint, in both layouts. What each parameter
//! must hold is computed by `vllm.py` with torch.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Bench, REFERENCES};
use crate::product;
use crate::report::Checks;

/// Presets of all families, and their kind of checkpoint.
const MODELS: [(&str, &str); 11] = [
    ("llama-tiny", "safetensors"),
    ("llama-tiny-tied", "safetensors"),
    ("llama-tiny-bias", "safetensors"),
    ("mistral-tiny", "safetensors"),
    ("qwen2-tiny", "safetensors"),
    ("qwen3-tiny", "safetensors"),
    ("opt-tiny", "pytorch"),
    ("opt-tiny-projected", "pytorch"),
    ("gpt2-tiny", "safetensors"),
    ("gemma-tiny", "safetensors"),
    ("phi3-tiny", "safetensors"),
];

/// How each of them is serialized: a name, ranks, layout, encryption.
const WAYS: [(&str, u32, &str, bool); 5] = [
    ("one rank", 1, "vllm", false),
    ("two ranks", 2, "vllm", false),
    ("four ranks", 4, "vllm", false),
    ("two encrypted ranks", 2, "vllm", true),
    ("layout hf", 1, "hf", false),
];

/// One file for `vllm.py` to load.
#[derive(Debug, Serialize)]
struct Job {
    model: PathBuf,
    tensors: PathBuf,
    rank: u32,
    degree: u32,
    layout: &'static str,
    keyfile: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug, Deserialize)]
struct Verdict {
    tensors: Option<usize>,
    error: Option<String>,
}

/// What `vllm serialize --json` says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Published {
    ranks: Vec<Rank>,
}

#[derive(Debug, Deserialize)]
struct Rank {
    location: PathBuf,
}

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let (mut jobs, mut rows) = (Vec::new(), Vec::new());
    for (preset, format) in MODELS {
        checks.check(format!("vllm: {preset} ({format}): serialized in every way"), || {
            for way in WAYS {
                let made = serialize(bench, preset, format, way)?;
                rows.push((format!("{preset}, {}", way.0), jobs.len()..jobs.len() + made.len()));
                jobs.extend(made);
            }
            Ok(format!("{} ways", WAYS.len()))
        });
    }
    let list = bench.folder.join("vllm-jobs.json");
    for version in REFERENCES {
        let load = || -> Result<Vec<Verdict>> {
            fs::write(&list, serde_json::to_vec(&jobs)?).context("the list of files")?;
            let arguments = ["--reference".as_ref(), version.as_ref(), list.as_os_str()];
            bench.python.json("vllm.py", &arguments)
        };
        let verdicts = load();
        for (name, range) in &rows {
            checks.check(format!("vllm: {name}: loaded by {version}"), || {
                let verdicts = super::lent(&verdicts)?;
                let of_row = verdicts.get(range.clone()).context("fewer verdicts than files")?;
                let mut tensors = Vec::new();
                for verdict in of_row {
                    match (&verdict.error, verdict.tensors) {
                        (None, Some(count)) => tensors.push(count.to_string()),
                        (error, _) => bail!("{error:?}"),
                    }
                }
                Ok(format!("{} tensors, bit for bit", tensors.join(" + ")))
            });
        }
    }
}

/// Makes one directory; gives the files in it.
fn serialize(
    bench: &Bench<'_>,
    preset: &str,
    format: &str,
    (way, degree, layout, encrypted): (&str, u32, &'static str, bool),
) -> Result<Vec<Job>> {
    let model = bench.folder.join("vllm-models").join(preset);
    if !model.exists() {
        let synth: Vec<OsString> = vec![
            "synth".into(),
            model.clone().into(),
            "--preset".into(),
            preset.into(),
            "--format".into(),
            format.into(),
        ];
        product::succeeded(bench.product.run(&synth)?, &synth)?;
    }
    let suffix = way.replace(' ', "-");
    let mut arguments: Vec<OsString> =
        vec!["vllm".into(), "serialize".into(), "--model".into(), model.clone().into()];
    let directory = bench.folder.join("vllm-directories");
    arguments.extend(["--serialized-directory".into(), directory.into()]);
    arguments.extend(["--suffix", &suffix, "--layout", layout, "--json"].map(OsString::from));
    arguments.extend(["--tensor-parallel-size".into(), degree.to_string().into()]);
    let keyfile = bench.folder.join(format!("{preset}.key"));
    if encrypted {
        arguments.extend(["--keyfile".into(), keyfile.clone().into()]);
    }
    let published: Published = bench.product.json(&arguments)?;
    let job = |(rank, file): (u32, Rank)| Job {
        model: model.clone(),
        tensors: file.location,
        rank,
        degree,
        layout,
        keyfile: encrypted.then(|| keyfile.clone()),
    };
    Ok((0..).zip(published.ranks).map(job).collect())
}
