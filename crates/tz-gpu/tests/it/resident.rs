//! How the benchmark tells the growth of the process from its ring. Row 18 of "Faults found on paper" in `docs/GPU.md`.

#[path = "../../benches/copy/resident.rs"]
mod figures;

use figures::{Growth, counts};

#[test]
fn the_ring_hides_no_growth() {
    let mib = |count: u64| count << 20;
    let beside = |ring_counts, with_ring| {
        Growth { ring: mib(256), ring_counts, with_ring: mib(with_ring) }.without_ring() >> 20
    };
    assert_eq!(beside(true, 300), 44);
    // A driver whose pinned memory is not resident: all of it is growth, not none.
    assert_eq!(beside(false, 250), 250);
    assert_eq!(beside(true, 200), -56);
    assert!(counts(mib(500), mib(564), mib(64)) && counts(mib(500), mib(540), mib(64)));
    assert!(!counts(mib(500), mib(501), mib(64)) && !counts(mib(500), mib(400), mib(64)));
}
