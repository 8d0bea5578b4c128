//! From the request to stop until everything has ended: with one depth and with four, and against `JoinSet::shutdown`.

use std::future::pending;
use std::time::{Duration, Instant};

use aiodrive::Pool;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};

const TASKS: usize = 10_000;

/// How long the bare tokio code takes.
async fn join_set() -> Duration {
    let mut set = JoinSet::new();
    for _ in 0..TASKS {
        set.spawn(pending::<()>());
    }
    yield_now().await;
    let begin = Instant::now();
    set.shutdown().await;
    begin.elapsed()
}

/// How long a pool takes whose tasks are spread over so many depths.
async fn pool(depths: usize) -> Duration {
    let pool: Pool = Pool::new();
    for n in 0..TASKS {
        let depth = i32::try_from(n % depths).expect("a small number");
        pool.build_task().depth(depth).spawn(pending::<()>());
    }
    let running = tokio::spawn(pool.clone().run());
    while pool.len() < TASKS {
        yield_now().await;
    }
    yield_now().await;
    let begin = Instant::now();
    pool.cancel();
    running.await.expect("it does not panic").expect("to be cancelled is no failure");
    begin.elapsed()
}

/// Does the work in a task, all rounds in one.
fn in_task<F>(runtime: &Runtime, rounds: u64, work: impl Fn() -> F + Send + 'static) -> Duration
where
    F: Future<Output = Duration> + Send,
{
    let all = async move {
        let mut sum = Duration::ZERO;
        for _ in 0..rounds {
            sum += work().await;
        }
        sum
    };
    runtime.block_on(async { tokio::spawn(all).await }).expect("it does not panic")
}

fn compare(c: &mut Criterion, flavour: &str, runtime: &Runtime) {
    let mut group = c.benchmark_group(format!("close 10,000 tasks, {flavour}"));
    group.sample_size(20);
    group.bench_function("JoinSet", |b| b.iter_custom(|rounds| in_task(runtime, rounds, join_set)));
    group.bench_function("Pool, 1 depth", |b| b.iter_custom(|rounds| in_task(runtime, rounds, || pool(1))));
    group.bench_function("Pool, 4 depths", |b| b.iter_custom(|rounds| in_task(runtime, rounds, || pool(4))));
    group.finish();
}

fn benches(c: &mut Criterion) {
    compare(c, "current-thread", &Builder::new_current_thread().build().expect("a runtime"));
    compare(c, "multi-thread", &Builder::new_multi_thread().worker_threads(2).build().expect("a runtime"));
}

criterion_group!(all, benches);
criterion_main!(all);
