//! Cases about the device itself: memory, copies, events, refusals.

use tz_io::testing::paint;

use super::Case;
use crate::bus::Bus;
use crate::device::{ALIGNMENT, Device, DeviceMemory as _};
use crate::error::{DeviceError, MemoryKind};

/// Lengths around what hardware and drivers treat apart: a byte, a word, a line, a page, 64 KiB, some MiB.
const LENS: &[usize] =
    &[1, 2, 3, 255, 256, 257, 4095, 4096, 4097, 65_535, 65_536, 65_537, (3 << 20) + 1];

/// An allocation that every device has room for, and that shows in its free memory.
const LARGE: u64 = 32 << 20;

pub(super) fn cases<D: Device>() -> Vec<Case<D>> {
    vec![
        Case { name: "bytes of every length go there and back", run: there_and_back },
        Case { name: "allocations are aligned and apart", run: aligned_and_apart },
        Case { name: "an event completes after the copies before it", run: events_follow_copies },
        Case { name: "copies on a stream happen in order", run: streams_are_ordered },
        Case { name: "streams work from several threads", run: threads },
        Case { name: "pinned memory is the CPU's to read and write", run: pinned },
        Case { name: "memory is filled with zeros where it is asked for", run: zeros },
        Case { name: "what leaves its allocation is refused", run: out_of_range },
        Case { name: "freed memory can be had again", run: memory_returns },
        Case { name: "more memory than there is is refused", run: out_of_memory },
        Case { name: "the bus is measured with copies of any length", run: bus },
    ]
}

/// Copies `bytes` through pinned memory to `offset` and waits by asking for the event.
fn put<D: Device>(device: &D, memory: &D::Memory, offset: u64, bytes: &[u8]) {
    let stream = device.stream().expect("a stream");
    let mut pinned = device.pin(bytes.len()).expect("pinned memory");
    pinned.copy_from_slice(bytes);
    device.copy_to_device(&stream, &pinned, memory, offset).expect("a copy");
    let mut event = device.event().expect("an event");
    device.record(&stream, &mut event).expect("a recorded event");
    while !device.query(&event).expect("an answer") {
        std::hint::spin_loop();
    }
}

fn get<D: Device>(device: &D, memory: &D::Memory, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    device.copy_to_host(memory, offset, &mut bytes).expect("a copy back");
    bytes
}

fn there_and_back<D: Device>(device: &D) {
    for &len in LENS {
        let painted = paint(1, len as u64);
        let memory = device.allocate(len as u64 + 1).expect("memory");
        put(device, &memory, 1, &painted);
        assert!(get(device, &memory, 1, len) == painted, "{len} bytes");
    }
}

fn aligned_and_apart<D: Device>(device: &D) {
    let memories = LENS.iter().map(|&len| device.allocate(len as u64).expect("memory"));
    let mut ranges: Vec<_> =
        memories.map(|memory| (memory.address(), memory.len(), memory)).collect();
    ranges.sort_by_key(|&(address, ..)| address);
    let mut end = 0;
    for &(address, len, _) in &ranges {
        assert!(address % ALIGNMENT == 0 && address >= end, "{len} bytes at {address:#x}");
        end = address + len;
    }
}

fn events_follow_copies<D: Device>(device: &D) {
    let stream = device.stream().expect("a stream");
    let len = 1 << 20;
    let mut pinned = device.pin(len).expect("pinned memory");
    let memory = device.allocate(len as u64).expect("memory");
    let mut event = device.event().expect("an event");
    assert!(device.query(&event).expect("an answer"), "there is nothing to wait for");
    for round in 0..8 {
        let painted = paint(round, len as u64);
        pinned.copy_from_slice(&painted);
        device.copy_to_device(&stream, &pinned, &memory, 0).expect("a copy");
        device.record(&stream, &mut event).expect("a recorded event");
        while !device.query(&event).expect("an answer") {
            std::hint::spin_loop();
        }
        assert!(device.query(&event).expect("an answer"), "completed once is completed");
        assert!(get(device, &memory, 0, len) == painted, "round {round}");
    }
}

fn streams_are_ordered<D: Device>(device: &D) {
    let stream = device.stream().expect("a stream");
    let memory = device.allocate(4096).expect("memory");
    let mut sources = Vec::new();
    for round in 0..50 {
        let mut pinned = device.pin(4096).expect("pinned memory");
        pinned.fill(round);
        device.copy_to_device(&stream, &pinned, &memory, 0).expect("a copy");
        sources.push(pinned);
    }
    device.synchronize(&stream).expect("an end");
    assert_eq!(get(device, &memory, 0, 4096), [49; 4096]);
}

