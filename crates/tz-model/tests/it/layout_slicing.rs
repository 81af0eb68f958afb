//! A slow slicer that shares nothing with the converter: it follows the prose of the specification, family by family,
//! on whole matrices in memory, and every rank's every byte must agree.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::Value;
use tz_model::{
    Checkpoint, Preset, SynthOptions, VllmLayout, VllmOptions, read_config, synthesize,
};

use crate::layout_support::bytes_of;

type Element = [u8; 2];

/// A matrix, or a vector as a matrix of one column.
#[derive(Debug, Clone, PartialEq)]
struct Matrix {
    rows: Vec<Vec<Element>>,
    is_vector: bool,
}

impl Matrix {
    fn rows(&self, from: usize, len: usize) -> Self {
        let rows = self.rows[from..from + len].to_vec();
        Self { rows, ..*self }
    }

    fn columns(&self, from: usize, len: usize) -> Self {
        let rows = self.rows.iter().map(|row| row[from..from + len].to_vec());
        let rows = rows.collect();
        Self { rows, ..*self }
    }

    fn transposed(&self) -> Self {
        let column = |c: usize| self.rows.iter().map(|row| row[c]).collect();
        let rows = (0..self.rows[0].len()).map(column).collect();
        Self { rows, ..*self }
    }

    fn below(mut self, other: Self) -> Self {
        self.rows.extend(other.rows);
        self
    }

    fn shape(&self) -> Vec<u64> {
        let mut shape = vec![self.rows.len() as u64];
        if !self.is_vector {
            shape.push(self.rows[0].len() as u64);
        }
        shape
    }

    fn bytes(&self) -> Vec<u8> {
        self.rows.iter().flatten().flatten().copied().collect()
    }
}

/// A checkpoint in memory, and which rank of how many is cut from it.
struct Slicer {
    tensors: BTreeMap<String, Matrix>,
    config: Value,
    ranks: usize,
    rank: usize,
    made: BTreeMap<String, Matrix>,
}

impl Slicer {
    fn number(&self, names: &[&str]) -> usize {
        let found = names.iter().find_map(|name| self.config[*name].as_u64());
        usize::try_from(found.expect("number")).expect("fits")
    }

    fn heads(&self) -> usize {
        self.number(&["num_attention_heads", "n_head"])
    }

    fn kv_heads(&self) -> usize {
        self.number(&["num_key_value_heads", "num_attention_heads", "n_head"])
    }

    /// The checkpoint's tensor, whether or not the checkpoint shortens its name.
    fn get(&self, name: &str) -> Option<Matrix> {
        let short = |prefix| name.strip_prefix(prefix).and_then(|short| self.tensors.get(short));
        let found = self.tensors.get(name).or_else(|| short("model."));
        found.or_else(|| short("transformer.")).cloned()
    }

    fn put(&mut self, name: &str, matrix: Option<Matrix>) {
        if let Some(matrix) = matrix {
            self.made.insert(name.to_owned(), matrix);
        }
    }

    fn same(&mut self, name: &str) {
        for kind in ["weight", "bias"] {
            let name = format!("{name}.{kind}");
            self.put(&name, self.get(&name));
        }
    }

    /// An equal share of the rows.
    fn share(&self, whole: &Matrix) -> Matrix {
        let len = whole.rows.len() / self.ranks;
        whole.rows(self.rank * len, len)
    }

    fn vocabulary(&mut self, target: &str, source: &str) {
        let mut padded = self.get(source).expect("vocabulary");
        let width = padded.rows[0].len();
        while !padded.rows.len().is_multiple_of(64) {
            padded.rows.push(vec![[0, 0]; width]);
        }
        let share = self.share(&padded);
        self.put(target, Some(share));
    }

    /// Rows of key or value heads of this rank.
    fn kv_share(&self, whole: &Matrix) -> Matrix {
        let heads = self.kv_heads();
        let dim = whole.rows.len() / heads;
        if heads >= self.ranks {
            self.share(whole)
        } else {
            let head = self.rank / (self.ranks / heads);
            whole.rows(head * dim, dim)
        }
    }

    fn qkv(&self, q: &Matrix, k: &Matrix, v: &Matrix) -> Matrix {
        self.share(q).below(self.kv_share(k)).below(self.kv_share(v))
    }

