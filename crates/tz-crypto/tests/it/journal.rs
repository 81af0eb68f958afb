//! The journal of a rewrap behind a sealed file: what a reader passes over, and what an interrupted rewrap comes to.

use tz_crypto::testing::{contents, decode_front, open_file};
use tz_crypto::{
    CryptoError, HeaderChange, Journal, JournalPlace, KdfLimits, Outcome, Secret, SlotChange,
    rewrap,
};
use tz_format::Limits;

use crate::support::{pass, refusal, seal_key, seal_pass, sealed, secret, specs};

const LENS: &[u64] = &[10, 5000];

/// A sealed file, and a rewrap of it from key 1 to key 2.
fn change() -> (Vec<u8>, HeaderChange) {
    let file = sealed(specs(LENS));
    let change = to(&file, SlotChange::Replace(0, seal_key(2)));
    (file, change)
}

fn to(file: &[u8], change: SlotChange) -> HeaderChange {
    let front = decode_front(file).unwrap();
    rewrap(&front, file, &[secret(1)], &KdfLimits::default(), &[change]).unwrap()
}

fn journal(change: &HeaderChange) -> Journal {
    change.journal(&Limits::default()).unwrap()
}

fn outcome(journal: &Journal, header: &[u8], secrets: &[Secret]) -> Result<Outcome, CryptoError> {
    journal.outcome(header, secrets, &KdfLimits::default(), &Limits::default())
}

/// What a reader makes of `file` with `tail` behind it.
fn reads(file: &[u8], tail: &[u8]) -> bool {
    let longer = [file, tail].concat();
    match open_file(&longer, &[secret(1)]) {
        Ok(tensors) => {
            for (index, (tensor, &len)) in tensors.into_iter().zip(LENS).enumerate() {
                assert_eq!(tensor.data, Ok(contents(index, len)));
            }
            true
        }
        Err(error) => {
            let (expected, found) = (file.len() as u64, longer.len() as u64);
            assert_eq!(error, CryptoError::FileLength { expected, found });
            false
        }
    }
}

#[test]
fn e12_a_journal_is_passed_over_whole_and_cut_at_every_length() {
    let (file, change) = change();
    let journal = journal(&change).to_bytes();
    let zeros = |len: usize| vec![0; len];
    for len in 0..=journal.len() {
        assert!(reads(&file, &journal[..len]), "{len}");
        assert!(reads(&file, &zeros(len)), "{len} zeros");
        // As a power cut leaves it: the length is that of the whole, and sectors are missing.
        let torn = [&journal[..len], &zeros(journal.len() - len)].concat();
        assert!(reads(&file, &torn), "{len}");
    }
    let damaged = [&journal[..100], b"anything", &journal[108..]].concat();
    assert!(reads(&file, &damaged));
}

#[test]
fn e12_what_is_no_journal_of_the_file_is_refused() {
    let (file, change) = change();
    let journal = journal(&change).to_bytes();
    let longest = journal.len();
    for foreign in [
        vec![1],
        vec![0xff; longest],
        vec![0; longest + 1],
        [&journal[..], &[0]].concat(),
        [&[0; 1], &journal[..]].concat(),
        [&journal[..7], &[7; 20]].concat(),
        [&[0; 500][..], &[1]].concat(),
        journal[1..].to_vec(),
    ] {
        assert!(!reads(&file, &foreign), "{} bytes", foreign.len());
    }
    // A shorter file ends within a journal, too, but not this one's.
    for cut in 1..9 {
        refusal(&file[..file.len() - cut], &[secret(1)]);
    }
}

#[test]
fn a_journal_reads_back_and_no_byte_of_it_may_differ() {
    let (file, change) = change();
    let journal = journal(&change);
    let bytes = journal.to_bytes();
    let place = JournalPlace::of(&decode_front(&file).unwrap()).unwrap();
    assert_eq!(place.file_len(), file.len() as u64);
    assert_eq!(place.journal_len(), bytes.len() as u64);
    assert_eq!(Journal::read(&bytes, &place), Some(journal.clone()));
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(Journal::read(&other, &place), None, "byte {at}");
        assert_eq!(Journal::read(&bytes[..at], &place), None, "cut at {at}");
    }
    // It states its own position, for a header that cannot be decoded.
    let whole = [&*file, &bytes].concat();
    for start in [0, 100, file.len()] {
        assert_eq!(Journal::find(&whole[start..], start as u64), Some(journal.clone()));
    }
    assert_eq!(Journal::find(&whole[100..], 99), None, "at another place");
    assert_eq!(Journal::find(&whole[..whole.len() - 1], 0), None);
}

