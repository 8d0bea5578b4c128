//! Both sides of a job beside each other, by criterion.

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use tokio::runtime::Runtime;

use super::{Case, FLAVOURS, Pair, find, runtime};

/// Measures a job, of several sizes, on both kinds of runtime.
pub fn compare(c: &mut Criterion, job: &str, sizes: &[usize]) {
    let Pair { ours, bare, .. } = find(job).expect("a job");
    for (flavour, workers) in FLAVOURS {
        let runtime = runtime(workers);
        let mut group = c.benchmark_group(format!("{job}, {flavour}"));
        for size in sizes {
            measure(&mut group, &runtime, "tokio", &bare, *size);
            measure(&mut group, &runtime, "aiodrive", &ours, *size);
        }
        group.finish();
    }
}

/// Measures one side of a job.
pub fn measure(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, side: &str, case: &Case, size: usize) {
    group.throughput(Throughput::Elements(size as u64));
    group.sample_size(match size {
        0..1_000 => 100,
        1_000..100_000 => 20,
        _ => 10,
    });
    group.bench_function(BenchmarkId::new(side, size), |b| b.iter_custom(|rounds| case.run(runtime, size, rounds)));
}
