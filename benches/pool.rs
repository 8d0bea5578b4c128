//! `open` + spawn + join, against the hand-written loop around `JoinSet` that it replaces, in one run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aiodrive::{BoxError, Pool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const SIZES: [usize; 5] = [1, 4, 64, 1_000, 100_000];

async fn task(n: usize) -> Result<(), BoxError> {
    black_box(n);
    Ok(())
}

/// What people write: spawn, then join; at the first error abort the others, join them, and return it.
async fn join_set(tasks: usize) -> Result<usize, BoxError> {
    let mut set = JoinSet::new();
    for n in 0..tasks {
        set.spawn(task(n));
    }
    let mut joined = 0;
    while let Some(ended) = set.join_next().await {
        match ended {
            Ok(Ok(())) => joined += 1,
            Ok(Err(error)) => {
                set.shutdown().await;
                return Err(error);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
    Ok(joined)
}

async fn pool(tasks: usize) -> Result<usize, BoxError> {
    let spawned = Pool::open(async |pool: Pool| {
        for n in 0..tasks {
            pool.spawn(task(n));
        }
        Ok(tasks)
    });
    Ok(spawned.await?)
}

fn compare(c: &mut Criterion, flavour: &str, runtime: &Runtime) {
    let mut group = c.benchmark_group(flavour);
    for tasks in SIZES {
        group.throughput(Throughput::Elements(tasks as u64));
        group.sample_size(if tasks >= 1_000 { 20 } else { 100 });
        group.bench_function(BenchmarkId::new("JoinSet", tasks), |b| {
            b.iter_custom(|rounds| in_task(runtime, rounds, tasks, join_set));
        });
        group.bench_function(BenchmarkId::new("Pool", tasks), |b| {
            b.iter_custom(|rounds| in_task(runtime, rounds, tasks, pool));
        });
    }
    group.finish();
}

/// Does the work in a task, where services do it, all rounds in one: to wake a sleeping worker takes longer than most.
fn in_task<F>(runtime: &Runtime, rounds: u64, tasks: usize, work: fn(usize) -> F) -> Duration
where
    F: Future<Output = Result<usize, BoxError>> + Send + 'static,
{
    let all = async move {
        let begin = Instant::now();
        for _ in 0..rounds {
            assert_eq!(work(tasks).await.expect("nothing fails"), tasks);
        }
        begin.elapsed()
    };
    runtime.block_on(async { tokio::spawn(all).await }).expect("it does not panic")
}

fn benches(c: &mut Criterion) {
    compare(c, "current-thread", &Builder::new_current_thread().build().expect("a runtime"));
    compare(c, "multi-thread", &Builder::new_multi_thread().worker_threads(2).build().expect("a runtime"));
}

criterion_group!(all, benches);
criterion_main!(all);
