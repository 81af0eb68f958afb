//! Each kind of corruption is found and named, by whatever can find it, and nothing else is.

use tz_format::{Element, FormatError, HashKind, TensorSpec};
use tz_io::{IoError, Selection, TensorFile, WriteOptions};

use crate::model::{
    Model, all, load, open_memory, open_stream, pool, readers, stream, unverified, write_options,
};

const CRC32: &[HashKind] = &[HashKind::Crc32];
const SHA256: &[HashKind] = &[HashKind::Sha256];
const BOTH: &[HashKind] = &[HashKind::Sha256, HashKind::Crc32];
const NONE: &[HashKind] = &[];

/// Length of the tensor that is cut into pieces, by whoever reads it.
const LEN: u64 = (5 << 20) + 7;

fn model() -> Model {
    let mut meta = TensorSpec::new("meta", Element::Float32, vec![3]);
    meta.meta = true;
    Model::painted(vec![
        TensorSpec::new("first", Element::Uint8, vec![100]),
        TensorSpec::new("large", Element::Uint8, vec![LEN]),
        TensorSpec::new("empty", Element::Uint8, vec![0]),
        meta,
        TensorSpec::new("last", Element::Uint8, vec![100]),
    ])
}

fn options(hashes: &[HashKind], blake3: bool) -> WriteOptions {
    let mut options = write_options();
    options.hashes = hashes.to_vec();
    options.blake3 = blake3;
    options
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("small")
}

/// Where a byte is flipped: from the beginning of a tensor's data, or of its header.
#[derive(Debug, Clone, Copy)]
enum Place {
    Data(u64),
    Header(u64),
    /// Counted back from the data.
    Padding(u64),
}

impl Place {
    fn of(self, file: &TensorFile, tensor: usize) -> usize {
        let entry = &file.entries()[tensor];
        at(match self {
            Self::Data(offset) => entry.data_offset + offset,
            Self::Header(offset) => entry.header_offset + offset,
            Self::Padding(back) => entry.data_offset - back,
        })
    }
}

