//! What `docs/FORMAT.md` promises beyond the tables of the other modules: what is accepted, and what the planner
//! guarantees.

use sha2::{Digest, Sha256};
use tz_format::{
    ByteOrder, Cipher, Dtype, Element, HashKind, Layout, LayoutOptions, PathKey, TensorHash,
    TensorHeader, TensorPath, TensorSpec, Version, testing,
};

use crate::files::{argon2id, compat, patch, plain_extension, seal};
use crate::manifest::{at, data, front, header, header_bytes};

/// Where the first index entry stands, and the length of that of `ab`, float32, [2, 3].
const ENTRY: usize = 73;
const ENTRY_LEN: usize = 42;

fn options(change: impl FnOnce(&mut LayoutOptions)) -> LayoutOptions {
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    change(&mut options);
    options
}

fn one(change: impl FnOnce(&mut LayoutOptions)) -> Vec<u8> {
    let spec = TensorSpec::new("ab", Element::Float32, vec![2, 3]);
    testing::build(vec![spec], options(change))
}

/// The file with `bytes` put in at `offset`, before the first header: lengths and offsets moved to suit.
fn widen_index(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let moved = bytes.len() as u64;
    for at in [65, ENTRY + 18, ENTRY + 26] {
        let value = u64::from_le_bytes(*file[at..].first_chunk().expect("u64"));
        file = patch(file, at, &(value + moved).to_le_bytes());
    }
    file.splice(offset..offset, bytes.iter().copied());
    file
}

#[test]
fn f13_version_5_needs_no_versioned_entries() {
    let plain = one(|_| {});
    let five = patch(plain.clone(), 5, &[5]);
    assert_eq!(front(&five).header.version, Version::V5);
    assert_eq!(front(&five).entries, front(&plain).entries);
}

#[test]
fn f13_an_entry_of_version_5_may_have_short_dimensions() {
    let long = TensorSpec::new("ab", Element::Uint8, vec![0, 1 << 32]);
    let file = testing::build(vec![long], options(|_| {}));
    // Both dimensions stand as u64 in entry (after version, name, type, dtype, rank) and header.
    let file = patch(file, ENTRY + 4 + 10 + 8, &2_u64.to_le_bytes());
    let entry_shape = front(&file).entries[0].shape.clone();
    assert_eq!(entry_shape, [0, 2]);
    let header_at = at(front(&file).entries[0].header_offset);
    let file = patch(file, header_at + 20 + 8, &2_u64.to_le_bytes());
    let front = front(&file);
    header(&file, &front.entries[0], front.header.flags);
}

#[test]
fn f14_bytes_after_the_last_entry_are_not_read() {
    let file = one(|_| {});
    let wide = widen_index(file, ENTRY + ENTRY_LEN, b"whatever stands here");
    let front = front(&wide);
    assert_eq!(front.extension, tz_format::Extension::default());
    header(&wide, &front.entries[0], front.header.flags);
}

#[test]
fn f14_an_extension_block_may_end_with_the_index_or_before() {
    let exact = one(|options| options.extension = plain_extension(1));
    let index_end = at(front(&exact).header.front_len());
    let wide = widen_index(exact.clone(), index_end, &[7; 11]);
    for file in [exact, wide] {
        assert_eq!(front(&file).extension, plain_extension(1));
    }
    // Less than the eight bytes that begin a block is not a block.
    let stub = widen_index(one(|_| {}), ENTRY + ENTRY_LEN, b"tz-ext\0");
    assert_eq!(front(&stub).extension, tz_format::Extension::default());
}

#[test]
fn f15_unknown_records_are_skipped_and_named() {
    let file = one(|options| options.extension = plain_extension(1));
    let file = patch(file, ENTRY + ENTRY_LEN + 12, &[0xfe, 0x7f]);
    let front = front(&file);
    assert_eq!(front.extension.unknown, [0x7ffe]);
    assert!(front.has_unknown_extensions());
    assert_eq!(front.extension.writer, plain_extension(1).writer);
}

