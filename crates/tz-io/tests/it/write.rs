//! What a write leaves behind: the whole file, or nothing and the old one untouched.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tz_format::{Element, HashKind, TensorSpec};
use tz_io::testing::{FaultTensors, PaintedTensors};
use tz_io::{
    Cancel, IoError, Location, MemorySource, Selection, TensorSource, WriteOptions, write,
};

use crate::model::{Model, load, open_path, readers, write_options};

pub(crate) fn to(
    path: &Path,
    source: &dyn TensorSource,
    options: &WriteOptions,
) -> Result<(), IoError> {
    write(source, &Location::File(path.to_owned()), options).map(drop)
}

/// Names in a folder, sorted.
fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Kind of the error of a failed write, and the tensor it names.
fn brief(result: Result<(), IoError>) -> (io::ErrorKind, Option<String>) {
    match result {
        Err(IoError::Io { source, .. }) => (source.kind(), None),
        Err(IoError::Tensor { tensor, source }) => (source.kind(), Some(tensor)),
        other => panic!("{other:?}"),
    }
}

/// A failed write over an old file, and where none was: neither leaves a trace.
#[track_caller]
fn check_failure(
    source: &dyn TensorSource,
    options: &WriteOptions,
    check: impl Fn(Result<(), IoError>),
) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    check(to(&path, source, options));
    assert_eq!(listing(folder.path()), [""; 0]);
    fs::write(&path, "old").expect("written");
    check(to(&path, source, options));
    assert_eq!(listing(folder.path()), ["model.tensors"]);
    assert_eq!(fs::read(&path).expect("old file"), b"old");
}

#[test]
fn source_that_fails_leaves_the_old_file_and_no_other() {
    let model = Model::of_lens(&[10, 9 << 20, 300_000, 10]);
    let kind = io::ErrorKind::PermissionDenied;
    for (tensor, offset) in [(0, 0), (1, 0), (1, (9 << 20) - 1), (2, 1000), (3, 9)] {
        for hashes in [vec![HashKind::Crc32], vec![HashKind::Sha256]] {
            let source =
                FaultTensors::new(PaintedTensors::new(model.specs.clone()), tensor, offset, kind);
            let mut options = write_options();
            options.hashes = hashes;
            options.workers = Some(3);
            check_failure(&source, &options, |result| {
                assert_eq!(brief(result), (kind, Some(format!("t{tensor}"))));
            });
        }
    }
}

#[test]
fn cancelled_write_leaves_the_old_file_and_no_other() {
    let mut options = write_options();
    options.cancel = Cancel::default();
    options.cancel.cancel();
    check_failure(&Model::of_lens(&[10]).source(), &options, |result| {
        assert!(matches!(result, Err(IoError::Cancelled)), "{result:?}");
    });
}

/// A source whose reader panics, as user code may.
struct Panicking(Vec<TensorSpec>);

impl TensorSource for Panicking {
    fn specs(&self) -> &[TensorSpec] {
        &self.0
    }

    fn read_at(&self, _: usize, _: u64, _: &mut [u8]) -> io::Result<()> {
        panic!("the source panics")
    }
}

#[test]
fn source_that_panics_leaves_the_old_file_and_no_other() {
    let source = Panicking(Model::of_lens(&[10]).specs);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    fs::write(&path, "old").expect("written");
    let run = std::panic::AssertUnwindSafe(|| to(&path, &source, &write_options()));
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!(listing(folder.path()), ["model.tensors"]);
    assert_eq!(fs::read(&path).expect("old file"), b"old");
}

#[test]
fn what_cannot_be_written_touches_nothing() {
    let duplicate = Model::painted(vec![
        TensorSpec::new("same", Element::Uint8, vec![1]),
        TensorSpec::new("same", Element::Uint8, vec![1]),
    ]);
    let refused = |result: Result<(), IoError>| {
        assert!(matches!(result, Err(IoError::Format { .. })), "{result:?}");
    };
    check_failure(&duplicate.source(), &write_options(), refused);
    check_failure(&MemorySource::new(), &write_options(), refused);
    let mut options = write_options();
    options.alignment = 3;
    check_failure(&Model::of_lens(&[1]).source(), &options, refused);
    let mut options = write_options();
    options.memory_limit = Some(100_000);
    check_failure(&Model::of_lens(&[1]).source(), &options, |result| {
        assert!(matches!(result, Err(IoError::MemoryLimit { .. })), "{result:?}");
    });
    // A length that no file system takes.
    let huge = PaintedTensors::new(vec![TensorSpec::new("t", Element::Uint8, vec![1 << 62])]);
    check_failure(&huge, &write_options(), |result| {
        assert_eq!(brief(result), (io::ErrorKind::FileTooLarge, None));
    });
}

#[test]
fn destinations_that_cannot_be() {
    let model = Model::of_lens(&[10]);
    let folder = tempfile::tempdir().expect("folder");
    let is_folder = to(folder.path(), &model.source(), &write_options());
    assert_eq!(brief(is_folder), (io::ErrorKind::IsADirectory, None));
    let nowhere = folder.path().join("missing/model.tensors");
    let missing = to(&nowhere, &model.source(), &write_options());
    assert_eq!(brief(missing), (io::ErrorKind::NotFound, None));
    assert_eq!(listing(folder.path()), [""; 0]);
    let root = to(Path::new("/"), &model.source(), &write_options());
    assert_eq!(brief(root), (io::ErrorKind::IsADirectory, None));
}

/// A file system of its own size in a mount namespace of its own, which ends with the process that holds it.
struct TinyDisk {
    holder: Child,
    path: PathBuf,
}

