//! Memory stays within the limit, measured by the kernel and reported by the program.

use crate::made::sparse_checkpoint;
use crate::run::tz;

/// What the program itself may take, unoptimised build included.
const SLACK: u64 = 48 << 20;
const MODEL: u64 = 256 << 20;

#[test]
fn a_model_larger_than_the_limit_is_streamed_within_it() {
    let dir = tempfile::tempdir().unwrap();
    sparse_checkpoint(&dir.path().join("model.safetensors"), 1, MODEL);
    let limit = 1 << 20;
    let within = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--memory-limit", "1MiB", "--json"]);
        let report = tz(dir.path(), &arguments).exits(0).json();
        let peak = report["peak_host_bytes"].as_u64().expect("peak");
        assert!(peak > 0 && peak <= limit + SLACK, "{arguments:?}: {peak}");
        report
    };
    within(&["serialize", "model.safetensors", "model.tensors", "--no-fsync"]);
    for source in ["model.tensors", "model.safetensors"] {
        let report = within(&["deserialize", source]);
        assert_eq!((&report["streamed"], &report["bytes"]), (&true.into(), &MODEL.into()));
        within(&["deserialize", source, "--to", "back.safetensors", "--no-fsync"]);
    }
    let report = tz(dir.path(), &["deserialize", "model.tensors", "--json"]).exits(0).json();
    let peak = report["peak_host_bytes"].as_u64().expect("peak");
    assert!(peak >= MODEL, "a load keeps what it loads: {peak}");
    assert_eq!(report["streamed"], false);
}

#[test]
fn a_mapped_model_is_brought_in_whole_and_what_cannot_be_mapped_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let small: u64 = 32 << 20;
    sparse_checkpoint(&dir.path().join("model.safetensors"), 4, small / 4);
    tz(dir.path(), &["serialize", "model.safetensors", "model.tensors", "--no-fsync"]).exits(0);
    let mapped = |more: &[&str]| {
        let arguments = [&["deserialize", "model.tensors", "--mmap", "--json"], more].concat();
        tz(dir.path(), &arguments)
    };
    let report = mapped(&[]).exits(0).json();
    assert_eq!((&report["bytes"], &report["verified"]), (&small.into(), &false.into()));
    assert_eq!(report["streamed"], false);
    let peak = report["peak_host_bytes"].as_u64().expect("peak");
    assert!(peak >= small, "its pages are this process's: {peak}");

    for more in [&["--to", "back"][..], &["--dtype", "float32"], &["--device", "cuda:0"]] {
        mapped(more).exits(2);
    }
    tz(dir.path(), &["deserialize", "model.safetensors", "--mmap"]).exits(2);
    tz(dir.path(), &["keygen", "key"]).exits(0);
    tz(dir.path(), &["encrypt", "model.tensors", "sealed.tensors", "--keyfile", "key"]).exits(0);
    tz(dir.path(), &["deserialize", "sealed.tensors", "--keyfile", "key", "--mmap"]).exits(2);
}
