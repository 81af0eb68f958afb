//! Every fault gives its error, whatever was being done and however many readers there are, and every buffer comes
//! back.

use std::fmt::Write as _;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{LazyLock, Mutex};

use tz_io::testing::{FaultSource, MemoryFile, RecordingPool, SourceFault};
use tz_io::{Algorithm, Cancel, HeapPool, IoError, Piece, ReadOptions, TensorFile};

use crate::model::{Contents, Model, all, load, open_source, pool, readers, stream, write_options};

/// Length of the second tensor: several pieces, whoever cuts them.
const LEN: u64 = 5 << 20;

/// Three tensors; where the second one's header and data stand.
struct Case {
    model: Model,
    file: MemoryFile,
    bytes: Vec<u8>,
    header: u64,
    data: u64,
}

static CASE: LazyLock<Case> = LazyLock::new(|| {
    let model = Model::of_lens(&[2 << 20, LEN, 300_000]);
    let bytes = model.file(&write_options());
    let file = MemoryFile::new(&*bytes);
    let opened = open_source(file.clone()).expect("valid");
    let entry = &opened.entries()[1];
    let (header, data) = (entry.header_offset, entry.data_offset);
    Case { model, file, bytes, header, data }
});

impl Case {
    fn with(&self, offset: u64, fault: SourceFault) -> TensorFile {
        let source = FaultSource::new(self.file.clone());
        open_source(source.on_offset(offset, fault)).expect("the front is whole")
    }
}

/// Variant, place and reason, short enough for a table.
fn brief<T>(result: Result<T, IoError>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(IoError::Io { source, .. }) => format!("io {:?}", source.kind()),
        Err(IoError::Format { source, .. }) => format!("format: {source}"),
        Err(IoError::Corrupt { failures, .. }) => {
            failures.iter().fold("corrupt".to_owned(), |mut text, f| {
                write!(text, " {} {}", f.tensor, f.check).expect("string");
                text
            })
        }
        Err(IoError::Tensor { tensor, source }) => format!("tensor {tensor} {:?}", source.kind()),
        Err(IoError::Cancelled) => "cancelled".to_owned(),
        Err(other) => format!("other: {other:?}"),
    }
}

fn counting_pool(buffers: usize) -> RecordingPool<HeapPool> {
    RecordingPool::new(pool(128 * 1024, buffers))
}

/// Runs load, stream, verify and checksum over a fault, with several numbers of readers; none may leave a buffer out.
#[track_caller]
fn check(offset: impl Fn(&Case) -> u64, fault: SourceFault, expect: [&str; 4]) {
    let case = &*CASE;
    let offset = offset(case);
    let [on_load, on_stream, on_verify, on_checksum] = expect;
    for threads in [1, 2, 5] {
        let options = readers(threads);
        let open = || case.with(offset, fault.clone());
        assert_eq!(brief(load(&open(), &options)), on_load, "load");
        for buffers in [1, 2, 8] {
            let pool = counting_pool(buffers);
            let streamed = stream(&open(), &options, &pool);
            assert_eq!(brief(streamed), on_stream, "stream, {threads} readers");
            assert_eq!(pool.out(), 0, "buffers out");
            assert!(pool.acquired() > 0 && pool.most_out() <= buffers);
        }
        let verified = open().verify(&all(), &options).and_then(|failures| {
            let location = String::new();
            match failures.is_empty() {
                true => Ok(()),
                false => Err(IoError::Corrupt { location, failures }),
            }
        });
        assert_eq!(brief(verified), on_verify, "verify");
        let digests = open().checksum(&all(), Algorithm::Sha256, &options);
        assert_eq!(brief(digests), on_checksum, "checksum");
    }
}

#[test]
fn read_of_data_fails() {
    for kind in
        [io::ErrorKind::TimedOut, io::ErrorKind::PermissionDenied, io::ErrorKind::ConnectionReset]
    {
        let expect = format!("io {kind:?}");
        check(|case| case.data + 5, SourceFault::Fail(kind), [&expect; 4]);
    }
}

#[test]
fn file_ends_within_a_read() {
    let expect = "io UnexpectedEof";
    check(|case| case.data + 5, SourceFault::Short, [expect; 4]);
    check(|case| case.header, SourceFault::Short, [expect; 4]);
}

