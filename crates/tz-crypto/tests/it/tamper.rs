//! Sealed files with bytes flipped, cut off and added: no altered plaintext ever comes out.

use tz_crypto::testing::{OpenedTensor, decode_front, open_file};
use tz_crypto::{CryptoError, ErrorClass};
use tz_format::{Element, TensorSpec};

use crate::support::{opened, refusal, sealed, secret, specs};

/// Two chunks, one chunk, no data, no data but a shape.
fn small() -> Vec<u8> {
    let mut specs = specs(&[4100, 9, 0]);
    let mut meta = TensorSpec::new("meta", Element::Float32, vec![3]);
    meta.meta = true;
    specs.push(meta);
    sealed(specs)
}

/// Bytes that nothing authenticates: the terminator, and headers of tensors without data, of which a reader uses
/// nothing but what the index says too.
fn is_unused(file: &[u8], at: usize) -> bool {
    let front = decode_front(file).unwrap();
    let at = at as u64;
    let mut headers = front.entries.iter().filter(|entry| entry.data_len == 0);
    at >= front.data_end()
        || headers.any(|entry| (entry.header_offset..entry.data_offset).contains(&at))
}

/// Whatever a reader lets through is what was sealed.
#[track_caller]
fn assert_nothing_false(tensors: &[OpenedTensor], original: &[OpenedTensor]) {
    for tensor in tensors.iter().filter(|tensor| tensor.data.is_ok()) {
        assert!(original.contains(tensor), "{:?}", tensor.entry);
    }
}

#[test]
fn e11_any_flipped_byte_is_refused() {
    let file = small();
    let original = open_file(&file, &[secret(1)]).unwrap();
    let mut unused = 0;
    for at in 0..file.len() {
        for flip in [1, 0x80] {
            let mut altered = file.clone();
            altered[at] ^= flip;
            let tensors = open_file(&altered, &[secret(1)]);
            let Ok(tensors) = tensors else { continue };
            assert_nothing_false(&tensors, &original);
            if is_unused(&file, at) {
                unused += 1;
            } else {
                let refused = tensors.iter().any(|tensor| tensor.data.is_err());
                assert!(refused, "byte {at} of {}", file.len());
            }
        }
    }
    assert!(unused < 2 * 250, "{unused} flips went unnoticed");
}

#[test]
fn e12_any_cut_is_refused() {
    let file = small();
    for len in 0..file.len() {
        refusal(&file[..len], &[secret(1)]);
    }
    assert_eq!(opened(&file, &[secret(1)]).len(), 4);
}

#[test]
fn e12_bytes_added_at_the_end_are_refused() {
    let file = small();
    let expected = file.len() as u64;
    for more in [1, 8, 5000] {
        let mut longer = file.clone();
        longer.resize(file.len() + more, 0xa5);
        let found = longer.len() as u64;
        let error = refusal(&longer, &[secret(1)]);
        assert_eq!(error, CryptoError::FileLength { expected, found });
        assert_eq!(error.class(), ErrorClass::Key);
    }
}

#[test]
fn e12_bytes_added_or_removed_within_are_refused() {
    let file = small();
    let original = open_file(&file, &[secret(1)]).unwrap();
    for at in (0..file.len() - 8).step_by(7) {
        let mut altered = file.clone();
        altered.remove(at);
        // The length is right again, so that only the shift shows.
        altered.insert(file.len() - 9, 0);
        let Ok(tensors) = open_file(&altered, &[secret(1)]) else {
            continue;
        };
        assert_nothing_false(&tensors, &original);
        let refused = tensors.iter().any(|tensor| tensor.data.is_err());
        assert!(refused || altered == file || is_unused(&file, at), "byte {at}");
    }
}
