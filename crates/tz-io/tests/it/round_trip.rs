//! What is written is what is read, whichever way: random tensors, names and options.

use proptest::prelude::*;
use tz_format::{Dtype, Element, HashKind, PathKey, TensorKind, TensorPath, TensorSpec};
use tz_io::{IoError, Location, WriteOptions, write};

use crate::model::{
    Contents, Model, all, contents_of, load, open_memory, open_stream, pool, readers, stream,
    write_options,
};

/// Names that have gone wrong somewhere: quotes, controls, marks, glob characters, non-ASCII.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}(\\.[a-z0-9]{1,6}){0,4}",
        "[\\x00-\\x1f\"\\\\/*?\\[{\u{7f}é名\u{1f600}]{0,12}",
    ]
}

fn key() -> impl Strategy<Value = PathKey> {
    prop_oneof![name().prop_map(PathKey::Name), any::<u64>().prop_map(PathKey::Index)]
}

/// Small shapes, empty ones beside dimensions of any size, the highest rank, and a few that take several pieces.
fn shape() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        8 => prop::collection::vec(0..5_u64, 0..5),
        1 => Just(vec![1; 255]),
        1 => prop::collection::vec(any::<u64>(), 1..4).prop_map(|mut dims| {
            dims.push(0);
            dims
        }),
        2 => (1..70_000_u64).prop_map(|len| vec![len]),
    ]
}

fn dtype() -> impl Strategy<Value = Dtype> {
    let big = [">f4", ">c16"].map(|text| Dtype::from_wire(text).expect(text));
    let all = Element::ALL.iter().copied().map(Dtype::from).chain(big);
    prop::sample::select(all.collect::<Vec<_>>())
}

/// Models whose paths cannot conflict, because each begins with a name of its own.
fn model() -> impl Strategy<Value = Model> {
    let kinds = vec![TensorKind::Parameter, TensorKind::Buffer];
    let spec = (
        name(),
        prop::collection::vec(key(), 0..3),
        prop::sample::select(kinds),
        dtype(),
        shape(),
        any::<bool>(),
    );
    prop::collection::vec(spec, 1..8).prop_map(|rows| {
        let build = |(i, (name, rest, kind, dtype, shape, meta)): (usize, _)| {
            let mut keys = vec![PathKey::Name(format!("{name}{i}"))];
            keys.extend::<Vec<PathKey>>(rest);
            let path = TensorPath::new(keys).expect("keys");
            let is_plain = path.plain().is_some();
            let mut spec = TensorSpec::new(path, dtype, shape);
            if is_plain {
                spec.kind = kind;
            }
            spec.meta = meta && !spec.shape.is_empty() && !spec.shape.contains(&0);
            spec
        };
        Model::painted(rows.into_iter().enumerate().map(build).collect())
    })
}

fn options() -> impl Strategy<Value = WriteOptions> {
    let hashes = prop::sample::subsequence(vec![HashKind::Crc32, HashKind::Sha256], 0..=2);
    let alignment = prop::sample::select(vec![1_u64, 64, 4096, 1 << 17]);
    // The smallest limit that admits a worker cuts tensors into pieces of 64 KiB.
    let limit = prop::sample::select(vec![None, Some(128 << 10), Some(1 << 20)]);
    (hashes, alignment, limit, 1..4_usize, any::<bool>(), any::<bool>()).prop_map(
        |(hashes, alignment, limit, workers, blake3, metadata)| {
            let mut options = write_options();
            options.hashes = hashes;
            options.alignment = alignment;
            // A limit counts headers, which are as long as the alignment: the smallest holds none of 128 KiB.
            options.memory_limit = limit.filter(|&limit| alignment <= 4096 || limit >= 1 << 20);
            options.workers = Some(workers);
            options.blake3 = blake3;
            options.user_metadata = metadata.then(|| {
                let pair = ("text".to_owned(), "é".into());
                std::iter::once(pair).collect()
            });
            options
        },
    )
}

/// What a map gives: everything but meta tensors.
fn mapped(model: &Model) -> Contents {
    let stored = model.contents().into_iter().zip(&model.specs);
    stored.filter(|(_, spec)| !spec.meta).map(|(tensor, _)| tensor).collect()
}

/// The file as a pipe receives it.
fn piped(model: &Model, options: &WriteOptions) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("pipe");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(&path).expect("readable"));
        write(&model.source(), &Location::File(path.clone()), options).expect("writable");
        reader.join().expect("no panic")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_way_of_reading_gives_what_was_written(
        model in model(), options in options(), threads in 1..4_usize, verify in any::<bool>(),
    ) {
        let written = model.write(&options);
        let bytes = std::fs::read(&written.path).expect("written");
        prop_assert_eq!(&piped(&model, &options), &bytes);
        let expected = model.contents();
        let mut reading = readers(threads);
        reading.verify = verify;

        let file = written.open();
        for (entry, spec) in file.entries().iter().zip(&model.specs) {
            prop_assert_eq!((&entry.path, entry.kind), (&spec.path, spec.kind));
            prop_assert_eq!((entry.dtype, &entry.shape), (spec.dtype, &spec.shape));
            prop_assert_eq!(entry.is_meta(), spec.meta);
            let is_aligned = entry.data_offset % options.alignment == 0;
            prop_assert!(is_aligned || entry.data_len == 0);
        }
        prop_assert_eq!(&file.front().extension.user_metadata, &options.user_metadata);
        prop_assert_eq!(&load(&file, &reading)?, &expected);
        prop_assert_eq!(&stream(&file, &reading, &pool(1 << 18, 2))?, &expected);
        prop_assert_eq!(contents_of(&file.map(&all())?), mapped(&model));
        prop_assert_eq!(file.verify(&all(), &reading)?, vec![]);
        for (path, bytes) in &expected {
            let one = file.load_one(&path.to_string(), &reading)?;
            prop_assert_eq!(one.bytes(), bytes);
        }
        prop_assert_eq!(&load(&open_memory(&bytes)?, &reading)?, &expected);
        prop_assert_eq!(&load(&open_stream(&bytes)?, &reading)?, &expected);
        prop_assert_eq!(&stream(&open_stream(&bytes)?, &reading, &pool(1 << 18, 1))?, &expected);
    }
}

#[test]
fn errors_of_a_round_trip_would_show() {
    // The property compares whole contents: a single wrong byte must fail it.
    let model = Model::of_lens(&[10]);
    let mut bytes = model.file(&write_options());
    let file = open_memory(&bytes).expect("valid");
    let at = usize::try_from(file.entries()[0].data_offset).expect("small");
    bytes[at] ^= 1;
    let file = open_memory(&bytes).expect("the index is intact");
    assert!(matches!(load(&file, &readers(1)), Err(IoError::Corrupt { .. })));
}
