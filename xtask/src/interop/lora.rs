//! Adapters of the real PEFT: packed by us, read by both versions of the reference under their names, types and
//! bytes; unpacked to the very same file, with which PEFT computes the very same numbers. What vLLM rejects is
//! refused by name.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::reference::{all_equal, read, read_with};
use super::tensors::{Tensor, same, seen_by_us};
use super::{Bench, REFERENCES, lent};
use crate::product;
use crate::report::Checks;
use crate::servers::S3;

/// The version that vLLM pins, and with it every adapter that it reads.
const PINNED: &str = REFERENCES[0];
const PLAIN: &str = "adapter_model.safetensors";
const PACKED: &str = "adapter_model.tensors";
const CONFIG: &str = "adapter_config.json";
/// What an exit code of the command line means: the content is not one that can be used.
const UNSUPPORTED: i32 = 4;
const KEY_BYTE: u8 = 0x5a;

/// What `lora.py` saved.
#[derive(Debug, Deserialize)]
struct Made {
    rank: u64,
    adapters: Vec<Adapter>,
}

#[derive(Debug, Deserialize)]
struct Adapter {
    name: String,
    #[serde(default)]
    tensors: Vec<Tensor>,
    #[serde(default)]
    dtype: String,
    /// A part of what must be said of an adapter that vLLM rejects.
    refused: Option<String>,
}

/// One adapter and where its forms are.
struct Places {
    saved: PathBuf,
    packed: PathBuf,
    back: PathBuf,
}

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let folder = bench.folder.join("lora");
    let mut made = None;
    checks.check("lora: PEFT saves adapters", || {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let saved: Made = bench.python.json("lora.py", &["make".as_ref(), folder.as_os_str()])?;
        let count = saved.adapters.len();
        made = Some(saved);
        Ok(format!("{count} directories"))
    });
    let Some(made) = made else { return };
    for adapter in &made.adapters {
        match &adapter.refused {
            Some(words) => checks.check(format!("lora: {}: refused", adapter.name), || {
                refused(bench, &folder.join(&adapter.name), words)
            }),
            None => good(bench, checks, &folder, adapter, made.rank),
        }
    }
    if let Some(adapter) = made.adapters.iter().find(|adapter| adapter.name == "bfloat16") {
        encrypted(bench, checks, &folder, adapter);
        remote(bench, checks, &folder, adapter);
    }
}

/// The rows of one adapter that vLLM takes.
fn good(bench: &Bench<'_>, checks: &mut Checks, folder: &Path, adapter: &Adapter, rank: u64) {
    let name = &adapter.name;
    let places = Places {
        saved: folder.join(name),
        packed: folder.join(format!("{name}-packed")),
        back: folder.join(format!("{name}-back")),
    };
    checks.check(format!("lora: {name}: packed against its base model"), || {
        let (base, rank) = (folder.join("base"), rank.to_string());
        let options = ["--base-config".as_ref(), base.as_os_str(), "--max-lora-rank".as_ref()];
        let options = [&options[..], &[OsStr::new(&rank)]].concat();
        pack(bench, places.saved.as_os_str(), places.packed.as_os_str(), &options)?;
        equal_files(&places.saved, &places.packed, CONFIG)?;
        same(&adapter.tensors, &seen_by_us(bench.product, &places.packed.join(PACKED))?)
    });
    let file = places.packed.join(PACKED);
    for version in REFERENCES {
        let readings = read(bench.python, version, std::slice::from_ref(&file));
        checks.check(format!("lora: {name}: read by {version}"), || {
            all_equal(&adapter.tensors, lent(&readings)?)
        });
    }
    checks.check(format!("lora: {name}: unpacked"), || {
        unpack(bench, places.packed.as_os_str(), places.back.as_os_str(), &[])?;
        equal_files(&places.saved, &places.back, CONFIG)?;
        if places.saved.join(PLAIN).exists() {
            equal_files(&places.saved, &places.back, PLAIN)?;
            return Ok("the same two files".into());
        }
        let digests = ["digests".as_ref(), places.back.as_os_str()];
        let found: Vec<Tensor> = bench.python.json("checkpoint.py", &digests)?;
        same(&adapter.tensors, &found)
    });
    checks.check(format!("lora: {name}: PEFT computes the same with both"), || {
        #[derive(Deserialize)]
        struct Compared {
            logits: u64,
        }
        let arguments = ["compare".as_ref(), adapter.dtype.as_ref()];
        let places = [places.saved.as_os_str(), places.back.as_os_str()];
        let compared: Compared =
            bench.python.json("lora.py", &[&arguments[..], &places].concat())?;
        Ok(format!("{} logits equal, bit for bit", compared.logits))
    });
}

