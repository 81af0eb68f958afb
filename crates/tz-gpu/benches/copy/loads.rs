//! Loads a file onto the device, with each setting varied by itself, beside the bus.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tz_format::Limits;
use tz_gpu::{CudaDevice, Device as _, GpuLoader, GpuOptions, Placement};
use tz_io::{Location, ReadOptions, Selection, TensorFile};

use crate::resident::{Growth, counts};
use crate::{Job, emit, gigabytes, median};

const MIB: usize = 1 << 20;

/// One way to load.
#[derive(Clone)]
struct Way {
    name: &'static str,
    options: GpuOptions,
    read: ReadOptions,
}

/// Measures every way; `best` is the rate from pinned memory in GB/s.
pub(crate) fn run(
    device: &CudaDevice,
    job: &Job,
    path: &Path,
    best: f64,
) -> Result<(), Box<dyn Error>> {
    let ring_counts = pinned_counts(device)?;
    for way in ways(job) {
        measure(device, job, path, (best, ring_counts), &way)?;
    }
    Ok(())
}

/// Whether pinned memory is in the figures of resident memory.
fn pinned_counts(device: &CudaDevice) -> Result<bool, Box<dyn Error>> {
    let before = resident("VmRSS:");
    let mut pinned = device.pin(64 * MIB)?;
    pinned.fill(1);
    Ok(counts(before, resident("VmRSS:"), pinned.len() as u64))
}

fn ways(job: &Job) -> Vec<Way> {
    let plain = Way { name: "default", options: GpuOptions::local(), read: ReadOptions::default() };
    let mut ways = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut Way)| {
        let mut way = Way { name, ..plain.clone() };
        change(&mut way);
        ways.push(way);
    };
    if !job.rings.is_empty() {
        for &mib in &job.rings {
            for verify in [true, false] {
                add("ring", &|way| {
                    way.options.memory_limit = Some(u64::from(mib) << 20);
                    way.read.verify = verify;
                });
            }
        }
        return ways;
    }
    add("default", &|_| ());
    add("unverified", &|way| way.read.verify = false);
    if job.quick {
        return ways;
    }
    for readers in [1, 4, 8, 12, 16, 32] {
        add("readers", &|way| way.read.readers = Some(readers));
    }
    for mib in [1, 2, 8, 16] {
        add("buffers", &|way| way.options.buffer_bytes = mib * MIB);
    }
    for mib in [32, 64, 96, 256, 512] {
        for verify in [true, false] {
            add("ring", &|way| {
                way.options.memory_limit = Some(mib << 20);
                way.read.verify = verify;
            });
        }
    }
    for streams in [1, 4] {
        add("streams", &|way| way.options.streams = streams);
    }
    add("per tensor", &|way| way.options.placement = Placement::PerTensor);
    ways
}

fn measure(
    device: &CudaDevice,
    job: &Job,
    path: &Path,
    (best, ring_counts): (f64, bool),
    way: &Way,
) -> Result<(), Box<dyn Error>> {
    let (mut totals, mut warm) = (Vec::new(), Vec::new());
    let mut facts = json!({});
    for _ in 0..job.repeats {
        forget_peak();
        // What CUDA itself takes of the host is there by now.
        let before = resident("VmRSS:");
        // As a user has it: the ring is pinned meanwhile.
        let start = std::time::Instant::now();
        let mut loader = GpuLoader::new(device.clone(), way.options)?;
        let file = TensorFile::open(&Location::File(path.to_owned()), &Limits::default())?;
        let loaded = loader.load(&file, &Selection::all(), &way.read)?;
        totals.push(start.elapsed().as_secs_f64());
        let (copy, read) = (loaded.stats().copy, loaded.stats().read);
        let with_ring = resident("VmHWM:").saturating_sub(before);
        let growth = Growth { ring: copy.pinned_bytes, ring_counts, with_ring };
        let bytes = read.bytes_delivered;
        drop(loaded);
        // Again with the ring that is there.
        let again = loader.load(&file, &Selection::all(), &way.read)?;
        warm.push(again.stats().wall.as_secs_f64());
        facts = json!({
            "way": way.name,
            "readers": way.read.readers,
            "verify": way.read.verify,
            "buffer_bytes": way.options.buffer_bytes,
            "ring_bytes": copy.pinned_bytes,
            "streams": way.options.streams,
            "bytes": bytes,
            "host_before_bytes": before,
            "host_growth_bytes": growth.with_ring,
            "host_growth_beyond_ring": growth.without_ring(),
            "ring_is_resident": growth.ring_counts,
            "device_bytes": copy.device_bytes,
            "copies": copy.copies,
            "seconds_of_last": {
                "pin": seconds(copy.pin), "allocate": seconds(copy.allocate),
                "drain": seconds(copy.drain), "submit": seconds(copy.submit),
                "convert": seconds(copy.convert), "fetch": seconds(read.fetch),
                "verify": seconds(read.verify), "wait": seconds(read.wait),
                "stalled_pinning": seconds(copy.stalls.pinning),
                "stalled_copies": seconds(copy.stalls.copies),
                "stalled_readers": seconds(copy.stalls.readers),
            },
        });
        let gb = gigabytes(bytes);
        if let Some(facts) = facts.as_object_mut() {
            let (total, warm) = (gb / median(totals.clone()), gb / median(warm.clone()));
            facts.insert("gb_s".to_owned(), total.into());
            facts.insert("of_pinned".to_owned(), (total / best).into());
            facts.insert("gb_s_ring_pinned_before".to_owned(), warm.into());
            facts.insert("of_pinned_ring_pinned_before".to_owned(), (warm / best).into());
        }
    }
    emit("load", facts);
    Ok(())
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Lets the kernel count the peak of resident memory anew; where it does not, the peak of the whole run counts.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Bytes of resident memory, by the kernel's name for the figure.
fn resident(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
