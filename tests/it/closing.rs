//! How a pool closes: each cause, what it does to the body and the tasks, and what `open` and `run` return.

use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, ClosingReason, Failure, OnFailure, Pool, PoolError, TaskStopped, race, timeout, try_all};
use tokio::runtime::Handle;
use tokio::sync::{Barrier, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

use crate::support::{
    Alive, Log, OnDrop, busy, failures, on_both, on_current_thread, on_multi_thread, panic_of, poll_once, poll_until,
    quiet_panic, stays_pending, until,
};

type Outcome<T = ()> = Result<T, PoolError>;

/// A task that never ends by itself.
fn endless(alive: &Alive) -> impl Future<Output = ()> + Send + use<> {
    let one = alive.one();
    async move {
        let _one = one;
        pending().await
    }
}

/// Blocks until the pool that this is called in has begun to close.
fn block_until_closed() {
    let pool: Pool = Pool::current();
    while !pool.is_closed() {
        thread::yield_now();
    }
}

// ===== the body returns =====

#[test]
fn tasks_left_by_the_body_run_to_their_end() {
    on_both(|| async {
        let ended = Arc::new(AtomicUsize::new(0));
        let outcome: Outcome<_> = Pool::open(async |pool| {
            for _ in 0..10 {
                let ended = Arc::clone(&ended);
                pool.spawn(async move {
                    for _ in 0..10 {
                        yield_now().await;
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
            Ok(42)
        })
        .await;
        assert_eq!((outcome.unwrap(), ended.load(Ordering::SeqCst)), (42, 10));
    });
}

#[test]
fn tasks_may_spawn_tasks_after_the_body_has_returned() {
    on_both(|| async {
        let count = Arc::new(AtomicUsize::new(0));
        fn generation(left: usize, count: Arc<AtomicUsize>) {
            Pool::<BoxError>::current().spawn(async move {
                count.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                if left > 0 {
                    generation(left - 1, Arc::clone(&count));
                    generation(left - 1, count);
                }
            });
        }
        let outcome: Outcome = Pool::open(async |_| {
            generation(6, Arc::clone(&count));
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 127);
    });
}

#[test]
fn an_error_of_the_body_aborts_the_tasks() {
    on_both(|| async {
        let alive = Alive::default();
        let outcome: Outcome = Pool::open(async |pool| {
            (0..10).for_each(|_| pool.spawn(endless(&alive)));
            yield_now().await;
            Err("body".into())
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body"]);
        assert!(error.failures()[0].task().is_body() && !error.is_cancelled());
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn an_error_of_the_body_drops_tasks_that_have_not_begun() {
    on_current_thread(|| async {
        let (alive, began) = (Alive::default(), Arc::new(AtomicBool::new(false)));
        let outcome: Outcome = Pool::open(async |pool| {
            let (one, began) = (alive.one(), Arc::clone(&began));
            pool.spawn(async move {
                let _one = one;
                began.store(true, Ordering::SeqCst);
            });
            Err("body".into())
        })
        .await;
        assert!(outcome.is_err() && !began.load(Ordering::SeqCst));
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_body_that_is_cut_short_with_handles_in_hand_detaches_nothing() {
    on_both(|| async {
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
    });
}

#[test]
fn a_panic_of_the_body_is_resumed_when_all_tasks_have_ended() {
    on_both(|| async {
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
    });
}

#[test]
fn a_panic_of_the_body_waits_for_blocking_tasks() {
    on_both(|| async {
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
    });
}

#[test]
fn a_panic_of_the_body_outranks_a_failure_of_a_task() {
    on_both(|| async {
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
    });
}

// ===== a task fails =====

#[test]
fn an_error_of_a_task_stops_the_body_and_the_siblings() {
    on_both(|| async {
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
    });
}

#[test]
fn a_panic_of_a_task_stops_the_body_and_the_siblings() {
    on_both(|| async {
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
    });
}

#[test]
fn a_failure_after_the_body_returned_discards_its_value() {
    on_both(|| async {
        let alive = Alive::default();
        let outcome: Outcome<_> = Pool::open(async |pool| {
            pool.spawn(endless(&alive));
            pool.spawn(async {
                yield_now().await;
                Err("task".into())
            });
            Ok(alive.one())
        })
        .await;
        assert_eq!(failures(outcome.err().unwrap().failures()), ["error: task"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_failure_is_reported_although_the_body_has_seen_it() {
    on_multi_thread(|| async {
        for _ in 0..1_000 {
            let outcome: Outcome<_> = Pool::open(async |pool| {
                let failing = pool.spawn_with_handle(async { Err::<(), _>("task".into()) });
                while !failing.is_finished() {
                    thread::yield_now();
                }
                Ok(42)
            })
            .await;
            assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
        }
    });
}

#[test]
fn a_task_may_fail_in_its_first_poll_while_the_body_is_busy() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async { Err("task".into()) });
            busy().await;
            Ok(())
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
    });
}

#[test]
fn a_body_that_waits_for_a_dead_task_is_interrupted() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            let (sender, receiver) = oneshot::channel::<()>();
            pool.spawn(async {
                let _sender = sender;
                pending::<()>().await;
            });
            pool.spawn(async { Err("task".into()) });
            receiver.await?;
            Ok(())
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: task"]);
    });
}

#[test]
fn a_failure_ends_the_pool_at_once() {
    on_current_thread(|| async {
        let began = Instant::now();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(sleep(Duration::from_secs(3600)));
            pool.spawn(async {
                sleep(Duration::from_millis(10)).await;
                Err("task".into())
            });
            pending().await
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(began.elapsed(), Duration::from_millis(10));
    });
}

#[test]
fn a_task_that_ends_well_closes_nothing() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async {});
            pool.spawn(async { Ok(()) });
            pool.spawn_with_handle(async { Ok(1) }).await?;
            until(|| pool.is_empty()).await;
            assert!(!pool.is_closed());
            assert_eq!(pool.spawn_with_handle(async { Ok(2) }).await, Ok(2));
            Ok(())
        })
        .await;
        outcome.unwrap();
    });
}

#[test]
fn a_failure_while_the_pool_closes_is_recorded_after_the_first() {
    on_both(|| async {
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
    });
}

// ===== somebody cancels =====

#[test]
fn a_task_may_cancel_its_pool() {
    on_both(|| async {
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
    });
}

#[test]
fn a_body_that_cancels_its_pool_stops_at_its_next_await() {
    on_both(|| async {
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
    });
}

#[test]
fn another_thread_may_cancel_a_pool() {
    on_both(|| async {
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
    });
}

#[test]
fn cancel_wakes_a_sleeping_driver() {
    on_multi_thread(|| async {
        for _ in 0..1_000 {
            let outcome: Outcome = Pool::open(async |pool| {
                let pool = pool.clone();
                thread::spawn(move || pool.cancel());
                pending().await
            })
            .await;
            assert!(outcome.unwrap_err().is_cancelled());
        }
    });
}

#[test]
fn a_cancelled_pool_gives_its_reason() {
    on_both(|| async {
        let outcome: Outcome = Pool::builder()
            .name("web")
            .open(async |pool: Pool| {
                pool.cancel_with(format!("signal {}", 15));
                pending().await
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(error.cancel_reason(), Some("signal 15"));
        assert_eq!(error.to_string(), r#"pool "web": pool cancelled: signal 15"#);
    });
}

#[test]
fn the_value_of_a_body_survives_a_later_cancel() {
    on_both(|| async {
        let alive = Alive::default();
        let outcome: Outcome<_> = Pool::open(async |pool| {
            pool.spawn(endless(&alive));
            pool.spawn(async {
                yield_now().await;
                Pool::<BoxError>::current().cancel_with("enough");
            });
            Ok(42)
        })
        .await;
        assert_eq!((outcome.unwrap(), alive.count()), (42, 0));
    });
}

#[test]
fn a_cancelled_run_is_ok() {
    on_both(|| async {
        let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
        pool.spawn(endless(&alive));
        let own = pool.clone();
        pool.spawn(async move {
            yield_now().await;
            own.cancel_with("enough");
        });
        pool.run().await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_failure_in_a_cancelled_run_is_an_error() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        pool.spawn_blocking(|| {
            Pool::<BoxError>::current().cancel_with("enough");
            Err("too late".into())
        });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: too late"]);
        assert!(!error.is_cancelled());
    });
}

#[test]
fn a_pool_that_was_cancelled_before_it_ran_runs_nothing() {
    on_both(|| async {
        let (alive, polled) = (Alive::default(), Arc::new(AtomicBool::new(false)));
        let (one, flag) = (alive.one(), Arc::clone(&polled));
        let pool = Pool::<BoxError>::new();
        pool.spawn(async move {
            let _one = one;
            flag.store(true, Ordering::SeqCst);
        });
        pool.cancel();
        assert_eq!((alive.count(), pool.len(), pool.is_closed()), (0, 0, true));
        pool.run().await.unwrap();
        assert!(!polled.load(Ordering::SeqCst));
    });
}

#[test]
fn cancelling_twice_is_cancelling_once() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.cancel_with("first");
            pool.cancel_with("second");
            pool.cancel();
            pending().await
        })
        .await;
        assert_eq!(outcome.unwrap_err().cancel_reason(), Some("first"));
    });
}

#[test]
fn cancel_after_a_failure_changes_nothing() {
    on_both(|| async {
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
    });
}

#[test]
fn cancel_after_the_end_changes_nothing() {
    on_both(|| async {
        let pool: Pool = Pool::open(async |pool| Ok(pool)).await.unwrap();
        pool.cancel_with("too late");
        assert!(pool.is_closed());
        assert_eq!(pool.closing_reason(), Some(ClosingReason::Completed));
    });
}

#[test]
fn cancelling_a_nested_pool_leaves_the_outer_one_open() {
    on_both(|| async {
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
    });
}

// ===== the owner is dropped =====

#[test]
fn dropping_the_owner_drops_the_body_and_closes_the_pool() {
    on_both(|| async {
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
    });
}

#[test]
fn without_a_grace_dropping_the_owner_aborts_at_once() {
    on_current_thread(|| async {
        let alive = Alive::default();
        let mut open = Box::pin(Pool::open(async |pool: Pool| {
            pool.spawn(endless(&alive));
            pending::<Result<(), BoxError>>().await
        }));
        assert!(poll_once(open.as_mut()).await.is_pending());
        yield_now().await;
        assert_eq!(alive.count(), 1);
        drop(open);
        // It has its turn before whatever is spawned now.
        let left = tokio::spawn(async move { alive.count() });
        assert_eq!(left.await.unwrap(), 0);
    });
}

/// What a pool keeps of its place in the tree must go when its owner does, even if somebody keeps a handle: the pool
/// around it would wait for ever.
#[test]
fn a_handle_of_a_pool_whose_owner_was_dropped_does_not_delay_the_pool_around() {
    on_both(|| async {
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
            assert!(kept.unwrap().is_closed());
        }
    });
}

#[test]
fn an_open_that_is_dropped_unpolled_never_calls_its_body() {
    on_both(|| async {
        let log = Log::default();
        let one = log.on_drop("dropped");
        drop(Pool::<BoxError>::open(async |_| {
            let _one = one;
            log.push("called");
            Ok(())
        }));
        assert_eq!(log.events(), ["dropped"]);
    });
}

#[test]
fn dropping_the_owner_while_it_closes_loses_nothing() {
    on_both(|| async {
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
    });
}

// ===== what a handle shows =====

#[test]
fn is_closed_from_the_first_cause_on() {
    on_both(|| async {
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
    });
}

#[test]
fn is_closed_is_seen_by_whoever_has_seen_a_failure() {
    on_multi_thread(|| async {
        for _ in 0..1_000 {
            let outcome: Outcome = Pool::open(async |pool| {
                let failing = pool.spawn_with_handle(async { Err::<(), _>("task".into()) });
                while !failing.is_finished() {
                    thread::yield_now();
                }
                assert!(pool.is_closed());
                Ok(())
            })
            .await;
            assert!(outcome.is_err());
        }
    });
}

#[test]
fn many_waiters_hear_that_the_pool_closes() {
    on_both(|| async {
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
    });
}

#[test]
fn a_waiter_is_pending_until_the_pool_closes() {
    on_both(|| async {
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
    });
}

#[test]
fn a_waiter_hears_that_the_pool_has_come_to_its_end() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let waiting = pool.clone();
        let mut waiter = pin!(waiting.cancelled());
        assert!(poll_once(waiter.as_mut()).await.is_pending());
        pool.run().await.unwrap();
        waiter.await;
    });
}

