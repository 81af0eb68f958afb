//! XSalsa20-Poly1305 with detached tags, as libsodium's `crypto_secretbox_detached`. Owns the nonce arithmetic of
//! compat files; the cipher is `dryoc`'s (decision 0010).
//!
//! `dryoc` checks every length before it slices and verifies a tag before it decrypts, so that no input makes it
//! panic and none reaches the output unauthenticated.

use dryoc::classic::crypto_secretbox::{crypto_secretbox_detached, crypto_secretbox_open_detached};
use tz_format::Tag;
use tz_format::frozen::XSALSA20_NONCE_LEN;

use crate::error::CryptoError;
use crate::key::Key;

/// A nonce; a 24-byte little-endian number.
pub(crate) type Nonce = [u8; XSALSA20_NONCE_LEN];

/// Nonce of chunk `i`: `first + i`, modulo 2^192 as libsodium's `sodium_increment` wraps.
pub(crate) fn chunk_nonce(first: &Nonce, i: u64) -> Nonce {
    let mut nonce = *first;
    let mut carry = i;
    for word in nonce.as_chunks_mut::<8>().0 {
        let (sum, overflow) = u64::from_le_bytes(*word).overflowing_add(carry);
        *word = sum.to_le_bytes();
        carry = overflow.into();
    }
    nonce
}

/// Encrypts `plain` into `out`, which has its length.
pub(crate) fn seal(
    key: &Key,
    nonce: &Nonce,
    plain: &[u8],
    out: &mut [u8],
) -> Result<Tag, CryptoError> {
    let mut tag = Tag::default();
    crypto_secretbox_detached(out, &mut tag, plain, nonce, key.as_bytes())
        .map_err(|_| CryptoError::Library)?;
    Ok(tag)
}

/// Decrypts `sealed` into `out`, which has its length and stays as it is where the tag does not match.
pub(crate) fn open(
    key: &Key,
    nonce: &Nonce,
    sealed: &[u8],
    tag: &Tag,
    out: &mut [u8],
) -> Result<(), CryptoError> {
    crypto_secretbox_open_detached(out, sealed, tag, nonce, key.as_bytes())
        .map_err(|_| CryptoError::Open)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use tz_format::testing::paint;

    use super::*;
    use crate::oracle::{from_hex, libsodium_vectors};

    fn nonce(hex: &Value) -> Nonce {
        from_hex(hex.as_str().unwrap()).try_into().unwrap()
    }

    #[test]
    fn e07_boxes_are_those_of_libsodium() {
        let vectors = libsodium_vectors();
        let key = Key::from_bytes(&from_hex(vectors["key"].as_str().unwrap())).unwrap();
        let boxes = vectors["secretbox"].as_array().unwrap();
        assert!(boxes.len() > 100);
        for row in boxes {
            let plain = paint(row["length"].as_u64().unwrap());
            let mut sealed = vec![0; plain.len()];
            let tag = seal(&key, &nonce(&row["nonce"]), &plain, &mut sealed).unwrap();
            assert_eq!(tag.to_vec(), from_hex(row["tag"].as_str().unwrap()), "{row}");
            let digest = Sha256::digest(&sealed).to_vec();
            assert_eq!(digest, from_hex(row["sealed_sha256"].as_str().unwrap()), "{row}");

            let mut opened = vec![0; plain.len()];
            open(&key, &nonce(&row["nonce"]), &sealed, &tag, &mut opened).unwrap();
            assert_eq!(opened, plain, "{row}");
        }
    }

    #[test]
    fn e07_nonces_count_as_libsodium_increments() {
        for row in libsodium_vectors()["increment"].as_array().unwrap() {
            let row: Vec<Nonce> = row.as_array().unwrap().iter().map(nonce).collect();
            for (i, expect) in (0..).zip(&row) {
                assert_eq!(chunk_nonce(&row[0], i), *expect);
            }
        }
        // Further than four steps: -1 + (2^64 - 1) = 2^64 - 2, and -2 + 2 = 0.
        let word = |word: u64| {
            let mut nonce = [0; XSALSA20_NONCE_LEN];
            nonce[..8].copy_from_slice(&word.to_le_bytes());
            nonce
        };
        let mut minus_two = [0xff; XSALSA20_NONCE_LEN];
        minus_two[0] = 0xfe;
        let minus_one = [0xff; XSALSA20_NONCE_LEN];
        assert_eq!(chunk_nonce(&minus_one, u64::MAX), word(u64::MAX - 1));
        assert_eq!(chunk_nonce(&minus_two, 2), word(0));
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors_and_change_nothing() {
        let key = Key::from_bytes(&[1; 32]).unwrap();
        let (nonce, tag) = (Nonce::default(), Tag::default());
        let mut short = [7; 3];
        assert!(seal(&key, &nonce, &[0; 4], &mut short).is_err());
        assert!(open(&key, &nonce, &[0; 4], &tag, &mut short).is_err());
        assert_eq!(short, [7; 3]);
    }
}
