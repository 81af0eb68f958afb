//! Cost of planning and opening against the number of tensors. Owns no threshold: numbers go to `docs/PERFORMANCE.md`.

use std::hint::black_box;
use std::io::IoSliceMut;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::NamedTempFile;
use tz_format::{Element, Layout, LayoutOptions, Limits, TensorSpec};
use tz_io::testing::PaintedTensors;
use tz_io::{
    LoadPlan, LocalFile, Location, PlanOptions, RangeRead, Selection, TensorFile, WriteOptions,
    write,
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

/// The same model as a file, one element a tensor so that the index is most of it.
fn written(count: usize) -> NamedTempFile {
    let mut specs = specs(count);
    specs.iter_mut().for_each(|spec| spec.shape = vec![1, 1]);
    let file = NamedTempFile::new().expect("temporary file");
    let mut options = WriteOptions::default();
    options.alignment = 1;
    options.fsync = false;
    let location = Location::File(file.path().to_owned());
    write(&PaintedTensors::new(specs), &location, &options).expect("writable");
    file
}

fn plan(c: &mut Criterion) {
    for count in [1_000, 100_000] {
        let layout = Layout::plan(specs(count), LayoutOptions::default()).expect("writable");
        let entries = layout.entries();
        let globs = Selection::globs(&["*.q_proj.*", "model.layers.7.*"]).expect("globs");

        let mut group = c.benchmark_group("plan");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("all", count), |b| {
            b.iter_with_large_drop(|| {
                LoadPlan::new(black_box(entries), (0..count).collect(), &PlanOptions::local())
            });
        });
        group.bench_function(BenchmarkId::new("select_by_glob", count), |b| {
            b.iter(|| globs.select(black_box(entries), "bench"));
        });
        let file = written(count);
        let location = Location::File(file.path().to_owned());
        group.bench_function(BenchmarkId::new("open_local", count), |b| {
            b.iter_with_large_drop(|| {
                TensorFile::open(black_box(&location), &Limits::default()).expect("valid")
            });
        });
        // What of it is reading: the same bytes into the same kind of buffer, without a look at them.
        let front_len = usize::try_from(layout.header().front_len()).expect("small");
        group.bench_function(BenchmarkId::new("read_front_only", count), |b| {
            b.iter_with_large_drop(|| {
                let source = LocalFile::open(black_box(file.path())).expect("there");
                let mut front = vec![0; front_len];
                source.read_into(0, &mut [IoSliceMut::new(&mut front)]).expect("there");
                front
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
