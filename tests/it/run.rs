//! `Pool::run`: tasks that are planned before the pool runs.

use std::thread;

use aiodrive::{BoxError, Pool, TaskStopped};
use macro_rules_attribute::apply;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::support::{Alive, Count, Log, Outcome, both, endless, poll_until, stays_pending, turns, until};

#[apply(both)]
async fn planned_tasks_begin_when_run_is_polled() {
    let (log, pool) = (Log::default(), Pool::<BoxError>::new());
    for nth in 0..3 {
        let log = log.clone();
        pool.spawn(async move { log.push(nth.to_string()) });
    }
    yield_now().await;
    let run = pool.run();
    turns(10).await;
    assert!(log.events().is_empty(), "no task begins before the first poll");
    run.await.unwrap();
    let mut events = log.events();
    // On several threads, those that begin in their order may be polled in another.
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        events.sort();
    }
    assert_eq!(events, ["0", "1", "2"]);
}

#[apply(both)]
async fn a_run_that_is_dropped_unpolled_drops_the_planned_tasks() {
    let (alive, polled, pool) = (Alive::default(), Count::default(), Pool::<BoxError>::new());
    for _ in 0..3 {
        let (one, polled) = (alive.one(), polled.clone());
        pool.spawn(async move {
            let _one = one;
            polled.up();
        });
    }
    let planned = pool.spawn_with_handle(async { Ok(1) });
    let seen = pool.clone();
    drop(pool.run());
    assert_eq!((alive.count(), polled.get()), (0, 0));
    assert!(seen.is_closed() && seen.is_empty());
    assert_eq!(planned.await, Err(TaskStopped::Cancelled));
}

#[apply(both)]
async fn plain_threads_may_spawn_in_a_running_pool() {
    let count = Count::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (pool, count) = (pool.clone(), count.clone());
                thread::spawn(move || {
                    for _ in 0..250 {
                        let count = count.clone();
                        pool.spawn(async move { count.up() });
                    }
                    pool.spawn_with_handle(async { Ok(5) })
                })
            })
            .collect();
        until(|| threads.iter().all(thread::JoinHandle::is_finished)).await;
        for thread in threads {
            assert_eq!(thread.join().unwrap().await, Ok(5));
        }
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(count.get(), 1_000);
}

#[apply(both)]
async fn a_spawn_into_an_empty_pool_is_joined_like_any_other() {
    let alive = Alive::default();
    let (go, gone) = oneshot::channel::<()>();
    let mut open = Box::pin(Pool::open(async |pool: Pool| {
        pool.spawn(async {});
        until(|| pool.is_empty()).await;
        gone.await?;
        pool.spawn(endless(&alive));
        Ok::<_, BoxError>(pool)
    }));
    stays_pending(open.as_mut()).await;
    go.send(()).unwrap();
    poll_until(open.as_mut(), || alive.count() > 0).await;
    stays_pending(open.as_mut()).await;
    drop(open);
    until(|| alive.count() == 0).await;
}

#[test]
fn a_planned_pool_that_is_dropped_drops_its_tasks_unpolled() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    let (one, two) = (alive.one(), alive.one());
    pool.spawn(async move {
        drop(one);
        unreachable!("nobody runs the pool");
    });
    pool.spawn_blocking(move || drop(two));
    assert_eq!(alive.count(), 2);
    drop(pool);
    assert_eq!(alive.count(), 0);
}

#[test]
fn every_kind_of_task_can_be_planned_without_a_runtime() {
    let (count, pool) = (Count::default(), Pool::<BoxError>::new());
    let counts: [Count; 3] = std::array::from_fn(|_| count.clone());
    let [first, second, third] = counts;
    pool.spawn(async move { first.up() });
    pool.try_spawn(async move { second.up() }).unwrap();
    pool.spawn_blocking(move || third.up());
    let handle = pool.spawn_with_handle(async { Ok(4) });
    assert_eq!(pool.len(), 4);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pool.run()).unwrap();
    assert_eq!(count.get(), 3);
    assert_eq!(runtime.block_on(handle).unwrap(), 4);
}
