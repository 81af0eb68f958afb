//! `cargo xtask candle`: the example in `docs/examples/candle`, a Llama on candle, built and run on one model that
//! candle reads itself and `tz` loads from disk and from S3. The example fails where the logits differ.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::product::{self, Product};
use crate::servers::S3;
use crate::workspace;

const EXAMPLE: &str = "docs/examples/candle";
/// Any few of the preset's vocabulary.
const TOKENS: &str = "1,2,3";

pub(crate) fn run() -> Result<()> {
    build()?;
    let product = Product::build()?;
    let target = workspace::target()?;
    let folder = tempfile::Builder::new().prefix("candle-").tempdir_in(&target)?;
    let s3 = S3::start(folder.path())?;
    let environment = s3.environment();
    let product = product.with_environment(environment.clone());

    let object = s3.uri("demo.tensors");
    for arguments in [
        &["synth", "demo", "--preset", "llama-tiny"][..],
        &["serialize", "demo", "demo.tensors"],
        &["serialize", "demo", &object],
    ] {
        let mut command = product.command(arguments);
        succeed(command.current_dir(&folder), &product::line(arguments))?;
    }
    let mut example = Command::new(target.join("debug/tz-candle-example"));
    example
        .args(["demo/config.json", TOKENS, "demo/model.safetensors", "demo.tensors", &object])
        .envs(environment)
        .current_dir(&folder);
    succeed(&mut example, "tz-candle-example")
}

/// Builds it into the target folder of the workspace: most of what both depend on is there already.
fn build() -> Result<()> {
    let arguments = ["build", "--locked"];
    println!("$ cargo {} (in {EXAMPLE}; candle takes minutes the first time)", arguments.join(" "));
    let mut cargo = workspace::cargo();
    cargo
        .args(arguments)
        .current_dir(workspace::root().join(EXAMPLE))
        .env("CARGO_TARGET_DIR", workspace::target()?);
    succeed(&mut cargo, "cargo build")
}

fn succeed(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
