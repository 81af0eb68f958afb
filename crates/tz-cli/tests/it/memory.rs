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
