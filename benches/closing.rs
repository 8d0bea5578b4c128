//! From a failure, or the request to stop, until everything has ended, against `JoinSet::shutdown`; at several depths,
//! and in nested pools.

use aiodrive_benches::compare::compare;
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(c: &mut Criterion) {
    compare(c, "first_failure", &[1, 100, 10_000, 100_000]);
    compare(c, "close", &[1, 100, 10_000, 100_000]);
    compare(c, "depths", &[10_000]);
    compare(c, "small_pools", &[1_000, 100_000]);
    compare(c, "tree", &[10, 100]);
}

criterion_group!(all, benches);
criterion_main!(all);
