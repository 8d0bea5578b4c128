//! Wakers that panic.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, OnFailure, Pool, PoolError, TaskStopped, cancellation_token};
use macro_rules_attribute::apply;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    Alive, bomb, both, current_thread, failures, keep, panic_text, poll_once, poll_with_bomb, turns, until,
};

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
    let mut cancelled = pin!(pool.cancelled());
    assert!(poll_once(cancelled.as_mut()).await.is_pending());
    assert_eq!(panic_text(|| pool.cancel()), "in a waker");
    run.await.unwrap();
    cancelled.await;
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

#[apply(both)]
async fn a_waker_that_panics_as_the_owner_is_dropped_keeps_nobody_alive() {
    let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
    let mut run = Box::pin(pool.clone().run());
    let counted = alive.one();
    pool.spawn(keep(counted));
    assert!(poll_once(run.as_mut()).await.is_pending());
    let mut cancelled = pin!(pool.cancelled());
    assert!(poll_with_bomb(cancelled.as_mut()).is_pending());
    drop(run);
    until(|| alive.count() == 0).await;
    cancelled.await;
}

// ===== of a `LocalSet` =====

/// Fills a pool with a task of a `LocalSet`, which is then polled with a bomb, and with three others; all of them wait.
///
/// At the abort a pool used to take all wakers out, and to lose those that came after one that panicked: their tasks,
/// and all who waited for them, stayed for ever.
async fn with_a_bomb(
    pool: &Pool,
    alive: &Alive,
    local: &mut LocalSet,
    mut run: Pin<&mut impl Future<Output = Result<(), PoolError>>>,
) {
    local
        .run_until(async {
            assert!(poll_once(run.as_mut()).await.is_pending());
            let counted = alive.one();
            pool.spawn_local(keep(counted));
            yield_now().await;
        })
        .await;
    for _ in 0..3 {
        let counted = alive.one();
        pool.spawn(keep(counted));
    }
    turns(20).await;
    assert!(poll_with_bomb(Pin::new(local)).is_pending());
    assert_eq!(alive.count(), 4, "something is gone before the runtime");
}

#[apply(current_thread)]
async fn a_waker_of_a_local_set_that_panics_at_the_abort_keeps_nobody_alive() {
    let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
    let (mut local, mut run) = (LocalSet::new(), pin!(pool.clone().run()));
    with_a_bomb(&pool, &alive, &mut local, run.as_mut()).await;
    pool.cancel();
    assert!(poll_once(run.as_mut()).await.is_pending(), "the panic goes no further");
    local.run_until(turns(10)).await;
    run.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn a_waker_of_a_local_set_that_panics_as_the_owner_is_dropped_keeps_nobody_alive() {
    let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
    let (mut local, mut run) = (LocalSet::new(), Box::pin(pool.clone().run()));
    with_a_bomb(&pool, &alive, &mut local, run.as_mut()).await;
    drop(run);
    local.run_until(turns(10)).await;
    until(|| alive.count() == 0).await;
}

/// It also left the queue to whoever had panicked: nobody after that had a turn.
#[apply(current_thread)]
async fn a_waker_of_a_local_set_that_panics_at_its_turn_leaves_the_others_theirs() {
    let pool = Pool::<BoxError>::builder().limit(1).on_failure(|_| OnFailure::Collect).build();
    let (mut local, mut run) = (LocalSet::new(), pin!(pool.clone().run()));
    let (gate, ran) = (LatchEvent::new(), LatchEvent::new());
    pool.spawn(gate.wait_set());
    local
        .run_until(async {
            assert!(poll_once(run.as_mut()).await.is_pending());
            pool.spawn_local(async {});
            yield_now().await;
        })
        .await;
    let set = ran.clone();
    pool.spawn(async move { set.set() });
    let mut ready = pin!(pool.ready());
    assert!(poll_once(ready.as_mut()).await.is_pending());
    assert!(poll_with_bomb(Pin::new(&mut local)).is_pending());
    gate.set();
    turns(10).await;
    local.run_until(turns(10)).await;
    ready.await;
    assert_eq!(failures(run.await.unwrap_err().failures()), ["panic: in a waker"], "of who left the slot");
    assert!(ran.is_set(), "the next one had no turn");
}

#[apply(both)]
async fn a_waker_that_panics_as_the_last_task_ends_well_is_a_failure() {
    let (pool, gate) = (Pool::<BoxError>::new(), LatchEvent::new());
    pool.spawn(gate.wait_set());
    let mut run = pin!(pool.clone().run());
    assert!(poll_with_bomb(run.as_mut()).is_pending());
    gate.set();
    until(|| pool.is_closed()).await;
    assert_eq!(failures(run.await.unwrap_err().failures()), ["panic: in a waker"]);
}

/// As the last of a batch ends, whose memory is freed then, while it wakes the driver.
#[apply(current_thread)]
async fn a_waker_that_panics_as_a_batch_is_freed_takes_no_task_along() {
    const BATCH: usize = 256;
    let (pool, alive) = (Pool::<BoxError>::builder().grace(Duration::MAX).keep_open(true).build(), Alive::default());
    let (first, last) = (LatchEvent::new(), LatchEvent::new());
    for number in 0..BATCH + 44 {
        let (counted, wait) = (alive.one(), if number < BATCH - 1 { first.wait_set() } else { last.wait_set() });
        let stays = number >= BATCH;
        pool.build_task().daemon().spawn(async move {
            let _counted = counted;
            cancellation_token().cancelled().await;
            if stays {
                pending::<()>().await;
            }
            wait.await;
        });
    }
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    turns(10).await;
    pool.cancel();
    assert!(poll_once(run.as_mut()).await.is_pending());
    turns(10).await;
    first.set();
    until(|| alive.count() == 45).await;
    assert!(poll_with_bomb(run.as_mut()).is_pending());
    last.set();
    until(|| alive.count() < 45).await;
    turns(10).await;
    assert_eq!(alive.count(), 44, "the others have their grace");
    pool.abort();
    assert_eq!(failures(run.await.unwrap_err().failures()), ["panic: in a waker"]);
}
