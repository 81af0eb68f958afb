//! Cost of the codec against the number of tensors. Owns no threshold: numbers go to `docs/PERFORMANCE.md`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tz_format::{
    Element, FrontDecoder, Layout, LayoutOptions, Limits, Step, TensorHeader, TensorSpec,
};

/// Names and shapes of a transformer, as many as asked for.
fn specs(count: usize) -> Vec<TensorSpec> {
    let parts = ["q_proj", "k_proj", "v_proj", "o_proj"];
    (0..count)
        .map(|i| {
            let part = parts[i % parts.len()];
            let name = format!("model.layers.{}.self_attn.{part}.weight", i / parts.len());
            TensorSpec::new(name, Element::Bfloat16, vec![32, 32])
        })
        .collect()
}

fn codec(c: &mut Criterion) {
    for count in [10, 1_000, 100_000] {
        let specs = specs(count);
        let layout = Layout::plan(specs.clone(), LayoutOptions::default()).expect("writable");
        let extension = &layout.options().extension;
        let front = layout.encode_front(extension).expect("planned");
        let headers: Vec<_> = (0..count)
            .map(|i| layout.encode_header(i, &layout.zero_hashes(), None))
            .collect::<Result<_, _>>()
            .expect("planned");

        let mut group = c.benchmark_group("codec");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("decode_front", count), |b| {
            let decoder = FrontDecoder::new(Limits::default());
            b.iter(|| match decoder.step(black_box(&front)) {
                Ok(Step::Done(front)) => front.entries.len(),
                other => panic!("{other:?}"),
            });
        });
        group.bench_function(BenchmarkId::new("decode_headers", count), |b| {
            b.iter(|| {
                for (entry, bytes) in layout.entries().iter().zip(&headers) {
                    let header = TensorHeader::decode(bytes, entry, layout.header().flags);
                    black_box(header.expect("valid"));
                }
            });
        });
        group.bench_function(BenchmarkId::new("plan", count), |b| {
            b.iter(|| Layout::plan(black_box(specs.clone()), LayoutOptions::default()));
        });
        group.bench_function(BenchmarkId::new("encode_front", count), |b| {
            b.iter(|| layout.encode_front(black_box(extension)));
        });
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
    targets = codec
}
criterion_main!(benches);
