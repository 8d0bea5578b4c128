//! `spawn` and `spawn_blocking`: from where, and how tasks run.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;

use aiodrive::{BoxError, Pool};
use macro_rules_attribute::apply;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;
use tokio_test::{assert_pending, task};

use crate::support::{Alive, Count, Log, both, current_thread, multi_thread, until};

// ===== where tasks are spawned from =====

#[apply(both)]
async fn the_body_can_spawn_late() {
    let sum = Pool::open(async |pool: Pool| {
        let first = pool.spawn_with_handle(async { Ok(40) });
        yield_now().await;
        let first = first.await?;
        let second = pool.spawn_with_handle(async { Ok(2) });
        Ok(first + second.await?)
    });
    assert_eq!(sum.await.unwrap(), 42);
}

#[apply(both)]
async fn a_task_that_spawns_its_successor_keeps_the_pool_open() {
    fn spawn_next(pool: &Pool, left: usize, count: Count) {
        let next = pool.clone();
        pool.spawn(async move {
            count.up();
            if left > 0 {
                spawn_next(&next, left - 1, count);
            }
        });
    }
    let (pool, count) = (Pool::new(), Count::default());
    spawn_next(&pool, 999, count.clone());
    pool.run().await.unwrap();
    assert_eq!(count.get(), 1_000);
}

#[apply(both)]
async fn a_spawn_from_outside_reaches_a_pool_that_waits() {
    let (open, gate) = oneshot::channel();
    let pool = Pool::<BoxError>::new();
    pool.spawn(async move { Ok(gate.await?) });
    let mut run = task::spawn(pool.clone().run());
    assert_pending!(run.poll());
    let late = pool.spawn_with_handle(async { Ok("late") });
    assert_eq!(late.await.unwrap(), "late");
    assert_pending!(run.poll());
    open.send(()).unwrap();
    run.await.unwrap();
}

// ===== how tasks run =====

#[apply(current_thread)]
async fn tasks_interleave_turn_by_turn() {
    let (log, pool) = (Log::default(), Pool::<BoxError>::new());
    for _ in 0..2 {
        let log = log.clone();
        pool.spawn(async move {
            for turn in 0..3 {
                log.push(turn.to_string());
                yield_now().await;
            }
        });
    }
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["0", "0", "1", "1", "2", "2"]);
}

#[apply(multi_thread)]
async fn tasks_run_on_several_threads() {
    // Each keeps its thread until both are there.
    let both = Arc::new(std::sync::Barrier::new(2));
    let pool = Pool::<BoxError>::new();
    for _ in 0..2 {
        let both = Arc::clone(&both);
        pool.spawn(async move {
            let _ = both.wait();
        });
    }
    pool.run().await.unwrap();
}

#[apply(both)]
async fn pools_in_a_loop_that_never_have_to_wait_let_others_run() {
    tokio::select! {
        biased;
        () = async {
            loop {
                assert_eq!(Pool::<BoxError>::open(async |_| Ok(1)).await.unwrap(), 1);
                Pool::<BoxError>::new().run().await.unwrap();
            }
        } => {}
        () = yield_now() => {}
    }
}

#[apply(both)]
async fn a_task_is_dropped_as_it_ends_and_not_with_the_pool() {
    let (alive, ended) = (Alive::default(), Arc::new(Semaphore::new(0)));
    Pool::open(async |pool: Pool| {
        for _ in 0..1_000 {
            let (one, last) = (alive.one(), Arc::clone(&ended));
            // A future by hand: what an async block holds is dropped in its last poll.
            pool.spawn(std::future::poll_fn(move |_| {
                let _held = &one;
                last.add_permits(1);
                Poll::Ready(())
            }));
        }
        drop(ended.acquire_many(1_000).await?);
        until(|| alive.count() == 0).await;
        assert!(!pool.is_closed());
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_task_may_return_nothing_a_result_or_never() {
    async fn never() -> Infallible {
        std::future::pending().await
    }
    let error = Pool::open(async |pool: Pool<&'static str>| {
        pool.spawn(async {});
        pool.spawn(async { Ok(()) });
        pool.spawn(never());
        pool.spawn(async {
            loop {
                yield_now().await;
            }
        });
        pool.spawn_blocking(|| {});
        pool.spawn_blocking(|| Ok(()));
        yield_now().await;
        Err::<(), _>("enough")
    });
    assert_eq!(error.await.unwrap_err().into_first_error(), Some("enough"));
}

// ===== blocking tasks =====

#[apply(both)]
async fn a_blocking_task_runs_inside_the_pool_and_can_spawn() {
    let count = Count::default();
    Pool::open(async |pool: Pool| {
        let count = count.clone();
        pool.spawn_blocking(move || {
            Pool::<BoxError>::current().spawn(async move { count.up() });
        });
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(count.get(), 1);
}
