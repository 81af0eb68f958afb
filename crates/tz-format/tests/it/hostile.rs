//! One row for each refusal: how a valid file is broken, and the exact error, field and offset that it gives.
//! A variant of the error types without a row fails a test.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use tz_format::{Fault, FormatError, FrontDecoder, Limits, Malformed, Step, TensorHeader};

mod extension;
mod front;
mod header;
mod unwritable;

/// A broken file, or a plan that cannot be written, and what is said of it.
#[derive(Debug)]
struct Row {
    name: &'static str,
    found: Result<(), FormatError>,
    expect: FormatError,
}

/// A file to be read whole.
fn row(name: &'static str, file: Vec<u8>, expect: FormatError) -> Row {
    Row { name, found: open(&file), expect }
}

/// `tensor` is empty where none is known yet.
fn malformed(field: &'static str, offset: u64, tensor: &str, fault: Fault) -> FormatError {
    let tensor = (!tensor.is_empty()).then(|| tensor.to_owned());
    FormatError::Malformed(Malformed { field, offset, tensor, fault })
}

/// Reads the front, checks the length and decodes every header, as a program would before it reads data.
fn open(file: &[u8]) -> Result<(), FormatError> {
    let front = match FrontDecoder::new(Limits::default()).step(file)? {
        Step::Done(front) => front,
        Step::Need(range) => panic!("needs {range:?}"),
    };
    front.check_file_len(file.len() as u64)?;
    for entry in &front.entries {
        let at = |offset: u64| usize::try_from(offset).expect("in memory");
        let bytes = &file[at(entry.header_offset)..at(entry.data_offset)];
        TensorHeader::decode(bytes, entry, front.header.flags)?;
    }
    Ok(())
}

/// Built once: one row takes 128 MiB.
static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let parts = [front::rows(), extension::rows(), header::rows(), unwritable::rows()];
    parts.into_iter().flatten().collect()
});

#[test]
fn f10_every_broken_file_is_refused_by_field_and_offset() {
    let wrong: Vec<&Row> = ROWS.iter().filter(|row| row.found != Err(row.expect.clone())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_of_rows_differ() {
    let mut seen = BTreeSet::new();
    for row in &*ROWS {
        assert!(seen.insert(row.name), "{} stands twice", row.name);
    }
}

/// The variants of an enum of `error.rs`, read from its text: the compiler does not list them.
fn variants(name: &str) -> BTreeSet<String> {
    let source = include_str!("../../src/error.rs");
    let (_, body) = source.split_once(&format!("pub enum {name} {{\n")).expect("enum");
    let (body, _) = body.split_once("\n}").expect("end");
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    names.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).map(variant).collect()
}

/// The leading identifier.
fn variant(text: impl AsRef<str>) -> String {
    text.as_ref().chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn every_variant_has_a_row() {
    let errors = || ROWS.iter().map(|row| &row.expect);
    let outer: BTreeSet<_> = errors().map(|error| variant(format!("{error:?}"))).collect();
    assert_eq!(outer, variants("FormatError"));
    let faults = errors().filter_map(|error| match error {
        FormatError::Malformed(malformed) => Some(variant(format!("{:?}", malformed.fault))),
        _ => None,
    });
    assert_eq!(faults.collect::<BTreeSet<_>>(), variants("Fault"));
    let unwritable = errors().filter_map(|error| match error {
        FormatError::Unwritable(why) => Some(variant(format!("{why:?}"))),
        _ => None,
    });
    assert_eq!(unwritable.collect::<BTreeSet<_>>(), variants("Unwritable"));
}

/// Messages are lower-case fragments that a program can put after its own words.
#[test]
fn messages_are_fragments() {
    for Row { name, expect, .. } in &*ROWS {
        let text = expect.to_string();
        assert!(text.starts_with(|c: char| c.is_ascii_lowercase()), "{name}: {text}");
        assert!(!text.ends_with('.') && !text.contains('\n'), "{name}: {text}");
    }
}
