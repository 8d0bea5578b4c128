//! Wakers that panic.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, TaskStopped};
use macro_rules_attribute::apply;

use crate::support::{Alive, bomb, both, failures, panic_text, poll_once, poll_with_bomb, until};

#[apply(both)]
async fn a_waker_of_the_driver_that_panics_as_tasks_end_loses_nothing() {
    let (pool, gate, alive) = (Pool::<BoxError>::new(), LatchEvent::new(), Alive::default());
    for number in 0..3 {
        let (open, counted) = (gate.wait_set(), alive.one());
        pool.spawn(async move {
            open.await;
            drop(counted);
            if number == 1 { Err("error".into()) } else { Ok(()) }
        });
    }
    let mut run = pin!(pool.clone().run());
    assert!(poll_with_bomb(run.as_mut()).is_pending());
    gate.set();
    // Polled before that, it would leave another waker.
    until(|| pool.is_closed()).await;
    assert_eq!(failures(run.await.unwrap_err().failures()), ["error: error", "panic: in a waker"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_waker_that_panics_does_so_in_who_cancels_and_the_pool_closes_all_the_same() {
    let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
    let counted = alive.one();
    pool.spawn(async move {
        let _counted = counted;
        pending::<()>().await;
    });
    let mut run = pin!(pool.clone().run());
    assert!(poll_with_bomb(run.as_mut()).is_pending());
    assert_eq!(panic_text(|| pool.cancel()), "in a waker");
    run.await.unwrap();
    assert_eq!(alive.count(), 0);
}

/// The task that failed used to unwind with it, before it was counted as ended: nobody had its slot.
#[apply(both)]
async fn a_waker_that_panics_as_a_task_closes_the_pool_leaves_the_others_their_turn() {
    let pool = Pool::<BoxError>::builder().limit(1).grace(Duration::MAX).build();
    let gate = LatchEvent::new();
    let open = gate.wait_set();
    let failing = pool.spawn_with_handle::<(), _>(async {
        open.await;
        Err("error".into())
    });
    let queued = pool.spawn_with_handle(async { Ok(1) });
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let mut cancelled = pin!(pool.cancelled());
    assert!(poll_with_bomb(cancelled.as_mut()).is_pending());
    gate.set();
    assert_eq!(failures(run.await.unwrap_err().failures()), ["error: error", "panic: in a waker"]);
    assert_eq!((failing.await, queued.await), (Err(TaskStopped::Failed), Ok(1)));
}

/// The second panic used to end the process.
#[apply(both)]
async fn a_waker_that_panics_as_a_planned_pool_closes_leaves_no_plan_behind() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    for _ in 0..2 {
        let held = (alive.one(), bomb("planned"));
        pool.spawn(async { drop(held) });
    }
    let mut cancelled = pin!(pool.cancelled());
    assert!(poll_with_bomb(cancelled.as_mut()).is_pending());
    assert_eq!(panic_text(|| pool.cancel()), "in a waker");
    assert_eq!(alive.count(), 0);
    pool.clone().run().await.unwrap();
}

#[apply(both)]
async fn a_waker_of_a_handle_that_panics_keeps_the_pool_from_nothing() {
    let gate = LatchEvent::new();
    let pool = Pool::<BoxError>::new();
    let open = gate.wait_set();
    let mut handle = pin!(pool.spawn_with_handle(async move {
        open.await;
        Ok(1)
    }));
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    assert!(poll_with_bomb(handle.as_mut()).is_pending());
    gate.set();
    // It is the task that wakes its handle, and so it is the task that has failed.
    assert_eq!(failures(run.await.unwrap_err().failures()), ["panic: in a waker"]);
    assert_eq!(handle.await, Ok(1));
    assert!(pool.is_closed() && pool.is_empty());
}
