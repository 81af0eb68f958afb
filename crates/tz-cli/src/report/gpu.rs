//! What commands report of loads onto a device.

use std::time::Duration;

use serde::Serialize;
use tz_gpu::LoadStats;

use super::Phases;

/// The device's part of a load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceFacts {
    pub(crate) device_name: Option<String>,
    /// Memory that the tensors take.
    pub(crate) device_bytes: u64,
    /// By how much the device's free memory fell while they were there: what other processes took at that time counts.
    pub(crate) peak_device_bytes: u64,
    /// Pinned memory of the host, the ring.
    pub(crate) pinned_bytes: u64,
    pub(crate) copies: u64,
    pub(crate) stalls: DeviceStalls,
}

/// Seconds that readers stood still, summed over them, by what held them up.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceStalls {
    /// The ring was not pinned yet.
    pub(crate) pinning: f64,
    /// The bus was busy.
    pub(crate) copies: f64,
    /// Other readers had all buffers.
    pub(crate) readers: f64,
}

/// `bench --device cuda:N`: every round, and their medians.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceBenchmark {
    pub(crate) location: String,
    pub(crate) tensors: usize,
    /// Of the tensors on the device.
    pub(crate) bytes: u64,
    pub(crate) readers: usize,
    pub(crate) verified: bool,
    pub(crate) device: String,
    pub(crate) rounds: Vec<DeviceRound>,
    pub(crate) median_seconds: f64,
    pub(crate) median_seconds_ring_pinned: f64,
    pub(crate) median_pinned_copy_seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) bytes_per_second_ring_pinned: f64,
    pub(crate) pinned_copy_bytes_per_second: f64,
    /// Speed of the load over that of a copy of as many bytes from pinned memory, by medians.
    pub(crate) ratio: f64,
    pub(crate) ratio_ring_pinned: f64,
    pub(crate) peak_host_bytes: u64,
    #[serde(flatten)]
    pub(crate) facts: Option<DeviceFacts>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DeviceRound {
    /// From before the file is opened and the ring is pinned to the last byte on the device.
    pub(crate) seconds: f64,
    /// The same load again, with the ring and the file that are there.
    pub(crate) seconds_ring_pinned: f64,
    /// As many bytes from pinned memory, with no file.
    pub(crate) pinned_copy_seconds: f64,
    pub(crate) phases: Phases,
}

/// Phases of a load onto a device, summed over threads. Copies run beside everything else: `copy` is the time that
/// threads spent starting them and waiting for them. `device_open` is the time that the driver took to start, where it
/// was started for this load.
pub(crate) fn device_phases(
    open: Duration,
    device_open: Option<Duration>,
    stats: &LoadStats,
) -> Phases {
    let (read, copy) = (&stats.read, &stats.copy);
    let mut phases = Phases::from([
        ("open", open.as_secs_f64()),
        ("pin", copy.pin.as_secs_f64()),
        ("allocate", copy.allocate.as_secs_f64()),
        ("fetch", read.fetch.as_secs_f64()),
        ("decrypt", read.decrypt.as_secs_f64()),
        ("verify", read.verify.as_secs_f64()),
        ("stage", copy.convert.as_secs_f64()),
        ("copy", (copy.submit + copy.stalls.copies + copy.drain).as_secs_f64()),
    ]);
    phases.extend(device_open.map(|opening| ("device_open", opening.as_secs_f64())));
    phases
}