#[test]
fn f16_nothing_after_the_last_tensor_is_needed_or_read() {
    let file = one(|_| {});
    let front = front(&file);
    let len = file.len() as u64;
    assert_eq!(front.data_end() + 8, len);
    for file_len in [len - 8, len - 1, len, len + 1000] {
        assert_eq!(front.check_file_len(file_len), Ok(()));
    }
}

#[test]
fn f17_padding_in_a_header_is_free_but_hashed() {
    let file = one(|options| options.alignment = 512);
    let front = front(&file);
    let entry = &front.entries[0];
    let painted = patch(file.clone(), at(entry.data_offset) - 9, &[0xaa]);
    let [plain, painted] = [file, painted].map(|file| {
        let header = header(&file, entry, front.header.flags);
        (header.hashes.clone(), header.hashed_bytes(header_bytes(&file, entry)))
    });
    assert_eq!(plain.0, painted.0);
    assert_ne!(plain.1, painted.1);
}

#[test]
fn f18_hashes_are_a_list_of_any_length() {
    for kinds in [&[][..], &[HashKind::Sha256], &[HashKind::Sha256, HashKind::Crc32]] {
        let file = one(|options| options.hashes = kinds.to_vec());
        let front = front(&file);
        let header = header(&file, &front.entries[0], front.header.flags);
        assert_eq!(header.hashes.iter().map(TensorHash::kind).collect::<Vec<_>>(), kinds);
    }
    // Eight CRC-32 in the room of one of each kind: the header's fields before the data length keep their place.
    let file = one(|options| options.hashes = vec![HashKind::Crc32, HashKind::Sha256]);
    let block = front(&file).header.front_len() + 28;
    let sixfold = [&[37, 0, 6][..], &[0, 4, 1, 2, 3, 4].repeat(6), &[0; 4]].concat();
    let file = patch(file, at(block), &sixfold);
    let front = front(&file);
    let decoded = header(&file, &front.entries[0], front.header.flags);
    assert_eq!(decoded.hashes, [TensorHash::Crc32(0x0403_0201); 6]);
}

#[test]
fn f19_what_nobody_relies_on_is_not_checked() {
    let file = one(|_| {});
    let expect = front(&file);
    let odd = patch(patch(file, 41, &[9; 8]), 49, &[1; 8]);
    let found = front(&odd);
    assert_eq!(found.entries, expect.entries);
    assert_eq!(found.header.tensor_bytes, 0x0909_0909_0909_0909);
}

#[test]
fn f20_a_path_may_be_spelled_otherwise() {
    let same = |wire: &[u8], keys: &[PathKey]| {
        let expect = TensorPath::new(keys.to_vec()).expect("keys");
        assert_eq!(TensorPath::from_wire(wire), Ok(expect), "{wire:?}");
    };
    same(b"\x1e[\"a\"]", &["a".into()]);
    same(b"\x1e[ \"a\" , 0 ]", &["a".into(), 0.into()]);
    same("\u{1e}[\"名\",\"\\/\"]".as_bytes(), &["名".into(), "/".into()]);
    same(b"\x1e[\"\\u0061\"]", &["a".into()]);
    same(b"\x1e[18446744073709551615]", &[u64::MAX.into()]);

    // Shorter than the canonical spelling, in a header without any room to spare.
    let spec = TensorSpec::new("\u{1}12345678", Element::Float32, vec![2, 3]);
    let file = testing::build(vec![spec], options(|_| {}));
    let wire = "\u{1e}[\"é\",1]".as_bytes();
    assert_eq!(wire.len(), 9);
    let file = patch(file, ENTRY + 2, wire);
    let header_at = at(front(&file).entries[0].header_offset);
    let file = patch(file, header_at + 13, wire);
    let front = front(&file);
    assert_eq!(front.entries[0].path.to_string(), "é/1");
    header(&file, &front.entries[0], front.header.flags);
}

