//! Sealed files whose names, shapes, offsets, extension or key slots were edited, or rolled back.

use tz_crypto::testing::{contents, decode_front, open_file, seal_file};
use tz_crypto::{CryptoError, FileOpener, FileSealer, KdfLimits, SlotChange, rewrap};
use tz_format::{
    CipherPlan, Element, Extension, Layout, LayoutOptions, TensorHeader, TensorKind, TensorSpec,
};

use crate::support::{pass, refusal, seal_key, seal_pass, sealed, secret, specs, unopened};

const LEN: u64 = 24;

fn two() -> Vec<TensorSpec> {
    specs(&[LEN, LEN])
}

/// A file that says `specs` and `extension`, well formed in every byte, around the salt, slots, MAC, tags and data
/// of `file`: what a forger without the key can make of it.
fn forge(file: &[u8], specs: Vec<TensorSpec>, change: fn(&mut Extension)) -> Vec<u8> {
    let front = decode_front(file).unwrap();
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes = Vec::new();
    options.cipher = Some(CipherPlan::Sealed { chunk_size: 4096 });
    options.extension = front.extension.clone();
    change(&mut options.extension);
    let layout = Layout::plan(specs, options).unwrap();
    let mut forged = layout.encode_front(&layout.options().extension).unwrap();
    let at = |offset: u64| usize::try_from(offset).unwrap();
    for (i, old) in front.entries.iter().enumerate() {
        let bytes = &file[at(old.header_offset)..at(old.data_offset)];
        let header = TensorHeader::decode(bytes, old, front.header.flags).unwrap();
        forged.extend(layout.encode_header(i, &[], header.crypt.as_ref()).unwrap());
        forged.extend(&file[at(old.data_offset)..at(old.data_end())]);
    }
    forged.extend([0; 8]);
    forged
}

/// Edits that keep the length of the data.
fn edits() -> Vec<(&'static str, Vec<TensorSpec>)> {
    let edit = |change: fn(&mut TensorSpec)| {
        let mut specs = two();
        change(&mut specs[1]);
        specs
    };
    vec![
        ("name", edit(|spec| spec.path = "t9".into())),
        ("longer name", edit(|spec| spec.path = "t1.weight".into())),
        ("dtype", edit(|spec| spec.dtype = Element::Int8.into())),
        (
            "wider dtype",
            edit(|spec| {
                spec.dtype = Element::Float32.into();
                spec.shape = vec![6];
            }),
        ),
        ("shape", edit(|spec| spec.shape = vec![4, 6])),
        ("kind", edit(|spec| spec.kind = TensorKind::Parameter)),
        ("module index", edit(|spec| spec.module_index = 1)),
    ]
}

#[test]
fn e16_edited_metadata_is_refused() {
    let file = sealed(two());
    assert_eq!(forge(&file, two(), |_| {}), file);
    for (what, specs) in edits() {
        let forged = forge(&file, specs, |_| {});
        if what == "module index" {
            // It stands in the header alone.
            let tensors = open_file(&forged, &[secret(1)]).unwrap();
            assert_eq!(unopened(&tensors), [1]);
        } else {
            assert_eq!(refusal(&forged, &[secret(1)]), CryptoError::FrontAltered, "{what}");
        }
    }
}

/// Even if the front were believed, the chunks would not be.
#[test]
fn e16_chunks_are_bound_to_their_header() {
    let file = sealed(two());
    let front = decode_front(&file).unwrap();
    let opener = FileOpener::new(&front, &file, &[secret(1)], &KdfLimits::default()).unwrap();
    let open = |forged: &[u8]| {
        let front = decode_front(forged).unwrap();
        let entry = &front.entries[1];
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let bytes = &forged[at(entry.header_offset)..at(entry.data_offset)];
        let header = TensorHeader::decode(bytes, entry, front.header.flags).unwrap();
        let tensor = opener.tensor(1, entry, &header, bytes).unwrap();
        let sealed = &forged[at(entry.data_offset)..at(entry.data_end())];
        let mut plain = vec![0xa5; sealed.len()];
        tensor.open_chunk(0, sealed, &mut plain).map(|()| plain)
    };
    assert_eq!(open(&file), Ok(contents(1, LEN)));
    for (what, specs) in edits() {
        assert_eq!(open(&forge(&file, specs, |_| {})), Err(CryptoError::Open), "{what}");
    }
}

#[test]
fn e16_an_edited_order_or_offset_is_refused() {
    let file = sealed(two());
    let mut swapped = two();
    swapped.swap(0, 1);
    let forged = forge(&file, swapped, |_| {});
    assert_eq!(refusal(&forged, &[secret(1)]), CryptoError::FrontAltered);

    // Tensors moved by padding after the index, all offsets following.
    let forged = forge(&file, two(), |extension| extension.writer = Some("x".repeat(500)));
    assert_eq!(refusal(&forged, &[secret(1)]), CryptoError::FrontAltered);
}