#[test]
fn e19_what_is_on_the_disk_decides_whether_a_rewrap_happened() {
    let (file, change) = change();
    let journal = journal(&change);
    let (old, new) = (&file[..change.header().len()], change.header());
    // The replaced key and the new one can tell, and no other.
    for who in [1, 2] {
        assert_eq!(outcome(&journal, old, &[secret(who)]), Ok(Outcome::NotDone));
        assert_eq!(outcome(&journal, new, &[secret(who)]), Ok(Outcome::Done));
    }
    assert_eq!(outcome(&journal, old, &[secret(3)]), Err(CryptoError::WrongKey));
    assert!(matches!(outcome(&journal, old, &[pass("x")]), Err(CryptoError::KeyMissing { .. })));

    // Torn at every byte, either half first: the new one is to be written.
    let mut torn = 0;
    for at in 0..old.len() {
        for header in [[&new[..at], &old[at..]].concat(), [&old[..at], &new[at..]].concat()] {
            let expected = match &*header {
                header if header == old => Outcome::NotDone,
                header if header == new => Outcome::Done,
                _ => Outcome::Torn,
            };
            torn += usize::from(expected == Outcome::Torn);
            assert_eq!(outcome(&journal, &header, &[secret(2)]), Ok(expected), "{at}");
            assert_eq!(journal.new_header(&header).unwrap(), new);
        }
    }
    assert!(torn > 100, "{torn}");
    // Whatever bytes are there, as long as they are where the journal says.
    let mut lost = old.to_vec();
    let start = usize::try_from(journal.offset()).unwrap();
    lost[start..].fill(0x55);
    assert_eq!(outcome(&journal, &lost, &[secret(1)]), Ok(Outcome::Torn));
    assert_eq!(journal.new_header(&lost).unwrap(), new);
}

#[test]
fn e19_a_journal_is_believed_only_if_both_its_headers_are_authentic() {
    let (file, change) = change();
    let (old, new) = (&file[..change.header().len()], change.header());
    let limits = Limits::default();
    let altered = |header: &[u8], from_end: usize| {
        let mut header = header.to_vec();
        let at = header.len() - from_end;
        header[at] ^= 1;
        header
    };
    for (a, b) in [
        (altered(old, 1), new.to_vec()),
        (old.to_vec(), altered(new, 1)),
        (old.to_vec(), altered(new, 200)),
    ] {
        let forged = Journal::between(&a, &b, &limits).unwrap();
        for header in [old, new, &altered(old, 1)] {
            let refused = outcome(&forged, header, &[secret(1), secret(2)]);
            assert!(refused.is_err(), "{refused:?}");
        }
    }

    // One of another file of the same key, of the same lengths: the salt before the slots differs.
    let (_, other) = self::change();
    let foreign = journal(&other);
    assert!(outcome(&foreign, old, &[secret(1)]).is_err());

    // One whose places are not those of the file.
    let longer = sealed(specs(&[10, 5001]));
    let foreign = journal(&to(&longer, SlotChange::Add(seal_pass("x"))));
    assert_eq!(outcome(&foreign, old, &[secret(1)]), Err(CryptoError::FrontAltered));
}

/// Whoever can put a journal behind a file, or next to it, has older headers of it, which are authentic.
#[test]
fn e19_a_journal_of_older_headers_does_not_bring_one_back() {
    let (file, change) = change();
    let stale = journal(&change);
    let len = change.header().len();
    let now = [change.header(), &file[len..]].concat();
    let front = decode_front(&now).unwrap();
    let replace = [SlotChange::Replace(0, seal_key(3))];
    let later = rewrap(&front, &now, &[secret(2)], &KdfLimits::default(), &replace).unwrap();
    for who in [1, 2] {
        assert_eq!(outcome(&stale, later.header(), &[secret(who)]), Ok(Outcome::Superseded));
    }
    assert_eq!(outcome(&stale, later.header(), &[secret(3)]), Err(CryptoError::WrongKey));
}
