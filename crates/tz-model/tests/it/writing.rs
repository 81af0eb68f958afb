//! Safetensors out: same bytes as the `safetensors` library, complete or absent.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::TensorView;
use tz_format::{Dtype, Element, TensorPath, TensorSpec};
use tz_model::{
    Checkpoint, Durability, Error, Fault, SafetensorsPlan, SafetensorsWriter, ShardedPlan,
    ShardedWriter, TensorDecl, to_safetensors,
};

use crate::support::{contents, decl, listing, message, names, painted};

fn sample() -> Vec<TensorDecl> {
    vec![
        decl("z.small", Element::Uint8, &[3]),
        decl("scalar", Element::Int64, &[]),
        decl("b \"quoted\" \u{1}名", Element::Bfloat16, &[2, 5]),
        decl("empty", Element::Float32, &[0, 7]),
        decl("a", Element::Float32, &[70]),
        decl("four bits", Element::Float4E2m1fnX2, &[2, 3]),
    ]
}

fn len(decl: &TensorDecl) -> usize {
    let len = decl.shape.iter().product::<u64>() * decl.dtype.size();
    usize::try_from(len).expect("fits")
}

fn write_all(writer: &SafetensorsWriter, tensors: &[TensorDecl]) {
    // Backwards and in two pieces: order does not matter.
    for (i, decl) in tensors.iter().enumerate().rev() {
        let data = painted(len(decl));
        let (head, tail) = data.split_at(data.len() / 2);
        writer.write_at(i, head.len() as u64, tail).expect("tail");
        writer.write_at(i, 0, head).expect("head");
    }
}

#[test]
fn same_bytes_as_the_safetensors_library() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("m.safetensors");
    let tensors = sample();
    for metadata in [BTreeMap::new(), BTreeMap::from([("format".to_owned(), "pt".to_owned())])] {
        let plan = SafetensorsPlan::new(&path, &tensors, &metadata).expect("plan");
        let file_len = plan.file_len();
        let writer = SafetensorsWriter::create(&path, plan, Durability::Synced).expect("create");
        write_all(&writer, &tensors);
        writer.finish().expect("finish");
        let found = std::fs::read(&path).expect("file");

        let data: Vec<Vec<u8>> = tensors.iter().map(|decl| painted(len(decl))).collect();
        let views = tensors.iter().zip(&data).map(|(decl, data)| {
            let dtype = to_safetensors(decl.dtype).expect("dtype");
            let mut shape: Vec<usize> =
                decl.shape.iter().map(|&d| usize::try_from(d).expect("fits")).collect();
            if decl.dtype == Dtype::from(Element::Float4E2m1fnX2) {
                *shape.last_mut().expect("rank") *= 2;
            }
            (&decl.name, TensorView::new(dtype, shape, data).expect("view"))
        });
        let metadata = (!metadata.is_empty()).then(|| HashMap::from_iter(metadata));
        let expect = safetensors::serialize(views, metadata).expect("serialize");
        assert_eq!(found, expect);
        assert_eq!(found.len() as u64, file_len);

        let checkpoint = Checkpoint::open(&path).expect("checkpoint");
        for decl in &tensors {
            let i = checkpoint.find(&decl.name).expect("tensor");
            let tensor = &checkpoint.tensors()[i];
            assert_eq!((tensor.dtype, &tensor.shape), (decl.dtype, &decl.shape));
            assert_eq!(contents(&checkpoint, i), painted(len(decl)));
        }
    }
    assert_eq!(listing(dir.path()), ["m.safetensors"]);
}

#[test]
fn new_files_have_the_usual_mode() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("directory");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, b"").expect("write");
    let path = dir.path().join("m.safetensors");
    let plan = SafetensorsPlan::new(&path, &[], &BTreeMap::new()).expect("plan");
    let writer = SafetensorsWriter::create(&path, plan, Durability::Cached).expect("create");
    writer.finish().expect("finish");
    let mode = |path: &Path| path.metadata().expect("file").permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn links_stay_and_their_files_are_written() {
    let dir = tempfile::tempdir().expect("directory");
    let (link, file) = (dir.path().join("link"), dir.path().join("file"));
    std::fs::write(&file, b"older").expect("write");
    std::os::unix::fs::symlink("file", &link).expect("link");
    let plan = SafetensorsPlan::new(&link, &[], &BTreeMap::new()).expect("plan");
    let writer = SafetensorsWriter::create(&link, plan, Durability::Cached).expect("create");
    writer.finish().expect("finish");
    assert!(link.symlink_metadata().expect("link").is_symlink());
    Checkpoint::open(&file).expect("checkpoint");
    assert_eq!(listing(dir.path()), ["file", "link"]);
}

#[test]
fn dropped_or_incomplete_writers_leave_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, b"older").expect("write");
    let tensors = sample();
    let create = || {
        let plan = SafetensorsPlan::new(&path, &tensors, &BTreeMap::new()).expect("plan");
        SafetensorsWriter::create(&path, plan, Durability::Cached).expect("create")
    };
    let dropped = create();
    write_all(&dropped, &tensors);
    drop(dropped);
    let incomplete = create();
    write_all(&incomplete, &tensors[..4]);
    let error = incomplete.finish().expect_err("incomplete");
    assert_eq!(
        message(dir.path(), &error),
        "m.safetensors: tensor \"a\": 0 of 280 bytes were written"
    );
    assert_eq!(listing(dir.path()), ["m.safetensors"]);
    assert_eq!(std::fs::read(&path).expect("file"), b"older");
}

