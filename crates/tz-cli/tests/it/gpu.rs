//! Loads onto a GPU, over a driver in host memory; and what is said where there is none.

use std::path::Path;

use tz_cuda_shim::testing::FakeDriver;

use crate::run::{Ran, command, finish, listing, tz};

/// Runs `tz-cli` with this driver, and checks that it gave everything back to it.
#[track_caller]
fn with(driver: &FakeDriver, folder: &Path, arguments: &[&str]) -> Ran {
    let own = tempfile::tempdir().expect("a folder for the driver");
    let ran = finish(command(folder).args(arguments).envs(driver.install(own.path())));
    driver.check_nothing_left(own.path());
    ran
}

/// A folder with a small model: plain, encrypted and sealed, and the key of both.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let made = |arguments: &[&str]| {
        tz(folder.path(), arguments).exits(0);
    };
    made(&["synth", "demo", "--preset", "llama-tiny"]);
    made(&["serialize", "demo", "plain.tensors"]);
    made(&["keygen", "key"]);
    made(&["encrypt", "plain.tensors", "compat.tensors", "--keyfile", "key"]);
    let sealed = ["encrypt", "plain.tensors", "sealed.tensors", "--profile", "sealed"];
    made(&[&sealed[..], &["--keyfile", "key"]].concat());
    folder
}

/// Loads with `options` onto the CPU and onto the device, and compares what comes back, tensor by tensor.
#[track_caller]
fn check_same(folder: &Path, file: &str, options: &[&str]) {
    let load = ["deserialize", file];
    let cpu = [&load[..], &["--to", "cpu.safetensors"], options].concat();
    tz(folder, &cpu).exits(0);
    let gpu = [&load[..], &["--to", "gpu.safetensors", "--device", "cuda:1"], options].concat();
    let ran = with(&FakeDriver::new(), folder, &gpu).exits(0);
    assert!(ran.stdout.contains("on cuda:1 (Fake GPU 1)"), "{}", ran.stdout);
    let digests = |file| tz(folder, &["checksum", file]).exits(0).stdout;
    let expected = digests("cpu.safetensors");
    assert!(!expected.is_empty());
    assert_eq!(digests("gpu.safetensors"), expected);
}

#[test]
fn the_same_bytes_reach_the_device() {
    let folder = models();
    check_same(folder.path(), "plain.tensors", &[]);
    check_same(folder.path(), "plain.tensors", &["--filter", "*norm*", "--num-readers", "3"]);
    check_same(folder.path(), "plain.tensors", &["--memory-limit", "200KiB", "--no-verify"]);
    check_same(folder.path(), "compat.tensors", &["--keyfile", "key"]);
    check_same(folder.path(), "sealed.tensors", &["--keyfile", "key"]);
}

#[test]
fn casts_are_the_same_on_the_way_to_the_device() {
    let folder = models();
    for dtype in ["float16", "bfloat16", "float32", "float64"] {
        check_same(folder.path(), "plain.tensors", &["--dtype", dtype]);
    }
    check_same(folder.path(), "sealed.tensors", &["--keyfile", "key", "--dtype", "float32"]);
}

