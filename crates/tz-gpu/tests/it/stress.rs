//! Many orders of completion, many readers, few buffers: every byte arrives, memory stays in bounds.

use tz_format::{Element, TensorSpec};
use tz_gpu::testing::TestFile;
use tz_gpu::{GpuLoader, GpuOptions, Placement, Shard, SimDevice, SimOptions, load_shards};
use tz_io::{Key, Location, OpenOptions, ReadOptions, Secret, Selection, TensorFile};

const PINNED_BUFFER: u64 = 68 << 10;

fn file() -> TestFile {
    let spec =
        |i: u64| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![1 + i * 997 % 20_000]);
    TestFile::new((0..120).map(spec).collect())
}

fn options(buffers: u64, streams: usize) -> GpuOptions {
    let mut options = GpuOptions::local();
    options.buffer_bytes = 4096;
    options.memory_limit = Some(buffers * PINNED_BUFFER);
    options.streams = streams;
    options
}

fn sim(seed: u64, delay: u64) -> SimDevice {
    let mut options = SimOptions::default();
    options.seed = seed;
    options.delay = delay;
    SimDevice::new(options)
}

#[test]
fn any_ring_any_order_every_byte() {
    let file = file();
    let (opened, host) = (file.open(), file.on_host());
    let mut read = ReadOptions::default();
    for (seed, buffers, streams, readers, delay) in [
        (1, 1, 1, 1, 1),
        (2, 1, 4, 8, 30),
        (3, 2, 1, 8, 30),
        (4, 2, 3, 2, 7),
        (5, 3, 2, 16, 3),
        (6, 7, 5, 3, 50),
        (7, 64, 2, 8, 9),
        (8, 64, 8, 16, 100),
    ] {
        let device = sim(seed, delay);
        read.readers = Some(readers);
        let mut loader = GpuLoader::new(device.clone(), options(buffers, streams)).unwrap();
        let loaded = loader.load(&opened, &Selection::all(), &read).unwrap();
        for (expect, tensor) in host.iter().zip(&loaded) {
            assert!(tensor.to_host().unwrap() == expect.bytes(), "seed {seed}, {tensor:?}");
        }
        let usage = device.usage();
        assert!(usage.peak_pinned_bytes <= buffers * PINNED_BUFFER, "seed {seed}: {usage:?}");
        let tensor_bytes: u64 = host.iter().map(|tensor| tensor.bytes().len() as u64).sum();
        let padding = 256 * host.len() as u64;
        assert!(usage.peak_device_bytes <= tensor_bytes + padding, "seed {seed}: {usage:?}");
        assert_eq!(device.violations(), Vec::<String>::new(), "seed {seed}");
    }
}

/// Buffers that come back are used again before fresh ones: what is read stays in a cache.
#[test]
fn no_more_buffers_are_used_than_readers_have_in_hand() {
    let spec = |i| TensorSpec::new(format!("t{i}"), Element::Float32, vec![50_000]);
    let opened = TestFile::new((0..40).map(spec).collect()).open();
    let mut options = GpuOptions::local();
    options.buffer_bytes = 64 << 10;
    options.memory_limit = Some(64 * (128 << 10));
    let mut read = ReadOptions::default();
    for readers in [1, 3, 8] {
        let device = sim(1, 0);
        read.readers = Some(readers);
        let mut loader = GpuLoader::new(device.clone(), options).unwrap();
        let loaded = loader.load(&opened, &Selection::all(), &read).unwrap();
        assert!(loaded.stats().copy.buffers > 50, "{:?}", loaded.stats().copy);
        let usage = device.usage();
        assert!(usage.buffers_used <= readers as u64 + 2, "{readers} readers: {usage:?}");
        assert!(usage.events <= usage.buffers_used + 2, "{usage:?}");
        assert_eq!(usage.pinned_allocations, 1);
    }
}

