//! GB/s of one core by hash, in a piece that the cache holds and in one that it does not. Owns no threshold: numbers go
//! to `docs/PERFORMANCE.md`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tz_format::testing::paint;
use tz_io::{Algorithm, Visitor as _};

/// What readers hash at a time stays in the cache; the other is what hashing costs as a second pass over memory.
const PIECE_LENS: [u64; 2] = [1 << 20, 64 << 20];

fn hash(c: &mut Criterion) {
    for len in PIECE_LENS {
        let piece = paint(len);
        let mut group = c.benchmark_group("hash");
        group.throughput(Throughput::Bytes(len));
        for (name, algorithm) in [
            ("crc32", Algorithm::Crc32),
            ("sha256", Algorithm::Sha256),
            ("blake3", Algorithm::Blake3),
        ] {
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    let mut digester = algorithm.digester();
                    digester.update(black_box(&piece));
                    digester.to_hex()
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    // Short: a smoke run of all rows takes seconds. Raise with `--measurement-time` to compare two versions.
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = hash
}
criterion_main!(benches);
