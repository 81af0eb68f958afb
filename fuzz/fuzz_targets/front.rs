//! Any bytes as the start of a file: what is read is read again from what is written.
#![no_main]
use tz_format::{FrontDecoder, Limits, Step, TensorHeader, testing};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let decoder = FrontDecoder::new(Limits::default());
    let Ok(Step::Done(front)) = decoder.step(data) else { return };
    let fits = front.check_file_len(data.len() as u64).is_ok();
    for entry in front.entries.iter().filter(|_| fits) {
        let bytes = &data[entry.header_offset as usize..entry.data_offset as usize];
        drop(TensorHeader::decode(bytes, entry, front.header.flags));
    }
    let again = testing::encode_front(&front);
    if again.len() as u64 != front.header.front_len() {
        return;
    } // spelled shorter than by us
    let Ok(Step::Done(again)) = decoder.step(&again) else { panic!("own front") };
    assert_eq!(again.entries, front.entries);
});
