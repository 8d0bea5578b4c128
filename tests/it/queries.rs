//! What a handle of a pool tells: `is_closed`, `closing_reason`, `len`, `name`, its debug text.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, ClosingReason, LatchEvent, Pool, cancellation_token};
use macro_rules_attribute::apply;
use tokio::sync::{Barrier, oneshot};
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    LONG, Outcome, both, current_thread, kept_open, nested, poll_once, poll_until, until, with_grace,
};

#[apply(both)]
async fn is_closed_from_the_first_cause_on() {
    let pool = Pool::<BoxError>::new();
    assert!(!pool.is_closed());
    let own = pool.clone();
    pool.spawn(async move {
        assert!(!own.is_closed());
        own.cancel();
        assert!(own.is_closed());
    });
    let seen = pool.clone();
    pool.run().await.unwrap();
    assert!(seen.is_closed());
}

#[apply(both)]
async fn many_waiters_hear_that_the_pool_closes() {
    let pool = Pool::<BoxError>::new();
    let ready = Arc::new(Barrier::new(101));
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let (pool, ready) = (pool.clone(), Arc::clone(&ready));
            tokio::spawn(async move {
                ready.wait().await;
                pool.cancelled().await;
            })
        })
        .collect();
    ready.wait().await;
    pool.cancel();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    pool.cancelled().await;
}

