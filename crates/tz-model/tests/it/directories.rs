//! Which files of a directory make the checkpoint, and how index and shards must agree.

use tz_model::{Checkpoint, Error, Fault};

use crate::support::{bytes_file, contents, message, names, painted, write};

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn single_file_by_name_or_directory() {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "model.safetensors", &bytes_file(&[("b", 300), ("a", 5)]));
    // Not part of the checkpoint: another library's copy of the same weights.
    write(dir.path(), "consolidated.safetensors", &bytes_file(&[("x", 1)]));
    for path in [dir.path().to_owned(), dir.path().join("model.safetensors")] {
        let checkpoint = Checkpoint::open(path).expect("checkpoint");
        assert_eq!(names(&checkpoint), ["b", "a"], "in order of position");
        assert_eq!(contents(&checkpoint, 0), painted(300));
        assert_eq!(contents(&checkpoint, 1), &painted(305)[300..]);
        assert_eq!(checkpoint.total_bytes(), 305);
        assert_eq!(checkpoint.find("a"), Some(1));
        assert_eq!(checkpoint.find("c"), None);
        let mut part = [0; 7];
        checkpoint.read_at(0, 250, &mut part).expect("read");
        assert_eq!(part, [250, 0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn without_an_index_every_file_in_order_of_name() {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "2.safetensors", &bytes_file(&[("b", 1)]));
    write(dir.path(), "1.safetensors", &bytes_file(&[("c", 2), ("d", 0)]));
    write(dir.path(), "notes.txt", b"no tensors");
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["c", "d", "b"]);
    assert_eq!(checkpoint.tensors()[2].file, 1);
    assert_eq!(checkpoint.specs()[2].path.plain(), Some("b"));

    write(dir.path(), "3.safetensors", &bytes_file(&[("c", 1)]));
    let error = Checkpoint::open(dir.path()).expect_err("twice");
    assert_eq!(
        message(dir.path(), &error),
        "3.safetensors: tensor \"c\": \"1.safetensors\" holds a tensor of the same name"
    );
}

#[test]
fn user_metadata_is_kept_in_order() {
    let dir = tempfile::tempdir().expect("directory");
    let header = r#"{"__metadata__":{"z":"1","format":"pt"}}"#;
    write(dir.path(), "model.safetensors", &crate::support::raw(header, 0));
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    let metadata = checkpoint.files()[0].user_metadata();
    assert_eq!(metadata, [("z".into(), "1".into()), ("format".into(), "pt".into())]);
    assert!(checkpoint.tensors().is_empty());
}

/// Opens a directory of two shards (`s1`: a, b; `s2`: c) and an unrelated file, with this index.
#[track_caller]
fn check(index: &str, expect: Result<&[&str], &str>) {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "s1", &bytes_file(&[("a", 3), ("b", 4)]));
    write(dir.path(), "s2", &bytes_file(&[("c", 5)]));
    write(dir.path(), "model.safetensors", &bytes_file(&[("old", 5)]));
    std::fs::create_dir(dir.path().join("folder")).expect("folder");
    write(dir.path(), INDEX, index.as_bytes());
    match (Checkpoint::open(dir.path()), expect) {
        (Ok(checkpoint), Ok(expect)) => assert_eq!(names(&checkpoint), expect),
        (Err(error), Err(expect)) => assert_eq!(message(dir.path(), &error), expect),
        (found, expect) => panic!("{found:?} instead of {expect:?}"),
    }
}

fn map(entries: &str) -> String {
    format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{entries}}}}}"#)
}