/// Expects the exit code for what cannot be used, these words, and nothing written.
fn refused(bench: &Bench<'_>, saved: &Path, words: &str) -> Result<String> {
    let destination = saved.with_extension("packed");
    let arguments = ["lora".as_ref(), "pack".as_ref(), saved.as_os_str(), destination.as_os_str()];
    let finished = bench.product.run(&arguments)?;
    if finished.status.code() != Some(UNSUPPORTED) {
        bail!("{}: {}", finished.status, finished.stderr.trim());
    }
    let said = finished.stderr.lines().next().unwrap_or_default().to_owned();
    if !said.contains(words) {
        bail!("{said:?} lacks {words:?}");
    }
    if destination.exists() {
        bail!("{} was made", destination.display());
    }
    Ok(words.to_owned())
}

/// On request only: the reference opens the file with the key.
fn encrypted(bench: &Bench<'_>, checks: &mut Checks, folder: &Path, adapter: &Adapter) {
    checks.check(format!("lora: encrypted, read by {PINNED} with the key"), || {
        let key = folder.join("key");
        fs::write(&key, [KEY_BYTE; 32])?;
        let packed = folder.join("encrypted");
        let options = ["--keyfile".as_ref(), key.as_os_str()];
        pack(bench, folder.join(&adapter.name).as_os_str(), packed.as_os_str(), &options)?;
        let back = folder.join("decrypted");
        unpack(bench, packed.as_os_str(), back.as_os_str(), &options)?;
        equal_files(&folder.join(&adapter.name), &back, PLAIN)?;
        let hex = format!("{KEY_BYTE:02x}").repeat(32);
        let readings =
            read_with(bench.python, PINNED, &[packed.join(PACKED)], &["--key-hex", &hex])?;
        all_equal(&adapter.tensors, &readings)
    });
}

/// To an S3 server and back.
fn remote(bench: &Bench<'_>, checks: &mut Checks, folder: &Path, adapter: &Adapter) {
    checks.check("lora: packed to S3, unpacked from there", || {
        let s3 = S3::start(bench.folder)?;
        let product = bench.product.with_environment(s3.environment());
        let bench = Bench { product: &product, python: bench.python, folder: bench.folder };
        let (saved, back) = (folder.join(&adapter.name), folder.join("from-s3"));
        let place = s3.uri("adapters/mine");
        pack(&bench, saved.as_os_str(), place.as_ref(), &["--with-safetensors".as_ref()])?;
        unpack(&bench, place.as_ref(), back.as_os_str(), &[])?;
        for name in [CONFIG, PLAIN] {
            equal_files(&saved, &back, name)?;
        }
        let copied = folder.join("copied.safetensors");
        let object = s3.uri("adapters/mine/adapter_model.safetensors");
        let arguments = ["copy".as_ref(), OsStr::new(&object), copied.as_os_str()];
        product::succeeded(product.run(&arguments)?, &arguments)?;
        if fs::read(&copied)? != fs::read(saved.join(PLAIN))? {
            bail!("{object} is another file");
        }
        Ok(format!("{}: the same files", s3.name))
    });
}

fn pack(bench: &Bench<'_>, from: &OsStr, to: &OsStr, options: &[&OsStr]) -> Result<()> {
    run(bench, "pack", from, to, options)
}

fn unpack(bench: &Bench<'_>, from: &OsStr, to: &OsStr, options: &[&OsStr]) -> Result<()> {
    run(bench, "unpack", from, to, options)
}

fn run(bench: &Bench<'_>, job: &str, from: &OsStr, to: &OsStr, options: &[&OsStr]) -> Result<()> {
    let arguments = [&["lora".as_ref(), job.as_ref(), from, to][..], options].concat();
    product::succeeded(bench.product.run(&arguments)?, &arguments)?;
    Ok(())
}

fn equal_files(a: &Path, b: &Path, name: &str) -> Result<()> {
    let read = |folder: &Path| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    };
    if read(a)? == read(b)? {
        return Ok(());
    }
    bail!("{name} of {} and {} differ", a.display(), b.display())
}
