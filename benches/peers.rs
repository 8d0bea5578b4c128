//! Spawn + join + first error, against what people use besides `JoinSet`.

use aiodrive_benches::compare::measure;
use aiodrive_benches::{FLAVOURS, find, peers, runtime};
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(c: &mut Criterion) {
    for (flavour, workers) in FLAVOURS {
        let (runtime, ours) = (runtime(workers), find("pool").expect("a job").ours);
        let mut group = c.benchmark_group(format!("peers, {flavour}"));
        for size in [4, 1_000, 100_000] {
            measure(&mut group, &runtime, "aiodrive", &ours, size);
            for (peer, theirs, multi_thread) in peers() {
                if workers > 0 || !multi_thread {
                    measure(&mut group, &runtime, peer, &theirs, size);
                }
            }
        }
        group.finish();
    }
}

criterion_group!(all, benches);
criterion_main!(all);