#[test]
fn index_and_shards_agree() {
    check(&map(r#""c":"s2","b":"s1","a":"s1""#), Ok(&["a", "b", "c"]));
    check(&map(r#""a":"s1","b":"s1""#), Ok(&["a", "b"]));
}

#[test]
fn index_and_shards_disagree() {
    let of_index = |rest: &str| format!("{INDEX}: {rest}");
    check(
        &map(r#""a":"s1","b":"s1","c":"s2","d":"s2""#),
        Err(&of_index(r#"tensor "d": the index places it in "s2", which does not hold it"#)),
    );
    check(
        &map(r#""a":"s1","b":"s2","c":"s2""#),
        Err(&of_index(r#"tensor "b": the index places it in "s2", which does not hold it"#)),
    );
    check(
        &map(r#""a":"s1","c":"s2""#),
        Err("s1: tensor \"b\": the index does not place it in this file"),
    );
    check(
        &map(r#""a":"s1","b":"s1","c":"s3""#),
        Err(&of_index(r#"the index names the shard "s3", which does not exist"#)),
    );
    check(
        &map(r#""a":"folder""#),
        Err(&of_index(r#"the index names the shard "folder", which does not exist"#)),
    );
    check(&map(r#""a":"s1","a":"s2""#), Err(&of_index(r#"tensor "a": the name stands twice"#)));
}

#[test]
fn index_that_leads_out_of_the_directory() {
    for name in ["../s1", "/etc/passwd", "folder/s1", "..", ".", "", "s1/", "./s1"] {
        let expect =
            format!("{INDEX}: the index names the shard {name:?}, which is not a plain file name");
        check(&map(&format!(r#""a":"{name}""#)), Err(&expect));
    }
}

#[test]
fn index_that_is_not_one() {
    let dir = tempfile::tempdir().expect("directory");
    for text in [&b"{"[..], b"{}", b"{\"weight_map\":[]}", b"{\"weight_map\":{\"a\":1}}"] {
        write(dir.path(), INDEX, text);
        let error = Checkpoint::open(dir.path()).expect_err("refused");
        let is_json = matches!(&error, Error::Malformed { fault: Fault::Json(_), .. });
        assert!(is_json, "{error}");
    }
    write(dir.path(), INDEX, b"{\"weight_map\":{\"a\":\"\xff\"}}");
    let error = Checkpoint::open(dir.path()).expect_err("refused");
    assert!(matches!(error, Error::Malformed { fault: Fault::NotUtf8, .. }));
    write(dir.path(), INDEX, b"{\"weight_map\":{}}");
    let error = Checkpoint::open(dir.path()).expect_err("refused");
    assert!(matches!(error, Error::NotACheckpoint { .. }));
}

#[test]
fn another_librarys_single_index_decides() {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "d-1.safetensors", &bytes_file(&[("a", 3)]));
    write(dir.path(), "x.safetensors", &bytes_file(&[("b", 3)]));
    let index = map(r#""a":"d-1.safetensors""#);
    write(dir.path(), "d.safetensors.index.json", index.as_bytes());
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["a"]);
}

#[test]
fn many_threads_read_at_once() {
    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "model.safetensors", &bytes_file(&[("a", 100_000)]));
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    let expect = painted(100_000);
    std::thread::scope(|scope| {
        for part in 0..8_usize {
            let (checkpoint, expect) = (&checkpoint, &expect);
            scope.spawn(move || {
                let range = part * 12_500..(part + 1) * 12_500;
                let mut buf = vec![0; 12_500];
                let offset = range.start as u64;
                checkpoint.read_at(0, offset, &mut buf).expect("read");
                assert_eq!(buf, expect[range]);
            });
        }
    });
}

#[test]
fn as_a_source_of_a_tensors_file() {
    use tz_io::TensorSource;

    let dir = tempfile::tempdir().expect("directory");
    write(dir.path(), "model.safetensors", &bytes_file(&[("a", 10)]));
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    let source: &dyn TensorSource = &checkpoint;
    let mut buf = [0; 4];
    source.read_at(0, 3, &mut buf).expect("read");
    assert_eq!((source.specs().len(), buf), (1, [3, 4, 5, 6]));
    let error = source.read_at(0, 8, &mut buf).expect_err("beyond");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    assert!(matches!(inner, Some(Error::OutOfRange { .. })));
}
