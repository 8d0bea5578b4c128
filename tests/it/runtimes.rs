//! Runtimes that have no drivers, are dropped, or shut down in the middle.

use std::cell::RefCell;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, CancellationToken, ClosingReason, Failure, LatchEvent, OnFailure, Pool, TaskHandle, TaskStopped,
    cancel_task, cancellation_token, prime, race, shield, timeout, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    Alive, GRACE, Log, OnDrop, Outcome, asked, bomb, both, both_runtimes, current_thread, current_thread_runtime,
    endless, failures, keep, meddle, multi_thread_runtime, nested, panic_of, panic_text, paused_runtime, poll_once,
    poll_until, quiet_panic, secs, stays_pending, turning, until, watched, with_grace,
};

// ===== runtimes that end =====

#[test]
fn a_runtime_that_is_dropped_in_the_middle_of_the_grace_ends_everything() {
    for grace in [secs(1_000_000), Duration::MAX] {
        watched(move || {
            for runtime in both_runtimes() {
                let (alive, log) = (Alive::default(), Log::default());
                let seen = |event: &str| log.events().iter().filter(|seen| *seen == event).count();
                runtime.block_on(async {
                    let [outer, inner] = nested([with_grace(grace), with_grace(grace)]);
                    for _ in 0..3 {
                        let (one, log) = (alive.one(), log.clone());
                        inner.spawn(async move {
                            let _one = one;
                            log.push("began");
                            asked().await;
                            log.push("asked");
                            pending::<()>().await
                        });
                    }
                    drop(tokio::spawn(outer.clone().run()));
                    until(|| seen("began") == 3).await;
                    outer.cancel();
                    until(|| seen("asked") == 3).await;
                });
                assert_eq!(alive.count(), 3, "somebody has ended in the grace; {grace:?}");
                drop(runtime);
                assert_eq!(alive.count(), 0, "somebody outlives the runtime; {grace:?}");
            }
        });
    }
}

#[test]
fn a_runtime_that_is_dropped_in_the_grace_cancels_the_tokens_of_lower_depths() {
    watched(|| {
        for runtime in both_runtimes() {
            let (given, heard) = (Arc::new(OnceLock::new()), Log::default());
            let pool = with_grace(Duration::MAX).build();
            let said = heard.clone();
            // It belongs to no runtime, and is cut off by none: the closing cannot go past its depth.
            let mut member = Box::pin(pool.track_future(async move {
                asked().await;
                said.push("asked");
                pending::<()>().await
            }));
            let gives = given.clone();
            pool.build_task().depth(-1).spawn(async move {
                gives.set(cancellation_token()).unwrap();
                pending::<()>().await
            });
            runtime.block_on(async {
                drop(tokio::spawn(pool.clone().run()));
                poll_until(member.as_mut(), || given.get().is_some()).await;
                pool.cancel();
                poll_until(member.as_mut(), || heard.events() == ["asked"]).await;
            });
            let token: &CancellationToken = given.get().unwrap();
            assert!(!token.is_cancelled(), "the depth below has not been reached");
            drop(runtime);
            assert!(token.is_cancelled(), "nobody cancels it any more");
            let stopped = assert_ready!(task::spawn(member).poll());
            assert_eq!(stopped, Err(TaskStopped::Cancelled), "nobody aborts it any more");
        }
    });
}

#[test]
fn a_pool_whose_runtime_is_dropped_in_its_grace_can_still_be_polled_elsewhere() {
    watched(|| {
        for runtime in both_runtimes() {
            let (alive, heard) = (Alive::default(), Log::default());
            let pool = with_grace(Duration::MAX).build();
            let (one, said) = (alive.one(), heard.clone());
            pool.spawn(async move {
                let _one = one;
                asked().await;
                said.push("asked");
                pending::<()>().await
            });
            let mut run = Box::pin(pool.clone().run());
            runtime.block_on(async {
                stays_pending(run.as_mut()).await;
                pool.cancel();
                stays_pending(run.as_mut()).await;
                until(|| heard.events().len() == 1).await;
            });
            drop(runtime);
            assert_eq!(alive.count(), 0, "somebody outlives the runtime");
            let [other, _] = both_runtimes();
            let error = other.block_on(run).unwrap_err();
            assert_eq!(failures(error.failures()), ["cancelled"]);
        }
    });
}