#[test]
fn byte_of_data_flipped() {
    let corrupt = "corrupt t1 crc32";
    // A checksum is of the bytes as they are: it compares nothing.
    let expect = [corrupt, corrupt, corrupt, "ok"];
    for at in [0, 1, 131_072, LEN / 2, LEN - 1] {
        check(|case| case.data + at, SourceFault::Flip, expect);
    }
}

#[test]
fn byte_of_header_flipped() {
    let row = |at, field, offset_in_header: u64| {
        let header = CASE.header;
        let text = format!(
            "format: tensor \"t1\": {field} at offset {}: differs from the index",
            header + offset_in_header
        );
        check(|case| case.header + at, SourceFault::Flip, [&text; 4]);
    };
    row(0, "header length", 0);
    row(10, "tensor type", 10);
    row(13, "name", 13);
    row(16, "dtype", 16);
    row(20, "shape", 20);
}

#[test]
fn byte_of_padding_flipped() {
    let corrupt = "corrupt t1 crc32";
    check(|case| case.data - 9, SourceFault::Flip, [corrupt, corrupt, corrupt, "ok"]);
}

#[test]
fn stored_hash_flipped() {
    let corrupt = "corrupt t1 crc32";
    // Header length 8, module 2, type 1, name 2 + 2, dtype 1 + 3, rank 1, dims 4, block length 2, count 1, type and length.
    check(
        |case| case.header + 8 + 2 + 1 + 4 + 4 + 5 + 2 + 1 + 2,
        SourceFault::Flip,
        [corrupt, corrupt, corrupt, "ok"],
    );
}

#[test]
fn hole_in_the_data_and_bytes_of_another_place() {
    let corrupt = "corrupt t1 crc32";
    let middle = |case: &Case| case.data + 3 * LEN / 5;
    let expect = [corrupt, corrupt, corrupt, "ok"];
    check(middle, SourceFault::Zeros, expect);
    check(middle, SourceFault::Shifted, expect);
}

#[test]
fn caller_cancels_during_a_read() {
    let case = &*CASE;
    for threads in [1, 2, 5] {
        for buffers in [1, 2, 8] {
            let mut options = readers(threads);
            let cancelling = || {
                let fault = SourceFault::Cancel(options.cancel.clone());
                case.with(case.data + 5, fault)
            };
            let pool = counting_pool(buffers);
            let result = brief(stream(&cancelling(), &options, &pool));
            // One reader stops before its next piece; several may have taken every piece before it was set.
            let finished = threads > 1 && result == "ok";
            assert!(result == "cancelled" || finished, "{result}");
            assert_eq!(pool.out(), 0);
            options.cancel = Cancel::default();
            let fault = SourceFault::Cancel(options.cancel.clone());
            let result = brief(load(&case.with(case.data + 5, fault), &options));
            let finished = threads > 1 && result == "ok";
            assert!(result == "cancelled" || finished, "{result}");
        }
    }
}

#[test]
fn cancelled_before_it_begins() {
    let case = &*CASE;
    let mut options = ReadOptions::default();
    options.cancel = Cancel::default();
    options.cancel.cancel();
    let file = open_source(case.file.clone()).expect("valid");
    let pool = counting_pool(2);
    assert_eq!(brief(load(&file, &options)), "cancelled");
    assert_eq!(brief(stream(&file, &options, &pool)), "cancelled");
    assert_eq!(brief(file.verify(&all(), &options)), "cancelled");
    let digests = file.checksum(&all(), Algorithm::Crc32, &options);
    assert_eq!(brief(digests), "cancelled");
    assert_eq!((pool.out(), pool.acquired()), (0, 0));
}

