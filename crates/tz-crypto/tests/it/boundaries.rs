//! Every length around a chunk, in both profiles, in and out of place, in any order.

use tz_crypto::testing::{contents, decode_front, open_file, seal_file};
use tz_crypto::{
    CryptoError, FileOpener, FileSealer, KdfLimits, SealSecret, Secret, TensorOpener, TensorSealer,
};
use tz_format::testing::CASES;
use tz_format::{
    Cipher, CryptInfo, Element, Extension, Layout, LayoutOptions, Tag, TensorHeader, TensorSpec,
};

use crate::support::{opened, pass, seal_key, seal_pass, secret, specs};

fn sealers() -> Vec<(FileSealer, Secret)> {
    let compat = |sealing: &SealSecret, chunk_size| {
        let sealer = FileSealer::compat(sealing, chunk_size).unwrap();
        (sealer, sealing.to_secret())
    };
    let sealed =
        |chunk_size| FileSealer::sealed(&[seal_key(1), seal_pass("p")], chunk_size).unwrap();
    vec![
        compat(&seal_key(2), 1024),
        compat(&seal_key(2), 4096),
        compat(&seal_key(2), 2 << 20),
        compat(&seal_pass("pässwörd"), 1088),
        (sealed(4096), secret(1)),
        (sealed(8192), pass("p")),
        (sealed(1 << 20), secret(1)),
    ]
}

#[test]
fn every_length_comes_back() {
    for (sealer, secret) in sealers() {
        let file = seal_file(specs(CASES), &sealer, 64, Extension::default()).unwrap();
        let plan = sealer.cipher_plan();
        for (i, plain) in opened(&file, &[secret]).into_iter().enumerate() {
            assert_eq!(plain, contents(i, CASES[i]), "{plan:?}, {} bytes", CASES[i]);
            assert!(CASES[i] < 64 || !contains(&file, &plain), "plaintext in the file");
        }
    }
}

fn contains(file: &[u8], plain: &[u8]) -> bool {
    file.windows(64).any(|window| window == &plain[..64])
}

/// The opener of tensor `index`, and its sealed data.
fn tensor(file: &[u8], secret: &Secret, index: usize) -> (TensorOpener, Vec<u8>) {
    let front = decode_front(file).unwrap();
    let opener =
        FileOpener::new(&front, file, std::slice::from_ref(secret), &KdfLimits::default()).unwrap();
    let entry = &front.entries[index];
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let header_bytes = &file[at(entry.header_offset)..at(entry.data_offset)];
    let header = TensorHeader::decode(header_bytes, entry, front.header.flags).unwrap();
    let data = file[at(entry.data_offset)..at(entry.data_end())].to_vec();
    (opener.tensor(index, entry, &header, header_bytes).unwrap(), data)
}

