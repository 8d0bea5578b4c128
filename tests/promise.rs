//! The two promises in numbers, beside what a hand-written `JoinSet` does.
//!
//! `cargo test --test promise -- --nocapture` prints the table that README.md quotes. The test asserts less than that:
//! a pool leaves nobody alive and loses nothing, and a `JoinSet` does both.

use std::future::pending;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aiodrive::{OnFailure, Pool, PoolError};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const ROUNDS: usize = 100;
const TASKS: usize = 100;
/// Much longer than it takes to abort and join a task, which is some microseconds.
const SLOW: Duration = Duration::from_millis(2);

#[test]
fn nothing_outlives_a_pool_and_nothing_is_lost() {
    // The panics here are meant: they need not be printed.
    panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        println!("of {ROUNDS} rounds, those in which something was left alive   JoinSet   Pool");
        let sets = alive_after(async || outlives_a_set(Witness::busy).await).await;
        let pools = alive_after(async || outlives_a_pool(Witness::busy).await).await;
        compare("a grandchild that was busy, after a shutdown", sets, pools);
        let sets = alive_after(async || outlives_a_set(Witness::slow_to_drop).await).await;
        let pools = alive_after(async || outlives_a_pool(Witness::slow_to_drop).await).await;
        compare("a grandchild with a slow destructor, after a shutdown", sets, pools);
        let sets = alive_after(outlives_a_set_in_a_timeout).await;
        let pools = alive_after(outlives_a_pool_in_a_timeout).await;
        compare("a child with a slow destructor, after a timeout", sets, pools);

        println!("of {TASKS} failures, those that were lost");
        let sets = TASKS - failures_from_a_set().await;
        let pools = TASKS - failures_from_a_pool().await;
        compare("errors and panics, half of each", sets, pools);
    });
}

fn compare(what: &str, of_sets: usize, of_pools: usize) {
    println!("  {what:<54}  {of_sets:>7}  {of_pools:>5}");
    assert!(of_sets > 0, "a `JoinSet` does better than it is said to: {what}");
    assert_eq!(of_pools, 0, "{what}");
}

async fn alive_after(round: impl AsyncFn() -> bool) -> usize {
    let mut rounds = 0;
    for _ in 0..ROUNDS {
        rounds += usize::from(round().await);
    }
    rounds
}

/// Shared with a task: tells when it has begun, and whether its future is alive since then.
#[derive(Clone, Default)]
struct Witness(Arc<(Notify, AtomicBool)>);

impl Witness {
    async fn begun(self) {
        self.0.0.notified().await;
    }

    fn is_alive(&self) -> bool {
        self.0.1.load(Ordering::SeqCst)
    }

    fn begin(self, slow_to_drop: bool) -> Alive {
        self.0.1.store(true, Ordering::SeqCst);
        self.0.0.notify_one();
        Alive { witness: self, slow_to_drop }
    }

    /// A task that is in the middle of a poll when it is aborted.
    async fn busy(self) {
        let _alive = self.begin(false);
        work();
        pending().await
    }

    /// A task whose destructor takes its time.
    async fn slow_to_drop(self) {
        let _alive = self.begin(true);
        pending().await
    }
}

struct Alive {
    witness: Witness,
    slow_to_drop: bool,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.slow_to_drop {
            work();
        }
        self.witness.0.1.store(false, Ordering::SeqCst);
    }
}

/// Keeps its thread busy, as a computation between two awaits does.
fn work() {
    let begin = Instant::now();
    while begin.elapsed() < SLOW {
        std::hint::spin_loop();
    }
}

/// Runs a task in a set, as many write it.
async fn in_a_set(task: impl Future<Output = ()> + Send + 'static) {
    let mut set = JoinSet::new();
    set.spawn(task);
    while set.join_next().await.is_some() {}
}

/// Runs a task in a pool.
async fn in_a_pool(task: impl Future<Output = ()> + Send + 'static) -> Result<(), PoolError> {
    Pool::open(async |pool: Pool| {
        pool.spawn(task);
        Ok(())
    })
    .await
}

async fn outlives_a_set<F: Future<Output = ()> + Send + 'static>(grandchild: fn(Witness) -> F) -> bool {
    let witness = Witness::default();
    let mut parent = JoinSet::new();
    parent.spawn(in_a_set(grandchild(witness.clone())));
    witness.clone().begun().await;
    parent.shutdown().await;
    witness.is_alive()
}

async fn outlives_a_pool<F: Future<Output = ()> + Send + 'static>(grandchild: fn(Witness) -> F) -> bool {
    let witness = Witness::default();
    let child = in_a_pool(grandchild(witness.clone()));
    let parent: Pool = Pool::new();
    parent.spawn(async { Ok(child.await?) });
    parent.cancel_on(witness.clone().begun());
    parent.run().await.unwrap();
    witness.is_alive()
}

async fn outlives_a_set_in_a_timeout() -> bool {
    let witness = Witness::default();
    let task = in_a_set(witness.clone().slow_to_drop());
    tokio::time::timeout(Duration::from_millis(1), task).await.unwrap_err();
    witness.is_alive()
}

async fn outlives_a_pool_in_a_timeout() -> bool {
    let witness = Witness::default();
    let task = in_a_pool(witness.clone().slow_to_drop());
    aiodrive::timeout(Duration::from_millis(1), task).await.unwrap_err();
    witness.is_alive()
}

async fn fail(number: usize) -> Result<(), String> {
    if number % 2 == 0 { Err(format!("error {number}")) } else { panic!("panic {number}") }
}

/// How many failures the usual loop gives to its caller.
async fn failures_from_a_set() -> usize {
    async fn run() -> Result<(), Box<dyn std::error::Error>> {
        let mut set = JoinSet::new();
        for number in 0..TASKS {
            set.spawn(fail(number));
        }
        while let Some(ended) = set.join_next().await {
            ended??;
        }
        Ok(())
    }
    run().await.err().into_iter().count()
}

/// How many failures a pool gives to its caller, if it is to collect them.
async fn failures_from_a_pool() -> usize {
    let pool: Pool<String> = Pool::builder().on_failure(|_| OnFailure::Collect).build();
    for number in 0..TASKS {
        pool.spawn(fail(number));
    }
    pool.run().await.unwrap_err().failures().len()
}
