//! `Pool::run`: tasks that are planned before the pool runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use aiodrive::{BoxError, Pool, TaskStopped};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::assert_ready_ok;

use crate::support::{Alive, Count, Log, Outcome, both, current_thread, endless, poll_until, stays_pending, until};

// ===== planned pools =====

#[apply(both)]
async fn an_empty_pool_is_ready_at_once() {
    let mut run = tokio_test::task::spawn(Pool::<BoxError>::new().run());
    assert_ready_ok!(run.poll());
    let mut open = tokio_test::task::spawn(Pool::<BoxError>::open(async |_| Ok(1)));
    assert_eq!(assert_ready_ok!(open.poll()), 1);
}

#[apply(both)]
async fn planned_tasks_begin_when_run_is_polled() {
    let (polled, pool) = (Arc::new(AtomicUsize::new(0)), Pool::<BoxError>::new());
    for _ in 0..3 {
        let polled = Arc::clone(&polled);
        pool.spawn(async move {
            polled.fetch_add(1, Ordering::SeqCst);
        });
    }
    let run = pool.run();
    for _ in 0..10 {
        yield_now().await;
    }
    assert_eq!(polled.load(Ordering::SeqCst), 0);
    run.await.unwrap();
    assert_eq!(polled.load(Ordering::SeqCst), 3);
}

#[apply(both)]
async fn a_run_that_is_dropped_unpolled_drops_the_planned_tasks() {
    let (alive, polled, pool) = (Alive::default(), Arc::new(AtomicBool::new(false)), Pool::<BoxError>::new());
    for _ in 0..3 {
        let (one, polled) = (alive.one(), Arc::clone(&polled));
        pool.spawn(async move {
            let _one = one;
            polled.store(true, Ordering::SeqCst);
        });
    }
    let planned = pool.spawn_with_handle(async { Ok(1) });
    let seen = pool.clone();
    drop(pool.run());
    assert_eq!((alive.count(), polled.load(Ordering::SeqCst)), (0, false));
    assert!(seen.is_closed() && seen.is_empty());
    assert_eq!(planned.await, Err(TaskStopped::Cancelled));
}

#[apply(both)]
async fn a_pool_that_is_never_run_drops_its_tasks_with_its_last_handle() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    pool.spawn(endless(&alive));
    assert_eq!(alive.count(), 1);
    drop(pool);
    assert_eq!(alive.count(), 0);
}

#[test]
fn a_planned_pool_needs_no_runtime() {
    let (pool, count) = (Pool::<BoxError>::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..100 {
        let count = Arc::clone(&count);
        pool.spawn(async move {
            count.fetch_add(1, Ordering::SeqCst);
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pool.run()).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 100);
}

#[apply(both)]
async fn plain_threads_may_spawn_in_a_running_pool() {
    let count = Arc::new(AtomicUsize::new(0));
    let outcome: Outcome = Pool::open(async |pool| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (pool, count) = (pool.clone(), Arc::clone(&count));
                thread::spawn(move || {
                    for _ in 0..250 {
                        let count = Arc::clone(&count);
                        pool.spawn(async move {
                            count.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                })
            })
            .collect();
        until(|| threads.iter().all(thread::JoinHandle::is_finished)).await;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1_000);
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

// ===== planned tasks =====

#[apply(current_thread)]
async fn planned_tasks_start_when_run_is_polled() {
    let (log, pool) = (Log::default(), Pool::<BoxError>::new());
    for nth in 0..3 {
        let log = log.clone();
        pool.spawn(async move { log.push(nth.to_string()) });
    }
    yield_now().await;
    let run = pool.run();
    yield_now().await;
    assert!(log.events().is_empty());
    run.await.unwrap();
    assert_eq!(log.events(), ["0", "1", "2"]);
}

#[apply(both)]
async fn a_run_that_is_dropped_unpolled_drops_planned_tasks_unpolled() {
    let (alive, count, pool) = (Alive::default(), Count::default(), Pool::<BoxError>::new());
    for _ in 0..3 {
        let (one, count) = (alive.one(), count.clone());
        pool.spawn(async move {
            count.up();
            drop(one);
        });
    }
    drop(pool.clone().run());
    assert_eq!((alive.count(), count.get()), (0, 0));
    assert!(pool.is_closed());
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