#[test]
fn a_load_reports_phases_and_both_memories() {
    let folder = models();
    let load = ["deserialize", "sealed.tensors", "--keyfile", "key", "--device", "cuda:0"];
    let ran = with(&FakeDriver::new(), folder.path(), &load).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.stdout);
    assert!(lines[0].starts_with("21 tensors, 404.1 kB"), "{}", ran.stdout);
    assert!(lines[2].starts_with("peak memory ") && lines[2].ends_with(" pinned"), "{}", lines[2]);
    let words = ["fetch ", "stage ", "copy ", "decrypt ", "verify "];
    assert!(words.iter().all(|word| lines[3].contains(word)), "{}", lines[3]);

    let json = with(&FakeDriver::new(), folder.path(), &[&load[..], &["--json"]].concat());
    let json = json.exits(0).json();
    assert_eq!(json["device"], "cuda:0");
    assert_eq!(json["device_name"], "Fake GPU 0");
    assert_eq!(json["bytes"], 404_096);
    let device = json["device_bytes"].as_u64().unwrap();
    assert!(device >= 404_096);
    // The driver's free memory fell by just that.
    assert_eq!(json["peak_device_bytes"].as_u64(), Some(device));
    assert!(json["peak_host_bytes"].as_u64() > json["pinned_bytes"].as_u64());
    for phase in
        ["device_open", "open", "pin", "allocate", "fetch", "stage", "copy", "decrypt", "verify"]
    {
        assert!(json["phases"][phase].is_f64(), "{phase}: {json}");
    }
    assert!(json["phases"]["decrypt"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn the_ring_keeps_to_the_memory_limit() {
    let folder = models();
    let load = ["deserialize", "plain.tensors", "--device", "cuda:0", "--json"];
    let limited = [&load[..], &["--memory-limit", "96KiB"]].concat();
    let json = with(&FakeDriver::new(), folder.path(), &limited).exits(0).json();
    let pinned = json["pinned_bytes"].as_u64().unwrap();
    assert!(pinned > 0 && pinned <= 96 << 10, "{json}");
    let too_little = [&load[..], &["--memory-limit", "1KiB"]].concat();
    let refused = with(&FakeDriver::new(), folder.path(), &too_little).exits(2);
    assert!(refused.stderr.contains("--memory-limit"), "{}", refused.stderr);
}

#[test]
fn a_stream_goes_to_the_device_too() {
    let folder = models();
    let own = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(folder.path().join("plain.tensors")).unwrap();
    let mut command = command(folder.path());
    command.args(["deserialize", "-", "--device", "cuda:0", "--json"]).stdin(file);
    let ran = finish(command.envs(FakeDriver::new().install(own.path()))).exits(0);
    assert_eq!(ran.json()["bytes"], 404_096);
}

#[test]
fn without_a_driver_it_says_so_and_what_to_do() {
    let folder = models();
    for command in ["deserialize", "bench"] {
        let load = [command, "plain.tensors", "--device", "cuda:0"];
        let ran = with(&FakeDriver::absent(), folder.path(), &load).exits(3);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ran.stderr);
        assert!(lines[0].contains("no CUDA driver: "), "{}", lines[0]);
        assert!(lines[1].starts_with("try: install NVIDIA's driver"), "{}", lines[1]);
        assert_eq!(ran.stdout, "");
        let ran = with(&FakeDriver::absent(), folder.path(), &[&load[..], &["--json"]].concat());
        assert_eq!(ran.exits(3).json()["error"]["code"], 3);
    }
}

#[test]
fn what_a_driver_refuses_is_told_with_what_to_try() {
    let folder = models();
    let before = listing(folder.path());
    let load = [
        "deserialize",
        "plain.tensors",
        "--device",
        "cuda:0",
        "--to",
        "back",
        "--num-readers",
        "1",
    ];
    let rows = [
        (FakeDriver::new().with_memory(100_000), "404608 bytes of device memory", "nvidia-smi"),
        (FakeDriver::new().with_pinned(1000), "of pinned host memory", "lower --memory-limit"),
        (FakeDriver::new().failing("cuMemAlloc_v2", 2, 1), "device memory", "end what else"),
        (FakeDriver::new().failing("cuMemcpyHtoDAsync_v2", 700, 1), "(700)", "dmesg"),
        (FakeDriver::new().failing("cuInit", 100, 1), "no device cuda:0", "nvidia-smi"),
        (FakeDriver::new().failing("cuInit", 803, 1), "no CUDA driver", "install"),
    ];
    for (driver, fault, advice) in rows {
        let ran = with(&driver, folder.path(), &load).exits(3);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains(fault), "{}", ran.stderr);
        assert!(lines[1].starts_with("try: ") && lines[1].contains(advice), "{}", lines[1]);
        assert_eq!(listing(folder.path()), before, "{fault}");
    }
    let beyond = ["deserialize", "plain.tensors", "--device", "cuda:2"];
    let ran = with(&FakeDriver::new(), folder.path(), &beyond).exits(3);
    assert!(ran.stderr.contains("no device cuda:2: the driver lists 2"), "{}", ran.stderr);
}

#[test]
fn faults_of_the_file_are_what_they_are_without_a_device() {
    let folder = models();
    let load = |file: &str, more: &[&str]| {
        let load = ["deserialize", file, "--device", "cuda:0"];
        with(&FakeDriver::new(), folder.path(), &[&load[..], more].concat())
    };
    load("sealed.tensors", &[]).exits(5);
    load("missing.tensors", &[]).exits(3);
    load("demo", &[]).exits(4);
    load("plain.tensors", &["--filter", "nothing"]).exits(2);
    let mut damaged = std::fs::read(folder.path().join("plain.tensors")).unwrap();
    // Eight bytes follow the last tensor.
    let at = damaged.len() - 9;
    damaged[at] ^= 1;
    std::fs::write(folder.path().join("damaged.tensors"), damaged).unwrap();
    load("damaged.tensors", &[]).exits(4);
}

#[test]
fn bench_stands_beside_the_bus() {
    let folder = models();
    let bench = ["bench", "plain.tensors", "--device", "cuda:0", "--rounds", "3"];
    let ran = with(&FakeDriver::new(), folder.path(), &bench).exits(0);
    let heads = ["load s", "ring pinned s", "pinned copy s", "ratio", "median"];
    assert!(heads.iter().all(|head| ran.stdout.contains(head)), "{}", ran.stdout);
    let json = with(&FakeDriver::new(), folder.path(), &[&bench[..], &["--json"]].concat());
    let json = json.exits(0).json();
    let rounds = json["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    for figure in ["seconds", "seconds_ring_pinned", "pinned_copy_seconds"] {
        assert!(rounds.iter().all(|round| round[figure].as_f64() > Some(0.0)), "{figure}: {json}");
    }
    for figure in ["ratio", "ratio_ring_pinned", "pinned_copy_bytes_per_second"] {
        assert!(json[figure].as_f64() > Some(0.0), "{figure}: {json}");
    }
    let ran = with(&FakeDriver::new(), folder.path(), &["bench", "demo", "--device", "cuda:0"]);
    ran.exits(4);
}
