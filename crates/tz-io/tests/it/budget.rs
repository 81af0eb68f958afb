//! Memory in flight never exceeds the pool, however small it is, and everything comes back.

use std::sync::{Mutex, mpsc};

use tz_format::{Element, HashKind, TensorSpec};
use tz_io::testing::{MemoryFile, PaintedTensors, RecordingPool, paint};
use tz_io::{
    BufferPool, Cancel, HeapPool, IoError, Piece, PlanOptions, ReadOptions, Selection, WriteOptions,
};

use crate::model::{Model, all, open_source, pool, readers, stream, write_options};

fn counting(buffer_len: usize, buffers: usize) -> RecordingPool<HeapPool> {
    RecordingPool::new(pool(buffer_len, buffers))
}

#[test]
fn a_pool_lends_each_byte_of_its_budget_once() {
    let pool = counting(1000, 3);
    assert_eq!((pool.buffer_len(), pool.buffers()), (1000, 3));
    let mut lent: Vec<_> =
        (0..3).map(|_| pool.acquire(&Cancel::default()).expect("open")).collect();
    for (i, buffer) in lent.iter_mut().enumerate() {
        assert_eq!(buffer.len(), 1000);
        buffer.copy_from_slice(&paint(i, 1000));
    }
    for (i, buffer) in lent.iter().enumerate() {
        assert_eq!(**buffer, *paint(i, 1000), "buffers share no byte");
    }
    assert_eq!((pool.out(), pool.most_out(), pool.acquired()), (3, 3, 3));
    drop(lent);
    assert_eq!((pool.out(), pool.most_out()), (0, 3));
}

#[test]
fn who_finds_no_buffer_waits_for_one() {
    let pool = pool(10, 1);
    let first = pool.acquire(&Cancel::default()).expect("open");
    std::thread::scope(|scope| {
        let (sender, got) = mpsc::channel();
        let pool = &pool;
        scope.spawn(move || {
            let buffer = pool.acquire(&Cancel::default());
            sender.send(buffer.is_some()).expect("listening");
        });
        assert!(got.try_recv().is_err(), "the only buffer is out");
        drop(first);
        assert_eq!(got.recv(), Ok(true));
    });
}

#[test]
fn closing_wakes_everyone_who_waits() {
    let pool = pool(10, 1);
    let held = pool.acquire(&Cancel::default()).expect("open");
    std::thread::scope(|scope| {
        let waiting = [(); 3].map(|()| scope.spawn(|| pool.acquire(&Cancel::default()).is_none()));
        pool.close();
        for waiter in waiting {
            assert!(waiter.join().expect("no panic"));
        }
    });
    drop(held);
    assert!(pool.acquire(&Cancel::default()).is_none(), "closed for good");
}

/// Streams through every combination of few buffers, short buffers and many readers.
#[track_caller]
fn check(model: &Model, buffer_lens: &[usize]) {
    let mut options = write_options();
    // Headers of some hundred bytes, so that the shortest buffers hold them.
    options.alignment = 64;
    let file = MemoryFile::new(model.file(&options));
    for &buffer_len in buffer_lens {
        for buffers in [1, 2, 5] {
            for threads in [1, 4, 16] {
                let pool = counting(buffer_len, buffers);
                let file = open_source(file.clone()).expect("valid");
                let read = stream(&file, &readers(threads), &pool);
                let what = format!("{buffers} of {buffer_len}, {threads} readers");
                assert_eq!(read.expect(&what), model.contents(), "{what}");
                assert_eq!(pool.out(), 0, "{what}");
                assert!(pool.most_out() <= buffers, "{what}");
                assert!(pool.acquired() > 0, "{what}");
            }
        }
    }
}

#[test]
fn one_buffer_is_enough_and_so_are_short_ones() {
    let model = Model::of_lens(&[0, 1, 300_000, 0, 4096, 4097, 70_000, 10, 10, 10]);
    check(&model, &[1024, 4096, 5000, 8192, 65_536, 65_537, 100_000, 1 << 20, 64 << 20]);
}

