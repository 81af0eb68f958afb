//! One row for each refusal: how a good adapter is changed, and all that is said of it. A variant without a row fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tz_lora::{Adapter, BaseModel, Error, NameFault, Refusal, Rules};

use crate::support::{BASE, CONFIG, Peft, Tensor, safetensors, tensors};

const LAYER: &str = "base_model.model.model.layers.1";

/// A row: what is changed in the configuration and in the tensors, and what is said.
struct Row {
    name: &'static str,
    config: fn(&mut Value),
    tensors: fn(&mut Vec<Tensor>),
    rules: fn() -> Rules,
    expect: Vec<Refusal>,
}

fn row(name: &'static str, config: fn(&mut Value), expect: Refusal) -> Row {
    Row { name, config, tensors: |_| {}, rules: Rules::default, expect: vec![expect] }
}

fn weights(name: &'static str, tensors: fn(&mut Vec<Tensor>), expect: Vec<Refusal>) -> Row {
    Row { name, config: |_| {}, tensors, rules: Rules::default, expect }
}

fn based(name: &'static str, tensors: fn(&mut Vec<Tensor>), expect: Vec<Refusal>) -> Row {
    // The list of targets is not the subject here.
    let config = |config: &mut Value| config["target_modules"] = "all-linear".into();
    Row { name, config, tensors, rules: || Rules::default().with_base(base(BASE)), expect }
}

fn base(text: &str) -> BaseModel {
    let json: Value = serde_json::from_str(text).expect("JSON");
    BaseModel::from_fields(json.as_object().expect("base model")).expect("base model")
}

fn full(name: &str) -> String {
    format!("{LAYER}.{name}")
}

fn unexpected(name: &str, fault: NameFault) -> Refusal {
    Refusal::UnexpectedName { name: full(name), fault }
}

fn configurations() -> Vec<Row> {
    vec![
        row(
            "no rank",
            |config| drop(config.as_object_mut().expect("object").remove("r")),
            Refusal::MissingKey { key: "r" },
        ),
        row(
            "no alpha",
            |config| config["lora_alpha"] = Value::Null,
            Refusal::MissingKey { key: "lora_alpha" },
        ),
        row(
            "no targets",
            |config| drop(config.as_object_mut().expect("object").remove("target_modules")),
            Refusal::MissingKey { key: "target_modules" },
        ),
        row(
            "a rank with a fraction",
            |config| config["r"] = json!(4.5),
            Refusal::WrongType { key: "r", expected: "a whole number", found: "4.5".to_owned() },
        ),
        row(
            "an alpha in words",
            |config| config["lora_alpha"] = "eight".into(),
            Refusal::WrongType {
                key: "lora_alpha",
                expected: "a number",
                found: "\"eight\"".to_owned(),
            },
        ),
        row(
            "another kind of adapter",
            |config| config["peft_type"] = "ADALORA".into(),
            Refusal::NotLora { peft_type: "ADALORA".to_owned() },
        ),
        row("rank 0", |config| config["r"] = 0.into(), Refusal::ZeroRank),
        Row {
            rules: || Rules::default().with_max_lora_rank(3),
            ..row("over the limit", |_| {}, Refusal::RankOverLimit { rank: 4, limit: 3 })
        },
        row(
            "biases",
            |config| config["bias"] = "lora_only".into(),
            Refusal::Bias { bias: "\"lora_only\"".to_owned() },
        ),
        row(
            "a bias of null, which is not Python's \"none\"",
            |config| config["bias"] = Value::Null,
            Refusal::Bias { bias: "null".to_owned() },
        ),
        row("DoRA", |config| config["use_dora"] = true.into(), Refusal::Dora),
        row(
            "whole layers",
            |config| config["modules_to_save"] = json!(["lm_head"]),
            Refusal::ModulesToSave { modules: "[\"lm_head\"]".to_owned() },
        ),
        row(
            "a rank of its own",
            |config| config["rank_pattern"] = json!({"down_proj": 8, "q_proj": 4}),
            Refusal::RankPattern { module: "down_proj".to_owned(), rank: "8".to_owned() },
        ),
        row(
            "an alpha of its own",
            |config| config["alpha_pattern"] = json!({"down_proj": 16, "q_proj": 8}),
            Refusal::AlphaPattern { module: "down_proj".to_owned(), alpha: "16".to_owned() },
        ),
        row(
            "an adapter for some tokens only",
            |config| config["alora_invocation_tokens"] = json!([1, 2]),
            Refusal::Variant { field: "alora_invocation_tokens", value: "[1,2]".to_owned() },
        ),
        row(
            "a target without a tensor",
            |config| config["target_modules"] = json!(["q_proj", "down_proj", "k_proj"]),
            Refusal::UnusedTarget { target: "k_proj".to_owned() },
        ),
    ]
}

