//! The key slots of a sealed file, by `tz-crypto`: before and after anybody authenticates them.

use std::sync::LazyLock;

use tz_crypto::{FileOpener, Journal, JournalPlace, SlotChange, Tail, key_slots, rewrap};
use tz_format::{FrontDecoder, Limits, Step};

use crate::files::{KDF_MEMORY, open_options, sealer};
use crate::guard::Bound;
use crate::headers;
use crate::target::Target;

/// Any bytes as the key-slot record of an otherwise valid front; the first says who authenticates it.
pub const KEY_SLOTS: Target = Target {
    name: "key_slots",
    run: slots,
    // A key derivation, and copies of the front.
    bound: Bound { base: (1 << 20) + 2 * KDF_MEMORY, per_byte: 64, resident: false },
};

fn slots(data: &[u8]) {
    static SEALER: LazyLock<tz_crypto::FileSealer> = LazyLock::new(sealer);
    let Some((&authentic, record)) = data.split_first() else { return };
    let mut options = headers::options(3);
    options.extension.key_slots = Some(record.to_vec());
    let spec = tz_format::TensorSpec::new("a", tz_format::Element::Uint8, vec![8]);
    if tz_format::Layout::plan(vec![spec.clone()], options.clone()).is_err() {
        return;
    }
    let mut file = tz_format::testing::build(vec![spec], options);
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else { return };
    let front_len = usize::try_from(front.header.front_len()).expect("small");
    if authentic & 1 != 0 {
        let mac_at = front.metadata_mac_at().expect("a sealed file");
        SEALER.seal_front(&mut file[..front_len], mac_at).expect("its own front");
    }
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else {
        panic!("only the MAC has changed")
    };
    // The same bytes behind a file: no journal without a hash to match.
    let place = JournalPlace::of(&front).expect("a sealed file");
    let accepted = Tail::new(&place).push(record);
    assert!(accepted || Journal::read(record, &place).is_none());
    let _ = Journal::find(record, place.file_len());
    let listed = key_slots(&front);
    let options = open_options(true);
    let opened = FileOpener::new(&front, &file, &options.secrets, &options.kdf_limits);
    assert!(listed.is_ok() || opened.is_err(), "opened by slots that cannot be listed");
    for change in [SlotChange::Remove(0), SlotChange::Remove(usize::from(authentic))] {
        let again =
            rewrap(&front, &file[..front_len], &options.secrets, &options.kdf_limits, &[change]);
        if let Ok(again) = again {
            assert_eq!(again.header().len(), front_len);
            assert!(opened.is_ok(), "rewrapped without the key");
        }
    }
}
