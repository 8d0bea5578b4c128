//! `open` + spawn + join, against the hand-written loop around `JoinSet` that it replaces.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::compare::compare;

fn benches(c: &mut Criterion) {
    compare(c, "pool", &[1, 4, 64, 1_000, 10_000, 100_000, 1_000_000]);
    compare(c, "threads", &[64, 1_000, 100_000]);
}

criterion_group!(all, benches);
criterion_main!(all);
