//! What the bus can do, without any file format: pinned and pageable memory, by length of a copy and number of
//! streams; and files by plain reads, direct reads and registered page cache.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;
use tz_format::Limits;
use tz_gpu::{
    Bus, CudaDevice, CudaMemory, CudaPinned, CudaStream, Device, DeviceError, DeviceMemory as _,
};
use tz_io::{Location, ReadOptions, Selection, TensorFile};

use crate::{Job, emit, gigabytes, median, rate};

const MIB: usize = 1 << 20;
/// Bytes of one measurement: long enough for clocks to settle, short enough for a grid of them.
const TOTAL: u64 = 4 << 30;
/// Device memory that copies go round in.
const TARGET: u64 = 512 << 20;
/// Pinned memory that copies come from, so that no cache of the CPU holds it.
const SOURCE: usize = 256 << 20;
/// Length of one read in the measurements of files.
const READ: usize = 2 << 20;

/// The time that one allocation of pinned memory takes, and giving it back; with a file, also of locking memory that we
/// allocated: that of its first large tensor, which is on huge pages.
pub(crate) fn pinning(device: &CudaDevice, job: &Job) -> Result<(), Box<dyn Error>> {
    for mib in [2, 16, 64] {
        let (mut pin, mut unpin) = (Vec::new(), Vec::new());
        for _ in 0..job.repeats {
            let start = Instant::now();
            let memory = device.pin(mib * MIB)?;
            pin.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            drop(memory);
            unpin.push(start.elapsed().as_secs_f64() * 1e6);
        }
        emit("pin", json!({"mib": mib, "us": median(pin), "unpin_us": median(unpin)}));
    }
    let Some(path) = &job.file else { return Ok(()) };
    let file = TensorFile::open(&Location::File(path.clone()), &Limits::default())?;
    let large = file.entries().iter().find(|entry| entry.byte_len() >= 32 << 20);
    let large = large.ok_or("no tensor of 32 MiB in the file")?.path.to_string();
    let loaded = file.load(&Selection::globs(&[&large])?, &ReadOptions::default())?;
    let tensor = loaded.get(&large).ok_or("the tensor was not loaded")?;
    let (mut pin, mut unpin) = (Vec::new(), Vec::new());
    for _ in 0..job.repeats {
        let start = Instant::now();
        let locked = device.register(tensor.shared_bytes())?;
        pin.push(start.elapsed().as_secs_f64() * 1e6);
        let start = Instant::now();
        drop(locked);
        unpin.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let mib = tensor.bytes().len() / MIB;
    emit("pin own pages", json!({"mib": mib, "us": median(pin), "unpin_us": median(unpin)}));
    Ok(())
}

/// The rate of a copy from pinned memory as `tz-cli bench` measures it, in GB/s.
pub(crate) fn bus(device: &CudaDevice, job: &Job) -> Result<f64, Box<dyn Error>> {
    let bus = Bus::new(device.clone(), TOTAL)?;
    let measured = rate(TOTAL, job.repeats, || Ok(bus.copy(TOTAL).map(drop)?))?;
    emit("pinned", json!({"copy_mib": 16, "streams": 2, "gb_s": measured}));
    Ok(measured)
}

/// Measures; gives the best rate from pinned memory in GB/s.
pub(crate) fn run(device: &CudaDevice, job: &Job) -> Result<f64, Box<dyn Error>> {
    let target = device.allocate(TARGET)?;
    let mut best = 0.0_f64;
    let grid: &[(usize, usize)] = if job.quick || job.no_grid {
        &[(2, 2), (16, 2), (64, 1)]
    } else {
        &[
            (1, 1),
            (1, 2),
            (2, 1),
            (2, 2),
            (2, 4),
            (4, 1),
            (4, 2),
            (8, 1),
            (8, 2),
            (16, 2),
            (64, 1),
            (64, 2),
        ]
    };
    for &(mib, streams) in grid {
        let len = mib * MIB;
        let pinned = pin(device, SOURCE / len, len)?;
        let streams_open = open(device, streams)?;
        let measured = rate(TOTAL, job.repeats, || {
            copy_round(device, &pinned, &streams_open, &target, TOTAL)
        })?;
        emit("pinned", json!({"copy_mib": mib, "streams": streams, "gb_s": measured}));
        best = best.max(measured);
    }
    let pageable = vec![1_u8; SOURCE];
    let streams = open(device, 1)?;
    let measured = rate(SOURCE as u64, job.repeats, || {
        copy_round(device, &[&pageable[..]], &streams, &target, SOURCE as u64)
    })?;
    emit("pageable", json!({"gb_s": measured}));
    if let Some(file) = &job.file {
        for threads in [1, 2, 4, 8, 16] {
            for direct in [false, true] {
                match read_and_copy(device, file, &target, threads, direct) {
                    Ok(gb_s) => emit(
                        "raw file",
                        json!({"direct": direct, "threads": threads, "gb_s": gb_s}),
                    ),
                    Err(error) => emit(
                        "raw file",
                        json!({"direct": direct, "threads": threads, "error": error.to_string()}),
                    ),
                }
            }
        }
        registered(device, file, &target)?;
    }
    Ok(best)
}

fn pin(device: &CudaDevice, count: usize, len: usize) -> Result<Vec<CudaPinned>, Box<dyn Error>> {
    let mut pinned = device.pin_buffers(len, count.max(2))?;
    pinned.iter_mut().for_each(|memory| memory.fill(1));
    Ok(pinned)
}

fn open(device: &CudaDevice, count: usize) -> Result<Vec<CudaStream>, Box<dyn Error>> {
    Ok((0..count).map(|_| device.stream()).collect::<Result<_, _>>()?)
}

/// Copies `total` bytes, source after source, stream after stream.
fn copy_round<S: std::ops::Deref<Target = [u8]>>(
    device: &CudaDevice,
    sources: &[S],
    streams: &[CudaStream],
    target: &CudaMemory,
    total: u64,
) -> Result<(), Box<dyn Error>> {
    let (mut copied, mut offset) = (0, 0);
    for (source, stream) in sources.iter().cycle().zip(streams.iter().cycle()) {
        if copied >= total {
            break;
        }
        let len = source.len() as u64;
        if offset + len > target.len() {
            offset = 0;
        }
        device.copy_to_device(stream, source, target, offset)?;
        offset += len;
        copied += len;
    }
    for stream in streams {
        device.synchronize(stream)?;
    }
    Ok(())
}

/// Reads the whole file into pinned memory and copies it, with nothing between: the ceiling for any loader. Each
/// thread has a stream and two buffers.
fn read_and_copy(
    device: &CudaDevice,
    path: &Path,
    target: &CudaMemory,
    threads: usize,
    direct: bool,
) -> Result<f64, Box<dyn Error>> {
    let mut options = File::options();
    options.read(true);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    // The last bytes, which are no whole read, are left out.
    let reads = file.metadata()?.len() / READ as u64;
    let next = AtomicU64::new(0);
    let mut lanes = Vec::new();
    for _ in 0..threads {
        lanes.push((device.stream()?, pin(device, 2, READ)?));
    }
    let work = |(stream, buffers): (CudaStream, Vec<CudaPinned>)| -> Result<(), String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let event = |buffer| Ok((buffer, device.event()?));
        let buffers = buffers.into_iter().map(event).collect::<Result<Vec<_>, DeviceError>>();
        let mut buffers = buffers.map_err(|error| words(&error))?;
        let mut turn = 0;
        loop {
            let read = next.fetch_add(1, Ordering::Relaxed);
            if read >= reads {
                break;
            }
            let count = buffers.len();
            let Some((buffer, event)) = buffers.get_mut(turn % count) else { break };
            turn += 1;
            while !device.query(event).map_err(|error| words(&error))? {
                std::thread::yield_now();
            }
            let at = read * READ as u64;
            file.read_exact_at(buffer, at).map_err(|error| words(&error))?;
            let offset = at % (TARGET - READ as u64) / READ as u64 * READ as u64;
            device
                .copy_to_device(&stream, buffer, target, offset)
                .map_err(|error| words(&error))?;
            device.record(&stream, event).map_err(|error| words(&error))?;
        }
        device.synchronize(&stream).map_err(|error| words(&error))
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(|| work(lane))).collect();
        for thread in running {
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        Ok::<(), String>(())
    })?;
    Ok(gigabytes(reads * READ as u64) / start.elapsed().as_secs_f64())
}

