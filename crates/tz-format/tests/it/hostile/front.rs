//! Rows on the file header and the index.

use tz_format::{Element, Fault, FormatError, LayoutOptions, TensorSpec, testing};

use super::{Row, malformed, row};
use crate::files::patch;

// Offsets in the file header.
const VERSION: usize = 5;
const FLAGS: usize = 9;
const COUNT: usize = 57;
const INDEX_LEN: usize = 65;
// Entry 0 of `two`, and its fields.
const NAME_LEN: usize = 73;
const NAME: usize = 75;
const KIND: usize = 77;
const DTYPE_LEN: usize = 78;
const DTYPE: usize = 79;
const RANK: usize = 82;
const SHAPE: usize = 83;
const HEADER_OFFSET: usize = 91;
const DATA_OFFSET: usize = 99;
const DATA_LEN: usize = 107;
/// Length of each entry of `two`.
const ENTRY: usize = 42;
/// Where the first header of `two` stands, behind two entries.
const HEADER: u64 = 157;

pub(super) fn spec(name: &str) -> TensorSpec {
    TensorSpec::new(name, Element::Float32, vec![2, 3])
}

pub(super) fn packed() -> LayoutOptions {
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes.clear();
    options
}

/// Two float32 tensors `ab` and `cd` of shape [2, 3], without hashes: headers of 39 bytes, data of 24.
fn two() -> Vec<u8> {
    testing::build(vec![spec("ab"), spec("cd")], packed())
}

/// Two tensors whose name fields are 8 bytes: `["a",1]` and `["a",2]` after the mark.
fn two_paths(first: &[u8; 8], second: &[u8; 8]) -> Vec<u8> {
    let file = testing::build(vec![spec("12345678"), spec("87654321")], packed());
    patch(patch(file, NAME, first), NAME + ENTRY + 6, second)
}

fn long() -> Vec<u8> {
    let spec = TensorSpec::new("ab", Element::Uint8, vec![0, 1 << 32]);
    testing::build(vec![spec], packed())
}

fn bad_path(name: &'static str, wire: &[u8; 8], why: &'static str) -> Row {
    let file = two_paths(wire, b"87654321");
    row(name, file, malformed("name", 75, "", Fault::BadPath(why)))
}

/// Second path, reason; the first is `["a",1]`.
fn conflict(name: &'static str, second: &[u8; 8], path: &str, why: &'static str) -> Row {
    let file = two_paths(b"\x1e[\"a\",1]", second);
    row(name, file, malformed("name", 123, path, Fault::PathConflict(why)))
}

pub(super) fn rows() -> Vec<Row> {
    [file_header(), index(), paths(), places()].into_iter().flatten().collect()
}

fn file_header() -> Vec<Row> {
    let flag = |version: u8, bit: usize| {
        let file = patch(two(), VERSION, &[version]);
        patch(file, FLAGS + bit / 8, &[1 << (bit % 8)])
    };
    let unsupported = |bit, version| FormatError::UnsupportedFlag { bit, version };
    let over =
        |what, value, limit, offset| FormatError::LimitExceeded { what, value, limit, offset };
    let flags = |fault| malformed("feature flags", 9, "", fault);
    let count = |count: u64| patch(two(), COUNT, &count.to_le_bytes());
    let len = |len: u64| patch(two(), INDEX_LEN, &len.to_le_bytes());
    vec![
        row("another_kind_of_file", patch(two(), 4, b"!"), FormatError::NotTensors),
        row("version_0", patch(two(), VERSION, &[0]), FormatError::UnsupportedVersion(0)),
        row("version_6", patch(two(), VERSION, &[6]), FormatError::UnsupportedVersion(6)),
        row(
            "version_high_byte",
            patch(two(), VERSION + 3, &[1]),
            FormatError::UnsupportedVersion(0x0100_0001),
        ),
        row("flag_below_version_4", flag(3, 0), flags(Fault::NotZero)),
        row("flag_of_version_5_in_4", flag(4, 1), unsupported(1, 4)),
        row("unknown_flag", flag(5, 2), unsupported(2, 5)),
        row("last_flag", flag(4, 255), unsupported(255, 4)),
        row("sealed_but_not_encrypted", flag(4, 128), flags(Fault::WrongProfile)),
        row("no_tensors", count(0), malformed("tensor count", 57, "", Fault::Empty)),
        row("too_many_tensors", count(4_000_001), over("tensor count", 4_000_001, 4_000_000, 57)),
        row(
            "index_too_long",
            len((256 << 20) + 1),
            over("index length", (256 << 20) + 1, 256 << 20, 65),
        ),
        row("index_len_all_ones", len(u64::MAX), over("index length", u64::MAX, 256 << 20, 65)),
        row(
            "count_beyond_entries",
            count(3),
            malformed("name length", HEADER, "", Fault::Truncated),
        ),
        row(
            "index_ends_in_an_entry",
            patch(len(83), HEADER_OFFSET, &[156]),
            malformed("data length", 149, "cd", Fault::Truncated),
        ),
        row("empty_index", len(0), malformed("name length", 73, "", Fault::Truncated)),
    ]
}

