//! What is written where, in which order, and what is left of a failure.

use std::os::unix::fs::PermissionsExt as _;

use tz_format::TensorKind;
use tz_io::{OpenOptions, WriteOptions};
use tz_lora::{Adapter, Forms, PackedAdapter};

use crate::support::{CONFIG, Peft, at, listing, read};

#[test]
fn entries_are_those_of_a_state_dict_under_their_own_names() {
    let peft = Peft::usual();
    let folder = at(&peft.beside("packed"));
    let adapter = Adapter::open(&peft.dir).unwrap();
    adapter.pack(&folder, &WriteOptions::default()).unwrap();
    let packed = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
    assert_eq!(packed.tensors(), adapter.tensors());
    assert!(!packed.file().is_encrypted());
    // bfloat16 is no type of numpy's: version 2, which every reader of vLLM's reads.
    assert_eq!(packed.file().front().header.version.number(), 2);
    for (i, entry) in packed.file().entries().iter().enumerate() {
        assert_eq!(entry.kind, TensorKind::StateDict);
        assert_eq!(packed.file().header(i).unwrap().module_index, 0);
    }
}

#[test]
fn the_configuration_comes_first_and_the_packed_tensors_last() {
    let peft = Peft::usual();
    let folder = peft.beside("both");
    let adapter = Adapter::open(&peft.dir).unwrap();
    let published = adapter.publish(&at(&folder), Forms::BOTH, &WriteOptions::default()).unwrap();
    let order: Vec<&str> = published.files.iter().map(|file| file.name).collect();
    assert_eq!(
        order,
        ["adapter_config.json", "adapter_model.safetensors", "adapter_model.tensors"]
    );
    let mut names = order.clone();
    names.sort_unstable();
    assert_eq!(listing(&folder), names);
    for file in &published.files {
        let metadata = folder.join(file.name).metadata().unwrap();
        assert_eq!(
            (file.bytes, &file.location),
            (metadata.len(), &folder.join(file.name).display().to_string())
        );
        assert_eq!(metadata.permissions().mode() & 0o400, 0o400);
    }
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert_eq!(read(&folder, name), read(&peft.dir, name));
    }
}

#[test]
fn a_failure_leaves_what_was_there() {
    let peft = Peft::usual();
    let folder = peft.beside("packed");
    std::fs::create_dir(&folder).unwrap();
    for name in ["adapter_config.json", "adapter_model.tensors"] {
        std::fs::write(folder.join(name), "old").unwrap();
    }
    let adapter = Adapter::open(&peft.dir).unwrap();
    let mut options = WriteOptions::default();
    // Values nested so deeply that no reader takes them.
    let deep = (0..200).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    options.user_metadata = serde_json::json!({"deep": deep}).as_object().cloned();
    adapter.publish(&at(&folder), Forms::BOTH, &options).unwrap_err();
    assert_eq!(listing(&folder), ["adapter_config.json", "adapter_model.tensors"]);
    assert_eq!(read(&folder, "adapter_config.json"), b"old");

    let cancelled = WriteOptions::default();
    cancelled.cancel.cancel();
    adapter.pack(&at(&folder), &cancelled).unwrap_err();
    assert_eq!(read(&folder, "adapter_config.json"), b"old");
    assert_eq!(read(&folder, "adapter_model.tensors"), b"old");
}

#[test]
fn old_files_are_replaced_unless_that_is_refused() {
    let peft = Peft::usual();
    let folder = peft.beside("packed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("adapter_model.tensors"), "old").unwrap();
    let adapter = Adapter::open(&peft.dir).unwrap();
    let mut options = WriteOptions::default();
    options.create_only = true;
    let error = adapter.pack(&at(&folder), &options).unwrap_err();
    assert!(error.to_string().contains("adapter_model.tensors"), "{error}");
    assert_eq!(listing(&folder), ["adapter_model.tensors"]);
    options.create_only = false;
    adapter.pack(&at(&folder), &options).unwrap();
    assert_eq!(read(&folder, "adapter_config.json"), CONFIG.as_bytes());
    assert_ne!(read(&folder, "adapter_model.tensors"), b"old");
}

#[test]
fn an_adapter_is_packed_beside_itself() {
    let peft = Peft::usual();
    let before = read(&peft.dir, "adapter_model.safetensors");
    let adapter = Adapter::open(&peft.dir).unwrap();
    adapter.publish(&at(&peft.dir), Forms::BOTH, &WriteOptions::default()).unwrap();
    assert_eq!(
        listing(&peft.dir),
        ["adapter_config.json", "adapter_model.safetensors", "adapter_model.tensors"]
    );
    assert_eq!(read(&peft.dir, "adapter_model.safetensors"), before);
}
