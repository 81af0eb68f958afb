//! What is not converted and why, and which tensors depend on the version of vLLM.

use serde_json::json;
use tz_format::{Dtype, Element};
use tz_io::TensorSource;
use tz_model::{Error, MARKER, Refusal, VllmLayout, VllmOptions, VllmVersion, read_config};

use crate::layout_support::{Draft, bytes_of, painted_from};
use crate::support::{decl, message, write};

fn options() -> VllmOptions {
    VllmOptions::default()
}

/// Changes a miniature Llama and expects this refusal.
#[track_caller]
fn check(change: impl FnOnce(&mut Draft), expect: &str) {
    let mut draft = Draft::of("llama-tiny");
    change(&mut draft);
    let refusal = draft.refusal(&options());
    assert_eq!(refusal.to_string(), expect);
    assert!(refusal.advice().contains("--layout hf"));
}

#[test]
fn models_that_no_table_describes() {
    check(
        |draft| draft.config["architectures"] = json!(["FalconForCausalLM"]),
        "the architecture \"FalconForCausalLM\" is not a family that tz knows",
    );
    check(
        |draft| draft.config["quantization_config"] = json!({ "quant_method": "awq" }),
        "the weights are quantised (awq)",
    );
    check(
        |draft| draft.config["compression_config"] = json!({}),
        "the weights are quantised (compression_config)",
    );
    check(|draft| *draft = Draft::of("mixtral-tiny"), "the model is a mixture of experts");
}

#[test]
fn configurations_that_say_too_little_or_nonsense() {
    let config = |name: &'static str, value: serde_json::Value, expect: &str| {
        check(|draft| draft.config[name] = value, &format!("config.json: {expect}"));
    };
    config("architectures", json!([]), "\"architectures\" names no model class");
    config("architectures", json!(null), "\"architectures\" names no model class");
    config(
        "model_type",
        json!("mistral"),
        "\"model_type\" is \"mistral\", LlamaForCausalLM has \"llama\"",
    );
    config("hidden_size", json!(null), "\"hidden_size\" is missing");
    config("hidden_size", json!(-1), "\"hidden_size\" is -1, not a size");
    config("hidden_size", json!(0), "\"hidden_size\" is 0, not a size");
    config("hidden_size", json!(1_u64 << 40), "\"hidden_size\" is 1099511627776, not a size");
    config("num_hidden_layers", json!(10_001), "\"num_hidden_layers\" is 10001, over 10000");
    config("mlp_bias", json!(1), "\"mlp_bias\" is 1, neither true nor false");
    config("torch_dtype", json!("float9"), "\"dtype\" is \"float9\"");
    check(
        |draft| {
            *draft = Draft::of("qwen3-tiny");
            draft.config["attention_bias"] = json!(true);
        },
        "config.json: \"attention_bias\" is true, which no published Qwen3 has",
    );
    check(
        |draft| {
            *draft = Draft::of("opt-tiny");
            draft.config["num_attention_heads"] = json!(7);
        },
        "config.json: the hidden size 64 is not a multiple of 7 heads",
    );
}

#[test]
fn files_that_are_not_configurations() {
    let dir = tempfile::tempdir().expect("directory");
    let check = |text: &str, expect: &str| {
        write(dir.path(), "config.json", text.as_bytes());
        let error = read_config(dir.path()).expect_err("refused");
        assert_eq!(message(dir.path(), &error), format!("config.json: {expect}"));
    };
    check("[]", "not a JSON object");
    check("{", "not the expected JSON: EOF while parsing an object at line 1 column 1");
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20));
    check(&long, "its description is 16777217 bytes long, over the limit of 16777216");
    std::fs::remove_file(dir.path().join("config.json")).expect("remove");
    assert!(matches!(read_config(dir.path()), Err(Error::Io { .. })));
}

