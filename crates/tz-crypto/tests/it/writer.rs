//! The writing side: nonces are never used twice, and misuse is refused before anything is encrypted.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use tz_crypto::testing::{open_file, seal_file};
use tz_crypto::{
    CryptoError, DEFAULT_SLOT_ROOM, FileSealer, KdfCost, Passphrase, SealSecret, TensorOpener,
    TensorSealer,
};
use tz_format::{
    Cipher, CipherPlan, Extension, HashKind, KeyDerivation, Layout, LayoutOptions, Profile,
};

use crate::support::{opened, pass, seal_key, secret, specs};

fn plan(sealer: &FileSealer, lens: &[u64]) -> Layout {
    let mut options = LayoutOptions::default();
    options.hashes = Vec::new();
    options.cipher = Some(sealer.cipher_plan());
    sealer.extend(&mut options.extension);
    Layout::plan(specs(lens), options).unwrap()
}

fn both() -> [FileSealer; 2] {
    [
        FileSealer::compat(&seal_key(1), 4096).unwrap(),
        FileSealer::sealed(&[seal_key(1)], 4096).unwrap(),
    ]
}

#[track_caller]
fn misuse<T: std::fmt::Debug>(result: Result<T, CryptoError>) {
    assert!(matches!(result, Err(CryptoError::Misuse(_))), "{result:?}");
}

#[test]
fn e10_a_chunk_is_sealed_once() {
    for sealer in both() {
        let layout = plan(&sealer, &[5000]);
        let tensor = sealer.tensor(&layout, 0).unwrap();
        let mut out = [0; 4096];
        tensor.seal_chunk(0, &[1; 4096], &mut out).unwrap();
        let first = out;
        misuse(tensor.seal_chunk(0, &[2; 4096], &mut out));
        misuse(tensor.seal_chunk_in_place(0, &mut out));
        assert_eq!(out, first);
    }
}