/// `name check` of each failure.
fn names(result: Result<(), IoError>) -> Vec<String> {
    match result {
        Ok(()) => Vec::new(),
        Err(IoError::Corrupt { failures, .. }) => {
            failures.iter().map(|failure| format!("{} {}", failure.tensor, failure.check)).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

/// Flips a byte of each of `tensors` and compares what `verify` finds, and what a load and a stream do.
#[track_caller]
fn check(
    options: &WriteOptions,
    tensors: &[usize],
    place: Place,
    on_verify: &[&str],
    on_load: &[&str],
) {
    let mut bytes = model().file(options);
    let file = open_memory(&bytes).expect("valid");
    for &tensor in tensors {
        let at = place.of(&file, tensor);
        bytes[at] ^= 0x40;
    }
    for threads in [1, 3] {
        let reading = readers(threads);
        let file = open_memory(&bytes).expect("the index is whole");
        let failures = file.verify(&all(), &reading).expect("readable");
        for failure in &failures {
            let tensor = file.position(&failure.tensor).expect("named");
            assert_eq!(failure.data_offset, file.entries()[tensor].data_offset);
        }
        let location = String::new();
        let found = names(if failures.is_empty() {
            Ok(())
        } else {
            Err(IoError::Corrupt { location, failures })
        });
        assert_eq!(found, on_verify, "verify, {place:?}");
        assert_eq!(names(load(&file, &reading).map(drop)), on_load, "load, {place:?}");
        let pool = pool(256 << 10, 2);
        let streamed = stream(&file, &reading, &pool).map(drop);
        assert_eq!(names(streamed), on_load, "stream, {place:?}");
        let piped = open_stream(&bytes).expect("the index is whole");
        let streamed = stream(&piped, &reading, &crate::model::pool(256 << 10, 2)).map(drop);
        assert_eq!(names(streamed), on_load, "from a pipe, {place:?}");
        load(&file, &unverified()).expect("not asked to verify");
    }
}

/// First and last bytes of the tensor, of the first and last piece of a load (2 MiB) and of a scan (1 MiB).
const PLACES: &[u64] = &[
    0,
    1,
    (1 << 20) - 1,
    1 << 20,
    (2 << 20) - 1,
    2 << 20,
    (4 << 20) - 1,
    4 << 20,
    5 << 20,
    LEN - 1,
];

#[test]
fn byte_of_data_flipped_anywhere() {
    for &place in PLACES {
        let place = Place::Data(place);
        check(&options(CRC32, false), &[1], place, &["large crc32"], &["large crc32"]);
        check(&options(SHA256, false), &[1], place, &["large sha256"], &["large sha256"]);
    }
}

#[test]
fn byte_of_data_flipped_under_every_set_of_hashes() {
    let place = Place::Data(77);
    let both = ["first sha256", "first crc32"];
    check(&options(BOTH, false), &[0], place, &both, &["first crc32"]);
    let all = ["first sha256", "first crc32", "first blake3"];
    check(&options(BOTH, true), &[0], place, &all, &["first crc32"]);
    check(&options(CRC32, true), &[0], place, &["first crc32", "first blake3"], &["first crc32"]);
    // A load looks at the hashes of the header; the digests of the front are for `verify`.
    check(&options(NONE, true), &[0], place, &["first blake3"], &[]);
    check(&options(NONE, false), &[0], place, &[], &[]);
}

#[test]
fn every_corrupt_tensor_is_named_in_file_order() {
    let place = Place::Data(9);
    let expect = ["first crc32", "large crc32", "last crc32"];
    check(&options(CRC32, false), &[4, 0, 1], place, &expect, &expect);
}

#[test]
fn module_index_flipped() {
    // The index does not repeat it, so only a hash can tell: of tensors without data too.
    let place = Place::Header(8);
    for (tensor, name) in [(0, "first"), (1, "large"), (2, "empty"), (3, "meta")] {
        for (hashes, check_name) in [(CRC32, "crc32"), (SHA256, "sha256")] {
            let expect = [&*format!("{name} {check_name}")];
            check(&options(hashes, false), &[tensor], place, &expect, &expect);
        }
    }
}

#[test]
fn padding_flipped() {
    let expect = ["large crc32"];
    check(&options(CRC32, false), &[1], Place::Padding(9), &expect, &expect);
    let expect = ["large sha256"];
    check(&options(SHA256, false), &[1], Place::Padding(100), &expect, &expect);
}

#[test]
fn stored_hash_flipped() {
    // Length 8, module 2, type 1, name 2 + 5, dtype 1 + 3, rank 1, dims 4, block length 2, count 1, type and length 2.
    let place = Place::Header(8 + 2 + 1 + 7 + 4 + 5 + 3 + 2);
    check(&options(CRC32, false), &[0], place, &["first crc32"], &["first crc32"]);
    check(&options(SHA256, false), &[0], place, &["first sha256"], &["first sha256"]);
    // SHA-256 stands first; the CRC-32 after it still holds.
    check(&options(BOTH, false), &[0], place, &["first sha256"], &[]);
}

#[test]
fn digest_in_the_front_flipped() {
    let options = options(CRC32, true);
    let mut bytes = model().file(&options);
    let file = open_memory(&bytes).expect("valid");
    let digest = file.front().extension.blake3.as_ref().expect("asked for")[4];
    let place = bytes.windows(32).position(|window| window == digest).expect("in the front");
    bytes[place] ^= 1;
    let file = open_memory(&bytes).expect("digests break no rule");
    let failures = file.verify(&all(), &readers(2)).expect("readable");
    let found: Vec<_> = failures.iter().map(|f| (&*f.tensor, f.check)).collect();
    assert_eq!(found, [("last", "blake3")]);
    load(&file, &readers(2)).expect("the headers' hashes hold");
}

#[test]
fn broken_header_is_a_broken_rule_not_a_wrong_hash() {
    let bytes = model().file(&options(CRC32, false));
    let valid = open_memory(&bytes).expect("valid");
    let header = valid.entries()[1].header_offset;
    let data = valid.entries()[1].data_offset;
    for (offset, field) in [
        (header, "header length"),
        (header + 10, "tensor type"),
        (header + 13, "name"),
        (header + 20, "dtype"),
        (header + 24, "shape"),
        (data - 1, "data length"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at(offset)] ^= 0x40;
        let file = open_memory(&bytes).expect("the index is whole");
        for error in [
            file.verify(&all(), &readers(2)).map(drop),
            load(&file, &readers(2)).map(drop),
            stream(&file, &readers(2), &pool(1 << 20, 2)).map(drop),
        ] {
            match error {
                Err(IoError::Format { source: FormatError::Malformed(malformed), .. }) => {
                    assert_eq!(malformed.tensor.as_deref(), Some("large"), "{field}");
                    assert_eq!(malformed.field, field);
                }
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}

#[test]
fn only_what_is_selected_is_checked() {
    let mut bytes = model().file(&options(CRC32, false));
    let file = open_memory(&bytes).expect("valid");
    bytes[Place::Data(5).of(&file, 1)] ^= 1;
    let file = open_memory(&bytes).expect("the index is whole");
    let others = Selection::globs(&["first", "meta", "last"]).expect("globs");
    assert_eq!(file.verify(&others, &readers(2)).expect("readable"), []);
    assert_eq!(file.load(&others, &readers(2)).expect("whole").len(), 3);
    let large = Selection::globs(&["l*"]).expect("globs");
    assert_eq!(file.verify(&large, &readers(2)).expect("readable").len(), 1);
    assert!(file.load_one("large", &readers(2)).is_err());
    assert!(file.load_one("last", &readers(2)).is_ok());
}

#[test]
fn the_error_names_three_and_counts_the_rest() {
    let model = Model::of_lens(&[10; 5]);
    let mut bytes = model.file(&write_options());
    let file = open_memory(&bytes).expect("valid");
    for tensor in 0..5 {
        bytes[Place::Data(0).of(&file, tensor)] ^= 1;
    }
    let error = load(&open_memory(&bytes).expect("valid"), &readers(2)).expect_err("corrupt");
    assert_eq!(
        error.to_string(),
        "memory: tensor \"t0\": crc32 does not match the data at offset 4096; \
         tensor \"t1\": crc32 does not match the data at offset 8192; \
         tensor \"t2\": crc32 does not match the data at offset 12288; and 2 more"
    );
}

#[test]
fn names_that_no_tensor_has() {
    let file = open_memory(&model().file(&options(CRC32, false))).expect("valid");
    let missing = |result: Result<(), IoError>| match result {
        Err(error @ IoError::NoSuchTensor { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let globs = Selection::globs(&["first", "f*t", "none.*"]).expect("globs");
    let text = "memory: no tensor matches \"none.*\"";
    assert_eq!(missing(file.load(&globs, &readers(1)).map(drop)), text);
    assert_eq!(missing(file.verify(&globs, &readers(1)).map(drop)), text);
    let text = "memory: no tensor matches \"firs\"";
    assert_eq!(missing(file.load_one("firs", &readers(1)).map(drop)), text);
    assert!(Selection::globs(&["[a"]).is_err(), "a glob that cannot be read");
}
