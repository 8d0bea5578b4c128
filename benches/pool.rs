//! `open` + spawn + join, against the hand-written loop around `JoinSet` that it replaces, for three kinds of task: one
//! ends at once, one waits once, one sends a request to a server and waits for the answer.

use aiodrive_benches::compare::compare;
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(c: &mut Criterion) {
    compare(c, "pool", &[1, 4, 64, 1_000, 10_000, 100_000, 1_000_000]);
    compare(c, "pool_waits", &[1, 4, 64, 1_000, 100_000]);
    compare(c, "pool_round_trip", &[1, 4, 64, 1_000, 100_000]);
    compare(c, "limit", &[1_000, 200_000]);
    compare(c, "threads", &[64, 1_000, 100_000]);
}

criterion_group!(all, benches);
criterion_main!(all);
