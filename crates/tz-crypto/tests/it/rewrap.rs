//! Adding, replacing and removing secrets without touching tensor data.

use tz_crypto::testing::{decode_front, seal_file, vectors};
use tz_crypto::{
    CryptoError, DEFAULT_SLOT_ROOM, ErrorClass, FileOpener, FileSealer, KdfLimits, Secret,
    SlotChange, key_slots, rewrap,
};
use tz_format::Extension;

use crate::support::{opened, pass, refusal, seal_key, seal_pass, sealed, secret, specs};

fn try_rewrap(file: &[u8], old: Secret, changes: &[SlotChange]) -> Result<Vec<u8>, CryptoError> {
    let front = decode_front(file)?;
    let change = rewrap(&front, file, &[old], &KdfLimits::default(), changes)?;
    let header = change.header();
    assert_eq!(header.len() as u64, front.header.front_len());
    Ok([header, &file[header.len()..]].concat())
}

#[track_caller]
fn rewrapped(file: &[u8], old: Secret, changes: &[SlotChange]) -> Vec<u8> {
    try_rewrap(file, old, changes).unwrap()
}

fn small() -> Vec<u8> {
    sealed(specs(&[10, 5000]))
}

#[test]
fn e19_an_added_secret_opens_the_same_tensors() {
    let file = small();
    let changes = [SlotChange::Add(seal_key(2)), SlotChange::Add(seal_pass("x"))];
    let new = rewrapped(&file, secret(1), &changes);
    let plain = opened(&file, &[secret(1)]);
    for secret in [secret(1), secret(2), pass("x")] {
        assert_eq!(opened(&new, &[secret]), plain);
    }
    assert_eq!(refusal(&file, &[secret(2)]), CryptoError::WrongKey);
}

#[test]
fn e19_a_removed_or_replaced_secret_opens_no_more() {
    let file = rewrapped(&small(), secret(1), &[SlotChange::Add(seal_key(2))]);
    let plain = opened(&file, &[secret(1)]);

    let removed = rewrapped(&file, secret(2), &[SlotChange::Remove(0)]);
    assert_eq!(refusal(&removed, &[secret(1)]), CryptoError::WrongKey);
    assert_eq!(opened(&removed, &[secret(2)]), plain);

    let replaced = rewrapped(&file, secret(2), &[SlotChange::Replace(0, seal_pass("x"))]);
    assert_eq!(refusal(&replaced, &[secret(1)]), CryptoError::WrongKey);
    assert_eq!(opened(&replaced, &[pass("x")]), plain);
    assert_eq!(opened(&replaced, &[secret(2)]), plain);
}

#[test]
fn numbers_are_those_before_any_change() {
    let both = [SlotChange::Add(seal_key(2)), SlotChange::Add(seal_key(3))];
    let file = rewrapped(&small(), secret(1), &both);
    let changes =
        [SlotChange::Remove(0), SlotChange::Replace(2, seal_key(4)), SlotChange::Add(seal_key(5))];
    let new = rewrapped(&file, secret(1), &changes);
    let front = decode_front(&new).unwrap();
    for (slot, byte) in [2, 4, 5].into_iter().enumerate() {
        let opener = FileOpener::new(&front, &new, &[secret(byte)], &KdfLimits::default());
        assert_eq!(opener.unwrap().slot(), Some(slot));
    }
    for byte in [1, 3] {
        assert_eq!(refusal(&new, &[secret(byte)]), CryptoError::WrongKey);
    }
}

#[test]
fn e19_there_is_room_for_eight_slots() {
    let mut file = small();
    for n in 1..DEFAULT_SLOT_ROOM {
        file = rewrapped(&file, secret(1), &[SlotChange::Add(seal_pass(&format!("pass {n}")))]);
    }
    let front = decode_front(&file).unwrap();
    assert_eq!(key_slots(&front).unwrap().len(), DEFAULT_SLOT_ROOM);
    assert_eq!(opened(&file, &[pass("pass 7")]), opened(&file, &[secret(1)]));

    let more = [SlotChange::Add(seal_pass("one more"))];
    let error = try_rewrap(&file, secret(1), &more).unwrap_err();
    let (needed, room) = (34 + 72 + 8 * 104, 34 + 8 * 104);
    assert_eq!(error, CryptoError::NeedsRoom { needed, room });
    assert_eq!(error.class(), ErrorClass::Usage);
    // A removal makes room again.
    rewrapped(&file, secret(1), &[SlotChange::Remove(1), SlotChange::Add(seal_pass("one more"))]);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let file = small();
    let error = |old, change| try_rewrap(&file, old, &[change]).unwrap_err();
    assert_eq!(error(secret(1), SlotChange::Remove(0)), CryptoError::LastSlot);
    let (number, slots) = (1, 1);
    let none = CryptoError::NoSuchSlot { number, slots };
    assert_eq!(error(secret(1), SlotChange::Remove(1)), none);
    assert_eq!(error(secret(1), SlotChange::Replace(1, seal_key(2))), none);
    assert_eq!(error(secret(2), SlotChange::Add(seal_key(2))), CryptoError::WrongKey);
    let empty = SlotChange::Add(seal_pass(""));
    assert_eq!(error(secret(1), empty), CryptoError::EmptyPassphrase);

    // An added slot has no number yet.
    let changes = [SlotChange::Add(seal_key(2)), SlotChange::Remove(1)];
    assert_eq!(try_rewrap(&file, secret(1), &changes), Err(none));

    let compat = FileSealer::compat(&seal_key(1), 4096).unwrap();
    let compat = seal_file(specs(&[10]), &compat, 1, Extension::default()).unwrap();
    let error = try_rewrap(&compat, secret(1), &[SlotChange::Add(seal_key(2))]);
    assert!(matches!(error, Err(CryptoError::NotSealed { .. })), "{error:?}");
}

#[test]
fn an_altered_front_is_not_blessed() {
    let mut file = small();
    file[50] ^= 1;
    let error = try_rewrap(&file, secret(1), &[SlotChange::Add(seal_key(2))]);
    assert_eq!(error, Err(CryptoError::FrontAltered));
}

#[test]
fn a_slot_of_a_newer_kind_is_kept() {
    let mut vectors = vectors().unwrap().into_iter();
    let vector = vectors.find(|vector| vector.name == "unknown_slot").unwrap();
    let changes = [SlotChange::Remove(1), SlotChange::Add(seal_key(9))];
    let new = rewrapped(&vector.file, vector.secrets[0].clone(), &changes);
    let slots = key_slots(&decode_front(&new).unwrap()).unwrap();
    let kinds: Vec<_> = slots.iter().map(|slot| slot.kind).collect();
    assert_eq!(kinds, [0x7f01, 2, 1, 1]);
    assert_eq!(opened(&new, &[secret(9)]), opened(&vector.file, &vector.secrets));
    let found = new.windows(99).any(|window| window == [0xa5; 99]);
    assert!(found);

    // It alone would leave nobody able to open the file.
    let all = [SlotChange::Remove(1), SlotChange::Remove(2), SlotChange::Remove(3)];
    let error = try_rewrap(&vector.file, vector.secrets[0].clone(), &all);
    assert_eq!(error, Err(CryptoError::LastSlot));
}
