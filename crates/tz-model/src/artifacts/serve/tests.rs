//! Lines for every way of publishing and every release that differs.

use super::*;

const LOCAL: &str = "/srv/vllm/org/m/v1";
const S3: &str = "s3://b/vllm/org/m/v1";

fn served<'a>(dir: &'a str, version: &str) -> Served<'a> {
    Served {
        dir,
        model: "org/m",
        version: version.parse().unwrap(),
        tensor_parallel: 1,
        keyfile: None,
        s3_endpoint: None,
        adapter: None,
    }
}

/// Expects the command and the arguments of `LLM`, line by line.
#[track_caller]
fn check(served: &Served<'_>, serve: &[&str], python: &[&str]) -> Vec<String> {
    let lines = ServeLines::new(served);
    assert_eq!(lines.serve, serve.join(" \\\n    "));
    let llm = format!("llm = LLM(\n    {},\n)", python.join(",\n    "));
    assert_eq!(lines.python.split("\nadapter = ").next(), Some(llm.as_str()));
    lines.notes
}

#[test]
fn a_directory_of_this_machine_is_the_model() {
    for version in ["0.10.1", "0.14.1", "0.31.0", "0.33.0"] {
        let serve = [&format!("vllm serve {LOCAL}"), "--load-format tensorizer"];
        let python = [&format!("\"{LOCAL}\""), "load_format=\"tensorizer\""];
        assert!(check(&served(LOCAL, version), &serve, &python).is_empty());
    }
}

#[test]
fn the_oldest_release_is_told_the_file() {
    let serve = [
        "vllm serve /srv/vllm/org/m/v1",
        "--load-format tensorizer",
        r#"--model-loader-extra-config '{"tensorizer_uri":"/srv/vllm/org/m/v1/model.tensors"}'"#,
    ];
    let python = [
        "\"/srv/vllm/org/m/v1\"",
        "load_format=\"tensorizer\"",
        r#"model_loader_extra_config={"tensorizer_uri": "/srv/vllm/org/m/v1/model.tensors"}"#,
    ];
    check(&served(LOCAL, "0.9.2"), &serve, &python);
}

#[test]
fn ranks_need_the_template() {
    for version in ["0.9.2", "0.10.1", "0.33.0"] {
        let served = Served { tensor_parallel: 2, ..served(LOCAL, version) };
        let serve = [
            "vllm serve /srv/vllm/org/m/v1",
            "--load-format tensorizer",
            "--tensor-parallel-size 2",
            r#"--model-loader-extra-config '{"tensorizer_uri":"/srv/vllm/org/m/v1/model-rank-%03d.tensors"}'"#,
        ];
        let python = [
            "\"/srv/vllm/org/m/v1\"",
            "load_format=\"tensorizer\"",
            "tensor_parallel_size=2",
            r#"model_loader_extra_config={"tensorizer_uri": "/srv/vllm/org/m/v1/model-rank-%03d.tensors"}"#,
        ];
        check(&served, &serve, &python);
    }
}

#[test]
fn newer_releases_reject_s3_as_the_model() {
    let python = ["\"s3://b/vllm/org/m/v1\"", "load_format=\"tensorizer\""];
    let serve = ["vllm serve s3://b/vllm/org/m/v1", "--load-format tensorizer"];
    let notes = check(&served(S3, "0.10.1"), &serve, &python);
    assert!(notes.iter().any(|note| note.contains("accel-object.ord1.coreweave.com")), "{notes:?}");
    for version in ["0.9.2", "0.11.0", "0.14.1", "0.33.0"] {
        let serve = [
            "vllm serve org/m",
            "--load-format tensorizer",
            r#"--model-loader-extra-config '{"tensorizer_uri":"s3://b/vllm/org/m/v1/model.tensors"}'"#,
        ];
        let python = [
            "\"org/m\"",
            "load_format=\"tensorizer\"",
            r#"model_loader_extra_config={"tensorizer_uri": "s3://b/vllm/org/m/v1/model.tensors"}"#,
        ];
        let notes = check(&served(S3, version), &serve, &python);
        assert!(notes.iter().any(|note| note.contains("AWS_ACCESS_KEY_ID")), "{notes:?}");
    }
}

