//! Cases about loading files: every byte in place, in bounded memory, and nothing left behind by a failure.

use half::bf16;
use tz_format::{ByteOrder, Element, TensorSpec};
use tz_io::{HostTensor, IoError, ReadOptions, Selection};

use super::{Case, TestFile};
use crate::device::{ALIGNMENT, Device};
use crate::dlpack::{DLManagedTensor, DLManagedTensorVersioned, ManagedTensor};
use crate::error::GpuError;
use crate::loader::{GpuLoader, GpuOptions};
use crate::schedule::Placement;
use crate::shards::{Shard, load_shards};
use crate::tensor::DeviceTensors;

pub(super) fn cases<D: Device>() -> Vec<Case<D>> {
    vec![
        Case { name: "every byte of every kind of tensor arrives", run: every_byte },
        Case { name: "a ring of one buffer finishes", run: one_buffer },
        Case { name: "tensors of their own allocation arrive too", run: per_tensor },
        Case { name: "selected tensors arrive alone", run: selection },
        Case { name: "floats are cast, other types are not", run: casts },
        Case { name: "tensors outlive their loader", run: outlive },
        Case { name: "memory returns with the last tensor of an arena", run: arena_returns },
        Case { name: "DLPack exports keep their memory and free it", run: dlpack },
        Case { name: "a corrupt file leaves nothing on the device", run: corrupt },
        Case { name: "a loader that failed loads again", run: again },
        Case { name: "shards load side by side", run: shards },
    ]
}

fn options(buffer_bytes: usize, buffers: u64) -> GpuOptions {
    // The 64 KiB that readers keep in every buffer for headers come on top.
    let memory_limit = Some((buffer_bytes as u64 + (64 << 10)) * buffers);
    GpuOptions { buffer_bytes, memory_limit, ..GpuOptions::local() }
}

fn load<D: Device>(device: &D, file: &TestFile, options: GpuOptions) -> DeviceTensors {
    let mut loader = GpuLoader::new(device.clone(), options).expect("a loader");
    let loaded = loader.load(&file.open(), &Selection::all(), &ReadOptions::default());
    loaded.expect("loaded tensors")
}

/// The bytes as a device has them: least significant first.
pub(super) fn little_endian(tensor: &HostTensor) -> Vec<u8> {
    let mut bytes = tensor.bytes().to_vec();
    let dtype = tensor.entry().dtype;
    if dtype.byte_order() == ByteOrder::Big {
        let word = usize::try_from(dtype.word_size()).expect("some bytes");
        bytes.chunks_exact_mut(word).for_each(<[u8]>::reverse);
    }
    bytes
}

fn check(file: &TestFile, loaded: &DeviceTensors) {
    let host = file.on_host();
    assert_eq!(host.len(), loaded.len());
    for (expect, tensor) in host.iter().zip(loaded) {
        let name = expect.entry().path.to_string();
        assert_eq!(tensor.entry(), expect.entry());
        assert_eq!(tensor.element(), expect.entry().dtype.element(), "{name}");
        assert!(tensor.byte_len() == 0 || tensor.address().is_multiple_of(ALIGNMENT), "{name}");
        assert!(tensor.to_host().expect("its bytes") == little_endian(expect), "{name}");
    }
}

fn every_byte<D: Device>(device: &D) {
    let file = TestFile::mixed();
    for (buffer_bytes, buffers) in [(4096, 3), (1 << 20, 2), (2 << 20, 16)] {
        check(&file, &load(device, &file, options(buffer_bytes, buffers)));
    }
}

fn one_buffer<D: Device>(device: &D) {
    let file = TestFile::mixed();
    let loaded = load(device, &file, options(64 << 10, 1));
    check(&file, &loaded);
    let copy = loaded.stats().copy;
    assert_eq!(copy.pinned_bytes, 128 << 10);
    assert!(copy.buffers > 10, "the one buffer went round: {copy:?}");
}

fn per_tensor<D: Device>(device: &D) {
    let file = TestFile::mixed();
    let options = GpuOptions { placement: Placement::PerTensor, ..options(1 << 20, 4) };
    check(&file, &load(device, &file, options));
}

fn selection<D: Device>(device: &D) {
    let file = TestFile::mixed();
    let mut loader = GpuLoader::new(device.clone(), GpuOptions::local()).expect("a loader");
    let wanted = Selection::globs(&["norm.2*", "meta"]).expect("globs");
    let loaded = loader.load(&file.open(), &wanted, &ReadOptions::default());
    let loaded = loaded.expect("loaded tensors");
    assert_eq!(loaded.len(), 112);
    let host = file.on_host();
    for tensor in &loaded {
        let name = tensor.entry().path.to_string();
        let expect = host.get(&name).expect("the same tensor").bytes();
        assert!(tensor.to_host().expect("its bytes") == expect, "{name}");
    }
}

