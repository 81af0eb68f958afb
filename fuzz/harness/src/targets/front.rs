//! The codec of `tz-format`: fronts, tensor headers, and what stands in them.

use arbitrary::Unstructured;
use tz_format::testing::{decode_extension, encode_extension};
use tz_format::{Dtype, FrontDecoder, Layout, Limits, Step, TensorHeader, TensorPath, testing};

use crate::guard::Bound;
use crate::headers;
use crate::target::Target;

/// Index entries, keys of paths and JSON values of one or two bytes take some tens in memory; a buffer that grows
/// holds its old contents and the new.
const DECODED: Bound = Bound { base: 64 << 10, per_byte: 128, resident: false };

/// Any bytes as the start of a file: what is read is read again from what is written.
pub const FRONT: Target = Target { name: "front", run: front, bound: DECODED };

fn front(data: &[u8]) {
    let decoder = FrontDecoder::new(Limits::default());
    let Ok(Step::Done(front)) = decoder.step(data) else { return };
    if front.check_file_len(data.len() as u64).is_ok() {
        for entry in &front.entries {
            drop(TensorHeader::decode(headers::of_entry(data, entry), entry, front.header.flags));
        }
    }
    let again = testing::encode_front(&front);
    // Where the writer spelled it longer than we do there is no front of the same length.
    if again.len() as u64 == front.header.front_len() {
        let Ok(Step::Done(again)) = decoder.step(&again) else { panic!("own front") };
        assert_eq!(again.entries, front.entries);
    }
}

/// Any bytes as the header of a known tensor; the first chooses plain, encrypted or sealed.
pub const TENSOR_HEADER: Target =
    Target { name: "tensor_header", run: tensor_header, bound: DECODED };

fn tensor_header(data: &[u8]) {
    if let Some((flavour, bytes)) = data.split_first() {
        headers::decode_header(*flavour, bytes.to_vec());
    }
}

/// Any bytes as the crypt block of an otherwise valid header; the first chooses the flavour.
pub const CRYPT_INFO: Target = Target { name: "crypt_info", run: crypt_info, bound: DECODED };

fn crypt_info(data: &[u8]) {
    let Some((flavour, block)) = data.split_first() else { return };
    let flavour = 1 + flavour % 3;
    let (_, _, valid) = headers::header(flavour);
    // Name, dtype and one dimension of four bytes, then an empty hash list.
    let (before, after) = (&valid[..8 + 2 + 1 + 4 + 4 + 5 + 3], &valid[valid.len() - 8..]);
    headers::decode_header(flavour, [before, block, after].concat());
}

/// Any bytes as an extension block of a file of as many tensors as the first byte says.
pub const EXTENSION: Target = Target { name: "extension", run: extension, bound: DECODED };

fn extension(data: &[u8]) {
    let Some((&tensors, block)) = data.split_first() else { return };
    let Ok(mut extension) = decode_extension(block, tensors.into()) else { return };
    extension.unknown.clear();
    let again = decode_extension(&encode_extension(&extension), tensors.into());
    assert_eq!(again, Ok(extension));
}

/// Any bytes as a name, and as a dtype: what is read is written in one way, which reads back the same.
pub const TENSOR_PATH: Target = Target { name: "tensor_path", run: tensor_path, bound: DECODED };

fn tensor_path(data: &[u8]) {
    if let Ok(path) = TensorPath::from_wire(data) {
        assert_eq!(TensorPath::from_wire(&path.to_wire()), Ok(path));
    }
    if let Some(dtype) = std::str::from_utf8(data).ok().and_then(Dtype::from_wire) {
        assert_eq!(Dtype::from_wire(&dtype.to_wire()), Some(dtype));
    }
}

/// Arbitrary tensors and options: what can be planned is read back as planned.
pub const ROUND_TRIP: Target = Target {
    name: "round_trip",
    run: round_trip,
    // Up to six tensors of 6⁴ elements of 16 bytes, aligned to 4 KiB, built and decoded.
    bound: Bound { base: 1 << 20, per_byte: 128, resident: false },
};

fn round_trip(data: &[u8]) {
    let Ok((specs, options)) = headers::plan(&mut Unstructured::new(data)) else { return };
    let Ok(layout) = Layout::plan(specs.clone(), options.clone()) else { return };
    let file = testing::build(specs, options);
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else {
        panic!("own file")
    };
    assert_eq!((&front.header, &*front.entries), (layout.header(), layout.entries()));
    assert_eq!(front.extension, layout.options().extension);
    for entry in &front.entries {
        let bytes = headers::of_entry(&file, entry);
        let header = TensorHeader::decode(bytes, entry, front.header.flags).expect("own header");
        assert_eq!(testing::encode_header(&header, entry).as_deref(), Ok(bytes));
    }
}