#[test]
fn f21_dtypes_of_old_and_new_files() {
    for (wire, name, order) in [
        ("<f4", "float32", ByteOrder::Little),
        (">f4", "float32", ByteOrder::Big),
        (">c16", "complex128", ByteOrder::Big),
        ("|u1", "uint8", ByteOrder::Little),
        ("<V2\0torch.bfloat16", "bfloat16", ByteOrder::Little),
        ("|V2\0torch.bfloat16", "bfloat16", ByteOrder::Little),
        ("|V1\0torch.float4_e2m1fn_x2", "float4_e2m1fn_x2", ByteOrder::Little),
    ] {
        let dtype = Dtype::from_wire(wire).expect(wire);
        assert_eq!((dtype.name(), dtype.byte_order()), (name, order), "{wire:?}");
    }
}

#[test]
fn f22_a_single_tag_covers_the_whole_tensor() {
    let spec = TensorSpec::new("ab", Element::Uint8, vec![5000]);
    let file = testing::build(
        vec![spec],
        options(|options| {
            options.hashes.clear();
            options.cipher = Some(compat(None));
        }),
    );
    let entry = front(&file).entries[0].clone();
    let flags = front(&file).header.flags;
    let bytes = header_bytes(&file, &entry).to_vec();
    let crypt = bytes.len() - 8 - (10 + 50 + 5 * 16);
    // One tag for five chunks, the other tags turned into padding.
    let mut one_tag = patch(bytes.clone(), crypt, &(2 + 8 + 42 + 16_u64).to_le_bytes());
    one_tag = patch(one_tag, crypt + 10, &(42 + 16_u64).to_le_bytes());
    one_tag = patch(one_tag, crypt + 52, &1_u64.to_le_bytes());
    let decoded = TensorHeader::decode(&one_tag, &entry, flags).expect("one tag");
    let Some(Cipher::XSalsa20Chunked { chunk_size: 1024, tags, .. }) =
        decoded.crypt.and_then(|c| c.cipher)
    else {
        panic!("chunked");
    };
    assert_eq!(tags.len(), 1);
    // The older chunk type says so outright.
    let mut whole = patch(bytes, crypt, &(2 + 8 + 42_u64).to_le_bytes());
    whole = patch(whole, crypt + 10, &42_u64.to_le_bytes());
    whole = patch(whole, crypt + 18, &[3]);
    let decoded = TensorHeader::decode(&whole, &entry, flags).expect("whole");
    assert!(matches!(decoded.crypt.and_then(|c| c.cipher), Some(Cipher::XSalsa20Whole { .. })));
}

#[test]
fn f23_the_lowest_version_is_written() {
    let spec = |element, shape: &[u64]| TensorSpec::new("a", element, shape.to_vec());
    let plain = || spec(Element::Float32, &[3]);
    let meta = TensorSpec { meta: true, ..plain() };
    let long = spec(Element::Float32, &[0, 1 << 32]);
    let opaque = || spec(Element::Bfloat16, &[3]);
    let encrypted = || options(|options| options.cipher = Some(compat(Some(argon2id()))));
    for (spec, options, version, flags) in [
        (plain(), options(|_| {}), Version::V1, 0),
        (spec(Element::Uint8, &[u32::MAX.into(), 0]), options(|_| {}), Version::V1, 0),
        (opaque(), options(|_| {}), Version::V2, 0),
        (opaque(), encrypted(), Version::V3, 0),
        (meta.clone(), options(|_| {}), Version::V4, 0),
        (meta, encrypted(), Version::V4, 1),
        (long.clone(), options(|_| {}), Version::V5, 2),
        (long, encrypted(), Version::V5, 3),
        (plain(), options(seal), Version::V4, 1),
    ] {
        let file = testing::build(vec![spec.clone()], options);
        assert_eq!(front(&file).header.version, version, "{spec:?}");
        assert_eq!(file[9], flags, "{spec:?}");
    }
}

#[test]
fn f24_the_index_has_the_length_it_needs() {
    let spec = |i| TensorSpec::new(format!("model.layers.{i}.mlp.weight"), Element::Int8, vec![1]);
    // The reference gives up where its 256 KiB are full.
    let file = testing::build((0..6_000).map(spec).collect(), options(|_| {}));
    let front = front(&file);
    assert!(front.header.index_len > 262_144);
    assert_eq!(front.entries.len(), 6_000);
    let last = front.entries.last().expect("entries");
    let index_end = at(front.header.front_len());
    assert_eq!(file[index_end - 8..index_end], last.data_len.to_le_bytes());
}

