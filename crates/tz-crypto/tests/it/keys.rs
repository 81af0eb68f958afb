//! Secrets: their length, their silence, what they cost and what is said when they lack.

use tz_crypto::testing::{decode_front, seal_file, seeded_sealer};
use tz_crypto::{
    CryptoError, ErrorClass, FileOpener, FileSealer, KdfLimits, Key, Needs, SealSecret, Secret,
    key_slots,
};
use tz_format::{
    CryptInfo, Extension, FormatError, KeyDerivation, Layout, LayoutOptions, TensorHeader,
};

use crate::support::{key, opened, pass, refusal, seal_key, seal_pass, secret, specs};

#[test]
fn e06_a_key_has_exactly_32_bytes() {
    for found in [0, 1, 31, 33, 64] {
        let error = Key::from_bytes(&vec![0; found]).unwrap_err();
        assert_eq!(error, CryptoError::KeyLength { found });
        assert_eq!(error.class(), ErrorClass::Key);
    }
    assert_eq!(Key::from_bytes(&[9; 32]).unwrap().as_bytes(), &[9; 32]);
    assert_ne!(Key::random().unwrap().as_bytes(), Key::random().unwrap().as_bytes());
}

#[test]
fn e24_an_empty_passphrase_encrypts_nothing() {
    let empty = CryptoError::EmptyPassphrase;
    assert_eq!(empty.class(), ErrorClass::Usage);
    assert_eq!(FileSealer::compat(&seal_pass(""), 4096).unwrap_err(), empty);
    assert_eq!(FileSealer::sealed(&[seal_pass("")], 4096).unwrap_err(), empty);
}

/// Whatever holds a secret, printed.
fn printed() -> String {
    let sealed = [seal_key(0xa7), seal_pass("correct horse")];
    let sealer = seeded_sealer("printed", &sealed, 4096, 8).unwrap();
    let compat = FileSealer::compat(&sealed[0], 4096).unwrap();
    let mut out = format!("{:?} {:?} {sealed:?} {sealer:?} {compat:?}", key(0xa7), secret(0xa7));
    let secrets = [secret(0xa7), pass("correct horse")];
    for sealer in [sealer, compat] {
        let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
        let front = decode_front(&file).unwrap();
        let opener = FileOpener::new(&front, &file, &secrets, &KdfLimits::default()).unwrap();
        let entry = &front.entries[0];
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let bytes = &file[at(entry.header_offset)..at(entry.data_offset)];
        let header = TensorHeader::decode(bytes, entry, front.header.flags).unwrap();
        let tensor = opener.tensor(0, entry, &header, bytes).unwrap();
        out += &format!("{opener:?} {tensor:?}");

        let mut options = LayoutOptions::default();
        options.hashes = Vec::new();
        options.cipher = Some(sealer.cipher_plan());
        sealer.extend(&mut options.extension);
        let layout = Layout::plan(specs(&[10, 10]), options).unwrap();
        out += &format!("{:?}", sealer.tensor(&layout, 1).unwrap());
    }
    out
}

#[test]
fn e05_secrets_never_show_in_debug() {
    let printed = printed();
    assert!(printed.contains("redacted"));
    for leak in ["correct horse", "167, 167", "a7a7", "A7A7", "a7, a7"] {
        assert!(!printed.contains(leak), "{leak} in {printed}");
    }
    // The file key of this seed: the first bytes that it gives.
    let file_key = blake3::hash(b"printed");
    let file_key = format!("{:?}", &file_key.as_bytes()[..8]);
    assert!(!printed.contains(file_key.trim_matches(['[', ']'])));
}

#[test]
fn e05_secrets_never_show_in_errors() {
    let sealer = FileSealer::sealed(&[seal_key(1)], 4096).unwrap();
    let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
    let secrets = [secret(0xa7), pass("correct horse")];
    let error = refusal(&file, &secrets);
    let words = format!("{error} {error:?}");
    assert_eq!(words, "no key or passphrase that was given opens the file WrongKey");
}

#[test]
fn e03_a_sealed_file_names_the_secret_that_it_needs() {
    let rows: [(&[SealSecret], &[Secret], Needs); 4] = [
        (&[seal_key(1)], &[], Needs::Key),
        (&[seal_key(1)], &[pass("x")], Needs::Key),
        (&[seal_pass("x")], &[secret(1)], Needs::Passphrase),
        (&[seal_pass("x"), seal_key(1)], &[], Needs::Either),
    ];
    for (sealing, given, needs) in rows {
        let sealer = FileSealer::sealed(sealing, 4096).unwrap();
        let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
        let error = refusal(&file, given);
        assert_eq!(error, CryptoError::KeyMissing { needs });
        assert_eq!(error.class(), ErrorClass::Key);
    }
}

#[test]
fn e02_a_wrong_secret_opens_no_sealed_file() {
    let sealer = FileSealer::sealed(&[seal_key(1), seal_pass("right")], 4096).unwrap();
    let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
    for wrong in [vec![secret(2)], vec![pass("Right")], vec![secret(2), pass("")]] {
        assert_eq!(refusal(&file, &wrong), CryptoError::WrongKey);
    }
    for right in [vec![secret(1)], vec![secret(2), pass("right")]] {
        assert_eq!(opened(&file, &right).len(), 1);
    }
}