#[test]
fn reader_panics_and_the_buffers_come_back() {
    let case = &*CASE;
    for threads in [1, 2, 5] {
        let options = readers(threads);
        let pool = counting_pool(2);
        let file = case.with(case.data + 5, SourceFault::Panic);
        let run = AssertUnwindSafe(|| stream(&file, &options, &pool));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!(pool.out(), 0);
        let run = AssertUnwindSafe(|| load(&file, &options));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}

#[test]
fn consumer_fails_and_the_buffers_come_back() {
    let case = &*CASE;
    for threads in [1, 2, 5] {
        for buffers in [1, 2, 8] {
            let pool = counting_pool(buffers);
            let file = open_source(case.file.clone()).expect("valid");
            let consume = |piece: Piece| {
                let second = piece.parts().any(|(part, _)| part.tensor == 1);
                if second { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            };
            let result = file.stream(&all(), &readers(threads), &pool, &consume);
            assert_eq!(brief(result), "tensor t1 StorageFull");
            assert_eq!(pool.out(), 0);
        }
    }
}

/// Readers that wait for a buffer which the consumer will never give back are woken by another's failure.
#[test]
fn failure_ends_a_load_whose_consumer_keeps_every_buffer() {
    let case = &*CASE;
    for threads in [2, 4] {
        let pool = counting_pool(threads);
        let kept = Mutex::new(Vec::new());
        let keep = |piece: Piece| {
            kept.lock().expect("no panic").push(piece);
            Ok(())
        };
        // Read 0 is the front; this is the last one that finds a buffer, the others are kept.
        let fault = SourceFault::Fail(io::ErrorKind::TimedOut);
        let source = FaultSource::new(case.file.clone());
        let file = open_source(source.on_read(threads, fault)).expect("the front is whole");
        let result = file.stream(&all(), &readers(threads), &pool, &keep);
        assert_eq!(brief(result), "io TimedOut");
        drop(kept);
        assert_eq!(pool.out(), 0);
    }
}

#[test]
fn faults_of_the_front() {
    let case = &*CASE;
    let open = |offset, fault| {
        let source = FaultSource::new(case.file.clone());
        brief(open_source(source.on_offset(offset, fault)))
    };
    let not_tensors = "format: not a .tensors file: it does not begin with |TZR|";
    assert_eq!(open(0, SourceFault::Flip), not_tensors);
    assert_eq!(open(0, SourceFault::Zeros), not_tensors);
    assert_eq!(open(0, SourceFault::Short), "io UnexpectedEof");
    let refused = SourceFault::Fail(io::ErrorKind::PermissionDenied);
    assert_eq!(open(0, refused), "io PermissionDenied");
    assert_eq!(
        open(5, SourceFault::Flip),
        "format: data version 254 is not supported (1 to 5 are)"
    );
}

#[test]
fn file_whose_end_is_missing() {
    let case = &*CASE;
    let whole = case.bytes.len();
    let open = |len: usize| brief(open_source(MemoryFile::new(&case.bytes[..len])));
    assert_eq!(open(whole), "ok");
    assert_eq!(open(whole - 8), "ok", "the terminator may be missing");
    let file = open_source(case.file.clone()).expect("valid");
    let (last, end) = (file.entries()[2].data_offset, whole - 8);
    assert_eq!(
        open(end - 1),
        format!(
            "format: tensor \"t2\": data at offset {last}: ends at {end}, beyond the file's end at {}",
            end - 1
        )
    );
    let front = usize::try_from(file.front().header.front_len()).expect("small");
    for len in [0, 4, 5, 72, 73, 100, front - 1] {
        let text = open(len);
        let truncated = text.ends_with(&format!("at offset {len}: runs past the end of its block"));
        assert!(truncated, "{len}: {text}");
    }
}

#[test]
fn file_that_shrinks_or_grows_once_it_is_open() {
    let case = &*CASE;
    let stated = Some(case.bytes.len() as u64);
    let shrunk = &case.bytes[..case.bytes.len() - 1000];
    let source = || FaultSource::new(MemoryFile::new(shrunk)).with_len(stated);
    let open = || open_source(source()).expect("the front is whole");
    assert_eq!(brief(load(&open(), &readers(2))), "io UnexpectedEof");
    let pool = counting_pool(2);
    let streamed = stream(&open(), &readers(2), &pool);
    assert_eq!((&*brief(streamed), pool.out()), ("io UnexpectedEof", 0));
    let first = open().load_one("t0", &readers(2)).expect("still there");
    assert_eq!(first.bytes(), case.model.data[0]);

    let grown = [&*case.bytes, b"more"].concat();
    let file = open_source(FaultSource::new(MemoryFile::new(grown)).with_len(stated));
    let read: Contents = load(&file.expect("valid"), &readers(2)).expect("valid");
    assert_eq!(read, case.model.contents());
}
