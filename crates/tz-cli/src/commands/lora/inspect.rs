//! `lora inspect`: what an adapter is, and whether vLLM would apply it.

use serde_json::Value;
use tz_lora::{
    Adapter, AdapterConfig, AdapterTensor, LoraName, PACKED_FILE, PackedAdapter, Refusal,
};

use super::{RulesArgs, folder};
use crate::error::Failure;
use crate::job::Session;
use crate::report::{AdapterFacts, AdapterRow, Refused};

const EXAMPLES: &str = "\
Examples:
  tz-cli lora inspect my-adapter
  tz-cli lora inspect my-adapter --max-lora-rank 16 --base-config Llama-2-7b-hf
  tz-cli lora inspect s3://bucket/my-adapter --json";

/// Show an adapter in either form, and everything for which vLLM would not apply it
///
/// Needs no key, and reads no tensor data. A folder that holds both forms is shown as the packed one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory of PEFT, or directory or URI of a packed adapter
    #[arg(value_name = "SRC")]
    source: String,
    #[command(flatten)]
    rules: RulesArgs,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<AdapterFacts, Failure> {
    let source = folder(&args.source)?;
    let rules = args.rules.rules()?;
    match source.local() {
        Some(dir) if !dir.join(PACKED_FILE).exists() => {
            let adapter = Adapter::open(dir)?;
            let refusals = adapter.refusals(&rules);
            let location = adapter.weights().display().to_string();
            session.access.refuse_plain(&location)?;
            Ok(facts(location, "plain", adapter.config(), adapter.tensors(), &refusals))
        }
        _ => {
            let adapter = PackedAdapter::open(&source, &session.access.open_front()?)?;
            let refusals = adapter.refusals(&rules);
            let location = adapter.file().location().to_owned();
            let facts = facts(location, "packed", adapter.config(), adapter.tensors(), &refusals);
            Ok(AdapterFacts { encrypted: adapter.file().is_encrypted(), ..facts })
        }
    }
}

fn facts(
    location: String,
    form: &'static str,
    config: &AdapterConfig,
    tensors: &[AdapterTensor],
    refusals: &[Refusal],
) -> AdapterFacts {
    let row = |tensor: &AdapterTensor| AdapterRow {
        name: tensor.name.clone(),
        module: LoraName::parse(&tensor.name).ok().map(|name| name.module.to_owned()),
        dtype: tensor.dtype.name(),
        shape: tensor.shape.clone(),
        bytes: tensor.byte_len,
    };
    AdapterFacts {
        location,
        form,
        encrypted: false,
        base_model: config.base_model().map(str::to_owned),
        rank: config.rank(),
        alpha: config.alpha(),
        scaling: config.scaling(),
        target_modules: config.field("target_modules").cloned().unwrap_or(Value::Null),
        tensor_count: tensors.len(),
        tensor_bytes: tensors.iter().map(|tensor| tensor.byte_len).sum(),
        tensors: tensors.iter().map(row).collect(),
        refusals: refusals
            .iter()
            .map(|refusal| Refused { message: refusal.to_string(), advice: refusal.advice() })
            .collect(),
    }
}