/// The file's bytes with `change` made to the body of its key-slot record.
fn with_slots(mut file: Vec<u8>, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let at = decode_front(&file).unwrap().key_slots_at().unwrap();
    let at = usize::try_from(at.start).unwrap()..usize::try_from(at.end).unwrap();
    change(&mut file[at]);
    file
}

#[test]
fn e04_a_costly_slot_is_refused_and_hides_no_other() {
    let sealer = FileSealer::sealed(&[seal_pass("x"), seal_pass("y")], 4096).unwrap();
    let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
    // Salt 32, count 2, kind 2, length 2, then passes and memory.
    let memory = with_slots(file.clone(), |slots| slots[46..54].fill(0x7f));
    let passes =
        with_slots(file.clone(), |slots| slots[38..46].copy_from_slice(&11_u64.to_le_bytes()));
    for (file, what) in [(memory, "bytes of memory"), (passes, "passes")] {
        for given in ["x", "neither"] {
            let error = refusal(&file, &[pass(given)]);
            assert!(
                matches!(error, CryptoError::KdfTooCostly { what: found, .. } if found == what),
                "{error:?}"
            );
            assert_eq!(error.class(), ErrorClass::Malformed);
        }
        // The second slot opens, which shows that the front was altered.
        assert_eq!(refusal(&file, &[pass("y")]), CryptoError::FrontAltered);
    }
}

#[test]
fn e04_a_file_cannot_ask_for_a_derivation_per_tensor() {
    let sealer = FileSealer::compat(&seal_pass("x"), 4096).unwrap();
    let mut options = LayoutOptions::default();
    options.hashes = Vec::new();
    options.cipher = Some(sealer.cipher_plan());
    let layout = Layout::plan(specs(&[10; 17]), options).unwrap();
    let front_bytes = layout.encode_front(&Extension::default()).unwrap();
    let front = decode_front(&front_bytes).unwrap();
    let secrets = [pass("x")];
    let opener = FileOpener::new(&front, &front_bytes, &secrets, &KdfLimits::default()).unwrap();
    let results = front.entries.iter().enumerate().map(|(i, entry)| {
        let template = layout.crypt_template(i).unwrap();
        let kdf = template.key_derivation.clone().unwrap();
        let salt = vec![u8::try_from(i).unwrap(); 16];
        let key_derivation = Some(KeyDerivation { salt, ..kdf });
        let info = CryptInfo { key_derivation, ..template };
        let bytes = layout.encode_header(i, &[], Some(&info)).unwrap();
        let header = TensorHeader::decode(&bytes, entry, front.header.flags).unwrap();
        // Asked twice, it is derived once.
        let again = opener.tensor(i, entry, &header, &bytes).map(drop);
        assert_eq!(opener.tensor(i, entry, &header, &bytes).map(drop), again);
        again
    });
    let results: Vec<_> = results.collect();
    assert!(results[..16].iter().all(Result::is_ok));
    let (what, value, limit) = ("derivations", 17, 16);
    assert_eq!(results[16], Err(CryptoError::KdfTooCostly { what, value, limit }));
}

#[test]
fn slots_are_listed_without_a_key() {
    let sealer = FileSealer::sealed(&[seal_key(1), seal_pass("x")], 4096).unwrap();
    let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
    let slots = key_slots(&decode_front(&file).unwrap()).unwrap();
    assert_eq!(slots.iter().map(|slot| slot.kind).collect::<Vec<_>>(), [1, 2]);
    let kdf = slots[1].key_derivation.as_ref().unwrap();
    assert_eq!((kdf.opslimit, kdf.memlimit, kdf.salt.len()), (1, 8192, 16));
    let id = blake3::keyed_hash(&[1; 32], b"tz 2026-11 key id v1");
    assert_eq!(slots[0].key_id.unwrap()[..], id.as_bytes()[..8]);
}

type Change = fn(&mut [u8]);

#[test]
fn malformed_slots_are_refused() {
    let sealer = FileSealer::sealed(&[seal_key(1)], 4096).unwrap();
    let file = seal_file(specs(&[10]), &sealer, 1, Extension::default()).unwrap();
    let changes: [(Change, &str); 5] = [
        (|slots| slots[32] = 200, "runs past the end of the record"),
        (|slots| slots[36..38].fill(0xff), "runs past the end of the record"),
        (|slots| slots[36] = 67, "runs past the end of the record"),
        (|slots| slots[36] = 69, "a slot is longer than its kind"),
        (|slots| *slots.last_mut().unwrap() = 1, "the padding is not zero"),
    ];
    for (change, why) in changes {
        let error = refusal(&with_slots(file.clone(), change), &[secret(1)]);
        assert_eq!(error, CryptoError::Malformed { field: "key slots", why });
        assert_eq!(error.class(), ErrorClass::Malformed);
    }
}

#[test]
fn classes_are_those_of_the_exit_codes() {
    let rows = [
        (CryptoError::Open, ErrorClass::Key),
        (CryptoError::FrontAltered, ErrorClass::Key),
        (CryptoError::FileLength { expected: 1, found: 2 }, ErrorClass::Key),
        (CryptoError::Format(FormatError::NotTensors), ErrorClass::Malformed),
        (CryptoError::OutOfMemory { bytes: 1 }, ErrorClass::System),
        (CryptoError::LastSlot, ErrorClass::Usage),
    ];
    for (error, class) in rows {
        assert_eq!(error.class(), class, "{error}");
        assert!(!error.to_string().ends_with('.'));
    }
}