#[test]
fn a_pool_in_a_blocking_closure_ends_when_its_runtime_is_dropped_in_the_grace() {
    // A timer that is polled in a runtime that shuts down panics; it must not abort the process.
    for (grace, ends) in [(secs(1_000_000), "panicked"), (Duration::MAX, "failures: 1")] {
        let events = watched(move || {
            both_runtimes().map(|runtime| {
                let (alive, log) = (Alive::default(), Log::default());
                let (one, said) = (alive.one(), log.clone());
                runtime.block_on(async {
                    drop(tokio::task::spawn_blocking(move || {
                        let pool = with_grace(grace).build();
                        let (stop, in_task) = (pool.clone(), said.clone());
                        pool.spawn(async move {
                            let _one = one;
                            stop.cancel();
                            asked().await;
                            in_task.push("asked");
                            pending::<()>().await
                        });
                        let run = || Handle::current().block_on(pool.run());
                        said.push(match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                            Ok(ended) => format!("failures: {}", ended.unwrap_err().failures().len()),
                            Err(_) => "panicked".to_owned(),
                        });
                    }));
                    until(|| !log.events().is_empty()).await;
                });
                drop(runtime);
                assert_eq!(alive.count(), 0, "somebody outlives the runtime; {grace:?}");
                log.events()
            })
        });
        for events in events {
            assert_eq!(events[0], "asked", "{events:?}");
            // Which of the two it hears of first is not decided.
            assert!(events[1..] == [ends] || events[1..] == ["failures: 1"], "{events:?}");
        }
    }
}

#[test]
fn a_runtime_without_timers_is_reported_by_a_panic_and_leaves_nothing_behind() {
    watched(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let alive = Alive::default();
            let pool = with_grace(GRACE).build();
            let (one, stop) = (alive.one(), pool.clone());
            pool.spawn(async move {
                let _one = one;
                stop.cancel();
                pending::<()>().await
            });
            let panic = panic_of(pool.run()).await;
            assert!(panic.contains("the `grace` of a pool") && panic.contains("enable_time"), "{panic}");
            assert_eq!(alive.count(), 0);

            // For ever takes no timer.
            let pool = with_grace(Duration::MAX).build();
            let (one, stop) = (alive.one(), pool.clone());
            pool.spawn(async move {
                let _one = one;
                stop.cancel();
                asked().await;
            });
            pool.run().await.unwrap();
            assert_eq!(alive.count(), 0);
        });
    });
}

#[test]
fn a_time_to_give_up_in_a_runtime_without_timers_is_reported_by_a_panic() {
    without_drivers(|| async {
        let alive = Alive::default();
        let (pool, one): (Pool, _) = (Pool::builder().abandon_after(GRACE).build(), alive.one());
        pool.spawn(keep(one));
        let (panic, line) = (panic_of(pool.run()).await, line!());
        let names_call = |panic: &str, call: &str, line: u32| {
            let call = format!("the `abandon_after` of a pool (`{call}` at {}:{line}:", file!());
            assert!(panic.starts_with(&call) && panic.contains("enable_time"), "{panic}");
        };
        names_call(&panic, "Pool::run", line);
        assert_eq!(alive.count(), 0, "the planned task is kept");

        let (builder, one, line) = (Pool::builder().abandon_after(GRACE), alive.one(), line!() + 1);
        let opened = builder.open(async move |_: Pool| {
            keep(one).await;
            Ok(())
        });
        names_call(&panic_of(opened).await, "Pool::open", line);
        assert_eq!(alive.count(), 0, "the body is kept");

        // Neither takes a timer.
        for wait in [Duration::ZERO, Duration::MAX] {
            Pool::<BoxError>::builder().abandon_after(wait).open(async |_| Ok(())).await.unwrap();
        }
    });
}

#[test]
fn a_deadline_in_a_runtime_without_timers_is_a_failure_of_the_pool() {
    without_drivers(|| async {
        for deadline in [Instant::now(), Instant::now() + GRACE] {
            for planned in [true, false] {
                let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
                pool.spawn(keep(alive.one()));
                match planned {
                    true => pool.cancel_at(Some(deadline)),
                    false => pool.spawn(async move { Pool::<BoxError>::current().cancel_at(Some(deadline)) }),
                }
                let error = pool.clone().run().await.unwrap_err();
                let [failed] = error.failures() else { panic!("{error:#}") };
                assert_eq!(failed.task().name(), Some("cancel_at"));
                let Failure::Panic(payload) = failed.failure() else { panic!("{error:#}") };
                assert!(payload.message().is_some_and(|text| text.contains("enable_time")), "{error:#}");
                assert_eq!((pool.closing_reason(), alive.count()), (Some(ClosingReason::Failed), 0));
            }
        }
    });
}

