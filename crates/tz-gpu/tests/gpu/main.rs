//! Everything that a real device has to show: the suite, every fixture, a second device if there is one. Says how many
//! ran; none is a failure. Built by `cargo xtask gpu-test`, run on a GPU machine without Rust.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program with its own report")]

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use tz_gpu::testing::{TestFile, run_all, run_fixtures};
use tz_gpu::{CudaDevice, CudaInfo, DeviceId, GpuLoader, GpuOptions, Shard, load_shards};
use tz_io::{ReadOptions, Selection};

/// Functions without which nothing works here; all others serve `cust` only.
const NEEDED: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuThreadExchangeStreamCaptureMode",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocHost_v2",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemsetD8Async",
    "cuGetErrorName",
];

fn main() -> ExitCode {
    let (device, fixtures) = match parse(std::env::args().skip(1)) {
        Ok(job) => job,
        Err(why) => {
            eprintln!("{why}\nusage: gpu [--device N] [--fixtures FOLDER]");
            return ExitCode::from(2);
        }
    };
    let mut tally = Tally::default();
    match CudaInfo::read() {
        Ok(info) => {
            let (major, minor) = info.version;
            println!("driver {} for CUDA {major}.{minor}", info.library);
            for (ordinal, (name, bytes)) in info.devices.iter().enumerate() {
                println!("cuda:{ordinal} {name}, {} MiB", bytes >> 20);
            }
            println!("functions that the driver lacks: {:?}", info.missing_symbols);
            let lacks = NEEDED.iter().filter(|name| info.missing_symbols.contains(name));
            tally.report("the driver has every function that is needed", lacks.count() == 0);
            run(&mut tally, device, fixtures.as_deref(), info.devices.len());
        }
        Err(error) => eprintln!("error: {error}\nhelp: {}", error.advice()),
    }
    println!("{} GPU tests ran, {} failed", tally.ran, tally.failed);
    if tally.ran > 0 && tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<(u32, Option<PathBuf>), String> {
    let (mut device, mut fixtures) = (0, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--device" => {
                let text = value()?;
                device = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
            }
            "--fixtures" => fixtures = Some(value()?.into()),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok((device, fixtures))
}

#[derive(Default)]
struct Tally {
    ran: usize,
    failed: usize,
}

impl Tally {
    fn report(&mut self, name: &str, passed: bool) {
        println!("{} {name}", if passed { "ok    " } else { "FAILED" });
        self.ran += 1;
        self.failed += usize::from(!passed);
    }
}

fn run(tally: &mut Tally, ordinal: u32, fixtures: Option<&std::path::Path>, devices: usize) {
    let device = match CudaDevice::open(ordinal) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("error: {error}");
            return tally.report("the device opens", false);
        }
    };
    run_all(&device, |name, passed| tally.report(name, passed));
    if let Some(root) = fixtures {
        let mut files = 0;
        run_fixtures(&device, root, |name, agreed| {
            files += 1;
            tally.report(&format!("fixture {name}"), agreed);
        });
        tally.report("there are fixtures", files > 0);
    }
    if devices > 1 {
        tally.report("two devices get a shard each", catch_unwind(two_devices).is_ok());
    }
}

fn two_devices() {
    let file = TestFile::mixed();
    let (opened, host) = (file.open(), file.on_host());
    let loader = |ordinal| {
        let device = CudaDevice::open(ordinal).expect("a device");
        GpuLoader::new(device, GpuOptions::local()).expect("a loader")
    };
    let (mut first, mut second) = (loader(0), loader(1));
    let all = Selection::all();
    let mut shards = [
        Shard { loader: &mut first, file: &opened, selection: &all },
        Shard { loader: &mut second, file: &opened, selection: &all },
    ];
    let loaded = load_shards(&mut shards, &ReadOptions::default()).expect("loaded shards");
    for (ordinal, tensors) in (0..).zip(&loaded) {
        let large = tensors.get("large").expect("a tensor");
        assert_eq!(large.device(), DeviceId::Cuda(ordinal));
        let expect = host.get("large").expect("the same tensor").bytes();
        assert!(large.to_host().expect("its bytes") == expect);
    }
}
