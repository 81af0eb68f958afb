//! PEFT directories that the tests share.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tz_lora::ArtifactDir;

pub(crate) const CONFIG: &str = r#"{
  "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
  "bias": "none",
  "lora_alpha": 8,
  "peft_type": "LORA",
  "r": 4,
  "target_modules": ["q_proj", "down_proj"],
  "use_dora": false,
  "modules_to_save": null,
  "rank_pattern": {}
}"#;

pub(crate) const BASE: &str = r#"{
  "model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
  "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 64
}"#;

/// Name, dtype as safetensors spells it, shape.
pub(crate) type Tensor = (String, &'static str, Vec<u64>);

/// Two modules of rank 4 that fit [`CONFIG`] and [`BASE`], sorted by name as the safetensors library has them.
pub(crate) fn tensors() -> Vec<Tensor> {
    let tensor = |name: &str, shape: [u64; 2]| {
        (format!("base_model.model.model.layers.1.{name}.weight"), "BF16", shape.to_vec())
    };
    vec![
        tensor("mlp.down_proj.lora_A", [4, 24]),
        tensor("mlp.down_proj.lora_B", [16, 4]),
        tensor("self_attn.q_proj.lora_A", [4, 16]),
        tensor("self_attn.q_proj.lora_B", [16, 4]),
    ]
}

/// A safetensors file as its library writes it, with painted data.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<u64>() * width(dtype);
        let shape = serde_json::json!(shape);
        write!(
            header,
            r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#
        )
        .expect("text");
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    with_header(&header, end)
}

fn width(dtype: &str) -> u64 {
    match dtype {
        "U8" | "F8_E4M3" => 1,
        "F32" => 4,
        _ => 2,
    }
}

/// A file of this header and `len` bytes of data; byte *i* is *i* mod 251.
pub(crate) fn with_header(header: &str, len: u64) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..len).map(|i| u8::try_from(i % 251).expect("fits")));
    file
}

/// A directory with a `peft` folder of these two files.
pub(crate) struct Peft {
    pub(crate) root: TempDir,
    pub(crate) dir: PathBuf,
}

impl Peft {
    pub(crate) fn new(config: &str, weights: &[u8]) -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        let dir = root.path().join("peft");
        std::fs::create_dir(&dir).expect("directory");
        std::fs::write(dir.join("adapter_config.json"), config).expect("write");
        std::fs::write(dir.join("adapter_model.safetensors"), weights).expect("write");
        Self { root, dir }
    }

    pub(crate) fn usual() -> Self {
        Self::new(CONFIG, &safetensors(&tensors()))
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// A local directory, as the library takes it.
pub(crate) fn at(dir: &Path) -> ArtifactDir {
    ArtifactDir::parse(dir.to_str().expect("UTF-8")).expect("directory")
}

pub(crate) fn read(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).expect("read")
}

/// Names of everything in a directory, sorted; the temporary folders too, if one was left.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}
