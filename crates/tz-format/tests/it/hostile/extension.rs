//! Rows on the extension block, and on which profile may have which record.

use tz_format::{Fault, FormatError, testing};

use super::front::{packed, spec};
use super::{Row, malformed, row};
use crate::files::{patch, plain_extension, seal};

const FLAGS: usize = 9;
/// Where the extension block of a file of one tensor stands, and its first record.
const EXTENSION: usize = 115;
const RECORD: usize = EXTENSION + 12;

fn extended() -> Vec<u8> {
    let mut options = packed();
    options.extension = plain_extension(1);
    testing::build(vec![spec("ab")], options)
}

fn sealed() -> Vec<u8> {
    let mut options = packed();
    seal(&mut options);
    testing::build(vec![spec("ab")], options)
}

pub(super) fn rows() -> Vec<Row> {
    let bad = |offset: usize, why| {
        malformed("extension record", offset as u64, "", Fault::BadExtension(why))
    };
    let cut = |field, offset: usize| malformed(field, offset as u64, "", Fault::Truncated);
    let profile = malformed("extension block", EXTENSION as u64, "", Fault::WrongProfile);
    // Records of `extended`: digests of 32 bytes, then "tz test", then a JSON object.
    let (writer, metadata) = (RECORD + 38, RECORD + 38 + 13);
    let set = |offset, bytes: &[u8]| patch(extended(), offset, bytes);
    let over = FormatError::LimitExceeded {
        what: "extension length",
        value: u32::MAX.into(),
        limit: 128 << 20,
        offset: 123,
    };
    let critical = FormatError::UnsupportedExtension { kind: 0x8002 };
    vec![
        row(
            "extension_longer_than_index",
            set(EXTENSION + 8, &[0xff]),
            cut("extension block", RECORD),
        ),
        row("extension_beyond_limit", set(EXTENSION + 8, &[255; 4]), over),
        row("record_type_cut", set(EXTENSION + 8, &[1, 0]), cut("extension record type", RECORD)),
        row(
            "record_len_cut",
            set(EXTENSION + 8, &[5, 0]),
            cut("extension record length", RECORD + 2),
        ),
        row("record_runs_out", set(RECORD + 2, &[255; 4]), cut("extension record", RECORD + 6)),
        row("no_digests", set(RECORD + 2, &[0]), bad(RECORD, "not one digest per tensor")),
        row(
            "digests_do_not_match_tensors",
            set(RECORD + 2, &[31]),
            bad(RECORD, "not one digest per tensor"),
        ),
        row("writer_not_utf8", set(writer + 6, &[0xff]), bad(writer, "writer is not UTF-8")),
        row(
            "metadata_not_an_object",
            set(metadata + 6, b"["),
            bad(metadata, "user metadata is not a JSON object"),
        ),
        row("mac_of_7_bytes", set(writer, &[5]), bad(writer, "metadata MAC is not 32 bytes")),
        row("record_twice", set(metadata, &[2]), bad(metadata, "stands twice")),
        row("critical_record", set(writer, &[2, 0x80]), critical),
        row("sealed_without_extension", patch(sealed(), EXTENSION, b"-"), profile.clone()),
        row("sealed_without_key_slots", patch(sealed(), RECORD, &[6]), profile.clone()),
        row("sealed_without_mac", patch(sealed(), RECORD + 46, &[6]), profile.clone()),
        row("sealed_records_in_a_plain_file", patch(sealed(), FLAGS + 16, &[0]), profile.clone()),
        row("key_slots_in_a_plain_file", set(writer, &[4]), profile),
    ]
}
