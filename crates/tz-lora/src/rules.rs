//! What an adapter must be for vLLM to apply it, and to apply it right. Owns [`Rules`] and the checks, one function
//! per subject.
//!
//! vLLM checks some of this when an adapter is first used and some never: a weight for a module that the model lacks
//! is dropped, a rank of its own is scaled as if it had the common one. All of it is refused here.

use std::collections::HashMap;

use serde_json::Value;
use tz_format::Element;

use crate::adapter::AdapterTensor;
use crate::base::{BaseModel, Found};
use crate::config::AdapterConfig;
use crate::error::Error;
use crate::names::{LoraName, NameFault, Role};
use crate::refusal::Refusal;

/// What to hold an adapter against, beyond what is always wrong.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Rules {
    /// `--max-lora-rank` of the server; `None` accepts any rank.
    pub max_lora_rank: Option<u64>,
    /// The base model; without one, neither names of layers nor sizes can be judged.
    pub base: Option<BaseModel>,
    /// Accept names in `target_modules` for which there is no tensor. Default false.
    pub unused_targets: bool,
}

impl Rules {
    /// Sets the largest rank.
    #[must_use]
    pub fn with_max_lora_rank(mut self, limit: u64) -> Self {
        self.max_lora_rank = Some(limit);
        self
    }

    /// Sets the base model.
    #[must_use]
    pub fn with_base(mut self, base: BaseModel) -> Self {
        self.base = Some(base);
        self
    }

    /// Accepts targets without a tensor.
    #[must_use]
    pub fn with_unused_targets(mut self) -> Self {
        self.unused_targets = true;
        self
    }

    /// Fails where anything is wrong with the adapter at `location`.
    pub(crate) fn validate(
        &self,
        config: &AdapterConfig,
        tensors: &[AdapterTensor],
        location: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.refusals(config, tensors) {
            refusals if refusals.is_empty() => Ok(()),
            refusals => Err(Error::Refused { location: location(), refusals }),
        }
    }

    /// Everything that is wrong: the configuration first, then the tensors in their order.
    pub(crate) fn refusals(
        &self,
        config: &AdapterConfig,
        tensors: &[AdapterTensor],
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        required(config, &mut refusals);
        ranks(config, self.max_lora_rank, &mut refusals);
        features(config, &mut refusals);
        if tensors.is_empty() {
            refusals.push(Refusal::NoTensors);
        }
        let named = names(tensors, &mut refusals);
        shapes(config, &named, &mut refusals);
        pairs(&named, &mut refusals);
        targets(config, &named, self.unused_targets, &mut refusals);
        if let Some(base) = &self.base {
            fits(base, &named, &mut refusals);
        }
        refusals
    }
}

/// A tensor whose name is that of a LoRA weight.
type Named<'a> = (LoraName<'a>, &'a AdapterTensor);

fn required(config: &AdapterConfig, refusals: &mut Vec<Refusal>) {
    let is_number = |value: &Value| value.is_number();
    let is_rank = |value: &Value| value.is_u64();
    let is_list = |_: &Value| config.targets().is_some();
    let is_switch = |value: &Value| value.is_boolean();
    let is_table = |value: &Value| value.is_object();
    let mut check = |key, needed, expected, is: &dyn Fn(&Value) -> bool| match config.field(key) {
        None if needed => refusals.push(Refusal::MissingKey { key }),
        Some(value) if !is(value) => {
            let found = shown(value);
            refusals.push(Refusal::WrongType { key, expected, found });
        }
        _ => {}
    };
    check("r", true, "a whole number", &is_rank);
    check("lora_alpha", true, "a number", &is_number);
    check("target_modules", true, "a list of names or a pattern", &is_list);
    check("use_dora", false, "true or false", &is_switch);
    check("use_rslora", false, "true or false", &is_switch);
    check("rank_pattern", false, "an object", &is_table);
    check("alpha_pattern", false, "an object", &is_table);
}

/// A value as it stands in the file, cut where it is long.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn ranks(config: &AdapterConfig, limit: Option<u64>, refusals: &mut Vec<Refusal>) {
    match config.rank() {
        Some(0) => refusals.push(Refusal::ZeroRank),
        Some(rank) => {
            let over = limit.filter(|&limit| rank > limit);
            refusals.extend(over.map(|limit| Refusal::RankOverLimit { rank, limit }));
        }
        None => {}
    }
    for (module, rank) in other_values(config, "rank_pattern", "r") {
        refusals.push(Refusal::RankPattern { module: module.clone(), rank: shown(rank) });
    }
    for (module, alpha) in other_values(config, "alpha_pattern", "lora_alpha") {
        refusals.push(Refusal::AlphaPattern { module: module.clone(), alpha: shown(alpha) });
    }
}

/// Entries of a pattern table that differ from the common value.
fn other_values<'a>(
    config: &'a AdapterConfig,
    table: &str,
    common: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let common = config.field(common).and_then(Value::as_f64);
    let entries = config.field(table).and_then(Value::as_object).into_iter().flatten();
    entries.filter(move |(_, value)| common.is_none() || value.as_f64() != common)
}

/// Fields that make PEFT compute something else than plain LoRA on the layers of the base model.
const VARIANTS: [&str; 5] = [
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
];