fn index() -> Vec<Row> {
    let too_low = |needs, has| Fault::VersionTooLow { needs, has };
    let opaque = testing::build(vec![TensorSpec::new("ab", Element::Bfloat16, vec![3])], packed());
    let mut meta = spec("ab");
    meta.meta = true;
    let meta = testing::build(vec![meta], packed());
    let of_ab = |field, offset: usize, fault| malformed(field, offset as u64, "ab", fault);
    let wrong_len = Fault::WrongDataLength { found: 23, expected: 24 };
    let text = "<f3".to_owned();
    vec![
        row(
            "name_runs_out",
            patch(two(), NAME_LEN, &[255, 255]),
            malformed("name", 75, "", Fault::Truncated),
        ),
        row(
            "name_not_utf8",
            patch(two(), NAME, &[0xff]),
            malformed("name", 75, "", Fault::NotUtf8),
        ),
        row(
            "unknown_kind",
            patch(two(), KIND, &[3]),
            of_ab("tensor type", KIND, Fault::UnknownKind(3)),
        ),
        row(
            "dtype_runs_out",
            patch(two(), DTYPE_LEN, &[255]),
            of_ab("dtype", DTYPE, Fault::Truncated),
        ),
        row("dtype_not_utf8", patch(two(), DTYPE, &[0xff]), of_ab("dtype", DTYPE, Fault::NotUtf8)),
        row(
            "unknown_dtype",
            patch(two(), DTYPE + 2, b"3"),
            of_ab("dtype", DTYPE, Fault::UnknownDtype(text)),
        ),
        row(
            "opaque_dtype_in_version_1",
            patch(opaque, VERSION, &[1]),
            of_ab("dtype", DTYPE, too_low(2, 1)),
        ),
        // 18 dimensions fit into the 74 bytes that follow.
        row(
            "shape_runs_out",
            patch(two(), RANK, &[255]),
            of_ab("shape", SHAPE + 72, Fault::Truncated),
        ),
        row(
            "shape_overflows",
            patch(two(), SHAPE, &[255; 8]),
            of_ab("shape", SHAPE, Fault::ShapeOverflow),
        ),
        row(
            "wrong_data_len",
            patch(two(), DATA_LEN, &[23]),
            of_ab("data length", DATA_LEN, wrong_len),
        ),
        row(
            "meta_in_version_3",
            patch(meta, VERSION, &[3]),
            of_ab("data length", DATA_LEN, too_low(4, 3)),
        ),
        row(
            "unknown_entry_version",
            patch(long(), 73, &[2]),
            malformed("index entry version", 73, "", Fault::UnknownEntryVersion(2)),
        ),
    ]
}

