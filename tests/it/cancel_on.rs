//! `cancel_on`: a future that cancels its pool.

use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, cancellation_token};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, LONG, Log, OnDrop, asked, both, busy, current_thread, failures, kept_open, poll_once, quiet_panic, running,
    secs, turns, until, with_grace,
};

#[apply(both)]
async fn a_signal_that_is_ready_cancels_the_pool() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    let one = alive.one();
    pool.spawn(async move {
        let _one = one;
        pending::<()>().await;
    });
    pool.cancel_on(ready("whatever"));
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 0);

    let error = Pool::open(async |pool: Pool| {
        pool.cancel_on(ready(()));
        pending::<()>().await;
        Ok(())
    });
    assert!(error.await.unwrap_err().is_cancelled());
}

#[apply(current_thread)]
async fn a_signal_that_is_never_ready_does_not_use_up_the_grace() {
    let (pool, begin): (Pool, _) = (Pool::builder().grace(LONG).build(), Instant::now());
    pool.cancel_on(pending::<()>());
    pool.spawn(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!(begin.elapsed(), secs(1));

    for busy_signal in [false, true] {
        let pool: Pool = Pool::builder().grace(LONG).build();
        if busy_signal {
            pool.cancel_on(busy())
        } else {
            pool.cancel_on(pending::<()>())
        }
        pool.spawn(async { cancellation_token().cancelled().await });
        let (stop, begin) = (pool.clone(), Instant::now());
        pool.spawn(async move { stop.cancel() });
        pool.run().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "a signal uses up the grace; busy: {busy_signal}");
    }
}

#[apply(current_thread)]
async fn a_signal_gives_the_tasks_their_grace() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    let ended = log.clone();
    pool.spawn(async move {
        cancellation_token().cancelled().await;
        sleep(secs(2)).await;
        ended.push("ended");
    });
    pool.cancel_on(sleep(secs(60)));
    pool.run().await.unwrap();
    assert_eq!((begin.elapsed(), log.events().len()), (secs(62), 1));
}

#[apply(both)]
async fn a_signal_is_dropped_before_the_pool_has_ended_and_its_panic_is_a_failure() {
    let (pool, (begun, wait)) = (kept_open(), oneshot::channel());
    pool.cancel_on(async move {
        let _panics = OnDrop::new(|| quiet_panic("destructor"));
        begun.send(()).unwrap();
        pending::<()>().await;
    });
    let running = running(&pool);
    wait.await.unwrap();
    pool.cancel();
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["panic: destructor"]);
}

#[apply(both)]
async fn the_output_of_a_signal_is_dropped() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    pool.spawn(pending::<()>());
    let one = alive.one();
    pool.cancel_on(async move { one });
    assert_eq!(alive.count(), 1);
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[test]
fn a_planned_pool_that_never_runs_drops_its_signal() {
    let (alive, polled) = (Alive::default(), Log::default());
    for cancelled in [false, true] {
        let pool = Pool::<BoxError>::new();
        let (one, log) = (alive.one(), polled.clone());
        pool.cancel_on(async move {
            let _one = one;
            log.push("polled");
        });
        assert_eq!(
            (alive.count(), pool.len()),
            (1, 0),
            "the plan keeps the signal, which is no task; cancelled: {cancelled}"
        );
        if cancelled {
            pool.cancel();
        } else {
            drop(pool);
        }
        assert_eq!(alive.count(), 0, "the signal is kept; cancelled: {cancelled}");
    }
    assert!(polled.events().is_empty());
}

#[apply(current_thread)]
async fn the_first_of_several_signals_cancels_the_pool() {
    let (pool, alive, begin) = (kept_open(), Alive::default(), Instant::now());
    for wait in [30, 10, 20] {
        let one = alive.one();
        pool.cancel_on(async move {
            let _one = one;
            sleep(secs(wait)).await;
        });
    }
    pool.run().await.unwrap();
    assert_eq!((begin.elapsed(), alive.count()), (secs(10), 0));
}

#[apply(both)]
async fn a_signal_cancels_its_own_pool_and_no_other() {
    let outer = Pool::open(async |outer: Pool| {
        let inner = kept_open();
        inner.cancel_on(async { yield_now().await });
        inner.run().await?;
        Ok(outer.is_closed())
    });
    assert!(!outer.await.unwrap());
}

#[apply(both)]
async fn a_signal_takes_no_slot_and_is_inside_the_pool() {
    let (log, pool): (_, Pool) = (Log::default(), Pool::builder().name("mine").limit(1).build());
    let (end, seen) = (LatchEvent::new(), log.clone());
    let (go, signalled) = (end.wait_set(), end.clone());
    pool.spawn(go);
    pool.cancel_on(async move {
        seen.push(Pool::<BoxError>::current().name().unwrap().to_owned());
        signalled.set();
        pending::<()>().await;
    });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["mine"]);
}

#[apply(both)]
async fn a_watcher_that_has_ended_is_no_task_less() {
    let pool: Pool = with_grace(Duration::MAX).keep_open(true).build();
    let (alive, log, began) = (Alive::default(), Log::default(), LatchEvent::new());
    let (one, gone, has_begun) = (alive.one(), alive.clone(), began.wait_set());
    pool.cancel_on(async move {
        let _one = one;
        pending::<()>().await
    });
    let (own, said) = (pool.clone(), log.clone());
    pool.build_task().daemon().spawn(async move {
        began.set();
        asked().await;
        until(|| gone.count() == 0).await;
        turns(10).await;
        said.push(own.len().to_string());
    });
    let run = tokio::spawn(pool.clone().run());
    has_begun.await;
    pool.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(log.events(), ["1"], "the daemon");
}

#[apply(current_thread)]
async fn a_signal_that_would_cancel_a_closing_pool_is_not_waited_for() {
    // As a watcher that has others beside it, and as the first.
    let cancels: [fn(&Pool); 2] = [|pool| pool.cancel_on(yield_now()), |pool| pool.cancel()];
    for cancel in cancels {
        let pool: Pool = with_grace(secs(10)).build();
        let (late, log) = (pool.clone(), Log::default());
        let polled = log.clone();
        pool.spawn(async move {
            asked().await;
            late.cancel_on(async move { polled.push("polled") });
            late.cancel_on(pending::<()>());
            sleep(secs(1)).await;
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        cancel(&pool);
        assert!(run.await.is_ok());
        assert!(log.events().is_empty());
    }
}