/// Locks the page cache of the file's tensors and copies from it directly.
fn registered(device: &CudaDevice, path: &Path, target: &CudaMemory) -> Result<(), Box<dyn Error>> {
    let file = TensorFile::open(&Location::File(path.to_owned()), &Limits::default())?;
    let mapped = file.map(&Selection::all())?;
    let stream = device.stream()?;
    let (mut bytes, mut locking, mut copying) = (0, 0.0, 0.0);
    for tensor in mapped.iter().filter(|tensor| tensor.bytes().len() >= MIB) {
        if bytes >= TOTAL {
            break;
        }
        let start = Instant::now();
        let locked = match device.register(tensor.shared_bytes()) {
            Ok(locked) => locked,
            Err(error) => {
                emit("registered page cache", json!({"error": error.to_string()}));
                return Ok(());
            }
        };
        locking += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for chunk in locked.chunks(usize::try_from(TARGET)?) {
            device.copy_to_device(&stream, chunk, target, 0)?;
        }
        device.synchronize(&stream)?;
        copying += start.elapsed().as_secs_f64();
        bytes += locked.len() as u64;
        let start = Instant::now();
        drop(locked);
        locking += start.elapsed().as_secs_f64();
    }
    let (locking, copying) = (gigabytes(bytes) / locking, gigabytes(bytes) / copying);
    emit(
        "registered page cache",
        json!({"bytes": bytes, "lock_and_unlock_gb_s": locking, "copy_gb_s": copying}),
    );
    Ok(())
}