impl TinyDisk {
    /// `None` where this machine does not let users have a mount namespace.
    fn new(kib: usize) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size={kib}k none /mnt && echo ready && read -r _");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let output = holder.stdout.take()?;
        let mounted = BufReader::new(output).read_line(&mut line).is_ok() && line == "ready\n";
        let path = PathBuf::from(format!("/proc/{}/root/mnt", holder.id()));
        let disk = Self { holder, path };
        (mounted && disk.path.is_dir()).then_some(disk)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // Its end of input ends it; if it is gone already, so much the better.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[test]
fn full_disk_leaves_the_old_file_and_no_other() {
    let Some(disk) = TinyDisk::new(1024) else {
        println!("no mount namespace here: /dev/full alone stands for a full disk");
        return;
    };
    let path = disk.path.join("model.tensors");
    let small = Model::of_lens(&[100_000]);
    to(&path, &small.source(), &write_options()).expect("room enough");
    let old = fs::read(&path).expect("written");
    let large = PaintedTensors::new(Model::of_lens(&[300_000, 2 << 20]).specs);
    for workers in [1, 4] {
        let mut options = WriteOptions::default();
        options.workers = Some(workers);
        let full = to(&path, &large, &options);
        assert_eq!(brief(full), (io::ErrorKind::StorageFull, None));
        assert_eq!(listing(&disk.path), ["model.tensors"]);
        assert_eq!(fs::read(&path).expect("old file"), old);
    }
}

#[test]
fn device_that_is_full() {
    let model = Model::of_lens(&[100_000]);
    let full = to(Path::new("/dev/full"), &model.source(), &write_options());
    assert_eq!(brief(full), (io::ErrorKind::StorageFull, None));
}

#[test]
fn devices_are_written_to_not_replaced() {
    let model = Model::of_lens(&[100_000, 0, 3]);
    let null = Path::new("/dev/null");
    let before = fs::metadata(null).expect("device").permissions();
    to(null, &model.source(), &write_options()).expect("takes everything");
    let after = fs::metadata(null).expect("device");
    assert!(!after.is_file() && after.permissions() == before);
}

#[test]
fn pipe_whose_reader_goes_away_is_an_error() {
    let model = Model::of_lens(&[9 << 20]);
    let (reader, writer) = io::pipe().expect("pipe");
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)));
    drop(reader);
    let broken = to(&path, &model.source(), &write_options());
    assert_eq!(brief(broken), (io::ErrorKind::BrokenPipe, None));
}

#[test]
fn permissions_follow_the_umask() {
    let written = Model::of_lens(&[10]).write(&write_options());
    let folder = tempfile::tempdir().expect("folder");
    let plain = File::create(folder.path().join("plain")).expect("created");
    let mode = |metadata: fs::Metadata| metadata.permissions().mode();
    let expected = mode(plain.metadata().expect("metadata"));
    assert_eq!(mode(fs::metadata(&written.path).expect("written")), expected);
}

#[test]
fn relative_paths_and_the_longest_names_are_written() {
    let model = Model::of_lens(&[10]);
    let folder = tempfile::tempdir().expect("folder");
    for name in ["a".repeat(255), "é".repeat(127), ".hidden".to_owned(), "no extension".to_owned()]
    {
        let path = folder.path().join(&name);
        to(&path, &model.source(), &write_options()).expect(&name);
        assert_eq!(
            load(&open_path(&path).expect("valid"), &readers(1)).expect("valid"),
            model.contents()
        );
    }
    assert_eq!(listing(folder.path()).len(), 4);
}

#[test]
fn a_link_is_followed_not_replaced() {
    let folder = tempfile::tempdir().expect("folder");
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    fs::write(&target, "old").expect("written");
    std::os::unix::fs::symlink("target", &link).expect("link");
    let model = Model::of_lens(&[10]);
    to(&link, &model.source(), &write_options()).expect("written");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(fs::read(&target).expect("there"), model.file(&write_options()));
    assert_eq!(listing(folder.path()), ["link", "target"]);
}

#[test]
fn create_only_refuses_what_is_there() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    let model = Model::of_lens(&[10]);
    let mut options = write_options();
    options.create_only = true;
    to(&path, &model.source(), &options).expect("nothing is there");
    fs::write(&path, "old").expect("written");
    let refused = to(&path, &model.source(), &options);
    assert_eq!(brief(refused), (io::ErrorKind::AlreadyExists, None));
    assert_eq!(listing(folder.path()), ["model.tensors"]);
    assert_eq!(fs::read(&path).expect("old file"), b"old");
}

#[test]
fn a_file_can_be_written_over_its_own_source() {
    let model = Model::of_lens(&[100, 9 << 20, 0]);
    let written = model.write(&write_options());
    let file = written.open();
    let mapped = file.map(&Selection::all()).expect("local");
    let mut source = MemorySource::new();
    for tensor in &mapped {
        let entry = tensor.entry();
        let spec = TensorSpec::new(entry.path.clone(), entry.dtype, entry.shape.clone());
        source.push(spec, tensor.bytes()).expect("lengths fit");
    }
    let mut options = write_options();
    options.alignment = 64;
    to(&written.path, &source, &options).expect("written");
    let again = written.open();
    assert_ne!(again.entries()[1].data_offset % 4096, 0, "the new file, not the old one");
    assert_eq!(load(&again, &readers(2)).expect("valid"), model.contents());
    assert_eq!(mapped.get("t1").expect("still mapped").bytes(), model.data[1]);
}