#[test]
fn e16_an_edited_extension_is_refused() {
    let file = sealed(two());
    let changes: [fn(&mut Extension); 3] = [
        |extension| extension.writer = Some("the Writer".to_owned()),
        |extension| extension.writer = None,
        |extension| extension.user_metadata = Some(serde_json::Map::new()),
    ];
    for change in changes {
        let forged = forge(&file, two(), change);
        assert_eq!(refusal(&forged, &[secret(1)]), CryptoError::FrontAltered);
    }
    // Without slots or MAC, their records made ones of an unknown type, it is no sealed file at all.
    let front = decode_front(&file).unwrap();
    for at in [front.key_slots_at(), front.metadata_mac_at()] {
        let mut altered = file.clone();
        altered[usize::try_from(at.unwrap().start).unwrap() - 6] = 0x66;
        assert!(matches!(refusal(&altered, &[secret(1)]), CryptoError::Format(_)));
    }
}

#[test]
fn e16_a_sealed_file_cannot_pass_for_a_lesser_one() {
    let file = sealed(two());
    let (flags_at, sealed_byte) = (9, 9 + 128 / 8);
    let mut compat = file.clone();
    compat[sealed_byte] = 0;
    let mut plain = compat.clone();
    plain[flags_at] = 0;
    for altered in [compat, plain] {
        refusal(&altered, &[secret(1)]);
    }
}

#[test]
fn e16_an_edited_slot_is_refused() {
    let sealer = FileSealer::sealed(&[seal_key(1), seal_pass("x")], 4096).unwrap();
    let file = seal_file(two(), &sealer, 1, Extension::default()).unwrap();
    let at = decode_front(&file).unwrap().key_slots_at().unwrap();
    for at in at.start..at.start + 34 + 72 + 104 + 4 {
        let mut altered = file.clone();
        altered[usize::try_from(at).unwrap()] ^= 1;
        for secret in [secret(1), pass("x")] {
            refusal(&altered, &[secret]);
        }
    }
}

#[test]
fn e16_a_slot_of_another_file_is_refused() {
    let (file, other) = (sealed(two()), sealed(two()));
    let at = decode_front(&file).unwrap().key_slots_at().unwrap();
    let at = usize::try_from(at.start).unwrap()..usize::try_from(at.end).unwrap();
    // The slot alone, then with its salt.
    let mut slot = file.clone();
    slot[at.start + 32..at.end].copy_from_slice(&other[at.start + 32..at.end]);
    assert_eq!(refusal(&slot, &[secret(1)]), CryptoError::WrongKey);
    let mut record = file.clone();
    record[at.clone()].copy_from_slice(&other[at]);
    assert_eq!(refusal(&record, &[secret(1)]), CryptoError::FrontAltered);
}

#[test]
fn e16_a_slot_of_the_forgers_own_is_refused() {
    // Whoever knows no key of the file can add a slot for their own, but to another file key.
    let (file, forgers) = (sealed(two()), {
        let sealer = FileSealer::sealed(&[seal_key(66)], 4096).unwrap();
        seal_file(two(), &sealer, 1, Extension::default()).unwrap()
    });
    let front = decode_front(&forgers).unwrap();
    let their_len = usize::try_from(front.header.front_len()).unwrap();
    let our_len = usize::try_from(decode_front(&file).unwrap().header.front_len()).unwrap();
    let grafted = [&forgers[..their_len], &file[our_len..]].concat();
    assert_eq!(refusal(&grafted, &[secret(1)]), CryptoError::WrongKey);
}

#[test]
fn e17_a_front_rolled_back_to_an_older_save_opens_nothing() {
    let (old, new) = (sealed(two()), sealed(two()));
    let front_len = usize::try_from(decode_front(&old).unwrap().header.front_len()).unwrap();
    let rolled_back = [&old[..front_len], &new[front_len..]].concat();
    let tensors = open_file(&rolled_back, &[secret(1)]).unwrap();
    assert_eq!(unopened(&tensors), [0, 1]);
}

/// What no file can tell by itself: an older front of the same save, from before a rewrap, is authentic.
#[test]
fn e17_a_front_from_before_a_rewrap_only_brings_back_its_slots() {
    let file = sealed(two());
    let front = decode_front(&file).unwrap();
    let changes = [SlotChange::Replace(0, seal_key(2))];
    let limits = KdfLimits::default();
    let change = rewrap(&front, &file, &[secret(1)], &limits, &changes).unwrap();
    let new = change.header();
    let rewrapped = [new, &file[new.len()..]].concat();
    assert_eq!(refusal(&rewrapped, &[secret(1)]), CryptoError::WrongKey);
    let back = [&file[..new.len()], &rewrapped[new.len()..]].concat();
    assert_eq!(refusal(&back, &[secret(2)]), CryptoError::WrongKey);
    let tensors = open_file(&back, &[secret(1)]).unwrap();
    assert_eq!(tensors[0].data, Ok(contents(0, LEN)));
}