fn paths() -> Vec<Row> {
    let key = "a key is neither a string nor a non-negative integer";
    let duplicate = Fault::DuplicatePath;
    vec![
        row(
            "empty_name",
            patch(two(), NAME_LEN, &[0]),
            malformed("name", 75, "", Fault::BadPath("empty")),
        ),
        bad_path("no_keys", b"\x1e[     ]", "empty"),
        bad_path("fraction_as_key", b"\x1e[ 1.5 ]", key),
        bad_path("negative_key", b"\x1e[   -1]", key),
        bad_path("null_as_key", b"\x1e[ null]", key),
        bad_path("list_as_key", b"\x1e[ [1] ]", key),
        bad_path("object", b"\x1e{\"a\":1}", "not a JSON array"),
        bad_path("open_array", b"\x1e[1,2,34", "not a JSON array"),
        bad_path("not_json", b"\x1e[\"a\",b]", "not a JSON array"),
        bad_path("not_utf8_in_json", b"\x1e[\"\xff\"  ]", "not a JSON array"),
        bad_path("carriage_return", b"\x1e[1,\r 2]", "line break in the JSON array"),
        bad_path("line_break", b"\x1e[1,\n 2]", "line break in the JSON array"),
        row(
            "path_twice",
            patch(two(), NAME + ENTRY, b"ab"),
            malformed("name", 117, "ab", duplicate.clone()),
        ),
        row(
            "path_twice_spelled_differently",
            two_paths(b"\x1e[\"a\",1]", b"\x1e[\"a\",1]"),
            malformed("name", 123, "a/1", duplicate),
        ),
        conflict("prefix_of_another", b"\x1e[\"a\"  ]", "a", "it is a prefix of another"),
        conflict("mixed_keys", b"\x1e[12345]", "12345", "one level mixes strings and integers"),
        row(
            "below_a_tensor",
            two_paths(b"\x1e[\"a\"  ]", b"\x1e[\"a\",1]"),
            malformed("name", 123, "a/1", Fault::PathConflict("a prefix of it is a tensor")),
        ),
        row(
            "parameter_with_structured_path",
            patch(two_paths(b"\x1e[\"a\",1]", b"\x1e[\"a\",2]"), KIND + 6, &[0]),
            malformed("name", 75, "a/1", Fault::StructuredPath),
        ),
    ]
}

fn places() -> Vec<Row> {
    let set = |offset, value: u64| patch(two(), offset, &value.to_le_bytes());
    let data_end = HEADER + 39 + 24;
    let header_at = |fault| malformed("header offset", 91, "ab", fault);
    let second_at = |fault| malformed("header offset", 133, "cd", fault);
    let data_at = |fault| malformed("data offset", 99, "ab", fault);
    let max = i64::MAX.cast_unsigned();
    let limit = 4 << 20;
    let over = FormatError::LimitExceeded {
        what: "tensor header length",
        value: limit + 1,
        limit,
        offset: 91,
    };
    let mut cut = two();
    cut.truncate(cut.len() - 9);
    let end = cut.len() as u64 + 1;
    let out = Fault::OutOfFile { end, file_len: end - 1 };
    vec![
        row(
            "header_inside_the_index",
            set(HEADER_OFFSET, HEADER - 1),
            header_at(Fault::Overlap(HEADER)),
        ),
        row("hole_after_the_index", set(HEADER_OFFSET, HEADER + 1), header_at(Fault::Hole(HEADER))),
        row("header_offset_all_ones", set(HEADER_OFFSET, u64::MAX), header_at(Fault::Hole(HEADER))),
        row(
            "overlapping_tensors",
            set(HEADER_OFFSET + ENTRY, HEADER),
            second_at(Fault::Overlap(data_end)),
        ),
        row(
            "hole_between_tensors",
            set(HEADER_OFFSET + ENTRY, data_end + 1),
            second_at(Fault::Hole(data_end)),
        ),
        row("data_before_header", set(DATA_OFFSET, HEADER - 1), data_at(Fault::HeaderTooShort)),
        row(
            "no_room_for_the_header",
            set(DATA_OFFSET, HEADER + 38),
            data_at(Fault::HeaderTooShort),
        ),
        row("data_beyond_2_63", set(DATA_OFFSET, max - 23), data_at(Fault::OffsetOverflow)),
        row("data_offset_all_ones", set(DATA_OFFSET, u64::MAX), data_at(Fault::OffsetOverflow)),
        row("header_too_long", set(DATA_OFFSET, HEADER + limit + 1), over),
        row("cut_in_the_last_tensor", cut, malformed("data", HEADER + 39 + 24 + 39, "cd", out)),
    ]
}
