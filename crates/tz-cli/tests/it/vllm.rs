//! `vllm serialize` and `vllm deserialize` from end to end: families and ranks, the guide's walk, keys, manifests,
//! what is left after a failure.

mod keys;
mod manifests;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::made::{adapter, sparse_checkpoint};
use crate::run::{Ran, command, listing, ran, tz};
use crate::s3::S3;

/// A preset of every family, and the releases that its tensors are laid out for when they are for the newest.
const FAMILIES: &[(&str, &str)] = &[
    ("llama-tiny", ">=0.9.2"),
    ("llama-tiny-tied", ">=0.9.2"),
    ("mistral-tiny", ">=0.9.2"),
    ("qwen2-tiny", ">=0.30.0"),
    ("qwen3-tiny", ">=0.30.0"),
    ("opt-tiny", ">=0.30.0"),
    ("gpt2-tiny", ">=0.9.2"),
    ("gemma-tiny", ">=0.30.0"),
    ("phi3-tiny", ">=0.9.2"),
];

/// Serializes `demo` into `out/vllm/demo/v1`.
fn serialize(folder: &Path, more: &[&str]) -> Ran {
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "out"];
    tz(folder, &[&job[..], &["--suffix", "v1", "--no-fsync"], more].concat())
}

fn synth(folder: &Path, preset: &str) {
    tz(folder, &["synth", "demo", "--preset", preset, "-q"]).exits(0);
}

/// A field of every tensor of a file.
fn column(folder: &Path, file: &str, field: &str) -> Vec<Value> {
    let table = tz(folder, &["inspect", file, "--json"]).exits(0).json();
    let tensors = table["tensors"].as_array().expect("a table");
    tensors.iter().map(|tensor| tensor[field].clone()).collect()
}

#[test]
fn every_family_at_every_degree() {
    for (preset, versions) in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        synth(folder, preset);
        for degree in [1, 2, 4] {
            let ranks = degree.to_string();
            let parallel = ["--tensor-parallel-size", ranks.as_str()];
            let report = serialize(folder, &[&parallel[..], &["--overwrite", "--json"]].concat());
            let report = report.exits(0).json();
            assert_eq!(report["vllm"], *versions, "{preset}");
            let files: Vec<&str> = report["ranks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|rank| rank["location"].as_str().unwrap())
                .collect();
            let expected: Vec<String> = match degree {
                1 => vec!["out/vllm/demo/v1/model.tensors".to_owned()],
                _ => (0..degree)
                    .map(|rank| format!("out/vllm/demo/v1/model-rank-{rank:03}.tensors"))
                    .collect(),
            };
            assert_eq!(files, expected, "{preset}");
            for file in files {
                let meta = column(folder, file, "meta");
                assert_eq!(meta[0], true, "{preset}: the marker comes first");
                assert!(meta.iter().skip(1).all(|meta| *meta == false), "{preset}");
                assert!(column(folder, file, "kind").iter().all(|kind| kind == "param"));
                let names = column(folder, file, "name");
                assert_eq!(names[0], ".vllm_tensorized_marker");
                assert!(names.contains(&"lm_head.weight".into()), "{preset}: {names:?}");
            }
            tz(folder, &["verify", "out/vllm/demo/v1"]).exits(0);
            let load = ["vllm", "deserialize", "--serialized-directory", "out/vllm/demo/v1"];
            let loaded = tz(folder, &[&load[..], &parallel, &["--json"]].concat()).exits(0).json();
            assert_eq!(loaded["layout"], "vllm");
            // The marker is nothing in the file and one number in memory.
            let bytes = |report: &Value| report["bytes"].as_u64().unwrap();
            assert_eq!(bytes(&loaded), bytes(&report) + 8 * degree, "{preset}");
        }
    }
}

