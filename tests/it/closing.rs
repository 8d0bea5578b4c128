//! How a pool closes: each cause, what it does to the body and the tasks, and what `open` and `run` return.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, ClosingReason, Failure, OnFailure, Pool};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Count, Log, Outcome, block_until_closed, both, busy, current_thread, endless, failures, in_pool,
    multi_thread, panic_of, poll_once, poll_until, quiet_panic, stays_pending, turns, until,
};

// ===== the body returns =====

#[apply(both)]
async fn tasks_may_spawn_tasks_after_the_body_has_returned() {
    let count = Count::default();
    fn generation(left: usize, count: Count) {
        Pool::<BoxError>::current().spawn(async move {
            count.up();
            yield_now().await;
            if left > 0 {
                generation(left - 1, count.clone());
                generation(left - 1, count);
            }
        });
    }
    let outcome: Outcome = Pool::open(async |_| {
        generation(6, count.clone());
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(count.get(), 127);
}

#[apply(both)]
async fn an_error_of_the_body_aborts_the_tasks() {
    for yields in [0, 1, 5] {
        let alive = Alive::default();
        let outcome: Outcome = Pool::open(async |pool| {
            for _ in 0..5 {
                let one = alive.one();
                pool.spawn(endless(&alive));
                pool.spawn(async move {
                    let _one = one;
                    busy().await;
                });
            }
            turns(yields).await;
            Err("body".into())
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body"], "after {yields} turns");
        assert!(error.failures()[0].task().is_body() && !error.is_cancelled(), "after {yields} turns: {error:?}");
        assert_eq!(alive.count(), 0, "tasks are left after {yields} turns");
    }
}

#[apply(current_thread)]
async fn an_error_of_the_body_drops_tasks_that_have_not_begun() {
    let (alive, began) = (Alive::default(), Count::default());
    let outcome: Outcome = Pool::open(async |pool| {
        let (one, began) = (alive.one(), began.clone());
        pool.spawn(async move {
            let _one = one;
            began.up();
        });
        Err("body".into())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
    assert_eq!((alive.count(), began.get()), (0, 0));
}

#[apply(both)]
async fn a_body_that_is_cut_short_with_handles_in_hand_detaches_nothing() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let one = alive.one();
        let _kept = pool.spawn_with_handle(async move {
            let _one = one;
            pending::<Result<(), _>>().await
        });
        let failing = pool.spawn_with_handle(async { Err::<(), _>("task".into()) });
        failing.await?;
        pending().await
    })
    .await;
    // A body that is being polled just then may hear of it, which is no failure of its own.
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_panic_of_the_body_is_resumed_when_all_tasks_have_ended() {
    let alive = Alive::default();
    let panic = panic_of(Pool::open(async |pool: Pool| -> Result<(), BoxError> {
        pool.spawn(endless(&alive));
        let slow = alive.slow();
        pool.spawn(async {
            let _slow = slow;
            busy().await
        });
        yield_now().await;
        quiet_panic("body")
    }));
    assert_eq!(panic.await, "body");
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_panic_of_the_body_waits_for_blocking_tasks() {
    let (alive, panics) = (Alive::default(), std::cell::Cell::new(false));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let mut open = Box::pin(Pool::open(async |pool: Pool| -> Result<(), BoxError> {
        let (one, (began, has_begun)) = (alive.one(), oneshot::channel());
        pool.spawn_blocking(move || {
            let _one = one;
            began.send(()).unwrap();
            let _ = released.recv();
        });
        has_begun.await.unwrap();
        panics.set(true);
        quiet_panic("body")
    }));
    poll_until(open.as_mut(), || panics.get()).await;
    stays_pending(open.as_mut()).await;
    assert_eq!(alive.count(), 1);
    drop(release);
    assert_eq!(panic_of(open).await, "body");
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_panic_of_the_body_outranks_a_failure_of_a_task() {
    let log = Log::default();
    let panic = panic_of(Pool::open(async |pool: Pool| -> Result<(), BoxError> {
        let (log, (begun, wait)) = (log.clone(), oneshot::channel());
        pool.spawn_blocking(move || {
            begun.send(()).unwrap();
            block_until_closed();
            log.push("fails");
            Err("task".into())
        });
        wait.await?;
        quiet_panic("body")
    }));
    assert_eq!(panic.await, "body");
    assert_eq!(log.events(), ["fails"]);
}

// ===== a task fails =====

#[apply(both)]
async fn an_error_of_a_task_stops_the_body_and_the_siblings() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let _body = alive.one();
        pool.spawn(endless(&alive));
        pool.spawn(async { Err("task".into()) });
        pool.spawn(endless(&alive));
        pending().await
    })
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: task"]);
    assert!(!error.failures()[0].task().is_body() && !error.is_cancelled());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_panic_of_a_task_stops_the_body_and_the_siblings() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let _body = alive.one();
        pool.spawn(endless(&alive));
        pool.spawn(async { quiet_panic("task") });
        pool.spawn(endless(&alive));
        pending().await
    })
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: task"]);
    assert!(error.is_panic() && !error.is_cancelled());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_failure_after_the_body_returned_discards_its_value() {
    let (tasks, values) = (Alive::default(), Alive::default());
    let (open, gate) = oneshot::channel::<()>();
    let mut opened = pin!(Pool::open(async |pool: Pool| {
        pool.spawn(endless(&tasks));
        pool.spawn(async {
            gate.await?;
            Err("task".into())
        });
        Ok(values.one())
    }));
    assert!(poll_once(opened.as_mut()).await.is_pending());
    assert_eq!(values.count(), 1, "the body has returned");
    open.send(()).unwrap();
    let outcome: Outcome<_> = opened.await;
    assert_eq!(failures(outcome.err().unwrap().failures()), ["error: task"]);
    assert_eq!((tasks.count(), values.count()), (0, 0));
}

#[apply(multi_thread)]
async fn a_failure_is_reported_although_the_body_has_seen_it() {
    for _ in 0..1_000 {
        let outcome: Outcome<_> = Pool::open(async |pool| {
            let failing = pool.spawn_with_handle(async { Err::<(), _>("task".into()) });
            while !failing.is_finished() {
                thread::yield_now();
            }
            assert!(pool.is_closed(), "who has seen a failure sees that the pool closes");
            Ok(42)
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
    }
}

#[apply(both)]
async fn a_task_may_fail_in_its_first_poll_while_the_body_is_busy() {
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(async { Err("task".into()) });
        busy().await;
        Ok(())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
}

#[apply(both)]
async fn a_body_that_waits_for_a_dead_task_is_interrupted() {
    let outcome: Outcome = Pool::open(async |pool| {
        let (sender, receiver) = oneshot::channel::<()>();
        pool.spawn(async {
            let _sender = sender;
            pending::<()>().await;
        });
        pool.spawn(async { Err("task".into()) });
        receiver.await?;
        unreachable!("nobody sends");
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
}

#[apply(current_thread)]
async fn a_failure_ends_the_pool_at_once() {
    let began = Instant::now();
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(sleep(Duration::from_secs(3600)));
        pool.spawn(async {
            sleep(Duration::from_millis(10)).await;
            Err("task".into())
        });
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
    assert_eq!(began.elapsed(), Duration::from_millis(10));
}

#[apply(both)]
async fn a_task_that_ends_well_closes_nothing() {
    let outcome: Outcome = Pool::open(async |pool| {
        let (open, gate) = oneshot::channel::<i32>();
        let sibling = pool.spawn_with_handle(async { Ok(gate.await?) });
        pool.spawn(async {});
        pool.spawn(async { Ok(()) });
        pool.spawn_with_handle(async { Ok(1) }).await?;
        until(|| pool.len() == 1).await;
        assert!(!pool.is_closed() && !sibling.is_finished());
        open.send(9).unwrap();
        assert_eq!(sibling.await, Ok(9));
        until(|| pool.is_empty()).await;
        assert!(!pool.is_closed());
        assert_eq!(pool.spawn_with_handle(async { Ok(2) }).await, Ok(2));
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_failure_while_the_pool_closes_is_recorded_after_the_first() {
    let outcome: Outcome = Pool::open(async |pool| {
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            pool.spawn_blocking(move || {
                barrier.wait();
                block_until_closed();
                Err("later".into())
            });
        }
        pool.spawn_blocking(move || {
            barrier.wait();
            Err("first".into())
        });
        pending().await
    })
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "error: later", "error: later", "error: later"]);
}

// ===== somebody cancels =====

#[apply(both)]
async fn a_task_may_cancel_its_pool() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let _body = alive.one();
        pool.spawn(endless(&alive));
        pool.spawn(async { Pool::<BoxError>::current().cancel() });
        pending().await
    })
    .await;
    let error = outcome.unwrap_err();
    assert!(error.is_cancelled() && !error.is_panic());
    assert!(error.failures().is_empty() && error.first().is_none() && error.cleanup_failures().is_empty());
    assert_eq!((error.cancel_reason(), error.to_string()), (None, "pool cancelled".to_owned()));
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_body_that_cancels_its_pool_stops_at_its_next_await() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool| {
        pool.cancel();
        log.push("cancelled");
        yield_now().await;
        log.push("went on");
        Ok(())
    })
    .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!(log.events(), ["cancelled"]);
}

#[apply(both)]
async fn another_thread_may_cancel_a_pool() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(endless(&alive));
        yield_now().await;
        let pool = pool.clone();
        thread::spawn(move || pool.cancel_with("from afar")).join().unwrap();
        pending().await
    })
    .await;
    assert_eq!(outcome.unwrap_err().cancel_reason(), Some("from afar"));
    assert_eq!(alive.count(), 0);
}