    /// Query, key and value stand one below the other in one matrix.
    fn fused_qkv(&self, whole: &Matrix) -> Matrix {
        let (heads, kv) = (self.heads(), self.kv_heads());
        let dim = whole.rows.len() / (heads + 2 * kv);
        let (q, k) = (heads * dim, kv * dim);
        self.qkv(&whole.rows(0, q), &whole.rows(q, k), &whole.rows(q + k, k))
    }

    fn separate_qkv(&mut self, target: &str, sources: &str) {
        for kind in ["weight", "bias"] {
            let part = |name: &str| self.get(&format!("{sources}.{name}_proj.{kind}"));
            let (q, k, v) = (part("q"), part("k"), part("v"));
            let made = q.map(|q| self.qkv(&q, &k.expect("k"), &v.expect("v")));
            self.put(&format!("{target}.{kind}"), made);
        }
    }

    /// Weight and bias by rows.
    fn by_rows(&mut self, name: &str) {
        for kind in ["weight", "bias"] {
            let name = format!("{name}.{kind}");
            let made = self.get(&name).map(|whole| self.share(&whole));
            self.put(&name, made);
        }
    }

    /// Weight by columns, bias whole.
    fn by_columns(&mut self, name: &str) {
        let weight = self.get(&format!("{name}.weight")).expect("weight");
        let len = weight.rows[0].len() / self.ranks;
        let made = weight.columns(self.rank * len, len);
        self.put(&format!("{name}.weight"), Some(made));
        let bias = format!("{name}.bias");
        self.put(&bias, self.get(&bias));
    }

    fn llama(&mut self) {
        self.vocabulary("model.embed_tokens.weight", "model.embed_tokens.weight");
        for layer in 0..self.number(&["num_hidden_layers"]) {
            let layer = format!("model.layers.{layer}");
            let fused = format!("{layer}.self_attn.qkv_proj.weight");
            match self.get(&fused) {
                Some(whole) => {
                    let made = self.fused_qkv(&whole);
                    self.put(&fused, Some(made));
                    let name = format!("{layer}.mlp.gate_up_proj.weight");
                    let whole = self.get(&name).expect("gate and up");
                    let half = whole.rows.len() / 2;
                    let (gate, up) = (whole.rows(0, half), whole.rows(half, half));
                    let made = self.share(&gate).below(self.share(&up));
                    self.put(&name, Some(made));
                }
                None => {
                    let attention = format!("{layer}.self_attn");
                    self.separate_qkv(&format!("{attention}.qkv_proj"), &attention);
                    for kind in ["weight", "bias"] {
                        let half = |name| self.get(&format!("{layer}.mlp.{name}_proj.{kind}"));
                        let (gate, up) = (half("gate"), half("up"));
                        let made =
                            gate.map(|gate| self.share(&gate).below(self.share(&up.expect("up"))));
                        self.put(&format!("{layer}.mlp.gate_up_proj.{kind}"), made);
                    }
                }
            }
            self.by_columns(&format!("{layer}.self_attn.o_proj"));
            self.by_columns(&format!("{layer}.mlp.down_proj"));
            for norm in [
                "self_attn.q_norm",
                "self_attn.k_norm",
                "input_layernorm",
                "post_attention_layernorm",
            ] {
                self.same(&format!("{layer}.{norm}"));
            }
        }
        self.same("model.norm");
        self.head("model.embed_tokens.weight");
    }

    fn opt(&mut self) {
        let embedding = "model.decoder.embed_tokens.weight";
        self.vocabulary(embedding, embedding);
        for name in ["embed_positions", "final_layer_norm", "project_in", "project_out"] {
            self.same(&format!("model.decoder.{name}"));
        }
        for layer in 0..self.number(&["num_hidden_layers"]) {
            let layer = format!("model.decoder.layers.{layer}");
            let attention = format!("{layer}.self_attn");
            self.separate_qkv(&format!("{attention}.qkv_proj"), &attention);
            self.by_columns(&format!("{attention}.out_proj"));
            self.by_rows(&format!("{layer}.fc1"));
            self.by_columns(&format!("{layer}.fc2"));
            self.same(&format!("{layer}.self_attn_layer_norm"));
            self.same(&format!("{layer}.final_layer_norm"));
        }
        self.head(embedding);
    }

