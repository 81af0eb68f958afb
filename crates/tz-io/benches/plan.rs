//! Cost of planning and opening against the number of tensors. Owns no threshold: numbers go to `docs/PERFORMANCE.md`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tz_format::{Element, Layout, LayoutOptions, Limits, TensorSpec};
use tz_io::testing::MemoryFile;
use tz_io::{LoadPlan, PlanOptions, Selection, TensorFile};

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

fn plan(c: &mut Criterion) {
    for count in [1_000, 100_000] {
        let layout = Layout::plan(specs(count), LayoutOptions::default()).expect("writable");
        let entries = layout.entries();
        let front = layout.encode_front(&layout.options().extension).expect("planned");
        let globs = Selection::globs(&["*.q_proj.*", "model.layers.7.*"]).expect("globs");

        let mut group = c.benchmark_group("plan");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("all", count), |b| {
            b.iter(|| {
                LoadPlan::new(black_box(entries), (0..count).collect(), &PlanOptions::local())
            });
        });
        group.bench_function(BenchmarkId::new("select_by_glob", count), |b| {
            b.iter(|| globs.select(black_box(entries), "bench"));
        });
        group.bench_function(BenchmarkId::new("open_in_memory", count), |b| {
            // The whole length is stated, the data is never asked for.
            let bytes = black_box(&front);
            b.iter(|| {
                let source = tz_io::testing::FaultSource::new(MemoryFile::new(bytes.clone()));
                let source = source.with_len(None);
                TensorFile::from_source(Box::new(source), &Limits::default()).expect("valid")
            });
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
    targets = plan
}
criterion_main!(benches);
