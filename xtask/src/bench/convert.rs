//! `cargo xtask bench convert`: a checkpoint larger than memory into vLLM's layout, at a memory limit, beside `dd` of the
//! same bytes. The checkpoint is sparse: its shape is a model's, its weights are holes. `dd` reads them as any other
//! bytes, which `cp` does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::{cold, hollow};
use crate::product::{self, Product};
use crate::report::{Checks, gigabytes_per_second, mebibytes, parse_size};
use crate::sys::{self, Finished};
use crate::workspace;

/// Of the process, at a limit of 1 GiB on tensor data: code, tables and stacks take the rest.
const MOST_MEMORY: u64 = 1152 << 20;
const MEMORY_LIMIT: &str = "1GiB";
/// What must stay free on the disk, whatever happens.
const SPARE: u64 = 5 << 30;
/// The rate that counts as fast enough, of `dd`'s.
const LEAST_RATIO: f64 = 0.7;
/// Bytes in one shard: what checkpoints of this size are cut into.
const SHARD: u64 = 5_000_000_000;

/// Sizes of a Llama of eight billion parameters; the number of layers gives the size wanted.
const HIDDEN: u64 = 4096;
const KEYS: u64 = 1024;
const INNER: u64 = 14_336;
const VOCAB: u64 = 128_256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How large the checkpoint is; the disk needs as much, and 5 GiB to spare
    #[arg(long, default_value = "30GB", value_parser = parse_size)]
    size: u64,
    /// How often both run, in alternation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where files go
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let folder = tempfile::Builder::new().prefix("tz-convert-").tempdir_in(&parent)?;
    let (model, output) = (folder.path().join("llama"), folder.path().join("output"));
    let bytes = checkpoint(&model, args.size)?;
    let mut checks = Checks::default();
    warm_up(&model)?;
    let mut sums = (0.0, 0.0);
    for round in 1..=args.rounds {
        checks.check(format!("round {round}: dd bs=1M, synced"), || {
            cold::forget(&[&model])?;
            let (finished, rate) = alone(&output, bytes, &mut copy(&model, &output))?;
            if !finished.status.success() {
                bail!("{}", finished.stderr);
            }
            sums.0 += finished.wall.as_secs_f64();
            Ok(format!("{rate:.2} GB/s, {:.1} s", finished.wall.as_secs_f64()))
        });
        checks.check(format!("round {round}: vllm serialize at {MEMORY_LIMIT}"), || {
            let arguments = [
                "vllm".as_ref(),
                "serialize".as_ref(),
                "--model".as_ref(),
                model.as_os_str(),
                "--serialized-directory".as_ref(),
                output.as_os_str(),
                "--memory-limit".as_ref(),
                MEMORY_LIMIT.as_ref(),
                "-v".as_ref(),
            ];
            cold::forget(&[&model])?;
            let (finished, rate) = alone(&output, bytes, &mut product.command(&arguments))?;
            let finished = product::succeeded(finished, &arguments)?;
            sums.1 += finished.wall.as_secs_f64();
            let (peak, seconds) = (mebibytes(finished.peak_bytes), finished.wall.as_secs_f64());
            eprintln!("{}", finished.stderr.trim());
            if finished.peak_bytes > MOST_MEMORY {
                bail!("peak {peak}, more than {}", mebibytes(MOST_MEMORY));
            }
            Ok(format!("{rate:.2} GB/s, {seconds:.1} s, peak {peak}"))
        });
    }
    checks.check(format!("at least {LEAST_RATIO} of dd's rate"), || {
        let ratio = sums.0 / sums.1;
        if ratio.is_nan() || ratio < LEAST_RATIO {
            bail!("{ratio:.2}");
        }
        Ok(format!("{ratio:.2}"))
    });
    checks.finish()
}

/// Runs a command that writes `bytes` to `output`, measures it, and removes what it wrote.
fn alone(output: &Path, bytes: u64, command: &mut Command) -> Result<(Finished, f64)> {
    fs::create_dir(output).with_context(|| output.display().to_string())?;
    let free = sys::free_bytes(output)?;
    if free < bytes + SPARE {
        bail!("{} are free, {} are needed", mebibytes(free), mebibytes(bytes + SPARE));
    }
    // What an earlier run left to be written must not be part of this one.
    Command::new("sync").arg("-f").arg(output).status().context("sync")?;
    let finished = sys::run_measured(command.stdin(Stdio::null()));
    fs::remove_dir_all(output).with_context(|| output.display().to_string())?;
    let finished = finished?;
    let rate = gigabytes_per_second(bytes, finished.wall.as_secs_f64());
    Ok((finished, rate))
}

/// Every shard through `dd`, each synced as our files are.
fn copy(model: &Path, output: &Path) -> Command {
    let script = r#"cd "$0" && for shard in *.safetensors; do
        dd if="$shard" of="$1/$shard" bs=1M conv=fsync status=none || exit 1; done"#;
    shell(script, &[model, output])
}

/// Reads the checkpoint once, so that the machine has all its memory at hand when the first contender starts.
fn warm_up(model: &Path) -> Result<()> {
    let finished =
        sys::run_measured(&mut shell(r#"cat "$0"/*.safetensors > /dev/null"#, &[model]))?;
    if finished.status.success() { Ok(()) } else { bail!("{}", finished.stderr) }
}

fn shell(script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).args(arguments);
    command
}

/// Writes a Llama of about `size` bytes, in shards of holes; gives the bytes of its tensors.
fn checkpoint(folder: &Path, size: u64) -> Result<u64> {
    let outside = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    let bytes = |shape: &[u64]| 2 * shape.iter().product::<u64>();
    let rest: u64 = outside.iter().map(|(_, shape)| bytes(shape)).sum();
    let one: u64 = layer(0).iter().map(|(_, shape)| bytes(shape)).sum();
    let layers = (size.saturating_sub(rest) / one).max(1);
    let tensors = (0..layers).flat_map(layer).chain(outside);
    let mut shards: Vec<Vec<(String, Vec<u64>)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, shape) in tensors {
        let len = bytes(&shape);
        if filled + len > SHARD {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + len, total + len);
        shards.last_mut().context("a shard")?.push((name, shape));
    }
    fs::create_dir_all(folder)?;
    let mut places = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        places.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), Value::from(name.as_str()))));
        hollow::safetensors(&folder.join(name), shard)?;
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string())?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCAB,
        "num_attention_heads": HIDDEN / 128, "num_key_value_heads": KEYS / 128,
        "num_hidden_layers": layers, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    Ok(total)
}

fn layer(number: u64) -> Vec<(String, Vec<u64>)> {
    let shapes: [(&str, &[u64]); 9] = [
        ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
        ("self_attn.k_proj", &[KEYS, HIDDEN]),
        ("self_attn.v_proj", &[KEYS, HIDDEN]),
        ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
        ("mlp.gate_proj", &[INNER, HIDDEN]),
        ("mlp.up_proj", &[INNER, HIDDEN]),
        ("mlp.down_proj", &[HIDDEN, INNER]),
        ("input_layernorm", &[HIDDEN]),
        ("post_attention_layernorm", &[HIDDEN]),
    ];
    let named = |(name, shape): (&str, &[u64])| {
        (format!("model.layers.{number}.{name}.weight"), shape.to_vec())
    };
    shapes.into_iter().map(named).collect()
}