#[test]
fn an_older_release_has_no_head_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "qwen2-tiny");
    let report = serialize(folder, &["--vllm-version", "0.26.0", "--json"]).exits(0).json();
    assert_eq!(report["vllm"], ">=0.9.2,<0.27.0");
    let names = column(folder, "out/vllm/demo/v1/model.tensors", "name");
    assert!(!names.contains(&"lm_head.weight".into()), "{names:?}");
    let refused = serialize(folder, &["--vllm-version", "0.28.0", "--overwrite"]).exits(2);
    assert!(refused.stderr.contains("were not checked with vLLM 0.28.0"), "{}", refused.stderr);
}

/// The guide's walk as it is printed, for the shape of facebook/opt-125m, with a base directory and options.
fn walk(folder: &Path, base: &str, run: &dyn Fn(&[&str]) -> Ran) -> Value {
    let directory = format!("{base}/vllm/facebook/opt-125m/v1");
    let made = run(&[
        "vllm",
        "--model",
        "facebook/opt-125m",
        "--lora-path",
        "lora",
        "serialize",
        "--serialized-directory",
        base,
        "--serialization-kwargs",
        r#"{"limit_cpu_concurrency": 2}"#,
        "--suffix",
        "v1",
        "--json",
    ])
    .exits(0)
    .json();
    let success = run(&["verify", &format!("{directory}/")]).exits(0);
    assert!(success.stderr.contains("as in the manifest"), "{}", success.stderr);
    let kwargs = r#"{"num_readers": 2}"#;
    for place in [
        ["--serialized-directory", directory.as_str()],
        ["--path-to-tensors", &format!("{directory}/model.tensors")],
    ] {
        let load = ["vllm", "deserialize", "--deserialization-kwargs", kwargs, "--json"];
        let loaded = run(&[&load[..], &place].concat()).exits(0).json();
        assert_eq!((&loaded["readers"], &loaded["layout"]), (&2.into(), &"vllm".into()));
        assert_eq!(loaded["tensors"], 150);
        let bytes = |report: &Value| report["bytes"].as_u64().expect("a number");
        assert_eq!(bytes(&loaded), bytes(&made) + 8, "the marker is one number in memory");
    }
    for file in ["model.tensors", "adapter_model.tensors"] {
        let file = format!("{directory}/{file}");
        assert_eq!(run(&["verify", &file]).exits(0).code, 0);
    }
    assert_eq!(listing(folder).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
    made
}

/// The model of the walk, as its `.bin` alone, and an adapter that fits it.
fn walkers_model(folder: &Path) {
    let synth = ["synth", "facebook/opt-125m", "--preset", "opt-125m", "--format", "pytorch", "-q"];
    tz(folder, &synth).exits(0);
    adapter_for_opt(&folder.join("lora"));
}

/// PEFT's directory of an adapter of opt-125m.
fn adapter_for_opt(path: &Path) {
    let name = "base_model.model.model.decoder.layers.0.self_attn.q_proj";
    adapter(path, 8);
    let len = 8 * 768 * 2;
    let header = format!(
        "{{\"{name}.lora_A.weight\":{{\"dtype\":\"F16\",\"shape\":[8,768],\"data_offsets\":[0,{len}]}},\
         \"{name}.lora_B.weight\":{{\"dtype\":\"F16\",\"shape\":[768,8],\"data_offsets\":[{len},{}]}}}}",
        2 * len
    );
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header.as_bytes());
    weights.extend(vec![7; 2 * len]);
    fs::write(path.join("adapter_model.safetensors"), weights).expect("works");
}

