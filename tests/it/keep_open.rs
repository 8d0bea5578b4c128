//! `keep_open`: a pool that waits for work.

use std::future::pending;
use std::pin::pin;

use aiodrive::{BoxError, LatchEvent, Pool};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::support::{
    Alive, LONG, Log, Slot, both, busy, fails, failures, kept_open, running, secs, stays_pending, turns, until,
};

#[apply(both)]
async fn a_pool_that_waits_for_its_handles_ends_with_the_last() {
    let pool: Pool = Pool::builder().keep_open(true).build();
    let run = tokio::spawn(pool.clone().run());
    let other = pool.clone();
    turns(100).await;
    drop(pool);
    turns(100).await;
    assert!(!run.is_finished());
    drop(other);
    run.await.unwrap().unwrap();
}

#[apply(both)]
async fn a_pool_that_is_kept_open_ends_when_nothing_can_come_any_more() {
    kept_open().run().await.unwrap();

    let pool = kept_open();
    pool.spawn(async {});
    pool.run().await.unwrap();

    let (pool, end) = (kept_open(), LatchEvent::new());
    let (handle, gate) = (pool.clone(), end.clone());
    pool.spawn(async move {
        gate.wait_set().await;
        drop(handle);
    });
    let mut run = pin!(pool.run());
    // A task has a handle.
    stays_pending(run.as_mut()).await;
    end.set();
    run.await.unwrap();
}

#[apply(both)]
async fn a_handle_a_daemon_and_a_watcher_keep_a_pool_open() {
    let holders: [fn(&Pool); 4] = [
        |pool| pool.build_task().daemon().spawn(pending::<()>()),
        |pool| pool.cancel_on(pending::<()>()),
        |pool| pool.abort_on(pending::<()>()),
        |pool| pool.cancel_at(Some(Instant::now() + secs(1_000))),
    ];
    for hold in holders {
        let pool = kept_open();
        hold(&pool);
        stays_pending(pin!(pool.run())).await;
    }
    let pool = kept_open();
    let mut run = pin!(pool.clone().run());
    stays_pending(run.as_mut()).await;
    pool.cancel_at(Some(Instant::now() + secs(1_000)));
    pool.cancel_at(None);
    drop(pool);
    run.await.unwrap();
}

#[apply(both)]
async fn a_pool_that_is_kept_open_stays_when_its_tasks_have_ended() {
    let (pool, log) = (kept_open(), Log::default());
    let mut run = Box::pin(pool.clone().run());
    stays_pending(run.as_mut()).await;
    for n in 1..=3 {
        let log = log.clone();
        let handle = pool.spawn_with_handle(async move {
            log.push(n.to_string());
            Ok(())
        });
        stays_pending(run.as_mut()).await;
        handle.await.unwrap();
    }
    assert_eq!(log.events(), ["1", "2", "3"]);
    pool.cancel();
    run.await.unwrap();
}

#[apply(both)]
async fn keep_open_can_be_taken_back() {
    let pool: Pool = Pool::builder().keep_open(true).keep_open(false).build();
    pool.clone().run().await.unwrap();
}

#[apply(both)]
async fn a_later_failure_closes_a_pool_that_is_kept_open_and_idle() {
    let pool = kept_open();
    let mut run = Box::pin(pool.clone().run());
    stays_pending(run.as_mut()).await;
    pool.spawn_with_handle(async { Ok(()) }).await.unwrap();
    until(|| pool.is_empty()).await;
    stays_pending(run.as_mut()).await;
    pool.spawn(fails("broken"));
    assert_eq!(failures(run.await.unwrap_err().failures()), ["error: broken"]);
}

#[apply(both)]
async fn a_pool_that_is_kept_open_stays_when_its_body_has_returned() {
    let (log, handle) = (Log::default(), Slot::<Pool>::default());
    let mut opened = Box::pin(Pool::builder().keep_open(true).open(async |pool: Pool| {
        *handle.lock().unwrap() = Some(pool);
        Ok("value")
    }));
    stays_pending(opened.as_mut()).await;
    let (pool, ran) = (handle.lock().unwrap().take().unwrap(), log.clone());
    assert!(!pool.is_closed());
    pool.spawn(async move { ran.push("ran") });
    until(|| !log.events().is_empty()).await;
    stays_pending(opened.as_mut()).await;
    pool.cancel();
    assert_eq!(opened.await.unwrap(), "value");
}

#[apply(both)]
async fn a_body_that_fails_closes_a_pool_that_is_kept_open() {
    let handle = Slot::<Pool>::default();
    let opened = Pool::builder().keep_open(true).open(async |pool: Pool| {
        *handle.lock().unwrap() = Some(pool);
        Err::<(), _>("body".into())
    });
    assert_eq!(failures(opened.await.unwrap_err().failures()), ["error: body"]);
}

#[apply(both)]
async fn a_pool_that_is_kept_open_keeps_its_daemons() {
    let (pool, alive) = (kept_open(), Alive::default());
    let one = alive.one();
    pool.build_task().daemon().spawn(async move {
        let _one = one;
        pending::<()>().await;
    });
    let mut run = Box::pin(pool.clone().run());
    stays_pending(run.as_mut()).await;
    assert_eq!(alive.count(), 1);
    pool.cancel();
    run.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_pool_that_is_kept_open_closes_when_the_enclosing_one_is_asked_to_stop() {
    let outer: Pool = Pool::builder().grace(LONG).build();
    let (log, (begun, wait)) = (Log::default(), oneshot::channel());
    let events = log.clone();
    outer.spawn(async move {
        let inner = kept_open();
        let _kept = inner.clone();
        inner.spawn(async move { begun.send(()).unwrap() });
        inner.run().await.unwrap();
        events.push("the inner pool has ended by itself");
    });
    let running = running(&outer);
    wait.await.unwrap();
    assert!(!running.is_finished());
    outer.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(log.events(), ["the inner pool has ended by itself"]);
}

#[apply(both)]
async fn a_pool_that_is_kept_open_is_cut_off_with_an_enclosing_one_without_grace() {
    let (outer, alive, (begun, wait)) = (Pool::<BoxError>::new(), Alive::default(), oneshot::channel());
    let one = alive.one();
    outer.spawn(async move {
        let inner = kept_open();
        inner.spawn(async move {
            let _one = one;
            begun.send(()).unwrap();
            busy().await;
        });
        inner.run().await.unwrap();
    });
    let running = running(&outer);
    wait.await.unwrap();
    outer.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(alive.count(), 0);
}