#[test]
fn a_waiter_outside_does_not_hold_the_pool_open() {
    on_both(|| async {
        let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
            let waiting = pool.clone();
            Ok(tokio::spawn(async move { waiting.cancelled().await }))
        })
        .await;
        outcome.unwrap().await.unwrap();
    });
}

#[test]
fn len_counts_the_tasks_that_have_not_ended() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        assert!(pool.is_empty());
        let (release, released) = oneshot::channel::<()>();
        pool.spawn(async { drop(released.await) });
        pool.spawn(async {});
        assert_eq!((pool.len(), pool.is_empty()), (2, false));
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
        assert!(seen.is_empty());
    });
}

#[test]
fn name_is_the_name_it_was_given() {
    on_both(|| async {
        let pool = Pool::<BoxError>::builder().name("web").build();
        assert_eq!((pool.name(), pool.clone().name()), (Some("web"), Some("web")));
        assert_eq!(Pool::<BoxError>::new().name(), None);
        let outcome: Outcome = Pool::builder()
            .name(String::from("own"))
            .open(async |pool: Pool| {
                assert_eq!(pool.name(), Some("own"));
                Ok(())
            })
            .await;
        outcome.unwrap();
    });
}

// ===== spawning while it closes =====

#[test]
fn a_closing_pool_refuses_tasks() {
    on_both(|| async {
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
    });
}

