//! Rows on tensor headers: fields, hash block, crypt block.

use tz_format::{CipherPlan, Element, Fault, HashKind, LayoutOptions, TensorSpec, testing};

use super::{Row, malformed, row};
use crate::files::{argon2id, compat, patch, seal};

/// Where the header stands, behind one index entry of 42 bytes.
const HEADER: usize = 115;
/// Where the hash block's length stands; a file without hashes has its crypt block 3 bytes on.
const HASHES: usize = HEADER + 28;
const CRYPT: usize = HASHES + 3;

fn build(dims: Vec<u64>, change: impl FnOnce(&mut LayoutOptions)) -> Vec<u8> {
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes.clear();
    change(&mut options);
    testing::build(vec![TensorSpec::new("ab", Element::Float32, dims)], options)
}

/// A tensor of 24 bytes with both hashes.
fn hashed() -> Vec<u8> {
    build(vec![2, 3], |options| options.hashes = vec![HashKind::Crc32, HashKind::Sha256])
}

/// A tensor of 24 bytes under one tag, with key derivation.
fn encrypted() -> Vec<u8> {
    build(vec![2, 3], |options| options.cipher = Some(compat(Some(argon2id()))))
}

/// A tensor of 2,400 bytes in three chunks.
fn chunked() -> Vec<u8> {
    build(vec![2, 300], |options| options.cipher = Some(compat(None)))
}

/// A sealed tensor of 4,800 bytes in two chunks; its header stands behind the extension block too.
fn sealed() -> Vec<u8> {
    build(vec![2, 600], seal)
}
const SEALED_CRYPT: usize = CRYPT + 12 + 46 + 38;

fn of_ab(field: &'static str, offset: usize, fault: Fault) -> tz_format::FormatError {
    malformed(field, offset as u64, "ab", fault)
}

pub(super) fn rows() -> Vec<Row> {
    [fields(), hashes(), crypt(), ciphers()].into_iter().flatten().collect()
}

fn fields() -> Vec<Row> {
    let set = |offset, bytes: &[u8]| patch(hashed(), HEADER + offset, bytes);
    let differs = |field, offset| of_ab(field, HEADER + offset, Fault::DiffersFromIndex);
    let cut = |field, offset| of_ab(field, HEADER + offset, Fault::Truncated);
    vec![
        row("header_len_differs", set(0, &[78]), differs("header length", 0)),
        row("header_len_zero", set(0, &[0]), differs("header length", 0)),
        row("header_kind_differs", set(10, &[0]), differs("tensor type", 10)),
        row("header_kind_unknown", set(10, &[9]), differs("tensor type", 10)),
        row("header_name_runs_out", set(11, &[255, 255]), cut("name", 13)),
        row("header_name_differs", set(14, b"c"), differs("name", 13)),
        row("header_name_not_utf8", set(14, &[0xff]), differs("name", 13)),
        row("header_dtype_differs", set(17, b"i"), differs("dtype", 16)),
        row("header_dtype_unknown", set(17, b"x"), differs("dtype", 16)),
        row("header_rank_runs_out", set(19, &[255]), cut("shape", 20 + 56)),
        row("header_shape_differs", set(20, &[3]), differs("shape", 20)),
        row("header_data_len_differs", set(71, &[23]), differs("data length", 71)),
        row("header_data_len_negative", set(78, &[0x80]), differs("data length", 71)),
    ]
}

fn hashes() -> Vec<Row> {
    let set = |offset, bytes: &[u8]| patch(hashed(), HASHES + offset, bytes);
    let fault = |field, offset, fault| of_ab(field, HASHES + offset, fault);
    // As many bytes as the block of two hashes and the data length together.
    let eight_crcs = [&[49, 0, 8][..], &[0, 4, 0, 0, 0, 0].repeat(8)].concat();
    vec![
        row("hash_block_runs_out", set(0, &[52]), fault("hash block", 2, Fault::Truncated)),
        row(
            "hash_block_eats_the_data_len",
            set(0, &[49]),
            fault("hash block", 43, Fault::TrailingBytes(8)),
        ),
        row(
            "no_room_for_the_data_len",
            set(0, &eight_crcs),
            fault("data length", 51, Fault::Truncated),
        ),
        row("hash_block_of_no_bytes", set(0, &[0]), fault("hash count", 2, Fault::Truncated)),
        row("hash_count_beyond_block", set(2, &[3]), fault("hash type", 43, Fault::Truncated)),
        row("hash_left_over", set(2, &[1]), fault("hash block", 9, Fault::TrailingBytes(34))),
        row("unknown_hash", set(3, &[2]), fault("hash type", 3, Fault::UnknownHash(2))),
        row("long_crc32", set(4, &[5]), fault("hash length", 4, Fault::WrongHashLength(5))),
        row("short_sha256", set(10, &[31]), fault("hash length", 10, Fault::WrongHashLength(31))),
        row("sha256_runs_out", set(0, &[40]), fault("hash value", 11, Fault::Truncated)),
    ]
}