#[test]
fn checkpoints_that_are_not_the_model() {
    check(
        |draft| draft.tensors.retain(|t| t.name != "model.layers.1.mlp.down_proj.weight"),
        "the checkpoint lacks \"model.layers.1.mlp.down_proj.weight\"",
    );
    check(
        |draft| draft.config["attention_bias"] = json!(true),
        "the checkpoint lacks \"model.layers.0.self_attn.q_proj.bias\", \
         \"model.layers.0.self_attn.k_proj.bias\", \"model.layers.0.self_attn.v_proj.bias\", \
         \"model.layers.0.self_attn.o_proj.bias\" and 4 more",
    );
    check(
        |draft| draft.config["num_hidden_layers"] = json!(1),
        "the checkpoint has tensors that the model does not: \
\"model.layers.1.self_attn.q_proj.weight\", \"model.layers.1.self_attn.k_proj.weight\", \
         \"model.layers.1.self_attn.v_proj.weight\", \"model.layers.1.self_attn.o_proj.weight\" \
         and 5 more",
    );
    check(
        |draft| {
            draft.tensors.push(decl("model.layers.0.mlp.down_proj.lora", Element::Bfloat16, &[1]))
        },
        "the checkpoint has tensors that the model does not: \"model.layers.0.mlp.down_proj.lora\"",
    );
    check(
        |draft| draft.tensor("model.norm.weight").shape = vec![65],
        "tensor \"model.norm.weight\" has the shape [65], config.json makes it [64]",
    );
    check(
        |draft| draft.tensor("model.layers.0.mlp.up_proj.weight").shape = vec![64, 128],
        "tensor \"model.layers.0.mlp.up_proj.weight\" has the shape [64, 128], config.json makes \
         it [128, 64]",
    );
    check(
        |draft| draft.tensor("model.norm.weight").dtype = Element::Float32.into(),
        "tensor \"model.norm.weight\" is float32, the model is bfloat16",
    );
}

#[test]
fn element_types() {
    let with_dtype = |stated: serde_json::Value, element: Element| {
        let mut draft = Draft::of("llama-tiny");
        draft.config["torch_dtype"] = stated;
        for tensor in &mut draft.tensors {
            tensor.dtype = element.into();
        }
        draft
    };
    let wrong = with_dtype(json!("float16"), Element::Bfloat16).refusal(&options());
    assert!(matches!(wrong, Refusal::WrongDtype { .. }));
    let wide = with_dtype(json!("float64"), Element::Float64).refusal(&options());
    assert_eq!(wide, Refusal::UnsupportedDtype(Element::Float64.into()));
    // `dtype` is the newer name and counts first; without either, the tensors decide.
    let mut newer = with_dtype(json!("float16"), Element::Float32);
    newer.config["dtype"] = json!("torch.float32");
    assert!(newer.names(&options()).len() > 10);
    let unstated = with_dtype(json!(null), Element::Float32);
    let (_dir, checkpoint) = unstated.write();
    let layout = VllmLayout::prove(&checkpoint, &unstated.config, &options()).expect("proof");
    assert_eq!(layout.dtype(), Dtype::from(Element::Float32));
}

#[test]
fn degrees_that_do_not_divide_the_model() {
    let refusal = |preset: &str, degree| {
        let options = options().with_tensor_parallel(degree);
        Draft::of(preset).refusal(&options).to_string()
    };
    let expect =
        |degree: u32, why: &str| format!("the model cannot be divided among {degree} ranks: {why}");
    assert_eq!(refusal("llama-tiny", 0), expect(0, "there must be at least one"));
    assert_eq!(refusal("llama-tiny", 3), expect(3, "it has 4 attention heads"));
    assert_eq!(refusal("llama-tiny", 8), expect(8, "it has 4 attention heads"));
    let check = |field: &str, value: u64, degree: u32, why: &str| {
        let mut draft = Draft::of("llama-tiny");
        draft.config["num_attention_heads"] = json!(12);
        draft.config[field] = json!(value);
        let refusal = draft.refusal(&options().with_tensor_parallel(degree));
        assert_eq!(refusal.to_string(), expect(degree, why));
    };
    check("intermediate_size", 128, 3, "it has 128 rows of the feed-forward");
    check("intermediate_size", 129, 3, "it has 1024 padded rows of the vocabulary");
    check("num_key_value_heads", 3, 4, "it has 3 key-value heads");
}

/// Names of the converted head, if any, for a tied model and this version.
fn tied(preset: &str, version: [u32; 2], own_head: bool) -> Result<bool, Refusal> {
    let mut draft = Draft::of(preset);
    if own_head {
        draft.tensors.push(decl("lm_head.weight", Element::Bfloat16, &[1000, 64]));
    }
    let version = VllmVersion::new(version[0], version[1], 0);
    let options = options().with_version(version);
    let (_dir, checkpoint) = draft.write();
    let layout = VllmLayout::prove(&checkpoint, &draft.config, &options)?;
    let model = layout.rank(0).expect("rank");
    let last = model.specs().last().expect("tensor");
    let has_head = last.path.plain() == Some("lm_head.weight");
    if has_head {
        // The head is a copy of the embedding, or the checkpoint's own.
        let is_own = own_head && version >= VllmVersion::new(0, 30, 0);
        let name = if is_own { "lm_head.weight" } else { embedding(preset) };
        let source = &checkpoint.tensors()[checkpoint.find(name).expect("source")];
        let start = source.offset - checkpoint.tensors()[0].offset;
        let found = bytes_of(&model, model.specs().len() - 1);
        let len = usize::try_from(source.byte_len).expect("fits");
        assert!(found[..len] == painted_from(start, len), "{preset}");
        assert!(found[len..].iter().all(|&byte| byte == 0), "{preset}");
    }
    Ok(has_head)
}