#[apply(both)]
async fn a_waiter_is_pending_until_the_pool_closes() {
    let outcome: Outcome = Pool::open(async |pool| {
        let mut waiter = tokio_test::task::spawn(pool.cancelled());
        assert_pending!(waiter.poll());
        pool.spawn(async {});
        assert_pending!(waiter.poll());
        pool.cancel();
        assert!(waiter.is_woken());
        assert_ready!(waiter.poll());
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_waiter_outside_does_not_hold_the_pool_open() {
    let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
        let waiting = pool.clone();
        Ok(tokio::spawn(async move { waiting.cancelled().await }))
    })
    .await;
    outcome.unwrap().await.unwrap();
}

#[apply(both)]
async fn len_counts_the_tasks_that_have_not_ended() {
    let pool = Pool::<BoxError>::new();
    assert!(pool.is_empty());
    let (release, released) = oneshot::channel::<()>();
    pool.spawn(async { drop(released.await) });
    pool.spawn(async {});
    assert_eq!((pool.len(), pool.is_empty(), pool.is_closed()), (2, false, false));
    let seen = pool.clone();
    let mut run = pin!(pool.run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    until(|| seen.len() == 1).await;
    seen.spawn(pending::<()>());
    assert_eq!(seen.len(), 2);
    release.send(()).unwrap();
    until(|| seen.len() == 1).await;
    seen.cancel();
    run.await.unwrap();
    assert_eq!((seen.len(), seen.is_empty(), seen.is_closed()), (0, true, true));
}

/// They are no tasks in a pool that runs, either.
#[apply(both)]
async fn len_does_not_count_the_watchers_of_a_planned_pool() {
    let watchers: [fn(&Pool); 3] = [
        |pool| pool.cancel_on(pending::<()>()),
        |pool| pool.cancel_at(Some(Instant::now() + LONG)),
        |pool| pool.abort_on(pending::<()>()),
    ];
    for (nth, watch) in watchers.into_iter().enumerate() {
        let pool = Pool::<BoxError>::new();
        watch(&pool);
        assert_eq!((pool.len(), pool.is_empty()), (0, true), "watcher {nth}");
        assert_eq!(format!("{pool:?}"), "Pool { name: None, state: planned, len: 0 }", "watcher {nth}");
        let (leave, left) = oneshot::channel::<()>();
        pool.spawn(async { drop(left.await) });
        assert_eq!((pool.len(), pool.is_empty()), (1, false), "watcher {nth}");
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        assert_eq!(pool.len(), 1, "watcher {nth}");
        drop(leave);
        run.await.unwrap();
        assert!(pool.is_empty(), "watcher {nth}");
    }
}

#[apply(both)]
async fn len_follows_spawns_and_ends() {
    Pool::open(async |pool: Pool| {
        assert!(pool.is_empty());
        let mut running = Vec::new();
        for _ in 0..2 {
            let (open, gate) = oneshot::channel::<()>();
            running.push((open, pool.spawn_with_handle(async { Ok(gate.await?) })));
        }
        for _ in 0..16 {
            assert_eq!(pool.len(), 2);
            let (open, handle) = running.remove(0);
            open.send(()).unwrap();
            handle.await?;
            // The handle is ready a moment before tokio has published the end.
            while pool.len() != 1 {
                yield_now().await;
            }
            let (open, gate) = oneshot::channel::<()>();
            running.push((open, pool.spawn_with_handle(async { Ok(gate.await?) })));
        }
        for (open, _) in running {
            open.send(()).unwrap();
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_pool_knows_its_name() {
    assert_eq!(Pool::<BoxError>::new().name(), None);
    assert_eq!(Pool::<BoxError>::builder().name("web").build().name(), Some("web"));
    assert_eq!(Pool::<BoxError>::builder().name(String::from("owned")).build().clone().name(), Some("owned"));
    let name = Pool::<BoxError>::builder().name("api").open(async |pool| Ok(pool.name().map(str::to_owned)));
    assert_eq!(name.await.unwrap().as_deref(), Some("api"));
}

#[apply(both)]
async fn debug_shows_name_state_and_len() {
    let pool = Pool::<BoxError>::builder().name("web").build();
    let (open, gate) = oneshot::channel::<()>();
    let (started, wait) = oneshot::channel();
    pool.spawn_blocking(move || {
        started.send(()).unwrap();
        drop(gate.blocking_recv());
    });
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: planned, len: 1 }"#);
    let mut run = task::spawn(pool.clone().run());
    assert_pending!(run.poll());
    wait.await.unwrap();
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: running, len: 1 }"#);
    pool.cancel();
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closing, len: 1 }"#);
    assert_pending!(run.poll());
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closing, len: 1 }"#);
    open.send(()).unwrap();
    run.await.unwrap();
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closed, len: 0 }"#);
    let unnamed = format!("{:?}", Pool::<BoxError>::default());
    assert_eq!(unnamed, r#"Pool { name: None, state: planned, len: 0 }"#);
}

#[apply(both)]
async fn cancelled_is_ready_once_the_pool_has_ended() {
    let pool = Pool::<BoxError>::new();
    let other = pool.clone();
    let mut cancelled = task::spawn(other.cancelled());
    assert_pending!(cancelled.poll());
    pool.clone().run().await.unwrap();
    assert!(cancelled.is_woken());
    assert_eq!(cancelled.poll(), Poll::Ready(()));
    assert_eq!(task::spawn(pool.cancelled()).poll(), Poll::Ready(()));
}

// ===== `closing_reason` =====

#[apply(both)]
async fn a_closing_reason_is_there_for_tasks_during_grace() {
    for (how, expected) in [
        ("completed", "completed"),
        ("failed", "failed"),
        ("body failed", "failed"),
        ("cancelled", "cancelled"),
        ("stop", "cancelled: stop"),
    ] {
        let seen = Arc::new(Mutex::new(None));
        let see = seen.clone();
        let opened = Pool::<BoxError>::builder().grace(LONG).open(async |pool: Pool| {
            assert_eq!(pool.closing_reason(), None);
            let own = pool.clone();
            pool.build_task().daemon().spawn(async move {
                cancellation_token().cancelled().await;
                *see.lock().unwrap() = own.closing_reason();
            });
            match how {
                "failed" => pool.spawn(async { Err("broken".into()) }),
                "body failed" => return Err("broken".into()),
                "cancelled" => pool.cancel(),
                "stop" => {
                    pool.cancel_with("stop");
                    pool.cancel_with("too late");
                }
                _ => {}
            }
            Ok(())
        });
        let outcome = opened.await;
        let seen = seen.lock().unwrap().take().unwrap();
        assert_eq!(seen.to_string(), expected, "{how}");
        assert_eq!(seen.cancel_reason(), expected.strip_prefix("cancelled: "));
        if let Err(error) = outcome {
            assert_eq!(*error.closing_reason(), seen, "{how}");
        }
    }
}

#[apply(both)]
async fn a_pool_that_is_nested_closes_because_its_parent_does() {
    let (inner, seen) = (Pool::<BoxError>::builder().grace(LONG).keep_open(true).build(), LatchEvent::new());
    let (own, sees) = (inner.clone(), seen.clone());
    inner.spawn(async move {
        cancellation_token().cancelled().await;
        assert!(matches!(own.closing_reason(), Some(ClosingReason::ParentClosing(_))));
        sees.set();
    });
    let outer = Pool::<BoxError>::builder().grace(LONG).open(async |pool: Pool| {
        pool.spawn(async { Ok(inner.run().await?) });
        yield_now().await;
        until(|| pool.tree().nodes().count() == 4).await;
        pool.cancel();
        Ok(())
    });
    outer.await.unwrap();
    assert!(seen.is_set());
}

#[apply(both)]
async fn a_pool_whose_future_is_dropped_closes_for_that() {
    let pool = Pool::<BoxError>::builder().keep_open(true).build();
    let mut run = Box::pin(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    drop(run);
    assert_eq!(pool.closing_reason(), Some(ClosingReason::Dropped));

    let unpolled = Pool::<BoxError>::new();
    drop(unpolled.clone().run());
    assert_eq!(unpolled.closing_reason(), Some(ClosingReason::Dropped));
}

#[apply(both)]
async fn the_first_reason_stays() {
    let pool = Pool::<BoxError>::builder().grace(LONG).build();
    let own = pool.clone();
    pool.spawn(async move {
        own.cancel_with("first");
        Err("broken meanwhile".into())
    });
    let error = pool.clone().run().await.unwrap_err();
    assert_eq!(error.closing_reason().to_string(), "cancelled: first");
    assert_eq!((error.failures().len(), error.cancel_reason()), (1, Some("first")));
    assert_eq!(pool.closing_reason().as_ref(), Some(error.closing_reason()));
}

#[apply(current_thread)]
async fn a_nested_pool_knows_why_the_pool_around_it_closes_with_and_without_time() {
    for grace in [Duration::ZERO, LONG] {
        let [outer, inner] = nested([with_grace(grace), Pool::builder()]);
        inner.spawn(pending::<()>());
        let mut run = pin!(outer.clone().run());
        poll_until(run.as_mut(), || inner.len() == 1 && format!("{inner:?}").contains("running")).await;
        outer.cancel_with("deployment");
        run.await.unwrap();
        let reason = inner.closing_reason().unwrap();
        assert_eq!(reason.to_string(), "the enclosing pool closes: cancelled: deployment", "grace: {grace:?}");
    }
    let (outer, inner) = (kept_open(), Pool::<BoxError>::new());
    inner.spawn(pending::<()>());
    let owner = inner.clone();
    let handle = outer.spawn_with_handle(async move { Ok(owner.run().await?) });
    let mut run = pin!(outer.clone().run());
    poll_until(run.as_mut(), || format!("{inner:?}").contains("running")).await;
    handle.cancel();
    poll_until(run.as_mut(), || inner.is_closed()).await;
    assert_eq!(inner.closing_reason().unwrap().to_string(), "the task around it was aborted");
    outer.cancel();
    run.await.unwrap();
}