fn range(opener: &TensorOpener, i: usize) -> std::ops::Range<usize> {
    let range = opener.chunk_range(i);
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

#[test]
fn e18_any_chunk_opens_alone_and_in_any_order() {
    for (sealer, secret) in sealers() {
        let file = seal_file(specs(CASES), &sealer, 1, Extension::default()).unwrap();
        for (index, &len) in CASES.iter().enumerate() {
            let plain = contents(index, len);
            let (opener, data) = tensor(&file, &secret, index);
            let mut covered = 0;
            for i in (0..opener.chunk_count()).rev() {
                let range = range(&opener, i);
                let mut out = vec![0xa5; range.len()];
                opener.open_chunk(i, &data[range.clone()], &mut out).unwrap();
                assert_eq!(out, plain[range.clone()]);
                let mut in_place = data[range.clone()].to_vec();
                opener.open_chunk_in_place(i, &mut in_place).unwrap();
                assert_eq!(in_place, out);
                assert!(range.len() as u64 <= opener.chunk_size());
                covered += range.len() as u64;
            }
            assert_eq!(covered, len);
            assert_eq!(opener.chunk_range(opener.chunk_count()), len..len);
        }
    }
}

#[test]
fn e01_a_refused_chunk_leaves_zeros() {
    for (sealer, secret) in sealers() {
        let file = seal_file(specs(&[5000]), &sealer, 1, Extension::default()).unwrap();
        let (opener, data) = tensor(&file, &secret, 0);
        for i in 0..opener.chunk_count() {
            let mut bad = data[range(&opener, i)].to_vec();
            *bad.last_mut().unwrap() ^= 0x80;
            let mut out = vec![0xa5; bad.len()];
            assert_eq!(opener.open_chunk(i, &bad, &mut out), Err(CryptoError::Open));
            assert!(out.iter().all(|&byte| byte == 0));
            assert_eq!(opener.open_chunk_in_place(i, &mut bad), Err(CryptoError::Open));
            assert!(bad.iter().all(|&byte| byte == 0));
        }
        let mut out = vec![0xa5; 5000];
        let wrong = [
            opener.open_chunk(opener.chunk_count(), &[], &mut []),
            opener.open_chunk(usize::MAX, &[], &mut []),
            opener.open_chunk(0, &data[..1], &mut out[..1]),
            opener.open_chunk(0, &data[range(&opener, 0)], &mut out[..1]),
        ];
        for result in wrong {
            assert!(matches!(result, Err(CryptoError::Misuse(_))), "{result:?}");
        }
        assert_eq!(out[0], 0);
    }
}

#[test]
fn meta_and_empty_tensors_need_no_chunk_and_keep_their_place() {
    let mut meta = TensorSpec::new("meta", Element::Float32, vec![1000]);
    meta.meta = true;
    let specs = vec![
        TensorSpec::new("empty", Element::Float16, vec![0, 4]),
        meta,
        TensorSpec::new("scalar", Element::Float64, vec![]),
    ];
    for (sealer, secret) in sealers() {
        let file = seal_file(specs.clone(), &sealer, 64, Extension::default()).unwrap();
        let tensors = open_file(&file, &[secret]).unwrap();
        assert!(tensors[1].entry.is_meta());
        let lens = tensors.iter().map(|tensor| tensor.data.as_ref().unwrap().len());
        assert_eq!(lens.collect::<Vec<_>>(), [0, 0, 8]);
    }
}

/// States nonce and tag of one box.
type CipherOf = fn([u8; 24], Tag) -> Cipher;

/// Seals `len` bytes in one box and states it as `cipher` says.
fn one_box(len: u64, cipher: CipherOf) -> Vec<u8> {
    let chunk_size = 1 << 20;
    let sealer = FileSealer::compat(&seal_key(2), chunk_size).unwrap();
    let mut options = LayoutOptions::default();
    options.hashes = Vec::new();
    options.cipher = Some(sealer.cipher_plan());
    let layout = Layout::plan(specs(&[len]), options).unwrap();
    let tensor: TensorSealer = sealer.tensor(&layout, 0).unwrap();
    let mut data = contents(0, len);
    let tag = tensor.seal_chunk_in_place(0, &mut data).unwrap();
    let info = tensor.finish(vec![tag]).unwrap();
    let Some(Cipher::XSalsa20Chunked { nonce, .. }) = info.cipher else { panic!("compat") };
    let info = CryptInfo { cipher: Some(cipher(nonce, tag)), ..info };
    let mut file = layout.encode_front(&Extension::default()).unwrap();
    file.extend(layout.encode_header(0, &[], Some(&info)).unwrap());
    file.extend(data);
    file
}

#[test]
fn a_whole_tensor_in_one_box_opens() {
    let ciphers: [CipherOf; 2] = [
        |nonce, tag| Cipher::XSalsa20Whole { nonce, tag },
        // A single tag covers everything, even beyond the chunk size that is stated.
        |nonce, tag| Cipher::XSalsa20Chunked { chunk_size: 1024, nonce, tags: vec![tag] },
    ];
    for cipher in ciphers {
        for len in [1, 1024, 5000] {
            assert_eq!(opened(&one_box(len, cipher), &[secret(2)]), [contents(0, len)]);
        }
    }
}