fn features(config: &AdapterConfig, refusals: &mut Vec<Refusal>) {
    if let Some(kind) = config.field("peft_type")
        && kind.as_str() != Some("LORA")
    {
        let peft_type = kind.as_str().map_or_else(|| shown(kind), str::to_owned);
        refusals.push(Refusal::NotLora { peft_type });
    }
    if let Some(bias) = config.given("bias")
        && bias.as_str() != Some("none")
    {
        refusals.push(Refusal::Bias { bias: shown(bias) });
    }
    if config.field("use_dora") == Some(&Value::Bool(true)) {
        refusals.push(Refusal::Dora);
    }
    for field in VARIANTS {
        let value = config.field(field).filter(|value| **value != Value::Bool(false));
        refusals.extend(value.map(|value| Refusal::Variant { field, value: shown(value) }));
    }
    match config.field("modules_to_save") {
        None => {}
        Some(Value::Array(list)) if list.is_empty() => {}
        Some(modules) => refusals.push(Refusal::ModulesToSave { modules: shown(modules) }),
    }
}

fn names<'a>(tensors: &'a [AdapterTensor], refusals: &mut Vec<Refusal>) -> Vec<Named<'a>> {
    let mut named = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let name = &tensor.name;
        let parsed = if tensor.is_plain { LoraName::parse(name) } else { Err(NameFault::Ending) };
        match parsed {
            Ok(parsed) => named.push((parsed, tensor)),
            Err(fault) => refusals.push(Refusal::UnexpectedName { name: name.clone(), fault }),
        }
    }
    named
}

/// Types that vLLM's own can be cast from without another meaning.
fn is_float(element: Element) -> bool {
    use Element::{Bfloat16, Float8E4m3fn, Float8E5m2, Float16, Float32, Float64};
    matches!(element, Bfloat16 | Float16 | Float32 | Float64 | Float8E4m3fn | Float8E5m2)
}

fn shapes(config: &AdapterConfig, named: &[Named<'_>], refusals: &mut Vec<Refusal>) {
    // With ranks of their own, layers are refused as such; their shapes are no second fault.
    let one_rank = other_values(config, "rank_pattern", "r").next().is_none();
    let rank = config.rank().filter(|&rank| one_rank && rank > 0);
    for (parsed, tensor) in named {
        let name = || tensor.name.clone();
        if !is_float(tensor.dtype.element()) {
            refusals.push(Refusal::NotFloat { name: name(), dtype: tensor.dtype.name() });
        }
        let &[rows, columns] = tensor.shape.as_slice() else {
            let shape = tensor.shape.clone();
            refusals.push(Refusal::NotTwoDimensional { name: name(), shape });
            continue;
        };
        let found = if parsed.role.is_a() { rows } else { columns };
        if let Some(rank) = rank.filter(|&rank| rank != found) {
            refusals.push(Refusal::RankMismatch { name: name(), found, rank });
        }
    }
}

fn pairs(named: &[Named<'_>], refusals: &mut Vec<Refusal>) {
    let is_linear = |role| matches!(role, Role::A | Role::B);
    // How many As and Bs each module has, apart for the two kinds of layers.
    let mut halves: HashMap<(&str, bool), (usize, usize)> = HashMap::with_capacity(named.len());
    for (parsed, _) in named {
        let (a, b) = halves.entry((parsed.module, is_linear(parsed.role))).or_default();
        *if parsed.role.is_a() { a } else { b } += 1;
    }
    for (parsed, tensor) in named {
        let count = halves.get(&(parsed.module, is_linear(parsed.role))).copied();
        let (a, b) = count.unwrap_or_default();
        let (own, other) = if parsed.role.is_a() { (a, b) } else { (b, a) };
        if own > 1 {
            refusals.push(Refusal::Duplicate { name: tensor.name.clone() });
        }
        if other == 0 {
            let (module, missing) = (parsed.module.to_owned(), parsed.role.other());
            refusals.push(Refusal::Unpaired { module, missing });
        }
    }
}

fn targets(config: &AdapterConfig, named: &[Named<'_>], unused: bool, refusals: &mut Vec<Refusal>) {
    let Some(targets) = config.targets() else { return };
    for (parsed, tensor) in named {
        if targets.include(parsed.module) == Some(false) {
            refusals.push(Refusal::OutsideTargets { name: tensor.name.clone() });
        }
    }
    if !unused {
        let modules = named.iter().map(|(parsed, _)| parsed.module);
        let unused = targets.unused(modules).into_iter().map(str::to_owned);
        refusals.extend(unused.map(|target| Refusal::UnusedTarget { target }));
    }
}

fn fits(base: &BaseModel, named: &[Named<'_>], refusals: &mut Vec<Refusal>) {
    let model_type = base.model_type().to_owned();
    if !base.takes_adapters() {
        refusals.push(Refusal::BaseWithoutLora { model_type });
        return;
    }
    for (parsed, tensor) in named {
        let name = tensor.name.clone();
        match base.find(parsed.module) {
            Found::Unknown => refusals.push(Refusal::UnexpectedModule {
                name,
                layer: parsed.layer().to_owned(),
                model_type: model_type.clone(),
                expected: base.layer_names(),
            }),
            Found::Elsewhere => {
                refusals.push(Refusal::NoSuchModule { module: parsed.module.to_owned() });
            }
            Found::Module { inputs, outputs } => {
                let &[rows, columns] = tensor.shape.as_slice() else { continue };
                let expected =
                    if parsed.role.is_a() { vec![rows, inputs] } else { vec![outputs, columns] };
                if tensor.shape != expected {
                    let found = tensor.shape.clone();
                    refusals.push(Refusal::BaseShape { name, found, expected });
                }
            }
        }
    }
}
