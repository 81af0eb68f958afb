//! `cargo xtask bench lora`: a rank-16 adapter of a 7B model, packed, from a warm file into owned host memory: what
//! swapping adapters costs a server before anything is copied to its device. Beside it the same adapter as
//! safetensors, and a raw read of as many bytes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::local::{WARM, timed};
use super::outcome::Outcome;
use super::processes::{loaded, ran};
use super::rounds::{Contender, Target, alternate};
use super::{Common, raw};
use crate::interop::Python;
use crate::product::{self, Product};
use crate::{sys, workspace};

/// What the task asks for: a swap in a running server.
const WANTED_MILLISECONDS: f64 = 20.0;
/// Loads of one process; the clock is the program's own.
const REPEATED_ROUNDS: &str = "51";

const RANK: u64 = 16;
const LAYERS: u64 = 32;
/// Modules of a layer of Llama-2-7B: path, inputs, outputs.
const MODULES: [(&str, u64, u64); 7] = [
    ("self_attn.q_proj", 4096, 4096),
    ("self_attn.k_proj", 4096, 4096),
    ("self_attn.v_proj", 4096, 4096),
    ("self_attn.o_proj", 4096, 4096),
    ("mlp.gate_proj", 4096, 11008),
    ("mlp.up_proj", 4096, 11008),
    ("mlp.down_proj", 11008, 4096),
];
const BFLOAT16: u64 = 2;

const FRESH: &str = "tz-cli deserialize, a fresh process";
const REPEATED: &str = "tz-cli bench, again in one process";
const PLAIN: &str = "safetensors load_file, cloned";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the files go [default: /dev/shm if it has room, otherwise the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let parent = parent(args.dir.as_deref(), bytes())?;
    let outcome = Outcome::expected(&parent, WARM);
    let folder = tempfile::Builder::new().prefix("tz-bench-lora-").tempdir_in(&parent)?;
    let (saved, packed) = (folder.path().join("saved"), folder.path().join("packed"));
    save(&saved)?;
    let arguments = ["lora".as_ref(), "pack".as_ref(), saved.as_os_str(), packed.as_os_str()];
    product::succeeded(product.run(&arguments)?, &arguments)?;

    let file = packed.join("adapter_model.tensors");
    let contenders = contenders(&product, &python, &file, &saved);
    let series = alternate(&contenders, args.common.rounds)?;
    let median = |name: &str| {
        let found = series.iter().find(|series| series.name == name);
        Ok::<_, anyhow::Error>(found.with_context(|| format!("no row {name}"))?.median_seconds())
    };
    let (fresh, repeated, plain) = (median(FRESH)?, median(REPEATED)?, median(PLAIN)?);
    let targets = vec![
        Target::at_most(
            "verified load in a running process: ms",
            WANTED_MILLISECONDS,
            repeated * 1e3,
        ),
        Target::at_least("verified load, fresh process: times safetensors", 1.0, plain / fresh),
    ];
    outcome.publish(&args.common, bytes(), series, targets)
}

/// Memory-backed storage if there is room for checkpoint, file, copy and one load.
fn parent(dir: Option<&Path>, size: u64) -> Result<PathBuf> {
    let shared_memory = Path::new("/dev/shm");
    match dir {
        Some(dir) => Ok(dir.to_owned()),
        None if sys::free_bytes(shared_memory).is_ok_and(|free| free / 4 > size) => {
            Ok(shared_memory.to_owned())
        }
        None => workspace::target(),
    }
}

fn contenders<'a>(
    product: &'a Product,
    python: &'a Python,
    file: &'a Path,
    saved: &Path,
) -> Vec<Contender<'a>> {
    let fresh = |options: &'static [&'static str]| {
        move || {
            let mut arguments = vec!["deserialize".as_ref(), file.as_os_str(), "--json".as_ref()];
            arguments.extend(options.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
            // The first run takes back from the machine what the process before it gave up; it is not counted.
            product.run(&arguments)?;
            loaded(product, bytes(), &arguments)
        }
    };
    let repeated = move || {
        #[derive(Deserialize)]
        struct Repeated {
            bytes: u64,
            median_seconds: f64,
        }
        let rounds = ["--rounds".as_ref(), REPEATED_ROUNDS.as_ref(), "--json".as_ref()];
        let arguments = [&["bench".as_ref(), file.as_os_str()][..], &rounds].concat();
        ran(product, &arguments, |load: &Repeated| {
            if load.bytes != bytes() {
                bail!("{} bytes of {}", load.bytes, bytes());
            }
            Ok(load.median_seconds)
        })
    };
    let safetensors = |options: &[&str]| {
        let mut arguments: Vec<OsString> = options.iter().map(OsString::from).collect();
        arguments.push(saved.join("adapter_model.safetensors").into());
        move || timed(python, bytes(), &arguments)
    };
    vec![
        raw::contender(file),
        Contender::new(FRESH, fresh(&[])),
        Contender::new("tz-cli deserialize --no-verify, a fresh process", fresh(&["--no-verify"])),
        Contender::new(REPEATED, repeated),
        Contender::new(
            "safetensors load_file, mapped, every page touched",
            safetensors(&["safetensors"]),
        ),
        Contender::new(PLAIN, safetensors(&["safetensors", "--clone"])),
    ]
}

/// Bytes of all tensors: 80 MB.
fn bytes() -> u64 {
    let elements: u64 = MODULES.iter().map(|(_, inputs, outputs)| RANK * (inputs + outputs)).sum();
    LAYERS * elements * BFLOAT16
}

/// The adapter as PEFT saves it. The values do not matter, but they are no zeros that a file system could leave out.
fn save(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let names: Vec<&str> =
        MODULES.iter().filter_map(|(path, ..)| path.rsplit('.').next()).collect();
    let config = json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none", "target_modules": names,
    });
    fs::write(folder.join("adapter_config.json"), config.to_string())?;
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for layer in 0..LAYERS {
        for (path, inputs, outputs) in MODULES {
            for (half, shape) in [("A", [RANK, inputs]), ("B", [outputs, RANK])] {
                let name =
                    format!("base_model.model.model.layers.{layer}.{path}.lora_{half}.weight");
                let begin = end;
                end += shape[0] * shape[1] * BFLOAT16;
                let offsets = [begin, end];
                let row = json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets});
                header.insert(name, row);
            }
        }
    }
    let header = Value::Object(header).to_string();
    let path = folder.join("adapter_model.safetensors");
    let mut file = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..end / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Exponents stay small: no infinities.
        file.write_all(&(state & 0x3fff_3fff_3fff_3fff).to_le_bytes())?;
    }
    Ok(file.flush()?)
}