fn tensors_alone() -> Vec<Row> {
    let unpaired = |missing| Refusal::Unpaired {
        module: "model.layers.1.self_attn.q_proj".to_owned(),
        missing,
    };
    vec![
        weights(
            "no tensors",
            Vec::clear,
            vec![
                Refusal::NoTensors,
                Refusal::UnusedTarget { target: "down_proj".to_owned() },
                Refusal::UnusedTarget { target: "q_proj".to_owned() },
            ],
        ),
        weights("an A without its B", |list| drop(list.remove(3)), vec![unpaired("lora_B.weight")]),
        weights("a B without its A", |list| drop(list.remove(2)), vec![unpaired("lora_A.weight")]),
        weights(
            "the same A with and without PEFT's prefix",
            |list| {
                list[3].0 = "model.layers.1.self_attn.q_proj.lora_A.weight".to_owned();
                list[3].2 = vec![4, 16];
            },
            {
                // Sorted by name, as the file is: the one without the prefix comes last.
                let duplicate = |name: String| Refusal::Duplicate { name };
                let bare = "model.layers.1.self_attn.q_proj.lora_A.weight".to_owned();
                vec![
                    duplicate(full("self_attn.q_proj.lora_A.weight")),
                    unpaired("lora_B.weight"),
                    duplicate(bare),
                    unpaired("lora_B.weight"),
                ]
            },
        ),
        weights(
            "a bias of a B",
            |list| list.push((full("self_attn.q_proj.lora_B.bias"), "BF16", vec![16])),
            vec![unexpected("self_attn.q_proj.lora_B.bias", NameFault::Bias)],
        ),
        weights(
            "a magnitude of DoRA",
            |list| list.push((full("self_attn.q_proj.lora_magnitude_vector"), "BF16", vec![16])),
            vec![unexpected("self_attn.q_proj.lora_magnitude_vector", NameFault::DoraMagnitude)],
        ),
        weights(
            "a whole layer",
            |list| list.push((full("lm_head.modules_to_save.weight"), "BF16", vec![4, 4])),
            vec![unexpected("lm_head.modules_to_save.weight", NameFault::SavedModule)],
        ),
        weights(
            "a layer of the base model",
            |list| list.push((full("embed_tokens.base_layer.weight"), "BF16", vec![4, 4])),
            vec![unexpected("embed_tokens.base_layer.weight", NameFault::BaseWeight)],
        ),
        weights(
            "the adapter's name inside",
            |list| list.push((full("q_proj.lora_A.default.weight"), "BF16", vec![4, 4])),
            vec![unexpected("q_proj.lora_A.default.weight", NameFault::AdapterName)],
        ),
        weights(
            "an ordinary weight",
            |list| list.push((full("q_proj.weight"), "BF16", vec![4, 4])),
            vec![unexpected("q_proj.weight", NameFault::Ending)],
        ),
        weights(
            "integers",
            |list| list[0].1 = "I16",
            vec![Refusal::NotFloat { name: full("mlp.down_proj.lora_A.weight"), dtype: "int16" }],
        ),
        weights(
            "three dimensions",
            |list| list[0].2 = vec![4, 4, 6],
            vec![Refusal::NotTwoDimensional {
                name: full("mlp.down_proj.lora_A.weight"),
                shape: vec![4, 4, 6],
            }],
        ),
        weights(
            "an A of another rank",
            |list| list[0].2 = vec![2, 48],
            vec![Refusal::RankMismatch {
                name: full("mlp.down_proj.lora_A.weight"),
                found: 2,
                rank: 4,
            }],
        ),
        weights(
            "a B of another rank",
            |list| list[1].2 = vec![8, 8],
            vec![Refusal::RankMismatch {
                name: full("mlp.down_proj.lora_B.weight"),
                found: 8,
                rank: 4,
            }],
        ),
        Row {
            config: |config| config["target_modules"] = json!(["q_proj"]),
            ..weights(
                "tensors outside the targets",
                |_| {},
                vec![
                    Refusal::OutsideTargets { name: full("mlp.down_proj.lora_A.weight") },
                    Refusal::OutsideTargets { name: full("mlp.down_proj.lora_B.weight") },
                ],
            )
        },
        Row {
            config: |config| config["target_modules"] = r".*\.q_proj".into(),
            ..weights(
                "tensors outside the pattern",
                |_| {},
                vec![
                    Refusal::OutsideTargets { name: full("mlp.down_proj.lora_A.weight") },
                    Refusal::OutsideTargets { name: full("mlp.down_proj.lora_B.weight") },
                ],
            )
        },
    ]
}

