//! Rows on what cannot be written: nothing is laid out, and the tensor or option is named.

use tz_format::{
    CipherPlan, Element, Fault, FormatError, HashKind, KeyDerivation, Layout, LayoutOptions,
    PathKey, TensorHash, TensorKind, TensorPath, TensorSpec, Unwritable,
};

use super::{Row, malformed};
use crate::files::{compat, plain_extension, seal};

fn spec(name: &str, shape: Vec<u64>) -> TensorSpec {
    TensorSpec::new(name, Element::Float32, shape)
}

fn one() -> Vec<TensorSpec> {
    vec![spec("a", vec![3])]
}

fn plan(
    name: &'static str,
    specs: Vec<TensorSpec>,
    options: LayoutOptions,
    why: Unwritable,
) -> Row {
    let found = Layout::plan(specs, options).map(|_| ());
    Row { name, found, expect: FormatError::Unwritable(why) }
}

/// One spec that cannot be written.
fn tensor(name: &'static str, spec: TensorSpec, why: Unwritable) -> Row {
    plan(name, vec![spec], LayoutOptions::default(), why)
}

/// One option that cannot be had.
fn option(name: &'static str, change: impl FnOnce(&mut LayoutOptions), why: &'static str) -> Row {
    let mut options = LayoutOptions::default();
    change(&mut options);
    plan(name, one(), options, Unwritable::Option(why))
}

pub(super) fn rows() -> Vec<Row> {
    [tensors(), options(), encoding()].into_iter().flatten().collect()
}

fn tensors() -> Vec<Row> {
    let a = || "a".to_owned();
    let long = "n".repeat(65_536);
    // Every character becomes six bytes in the JSON form.
    let escaped = format!("\u{1e}{}", "é".repeat(11_000));
    let structured = TensorPath::new(vec!["a".into(), PathKey::Index(0)]).expect("keys");
    let mut parameter = TensorSpec::new(structured.clone(), Element::Int8, vec![1]);
    parameter.kind = TensorKind::Parameter;
    let meta = |shape| TensorSpec { meta: true, ..spec("a", shape) };
    let huge = |name| spec(name, vec![1 << 31, 1 << 29]);
    let defaults = LayoutOptions::default;
    let prefixed = Fault::PathConflict("a prefix of it is a tensor");
    let below = vec![spec("a", vec![]), TensorSpec::new(structured, Element::Int8, vec![1])];
    vec![
        plan("nothing_to_write", vec![], defaults(), Unwritable::Empty),
        tensor("name_of_65536_bytes", spec(&long, vec![]), Unwritable::NameTooLong(long.clone())),
        tensor(
            "name_long_once_escaped",
            spec(&escaped, vec![]),
            Unwritable::NameTooLong(escaped.clone()),
        ),
        tensor("256_dimensions", spec("a", vec![1; 256]), Unwritable::RankTooHigh(a())),
        tensor("shape_too_large", spec("a", vec![1 << 32, 1 << 30]), Unwritable::TooLarge(a())),
        plan(
            "sum_too_large",
            ["a", "b"].map(huge).to_vec(),
            defaults(),
            Unwritable::TooLarge("b".to_owned()),
        ),
        tensor("meta_scalar", meta(vec![]), Unwritable::EmptyMeta(a())),
        tensor("meta_without_elements", meta(vec![2, 0]), Unwritable::EmptyMeta(a())),
        plan(
            "same_path_again",
            [one(), one()].concat(),
            defaults(),
            Unwritable::Path(a(), Fault::DuplicatePath),
        ),
        plan(
            "path_below_a_tensor",
            below,
            defaults(),
            Unwritable::Path("a/0".to_owned(), prefixed),
        ),
        tensor(
            "structured_parameter",
            parameter,
            Unwritable::Path("a/0".to_owned(), Fault::StructuredPath),
        ),
    ]
}

