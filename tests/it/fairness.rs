//! Floods of tasks, and tasks that never give way.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, timeout, try_all};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::support::{
    Alive, Outcome, both, current_thread_runtime, failures, multi_thread, on_multi_thread, poll_once, poll_until,
    stays_pending, watched,
};

// ===== floods =====

#[apply(both)]
async fn the_driver_is_not_polled_for_each_wake_of_a_task() {
    let polls = AtomicUsize::new(0);
    let outcome: Outcome = Pool::open(async |pool| {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                pool.spawn_with_handle(async {
                    for _ in 0..10_000 {
                        yield_now().await;
                    }
                    Ok(())
                })
            })
            .collect();
        let mut all = pin!(async {
            for task in tasks {
                task.await?;
            }
            Ok(())
        });
        std::future::poll_fn(|cx| {
            polls.fetch_add(1, Ordering::SeqCst);
            all.as_mut().poll(cx)
        })
        .await
    })
    .await;
    outcome.unwrap();
    assert!(polls.load(Ordering::SeqCst) < 20, "{polls:?}");
}

#[test]
fn a_flood_of_tasks_does_not_keep_a_timeout_from_firing() {
    fn next() {
        Pool::<BoxError>::current().spawn(async { next() });
    }
    let flood = || async {
        let open = Pool::<BoxError>::open(async |_| {
            next();
            pending::<Result<(), _>>().await
        });
        assert!(timeout(Duration::from_millis(5), open).await.is_err());
    };
    watched(move || current_thread_runtime().block_on(flood()));
    on_multi_thread(flood);
}

#[apply(both)]
async fn a_blocking_task_is_not_claimed_to_have_been_cancelled() {
    let alive = Alive::default();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (began, has_begun) = oneshot::channel();
    let one = alive.one();
    let pool = Pool::<BoxError>::new();
    pool.spawn_blocking(move || {
        let _one = one;
        began.send(()).unwrap();
        let _ = released.recv();
    });
    let own = pool.clone();
    let mut run = pin!(pool.run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    has_begun.await.unwrap();
    own.cancel();
    stays_pending(run.as_mut()).await;
    assert_eq!((alive.count(), own.len()), (1, 1));
    release.send(()).unwrap();
    run.await.unwrap();
    assert_eq!((alive.count(), own.len()), (0, 0));
}

// ===== what does not give way =====

#[apply(multi_thread)]
async fn a_task_that_never_gets_to_an_await_is_waited_for() {
    let (begun, stop, alive) = (LatchEvent::new(), Arc::new(AtomicUsize::new(0)), Alive::default());
    let failed = std::cell::Cell::new(false);
    let mut open = pin!(Pool::open(async |pool: Pool| {
        let (begun, stop, counted) = (begun.clone(), Arc::clone(&stop), alive.one());
        let has_begun = begun.wait_set();
        pool.spawn(async move {
            let _counted = counted;
            begun.set();
            while stop.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            yield_now().await;
            panic!("it was aborted at that await");
        });
        has_begun.await;
        failed.set(true);
        Err::<(), BoxError>("error".into())
    }));
    poll_until(open.as_mut(), || failed.get()).await;
    stays_pending(open.as_mut()).await;
    assert_eq!(alive.count(), 1);
    stop.store(1, Ordering::SeqCst);
    assert_eq!(failures(open.await.unwrap_err().failures()), ["error: error"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_task_that_has_spent_its_budget_runs_pools_all_the_same() {
    let task = tokio::spawn(async {
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        let (sum, [first]) = Pool::open(async |pool: Pool| {
            let values: Vec<_> = (0..200).map(|n| pool.spawn_with_handle(async move { Ok(n) })).collect();
            let mut sum = 0;
            for value in values {
                sum += value.await?;
            }
            Ok((sum, try_all([async { Ok::<_, BoxError>(1) }]).await?))
        })
        .await
        .unwrap();
        assert_eq!((sum, first), (19_900, 1));
    });
    task.await.unwrap();
}
