//! Pools and their tasks, as many tests have them.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolBuilder, PoolError, TaskBuilder, cancellation_token};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Alive, Clock, Outcome, poll_once, until};

pub const GRACE: Duration = secs(10);

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn with_grace(grace: Duration) -> PoolBuilder {
    Pool::builder().grace(grace)
}

pub async fn asked() {
    cancellation_token().cancelled().await;
}

/// Hears the signal, works for so many seconds more, and returns.
pub async fn polite(seconds: u64) -> Result<u64, BoxError> {
    asked().await;
    sleep(secs(seconds)).await;
    Ok(seconds)
}

pub const LONG: Duration = Duration::from_secs(1_000);

/// A pool that runs in a task of its own.
pub fn running<E>(pool: &Pool<E>) -> JoinHandle<Result<(), PoolError<E>>>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    tokio::spawn(pool.clone().run())
}

/// Waits until a pool has begun to run.
pub async fn until_running<E: Send + 'static>(pool: &Pool<E>) {
    until(|| format!("{pool:?}").contains("state: running")).await;
}

/// Planned pools, each of which runs in a task of the one before it: a test spawns what it needs in any of them, and then
/// runs the first. The error of an inner one is that of the task which runs it.
pub fn nested<const N: usize>(builders: [PoolBuilder; N]) -> [Pool; N] {
    let pools = builders.map(PoolBuilder::build);
    for (outer, inner) in pools.iter().zip(&pools[1..]) {
        let inner = inner.clone();
        outer.spawn(async move { inner.run().await.map_err(BoxError::from) });
    }
    pools
}

/// A planned pool with this grace, and a clock that says when its only task is asked, which it does not heed, and gone.
pub fn with_stubborn_task(grace: Duration) -> (Pool, Clock) {
    let (pool, clock) = (with_grace(grace).build(), Clock::start());
    pool.spawn(clock.stubborn("gone"));
    (pool, clock)
}

/// Runs a planned pool, cancels it when something has come about, and waits for its end.
pub async fn cancelled_once(pool: &Pool, has_come_about: impl Future<Output = ()>) -> Outcome {
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending(), "it has ended before it is cancelled");
    has_come_about.await;
    pool.cancel();
    run.await
}

/// A handle that a policy can look at.
pub type Slot<T> = Arc<Mutex<Option<T>>>;

pub fn kept_open() -> Pool {
    Pool::builder().keep_open(true).build()
}

/// A task that never ends by itself.
pub fn endless(alive: &Alive) -> impl Future<Output = ()> + Send + use<> {
    let one = alive.one();
    async move {
        let _one = one;
        pending().await
    }
}

/// Blocks until the pool that this is called in has begun to close.
pub fn block_until_closed() {
    let pool: Pool = Pool::current();
    while !pool.is_closed() {
        thread::yield_now();
    }
}

pub async fn in_pool<T>(name: &'static str, body: impl AsyncFnOnce(Pool) -> T) -> T {
    let outcome: Outcome<T> = Pool::builder().name(name).open(async |pool| Ok(body(pool).await)).await;
    outcome.unwrap()
}

pub const FOREVER: Duration = Duration::MAX;

/// Never ends, and keeps a value until it is dropped.
pub async fn keep(value: impl Send + 'static) {
    let _value = value;
    pending().await
}

/// So many, or a fifth of that where the code is not optimised, and takes ten times as long.
pub const fn many(count: usize) -> usize {
    if cfg!(debug_assertions) { count / 5 } else { count }
}

/// The names of the tasks of [`kinds_in_turn`], in the order in which a pool shows them.
pub const KINDS_IN_TURN: [&str; 9] = ["A", "B", "C", "F", "G", "I", "daemon D", "daemon E", "daemon H"];

/// Tasks to be spawned at one depth, with a grace and without, and daemons in between.
pub fn kinds_in_turn(pool: &Pool) -> impl Iterator<Item = TaskBuilder<'_>> {
    ["A", "daemon D", "B", "C", "daemon E", "F", "G", "daemon H", "I"].into_iter().map(|name| {
        let task = pool.build_task().name(name);
        let task = if name.starts_with("daemon") { task.daemon() } else { task };
        if ["daemon D", "C", "G", "daemon H"].contains(&name) { task.no_grace() } else { task }
    })
}
