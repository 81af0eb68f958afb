//! The guard on memory notices what it is there for. A program of its own, because the guard counts the memory of the
//! whole process, and whatever ran at the same time would count too.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fuzz_harness::{Bound, RESIDENT_SLACK};

const MIB: u64 = 1 << 20;
/// The bound counts every thread of the process, so that tests that run at the same time make a little noise.
const NOISE: usize = 256 << 10;

/// The bound of an input of ten bytes.
const BOUND: usize = 11 << 20;

/// Whether such an input may take what `work` takes.
fn passes(resident: bool, work: impl FnOnce()) -> bool {
    let bound = Bound { base: MIB, per_byte: MIB, resident };
    catch_unwind(AssertUnwindSafe(|| bound.hold(10, work))).is_ok()
}

fn take(bytes: usize) {
    drop(black_box(vec![1_u8; bytes]));
}

#[test]
fn work_within_the_bound_passes() {
    assert!(passes(false, || take(BOUND - NOISE)));
    assert!(passes(false, || (0..3).for_each(|_| take(BOUND - NOISE))), "what is freed is free");
    assert!(passes(true, || take(BOUND - NOISE)));
}

/// What a reader does that believes a length of the file.
#[test]
fn a_greedy_decoder_is_caught() {
    assert!(!passes(false, || take(BOUND + NOISE)));
    assert!(!passes(false, || drop(black_box(Vec::<u8>::with_capacity(1 << 30)))), "untouched");
    assert!(!passes(false, || drop(black_box(vec![0_u64; (BOUND + NOISE) / 8]))), "zeroed");
    let grow = || {
        let mut grown = vec![1_u8; 1];
        grown.reserve_exact(BOUND + NOISE);
        drop(black_box(grown));
    };
    assert!(!passes(false, grow), "grown");
}

#[test]
fn memory_of_other_threads_counts() {
    let elsewhere = || {
        std::thread::scope(|scope| {
            scope.spawn(|| take(BOUND + NOISE));
        });
    };
    assert!(!passes(false, elsewhere));
}

#[test]
fn memory_that_no_allocator_knows_counts_when_touched() {
    let len = usize::try_from(RESIDENT_SLACK).expect("64 bits") + (64 << 20);
    let map = |touched: bool| {
        move || {
            let mut memory = memmap2::MmapMut::map_anon(len).expect("address space");
            if touched {
                memory.fill(1);
            }
            black_box(&memory);
        }
    };
    assert!(passes(true, map(false)), "address space is no memory");
    assert!(!passes(true, map(true)));
}

#[test]
fn what_was_held_is_told() {
    let bound = Bound { base: 64 * MIB, per_byte: 0, resident: false };
    let peak = usize::try_from(bound.hold(0, || take(BOUND))).expect("64 bits");
    assert!((BOUND - NOISE..BOUND + NOISE).contains(&peak), "{peak}");
}