fn embedding(preset: &str) -> &'static str {
    match preset {
        "opt-tiny" => "model.decoder.embed_tokens.weight",
        "gpt2-tiny" => "transformer.wte.weight",
        _ => "model.embed_tokens.weight",
    }
}

#[test]
fn tied_heads_depend_on_the_version() {
    for preset in ["qwen2-tiny", "qwen3-tiny", "opt-tiny", "gemma-tiny"] {
        for own in [false, true] {
            assert_eq!(tied(preset, [0, 9], own), Ok(false), "{preset}");
            assert_eq!(tied(preset, [0, 26], own), Ok(false), "{preset}");
            let between = tied(preset, [0, 28], own);
            assert!(matches!(between, Err(Refusal::UncheckedVersion { .. })), "{preset}");
            assert_eq!(tied(preset, [0, 30], own), Ok(true), "{preset}");
            assert_eq!(tied(preset, [1, 0], own), Ok(true), "{preset}");
        }
    }
    for preset in ["llama-tiny-tied", "gpt2-tiny"] {
        for version in [[0, 9], [0, 26], [0, 28], [0, 33]] {
            assert_eq!(tied(preset, version, false), Ok(true), "{preset}");
        }
        assert_eq!(tied(preset, [0, 26], true), Ok(true), "{preset}");
        assert!(tied(preset, [0, 29], true).is_err(), "{preset}");
        assert_eq!(tied(preset, [0, 33], true), Ok(true), "{preset}");
    }
}

#[test]
fn tables_that_vllm_computes_itself_are_left_out() {
    let mut draft = Draft::of("gpt2-tiny");
    draft.tensors.push(decl("transformer.h.0.attn.bias", Element::Float32, &[1, 1, 8, 8]));
    draft.tensors.push(decl("transformer.h.0.attn.masked_bias", Element::Float32, &[]));
    let (_dir, checkpoint) = draft.write();
    let layout = VllmLayout::prove(&checkpoint, &draft.config, &options()).expect("proof");
    let ignored: Vec<&str> = layout.ignored().collect();
    assert_eq!(ignored, ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]);

    let mut draft = Draft::of("llama-tiny");
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    draft.tensors.push(decl(name, Element::Float32, &[8]));
    assert!(!draft.names(&options()).iter().any(|own| own == name));
}

#[test]
fn a_shortened_name_here_and_there_is_not_a_prefix_left_out() {
    let mut draft = Draft::of("opt-tiny");
    draft.tensor("model.decoder.embed_positions.weight").name =
        "decoder.embed_positions.weight".to_owned();
    let refusal = draft.refusal(&options());
    let expect = vec!["model.decoder.embed_positions.weight".to_owned()];
    assert_eq!(refusal, Refusal::Missing(expect));
}

#[test]
fn tensors_are_read_in_any_piece() {
    for preset in ["llama-tiny", "gpt2-tiny"] {
        let draft = Draft::of(preset);
        let (_dir, checkpoint) = draft.write();
        let options = options().with_tensor_parallel(4);
        let layout = VllmLayout::prove(&checkpoint, &draft.config, &options).expect("proof");
        // The last rank has the vocabulary's padding.
        let model = layout.rank(3).expect("rank");
        let source: &dyn TensorSource = &model;
        assert_eq!(source.specs()[0].path.plain(), Some(MARKER));
        let mut total = 0;
        for i in 1..model.specs().len() {
            let whole = bytes_of(&model, i);
            total += whole.len() as u64;
            for (piece, expect) in whole.chunks(997).enumerate() {
                let mut found = vec![0xee; expect.len()];
                let offset = piece as u64 * 997;
                source.read_at(i, offset, &mut found).expect("read");
                assert!(found == expect, "{preset} {i} {piece}");
            }
            let beyond = model.read_at(i, whole.len() as u64 - 1, &mut [0; 2]);
            assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
            model.read_at(i, whole.len() as u64, &mut []).expect("nothing");
        }
        assert_eq!(model.total_bytes(), total);
        let none = model.read_at(model.specs().len(), 0, &mut []);
        assert!(matches!(none, Err(Error::OutOfRange { .. })));
        assert!(model.read_at(0, 0, &mut [0]).is_err(), "the marker has no data");
    }
}
