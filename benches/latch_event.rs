//! The flip of a `LatchEvent`, until all have seen it, against that of a bare `watch`.

use aiodrive_benches::compare::compare;
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(c: &mut Criterion) {
    compare(c, "latch", &[1, 100, 10_000]);
    compare(c, "latch_loops", &[1, 100, 10_000]);
}

criterion_group!(all, benches);
criterion_main!(all);