#[test]
fn f25_data_is_aligned_and_empty_tensors_cost_no_block() {
    let spec = |name: &str, len| TensorSpec::new(name, Element::Uint8, vec![len]);
    let specs = vec![spec("a", 3), spec("none", 0), spec("b", 5000), spec("c", 1)];
    let layout = Layout::plan(specs, LayoutOptions::default()).expect("writable");
    let places: Vec<_> = layout.entries().iter().map(|entry| entry.data_offset % 4096).collect();
    assert_eq!((places[0], places[2], places[3]), (0, 0, 0));
    assert!(layout.entries()[1].header_len() < 64);
    assert_eq!(layout.file_len(), layout.entries()[3].data_end() + 8);
}

#[test]
fn f26_a_plain_file_carries_a_crc32_that_verifies() {
    let layout = Layout::plan(testing::specs(), LayoutOptions::default()).expect("writable");
    for (i, entry) in layout.entries().iter().enumerate() {
        let data = testing::paint(entry.data_len);
        let zeroed = layout.encode_header(i, &layout.zero_hashes(), None).expect("planned");
        let crc32 = TensorHash::Crc32(crc32fast::hash(&[&zeroed[..], &data].concat()));
        let bytes = layout.encode_header(i, &[crc32], None).expect("planned");
        let decoded = TensorHeader::decode(&bytes, entry, layout.header().flags).expect("valid");
        assert_eq!(decoded.hashes, [crc32]);
        assert_eq!(decoded.hashed_bytes(&bytes), zeroed);
    }
}

#[test]
fn f27_a_meta_tensor_has_a_size_but_no_bytes() {
    let meta = TensorSpec { meta: true, ..TensorSpec::new("m", Element::Bfloat16, vec![2, 3]) };
    let file = testing::build(vec![meta], LayoutOptions::default());
    let entry = &front(&file).entries[0];
    assert!(entry.is_meta());
    assert_eq!((entry.byte_len(), data(&file, entry).len()), (12, 0));
    let empty = testing::build(
        vec![TensorSpec::new("e", Element::Int8, vec![0])],
        LayoutOptions::default(),
    );
    assert!(!front(&empty).entries[0].is_meta());
}

#[test]
fn f28_what_hashes_and_tags_cover() {
    let specs = || vec![TensorSpec::new("ab", Element::Uint8, vec![5000])];
    let options = || {
        options(|options| {
            seal(options);
            options.hashes = vec![HashKind::Sha256];
        })
    };
    let layout = Layout::plan(specs(), options()).expect("writable");
    let mut crypt = layout.crypt_template(0).expect("sealed");
    if let Some(Cipher::Sealed { tags, .. }) = &mut crypt.cipher {
        tags.iter_mut().for_each(|tag| *tag = [0x77; 16]);
    }
    let hash = TensorHash::Sha256(Sha256::digest("x").into());
    let bytes = layout.encode_header(0, &[hash], Some(&crypt)).expect("planned");
    let decoded =
        TensorHeader::decode(&bytes, &layout.entries()[0], layout.header().flags).expect("valid");
    // Fields up to the hash block, the block with a zero value, then what follows the crypt block.
    let (hash_at, crypt_at) = (8 + 2 + 1 + 4 + 4 + 5, 8 + 2 + 1 + 4 + 4 + 5 + 2 + 1 + 2 + 32);
    let mut zeroed = bytes.clone();
    zeroed[hash_at + 5..crypt_at].fill(0);
    let block_len = 8 + 2 + 8 + 2 + 8 + 8 + 32;
    let covered = [&zeroed[..crypt_at], &zeroed[crypt_at + block_len..]].concat();
    assert_eq!(decoded.hashed_bytes(&bytes), covered);
    // The sealed profile binds the whole block but its 32 bytes of tags.
    let tags_at = crypt_at + block_len - 32;
    let bound = [&zeroed[..tags_at], &zeroed[tags_at + 32..]].concat();
    assert_eq!(decoded.sealed_aad(&bytes), bound);
    assert!(!bound.contains(&0x77));
}
