//! Hostile files in PyTorch's format, made by hand.

use tz_model::{Checkpoint, Error};

use crate::support::{contents, message, painted, write};

/// A stored entry of a hand-made archive.
struct Stored<'a> {
    name: &'a str,
    data: &'a [u8],
    method: u16,
}

fn archive(entries: &[Stored<'_>], long: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = u32::try_from(file.len()).expect("small");
        let len = u32::try_from(entry.data.len()).expect("small");
        let name_len = u16::try_from(entry.name.len()).expect("small");
        let mut common = vec![0, 0, 0, 0];
        common.extend(entry.method.to_le_bytes());
        common.extend([0; 8]);
        let sizes = if long { [u32::MAX, u32::MAX] } else { [len, len] };
        common.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        common.extend(name_len.to_le_bytes());
        let mut extra = Vec::new();
        if long {
            extra.extend([1, 0, 24, 0]);
            for value in [len, len, offset] {
                extra.extend(u64::from(value).to_le_bytes());
            }
        }
        let extra_len = u16::try_from(extra.len()).expect("small");
        directory.extend(b"PK\x01\x02\x00\x00");
        directory.extend(&common);
        directory.extend(extra_len.to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(if long { u32::MAX } else { offset }.to_le_bytes());
        directory.extend(entry.name.as_bytes());
        directory.extend(extra);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend([0; 2]);
        file.extend(entry.name.as_bytes());
        file.extend(entry.data);
    }
    let (start, len) = (file.len() as u64, directory.len() as u64);
    let count = entries.len() as u64;
    file.extend(directory);
    if long {
        let end = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44_u64.to_le_bytes());
        file.extend([0; 12]);
        for value in [count, count, len, start] {
            file.extend(value.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    for value in [count, count] {
        file.extend(
            if long { u16::MAX } else { u16::try_from(value).expect("small") }.to_le_bytes(),
        );
    }
    for value in [len, start] {
        file.extend(
            if long { u32::MAX } else { u32::try_from(value).expect("small") }.to_le_bytes(),
        );
    }
    file.extend([0; 2]);
    file
}

fn stored<'a>(name: &'a str, data: &'a [u8]) -> Stored<'a> {
    Stored { name, data, method: 0 }
}

fn open(file: &[u8]) -> (tempfile::TempDir, Result<Checkpoint, Error>) {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "m.pt", file);
    let opened = Checkpoint::open(dir.path().join("m.pt"));
    (dir, opened)
}

#[track_caller]
fn refused(file: &[u8], expect: &str) {
    let (dir, opened) = open(file);
    let error = opened.expect_err("refused");
    assert_eq!(message(dir.path(), &error), format!("m.pt: {expect}"));
}

/// A pickle of `{'w': tensor}` whose storage is entry `0`, with these integers.
fn pickle(kind: &str, len: u32, offset: u32, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let int = |value: u32| {
        let bytes = value.to_le_bytes();
        vec![b'J', bytes[0], bytes[1], bytes[2], bytes[3]]
    };
    let tuple = |values: &[u32]| {
        let items: Vec<u8> = values.iter().flat_map(|&value| int(value)).collect();
        [b"(", items.as_slice(), b"t"].concat()
    };
    [
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage",
        format!("ctorch\n{kind}\n").as_bytes(),
        b"X\x01\0\0\x000X\x03\0\0\0cpu",
        &int(len),
        b"tQ",
        &int(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

fn model(pickle: &[u8], data: &[u8]) -> Vec<u8> {
    archive(&[stored("m/data.pkl", pickle), stored("m/data/0", data)], false)
}

#[test]
fn hand_made_archives_are_read() {
    let data = painted(24);
    let pickle = pickle("FloatStorage", 6, 1, &[2, 2], &[1, 2]);
    for long in [false, true] {
        let entries = [stored("m/data.pkl", &pickle), stored("m/data/0", &data)];
        let (_dir, opened) = open(&archive(&entries, long));
        let checkpoint = opened.expect("checkpoint");
        let expect = [&data[4..8], &data[12..16], &data[8..12], &data[16..20]].concat();
        assert_eq!(contents(&checkpoint, 0), expect);
    }
}

#[test]
fn tensors_that_do_not_fit_their_storage() {
    let check = |len, offset, shape: &[u32], strides: &[u32], expect: &str| {
        let pickle = pickle("FloatStorage", len, offset, shape, strides);
        refused(&model(&pickle, &painted(24)), &format!("tensor \"w\": {expect}"));
    };
    check(7, 0, &[1], &[1], "it has 24 bytes, its shape needs 28");
    check(6, 0, &[7], &[1], "its last byte is at 28, its storage has 24");
    check(6, 6, &[1], &[1], "its last byte is at 28, its storage has 24");
    check(6, 0, &[2, 2], &[5, 1], "its last byte is at 28, its storage has 24");
    check(6, 0, &[4, 2], &[0, 1], "a view that repeats elements is not supported");
    let huge = i32::MAX.cast_unsigned();
    check(6, 0, &[huge, huge, huge], &[0, 0, 0], "the shape's size overflows");
    let ragged = pickle("FloatStorage", 6, 0, &[2, 2], &[1]);
    let expect = "pickle at offset 124: a tensor has not as many strides as dimensions";
    refused(&model(&ragged, &painted(24)), expect);
}

#[test]
fn archives_that_are_not_checkpoints() {
    let pickle = pickle("FloatStorage", 6, 0, &[6], &[1]);
    let data = painted(24);
    refused(
        &archive(&[stored("m/data/0", &data)], false),
        "a zip archive, but not one that torch.save wrote: it has no data.pkl",
    );
    refused(
        &archive(&[stored("m/data.pkl", &pickle)], false),
        "the archive has no entry \"m/data/0\"",
    );
    let twice = [stored("m/data.pkl", &pickle), stored("m/data.pkl", &pickle)];
    let (_dir, opened) = open(&archive(&twice, false));
    let error = opened.expect_err("twice").to_string();
    assert!(error.ends_with("a name stands twice"), "{error}");
    let compressed = Stored { method: 8, ..stored("m/data/0", &data) };
    refused(
        &archive(&[stored("m/data.pkl", &pickle), compressed], false),
        "the compressed or encrypted archive entry \"data/0\" is not supported",
    );
    let big = stored("m/byteorder", b"big");
    refused(
        &archive(&[stored("m/data.pkl", &pickle), big], false),
        "a PyTorch file of a big-endian machine is not supported",
    );
}

#[track_caller]
fn bad_pickle(pickle: &[u8], offset: u64, expect: &str) {
    refused(&model(pickle, &[]), &format!("pickle at offset {offset}: {expect}"));
}

#[test]
fn pickles_that_do_not_hold_together() {
    bad_pickle(b"", 0, "the pickle is cut short");
    bad_pickle(b"\x80\x06.", 0, "unknown pickle protocol");
    bad_pickle(b".", 0, "the stack is empty");
    bad_pickle(b"}(0", 2, "the stack is empty");
    bad_pickle(b"t", 0, "there is no mark");
    bad_pickle(b"}h\x07.", 1, "the memo has no such entry");
    bad_pickle(b"X\xff\xff\xff\xffa", 0, "the pickle is cut short");
    bad_pickle(b"X\x01\0\0\0\xff", 0, "text is not UTF-8");
    bad_pickle(b"ctorch", 0, "a line has no end");
    bad_pickle(b"}K\x01a", 3, "items are added to something that is not a list");
    bad_pickle(b"]K\x01K\x02s", 5, "items are set in something that is not a dict");
    bad_pickle(b"}(K\x01u", 4, "a key has no value");
    bad_pickle(b"]}b", 2, "attributes are set on something that is not a dict");
    bad_pickle(b"}}R", 2, "something that is not a function is called");
    bad_pickle(b"ctorch\nFloatStorage\n)R", 21, "a storage or dtype is called");
    bad_pickle(b"K\x01Q", 2, "a persistent id is not that of a storage");
    bad_pickle(b"ccollections\nOrderedDict\nK\x01R", 27, "an OrderedDict is not made empty");
    // `INST`, `OBJ`, `NEWOBJ`, `BUILD` by name: ways to call something.
    for opcode in [&b"(ios\nsystem\n"[..], b"o", b"\x81", b"\x92", b"P0\n", b"I1\n", b"\x82\x01"] {
        bad_pickle(opcode, u64::from(opcode[0] == b'('), "an opcode that tensors do not need");
    }
}

#[test]
fn names_that_are_refused() {
    let globals: [&[u8]; 4] = [
        b"cposix\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_rebuild_parameter_with_state\n.",
    ];
    for (pickle, name) in globals.iter().zip([
        "posix.system",
        "posix.system",
        "torch.load",
        "torch._utils._rebuild_parameter_with_state",
    ]) {
        let expect =
            format!("the pickle names {name:?}, which is not part of a tensor, and is refused");
        refused(&model(pickle, &[]), &expect);
    }
}

/// Refused, and with no more memory than a few hundred megabytes on the way.
#[track_caller]
fn bounded(file: &[u8], expect: &str) {
    let usage = allocation_counter::measure(|| refused(file, expect));
    let limit = 512 << 20;
    assert!(usage.bytes_max < limit, "{} bytes", usage.bytes_max);
}

#[test]
fn structures_that_would_take_all_memory() {
    let nested = "dicts and lists in the pickle are nested too deeply or too often";
    // A list that holds itself.
    let circle = b"}X\x01\0\0\0a]q\0h\0as.";
    bounded(&model(circle, &[]), nested);
    // Forty dicts, each naming the one before it twice.
    let mut laughs = b"}q\0".to_vec();
    for i in 0..40 {
        laughs.extend([b'0', b'}', b'K', 0, b'h', i, b's', b'K', 1, b'h', i, b's', b'q', i + 1]);
    }
    laughs.push(b'.');
    bounded(&model(&laughs, &[]), nested);
    // Thirty levels only, but two to the power of thirty values.
    let mut wide = b"}q\0".to_vec();
    for i in 0..30 {
        wide.extend([b'0', b'}', b'K', 0, b'h', i, b's', b'K', 1, b'h', i, b's', b'q', i + 1]);
    }
    wide.push(b'.');
    bounded(&model(&wide, &[]), nested);
    // Opcodes without end.
    let mut many = vec![b']'; 5_000_000];
    many.push(b'.');
    let expect = "pickle at offset 4000000: more opcodes than any checkpoint has";
    bounded(&model(&many, &[]), expect);
    // One long name, given to many.
    let mut long = b"}X\0\0\x10\0".to_vec();
    long.extend(vec![b'n'; 1 << 20]);
    long.extend(b"q\0]q\x01(");
    long.extend(b"}h\0K\x01s".repeat(10_000));
    long.extend(b"es.");
    bounded(&model(&long, &[]), nested);
    let keys = "a dict in the pickle has a key that is neither text nor a non-negative integer";
    refused(&model(b"}NNs.", &[]), keys);
    refused(&model(b"}J\xff\xff\xff\xffNs.", &[]), keys);
}
