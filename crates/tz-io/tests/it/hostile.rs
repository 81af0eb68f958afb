//! Damaged files are refused or read, and never end the process: no panic, no memory beyond what bytes justify.

use std::io::Cursor;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use tz_crypto::{FileSealer, Key, SealSecret, Secret};
use tz_format::{
    Element, FileHeader, Flags, HashKind, Layout, LayoutOptions, PathKey, TensorPath, TensorSpec,
    Version,
};
use tz_io::testing::{FaultSource, MemoryFile, exercise};
use tz_io::{IoError, LocalFile, OpenOptions, Piece, RangeRead, StreamSource};

use crate::model::{Model, all, load, open_source, open_stream, pool, readers, write_options};

/// Heap that a file of some kilobytes may take while it is read: the first read of a front (512 KiB), a piece of a
/// scan (1 MiB), the longest header that limits admit (4 MiB, of which hashing takes a copy), and what is decoded.
const MAX_HEAP: u64 = 12 << 20;

fn specs() -> Vec<TensorSpec> {
    let nested = |keys: Vec<PathKey>| TensorPath::new(keys).expect("keys");
    let mut meta = TensorSpec::new("meta", Element::Float16, vec![2, 3]);
    meta.meta = true;
    vec![
        TensorSpec::new("weight", Element::Bfloat16, vec![8, 4]),
        TensorSpec::new(nested(vec!["list".into(), 0.into()]), Element::Uint8, vec![5000]),
        TensorSpec::new(nested(vec!["list".into(), 1.into()]), Element::Float64, vec![]),
        meta,
        TensorSpec::new("empty", Element::Int64, vec![0, 7]),
    ]
}

/// A small file of every kind, and what opens it.
static FILES: LazyLock<Vec<(Vec<u8>, OpenOptions)>> = LazyLock::new(|| {
    let key = || Key::from_bytes(&[7; 32]).expect("32 bytes");
    let model = Model::painted(specs());
    let mut rich = write_options();
    rich.alignment = 64;
    rich.hashes = vec![HashKind::Sha256, HashKind::Crc32];
    rich.blake3 = true;
    let pair = ("key".to_owned(), "value".into());
    rich.user_metadata = Some(std::iter::once(pair).collect());
    let mut packed = write_options();
    packed.alignment = 1;
    packed.hashes.clear();
    let mut long = specs();
    long.push(TensorSpec::new("long", Element::Uint8, vec![1 << 33, 0]));
    let long = Model::painted(long).file(&rich);
    let secret = || SealSecret::Key(key());
    let mut compat = write_options();
    compat.alignment = 1;
    compat.seal = Some(Arc::new(FileSealer::compat(&secret(), 1024).expect("chunk size")));
    let mut sealed = compat.clone();
    sealed.seal = Some(Arc::new(FileSealer::sealed(&[secret()], 4096).expect("chunk size")));
    let mut with_key = OpenOptions::default();
    with_key.secrets = vec![Secret::Key(key())];
    vec![
        (model.file(&rich), OpenOptions::default()),
        (model.file(&packed), OpenOptions::default()),
        (long, OpenOptions::default()),
        (model.file(&compat), with_key.clone()),
        (model.file(&sealed), with_key),
    ]
});

fn memory(bytes: &[u8]) -> Box<dyn RangeRead> {
    Box::new(MemoryFile::new(bytes))
}

fn piped(bytes: &[u8]) -> Box<dyn RangeRead> {
    Box::new(StreamSource::new(Box::new(Cursor::new(bytes.to_vec())), "pipe"))
}

/// A local file, which alone can be mapped.
fn local(bytes: &[u8]) -> Box<dyn RangeRead> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("written");
    Box::new(LocalFile::open(file.path()).expect("open"))
}

/// Does everything with the file in the calling thread, where its heap is measured.
fn survive(bytes: &[u8], options: &OpenOptions) {
    for make in [memory, piped, local] {
        let measured = allocation_counter::measure(|| {
            exercise(|| make(bytes), options);
        });
        assert!(measured.bytes_max < MAX_HEAP + 4 * bytes.len() as u64, "{measured:?}");
    }
}

