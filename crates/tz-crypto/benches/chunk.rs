//! GB/s of one core by profile and chunk size, through the public API.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tz_crypto::aead::{Aead, Aes256Gcm, RustCryptoAes256Gcm};
use tz_crypto::testing::{decode_front, seal_file};
use tz_crypto::{CryptoError, FileOpener, FileSealer, KdfLimits, Key, SealSecret, Secret};
use tz_format::testing::paint;
use tz_format::{Element, Extension, TensorHeader, TensorSpec};

/// From a small chunk to one that leaves the cache.
const CHUNK_SIZES: [u64; 4] = [16 << 10, 256 << 10, 1 << 20, 16 << 20];

fn open(c: &mut Criterion) {
    for chunk_size in CHUNK_SIZES {
        let key = Key::from_bytes(&[7; 32]).expect("32 bytes");
        let sealing = SealSecret::Key(key.clone());
        let sealers = [
            ("compat", FileSealer::compat(&sealing, chunk_size)),
            ("sealed", FileSealer::sealed(&[sealing], chunk_size)),
        ];
        let mut group = c.benchmark_group("open chunk");
        group.throughput(Throughput::Bytes(chunk_size));
        for (profile, sealer) in sealers {
            let mut open = opener(&sealer.expect("a sealer"), chunk_size, Secret::Key(key.clone()))
                .expect("a file");
            group.bench_function(BenchmarkId::new(profile, chunk_size), |b| b.iter(&mut open));
        }
        group.finish();
    }
}

/// A file of one chunk, to be opened again and again into the same buffer.
fn opener(
    sealer: &FileSealer,
    len: u64,
    secret: Secret,
) -> Result<impl FnMut() + use<>, CryptoError> {
    let specs = vec![TensorSpec::new("t", Element::Uint8, vec![len])];
    let file = seal_file(specs, sealer, 4096, Extension::default())?;
    let front = decode_front(&file)?;
    let opener = FileOpener::new(&front, &file, &[secret], &KdfLimits::default())?;
    let entry = &front.entries[0];
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let bytes = &file[at(entry.header_offset)..at(entry.data_offset)];
    let header = TensorHeader::decode(bytes, entry, front.header.flags)?;
    let tensor = opener.tensor(0, entry, &header, bytes)?;
    let sealed = file[at(entry.data_offset)..at(entry.data_end())].to_vec();
    let mut plain = vec![0; sealed.len()];
    Ok(move || {
        tensor.open_chunk(0, &sealed, &mut plain).expect("an authentic chunk");
    })
}

/// The default AES-256-GCM beside the one that it is checked against.
fn gcm(c: &mut Criterion) {
    let len = 1 << 20;
    let mut group = c.benchmark_group("seal AES-256-GCM");
    group.throughput(Throughput::Bytes(len));
    let key = Key::from_bytes(&[7; 32]).expect("32 bytes");
    let plain = paint(len);
    let mut out = plain.clone();
    let fast = Aes256Gcm::new(&key).expect("a key");
    group.bench_function("aws-lc-rs", |b| {
        b.iter(|| fast.seal(&[0; 12], &[], &plain, &mut out));
    });
    let other = RustCryptoAes256Gcm::new(&key).expect("a key");
    group.bench_function("aes-gcm", |b| {
        b.iter(|| other.seal(&[0; 12], &[], &plain, &mut out));
    });
    group.finish();
}

criterion_group!(benches, open, gcm);
criterion_main!(benches);