#[apply(multi_thread)]
async fn cancel_wakes_a_sleeping_driver() {
    for _ in 0..1_000 {
        let outcome: Outcome = Pool::open(async |pool| {
            let pool = pool.clone();
            thread::spawn(move || pool.cancel());
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_cancelled());
    }
}

#[apply(both)]
async fn a_failure_in_a_cancelled_run_is_an_error() {
    let pool = Pool::<BoxError>::new();
    pool.spawn_blocking(|| {
        Pool::<BoxError>::current().cancel_with("enough");
        Err("too late".into())
    });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: too late"]);
    assert!(!error.is_cancelled());
}

#[apply(both)]
async fn cancelling_twice_is_cancelling_once() {
    let outcome: Outcome = Pool::open(async |pool| {
        pool.cancel_with("first");
        pool.cancel_with(String::from("second"));
        pool.cancel();
        pending().await
    })
    .await;
    assert_eq!(outcome.unwrap_err().cancel_reason(), Some("first"));
}

#[apply(both)]
async fn cancel_after_a_failure_changes_nothing() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool| {
        let (log, (begun, wait)) = (log.clone(), oneshot::channel());
        pool.spawn_blocking(move || {
            begun.send(()).unwrap();
            block_until_closed();
            Pool::<BoxError>::current().cancel_with("too late");
            log.push("cancelled");
        });
        wait.await?;
        Err("body".into())
    })
    .await;
    let error = outcome.unwrap_err();
    assert_eq!((failures(error.failures()), error.cancel_reason()), (vec!["error: body".to_owned()], None));
    assert_eq!(log.events(), ["cancelled"]);
}