fn crypt() -> Vec<Row> {
    let set = |offset, bytes: &[u8]| patch(encrypted(), CRYPT + offset, bytes);
    let fault = |field, offset, fault| of_ab(field, CRYPT + offset, fault);
    let count = |found, expected| fault("crypt block", 0, Fault::WrongTagCount { found, expected });
    let none = patch(set(0, &[2]), CRYPT + 8, &[0]);
    vec![
        row("crypt_block_runs_out", set(7, &[1]), fault("crypt block", 8, Fault::Truncated)),
        // Its last eight bytes are the data length's.
        row(
            "crypt_block_eats_the_data_len",
            set(0, &[126]),
            fault("crypt block", 126, Fault::TrailingBytes(8)),
        ),
        row(
            "crypt_chunk_left_over",
            set(8, &[1]),
            fault("crypt block", 60, Fault::TrailingBytes(66)),
        ),
        row(
            "crypt_count_beyond_block",
            set(8, &[3]),
            fault("crypt chunk length", 126, Fault::Truncated),
        ),
        row("crypt_chunk_runs_out", set(10, &[0xff]), fault("crypt chunk", 18, Fault::Truncated)),
        row(
            "crypt_chunk_too_long",
            set(10, &[43]),
            fault("crypt chunk", 60, Fault::TrailingBytes(1)),
        ),
        row(
            "unknown_crypt_chunk",
            set(18, &[4]),
            fault("crypt chunk type", 18, Fault::UnknownCryptChunk(4)),
        ),
        // Key derivation and the whole-tensor cipher have the same length.
        row(
            "two_ciphers",
            set(18, &[3]),
            fault("crypt chunk type", 68, Fault::DuplicateCryptChunk(2)),
        ),
        row(
            "unknown_derivation_method",
            set(20, &[2]),
            fault("key derivation method", 20, Fault::UnknownKeyDerivation(2)),
        ),
        row(
            "unknown_derivation_algorithm",
            set(38, &[255; 4]),
            fault("key derivation algorithm", 38, Fault::UnknownKeyDerivation(-1)),
        ),
        row("salt_runs_out", set(42, &[17]), fault("salt", 44, Fault::Truncated)),
        row("salt_too_short", set(42, &[15]), fault("crypt chunk", 59, Fault::TrailingBytes(1))),
        row("encrypted_data_without_cipher", none, count(0, 1)),
    ]
}

fn ciphers() -> Vec<Row> {
    let set = |offset, bytes: &[u8]| patch(chunked(), CRYPT + offset, bytes);
    let fault = |field, offset, fault| of_ab(field, CRYPT + offset, fault);
    let seal_set = |offset, bytes: &[u8]| patch(sealed(), SEALED_CRYPT + offset, bytes);
    let seal_fault = |field, offset, fault| of_ab(field, SEALED_CRYPT + offset, fault);
    let counts = |found, expected| Fault::WrongTagCount { found, expected };
    // Unknown records instead of slots and MAC, and no sealed flag: a plain front before a sealed header.
    let unsealed = patch(patch(patch(sealed(), 127, &[6]), 173, &[7]), 9 + 16, &[0]);
    vec![
        row(
            "chunk_size_not_a_multiple",
            set(20, &[65]),
            fault("chunk size", 20, Fault::BadChunkSize(0x441)),
        ),
        row(
            "chunk_size_too_small",
            set(20, &[0, 2]),
            fault("chunk size", 20, Fault::BadChunkSize(512)),
        ),
        row("chunk_size_zero", set(20, &[0, 0]), fault("chunk size", 20, Fault::BadChunkSize(0))),
        row(
            "larger_chunks_need_fewer_tags",
            set(20, &[0, 8]),
            fault("crypt block", 0, counts(3, 2)),
        ),
        row("tags_run_out", set(52, &[4]), fault("tags", 60, Fault::Truncated)),
        row("tag_count_overflows", set(52, &[255; 8]), fault("tag count", 52, Fault::Truncated)),
        row(
            "fewer_tags_than_chunk",
            set(52, &[2]),
            fault("crypt chunk", 92, Fault::TrailingBytes(16)),
        ),
        row(
            "sealed_chunk_size_too_small",
            seal_set(20, &[0, 8]),
            seal_fault("chunk size", 20, Fault::BadChunkSize(2048)),
        ),
        row(
            "sealed_chunk_size_too_large",
            seal_set(23, &[8]),
            seal_fault("chunk size", 20, Fault::BadChunkSize(0x0800_1000)),
        ),
        row(
            "sealed_chunks_need_fewer_tags",
            seal_set(20, &[0, 0x20]),
            seal_fault("crypt block", 0, counts(2, 1)),
        ),
        row(
            "sealed_cipher_in_a_plain_file",
            unsealed,
            seal_fault("crypt block", 0, Fault::WrongProfile),
        ),
        row(
            "other_cipher_in_a_sealed_file",
            downgraded(),
            seal_fault("crypt block", 0, Fault::WrongProfile),
        ),
        row(
            "no_cipher_in_a_sealed_file",
            seal_set(0, &[2, 0, 0, 0, 0, 0, 0, 0, 0]),
            seal_fault("crypt block", 0, Fault::WrongProfile),
        ),
    ]
}

/// A sealed file whose header asks for XSalsa20-Poly1305: 66 bytes of block for 50 of the sealed one.
fn downgraded() -> Vec<u8> {
    let plan = CipherPlan::XSalsa20Chunked { chunk_size: 8192, key_derivation: None };
    let weak = build(vec![2, 600], |options| options.cipher = Some(plan));
    let block = &weak[CRYPT..CRYPT + 76];
    // The sealed block of two tags is 68 bytes; data moves on by the difference, in index and header alike.
    let mut file = sealed();
    file.splice(SEALED_CRYPT..SEALED_CRYPT + 68, block.iter().copied());
    for (offset, moved) in [(99, 8), (SEALED_CRYPT - 31, 8)] {
        let value = u64::from_le_bytes(*file[offset..].first_chunk().expect("u64")) + moved;
        file = patch(file, offset, &value.to_le_bytes());
    }
    file
}