#[test]
fn writes_beyond_a_tensor() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("m.safetensors");
    let plan = SafetensorsPlan::new(&path, &sample(), &BTreeMap::new()).expect("plan");
    let writer = SafetensorsWriter::create(&path, plan, Durability::Cached).expect("create");
    for (tensor, offset, len) in [(0, 0, 4), (0, 3, 1), (0, u64::MAX, 1), (6, 0, 0)] {
        let result = writer.write_at(tensor, offset, &vec![0; len]);
        assert!(matches!(result, Err(Error::OutOfRange { .. })), "{tensor} {offset}");
    }
}

#[track_caller]
fn refused(tensors: &[TensorDecl], expect: &str) {
    let path = Path::new("m.safetensors");
    let error = SafetensorsPlan::new(path, tensors, &BTreeMap::new()).expect_err("refused");
    assert_eq!(error.to_string(), format!("m.safetensors: {expect}"));
}

#[test]
fn what_safetensors_cannot_hold() {
    refused(
        &[decl("c", Element::Complex128, &[1])],
        "tensor \"c\": dtype <c16 in safetensors is not supported",
    );
    let big = TensorDecl {
        dtype: Dtype::from_wire(">f4").expect("dtype"),
        ..decl("big", Element::Float32, &[1])
    };
    refused(&[big], "tensor \"big\": dtype >f4 in safetensors is not supported");
    refused(
        &[decl("__metadata__", Element::Uint8, &[1])],
        "tensor \"__metadata__\": this name is not supported",
    );
    let own = decl("a", Element::Uint8, &[1]);
    refused(&[own.clone(), own], "tensor \"a\": the name stands twice");
    let half = decl("h", Element::Uint8, &[1 << 63]);
    let overflow = "the shape's size overflows";
    let other = decl("i", Element::Uint8, &[1 << 63]);
    refused(&[half.clone(), other], &format!("tensor \"i\": {overflow}"));
    refused(&[half], overflow);
    refused(&[decl("wide", Element::Float64, &[1 << 62])], &format!("tensor \"wide\": {overflow}"));
}

#[test]
fn structured_paths_are_joined() {
    let path = TensorPath::new(vec!["model".into(), 3.into()]).expect("path");
    let spec = TensorSpec::new(path, Element::Int8, vec![2]);
    assert_eq!(TensorDecl::from(&spec), decl("model/3", Element::Int8, &[2]));
}

#[test]
fn shards_with_their_index() {
    let dir = tempfile::tempdir().expect("directory");
    let model = dir.path().join("model");
    let tensors: Vec<TensorDecl> = [40, 50, 20, 200, 1]
        .iter()
        .enumerate()
        .map(|(i, &len)| decl(&format!("t{i}"), Element::Uint8, &[len]))
        .collect();
    let plan = ShardedPlan::new(&model, &tensors, &BTreeMap::new(), 100).expect("plan");
    let shards: Vec<String> = plan.file_names().map(str::to_owned).collect();
    let expect: Vec<String> =
        (1..=4).map(|i| format!("model-{i:05}-of-00004.safetensors")).collect();
    assert_eq!(shards, expect);
    let total_len = plan.total_len();
    let writer = ShardedWriter::create(&model, plan, Durability::Synced).expect("create");
    for (i, decl) in tensors.iter().enumerate() {
        writer.write_at(i, 0, &painted(len(decl))).expect("write");
    }
    let beyond = writer.write_at(5, 0, &[]);
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    assert!(listing(&model).iter().all(|name| name.ends_with(".partial")));
    writer.finish().expect("finish");

    let index = "model.safetensors.index.json".to_owned();
    let all: Vec<String> = expect.iter().cloned().chain([index.clone()]).collect();
    assert_eq!(listing(&model), all);
    let text = std::fs::read_to_string(model.join(index)).expect("index");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["metadata"]["total_size"], 311);
    let checkpoint = Checkpoint::open(&model).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["t0", "t1", "t2", "t3", "t4"]);
    assert_eq!(checkpoint.files().len(), 4);
    assert_eq!(checkpoint.files().iter().map(|f| f.byte_len()).sum::<u64>(), total_len);
    for (i, decl) in tensors.iter().enumerate() {
        assert_eq!(contents(&checkpoint, i), painted(len(decl)));
    }
}

#[test]
fn one_shard_alone_has_the_plain_name_and_no_index() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = ShardedPlan::new(dir.path(), &[], &BTreeMap::new(), 100).expect("plan");
    let writer = ShardedWriter::create(dir.path(), plan, Durability::Cached).expect("create");
    writer.finish().expect("finish");
    assert_eq!(listing(dir.path()), ["model.safetensors"]);
}

#[test]
fn sharded_writers_leave_nothing_either() {
    let dir = tempfile::tempdir().expect("directory");
    let tensors = sample();
    let plan = || ShardedPlan::new(dir.path(), &tensors, &BTreeMap::new(), 10).expect("plan");
    let create = || ShardedWriter::create(dir.path(), plan(), Durability::Cached).expect("create");
    drop(create());
    let incomplete = create();
    incomplete.write_at(0, 0, &painted(3)).expect("write");
    assert!(matches!(incomplete.finish(), Err(Error::Incomplete { .. })));
    assert_eq!(listing(dir.path()), [""; 0]);

    let twice = [tensors[0].clone(), tensors[4].clone(), tensors[0].clone()];
    let error = ShardedPlan::new(dir.path(), &twice, &BTreeMap::new(), 10).expect_err("twice");
    assert!(matches!(error, Error::Malformed { fault: Fault::DuplicateName, .. }));
}