#[test]
fn the_guides_walk_on_disk_and_on_s3() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    walkers_model(folder);
    let made = walk(folder, "models", &|arguments| tz(folder, arguments));
    let directory = folder.join("models/vllm/facebook/opt-125m/v1");
    assert_eq!(
        listing(&directory),
        [
            "adapter_config.json",
            "adapter_model.tensors",
            "config.json",
            "generation_config.json",
            "lora/",
            "lora/adapter_config.json",
            "lora/adapter_model.safetensors",
            "manifest.toml",
            "model.tensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    for (copy, original) in [
        ("config.json", "facebook/opt-125m/config.json"),
        ("tokenizer.json", "facebook/opt-125m/tokenizer.json"),
        ("adapter_config.json", "lora/adapter_config.json"),
        ("lora/adapter_model.safetensors", "lora/adapter_model.safetensors"),
    ] {
        let same =
            fs::read(directory.join(copy)).unwrap() == fs::read(folder.join(original)).unwrap();
        assert!(same, "{copy}");
    }
    let serve = made["serve"].as_str().unwrap();
    assert!(serve.starts_with(&format!("vllm serve {}", directory.display())), "{serve}");
    assert!(serve.contains("--enable-lora"), "{serve}");
    assert!(
        serve.contains(&format!("--lora-modules lora={}/lora", directory.display())),
        "{serve}"
    );

    let s3 = S3::start();
    let made = walk(folder, "s3://bucket", &|arguments| s3.tz(folder, arguments));
    let serve = made["serve"].as_str().unwrap();
    let model = folder.join("facebook/opt-125m");
    assert!(serve.starts_with(&format!("vllm serve {} \\\n", model.display())), "{serve}");
    let config = format!(
        "{{\"s3_endpoint\":\"{}\",\"stream_kwargs\":{{\"force_http\":true}},\
         \"tensorizer_uri\":\"s3://bucket/vllm/facebook/opt-125m/v1/model.tensors\"}}",
        s3.endpoint()
    );
    assert!(serve.contains(&config), "{serve}");
    assert!(!serve.contains("secret"), "{serve}");
    for name in ["model.tensors", "config.json", "lora/adapter_model.safetensors"] {
        let object = fs::read(s3.path(&format!("vllm/facebook/opt-125m/v1/{name}"))).unwrap();
        let same = object == fs::read(directory.join(name)).unwrap();
        assert!(same, "{name}");
    }
    let spoilt = s3.path("vllm/facebook/opt-125m/v1/config.json");
    fs::write(&spoilt, "{}").unwrap();
    let uri = "s3://bucket/vllm/facebook/opt-125m/v1/";
    let ran = s3.tz(folder, &["verify", uri]).exits(1);
    assert!(ran.stdout.contains("config.json: changed"), "{}", ran.stdout);
}

#[test]
fn a_failure_leaves_nothing_that_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    // A checkpoint cut short after its header was read cannot be read to its end.
    synth(folder, "llama-tiny");
    let weights = folder.join("demo/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &weights).unwrap();
    let before = listing(folder);
    serialize(folder, &[]).exits(3);
    assert_eq!(listing(folder), before);
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, &whole).unwrap();

    // The second rank cannot be written: its place is taken by a folder.
    fs::create_dir_all(folder.join("out/vllm/demo/v1/model-rank-001.tensors/in-the-way")).unwrap();
    let before = listing(folder);
    let degree = ["--tensor-parallel-size", "2"];
    serialize(folder, &degree).exits(3);
    assert_eq!(listing(folder), before, "a model is there, it seems");
    fs::remove_dir_all(folder.join("out")).unwrap();

    // Once whole, it is replaced only by request, and by the same rules.
    serialize(folder, &degree).exits(0);
    let refused = serialize(folder, &degree).exits(3);
    assert!(refused.stderr.contains("--overwrite"), "{}", refused.stderr);
    serialize(folder, &["--overwrite"]).exits(0);
    let names = listing(&folder.join("out/vllm/demo/v1"));
    let tensors: Vec<_> = names.iter().filter(|name| name.ends_with(".tensors")).collect();
    assert_eq!(tensors, ["model.tensors"], "the old ranks are gone");
    tz(folder, &["verify", "out/vllm/demo/v1"]).exits(0);
}

/// Starts a conversion that takes long enough, and stops it once the tensors are under way.
fn stopped(folder: &Path, signal: Signal) -> Ran {
    fs::create_dir_all(folder.join("demo")).expect("works");
    sparse_checkpoint(&folder.join("demo/model.safetensors"), 8, 256 << 20);
    fs::write(folder.join("demo/config.json"), "{}").expect("works");
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "out"];
    let mut command = command(folder);
    command.args([&job[..], &["--suffix", "v1", "--layout", "hf", "--keyfile", "k"]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let under_way = |name: &String| name.contains("model.tensors") && name.ends_with(".tmp");
    while !listing(folder).iter().any(under_way) {
        assert_eq!(child.try_wait().expect("works"), None, "over before it could be stopped");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), signal).expect("works");
    ran(child.wait_with_output().expect("works"))
}

