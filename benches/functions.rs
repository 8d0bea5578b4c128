//! `race`, `try_all` and `wait_all`, against what people write with a `JoinSet`.

use aiodrive_benches::compare::compare;
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(c: &mut Criterion) {
    for job in ["race", "race_ready", "try_all", "try_all_fails", "wait_all"] {
        compare(c, job, &[2, 100, 10_000, 100_000]);
    }
}

criterion_group!(all, benches);
criterion_main!(all);