/// A pool that was polled first on a runtime that is gone, with what `body` has done there.
fn orphan<T>(gone: Runtime, body: impl AsyncFnOnce(Pool) -> T) -> (Pool, Pin<Box<impl Future<Output = Outcome<T>>>>) {
    let handle = Arc::new(OnceLock::new());
    let own = Arc::clone(&handle);
    let mut open = Box::pin(Pool::open(async move |pool: Pool| {
        assert!(own.set(pool.clone()).is_ok());
        Ok(body(pool).await)
    }));
    assert!(gone.block_on(poll_once(open.as_mut())).is_pending());
    drop(gone);
    (handle.get().unwrap().clone(), open)
}

/// On a runtime that has neither timers nor I/O.
fn without_drivers<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    watched(move || Builder::new_current_thread().build().unwrap().block_on(test()));
}

// ===== runtimes =====

#[test]
fn a_runtime_that_is_dropped_takes_the_pools_on_it_along() {
    watched(|| {
        for runtime in both_runtimes() {
            let alive = Alive::default();
            let (ready, below) = (Arc::new(AtomicUsize::new(0)), alive.clone());
            let counting = Arc::clone(&ready);
            runtime.spawn(Pool::<BoxError>::open(async move |pool| {
                let _body = below.one();
                for _ in 0..10 {
                    let (own, one, counting) = (pool.clone(), below.one(), Arc::clone(&counting));
                    pool.spawn(async move {
                        let _meddling = OnDrop::new(move || {
                            let _one = one;
                            meddle(&own);
                        });
                        let inner: Outcome = Pool::open(async |pool| {
                            pool.spawn(pending::<()>());
                            counting.fetch_add(1, Ordering::SeqCst);
                            pending().await
                        })
                        .await;
                        inner.unwrap();
                    });
                }
                pending::<Result<(), _>>().await
            }));
            runtime.block_on(until(|| ready.load(Ordering::SeqCst) == 10));
            drop(runtime);
            assert_eq!(alive.count(), 0, "somebody outlives the runtime");
        }
    });
}

#[test]
fn tasks_that_are_cut_off_by_their_runtime_are_failures() {
    watched(|| {
        for gone in both_runtimes() {
            let alive = Alive::default();
            let (one, seen) = (alive.one(), alive.clone());
            let (pool, open) = orphan(gone, async move |pool| {
                pool.spawn(async {
                    let _one = one;
                    pending::<()>().await;
                });
                pending::<()>().await;
            });
            assert_eq!(seen.count(), 0, "somebody outlives the runtime");
            assert!(pool.is_closed(), "a task that was cut off closes nothing");
            let error = current_thread_runtime().block_on(open).unwrap_err();
            assert_eq!(failures(error.failures()), ["cancelled"]);
            assert!(!error.is_cancelled() && error.to_string().contains("runtime shutting down"), "{error}");
        }
    });
}

#[test]
fn a_task_spawned_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        for gone in both_runtimes() {
            let (pool, open) = orphan(gone, async |_| pending::<()>().await);
            assert!(!pool.is_closed());
            let alive = Alive::default();
            let (own, one) = (pool.clone(), alive.one());
            let meddling = OnDrop::new(move || {
                let _one = one;
                meddle(&own);
            });
            pool.spawn(async { drop(meddling) });
            assert_eq!(alive.count(), 0, "a task of the dead runtime is kept");
            assert!(pool.is_closed(), "a task of the dead runtime closes nothing");
            let error = current_thread_runtime().block_on(open).unwrap_err();
            let all = failures(error.failures());
            assert!(all.contains(&"cancelled".to_owned()), "{all:?}");
        }
    });
}

#[test]
fn the_handle_of_a_task_on_a_dead_runtime_says_cancelled() {
    watched(|| {
        let (pool, open) = orphan(current_thread_runtime(), async |_| pending::<()>().await);
        let handle = pool.spawn_with_handle(async { Ok(1) });
        current_thread_runtime().block_on(async {
            assert_eq!(failures(open.await.unwrap_err().failures()), ["cancelled"]);
            assert_eq!(handle.await, Err(TaskStopped::Cancelled));
        });
    });
}

#[test]
fn a_closure_spawned_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread_runtime(), async |_| pending::<()>().await);
        let own = pool.clone();
        let meddling = OnDrop::new(move || meddle(&own));
        pool.spawn_blocking(move || drop(meddling));
        let error = current_thread_runtime().block_on(open).unwrap_err();
        assert!(failures(error.failures()).contains(&"cancelled".to_owned()));
    });
}

