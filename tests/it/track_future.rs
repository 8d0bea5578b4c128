//! `track_future`: a future that is a member of its pool, and is polled by somebody else.

use std::future::{pending, ready};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, TaskStopped};
use macro_rules_attribute::apply;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{Outcome, asked, both, poll_once, quiet_panic, secs, until, with_grace};

#[apply(both)]
async fn a_tracked_future_is_a_member_of_its_pool() {
    let pool: Pool = with_grace(secs(10)).name("web").build();
    let handle = pool.clone();
    let (begun, running) = (LatchEvent::new(), LatchEvent::new());
    let (set, go) = (begun.clone(), running.clone());
    let tracked = pool.build_task().name("request").track_future(async move {
        assert_eq!(Pool::<BoxError>::current().name(), Some("web"));
        set.set();
        asked().await;
        go.wait_set().await;
        7
    });
    let somebody = tokio::spawn(tracked);
    let run = tokio::spawn(pool.clone().run());
    begun.wait_set().await;
    assert_eq!(handle.len(), 1);
    assert!(handle.tree().nodes().any(|node| node.name() == Some("request")));
    pool.cancel();
    until(|| handle.is_closed()).await;
    for _ in 0..5 {
        yield_now().await;
    }
    assert!(!run.is_finished(), "the pool waits for it");
    running.set();
    assert_eq!(somebody.await.unwrap(), Ok(7));
    run.await.unwrap().unwrap();
    assert_eq!(handle.len(), 0);
}

#[apply(both)]
async fn a_tracked_future_waits_for_a_planned_pool_and_lets_go_when_it_is_dropped() {
    let pool: Pool = Pool::new();
    let mut tracked = Box::pin(pool.track_future(async { 7 }));
    assert!(poll_once(tracked.as_mut()).await.is_pending());
    let (outcome, answer) = tokio::join!(pool.run(), tracked);
    assert_eq!((outcome.unwrap(), answer), ((), Ok(7)));

    let opened: Outcome = Pool::open(async |pool: Pool| {
        let mut dropped = Box::pin(pool.track_future(pending::<()>()));
        assert!(poll_once(dropped.as_mut()).await.is_pending());
        let unpolled = pool.track_future(pending::<()>());
        assert_eq!(pool.len(), 2);
        drop(dropped);
        drop(unpolled);
        assert_eq!(pool.len(), 0);
        Ok(())
    })
    .await;
    opened.unwrap();
}

#[apply(both)]
async fn a_tracked_future_is_aborted_although_many_have_come_and_gone() {
    let pool: Pool = with_grace(Duration::MAX).keep_open(true).build();
    let run = tokio::spawn(pool.clone().run());
    let tracked = tokio::spawn(pool.track_future(pending::<()>()));
    for _ in 0..100 {
        pool.track_future(ready(())).await.unwrap();
    }
    pool.abort();
    assert_eq!(tracked.await.unwrap(), Err(TaskStopped::Cancelled));
    run.await.unwrap().unwrap();
}

#[apply(both)]
async fn the_panic_of_a_tracked_future_is_that_of_who_polls_it() {
    let opened: Outcome = Pool::open(async |pool: Pool| {
        let panicked = tokio::spawn(pool.track_future(async { quiet_panic("in the handler") }));
        assert!(panicked.await.unwrap_err().is_panic());
        Ok(())
    })
    .await;
    opened.unwrap();
}

#[apply(both)]
async fn a_tracked_future_that_is_dropped_before_its_pool_runs_is_no_member() {
    let pool: Pool = Pool::new();
    let tracked = pool.track_future(pending::<()>());
    let mut idle = task::spawn(pool.idle());
    assert_pending!(idle.poll());
    drop(tracked);
    assert!(idle.is_woken(), "whoever waits for the members looks again");
    assert_ready!(idle.poll());
    drop(idle);
    assert_eq!((pool.len(), pool.tree().nodes().count()), (0, 1));
    pool.run().await.unwrap();
}