#[test]
fn no_task_slips_in_while_the_pool_closes() {
    on_multi_thread(|| async {
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
    });
}

#[test]
fn what_was_accepted_has_ended_when_the_pool_has() {
    on_multi_thread(|| async {
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
            assert_eq!(accepted.count(), 1);
            drop(refused);
        }
    });
}

// ===== planned pools =====

#[test]
fn an_empty_pool_is_ready_at_once() {
    on_both(|| async {
        let mut run = tokio_test::task::spawn(Pool::<BoxError>::new().run());
        assert_ready_ok!(run.poll());
        let mut open = tokio_test::task::spawn(Pool::<BoxError>::open(async |_| Ok(1)));
        assert_eq!(assert_ready_ok!(open.poll()), 1);
    });
}

#[test]
fn planned_tasks_begin_when_run_is_polled() {
    on_both(|| async {
        let (polled, pool) = (Arc::new(AtomicUsize::new(0)), Pool::<BoxError>::new());
        for _ in 0..3 {
            let polled = Arc::clone(&polled);
            pool.spawn(async move {
                polled.fetch_add(1, Ordering::SeqCst);
            });
        }
        let run = pool.run();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(polled.load(Ordering::SeqCst), 0);
        run.await.unwrap();
        assert_eq!(polled.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_run_that_is_dropped_unpolled_drops_the_planned_tasks() {
    on_both(|| async {
        let (alive, polled, pool) = (Alive::default(), Arc::new(AtomicBool::new(false)), Pool::<BoxError>::new());
        for _ in 0..3 {
            let (one, polled) = (alive.one(), Arc::clone(&polled));
            pool.spawn(async move {
                let _one = one;
                polled.store(true, Ordering::SeqCst);
            });
        }
        let planned = pool.spawn_with_handle(async { Ok(1) });
        let seen = pool.clone();
        drop(pool.run());
        assert_eq!((alive.count(), polled.load(Ordering::SeqCst)), (0, false));
        assert!(seen.is_closed() && seen.is_empty());
        assert_eq!(planned.await, Err(TaskStopped::Cancelled));
    });
}

#[test]
fn a_pool_that_is_never_run_drops_its_tasks_with_its_last_handle() {
    on_both(|| async {
        let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
        pool.spawn(endless(&alive));
        assert_eq!(alive.count(), 1);
        drop(pool);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_planned_pool_needs_no_runtime() {
    let (pool, count) = (Pool::<BoxError>::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..100 {
        let count = Arc::clone(&count);
        pool.spawn(async move {
            count.fetch_add(1, Ordering::SeqCst);
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pool.run()).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 100);
}

#[test]
fn plain_threads_may_spawn_in_a_running_pool() {
    on_both(|| async {
        let count = Arc::new(AtomicUsize::new(0));
        let outcome: Outcome = Pool::open(async |pool| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (pool, count) = (pool.clone(), Arc::clone(&count));
                    thread::spawn(move || {
                        for _ in 0..250 {
                            let count = Arc::clone(&count);
                            pool.spawn(async move {
                                count.fetch_add(1, Ordering::SeqCst);
                            });
                        }
                    })
                })
                .collect();
            until(|| threads.iter().all(thread::JoinHandle::is_finished)).await;
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1_000);
    });
}

#[test]
fn a_spawn_into_an_empty_pool_is_joined_like_any_other() {
    on_both(|| async {
        let alive = Alive::default();
        let (go, gone) = oneshot::channel::<()>();
        let mut open = Box::pin(Pool::open(async |pool: Pool| {
            pool.spawn(async {});
            until(|| pool.is_empty()).await;
            gone.await?;
            pool.spawn(endless(&alive));
            Ok::<_, BoxError>(pool)
        }));
        stays_pending(open.as_mut()).await;
        go.send(()).unwrap();
        poll_until(open.as_mut(), || alive.count() > 0).await;
        stays_pending(open.as_mut()).await;
        drop(open);
        until(|| alive.count() == 0).await;
    });
}

// ===== the current pool =====

/// The name of the innermost pool of boxed errors.
fn current() -> Option<String> {
    Pool::<BoxError>::try_current().and_then(|pool| pool.name().map(str::to_owned))
}

async fn in_pool<T>(name: &'static str, body: impl AsyncFnOnce(Pool) -> T) -> T {
    let outcome: Outcome<T> = Pool::builder().name(name).open(async |pool| Ok(body(pool).await)).await;
    outcome.unwrap()
}

#[test]
fn there_is_no_current_pool_outside() {
    on_both(|| async {
        assert_eq!(current(), None);
        in_pool("a", async |_| ()).await;
        assert_eq!(current(), None);
    });
    assert_eq!(current(), None);
}

#[test]
fn the_current_pool_is_the_one_that_the_body_and_the_tasks_are_in() {
    on_both(|| async {
        in_pool("a", async |pool| {
            assert_eq!(current().as_deref(), Some("a"));
            let task = pool.spawn_with_handle(async {
                yield_now().await;
                Ok(current())
            });
            assert_eq!(task.await.unwrap().as_deref(), Some("a"));
            in_pool("b", async |_| assert_eq!(current().as_deref(), Some("b"))).await;
            assert_eq!(current().as_deref(), Some("a"));
        })
        .await;
    });
}

#[test]
fn the_current_pool_is_the_innermost_one_of_its_error_type() {
    on_both(|| async {
        in_pool("boxed", async |_| {
            let outcome = Pool::builder().name("io").open(async |pool: Pool<io::Error>| {
                pool.spawn(async {
                    assert_eq!(Pool::<io::Error>::current().name(), Some("io"));
                    assert_eq!(current().as_deref(), Some("boxed"));
                    assert!(Pool::<String>::try_current().is_none());
                });
                in_pool("deep", async |_| {
                    assert_eq!(Pool::<io::Error>::current().name(), Some("io"));
                    assert_eq!(current().as_deref(), Some("deep"));
                })
                .await;
                Ok(())
            });
            outcome.await.unwrap();
        })
        .await;
    });
}

#[test]
fn the_current_pool_is_known_in_destructors() {
    on_both(|| async {
        let log = Log::default();
        let note = |what: &'static str| {
            let log = log.clone();
            OnDrop::new(move || log.push(format!("{what} in {}", current().unwrap_or_default())))
        };
        in_pool("a", async |pool| {
            let (finished, polled, unpolled) = (note("finished"), note("polled"), note("unpolled"));
            pool.spawn_with_handle(async {
                let _finished = finished;
                Ok(())
            })
            .await
            .unwrap();
            let (began, has_begun) = oneshot::channel();
            pool.spawn(async {
                let _polled = polled;
                began.send(()).unwrap();
                pending::<()>().await;
            });
            has_begun.await.unwrap();
            pool.spawn(async {
                let _unpolled = unpolled;
                pending::<()>().await;
            });
            pool.cancel();
        })
        .await;
        let mut events = log.events();
        events.sort();
        assert_eq!(events, ["finished in a", "polled in a", "unpolled in a"]);
    });
}

#[test]
fn the_current_pool_is_known_in_destructors_while_a_task_panics() {
    on_both(|| async {
        let log = Log::default();
        let outcome: Outcome = Pool::builder()
            .name("a")
            .open(async |pool| {
                let log = log.clone();
                pool.spawn(async move {
                    let _unwound = OnDrop::new(move || log.push(current().unwrap_or_default()));
                    yield_now().await;
                    quiet_panic("task")
                });
                pending().await
            })
            .await;
        assert!(outcome.unwrap_err().is_panic());
        assert_eq!(log.events(), ["a"]);
    });
}

#[test]
fn the_current_pool_is_known_in_blocking_tasks() {
    on_both(|| async {
        let log = Log::default();
        in_pool("a", async |pool| {
            let log = log.clone();
            pool.spawn_blocking(move || log.push(current().unwrap()));
        })
        .await;
        assert_eq!(log.events(), ["a"]);
    });
}

#[test]
fn the_current_pool_is_known_in_branches() {
    on_both(|| async {
        in_pool("a", async |_| {
            assert_eq!(race([async { current() }]).await.1.as_deref(), Some("a"));
            let (name,) = try_all((async { Ok::<_, BoxError>(current()) },)).await.unwrap();
            assert_eq!(name.as_deref(), Some("a"));
            assert_eq!(timeout(Duration::MAX, async { current() }).await.unwrap().as_deref(), Some("a"));
        })
        .await;
    });
}

#[test]
fn a_bare_task_is_in_no_pool() {
    on_both(|| async {
        in_pool("a", async |_| {
            assert_eq!(tokio::spawn(async { current() }).await.unwrap(), None);
            assert_eq!(tokio::task::spawn_blocking(current).await.unwrap(), None);
            assert_eq!(thread::spawn(current).join().unwrap(), None);
        })
        .await;
    });
}

#[test]
fn a_task_is_in_the_pool_that_it_was_spawned_in_whoever_spawned_it() {
    on_both(|| async {
        in_pool("a", async |outer| {
            in_pool("b", async |_| {
                let task = outer.spawn_with_handle(async { Ok(current()) });
                assert_eq!(task.await.unwrap().as_deref(), Some("a"));
            })
            .await;
        })
        .await;
    });
}

#[test]
fn a_planned_pool_is_nested_where_it_is_run() {
    on_both(|| async {
        let planned = in_pool("made", async |_| Pool::<io::Error>::new()).await;
        let log = Log::default();
        let seen = log.clone();
        planned.spawn(async move { seen.push(current().unwrap()) });
        in_pool("run", async |_| planned.run().await.unwrap()).await;
        assert_eq!(log.events(), ["run"]);
    });
}

// ===== many tasks =====

#[test]
fn tasks_that_spawn_each_other_let_others_make_progress() {
    on_current_thread(|| async {
        fn next(left: usize) {
            Pool::<BoxError>::current().spawn(async move {
                if left > 0 {
                    next(left - 1);
                }
            });
        }
        let turns = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
            }
        });
        in_pool("a", async |_| next(10_000)).await;
        other.abort();
        assert!(turns.load(Ordering::SeqCst) > 100, "{turns:?} turns");
    });
}

#[test]
fn a_failing_pool_with_ten_thousand_tasks_ends() {
    on_both(|| async {
        let alive = Alive::default();
        let outcome: Outcome = Pool::open(async |pool| {
            (0..10_000).for_each(|_| pool.spawn(endless(&alive)));
            yield_now().await;
            Err("body".into())
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn ten_thousand_failures_are_all_reported() {
    on_both(|| async {
        let (pool, failed) = (Pool::<BoxError>::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..10_000 {
            let failed = Arc::clone(&failed);
            pool.spawn(async move {
                failed.fetch_add(1, Ordering::SeqCst);
                Err("task".into())
            });
        }
        let error = pool.run().await.unwrap_err();
        assert!(error.failures().iter().all(|failed| matches!(failed.failure(), Failure::Error(_))));
        // All but those that the first of them had aborted before they could begin.
        assert_eq!(error.failures().len(), failed.load(Ordering::SeqCst));
        assert!(!error.failures().is_empty());
    });
}

#[test]
fn ten_thousand_failures_that_close_nothing_are_all_reported() {
    on_both(|| async {
        let pool = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect).build();
        (0..10_000).for_each(|_| pool.spawn(async { Err("task".into()) }));
        assert_eq!(pool.run().await.unwrap_err().failures().len(), 10_000);
    });
}

#[test]
fn the_body_is_dropped_before_tasks_are_waited_for_that_it_may_hold_up() {
    on_both(|| async {
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
    });
}

#[test]
fn the_body_is_dropped_at_once_when_its_owner_is_and_the_tasks_later() {
    on_current_thread(|| async {
        let log = Log::default();
        Pool::open(async |_: Pool| {
            let mut open = pin!(Some(Box::pin(Pool::open(async |pool: Pool| {
                let (body, task) = (log.on_drop("body"), log.on_drop("task"));
                pool.spawn(async move {
                    let _task = task;
                    pending::<()>().await;
                });
                let _body = body;
                pending::<Result<(), BoxError>>().await
            }))));
            assert_pending!(poll_once(open.as_mut().as_pin_mut().unwrap()).await);
            yield_now().await;
            drop(open.take());
            log.push("dropped");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(log.events(), ["body", "dropped", "task"]);
    });
}

/// What closes a pool whose owner is gone is a task of its own, if there is something to wait for.
#[test]
fn no_task_closes_a_pool_that_is_dropped_with_nothing_in_it() {
    on_current_thread(|| async {
        let alive_tasks = || Handle::current().metrics().num_alive_tasks();
        let before = alive_tasks();
        let mut opened = Box::pin(Pool::<BoxError>::open(async |_| std::future::pending::<Result<(), _>>().await));
        assert!(poll_once(opened.as_mut()).await.is_pending());
        drop(opened);
        assert_eq!(alive_tasks(), before);
    });
}