#[test]
fn a_panic_in_a_destructor_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread_runtime(), async |_| pending::<()>().await);
        let bomb = bomb("in drop");
        pool.spawn(async { drop(bomb) });
        let error = current_thread_runtime().block_on(open).unwrap_err();
        assert_eq!(failures(error.failures()), ["cancelled", "panic: in drop"]);
    });
}

#[test]
fn a_cancelled_pool_on_a_dead_runtime_has_no_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread_runtime(), async |_| pending::<()>().await);
        pool.cancel_with("enough");
        let error = current_thread_runtime().block_on(open).unwrap_err();
        assert!(error.is_cancelled() && error.cancel_reason() == Some("enough"));
    });
}

#[test]
fn the_owner_of_a_pool_on_a_dead_runtime_may_be_dropped() {
    watched(|| {
        let (pool, open) = orphan(current_thread_runtime(), async |pool| {
            pool.spawn(pending::<()>());
            pending::<()>().await
        });
        drop(open);
        assert!(pool.is_closed() && pool.is_empty());
    });
}

#[apply(both)]
async fn what_a_dead_runtime_cut_off_is_reported_by_the_enclosing_pool() {
    let gone = current_thread_runtime();
    let outcome: Outcome = Pool::open(async |_| {
        let mut inner = Box::pin(Pool::<BoxError>::open(async |pool| {
            pool.spawn(pending::<()>());
            pending::<Result<(), _>>().await
        }));
        let entered = gone.enter();
        assert!(tokio_test::task::spawn(inner.as_mut()).poll().is_pending());
        drop(entered);
        gone.shutdown_background();
        drop(inner);
        Ok(())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().cleanup_failures()), ["cancelled"]);
}

#[test]
fn tasks_run_on_the_runtime_of_the_owner_whoever_spawns_them() {
    watched(|| {
        let own = Builder::new_multi_thread().worker_threads(1).thread_name("own").build().unwrap();
        let outcome: Outcome = own.block_on(Pool::open(async |pool| {
            let (pool, (sender, receiver)) = (pool.clone(), oneshot::channel());
            thread::spawn(move || {
                current_thread_runtime().block_on(async {
                    pool.spawn(async { drop(sender.send(thread::current().name().map(str::to_owned))) });
                });
            });
            assert_eq!(receiver.await?.as_deref(), Some("own"));
            Ok(())
        }));
        outcome.unwrap();
    });
}

#[test]
fn a_forgotten_owner_leaves_its_tasks_to_the_runtime() {
    watched(|| {
        for runtime in both_runtimes() {
            let alive = Alive::default();
            runtime.block_on(async {
                let one = alive.one();
                let mut open = Box::pin(Pool::<BoxError>::open(async |pool| {
                    pool.spawn(async {
                        let _one = one;
                        pending::<()>().await;
                    });
                    pending::<Result<(), _>>().await
                }));
                assert!(poll_once(open.as_mut()).await.is_pending());
                std::mem::forget(open);
                yield_now().await;
                assert_eq!(alive.count(), 1, "the forgotten owner has ended its task");
            });
            drop(runtime);
            assert_eq!(alive.count(), 0, "somebody outlives the runtime");
        }
    });
}

#[apply(both)]
async fn blocking_on_another_runtime_in_a_task_is_an_ordinary_panic() {
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(async { current_thread_runtime().block_on(async {}) });
        pending().await
    })
    .await;
    assert!(outcome.unwrap_err().is_panic());
}

#[apply(both)]
async fn dropping_a_runtime_in_a_task_is_an_ordinary_panic() {
    let outcome: Outcome = Pool::open(async |pool| {
        let other = multi_thread_runtime();
        pool.spawn(async { drop(other) });
        pending().await
    })
    .await;
    assert!(outcome.unwrap_err().is_panic());
}

#[apply(current_thread)]
async fn block_in_place_on_a_current_thread_runtime_is_an_ordinary_panic() {
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(async { tokio::task::block_in_place(|| {}) });
        pending().await
    })
    .await;
    assert!(outcome.unwrap_err().is_panic());
}

