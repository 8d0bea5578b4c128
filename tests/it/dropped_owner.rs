//! A pool whose owner is dropped: it closes by the same steps, and the enclosing pool waits.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use aiodrive::{BoxError, Pool};
use macro_rules_attribute::apply;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::support::{
    Alive, Clock, GRACE, Log, Outcome, Witness, asked, both, current_thread, dropped_after, endless, failures,
    poll_once, poll_until, secs, until, with_and_without_grace, with_grace, with_stubborn_task,
};

// ===== dropped owners =====

#[apply(current_thread)]
async fn the_closing_of_a_dropped_owner_goes_through_the_same_steps() {
    let clock = Clock::start();
    let outcome: Outcome = Pool::open(async |_| {
        let inner = with_grace(GRACE).build();
        for (depth, name) in [(-1, "-1 gone"), (2, "2 gone"), (0, "0 gone")] {
            inner.build_task().depth(depth).spawn(clock.stubborn(name));
        }
        dropped_after(secs(1), inner.run()).await;
        clock.say("dropped");
        Ok(())
    })
    .await;
    outcome.unwrap();
    clock.say("returned");
    assert_eq!(
        clock.events(),
        ["1: dropped", "1: asked", "11: 2 gone", "11: asked", "21: 0 gone", "21: asked", "31: -1 gone", "31: returned"]
    );
}