#[test]
fn what_is_stopped_never_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path(), Signal::INT).exits(130);
    assert_eq!(listing(dir.path()), ["demo/", "demo/config.json", "demo/model.safetensors"]);

    // Nobody can clean up after this one: small files are there, tensors and manifest are not.
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path(), Signal::KILL);
    let names = listing(&dir.path().join("out/vllm/demo/v1"));
    assert!(names.contains(&"config.json".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name == "model.tensors" || name == "manifest.toml"));
    let load = ["vllm", "deserialize", "--serialized-directory", "out/vllm/demo/v1"];
    tz(dir.path(), &load).exits(3);
}

#[test]
fn an_overwrite_on_s3_is_never_half_old_half_new() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let s3 = S3::start();
    synth(folder, "llama-tiny");
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "s3://bucket"];
    let job = [&job[..], &["--suffix", "v1"]].concat();
    s3.tz(folder, &job).exits(0);
    assert!(s3.tz(folder, &job).exits(3).stderr.contains("--overwrite"));

    // The new model cannot be read to its end; what served the old one is gone by then.
    let weights = folder.join("demo/model.safetensors");
    fs::remove_file(&weights).unwrap();
    sparse_checkpoint(&weights, 1, 16);
    let overwrite = [&job[..], &["--overwrite"]].concat();
    let hf = [&overwrite[..], &["--layout", "hf"]].concat();
    s3.tz(folder, &hf).exits(0);
    let verified = s3.tz(folder, &["verify", "s3://bucket/vllm/demo/v1/"]).exits(0);
    assert!(verified.stderr.contains("were not looked for"), "{}", verified.stderr);
}

#[test]
fn other_ways_to_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    let config = folder.join("demo/config.json");
    let original: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for (field, value, code, says) in [
        (
            "architectures",
            serde_json::json!(["NovelForCausalLM"]),
            4,
            "\"NovelForCausalLM\" is not",
        ),
        ("quantization_config", serde_json::json!({"quant_method": "awq"}), 4, "quantised (awq)"),
        ("dtype", serde_json::json!("float16"), 4, "the model is"),
        ("num_hidden_layers", serde_json::json!(3), 4, "lacks"),
        ("num_hidden_layers", serde_json::json!(1), 4, "that the model does not"),
        ("vocab_size", serde_json::json!(999), 4, "the shape"),
    ] {
        let mut changed = original.clone();
        changed[field] = value;
        fs::write(&config, changed.to_string()).unwrap();
        let ran = serialize(folder, &[]);
        assert_eq!(ran.code, code, "{field}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{field}: {}", ran.stderr);
        assert!(ran.stderr.contains("--layout hf"), "{field}: {}", ran.stderr);
        assert!(!folder.join("out").exists(), "{field}");
    }
    fs::remove_file(&config).unwrap();
    serialize(folder, &[]).exits(3);
    let hf = serialize(folder, &["--layout", "hf"]).exits(0);
    assert!(hf.stderr.contains("no config.json"), "{}", hf.stderr);
}

#[test]
fn an_adapter_is_checked_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    adapter(&folder.join("lora"), 4);
    let config = folder.join("lora/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"none\"", "\"all\"")).unwrap();
    let ran = serialize(folder, &["--lora-path", "lora"]).exits(4);
    assert!(ran.stderr.contains("bias"), "{}", ran.stderr);
    assert!(!folder.join("out").exists());
    fs::write(&config, text).unwrap();
    let json = serialize(folder, &["--lora-path", "lora", "--vllm-version", "0.31.0", "--json"]);
    let json = json.exits(0).json();
    assert!(json["python"].as_str().unwrap().contains("LoRARequest(\"lora\", 1, "), "{json}");
}