/// One wound. Places are fractions of the file, so that they shrink with it; most hit the front, where the rules are.
#[derive(Debug, Clone)]
enum Wound {
    Byte { place: f64, value: u8 },
    Number { place: f64, value: u64, width: usize },
    Truncate { place: f64 },
    Append { len: usize },
    Copy { from: f64, to: f64, len: usize },
    Remove { place: f64, len: usize },
}

/// Numbers at which lengths and offsets go wrong.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![
        0,
        1,
        255,
        4096,
        65_535,
        1 << 20,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 40,
        1 << 46,
        1 << 62,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 7,
        u64::MAX,
    ]);
    prop_oneof![edge, any::<u64>(), 0..10_000_u64]
}

fn wound() -> impl Strategy<Value = Wound> {
    // The front is a tenth of the file or less.
    let place = || prop_oneof![3 => 0.0..0.1, 1 => 0.0..1.0];
    let width = prop::sample::select(vec![2_usize, 4, 8]);
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(place, value)| Wound::Byte { place, value }),
        4 => (place(), number(), width)
            .prop_map(|(place, value, width)| Wound::Number { place, value, width }),
        1 => (0.0..1.0).prop_map(|place| Wound::Truncate { place }),
        1 => (1..5000_usize).prop_map(|len| Wound::Append { len }),
        1 => (place(), place(), 1..200_usize)
            .prop_map(|(from, to, len)| Wound::Copy { from, to, len }),
        1 => (place(), 1..20_usize).prop_map(|(place, len)| Wound::Remove { place, len }),
    ]
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a fraction of the length of a small file"
)]
fn at(place: f64, len: usize) -> usize {
    (place * len as f64) as usize
}

