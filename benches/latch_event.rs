//! The flip of a `LatchEvent`, until all have seen it, against that of a bare `watch`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::compare::compare;

fn benches(c: &mut Criterion) {
    compare(c, "latch", &[1, 100, 10_000]);
    compare(c, "latch_loops", &[1, 100, 10_000]);
}

criterion_group!(all, benches);
criterion_main!(all);