#[test]
fn a_pool_needs_no_drivers() {
    without_drivers(|| async {
        let well: Outcome<_> = Pool::open(async |pool| {
            pool.spawn(yield_now());
            pool.spawn_blocking(|| {});
            Ok(pool.spawn_with_handle(turning(3)).await?)
        })
        .await;
        well.unwrap();
        let failed: Outcome = Pool::open(async |pool| {
            pool.spawn(pending::<()>());
            pool.spawn(async { Err("error".into()) });
            pending().await
        })
        .await;
        assert_eq!(failures(failed.unwrap_err().failures()), ["error: error"]);

        let alive = Alive::default();
        async fn nested(alive: Alive) -> Outcome {
            let counted = alive.one();
            let open = Pool::open(async |pool| {
                pool.spawn(keep(counted));
                pending().await
            });
            open.await
        }
        let cancelled: Outcome = Pool::open(async |pool| {
            let held = alive.clone();
            let inner = pool.spawn_with_handle(async { Ok(nested(held).await?) });
            until(|| alive.count() == 1).await;
            inner.cancel();
            let mut dropped = Box::pin(nested(alive.clone()));
            assert!(poll_once(dropped.as_mut()).await.is_pending());
            drop(dropped);
            pool.cancel();
            pending().await
        })
        .await;
        assert!(cancelled.unwrap_err().is_cancelled());
        assert_eq!(alive.count(), 0);

        let builder = Pool::builder().limit(1).grace(Duration::MAX).on_failure(|_| OnFailure::Collect);
        let patient: Outcome = builder
            .open(async |pool: Pool| {
                pool.spawn(turning(3));
                pool.ready().await;
                assert_eq!(pool.start(async |started| started.ready(2)).await, Ok(2));
                pool.build_task().depth(1).spawn(async { cancellation_token().cancelled().await });
                pool.cancel();
                Ok(())
            })
            .await;
        patient.unwrap();
    });
}

#[test]
fn functions_need_no_drivers_but_for_what_elapses() {
    without_drivers(|| async {
        assert_eq!(race((pending(), async { 1 })).await, (1, 1));
        assert_eq!(try_all([turning(1), turning(2)]).await.unwrap(), [(), ()]);
        let failing = async { Err::<(), BoxError>("error".into()) };
        assert_eq!(
            failures(try_all((failing, pending::<Result<(), _>>())).await.unwrap_err().failures()),
            ["error: error"]
        );
        assert!(wait_all([turning(2), turning(1)]).await.iter().all(Result::is_ok));
        shield(turning(2)).await.unwrap();
        let visit = with_exit(1, async |one| Ok::<_, BoxError>(*one), async |_, _| turning(2).await);
        assert_eq!(visit.await.unwrap(), 1);
        prime(turning(2)).await.unwrap();
        assert_eq!(cancel_task(tokio::spawn(pending::<()>())).await.unwrap(), None);
        let latch = LatchEvent::new();
        let set = latch.wait_set();
        latch.set();
        set.await;
        assert!(timeout(Duration::MAX, turning(2)).await.unwrap().is_ok());
        // Only what is to elapse needs timers.
        let message = panic_of(timeout(Duration::from_secs(1), async {})).await;
        assert!(message.contains("timers are disabled"), "{message}");
    });
}

// ===== destructors while the runtime shuts down =====

#[test]
fn destructors_may_spawn_and_cancel_while_the_runtime_shuts_down() {
    for new_runtime in [current_thread_runtime as fn() -> Runtime, multi_thread_runtime] {
        watched(move || {
            let (alive, runtime) = (Alive::default(), new_runtime());
            let meddled = Arc::new(AtomicUsize::new(0));
            let (counts, meddlings) = (alive.clone(), Arc::clone(&meddled));
            let (sender, ready) = std::sync::mpsc::channel();
            runtime.spawn(Pool::open(move |outer: Pool| async move {
                for round in 0..100 {
                    let (alive, meddled) = (counts.clone(), Arc::clone(&meddlings));
                    let meddle = OnDrop::new(move || {
                        let pool = Pool::<BoxError>::current();
                        let (late, counted) = (pool.clone(), alive.one());
                        pool.spawn(async move {
                            let _counted = counted;
                            late.spawn(pending::<()>());
                            pending::<()>().await;
                        });
                        pool.spawn_blocking(|| {});
                        if round % 2 == 0 {
                            pool.cancel();
                        }
                        drop(shield(pending::<()>()));
                        drop(pool.start(async |_: aiodrive::Started<()>| pending::<()>().await));
                        meddled.fetch_add(1, Ordering::SeqCst);
                    });
                    outer.spawn(async move {
                        Pool::open(async |_: Pool| {
                            let _meddle = meddle;
                            pending::<Result<(), BoxError>>().await
                        })
                        .await?;
                        Ok(())
                    });
                }
                outer.spawn(async move { sender.send(()).unwrap() });
                pending::<Result<(), BoxError>>().await
            }));
            runtime.block_on(async { until(|| ready.try_recv().is_ok()).await });
            drop(runtime);
            assert_eq!((meddled.load(Ordering::SeqCst), alive.count()), (100, 0));
        });
    }
}