#[test]
fn a_tensor_larger_than_the_budget_streams() {
    let model = Model::of_lens(&[8 << 20]);
    check(&model, &[128 << 10]);
}

#[test]
fn headers_as_long_as_the_alignment_need_a_buffer_that_holds_them() {
    let model = Model::of_lens(&[100_000, 5]);
    let mut options = write_options();
    options.alignment = 32 << 10;
    let file = MemoryFile::new(model.file(&options));
    let open = || open_source(file.clone()).expect("valid");
    let longest = open().entries().iter().map(|entry| entry.header_len()).max();
    let header = usize::try_from(longest.expect("tensors")).expect("small");
    assert!(header > 20_000);
    let enough = counting(header, 2);
    assert_eq!(stream(&open(), &readers(2), &enough).expect("fits"), model.contents());
    let short = counting(header - 1, 2);
    match stream(&open(), &readers(2), &short) {
        Err(IoError::MemoryLimit { needed, limit, .. }) => {
            assert_eq!((needed, limit), (header as u64, header as u64 - 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((short.out(), short.acquired()), (0, 0), "refused before it began");
    // Without verification no header is read.
    let mut unverified = readers(2);
    unverified.verify = false;
    assert_eq!(stream(&open(), &unverified, &short).expect("fits"), model.contents());
}

#[test]
fn a_pool_without_buffers_is_refused_not_waited_for() {
    let model = Model::of_lens(&[10]);
    let file = open_source(MemoryFile::new(model.file(&write_options()))).expect("valid");
    for (buffer_len, buffers) in [(1 << 20, 0), (0, 3), (0, 0)] {
        let refused = stream(&file, &readers(2), &pool(buffer_len, buffers));
        assert!(
            matches!(refused, Err(IoError::MemoryLimit { .. })),
            "{buffers} of {buffer_len}: {refused:?}"
        );
    }
}

#[test]
fn plans_for_a_buffer_fit_it_and_cut_no_finer_than_they_must() {
    let model = Model::of_lens(&[3 << 20, 10]);
    let mut options = write_options();
    options.alignment = 64;
    let file = open_source(MemoryFile::new(model.file(&options))).expect("valid");
    for buffer_len in [4096_usize, 10_000, 65_536, 65_537, 70_000, 131_072, 1 << 20, 4 << 20] {
        let options = PlanOptions::local().staged(buffer_len);
        let plan = file.plan(&all(), &options).expect("plan");
        assert!(plan.longest_fetch() <= buffer_len, "{buffer_len}: {}", plan.longest_fetch());
        let most = (3 << 20) * 5 / 2 / buffer_len + 3;
        assert!(plan.fetches.len() <= most, "{buffer_len}: {} fetches", plan.fetches.len());
        let parts = plan.fetches.iter().map(|fetch| fetch.parts.len()).sum::<usize>();
        assert!(parts <= most + 3, "{buffer_len}: {parts} parts");
    }
}

#[test]
fn cancelling_frees_everything_wherever_it_strikes() {
    let model = Model::of_lens(&[2 << 20, 100, 300_000]);
    let file = open_source(MemoryFile::new(model.file(&write_options()))).expect("valid");
    let pieces = {
        let pool = counting(128 << 10, 2);
        stream(&file, &readers(1), &pool).expect("valid");
        pool.acquired()
    };
    assert!(pieces > 10);
    for after in 1..pieces {
        for threads in [1, 3] {
            let pool = counting(128 << 10, 2);
            let mut options = readers(threads);
            options.cancel = Cancel::default();
            let seen = Mutex::new(0);
            let consume = |piece: Piece| {
                drop(piece);
                // Under the lock, so that no other piece is done between the count and the flag.
                let mut seen = seen.lock().expect("no panic");
                *seen += 1;
                if *seen == after {
                    options.cancel.cancel();
                }
                Ok(())
            };
            let result = file.stream(&all(), &options, &pool, &consume);
            // Another reader may hold the last piece already.
            assert!(
                matches!(result, Err(IoError::Cancelled)) || threads > 1 && after + 2 >= pieces,
                "{after} of {pieces}: {result:?}"
            );
            assert_eq!(pool.out(), 0);
            assert!(pool.acquired() < after + threads + 1, "stopped at the next piece");
        }
    }
}

#[test]
fn a_piece_always_has_data() {
    let spec = |(i, len)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]);
    let mut specs: Vec<TensorSpec> =
        [0, 100, 0, 9000, 0].into_iter().enumerate().map(spec).collect();
    specs[1].meta = true;
    let file = open_source(MemoryFile::new(Model::painted(specs).file(&write_options())));
    let file = file.expect("valid");
    let pool = counting(16 << 10, 2);
    let consume = |piece: Piece| {
        let lens: Vec<usize> = piece.parts().map(|(_, bytes)| bytes.len()).collect();
        assert!(!lens.is_empty() && !lens.contains(&0), "{lens:?}");
        Ok(())
    };
    for tensor in ["t0", "t1", "t2", "t[014]", "*"] {
        let selection = Selection::globs(&[tensor]).expect("globs");
        file.stream(&selection, &readers(2), &pool, &consume).expect("valid");
    }
    assert_eq!(pool.out(), 0);
}

#[test]
fn pieces_that_outlive_the_load_go_back_to_the_pool() {
    let model = Model::of_lens(&[300_000]);
    let file = open_source(MemoryFile::new(model.file(&write_options()))).expect("valid");
    let pool = counting(128 << 10, 16);
    let (sender, kept) = mpsc::channel();
    let keep = |piece: Piece| {
        sender.send(piece).expect("listening");
        Ok(())
    };
    file.stream(&all(), &readers(3), &pool, &keep).expect("valid");
    let kept: Vec<Piece> = kept.try_iter().collect();
    assert_eq!(pool.out(), kept.len());
    drop(kept);
    assert_eq!(pool.out(), 0);
}

/// Most bytes of heap that `write` holds at once, of one worker: it works in the calling thread.
fn heap_of_write(source: &PaintedTensors, options: &WriteOptions) -> u64 {
    let folder = tempfile::tempdir().expect("folder");
    let location = tz_io::Location::File(folder.path().join("a.tensors"));
    let measured = allocation_counter::measure(|| {
        tz_io::write(source, &location, options).expect("writable");
    });
    measured.bytes_max
}

#[test]
fn a_write_keeps_to_its_memory_limit() {
    let specs = vec![TensorSpec::new("large", Element::Uint8, vec![9 << 20])];
    let source = PaintedTensors::new(specs);
    for hashes in [vec![HashKind::Crc32], vec![HashKind::Sha256], vec![]] {
        for blake3 in [false, true] {
            for limit in [128 << 10, 1 << 20, 32 << 20] {
                let mut options = write_options();
                options.hashes = hashes.clone();
                options.blake3 = blake3;
                options.workers = Some(1);
                options.memory_limit = Some(limit);
                let peak = heap_of_write(&source, &options);
                // Index, paths and digests of one tensor take some kilobytes.
                let most = limit + (32 << 10);
                assert!(peak <= most, "{hashes:?} {blake3} {limit}: {peak}");
            }
        }
    }
}

#[test]
fn a_load_takes_no_heap_for_its_data() {
    let model = Model::of_lens(&[8 << 20]);
    let file = open_source(MemoryFile::new(model.file(&write_options()))).expect("valid");
    let options: ReadOptions = readers(1);
    let measured = allocation_counter::measure(|| {
        let tensors = file.load(&all(), &options).expect("valid");
        assert_eq!(tensors.len(), 1);
    });
    assert!(measured.bytes_max < 100_000, "{measured:?}");
}