fn casts<D: Device>(device: &D) {
    let elements = [Element::Float32, Element::Bfloat16, Element::Int32];
    let mut specs = Vec::new();
    for (i, element) in elements.into_iter().cycle().take(30).enumerate() {
        let len = [0, 1, 1023, 40_000, 300_001].into_iter().cycle().nth(i).unwrap_or(0);
        specs.push(TensorSpec::new(format!("t{i}"), element, vec![len]));
    }
    let file = TestFile::new(specs);
    let host = file.on_host();
    for target in [Element::Float32, Element::Bfloat16] {
        let options = GpuOptions { dtype: Some(target), ..options(256 << 10, 3) };
        let loaded = load(device, &file, options);
        for (source, tensor) in host.iter().zip(&loaded) {
            let name = source.entry().path.to_string();
            let bytes = source.bytes();
            let source = source.entry().dtype.element();
            let (words, halves) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
            let expect: Vec<u8> = match (source, target) {
                (Element::Float32, Element::Bfloat16) => words
                    .iter()
                    .flat_map(|word| bf16::from_f32(f32::from_le_bytes(*word)).to_le_bytes())
                    .collect(),
                (Element::Bfloat16, Element::Float32) => halves
                    .iter()
                    .flat_map(|half| bf16::from_le_bytes(*half).to_f32().to_le_bytes())
                    .collect(),
                _ => bytes.to_vec(),
            };
            let kept = source == Element::Int32;
            assert_eq!(tensor.element(), if kept { source } else { target }, "{name}");
            assert!(tensor.to_host().expect("its bytes") == expect, "{name} to {target:?}");
        }
    }
}

fn outlive<D: Device>(device: &D) {
    let file = TestFile::mixed();
    let tensor = load(device, &file, GpuOptions::local()).get("large").cloned();
    let expect = file.on_host();
    let expect = expect.get("large").expect("the same tensor").bytes();
    assert!(tensor.expect("a tensor").to_host().expect("its bytes") == expect);
}

fn arena_returns<D: Device>(device: &D) {
    const BYTES: u64 = 32 << 20;
    let specs = (0..2).map(|i| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![BYTES / 2]));
    let file = TestFile::new(specs.collect());
    let free = || device.memory_info().expect("numbers").free;
    let before = free();
    let loaded = load(device, &file, GpuOptions::local());
    let copy = loaded.stats().copy;
    assert!(copy.device_bytes < BYTES + 2 * ALIGNMENT, "{copy:?}");
    let last = loaded.iter().last().cloned();
    drop(loaded);
    assert!(free() <= before - BYTES / 2, "one tensor keeps the arena");
    drop(last);
    assert!(free() >= before - BYTES / 2);
}

fn dlpack<D: Device>(device: &D) {
    let specs = vec![TensorSpec::new("t", Element::Bfloat16, vec![1 << 12, 1 << 12])];
    let file = TestFile::new(specs);
    let bytes = 32_u64 << 20;
    let free = || device.memory_info().expect("numbers").free;
    let before = free();
    let tensor = load(device, &file, GpuOptions::local()).into_iter().next().expect("a tensor");
    let address = tensor.address();
    let old = ManagedTensor::<DLManagedTensor>::new(&tensor).expect("an export");
    let new = ManagedTensor::<DLManagedTensorVersioned>::new(&tensor).expect("an export");
    drop(tensor);
    for exported in [old.tensor(), new.tensor()] {
        assert_eq!(exported.data.addr() as u64, address);
        assert_eq!((exported.ndim, exported.byte_offset), (2, 0));
    }
    assert!(free() <= before - bytes / 2, "exports keep the memory");
    drop(old);
    assert!(free() <= before - bytes / 2, "the second export keeps it too");
    drop(new);
    assert!(free() >= before - bytes / 2);
}

fn corrupt<D: Device>(device: &D) {
    let file = TestFile::new(vec![TensorSpec::new("t", Element::Uint8, vec![32 << 20])]);
    let opened = file.open();
    let data_end = opened.entries().iter().map(tz_format::TensorEntry::data_end).max();
    file.flip(data_end.expect("a tensor") - 1);
    let free = || device.memory_info().expect("numbers").free;
    let mut loader = GpuLoader::new(device.clone(), GpuOptions::local()).expect("a loader");
    let before = free();
    match loader.load(&opened, &Selection::all(), &ReadOptions::default()) {
        Err(GpuError::Io(IoError::Corrupt { failures, .. })) => assert_eq!(failures.len(), 1),
        other => panic!("{other:?}"),
    }
    assert!(free() >= before - (16 << 20));
}

fn again<D: Device>(device: &D) {
    let (good, bad) = (TestFile::mixed(), TestFile::mixed());
    let opened = bad.open();
    bad.flip(opened.entries().first().expect("a tensor").data_end() + 4096);
    let mut loader = GpuLoader::new(device.clone(), options(64 << 10, 3)).expect("a loader");
    for _ in 0..3 {
        let failed = loader.load(&opened, &Selection::all(), &ReadOptions::default());
        assert!(failed.is_err());
        let loaded = loader.load(&good.open(), &Selection::all(), &ReadOptions::default());
        check(&good, &loaded.expect("loaded tensors"));
    }
}

fn shards<D: Device>(device: &D) {
    let files = [TestFile::mixed(), TestFile::mixed(), TestFile::mixed()];
    let opened: Vec<_> = files.iter().map(TestFile::open).collect();
    let loader = || GpuLoader::new(device.clone(), options(256 << 10, 4)).expect("a loader");
    let mut loaders = [loader(), loader(), loader()];
    let all = Selection::all();
    let mut shards: Vec<_> = loaders
        .iter_mut()
        .zip(&opened)
        .map(|(loader, file)| Shard { loader, file, selection: &all })
        .collect();
    let loaded = load_shards(&mut shards, &ReadOptions::default()).expect("loaded shards");
    for (file, loaded) in files.iter().zip(&loaded) {
        check(file, loaded);
    }
}