fn against_a_base() -> Vec<Row> {
    let shape = |name: &str, found: [u64; 2], expected: [u64; 2]| Refusal::BaseShape {
        name: full(name),
        found: found.to_vec(),
        expected: expected.to_vec(),
    };
    vec![
        Row {
            rules: || Rules::default().with_base(base(r#"{"model_type": "gpt2"}"#)),
            ..based(
                "a family without adapters",
                |_| {},
                vec![Refusal::BaseWithoutLora { model_type: "gpt2".to_owned() }],
            )
        },
        Row {
            rules: || Rules::default().with_base(base(&BASE.replace("llama", "phi3"))),
            ..based("names of an unfused model", |list| drop(list.drain(..2)), {
                let refusal = |half: &str| Refusal::UnexpectedModule {
                    name: full(&format!("self_attn.q_proj.{half}.weight")),
                    layer: "q_proj".to_owned(),
                    model_type: "phi3".to_owned(),
                    expected: vec![
                        "qkv_proj",
                        "gate_up_proj",
                        "o_proj",
                        "down_proj",
                        "embed_tokens",
                        "lm_head",
                    ],
                };
                vec![refusal("lora_A"), refusal("lora_B")]
            })
        },
        Row {
            rules: || {
                let shallow =
                    BASE.replace(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1"#);
                Rules::default().with_base(base(&shallow))
            },
            ..based("a layer beyond the last", |list| drop(list.drain(..2)), {
                let module = "model.layers.1.self_attn.q_proj".to_owned();
                vec![Refusal::NoSuchModule { module }; 2]
            })
        },
        based(
            "inputs of another model",
            |list| list[2].2 = vec![4, 17],
            vec![shape("self_attn.q_proj.lora_A.weight", [4, 17], [4, 16])],
        ),
        based(
            "outputs of another model",
            |list| list[3].2 = vec![8, 4],
            vec![shape("self_attn.q_proj.lora_B.weight", [8, 4], [16, 4])],
        ),
        based(
            "a vocabulary of another size",
            |list| {
                let name = "base_model.model.model.embed_tokens.lora_embedding";
                *list = vec![
                    (format!("{name}_A"), "BF16", vec![4, 65]),
                    (format!("{name}_B"), "BF16", vec![16, 4]),
                ];
            },
            vec![Refusal::BaseShape {
                name: "base_model.model.model.embed_tokens.lora_embedding_A".to_owned(),
                found: vec![4, 65],
                expected: vec![4, 64],
            }],
        ),
    ]
}

fn rows() -> Vec<Row> {
    configurations().into_iter().chain(tensors_alone()).chain(against_a_base()).collect()
}

fn changed(row: &Row) -> Peft {
    let mut config = serde_json::from_str(CONFIG).expect("JSON");
    (row.config)(&mut config);
    let mut list = tensors();
    (row.tensors)(&mut list);
    Peft::new(&config.to_string(), &safetensors(&list))
}

#[test]
fn every_fault_has_its_own_refusal() {
    for row in rows() {
        let peft = changed(&row);
        let adapter = Adapter::open(&peft.dir).unwrap();
        assert_eq!(adapter.refusals(&(row.rules)()), row.expect, "{}", row.name);
    }
}

#[test]
fn every_refusal_has_a_row_and_advice() {
    let name = |refusal: &Refusal| {
        let text = format!("{refusal:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    };
    let rows = rows();
    let tested: BTreeSet<String> = rows.iter().flat_map(|row| &row.expect).map(name).collect();
    let source = include_str!("../../src/refusal.rs");
    let body = source.split("pub enum Refusal {").nth(1).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    let variants: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|line| line.trim_end_matches([',', '{', ' ']).to_owned())
        .collect();
    assert_eq!(tested, variants);
    for refusal in rows.iter().flat_map(|row| &row.expect) {
        assert!(!refusal.advice().is_empty() && !refusal.to_string().ends_with('.'));
    }
}

#[test]
fn a_good_adapter_fits_its_base_and_limit() {
    let peft = Peft::usual();
    let adapter = Adapter::open(&peft.dir).unwrap();
    adapter.validate(&Rules::default().with_max_lora_rank(4).with_base(base(BASE))).unwrap();
    let names: Vec<&str> = adapter.tensors().iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn unused_targets_are_accepted_where_that_was_asked_for() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["target_modules"] = json!(["q_proj", "down_proj", "k_proj"]);
    let peft = Peft::new(&config.to_string(), &safetensors(&tensors()));
    let adapter = Adapter::open(&peft.dir).unwrap();
    adapter.validate(&Rules::default().with_unused_targets()).unwrap();
}

#[test]
fn the_error_names_the_first_fault_and_counts_the_others() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["use_dora"] = true.into();
    config["bias"] = "all".into();
    let peft = Peft::new(&config.to_string(), &safetensors(&tensors()));
    let error = Adapter::open(&peft.dir).unwrap().validate(&Rules::default()).unwrap_err();
    let expected = format!(
        "{}: \"bias\" is \"all\", vLLM takes \"none\" only (and 1 more)",
        peft.dir.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, Error::Refused { refusals, .. } if refusals.len() == 2));
}

#[test]
fn what_is_no_adapter() {
    #[track_caller]
    fn check(change: fn(&std::path::Path), expect: &str) {
        let peft = Peft::usual();
        change(&peft.dir);
        let error = Adapter::open(&peft.dir).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
    check(
        |dir| std::fs::remove_file(dir.join("adapter_config.json")).unwrap(),
        "no adapter_config.json",
    );
    check(
        |dir| std::fs::remove_file(dir.join("adapter_model.safetensors")).unwrap(),
        "no adapter_model.safetensors, .bin or .pt",
    );
    check(|dir| std::fs::remove_dir_all(dir).unwrap(), "no directory");
    check(
        |dir| std::fs::write(dir.join("adapter_config.json"), "[]").unwrap(),
        "not a JSON object",
    );
    check(|dir| std::fs::write(dir.join("adapter_config.json"), "{").unwrap(), "not JSON");
    check(
        |dir| std::fs::write(dir.join("adapter_config.json"), vec![b' '; (4 << 20) + 1]).unwrap(),
        "longer than",
    );
    check(
        |dir| std::fs::write(dir.join("adapter_model.safetensors"), "short").unwrap(),
        "truncated",
    );
}