    fn gpt2(&mut self) {
        for (name, matrix) in &mut self.tensors {
            let is_conv = ["c_attn", "c_proj", "c_fc"].iter().any(|conv| name.contains(conv));
            if is_conv && name.ends_with("weight") {
                *matrix = matrix.transposed();
            }
        }
        self.vocabulary("transformer.wte.weight", "transformer.wte.weight");
        self.same("transformer.wpe");
        for layer in 0..self.number(&["n_layer"]) {
            let layer = format!("transformer.h.{layer}");
            self.same(&format!("{layer}.ln_1"));
            self.same(&format!("{layer}.ln_2"));
            for kind in ["weight", "bias"] {
                let name = format!("{layer}.attn.c_attn.{kind}");
                let made = self.fused_qkv(&self.get(&name).expect("attention"));
                self.put(&name, Some(made));
            }
            self.by_columns(&format!("{layer}.attn.c_proj"));
            self.by_rows(&format!("{layer}.mlp.c_fc"));
            self.by_columns(&format!("{layer}.mlp.c_proj"));
        }
        self.same("transformer.ln_f");
        self.head("transformer.wte.weight");
    }

    fn head(&mut self, embedding: &str) {
        let own = self.tensors.contains_key("lm_head.weight");
        let source = if own { "lm_head.weight" } else { embedding };
        self.vocabulary("lm_head.weight", source);
    }
}

fn in_memory(bytes: &[u8]) -> BTreeMap<String, Matrix> {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    let matrix = |view: safetensors::tensor::TensorView<'_>| {
        let width = view.shape().get(1).copied().unwrap_or(1);
        let elements = view.data().as_chunks::<2>().0;
        Matrix {
            rows: elements.chunks(width).map(<[Element]>::to_vec).collect(),
            is_vector: view.shape().len() == 1,
        }
    };
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, view)| (name, matrix(view))).collect()
}

#[track_caller]
fn check(preset: &str) {
    let dir = tempfile::tempdir().expect("directory");
    let options = SynthOptions::default().with_seed(3);
    let preset = Preset::named(preset).expect("preset");
    synthesize(dir.path(), &preset, &options).expect("synthesize");
    let bytes = std::fs::read(dir.path().join("model.safetensors")).expect("file");
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    let config = read_config(dir.path()).expect("config");
    for ranks in [1_usize, 2, 4] {
        let degree = u32::try_from(ranks).expect("small");
        let options = VllmOptions::default().with_tensor_parallel(degree);
        let layout = VllmLayout::prove(&checkpoint, &config, &options).expect("proof");
        assert!(layout.rank(degree).is_none());
        for rank in 0..degree {
            let mut slicer = Slicer {
                tensors: in_memory(&bytes),
                config: config.clone(),
                ranks,
                rank: usize::try_from(rank).expect("small"),
                made: BTreeMap::new(),
            };
            match layout.family() {
                "opt" => slicer.opt(),
                "gpt2" => slicer.gpt2(),
                _ => slicer.llama(),
            }
            let model = layout.rank(rank).expect("rank");
            let names = model.specs()[1..].iter().map(|spec| spec.path.to_string());
            let mut names: Vec<String> = names.collect();
            names.sort();
            assert_eq!(names, slicer.made.keys().cloned().collect::<Vec<_>>(), "{ranks}");
            for (i, spec) in model.specs().iter().enumerate().skip(1) {
                let name = spec.path.to_string();
                let expect = &slicer.made[&name];
                assert_eq!(spec.shape, expect.shape(), "{name} {rank} of {ranks}");
                let found = bytes_of(&model, i);
                assert!(found == expect.bytes(), "{name} {rank} of {ranks}");
            }
        }
    }
}

#[test]
fn llama() {
    check("llama-tiny");
    check("llama-tiny-tied");
}

#[test]
fn llama_with_biases_and_one_key_value_head() {
    check("llama-tiny-bias");
}

#[test]
fn mistral_and_gemma() {
    check("mistral-tiny");
    check("gemma-tiny");
}

#[test]
fn qwen2_and_qwen3() {
    check("qwen2-tiny");
    check("qwen3-tiny");
}

#[test]
fn phi3() {
    check("phi3-tiny");
}

#[test]
fn opt() {
    check("opt-tiny");
}

#[test]
fn opt_with_projections_norms_after_and_short_names() {
    check("opt-tiny-projected");
}

#[test]
fn gpt2() {
    check("gpt2-tiny");
}
