//! Broken files, one row per refusal.

use tz_model::{Checkpoint, Error, Fault};

use crate::support::{message, raw, write};

#[track_caller]
fn check(bytes: &[u8], tensor: Option<&str>, expect: &Fault) {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "m.safetensors", bytes);
    match Checkpoint::open(dir.path().join("m.safetensors")) {
        Err(Error::Malformed { place, fault }) => {
            assert_eq!(&fault, expect);
            assert_eq!(place.tensor.as_deref(), tensor);
            assert!(place.path.ends_with("m.safetensors"));
        }
        other => panic!("{other:?}"),
    }
}

/// The refusal is JSON's; its words come from the parser and are checked for what they name.
#[track_caller]
fn check_json(header: &str, names: &str) {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "m.safetensors", &raw(header, 0));
    match Checkpoint::open(dir.path()) {
        Err(Error::Malformed { fault: Fault::Json(why), .. }) => {
            assert!(why.contains(names), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

fn tensor(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn lengths_beyond_the_file() {
    let truncated = |expected, found| Fault::Truncated { expected, found };
    check(b"", None, &truncated(8, 0));
    check(b"1234567", None, &truncated(8, 7));
    check(&100_u64.to_le_bytes(), None, &truncated(108, 8));
    let limit = 100_000_000;
    for len in [limit + 1, u64::MAX] {
        check(&len.to_le_bytes(), None, &Fault::HeaderTooLong { len, limit });
    }
    let two = format!(r#"{{"a":{},"b":{}}}"#, tensor("U8", "[4]", 0, 4), tensor("U8", "[4]", 4, 8));
    let start = 8 + two.len() as u64;
    check(&raw(&two, 5), Some("b"), &truncated(start + 8, start + 5));
    check(&raw(&two, 3), Some("a"), &truncated(start + 8, start + 3));
    let trailing = Fault::TrailingBytes { expected: start + 8, found: start + 9 };
    check(&raw(&two, 9), None, &trailing);
}

#[test]
fn tensors_that_overlap_or_leave_holes() {
    let misplaced = |begin, end, expected| Fault::Misplaced { begin, end, expected };
    let one = |begin, end| format!(r#"{{"a":{}}}"#, tensor("U8", "[4]", begin, end));
    check(&raw(&one(4, 8), 8), Some("a"), &misplaced(4, 8, 0));
    check(&raw(&one(0, 0).replace("[0,0]", "[4,0]"), 4), Some("a"), &misplaced(4, 0, 0));
    let overlap =
        format!(r#"{{"a":{},"b":{}}}"#, tensor("U8", "[4]", 0, 4), tensor("U8", "[4]", 3, 7));
    check(&raw(&overlap, 7), Some("b"), &misplaced(3, 7, 4));
}

#[test]
fn shapes_that_lie() {
    let wrong = |expected, found| Fault::WrongLength { expected, found };
    let one = |dtype, shape, end| format!(r#"{{"a":{}}}"#, tensor(dtype, shape, 0, end));
    check(&raw(&one("F32", "[2]", 4), 4), Some("a"), &wrong(8, 4));
    check(&raw(&one("U8", "[]", 0), 0), Some("a"), &wrong(1, 0));
    let huge = "[4294967296,4294967296]";
    check(&raw(&one("U8", huge, 0), 0), Some("a"), &Fault::ShapeOverflow);
    check(&raw(&one("U8", huge, u64::MAX), 0), Some("a"), &Fault::ShapeOverflow);
    let max = format!("[{}]", u64::MAX);
    let bytes = raw(&one("U8", &max, u64::MAX), 0);
    let truncated = Fault::Truncated { expected: u64::MAX, found: bytes.len() as u64 };
    check(&bytes, Some("a"), &truncated);
}

#[test]
fn names_that_stand_twice() {
    let own = tensor("U8", "[0]", 0, 0);
    let twice = format!(r#"{{"a":{own},"b":{own},"a":{own}}}"#);
    check(&raw(&twice, 0), Some("a"), &Fault::DuplicateName);
}

#[test]
fn text_that_is_not_a_header() {
    let mut bytes = raw(r#"{"a":1}"#, 0);
    bytes[10] = 0xff;
    check(&bytes, None, &Fault::NotUtf8);
    check_json("", "EOF");
    check_json("[]", "an object of tensors");
    check_json(r#"{"a":1}"#, "\"a\"");
    check_json(r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, "\"a\"");
    check_json(r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#, "\"a\"");
    check_json(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#, "\"a\"");
    check_json(r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#, "dtype");
    check_json(r#"{"__metadata__":{"x":1}}"#, "__metadata__");
    check_json(r#"{"__metadata__":{},"__metadata__":{}}"#, "__metadata__");
    check_json(r#"{} {}"#, "trailing");
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    check_json(&deep, "\"a\"");
}

#[test]
fn dtypes_that_torch_lacks_are_named() {
    let dir = tempfile::tempdir().expect("directory");
    for (dtype, shape) in [("F6_E2M3", "[4]"), ("Q4_K", "[4]"), ("F4", "[3]"), ("F4", "[]")] {
        let header = format!(r#"{{"w":{}}}"#, tensor(dtype, shape, 0, 3));
        write(dir.path(), "m.safetensors", &raw(&header, 3));
        let error = Checkpoint::open(dir.path()).expect_err("refused");
        let expect = format!("m.safetensors: tensor \"w\": dtype {dtype:?} is not supported");
        assert_eq!(message(dir.path(), &error), expect);
        assert!(matches!(error, Error::Unsupported { .. }));
    }
}

#[test]
fn paths_without_a_checkpoint() {
    let dir = tempfile::tempdir().expect("directory");
    let missing = Checkpoint::open(dir.path().join("none")).expect_err("missing");
    assert!(matches!(missing, Error::Io { .. }));
    let empty = Checkpoint::open(dir.path()).expect_err("empty");
    assert!(matches!(empty, Error::NotACheckpoint { .. }));
    let device = Checkpoint::open("/dev/null").expect_err("device");
    assert!(matches!(device, Error::NotACheckpoint { .. }));
    let error = std::io::Error::from(missing);
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("none"));
}

#[test]
fn reads_beyond_a_tensor() {
    let dir = tempfile::tempdir().expect("directory");
    let header =
        format!(r#"{{"a":{},"b":{}}}"#, tensor("U8", "[4]", 0, 4), tensor("U8", "[4]", 4, 8));
    write(dir.path(), "m.safetensors", &raw(&header, 8));
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    for (tensor, offset, len) in [(0, 0, 5), (0, 4, 1), (0, u64::MAX, 1), (2, 0, 0)] {
        let result = checkpoint.read_at(tensor, offset, &mut vec![0; len]);
        assert!(matches!(result, Err(Error::OutOfRange { .. })), "{tensor} {offset} {len}");
    }
    checkpoint.read_at(0, 4, &mut []).expect("nothing at the end");
    // The file shrinks after it was opened.
    write(dir.path(), "m.safetensors", &raw(&header, 6));
    let error = checkpoint.read_at(1, 0, &mut [0; 4]).expect_err("cut");
    assert_eq!(message(dir.path(), &error), "m.safetensors: tensor \"b\": cannot read");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::UnexpectedEof);
}