#[apply(both)]
async fn cancel_after_the_end_changes_nothing() {
    let pool: Pool = Pool::open(async |pool| Ok(pool)).await.unwrap();
    pool.cancel_with("too late");
    assert!(pool.is_closed());
    assert_eq!(pool.closing_reason(), Some(ClosingReason::Completed));
}

#[apply(both)]
async fn cancelling_a_nested_pool_leaves_the_outer_one_open() {
    let outcome: Outcome = Pool::open(async |outer: Pool| {
        let inner: Outcome = Pool::open(async |pool| {
            pool.cancel();
            pending().await
        })
        .await;
        assert!(inner.unwrap_err().is_cancelled());
        assert!(!outer.is_closed());
        Ok(())
    })
    .await;
    outcome.unwrap();
}

// ===== spawning while it closes =====

#[apply(both)]
async fn a_closing_pool_refuses_tasks() {
    let alive = Alive::default();
    let (one, other) = (alive.one(), alive.one());
    let outcome: Outcome = Pool::open(async |pool| {
        let seen = alive.clone();
        let (began, has_begun) = oneshot::channel();
        pool.spawn_blocking(move || {
            began.send(()).unwrap();
            block_until_closed();
            let pool: Pool = Pool::current();
            pool.spawn(async move { drop(one) });
            assert_eq!(seen.count(), 1);
            let refused = pool.try_spawn(async move { drop(other) }).unwrap_err();
            assert_eq!(seen.count(), 1);
            drop(refused);
        });
        has_begun.await?;
        pool.cancel();
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(multi_thread)]
async fn no_task_slips_in_while_the_pool_closes() {
    let alive = Alive::default();
    for _ in 0..100 {
        let outcome: Outcome = Pool::open(async |pool| {
            for _ in 0..2 {
                let (pool, alive) = (pool.clone(), alive.clone());
                thread::spawn(move || while pool.try_spawn(endless(&alive)).is_ok() {});
            }
            until(|| pool.len() >= 2).await;
            pool.cancel();
            Ok(())
        })
        .await;
        outcome.unwrap();
    }
    until(|| alive.count() == 0).await;
}

#[apply(multi_thread)]
async fn what_was_accepted_has_ended_when_the_pool_has() {
    for _ in 0..500 {
        let accepted = Alive::default();
        let (sender, receiver) = mpsc::channel();
        let outcome: Outcome = Pool::open(async |pool| {
            let (pool, accepted) = (pool.clone(), accepted.clone());
            thread::spawn(move || {
                loop {
                    let task = endless(&accepted);
                    if let Err(refused) = pool.try_spawn(task) {
                        return sender.send(refused);
                    }
                }
            });
            yield_now().await;
            Err("body".into())
        })
        .await;
        assert!(outcome.is_err());
        // Only the one that was given back is left.
        let refused = receiver.recv().unwrap();
        assert_eq!(accepted.count(), 1, "somebody else is left");
        drop(refused);
    }
}

// ===== many tasks =====

#[apply(current_thread)]
async fn tasks_that_spawn_each_other_let_others_make_progress() {
    fn next(left: usize) {
        Pool::<BoxError>::current().spawn(async move {
            if left > 0 {
                next(left - 1);
            }
        });
    }
    let turns = Count::default();
    let counting = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counting.up();
            yield_now().await;
        }
    });
    in_pool("a", async |_| next(10_000)).await;
    other.abort();
    assert!(turns.get() > 100, "{} turns", turns.get());
}

