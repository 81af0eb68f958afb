//! Many loads in one process under one budget: none waits for ever, none disturbs another, each can be cancelled.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use tz_crypto::{FileSealer, Key, SealSecret, Secret};
use tz_io::testing::{FaultSource, MemoryFile, RecordingPool, SourceFault};
use tz_io::{BufferPool, Cancel, IoError, OpenOptions, Piece, TensorFile};

use crate::model::{Model, all, open_source, pool, readers, stream, write_options};

const KEY: [u8; 32] = [7; 32];
/// Holds the longest header; every tensor below takes many of them.
const BUFFER: usize = 128 << 10;
const LOADS: usize = 32;

fn model() -> Model {
    Model::of_lens(&[700_000, 3, 0, 400_000, 70_000])
}

fn plain(model: &Model) -> TensorFile {
    open_source(MemoryFile::new(model.file(&write_options()))).expect("valid")
}

/// Chunks shorter than a buffer, so that most pieces hold no header and wait for the one that does.
fn sealed(model: &Model) -> TensorFile {
    let key = || Key::from_bytes(&KEY).expect("32 bytes");
    let mut options = write_options();
    let sealer = FileSealer::sealed(&[SealSecret::Key(key())], 16 << 10).expect("a sealer");
    options.seal = Some(Arc::new(sealer));
    let mut secrets = OpenOptions::default();
    secrets.secrets = vec![Secret::Key(key())];
    let source = Box::new(MemoryFile::new(model.file(&options)));
    TensorFile::from_source_with(source, &secrets).expect("valid")
}

#[test]
fn many_loads_share_one_budget_and_none_waits_for_ever() {
    let model = model();
    let files = [plain(&model), sealed(&model)];
    let expected = model.contents();
    for buffers in [1, 2, 5] {
        let budget = RecordingPool::new(pool(BUFFER, buffers));
        std::thread::scope(|scope| {
            for load in 0..LOADS {
                let (file, budget, expected) = (&files[load % 2], budget.share(), &expected);
                scope.spawn(move || {
                    let read = stream(file, &readers(1 + load % 4), &budget).expect("valid");
                    assert!(read == *expected, "load {load} of {buffers} buffers");
                });
            }
        });
        assert_eq!(budget.out(), 0);
        assert!(budget.most_out() <= buffers, "{} of {buffers}", budget.most_out());
        assert!(budget.acquired() > LOADS * 9, "every load went through the pool");
    }
}

#[test]
fn a_load_that_fails_or_is_cancelled_leaves_the_others_their_budget() {
    let model = model();
    let file = plain(&model);
    let bytes = MemoryFile::new(model.file(&write_options()));
    let data = file.entries()[3].data_offset;
    let expected = model.contents();
    let budget = RecordingPool::new(pool(BUFFER, 3));
    std::thread::scope(|scope| {
        for load in 0..LOADS {
            let (file, bytes, expected) = (&file, bytes.clone(), &expected);
            let budget = budget.share();
            scope.spawn(move || {
                let options = readers(2);
                let fault = match load % 4 {
                    0 => SourceFault::Fail(ErrorKind::TimedOut),
                    1 => SourceFault::Cancel(options.cancel.clone()),
                    _ => {
                        let read = stream(file, &options, &budget).expect("valid");
                        return assert!(read == *expected, "load {load}");
                    }
                };
                let source = FaultSource::new(bytes).on_offset(data + 5, fault);
                let failing = open_source(source).expect("the front is whole");
                match (stream(&failing, &options, &budget), load % 4) {
                    (Err(IoError::Io { .. }), 0) | (Err(IoError::Cancelled), 1) => {}
                    // The other reader may have taken every piece before the flag was set.
                    (Ok(read), 1) => assert!(read == *expected, "load {load}"),
                    (result, _) => panic!("load {load}: {result:?}"),
                }
            });
        }
    });
    assert_eq!(budget.out(), 0);
    let read = stream(&file, &readers(2), &budget.share()).expect("a new share is open");
    assert!(read == expected);
}

/// Pieces that a consumer keeps are its own affair; a reader that waits for one of them is not.
#[test]
fn cancelling_wakes_readers_that_wait_for_a_buffer() {
    let model = model();
    for file in [plain(&model), sealed(&model)] {
        for buffers in [1, 3] {
            let budget = RecordingPool::new(pool(BUFFER, buffers));
            let options = readers(3);
            let kept = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                let keep = |piece: Piece| {
                    kept.lock().expect("no panic").push(piece);
                    Ok(())
                };
                let share = budget.share();
                let (file, options) = (&file, &options);
                let load = scope.spawn(move || file.stream(&all(), options, &share, &keep));
                while kept.lock().expect("no panic").len() < buffers {
                    std::thread::yield_now();
                }
                // Nothing is free and nothing comes back.
                options.cancel.cancel();
                let result = load.join().expect("no panic");
                assert!(matches!(result, Err(IoError::Cancelled)), "{result:?}");
            });
            assert_eq!(budget.out(), buffers, "what was kept is still the consumer's");
            drop(kept);
            assert_eq!(budget.out(), 0);
        }
    }
}

#[test]
fn a_cancelled_wait_passes_on_the_buffer_that_it_was_woken_for() {
    let budget = pool(10, 1);
    let held = budget.acquire(&Cancel::default()).expect("open");
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let (closed, open) = (budget.share(), budget.share());
        let cancelled = scope.spawn({
            let (share, cancel) = (budget.share(), cancel.clone());
            move || share.acquire(&cancel).is_none()
        });
        let waiting = scope.spawn(move || open.acquire(&Cancel::default()).is_some());
        closed.close();
        assert!(closed.acquire(&Cancel::default()).is_none(), "a closed share lends nothing");
        cancel.cancel();
        assert!(cancelled.join().expect("no panic"));
        drop(held);
        assert!(waiting.join().expect("no panic"));
    });
}