fn hurt(bytes: &mut Vec<u8>, wound: &Wound) {
    let len = bytes.len();
    match *wound {
        Wound::Byte { place, value } => {
            if let Some(byte) = bytes.get_mut(at(place, len)) {
                *byte = value;
            }
        }
        Wound::Number { place, value, width } => {
            let place = at(place, len);
            if let Some(field) = bytes.get_mut(place..place + width) {
                field.copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        Wound::Truncate { place } => bytes.truncate(at(place, len)),
        Wound::Append { len: more } => bytes.resize(len + more, 0x5a),
        Wound::Copy { from, to, len: wanted } => {
            let (from, to) = (at(from, len), at(to, len));
            let wanted = wanted.min(len - from.max(to));
            bytes.copy_within(from..from + wanted, to);
        }
        Wound::Remove { place, len: wanted } => {
            let place = at(place, len);
            bytes.drain(place..(place + wanted).min(len));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn damaged_files_do_no_damage(
        file in 0..5_usize, wounds in prop::collection::vec(wound(), 1..4),
    ) {
        let (bytes, options) = &FILES[file];
        let mut bytes = bytes.clone();
        for wound in &wounds {
            hurt(&mut bytes, wound);
        }
        survive(&bytes, options);
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_do_no_damage(
        version in 0..7_u32, rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = [&b"|TZR|"[..], &version.to_le_bytes(), &rest].concat();
        survive(&bytes, &OpenOptions::default());
    }
}

#[test]
fn whole_files_pass() {
    for (bytes, options) in FILES.iter() {
        for make in [memory, piped, local] {
            assert!(exercise(|| make(bytes), options), "opens");
        }
        survive(bytes, options);
    }
}

#[test]
fn every_length_of_a_truncated_file() {
    let (bytes, options) = &FILES[1];
    for len in 0..bytes.len() {
        // The data of the large tensor is all alike.
        if !(1200..4800).contains(&len) {
            survive(&bytes[..len], options);
        }
    }
}

/// A front that a hostile writer makes: it states one tensor, of which nothing may exist.
fn stated(dims: Vec<u64>, header_len: u64) -> Vec<u8> {
    let spec = TensorSpec::new("t", Element::Uint8, dims);
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes.clear();
    let layout = Layout::plan(vec![spec], options).expect("writable");
    let header: &FileHeader = layout.header();
    assert_eq!(
        header.flags,
        Flags { encrypted: false, versioned_entries: header.version == Version::V5, sealed: false }
    );
    let mut front = layout.encode_front(&layout.options().extension).expect("planned");
    // The entry's last fields: header offset, data offset, data length.
    let at = front.len() - 16;
    let data_offset = layout.entries()[0].header_offset + header_len;
    front[at..at + 8].copy_from_slice(&data_offset.to_le_bytes());
    front
}

#[test]
fn a_stream_that_states_what_it_does_not_have_takes_no_memory() {
    // Tensors of 2^44 to 2^62 bytes, with short headers and with the longest that such tensors may have.
    for bits in [44, 50, 57, 62_u32] {
        let dims = vec![1 << (bits - 31), 1 << 31];
        for header_len in [100, 4 << 20, (4 << 20) + (1_u64 << bits) / 64] {
            let bytes = stated(dims.clone(), header_len);
            survive(&bytes, &OpenOptions::default());
            let measured = allocation_counter::measure(|| {
                let Ok(file) = open_stream(&bytes) else { return };
                assert!(load(&file, &readers(1)).is_err());
            });
            assert!(measured.bytes_max < MAX_HEAP, "{bits} {header_len}: {measured:?}");
        }
    }
}

#[test]
fn a_plan_of_more_pieces_than_memory_should_hold_is_refused() {
    // What is read of the front at once is there.
    let bytes = [stated(vec![1 << 20, 1 << 31], 100), vec![0; 1 << 20]].concat();
    let source = || FaultSource::new(MemoryFile::new(&*bytes)).with_len(Some(1 << 60));
    let open = || open_source(source()).expect("a server may state any length");
    let refused = |result: Result<(), IoError>| match result {
        Err(IoError::MemoryLimit { what, .. }) => assert_eq!(what, "a plan of that many pieces"),
        other => panic!("{other:?}"),
    };
    refused(load(&open(), &readers(1)).map(drop));
    refused(open().load_one("t", &readers(1)).map(drop));
    let nobody = |_: Piece| Ok(());
    refused(open().stream(&all(), &readers(1), &pool(1 << 20, 1), &nobody).map(drop));
    refused(open().plan(&all(), &tz_io::PlanOptions::local()).map(drop));
}

/// Servers, and files full of holes, state any length: headers and indices follow the bytes that come.
#[test]
fn a_length_that_nobody_has_proven_takes_no_memory() {
    let step = 2 * (16 << 20);
    for (bits, header_len) in
        [(36, 100), (36, 4 << 20), (36, 1 << 30), (58, 1 << 31), (58, 1 << 50)]
    {
        // What is read of the front at once is there.
        let front = stated(vec![1 << (bits - 31), 1 << 31], header_len);
        let bytes = [front, vec![0; 1 << 20]].concat();
        let source = || FaultSource::new(MemoryFile::new(&*bytes)).with_len(Some(1 << 60));
        let measured = allocation_counter::measure(|| match open_source(source()) {
            Ok(file) => {
                assert!(header_len <= 1 << 30, "{header_len}: opened");
                assert!(file.header(0).is_err());
                assert!(file.verify(&all(), &readers(1)).is_err());
            }
            Err(IoError::MemoryLimit { what, .. }) => assert_eq!(what, "a tensor header"),
            Err(other) => panic!("{other:?}"),
        });
        assert!(measured.bytes_max < MAX_HEAP + step, "{bits} {header_len}: {measured:?}");
    }
    // An index of 256 MiB.
    let mut bytes = stated(vec![1], 100);
    bytes[65..73].copy_from_slice(&(256_u64 << 20).to_le_bytes());
    let bytes = [bytes, vec![0; 1 << 20]].concat();
    let source = || FaultSource::new(MemoryFile::new(&*bytes)).with_len(Some(1 << 60));
    let measured = allocation_counter::measure(|| assert!(open_source(source()).is_err()));
    assert!(measured.bytes_max < MAX_HEAP + step, "{measured:?}");
}
