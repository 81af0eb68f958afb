//! Two implementations of AES-256-GCM give the same bytes and refuse the same ones.

use proptest::prelude::*;
use tz_crypto::CryptoError;
use tz_crypto::Key;
use tz_crypto::aead::{Aead, Aes256Gcm, GcmNonce, RustCryptoAes256Gcm};
use tz_format::Tag;
use tz_format::testing::{CASES, paint};

struct Case<'a> {
    key: Key,
    nonce: GcmNonce,
    aad: &'a [u8],
    plain: &'a [u8],
}

impl Case<'_> {
    fn seal<A: Aead>(&self) -> (Vec<u8>, Tag) {
        let cipher = A::new(&self.key).unwrap();
        let mut out = vec![0xa5; self.plain.len()];
        let tag = cipher.seal(&self.nonce, self.aad, self.plain, &mut out).unwrap();
        let mut in_place = self.plain.to_vec();
        let again = cipher.seal_in_place(&self.nonce, self.aad, &mut in_place).unwrap();
        assert_eq!((&out, tag), (&in_place, again));
        (out, tag)
    }

    fn open<A: Aead>(&self, sealed: &[u8], tag: &Tag) -> Result<Vec<u8>, CryptoError> {
        let cipher = A::new(&self.key).unwrap();
        let mut out = vec![0xa5; sealed.len()];
        let opened = cipher.open(&self.nonce, self.aad, sealed, tag, &mut out);
        let mut in_place = sealed.to_vec();
        let again = cipher.open_in_place(&self.nonce, self.aad, &mut in_place, tag);
        assert_eq!(opened, again);
        opened.map(|()| {
            assert_eq!(out, in_place);
            out
        })
    }

    fn check(&self) {
        let (sealed, tag) = self.seal::<Aes256Gcm>();
        let expect = self.seal::<RustCryptoAes256Gcm>();
        assert_eq!((&sealed, tag), (&expect.0, expect.1));
        assert_eq!(self.open::<Aes256Gcm>(&sealed, &tag).as_deref(), Ok(self.plain));
        assert_eq!(self.open::<RustCryptoAes256Gcm>(&sealed, &tag).as_deref(), Ok(self.plain));
    }

    fn check_refused(&self, sealed: &[u8], tag: &Tag) {
        assert_eq!(self.open::<Aes256Gcm>(sealed, tag), Err(CryptoError::Open));
        assert_eq!(self.open::<RustCryptoAes256Gcm>(sealed, tag), Err(CryptoError::Open));
    }
}

proptest! {
    #[test]
    fn e20_both_implementations_give_the_same_bytes(
        key: [u8; 32],
        nonce: GcmNonce,
        aad in proptest::collection::vec(any::<u8>(), 0..300),
        plain in proptest::collection::vec(any::<u8>(), 0..3000),
        at: proptest::sample::Index,
        bit in 0..8_u32,
    ) {
        let key = Key::from_bytes(&key).unwrap();
        let case = Case { key, nonce, aad: &aad, plain: &plain };
        case.check();

        let (mut sealed, mut tag) = case.seal::<Aes256Gcm>();
        let mut bytes: Vec<&mut u8> = sealed.iter_mut().chain(&mut tag).collect();
        let at = at.index(bytes.len());
        *bytes[at] ^= 1 << bit;
        case.check_refused(&sealed, &tag);
    }
}

#[test]
fn e20_both_implementations_agree_at_every_boundary() {
    for &len in CASES {
        let plain = paint(len);
        for aad_len in [0, 1, 15, 16, 17, 4096] {
            let key = Key::from_bytes(&[3; 32]).unwrap();
            let aad = paint(aad_len);
            Case { key, nonce: [5; 12], aad: &aad, plain: &plain }.check();
        }
    }
}

/// Test case 14 of McGrew and Viega's paper on GCM: a key, nonce and block of zeros.
#[test]
fn a_published_vector() {
    let key = Key::from_bytes(&[0; 32]).unwrap();
    let case = Case { key, nonce: [0; 12], aad: &[], plain: &[0; 16] };
    let (sealed, tag) = case.seal::<Aes256Gcm>();
    assert_eq!(crate::support::hex(&sealed), "cea7403d4d606b6e074ec5d3baf39d18");
    assert_eq!(crate::support::hex(&tag), "d0d1c8a799996bf0265b98b5d48ab919");
}

#[test]
fn lengths_that_differ_are_errors() {
    fn check<A: Aead>() {
        let cipher = A::new(&Key::from_bytes(&[0; 32]).unwrap()).unwrap();
        assert!(cipher.seal(&[0; 12], &[], &[0; 5], &mut [0; 4]).is_err());
        assert!(cipher.open(&[0; 12], &[], &[0; 5], &[0; 16], &mut [0; 4]).is_err());
    }
    check::<Aes256Gcm>();
    check::<RustCryptoAes256Gcm>();
}
