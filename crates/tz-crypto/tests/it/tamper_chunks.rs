//! Chunks and tensors of sealed files in the wrong place, and chunks in the wrong tensor.

use std::ops::Range;

use tz_crypto::testing::{contents, decode_front, open_file};
use tz_crypto::{CryptoError, FileOpener, KdfLimits};
use tz_format::{Cipher, Front, Layout, LayoutOptions, TensorEntry, TensorHeader};

use crate::support::{refusal, sealed, secret, specs, unopened};

/// Two tensors of three chunks each, the last one short, and one of one chunk.
const LENS: &[u64] = &[9000, 9000, 4096];

fn usize_range(range: Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

fn data(front: &Front, index: usize) -> Range<usize> {
    let entry = &front.entries[index];
    usize_range(entry.data_offset..entry.data_end())
}

/// Where chunk `i` of the tensor stands.
fn chunk(front: &Front, index: usize, i: usize) -> Range<usize> {
    let data = data(front, index);
    let start = data.start + i * 4096;
    start..data.end.min(start + 4096)
}

/// Where its tag stands: tags are the end of the crypt block, which here ends 8 bytes before the data.
fn tag(front: &Front, index: usize, i: usize) -> Range<usize> {
    let data = data(front, index);
    let first = data.start - 8 - 16 * data.len().div_ceil(4096);
    first + 16 * i..first + 16 * (i + 1)
}

fn copy(to: &mut [u8], at: Range<usize>, from: &[u8], source: Range<usize>) {
    to[at].copy_from_slice(&from[source]);
}

/// The altered file must open but for the tensors of `expect`, which give nothing.
#[track_caller]
fn check(altered: &[u8], expect: &[usize]) {
    let tensors = open_file(altered, &[secret(1)]).unwrap();
    assert_eq!(unopened(&tensors), expect);
    for (i, tensor) in tensors.into_iter().enumerate() {
        let plain =
            if expect.contains(&i) { Err(CryptoError::Open) } else { Ok(contents(i, LENS[i])) };
        assert_eq!(tensor.data, plain, "tensor {i}");
    }
}

#[test]
fn e13_chunks_in_another_order_are_refused() {
    let file = sealed(specs(LENS));
    let front = decode_front(&file).unwrap();
    check(&file, &[]);
    for with_tags in [false, true] {
        let mut altered = file.clone();
        for (to, from) in [(0, 1), (1, 0)] {
            copy(&mut altered, chunk(&front, 0, to), &file, chunk(&front, 0, from));
            if with_tags {
                copy(&mut altered, tag(&front, 0, to), &file, tag(&front, 0, from));
            }
        }
        check(&altered, &[0]);
    }
}

#[test]
fn e13_a_chunk_in_place_of_another_is_refused() {
    let file = sealed(specs(LENS));
    let front = decode_front(&file).unwrap();
    // (tensor, chunk) takes the place of (tensor, chunk): same tensor, same place in another, a single one.
    for ((to, i), (from, j)) in
        [((0, 1), (0, 0)), ((0, 1), (1, 1)), ((0, 0), (2, 0)), ((2, 0), (1, 0))]
    {
        let mut altered = file.clone();
        copy(&mut altered, chunk(&front, to, i), &file, chunk(&front, from, j));
        copy(&mut altered, tag(&front, to, i), &file, tag(&front, from, j));
        check(&altered, &[to]);
    }
}

#[test]
fn e14_tensors_swapped_within_a_file_are_refused() {
    let file = sealed(specs(LENS));
    let front = decode_front(&file).unwrap();
    let tags = |index| tag(&front, index, 0).start..tag(&front, index, 2).end;
    let header = |index: usize| {
        let entry: &TensorEntry = &front.entries[index];
        usize_range(entry.header_offset..entry.data_offset)
    };
    let swap = |range: &dyn Fn(usize) -> Range<usize>, altered: &mut Vec<u8>| {
        copy(altered, range(0), &file, range(1));
        copy(altered, range(1), &file, range(0));
    };
    let mut only_data = file.clone();
    swap(&|index| data(&front, index), &mut only_data);
    check(&only_data, &[0, 1]);

    let mut with_tags = only_data.clone();
    swap(&tags, &mut with_tags);
    check(&with_tags, &[0, 1]);

    // Whole headers name another tensor than the index does.
    for mut altered in [file.clone(), only_data] {
        swap(&header, &mut altered);
        let tensors = open_file(&altered, &[secret(1)]).unwrap();
        assert_eq!(unopened(&tensors), [0, 1]);
        assert!(matches!(tensors[0].data, Err(CryptoError::Format(_))));
    }
}

#[test]
fn e14_an_index_that_follows_the_swap_is_refused() {
    let file = sealed(specs(LENS));
    let front = decode_front(&file).unwrap();
    let mut altered = file.clone();
    let names = |file: &[u8], name: &[u8; 2]| -> Vec<usize> {
        let all = file.windows(2).enumerate();
        let front_len = usize::try_from(front.header.front_len()).unwrap();
        all.filter(|(at, window)| window == name && *at < front_len).map(|(at, _)| at).collect()
    };
    let (first, second) = (names(&file, b"t0")[0], names(&file, b"t1")[0]);
    altered[first + 1] = b'1';
    altered[second + 1] = b'0';
    assert_eq!(refusal(&altered, &[secret(1)]), CryptoError::FrontAltered);
}

#[test]
fn e15_tensors_of_another_file_of_the_same_key_are_refused() {
    let (file, other) = (sealed(specs(LENS)), sealed(specs(LENS)));
    let front = decode_front(&file).unwrap();
    for index in 0..3 {
        let entry = &front.entries[index];
        let mut altered = file.clone();
        let whole = usize_range(entry.header_offset..entry.data_end());
        copy(&mut altered, whole.clone(), &other, whole);
        check(&altered, &[index]);
    }
}

/// Tensor 0 of `file` as if it had `len` bytes, with as many of its tags as that needs and an index that agrees:
/// what a forger could do if nothing but the chunks themselves were authentic.
fn resized(file: &[u8], len: u64, more: &[u8]) -> Result<(), CryptoError> {
    let front = decode_front(file)?;
    let opener = FileOpener::new(&front, file, &[secret(1)], &KdfLimits::default())?;
    let entry = &front.entries[0];
    let header_bytes = &file[usize_range(entry.header_offset..entry.data_offset)];
    let header = TensorHeader::decode(header_bytes, entry, front.header.flags)?;
    let Some(Cipher::Sealed { chunk_size, mut tags }) = header.crypt.unwrap().cipher else {
        panic!("sealed");
    };
    tags.resize(usize::try_from(len.div_ceil(chunk_size)).unwrap(), [0; 16]);

    let mut options = LayoutOptions::default();
    options.alignment = 1;
    options.hashes = Vec::new();
    options.cipher = Some(tz_format::CipherPlan::Sealed { chunk_size });
    options.extension = front.extension.clone();
    let layout = Layout::plan(specs(&[len]), options)?;
    let mut info = layout.crypt_template(0).unwrap();
    info.cipher = Some(Cipher::Sealed { chunk_size, tags });
    let bytes = layout.encode_header(0, &[], Some(&info))?;
    let entry = &layout.entries()[0];
    let header = TensorHeader::decode(&bytes, entry, layout.header().flags)?;
    let tensor = opener.tensor(0, entry, &header, &bytes)?;
    let sealed = [&file[data(&front, 0)], more].concat();
    for i in 0..tensor.chunk_count() {
        let range = usize_range(tensor.chunk_range(i));
        tensor.open_chunk(i, &sealed[range.clone()], &mut vec![0; range.len()])?;
    }
    Ok(())
}

#[test]
fn e12_a_tensor_cut_or_extended_at_a_chunk_is_refused() {
    let file = sealed(specs(&[8192]));
    assert_eq!(resized(&file, 8192, &[]), Ok(()));
    assert_eq!(resized(&file, 4096, &[]), Err(CryptoError::Open));
    assert_eq!(resized(&file, 4000, &[]), Err(CryptoError::Open));
    assert_eq!(resized(&file, 8191, &[]), Err(CryptoError::Open));
    assert_eq!(resized(&file, 8193, &[0]), Err(CryptoError::Open));
    assert_eq!(resized(&file, 12_288, &[0; 4096]), Err(CryptoError::Open));
}