#[test]
fn keys_and_endpoints_are_part_of_the_configuration() {
    let all = Served {
        keyfile: Some("/keys/it's.key"),
        s3_endpoint: Some("https://s3.example"),
        ..served(S3, "0.33.0")
    };
    let serve = [
        "vllm serve org/m",
        "--load-format tensorizer",
        r#"--model-loader-extra-config '{"encryption_keyfile":"/keys/it'\''s.key","s3_endpoint":"https://s3.example","tensorizer_uri":"s3://b/vllm/org/m/v1/model.tensors"}'"#,
    ];
    let extra = r#"{"encryption_keyfile": "/keys/it's.key", "s3_endpoint": "https://s3.example", "tensorizer_uri": "s3://b/vllm/org/m/v1/model.tensors"}"#;
    let extra = format!("model_loader_extra_config={extra}");
    check(&all, &serve, &["\"org/m\"", "load_format=\"tensorizer\"", &extra]);

    let plain = Served { s3_endpoint: Some("http://127.0.0.1:9000"), ..served(S3, "0.33.0") };
    let lines = ServeLines::new(&plain);
    let config = r#""s3_endpoint":"http://127.0.0.1:9000","stream_kwargs":{"force_http":true}"#;
    assert!(lines.serve.contains(config), "{}", lines.serve);
    assert!(lines.python.contains("\"stream_kwargs\": {\"force_http\": True}"), "{}", lines.python);
    let lines = ServeLines::new(&Served { version: "0.9.2".parse().unwrap(), ..plain });
    assert!(!lines.serve.contains("stream_kwargs"), "{}", lines.serve);
    assert!(lines.notes.iter().any(|note| note.contains("AWS_ENDPOINT_URL_S3=http://127")));

    let local = Served { keyfile: Some("/k"), s3_endpoint: Some("e"), ..served(LOCAL, "0.33.0") };
    let serve = [
        "vllm serve /srv/vllm/org/m/v1",
        "--load-format tensorizer",
        r#"--model-loader-extra-config '{"encryption_keyfile":"/k"}'"#,
    ];
    let extra = "model_loader_extra_config={\"encryption_keyfile\": \"/k\"}";
    check(&local, &serve, &["\"/srv/vllm/org/m/v1\"", "load_format=\"tensorizer\"", extra]);
}

#[test]
fn adapters_by_release() {
    let adapter = Adapter { name: "mine", rank: 17, plain: Some("lora") };
    let with = |dir, version| Served { adapter: Some(adapter), ..served(dir, version) };

    let lines = ServeLines::new(&with(LOCAL, "0.31.0"));
    assert!(lines.serve.ends_with("--enable-lora \\\n    --max-lora-rank 32"), "{}", lines.serve);
    assert!(lines.python.contains("enable_lora=True,\n    max_lora_rank=32"), "{}", lines.python);
    let request = r#"adapter = LoRARequest("mine", 1, "/srv/vllm/org/m/v1", tensorizer_config_dict={"tensorizer_uri": "/srv/vllm/org/m/v1/model.tensors"})"#;
    assert!(lines.python.ends_with(request), "{}", lines.python);
    assert!(lines.notes.iter().any(|note| note.contains("LoRARequest alone")));

    let lines = ServeLines::new(&with(LOCAL, "0.32.0"));
    let modules = "--lora-modules mine=/srv/vllm/org/m/v1/lora";
    assert!(lines.serve.ends_with(modules), "{}", lines.serve);
    assert!(lines.python.contains("enable_lora=True"), "{}", lines.python);
    assert!(!lines.python.contains("LoRARequest"), "{}", lines.python);

    let lines = ServeLines::new(&with(S3, "0.33.0"));
    assert!(!lines.serve.contains("--lora-modules"), "{}", lines.serve);
    assert!(lines.notes.iter().any(|note| note.contains("its own disk: copy s3://b/")));

    // Encrypted with the model's key, the adapter has no plain form.
    let adapter = Adapter { plain: None, ..adapter };
    let sealed =
        |version| Served { keyfile: Some("/k"), adapter: Some(adapter), ..served(LOCAL, version) };
    let lines = ServeLines::new(&sealed("0.31.0"));
    assert!(lines.python.contains("_dict={\"encryption_keyfile\": \"/k\""), "{}", lines.python);
    let lines = ServeLines::new(&sealed("0.33.0"));
    assert!(!lines.serve.contains("lora"), "{}", lines.serve);
    assert!(!lines.python.contains("lora"), "{}", lines.python);
    assert!(lines.notes.iter().any(|note| note.contains("in clear alone")));
}

#[test]
fn other_stores_and_odd_names() {
    let notes = ServeLines::new(&served("gs://b/m", "0.33.0")).notes;
    assert!(notes.iter().any(|note| note.contains("s3://, http:// and https:// alone")));
    let lines = ServeLines::new(&served("/srv/my models/\"x\"", "0.33.0"));
    assert!(lines.serve.starts_with("vllm serve '/srv/my models/\"x\"' \\\n"), "{}", lines.serve);
    assert!(lines.python.contains("\"/srv/my models/\\\"x\\\"\""), "{}", lines.python);
    for (rank, bound) in [(1, None), (16, None), (33, Some(64)), (512, Some(512)), (513, None)] {
        assert_eq!(max_rank(rank), bound, "{rank}");
    }
}