/// Only a task that was never taken in is not missed.
#[apply(current_thread)]
async fn a_local_task_that_a_panic_takes_along_was_cut_off() {
    let (pool, gate) = (Pool::<BoxError>::new(), LatchEvent::new());
    pool.spawn(gate.wait_set());
    let mut running = Box::pin(pool.clone().run());
    assert!(poll_once(running.as_mut()).await.is_pending());
    let local = LocalSet::new();
    let inside = local.enter();
    pool.spawn_local(std::future::pending::<()>());
    drop(inside);
    let text = panic_text(|| {
        let _local = local;
        quiet_panic("the thread")
    });
    assert_eq!(text, "the thread");
    assert_eq!(failures(running.await.unwrap_err().failures()), ["cancelled"]);
}

// ===== runtimes that shut down =====

/// The runtime drops the future where it is spawned, and the handle does not know yet what to abort.
#[test]
fn a_destructor_may_cancel_its_own_task_while_a_runtime_that_has_shut_down_refuses_it() {
    watched(|| {
        let (runtime, dropped) = (paused_runtime(), Arc::new(AtomicUsize::new(0)));
        let own: Arc<Mutex<Option<TaskHandle<()>>>> = Arc::default();
        let pool: Pool = Pool::new();
        let cancels = OnDrop::new({
            let (own, dropped) = (Arc::clone(&own), Arc::clone(&dropped));
            move || {
                dropped.fetch_add(1, Ordering::SeqCst);
                own.lock().unwrap().as_ref().unwrap().cancel();
            }
        });
        let planned = pool.spawn_with_handle(async move {
            drop(cancels);
            Ok(())
        });
        *own.lock().unwrap() = Some(planned);
        let shut_down = runtime.handle().clone();
        drop(runtime);
        let _entered = shut_down.enter();
        drop(task::spawn(pool.run()).poll());
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        let mut planned = task::spawn(own.lock().unwrap().take().unwrap());
        assert_eq!(assert_ready!(planned.poll()), Err(TaskStopped::Cancelled));
    });
}

#[test]
fn who_waits_in_idle_is_woken_by_the_end_of_the_runtime() {
    let (runtime, pool) = (current_thread_runtime(), with_grace(Duration::MAX).build());
    let tracked = pool.track_future(pending::<()>());
    let mut run = Box::pin(pool.clone().run());
    runtime.block_on(async {
        assert!(poll_once(run.as_mut()).await.is_pending());
        drop(run);
        yield_now().await;
    });
    let mut idle = task::spawn(pool.idle());
    assert_pending!(idle.poll());
    drop(runtime);
    assert!(idle.is_woken());
    assert_ready!(idle.poll());
    drop(tracked);
}

#[test]
fn a_pool_that_is_polled_outside_of_its_runtime_has_its_grace() {
    let (runtime, pool) = (multi_thread_runtime(), with_grace(secs(1_000_000)).build());
    pool.spawn(pending::<()>());
    let mut run = task::spawn(pool.clone().run());
    {
        let _entered = runtime.enter();
        assert_pending!(run.poll());
    }
    pool.cancel();
    assert_pending!(run.poll());
    assert!(pool.try_spawn(async {}).is_ok(), "what is in its grace still takes tasks");
    pool.abort();
    while run.poll().is_pending() {
        thread::yield_now();
    }
}

/// The thread has no thread-locals any more, in which tokio has the runtime.
#[test]
fn a_pool_may_be_dropped_by_a_thread_that_ends() {
    thread_local! {
        static RUN: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(None) };
    }
    let (runtime, alive) = (multi_thread_runtime(), Alive::default());
    let (handle, kept) = (runtime.handle().clone(), alive.clone());
    let ended = thread::spawn(move || {
        let run = async move {
            let pool: Pool = Pool::new();
            pool.spawn(endless(&kept));
            pool.run().await.unwrap();
        };
        RUN.set(Some(Box::pin(run)));
        let _entered = handle.enter();
        RUN.with_borrow_mut(|run| assert_pending!(task::spawn(run.as_mut().unwrap()).poll()));
    });
    ended.join().unwrap();
    runtime.block_on(until(|| alive.count() == 0));
}
