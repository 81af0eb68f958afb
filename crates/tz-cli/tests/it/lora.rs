//! Adapters: what takes bytes that no transcript can write.

use std::fs;
use std::path::Path;

use crate::made::adapter;
use crate::run::{listing, tz};

/// The configuration and base model of `made::adapter`.
const SYNTH: [&str; 5] = ["synth", "base", "--preset", "llama-tiny", "-q"];

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).expect("read")
}

#[test]
fn pack_and_unpack_give_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    tz(here, &SYNTH).exits(0);
    let packed = tz(here, &["lora", "pack", "peft", "packed", "--base-config", "base"]).exits(0);
    assert!(
        packed.stderr.contains(
            "tensorizer_config_dict={\"tensorizer_uri\": \"packed/adapter_model.tensors\"}"
        )
    );
    assert!(packed.stderr.contains("vLLM 0.32 and newer take plain safetensors only"));
    tz(here, &["lora", "unpack", "packed", "back"]).exits(0);
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert_eq!(read(&here.join("peft"), name), read(&here.join("back"), name), "{name}");
    }
    tz(here, &["diff", "peft/adapter_model.safetensors", "packed/adapter_model.tensors"]).exits(0);
    assert_eq!(tz(here, &["verify", "packed/adapter_model.tensors"]).exits(0).code, 0);
}

#[test]
fn both_forms_stand_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    let packed = tz(here, &["lora", "pack", "peft", "both/deep", "--with-safetensors", "--json"]);
    let report = packed.exits(0).json();
    assert_eq!(report["rank"], 4);
    assert_eq!(report["files"].as_array().unwrap().len(), 3);
    assert_eq!(
        listing(&here.join("both/deep")),
        ["adapter_config.json", "adapter_model.safetensors", "adapter_model.tensors"]
    );
    let inspected = tz(here, &["lora", "inspect", "both/deep/adapter_model.tensors", "--json"]);
    assert_eq!(inspected.exits(0).json()["form"], "packed");
}

#[test]
fn encryption_is_by_request() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    tz(here, &["keygen", "key", "-q"]).exits(0);
    for profile in ["compat", "sealed"] {
        let pack = ["lora", "pack", "peft", profile, "--keyfile", "key", "--profile", profile];
        let packed = tz(here, &pack).exits(0);
        assert_eq!(packed.stderr.contains("vLLM cannot read it"), profile == "sealed");
        assert_eq!(packed.stderr.contains("\"encryption_keyfile\": \"key\""), profile == "compat");
        let inspected = tz(here, &["lora", "inspect", profile, "--json"]).exits(0).json();
        assert_eq!(inspected["encrypted"], true);
        assert_eq!(inspected["tensor_count"], 2);
        tz(here, &["lora", "unpack", profile, "none"]).exits(5);
        assert!(!here.join("none").exists());
        let back = format!("{profile}-back");
        tz(here, &["lora", "unpack", profile, &back, "--keyfile", "key"]).exits(0);
        let name = "adapter_model.safetensors";
        assert_eq!(read(&here.join("peft"), name), read(&here.join(&back), name));
    }
}

/// Over a driver in host memory, with the loader that any `.tensors` file goes through.
#[cfg(feature = "cuda")]
#[test]
fn a_packed_adapter_loads_onto_a_device() {
    use crate::run::{command, finish};
    use tz_cuda_shim::testing::FakeDriver;

    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    tz(here, &["lora", "pack", "peft", "packed", "-q"]).exits(0);
    let (driver, own) = (FakeDriver::new(), tempfile::tempdir().unwrap());
    let load = ["deserialize", "packed/adapter_model.tensors", "--device", "cuda:0"];
    let load = [&load[..], &["--to", "back.safetensors"]].concat();
    finish(command(here).args(load).envs(driver.install(own.path()))).exits(0);
    driver.check_nothing_left(own.path());
    tz(here, &["diff", "peft/adapter_model.safetensors", "back.safetensors"]).exits(0);
}

#[test]
fn what_is_not_packed_need_not_be_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    adapter(&dir.path().join("peft"), 4);
    let ran = tz(dir.path(), &["lora", "unpack", "peft", "back"]).exits(2);
    assert!(ran.stderr.contains("peft: the adapter is not packed"), "{}", ran.stderr);
    assert_eq!(listing(dir.path()).len(), 3, "nothing is made");
}

#[test]
fn refusals_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    tz(here, &SYNTH).exits(0);
    let refused = |arguments: &[&str], words: &str, advice: &str| {
        let pack = [&["lora", "pack", "peft", "a/b"], arguments].concat();
        let ran = tz(here, &pack).exits(4);
        assert!(
            ran.stderr.starts_with(&format!("error (adapter): peft: {words}")),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.lines().nth(1).is_some_and(|line| line.contains(advice)),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 2);
        assert!(!here.join("a").exists());
    };
    refused(
        &["--max-lora-rank", "2"],
        "the rank 4 is over --max-lora-rank 2",
        "larger --max-lora-rank",
    );
    let config = here.join("peft/adapter_config.json");
    let good = fs::read_to_string(&config).unwrap();
    for (from, to, words, advice) in [
        (
            "\"r\":4",
            "\"r\":8",
            "tensor \"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\" is of rank 4, adapter_config.json says 8 (and 1 more)",
            "`tz-cli lora inspect` lists everything",
        ),
        ("\"none\"", "\"all\"", "\"bias\" is \"all\"", "merge_and_unload"),
        (
            "[\"q_proj\"]",
            "[\"q_proj\",\"k_proj\"]",
            "target_modules names \"k_proj\"",
            "--allow-unused-targets",
        ),
    ] {
        fs::write(&config, good.replace(from, to)).unwrap();
        refused(&[], words, advice);
    }
    // The last of them is accepted on request.
    tz(here, &["lora", "pack", "peft", "accepted", "--allow-unused-targets", "-q"]).exits(0);
    fs::write(&config, good).unwrap();
    fs::write(here.join("gpt2.json"), "{\"model_type\": \"gpt2\"}").unwrap();
    refused(
        &["--base-config", "gpt2.json"],
        "vLLM takes no adapters for models of the family \"gpt2\"",
        "serialize",
    );
    let ran = tz(here, &["lora", "pack", "peft", "a/b", "--base-config", "nowhere"]).exits(3);
    assert!(ran.stderr.contains("nowhere"), "{}", ran.stderr);
}

#[test]
fn inspect_shows_what_is_refused_and_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    let shown = tz(here, &["lora", "inspect", "peft", "--max-lora-rank", "2"]).exits(0).stdout;
    assert!(shown.contains("rank      4\nalpha     8\nscaling   2\ntargets   q_proj\n"), "{shown}");
    assert!(shown.contains("vLLM would not apply it:\n  the rank 4 is over --max-lora-rank 2\n"));
}

#[test]
fn a_destination_that_exists_is_replaced_unless_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    adapter(&here.join("peft"), 4);
    tz(here, &["lora", "pack", "peft", "packed", "-q"]).exits(0);
    let before = read(&here.join("packed"), "adapter_model.tensors");
    adapter(&here.join("peft"), 8);
    tz(here, &["lora", "pack", "peft", "packed", "--if-none-match"]).exits(3);
    assert_eq!(read(&here.join("packed"), "adapter_model.tensors"), before);
    tz(here, &["lora", "pack", "peft", "packed", "-q"]).exits(0);
    assert_eq!(tz(here, &["lora", "inspect", "packed", "--json"]).json()["rank"], 8);
}