#[test]
fn small_tensors_travel_together() {
    let spec = |i| TensorSpec::new(format!("norm.{i}"), Element::Float32, vec![100]);
    let file = TestFile::new((0..1000).map(spec).collect());
    let device = sim(1, 3);
    let mut loader = GpuLoader::new(device.clone(), GpuOptions::local()).unwrap();
    let loaded = loader.load(&file.open(), &Selection::all(), &ReadOptions::default()).unwrap();
    let copy = loaded.stats().copy;
    assert_eq!(copy.copies, copy.buffers, "one copy a buffer: {copy:?}");
}

#[test]
fn every_device_gets_its_shard() {
    let files = [file(), file(), file(), file()];
    let opened: Vec<_> = files.iter().map(TestFile::open).collect();
    let devices: Vec<_> = (1..=4).map(|seed| sim(seed, 6)).collect();
    let mut per_tensor = options(3, 2);
    per_tensor.placement = Placement::PerTensor;
    let loaders = devices.iter().map(|device| GpuLoader::new(device.clone(), per_tensor));
    let mut loaders: Vec<_> = loaders.collect::<Result<_, _>>().unwrap();
    let all = Selection::all();
    let mut shards: Vec<_> = loaders
        .iter_mut()
        .zip(&opened)
        .map(|(loader, file)| Shard { loader, file, selection: &all })
        .collect();
    let loaded = load_shards(&mut shards, &ReadOptions::default()).unwrap();
    for ((file, device), loaded) in files.iter().zip(&devices).zip(&loaded) {
        let bytes: u64 = file.on_host().iter().map(|tensor| tensor.bytes().len() as u64).sum();
        assert_eq!(device.usage().device_bytes, bytes, "its own shard and nothing else");
        assert_eq!(loaded.len(), 120);
    }
}

#[test]
fn a_shard_that_fails_stops_the_others_and_is_the_one_reported() {
    let files = [file(), file()];
    let opened: Vec<_> = files.iter().map(TestFile::open).collect();
    let mut tiny = SimOptions::default();
    tiny.memory = 10;
    let devices = [sim(1, 6), SimDevice::new(tiny)];
    let loaders = devices.iter().map(|device| GpuLoader::new(device.clone(), options(3, 2)));
    let mut loaders: Vec<_> = loaders.collect::<Result<_, _>>().unwrap();
    let all = Selection::all();
    let mut shards: Vec<_> = loaders
        .iter_mut()
        .zip(&opened)
        .map(|(loader, file)| Shard { loader, file, selection: &all })
        .collect();
    let error = load_shards(&mut shards, &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("device memory"), "{error}");
    drop(shards);
    drop(loaders);
    for device in &devices {
        assert_eq!((device.usage().device_bytes, device.usage().pinned_bytes), (0, 0));
        assert_eq!(device.violations(), Vec::<String>::new());
    }
}

/// Readers of an encrypted file wait for headers that other readers bring; so no reader may be left without a buffer.
#[test]
fn an_encrypted_file_loads_with_few_buffers_and_many_readers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/foreign/v3_enc_key.tensors");
    let key: Vec<u8> = (0..32).collect();
    let mut open = OpenOptions::default();
    open.secrets = vec![Secret::Key(Key::from_bytes(&key).unwrap())];
    let file = TensorFile::open_with(&Location::File(path.into()), &open).unwrap();
    let host = file.load(&Selection::all(), &ReadOptions::default()).unwrap();
    let data = 2 << 20;
    let buffer = data as u64 + (64 << 10);
    let mut read = ReadOptions::default();
    read.readers = Some(8);
    for pinnable in [1, 2, 8] {
        for seed in 1..10 {
            let mut options = SimOptions::default();
            options.seed = seed;
            options.pinnable = pinnable * buffer;
            let device = SimDevice::new(options);
            let mut ring = GpuOptions::local();
            ring.buffer_bytes = data;
            ring.memory_limit = Some(8 * buffer);
            let mut loader = GpuLoader::new(device.clone(), ring).unwrap();
            let loaded = loader.load(&file, &Selection::all(), &read).unwrap();
            for (expect, tensor) in host.iter().zip(&loaded) {
                assert!(tensor.to_host().unwrap() == expect.bytes(), "{pinnable}, seed {seed}");
            }
            assert_eq!(device.violations(), Vec::<String>::new());
        }
    }
}
