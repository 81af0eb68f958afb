//! `cargo xtask interop`: our files read by the reference package and its files read by us, tensor
//! for tensor, in the two versions that matter (2.10.1 is the one vLLM pins).
//!
//! Each direction is a file of its own; each adds rows to one table. Nothing is skipped silently:
//! what cannot run fails.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::product::Product;
use crate::report::Checks;

mod encrypted;
mod lora;
mod ours;
mod published;
mod python;
mod reference;
mod remote;
mod tensors;
mod theirs;
mod vllm;

pub(crate) use python::Python;
pub(crate) use tensors::Tensor;

/// The versions of the reference that must agree with us.
const REFERENCES: [&str; 2] = ["2.10.1", "2.12.1"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Work here and keep the files, instead of in a temporary folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Run these parts alone; may be repeated
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Our files through the reference
    Ours,
    /// The reference's files through us
    Theirs,
    /// The files in `fixtures/`
    Published,
    /// Encryption, both ways
    Encrypted,
    /// S3 and HTTP servers, both ways
    Remote,
    /// Adapters of PEFT
    Lora,
    /// Directories that vLLM serves
    Vllm,
}

/// What every check works with.
struct Bench<'a> {
    product: &'a Product,
    python: &'a Python,
    folder: &'a Path,
}

/// Adds the rows of one part.
type Check = fn(&Bench<'_>, &mut Checks);

/// Runs all checks and prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let temporary = tempfile::tempdir().context("a temporary folder")?;
    let folder = match &args.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            folder.as_path()
        }
        None => temporary.path(),
    };
    let bench = Bench { product: &product, python: &python, folder };
    let mut checks = Checks::default();
    let parts: [(Part, Check); 7] = [
        (Part::Ours, ours::check),
        (Part::Theirs, theirs::check),
        (Part::Published, published::check),
        (Part::Encrypted, encrypted::check),
        (Part::Remote, remote::check),
        (Part::Lora, lora::check),
        (Part::Vllm, vllm::check),
    ];
    for (part, check) in parts {
        if args.only.is_empty() || args.only.contains(&part) {
            check(&bench, &mut checks);
        }
    }
    checks.finish()
}

/// A result that several rows depend on; each of them fails with its words.
fn lent<T>(result: &Result<T>) -> Result<&T> {
    result.as_ref().map_err(|error| anyhow!("{error:#}"))
}