fn options() -> Vec<Row> {
    let alignment = "alignment: a power of two of at most 2 MiB";
    let chunk =
        "chunk size: a multiple of 64 from 1,024 (compat), or of 4,096 up to 64 MiB (sealed)";
    let profile = "extension: key slots and metadata MAC in every sealed file and no other, BLAKE3 digests in no sealed one";
    let compat_chunk =
        |chunk_size| CipherPlan::XSalsa20Chunked { chunk_size, key_derivation: None };
    let salty = KeyDerivation { opslimit: 1, memlimit: 8192, salt: vec![0; 65_536] };
    let mut many_chunks = LayoutOptions::default();
    seal(&mut many_chunks);
    let tera = vec![spec("a", vec![1 << 43, 1])];
    let deep = (0..130).fold(serde_json::Value::Null, |inner, _| serde_json::json!({ "k": inner }));
    let wide = serde_json::json!({ "k": vec![0; 16_384] });
    let json = serde_json::json!({ "k": "v".repeat(1 << 20) });
    vec![
        option("alignment_zero", |o| o.alignment = 0, alignment),
        option("alignment_not_a_power", |o| o.alignment = 96, alignment),
        option("alignment_too_large", |o| o.alignment = 4 << 20, alignment),
        option("hash_twice", |o| o.hashes.push(HashKind::Crc32), "hashes: each kind once"),
        option("compat_chunks_too_small", |o| o.cipher = Some(compat_chunk(960)), chunk),
        option("compat_chunks_uneven", |o| o.cipher = Some(compat_chunk(1025)), chunk),
        option(
            "sealed_chunks_too_large",
            |o| o.cipher = Some(CipherPlan::Sealed { chunk_size: 65 << 20 }),
            chunk,
        ),
        option(
            "salt_too_long",
            |o| o.cipher = Some(compat(Some(salty))),
            "salt: at most 65,535 bytes",
        ),
        option(
            "sealed_without_records",
            |o| o.cipher = Some(CipherPlan::Sealed { chunk_size: 4096 }),
            profile,
        ),
        option(
            "digests_of_a_sealed_file",
            |o| {
                seal(o);
                o.extension.blake3 = Some(vec![[0; 32]]);
            },
            profile,
        ),
        option("slots_of_a_plain_file", |o| o.extension.key_slots = Some(vec![]), profile),
        option(
            "two_digests_for_one",
            |o| o.extension = plain_extension(2),
            "extension: one BLAKE3 digest per tensor",
        ),
        option(
            "metadata_over_1_mib",
            |o| o.extension.user_metadata = json.as_object().cloned(),
            "extension: at most 1 MiB of user metadata",
        ),
        option(
            "metadata_of_too_many_values",
            |o| o.extension.user_metadata = wide.as_object().cloned(),
            "extension: at most 16,384 values of user metadata",
        ),
        option(
            "metadata_too_deep",
            |o| o.extension.user_metadata = deep.as_object().cloned(),
            "extension: user metadata nested at most 127 deep",
        ),
        option(
            "extension_over_128_mib",
            |o| o.extension.writer = Some("w".repeat(128 << 20)),
            "extension: at most 128 MiB in all",
        ),
        plan(
            "more_than_2_32_sealed_chunks",
            tera,
            many_chunks,
            Unwritable::Option("chunk size: a sealed tensor has at most 2^32 chunks"),
        ),
    ]
}

fn encoding() -> Vec<Row> {
    let layout = Layout::plan(one(), LayoutOptions::default()).expect("writable");
    let sha = [TensorHash::Crc32(0), TensorHash::Sha256([0; 32])];
    let header_at = layout.entries()[0].header_offset;
    let mut packed = LayoutOptions::default();
    packed.alignment = 1;
    let packed = Layout::plan(one(), packed).expect("writable");
    let because = |why| FormatError::Unwritable(Unwritable::Option(why));
    let row = |name, found: Result<Vec<u8>, FormatError>, expect| Row {
        name,
        found: found.map(|_| ()),
        expect,
    };
    vec![
        row(
            "extension_longer_than_planned",
            layout.encode_front(&plain_extension(1)),
            because("the extension block differs in length from the planned one"),
        ),
        row(
            "no_such_tensor",
            layout.encode_header(1, &[], None),
            because("no tensor of that index"),
        ),
        row(
            "crypt_block_for_a_plain_file",
            layout.encode_header(0, &[], Some(&compat(None).template(12))),
            because("crypt block: in every header of an encrypted file, and in no other"),
        ),
        row(
            "more_hashes_than_planned",
            packed.encode_header(0, &sha, None),
            malformed("header length", header_at, "a", Fault::HeaderTooShort),
        ),
    ]
}
