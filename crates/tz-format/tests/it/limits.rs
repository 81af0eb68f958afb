//! Every limit holds at its edge, and no file makes a decoder take more memory than its bytes justify.

use allocation_counter::measure;
use tz_format::{
    Element, Extension, FormatError, FrontDecoder, Layout, LayoutOptions, Limits, PathKey, Step,
    TensorHeader, TensorPath, TensorSpec, testing,
};

use crate::files::{compat, plain_extension};
use crate::manifest::{at, fixtures, front};

/// A limit, how to set it, what the error calls it, the file's own value, and where that stands.
struct Row {
    field: &'static str,
    set: fn(&mut Limits, u64),
    what: &'static str,
    value: u64,
    offset: u64,
}

/// One tensor with an extension block: index entry at 73, block at 115, records from 127.
fn file() -> Vec<u8> {
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.extension = plain_extension(1);
    testing::build(vec![TensorSpec::new("ab", Element::Float32, vec![2, 3])], options)
}

fn rows() -> Vec<Row> {
    let front = front(&file());
    let entry = &front.entries[0];
    let metadata = serde_json::to_vec(&front.extension.user_metadata).expect("JSON").len() as u64;
    let row = |field, set, what, value, offset| Row { field, set, what, value, offset };
    vec![
        row("index_len", |l, v| l.index_len = v, "index length", front.header.index_len, 65),
        row("tensors", |l, v| l.tensors = v, "tensor count", 1, 57),
        row("path_keys", |l, v| l.path_keys = v, "path keys", 1, 73),
        row(
            "tensor_header_len",
            |l, v| l.tensor_header_len = v,
            "tensor header length",
            entry.header_len(),
            91,
        ),
        row(
            "extension_len",
            |l, v| l.extension_len = v,
            "extension length",
            38 + 13 + 6 + metadata,
            123,
        ),
        row(
            "user_metadata_len",
            |l, v| l.user_metadata_len = v,
            "user metadata length",
            metadata,
            178,
        ),
        // The object with its two members, the list with its two, and the object in it.
        row(
            "user_metadata_values",
            |l, v| l.user_metadata_values = v,
            "user metadata values",
            6,
            178,
        ),
    ]
}

#[test]
fn f11_limits_hold_at_their_edges() {
    let file = file();
    for Row { field, set, what, value, offset } in rows() {
        let mut limits = Limits::default();
        set(&mut limits, value);
        let step = FrontDecoder::new(limits.clone()).step(&file);
        assert!(matches!(step, Ok(Step::Done(_))), "{field}: {step:?}");
        set(&mut limits, value - 1);
        let over = FormatError::LimitExceeded { what, value, limit: value - 1, offset };
        assert_eq!(FrontDecoder::new(limits).step(&file), Err(over), "{field}");
    }
}

#[test]
fn every_limit_has_a_row() {
    let debug = format!("{:?}", Limits::default());
    let (_, fields) = debug.split_once("{ ").expect("fields");
    let fields: Vec<&str> =
        fields.split(", ").filter_map(|field| Some(field.split_once(':')?.0)).collect();
    let rows = rows();
    assert_eq!(rows.iter().map(|row| row.field).collect::<Vec<_>>(), fields);
}

/// The limit on headers leaves room for the tags of the smallest chunks, and for the largest alignment.
#[test]
fn limits_admit_what_the_planner_offers() {
    let spec = |len| vec![TensorSpec::new("a", Element::Uint8, vec![len])];
    let mut options = LayoutOptions::default();
    options.cipher = Some(compat(None));
    let layout = Layout::plan(spec(1 << 40), options).expect("writable");
    let tags = layout.encode_front(&layout.options().extension).expect("planned");
    assert!(front(&tags).entries[0].header_len() > (1 << 40) / 64);
    let mut options = LayoutOptions::default();
    options.alignment = 2 << 20;
    let aligned = testing::build(spec(1), options);
    assert_eq!(front(&aligned).entries[0].data_offset, 2 << 20);
}

/// Only what makes a value is counted: not a comma or bracket in a string, even behind an escaped quote.
#[test]
fn user_metadata_may_hold_long_text() {
    let mut extension = Extension::default();
    let text = "\\\",[{".repeat(20_000);
    extension.user_metadata = serde_json::json!({ "text": text }).as_object().cloned();
    let read = testing::decode_extension(&testing::encode_extension(&extension), 1);
    assert_eq!(read, Ok(extension));
}

/// The most memory that reading the front, and then each header, held at once.
fn peak(file: &[u8]) -> u64 {
    measure(|| {
        let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(file) else {
            return;
        };
        for entry in &front.entries {
            let range = at(entry.header_offset)..at(entry.data_offset);
            let bytes = file.get(range).unwrap_or_default();
            let decoded = TensorHeader::decode(bytes, entry, front.header.flags);
            drop(decoded);
        }
    })
    .bytes_max
}

#[track_caller]
fn check(name: &str, file: &[u8], per_byte: u64) {
    let peak = peak(file);
    let bound = file.len() as u64 * per_byte + 8192;
    assert!(peak <= bound, "{name}: {peak} bytes of memory for {} of file", file.len());
}

#[test]
fn f12_memory_follows_the_bytes_that_are_there() {
    for fixture in fixtures() {
        check(&fixture.name, &fixture.bytes, 2);
    }
    let mut packed = LayoutOptions::default();
    packed.alignment = 1;
    packed.hashes.clear();
    let tiny = |i| TensorSpec::new(format!("{i}"), Element::Uint8, vec![]);
    let tensors = (0..20_000).map(tiny).collect();
    check("tiny tensors", &testing::build(tensors, packed.clone()), 8);

    // The densest path: one digit and a comma for each key.
    let deep = |i| {
        let mut keys = vec![PathKey::Name(format!("{i}"))];
        keys.extend((0..30_000).map(|_| PathKey::Index(0)));
        TensorSpec::new(TensorPath::new(keys).expect("keys"), Element::Uint8, vec![])
    };
    check("deep paths", &testing::build((0..4).map(deep).collect(), packed.clone()), 64);

    let mut meta = packed.clone();
    let objects = format!("{{\"k\":[{}]}}", vec!["{\"\":0}"; 8_000].join(","));
    meta.extension.user_metadata = serde_json::from_str(&objects).expect("object");
    check("metadata objects", &testing::build(testing::specs(), meta), 128);

    // Lengths and counts that lie: nothing is taken for bytes that are not there.
    let file = file();
    for (name, at, value) in [
        ("tensor count", 57, 4_000_000_u64),
        ("index length", 65, 256 << 20),
        ("header offset", 91, u64::MAX >> 1),
        ("data offset", 99, u64::MAX >> 1),
    ] {
        let mut lie = file.clone();
        lie[at..at + 8].copy_from_slice(&value.to_le_bytes());
        check(name, &lie, 4);
    }
    let mut options = packed;
    options.cipher = Some(compat(None));
    let file = testing::build(vec![TensorSpec::new("ab", Element::Float32, vec![2, 3])], options);
    let crypt = 115 + 31;
    for (name, at) in
        [("crypt block", crypt), ("crypt chunk", crypt + 10), ("tag count", crypt + 52)]
    {
        let mut lie = file.clone();
        lie[at..at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        check(name, &lie, 4);
    }
}
