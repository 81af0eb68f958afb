//! Headers to damage, and files made of arbitrary choices.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use tz_format::{
    CipherPlan, Dtype, Element, Flags, FrontDecoder, HashKind, KeyDerivation, LayoutOptions,
    Limits, PathKey, Step, TensorEntry, TensorKind, TensorPath, TensorSpec, testing,
};

/// Packed, without hashes: the smallest file of these options.
pub fn options(flavour: u8) -> LayoutOptions {
    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes.clear();
    let salt = vec![7; 16];
    let kdf = KeyDerivation { opslimit: 1, memlimit: 8192, salt };
    match flavour % 4 {
        0 => options.hashes = vec![HashKind::Crc32, HashKind::Sha256],
        1 => options.cipher = Some(compat(None)),
        2 => options.cipher = Some(compat(Some(kdf))),
        _ => {
            options.cipher = Some(CipherPlan::Sealed { chunk_size: 4096 });
            options.extension.key_slots = Some(vec![5; 8]);
            options.extension.metadata_mac = Some([6; 32]);
        }
    }
    options
}

fn compat(key_derivation: Option<KeyDerivation>) -> CipherPlan {
    CipherPlan::XSalsa20Chunked { chunk_size: 1024, key_derivation }
}

/// The entry, flags and header bytes of one tensor of 5,000 bytes: plain, encrypted or sealed.
pub fn header(flavour: u8) -> &'static (TensorEntry, Flags, Vec<u8>) {
    static HEADERS: LazyLock<[(TensorEntry, Flags, Vec<u8>); 4]> =
        LazyLock::new(|| [0, 1, 2, 3].map(build_header));
    &HEADERS[usize::from(flavour % 4)]
}

fn build_header(flavour: u8) -> (TensorEntry, Flags, Vec<u8>) {
    let spec = TensorSpec::new("ab", Element::Uint8, vec![5000]);
    let file = testing::build(vec![spec], options(flavour));
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else {
        unreachable!("built by the planner");
    };
    let entry = front.entries[0].clone();
    let bytes = of_entry(&file, &entry).to_vec();
    (entry, front.header.flags, bytes)
}

/// The header of a tensor of a file that holds it.
///
/// # Panics
/// Where it does not.
#[must_use]
pub fn of_entry<'a>(file: &'a [u8], entry: &TensorEntry) -> &'a [u8] {
    let at = |offset| usize::try_from(offset).ok();
    let range = at(entry.header_offset).zip(at(entry.data_offset));
    range.and_then(|(start, end)| file.get(start..end)).expect("checked against the length")
}

/// Takes name, dtype, shape and data length from a header with short dimensions, so that the decoder finds there what
/// the index says.
fn adopt(entry: &mut TensorEntry, header: &[u8]) -> Option<()> {
    let (name_len, rest) = header.get(11..)?.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*name_len).into())?;
    let (&dtype_len, rest) = rest.split_first()?;
    let (dtype, rest) = rest.split_at_checked(dtype_len.into())?;
    let (&rank, rest) = rest.split_first()?;
    let (dims, _) = rest.as_chunks::<4>().0.split_at_checked(rank.into())?;
    entry.path = TensorPath::from_wire(name).ok()?;
    entry.dtype = Dtype::from_wire(std::str::from_utf8(dtype).ok()?)?;
    entry.shape = dims.iter().map(|dim| u32::from_le_bytes(*dim).into()).collect();
    entry.data_len = u64::from_le_bytes(*header.last_chunk::<8>()?);
    Some(())
}

/// Decodes `bytes` as a header of that flavour, with the length that they have, and checks that what was decoded
/// is what is written back, where it has room.
pub(crate) fn decode_header(flavour: u8, mut bytes: Vec<u8>) {
    let (mut entry, flags, _) = header(flavour).clone();
    let _ = adopt(&mut entry, &bytes);
    entry.data_offset = entry.header_offset + bytes.len() as u64;
    let len = bytes.len().to_le_bytes();
    bytes.iter_mut().zip(len).for_each(|(byte, len)| *byte = len);
    let Ok(header) = tz_format::TensorHeader::decode(&bytes, &entry, flags) else { return };
    assert!(header.hashed_bytes(&bytes).len() <= bytes.len());
    assert!(header.sealed_aad(&bytes).len() <= bytes.len());
    let Ok(again) = testing::encode_header(&header, &entry) else { return };
    let again = tz_format::TensorHeader::decode(&again, &entry, flags).expect("own header");
    assert_eq!(
        (again.module_index, again.hashes, again.crypt),
        (header.module_index, header.hashes, header.crypt)
    );
}

fn spec(u: &mut Unstructured<'_>) -> Result<TensorSpec> {
    let mut keys = vec![PathKey::Name(u.arbitrary()?)];
    for _ in 0..u.int_in_range(0..=2)? {
        keys.push(if u.arbitrary()? {
            PathKey::Name(u.arbitrary()?)
        } else {
            PathKey::Index(u.arbitrary()?)
        });
    }
    let element = *u.choose(Element::ALL)?;
    let dtype = *u.choose(&[Dtype::from(element), Dtype::from_wire(">f8").expect("numpy's")])?;
    let mut spec = TensorSpec::new(TensorPath::new(keys).expect("keys"), dtype, vec![]);
    spec.kind = *u.choose(&[TensorKind::Parameter, TensorKind::Buffer, TensorKind::StateDict])?;
    spec.module_index = u.arbitrary()?;
    for _ in 0..u.int_in_range(0..=4)? {
        spec.shape.push(u.int_in_range(0..=6)?);
    }
    if spec.shape.contains(&0) && u.arbitrary()? {
        spec.shape.push(u.arbitrary()?);
    }
    spec.meta = u.arbitrary()?;
    Ok(spec)
}

/// Tensors and options that may or may not be writable.
pub(crate) fn plan(u: &mut Unstructured<'_>) -> Result<(Vec<TensorSpec>, LayoutOptions)> {
    let mut options = options(u.arbitrary()?);
    options.alignment = 1 << u.int_in_range(0..=12)?;
    options.extension.writer = u.arbitrary()?;
    let specs = (0..u.int_in_range(1..=6)?).map(|_| spec(u)).collect::<Result<Vec<_>>>()?;
    if options.extension.key_slots.is_none() && u.arbitrary()? {
        options.extension.blake3 = Some(vec![[3; 32]; specs.len()]);
    }
    Ok((specs, options))
}