fn threads<D: Device>(device: &D) {
    let part = 256 << 10;
    let memory = device.allocate(8 * part).expect("memory");
    std::thread::scope(|scope| {
        for i in 0..8_u8 {
            let memory = &memory;
            scope.spawn(move || {
                let bytes = paint(i.into(), part);
                put(device, memory, u64::from(i) * part, &bytes);
            });
        }
    });
    for i in 0..8_u8 {
        let len = usize::try_from(part).expect("a small number");
        let back = get(device, &memory, u64::from(i) * part, len);
        assert!(back == paint(i.into(), part), "part {i}");
    }
}

fn pinned<D: Device>(device: &D) {
    for &len in LENS {
        let mut memory = device.pin(len).expect("pinned memory");
        assert_eq!(memory.len(), len);
        let painted = paint(3, len as u64);
        memory.copy_from_slice(&painted);
        assert!(*memory == painted, "{len} bytes");
    }
    let mut buffers = device.pin_buffers(4096, 100).expect("pinned memory");
    for (i, buffer) in (0..).zip(&mut buffers) {
        buffer.copy_from_slice(&paint(i, 4096));
    }
    // The others keep theirs, whichever go.
    let mut kept = (0..).zip(buffers).filter(|(i, _)| i % 3 == 1);
    assert!(kept.all(|(i, buffer)| *buffer == paint(i, 4096)));
    assert_eq!(device.pin_buffers(0, 3).expect("nothing, thrice").len(), 3);
}

fn zeros<D: Device>(device: &D) {
    let stream = device.stream().expect("a stream");
    let memory = device.allocate(1000).expect("memory");
    put(device, &memory, 0, &[7; 1000]);
    device.fill_zero(&stream, &memory, 10, 980).expect("a fill");
    device.fill_zero(&stream, &memory, 1000, 0).expect("a fill of nothing");
    device.synchronize(&stream).expect("an end");
    let back = get(device, &memory, 0, 1000);
    let expect = |i| if (10..990).contains(&i) { 0 } else { 7 };
    assert!(back.iter().enumerate().all(|(i, &byte)| byte == expect(i)));
}

fn out_of_range<D: Device>(device: &D) {
    let stream = device.stream().expect("a stream");
    let memory = device.allocate(100).expect("memory");
    let source = device.pin(101).expect("pinned memory");
    let refused = |result: Result<(), DeviceError>| {
        assert!(matches!(result, Err(DeviceError::OutOfRange { allocation: 100, .. })));
    };
    refused(device.copy_to_device(&stream, &source, &memory, 0));
    refused(device.copy_to_device(&stream, source.get(..1).unwrap_or_default(), &memory, 100));
    refused(device.copy_to_device(&stream, &source, &memory, u64::MAX));
    refused(device.fill_zero(&stream, &memory, 1, 100));
    refused(device.fill_zero(&stream, &memory, u64::MAX, 2));
    refused(device.copy_to_host(&memory, 0, &mut [0; 101]));
    refused(device.copy_to_host(&memory, 101, &mut []));
    put(device, &memory, 99, &[1]);
}

fn memory_returns<D: Device>(device: &D) {
    let free = || device.memory_info().expect("numbers").free;
    let before = free();
    for _ in 0..3 {
        let memory = device.allocate(LARGE).expect("memory");
        // Half, because drivers hand memory out in pages and other processes use it too.
        assert!(free() <= before - LARGE / 2);
        drop(memory);
        assert!(free() >= before - LARGE / 2);
    }
}

fn out_of_memory<D: Device>(device: &D) {
    let total = device.memory_info().expect("numbers").total;
    match device.allocate(total + 1) {
        Err(DeviceError::OutOfMemory { memory: MemoryKind::Device, needed, .. }) => {
            assert_eq!(needed, total + 1);
        }
        other => panic!("{other:?}"),
    }
    let memory = device.allocate(3).expect("the device is usable still");
    put(device, &memory, 0, &[1, 2, 3]);
}

fn bus<D: Device>(device: &D) {
    for bytes in [0, 1, 4097, 40 << 20] {
        let bus = Bus::new(device.clone(), bytes).expect("memory");
        bus.copy(bytes).expect("copies");
        bus.copy(3 * bytes + 1).expect("more copies than there is memory");
    }
}