#[apply(both)]
async fn ten_thousand_failures_are_all_reported() {
    let (pool, failed) = (Pool::<BoxError>::new(), Count::default());
    for _ in 0..10_000 {
        let failed = failed.clone();
        pool.spawn(async move {
            failed.up();
            Err("task".into())
        });
    }
    let error = pool.run().await.unwrap_err();
    assert!(error.failures().iter().all(|failed| matches!(failed.failure(), Failure::Error(_))));
    // All but those that the first of them had aborted before they could begin.
    assert_eq!(error.failures().len(), failed.get());
    assert!(!error.failures().is_empty());
}

#[apply(both)]
async fn ten_thousand_failures_that_close_nothing_are_all_reported() {
    let pool = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect).build();
    (0..10_000).for_each(|_| pool.spawn(async { Err("task".into()) }));
    assert_eq!(pool.run().await.unwrap_err().failures().len(), 10_000);
}

#[apply(both)]
async fn the_body_is_dropped_before_tasks_are_waited_for_that_it_may_hold_up() {
    let log = Log::default();
    let error = Pool::open(async |pool: Pool| {
        // The channel is closed when the body is dropped, and not before.
        let (sender, receiver) = mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let ended = log.clone();
        pool.spawn_blocking(move || {
            begun.send(()).unwrap();
            assert!(receiver.recv().is_err());
            ended.push("task");
        });
        has_begun.await.unwrap();
        pool.spawn(async { Err("error".into()) });
        // Dropped in this order.
        let _body = (log.on_drop("body"), sender);
        pending::<Result<(), BoxError>>().await
    })
    .await
    .unwrap_err();
    assert_eq!(failures(error.failures()), ["error: error"]);
    assert_eq!(log.events(), ["body", "task"]);
}

/// What closes a pool whose owner is gone is a task of its own, if there is something to wait for.
#[apply(current_thread)]
async fn no_task_closes_a_pool_that_is_dropped_with_nothing_in_it() {
    let alive_tasks = || Handle::current().metrics().num_alive_tasks();
    let before = alive_tasks();
    let mut opened = Box::pin(Pool::<BoxError>::open(async |_| std::future::pending::<Result<(), _>>().await));
    assert!(poll_once(opened.as_mut()).await.is_pending());
    drop(opened);
    assert_eq!(alive_tasks(), before);
}