#[test]
fn e10_of_many_threads_one_seals_the_chunk() {
    for sealer in both() {
        let layout = plan(&sealer, &[4096]);
        let tensor = sealer.tensor(&layout, 0).unwrap();
        let sealed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let done = tensor.seal_chunk_in_place(0, &mut [1; 4096]).is_ok();
                    sealed.fetch_add(done.into(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(sealed.into_inner(), 1);
    }
}

#[test]
fn e10_a_sealed_tensor_has_one_sealer() {
    let [_, sealer] = both();
    let layout = plan(&sealer, &[10, 20]);
    sealer.tensor(&layout, 0).unwrap();
    misuse(sealer.tensor(&layout, 0));
    misuse(sealer.tensor(&plan(&sealer, &[30]), 0));
    sealer.tensor(&layout, 1).unwrap();
}

fn nonce(sealer: &FileSealer, layout: &Layout, index: usize) -> [u8; 24] {
    let tensor = sealer.tensor(layout, index).unwrap();
    let tags = (0..tensor.chunk_count()).map(|i| {
        let range = tensor.chunk_range(i);
        let len = usize::try_from(range.end - range.start).unwrap();
        tensor.seal_chunk_in_place(i, &mut vec![0; len]).unwrap()
    });
    let tags = tags.collect();
    match tensor.finish(tags).unwrap().cipher {
        Some(Cipher::XSalsa20Chunked { nonce, .. }) => nonce,
        other => panic!("{other:?}"),
    }
}

/// The upper 16 of 24 bytes differ, so that no count of chunks takes one tensor into another's nonces.
#[test]
fn e09_nonces_of_compat_tensors_are_far_apart() {
    let [sealer, _] = both();
    let layout = plan(&sealer, &[10_000; 3]);
    let nonces = (0..3).chain(0..3).map(|i| nonce(&sealer, &layout, i));
    let upper: HashSet<_> = nonces.map(|nonce| nonce[8..].to_vec()).collect();
    assert_eq!(upper.len(), 6);
}

#[test]
fn e10_each_sealed_file_has_a_key_and_salt_of_its_own() {
    let files: Vec<_> = (0..2)
        .map(|_| {
            let sealer = FileSealer::sealed(&[seal_key(1)], 4096).unwrap();
            seal_file(specs(&[1000]), &sealer, 1, Extension::default()).unwrap()
        })
        .collect();
    assert_eq!(files[0].len(), files[1].len());
    let data = |file: &[u8]| file[file.len() - 1008..file.len() - 8].to_vec();
    assert_ne!(data(&files[0]), data(&files[1]));
}

#[test]
fn e22_sealed_files_hold_no_plaintext_hash() {
    let [_, sealer] = both();
    let mut options = LayoutOptions::default();
    options.hashes = vec![HashKind::Sha256];
    options.cipher = Some(sealer.cipher_plan());
    sealer.extend(&mut options.extension);
    let layout = Layout::plan(specs(&[10]), options).unwrap();
    misuse(sealer.tensor(&layout, 0));

    let mut extension = Extension::default();
    extension.blake3 = Some(vec![[0; 32]]);
    sealer.extend(&mut extension);
    assert_eq!(extension.blake3, None);
}

#[test]
fn misuse_is_refused() {
    for sealer in both() {
        let layout = plan(&sealer, &[5000]);
        misuse(sealer.tensor(&layout, 1));
        let plain = Layout::plan(specs(&[5000]), LayoutOptions::default()).unwrap();
        misuse(sealer.tensor(&plain, 0));
        let other = FileSealer::compat(&seal_key(1), 8192).unwrap();
        misuse(sealer.tensor(&plan(&other, &[5000]), 0));

        let tensor = sealer.tensor(&layout, 0).unwrap();
        misuse(tensor.seal_chunk(0, &[0; 4096], &mut [0; 4095]));
        misuse(tensor.seal_chunk(0, &[0; 4095], &mut [0; 4095]));
        misuse(tensor.seal_chunk_in_place(2, &mut []));
        let tag = tensor.seal_chunk_in_place(0, &mut [0; 4096]).unwrap();
        misuse(tensor.finish(vec![tag, tag]));

        let layout = plan(&FileSealer::compat(&seal_key(1), 4096).unwrap(), &[10]);
        let mut front = layout.encode_front(&Extension::default()).unwrap();
        let backwards = Range { start: 32, end: 0 };
        for mac_at in [0..31, 0..33, 1 << 40..(1 << 40) + 32, backwards] {
            misuse(sealer.seal_front(&mut front, mac_at));
        }
    }
    misuse(FileSealer::sealed(&[], 4096));
    let [compat, _] = both();
    misuse(compat.seal_front(&mut [0; 100], 0..32));
}

#[test]
fn finishing_needs_every_chunk() {
    for sealer in both() {
        let layout = plan(&sealer, &[5000]);
        let tensor = sealer.tensor(&layout, 0).unwrap();
        let tag = tensor.seal_chunk_in_place(1, &mut [0; 904]).unwrap();
        misuse(tensor.finish(vec![tag]));
    }
}

#[test]
fn a_passphrase_is_derived_as_it_is_told() {
    let secret = SealSecret::Passphrase {
        passphrase: Passphrase::new("x"),
        cost: KdfCost { passes: 2, memory: 9000 },
        salt: Some([7; 16]),
    };
    let sealer = FileSealer::compat(&secret, 1024).unwrap();
    let derivation = KeyDerivation { opslimit: 2, memlimit: 9000, salt: vec![7; 16] };
    let expect = CipherPlan::XSalsa20Chunked { chunk_size: 1024, key_derivation: Some(derivation) };
    assert_eq!(sealer.cipher_plan(), expect);
    let file = seal_file(specs(&[3000]), &sealer, 1, Extension::default()).unwrap();
    assert_eq!(opened(&file, &[pass("x")]).len(), 1);
}

#[test]
fn the_front_has_room_for_slots() {
    let len = |sealer: &FileSealer| {
        let mut extension = Extension::default();
        sealer.extend(&mut extension);
        extension.key_slots.map(|slots| slots.len())
    };
    let one = [seal_key(1)];
    let default = FileSealer::sealed(&one, 4096).unwrap();
    assert_eq!(len(&default), Some(34 + 104 * DEFAULT_SLOT_ROOM));
    assert_eq!(len(&FileSealer::sealed_with_room(&one, 4096, 0).unwrap()), Some(34 + 104));
    assert_eq!(len(&FileSealer::sealed_with_room(&one, 4096, 20).unwrap()), Some(34 + 104 * 20));
    assert_eq!(len(&FileSealer::compat(&one[0], 4096).unwrap()), None);
}

#[test]
fn openers_and_sealers_work_from_any_thread() {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<FileSealer>();
    any_thread::<TensorSealer>();
    any_thread::<tz_crypto::FileOpener>();
    any_thread::<TensorOpener>();
    let [_, sealer] = both();
    let file = seal_file(specs(&[100]), &sealer, 1, Extension::default()).unwrap();
    let front = tz_crypto::testing::decode_front(&file).unwrap();
    let limits = tz_crypto::KdfLimits::default();
    let opener = tz_crypto::FileOpener::new(&front, &file, &[secret(1)], &limits).unwrap();
    assert_eq!((opener.profile(), opener.slot()), (Profile::Sealed, Some(0)));
    assert!(open_file(&file, &[secret(1)]).is_ok());
}