#[apply(current_thread)]
async fn a_body_that_is_dropped_in_the_grace_is_gone_at_once() {
    let clock = Clock::start();
    let outcome: Outcome = Pool::open(async |_| {
        let opened = with_grace(GRACE).open(async |pool: Pool| -> Result<(), BoxError> {
            pool.spawn(clock.stubborn("task gone"));
            let _gone = clock.on_drop("body gone");
            pool.cancel();
            pending().await
        });
        dropped_after(secs(4), opened).await;
        clock.say("dropped");
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(clock.events(), ["0: asked", "4: body gone", "4: dropped", "10: task gone"]);
}

#[apply(both)]
async fn tasks_of_a_dropped_owner_can_spawn_during_the_grace() {
    let (log, said) = (Log::default(), Log::default());
    let outcome: Outcome = Pool::open(async |_| {
        let inner = with_grace(Duration::MAX).build();
        let (log, begun) = (log.clone(), said.clone());
        inner.spawn(async move {
            begun.push("began");
            asked().await;
            let helper = Pool::<BoxError>::current().spawn_with_handle(async { Ok(7) });
            log.push(format!("{:?}", helper.await));
        });
        let mut run = pin!(inner.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        until(|| !said.events().is_empty()).await;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["Ok(7)"]);
}

#[apply(both)]
async fn what_fails_in_the_grace_of_a_dropped_owner_is_a_cleanup_failure() {
    let begun = Alive::default();
    let outcome: Outcome = Pool::open(async |_| {
        let inner = with_grace(Duration::MAX).build();
        for message in ["first", "second"] {
            let begun = begun.clone();
            inner.spawn(async move {
                let _one = begun.one();
                asked().await;
                Err(message.into())
            });
        }
        let mut run = pin!(inner.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        until(|| begun.count() == 2).await;
        Ok(())
    })
    .await;
    let error = outcome.unwrap_err();
    let mut texts = failures(error.cleanup_failures());
    texts.sort();
    assert_eq!(texts, ["error: first", "error: second"]);
    assert!(error.failures().is_empty());
    assert_eq!(begun.count(), 0);
}

#[apply(current_thread)]
async fn with_no_enclosing_pool_the_runtime_carries_the_grace_on() {
    let (inner, clock) = with_stubborn_task(GRACE);
    dropped_after(secs(1), inner.run()).await;
    clock.say("dropped");
    sleep(secs(9)).await;
    assert_eq!(clock.events(), ["1: dropped", "1: asked"]);
    sleep(secs(2)).await;
    assert_eq!(clock.events()[2..], ["11: gone"]);
}

#[apply(both)]
async fn an_owner_that_is_dropped_during_the_abort_is_waited_for() {
    with_and_without_grace(async |w: Witness| {
        let (ended, alive) = (Arc::new(AtomicBool::new(false)), w.alive.clone());
        let grace = if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO };
        let outcome: Outcome = Pool::open(async |_| {
            let (release, blocked) = mpsc::channel::<()>();
            let (begun, running) = oneshot::channel();
            {
                let (inner, ended, one) = (with_grace(grace).build(), Arc::clone(&ended), alive.one());
                inner.spawn_blocking(move || {
                    let _one = one;
                    begun.send(()).unwrap();
                    let _ = blocked.recv();
                    ended.store(true, Ordering::SeqCst);
                });
                let aborted = Alive::default();
                let one = aborted.one();
                inner.spawn(async move {
                    let _one = one;
                    pending::<()>().await
                });
                let mut run = pin!(inner.clone().run());
                assert!(poll_once(run.as_mut()).await.is_pending());
                running.await?;
                inner.cancel();
                // The clock of the runtime stands still as long as the closure runs.
                while aborted.count() > 0 {
                    assert!(poll_once(run.as_mut()).await.is_pending());
                    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
                        tokio::time::advance(Duration::from_millis(1)).await;
                    }
                    yield_now().await;
                }
                assert!(inner.try_spawn(async {}).is_err());
            }
            assert!(!ended.load(Ordering::SeqCst));
            drop(release);
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert!(ended.load(Ordering::SeqCst));
        assert_eq!(w.alive.count(), 0);
    })
    .await;
}

#[apply(both)]
async fn a_future_that_was_never_polled_leaves_nothing_to_be_graceful_with() {
    let alive = Alive::default();
    let pool = with_grace(Duration::MAX).build();
    let one = alive.one();
    pool.spawn(async move {
        let _one = one;
        asked().await;
    });
    drop(pool.clone().run());
    assert_eq!(alive.count(), 0);
    assert!(pool.is_closed() && pool.try_spawn(async {}).is_err());
}

// ===== the owner is dropped =====

#[apply(both)]
async fn dropping_the_owner_drops_the_body_and_closes_the_pool() {
    let (alive, log) = (Alive::default(), Log::default());
    let mut handle = None;
    {
        let mut open = Box::pin(Pool::open(async |pool: Pool| {
            let _body = log.on_drop("body");
            handle = Some(pool.clone());
            pool.spawn(endless(&alive));
            pending::<Result<(), BoxError>>().await
        }));
        assert!(poll_once(open.as_mut()).await.is_pending());
        drop(open);
        log.push("dropped");
    }
    let pool = handle.unwrap();
    assert!(pool.is_closed());
    assert_eq!(log.events(), ["body", "dropped"]);
    until(|| alive.count() == 0 && pool.is_empty()).await;
}

#[apply(current_thread)]
async fn without_a_grace_dropping_the_owner_aborts_at_once() {
    let alive = Alive::default();
    let mut open = Box::pin(Pool::open(async |pool: Pool| {
        pool.spawn(endless(&alive));
        pending::<Result<(), BoxError>>().await
    }));
    assert!(poll_once(open.as_mut()).await.is_pending());
    yield_now().await;
    assert_eq!(alive.count(), 1);
    drop(open);
    assert_eq!(alive.count(), 1, "tasks are dropped later");
    // It has its turn before whatever is spawned now.
    let left = tokio::spawn(async move { alive.count() });
    assert_eq!(left.await.unwrap(), 0);
}

/// What a pool keeps of its place in the tree must go when its owner does, even if somebody keeps a handle: the pool
/// around it would wait for ever.
#[apply(both)]
async fn a_handle_of_a_pool_whose_owner_was_dropped_does_not_delay_the_pool_around() {
    for spawns in [false, true] {
        let mut kept = None;
        let opened: Outcome = Pool::open(async |_: Pool| {
            let mut open = Box::pin(Pool::<BoxError>::builder().keep_open(true).open(async |inner| {
                if spawns {
                    inner.spawn(pending::<()>());
                }
                kept = Some(inner);
                Ok(())
            }));
            assert!(poll_once(open.as_mut()).await.is_pending());
            drop(open);
            Ok(())
        })
        .await;
        opened.unwrap();
        assert!(kept.unwrap().is_closed(), "the pool is still open; spawns: {spawns}");
    }
}

#[apply(both)]
async fn dropping_the_owner_while_it_closes_loses_nothing() {
    let (release, released) = mpsc::channel::<()>();
    let alive = Alive::default();
    let one = alive.one();
    let outcome: Outcome = Pool::open(async |_| {
        let handle = OnceLock::new();
        let mut inner = Box::pin(Pool::open(async |pool: Pool| {
            assert!(handle.set(pool.clone()).is_ok());
            let (began, has_begun) = oneshot::channel();
            pool.spawn_blocking(move || {
                let _one = one;
                began.send(()).unwrap();
                let _ = released.recv();
            });
            has_begun.await?;
            Err::<(), BoxError>("body".into())
        }));
        poll_until(inner.as_mut(), || handle.get().is_some_and(Pool::is_closed)).await;
        drop(inner);
        release.send(()).unwrap();
        Ok(())
    })
    .await;
    assert_eq!(alive.count(), 0);
    assert_eq!(failures(outcome.unwrap_err().cleanup_failures()), ["error: body"]);
}
