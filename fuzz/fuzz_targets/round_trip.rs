//! Arbitrary tensors and options: what can be planned is read back as planned.
#![no_main]
use tz_format::{FrontDecoder, Layout, Limits, Step, TensorHeader, testing};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok((specs, options)) = tz_fuzz::plan(&mut arbitrary::Unstructured::new(data)) else {
        return;
    };
    let Ok(layout) = Layout::plan(specs.clone(), options.clone()) else { return };
    let file = testing::build(specs, options);
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else {
        panic!("own file")
    };
    assert_eq!((&front.header, &*front.entries), (layout.header(), layout.entries()));
    assert_eq!(front.extension, layout.options().extension);
    for entry in &front.entries {
        let bytes = &file[entry.header_offset as usize..entry.data_offset as usize];
        let header = TensorHeader::decode(bytes, entry, front.header.flags).expect("own header");
        assert_eq!(testing::encode_header(&header, entry).as_deref(), Ok(bytes));
    }
});
