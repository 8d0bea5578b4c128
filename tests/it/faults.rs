//! Destructors, payloads, wakers and runtimes that misbehave: nothing is lost, nothing hangs, nothing aborts the
//! process.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, Failure, LatchEvent, OnFailure, Pool, PoolError, Started, TaskGroup, TaskStopped, cancel_task,
    cancellation_token, map, prime, race, shield, timeout, try_all, wait_all, with_exit,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    Alive, Counted, OnDrop, busy, failures, on_both, on_current_thread, on_multi_thread, panic_of, panic_text,
    poll_once, poll_until, quiet_panic, stays_pending, until, watched,
};

type Outcome<T = ()> = Result<T, PoolError>;

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Something whose destructor panics.
fn bomb(message: &'static str) -> OnDrop<impl FnOnce() + Send> {
    OnDrop::new(move || quiet_panic(message))
}

/// A future that is ready at once, and then carries what it holds until it is dropped.
struct ReadyWith<T, O>(T, Option<O>);

impl<T: Unpin, O: Unpin> Future for ReadyWith<T, O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<O> {
        Poll::Ready(self.1.take().unwrap())
    }
}

/// Calls everything that a handle offers, cancelling last.
pub(super) fn meddle<E: Into<BoxError> + std::fmt::Display + Send + 'static>(pool: &Pool<E>) {
    pool.spawn(async {});
    pool.spawn(pending::<()>());
    drop(pool.try_spawn(async {}));
    drop(pool.spawn_with_handle(async { Ok(()) }));
    pool.build_task().name("meddling").spawn(async {});
    pool.spawn_blocking(|| {});
    assert!(pool.len() < 100_000 && format!("{pool:?}").starts_with("Pool"));
    assert!(pool.tree().to_string().starts_with("<pool>") && !pool.root_tree().to_string().is_empty());
    drop(Pool::<E>::try_current());
    pool.cancel();
    assert!(pool.is_closed());
}

// ===== destructors that panic =====

#[test]
fn a_panic_in_the_destructor_of_an_aborted_task_is_a_failure() {
    on_both(|| async {
        let alive = Alive::default();
        let outcome: Outcome = Pool::open(async |pool| {
            for _ in 0..3 {
                let one = alive.one();
                let (began, has_begun) = oneshot::channel();
                pool.spawn(async {
                    let _both = (bomb("in drop"), one);
                    began.send(()).unwrap();
                    pending::<()>().await;
                });
                has_begun.await?;
            }
            Err("body".into())
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body", "panic: in drop", "panic: in drop", "panic: in drop"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_task_that_never_began_is_a_failure() {
    on_current_thread(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            let bomb = bomb("in drop");
            pool.spawn(async {
                let _bomb = bomb;
                pending::<()>().await;
            });
            pool.cancel();
            Ok(())
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_finished_future_is_a_failure() {
    on_both(|| async {
        let outcome: Outcome<_> = Pool::open(async |pool| {
            let handle = pool.spawn_with_handle(ReadyWith(bomb("in drop"), Some(Ok(1))));
            Ok(handle)
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
    });
}

/// The closure of the body used to be called in an async block. The future's destructor then unwound through that
/// block, as if the body had panicked: its error was dropped, and so were the failures of all tasks.
#[test]
fn a_panic_in_the_destructor_of_a_finished_body_hides_no_failure() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(|_: Pool| ReadyWith(bomb("in drop"), Some(Err("error".into())))).await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: error", "panic: in drop"]);
        let outcome: Outcome<i32> = Pool::open(|_: Pool| ReadyWith(bomb("in drop"), Some(Ok(1)))).await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
    });
}

/// It used to end the process: the output was dropped while the panic of the destructor went on already.
#[test]
fn a_timeout_resumes_the_panic_of_a_destructor_although_the_output_panics_as_it_is_dropped() {
    on_both(|| async {
        let error = Pool::open(async |_: Pool| {
            let limited = timeout(Duration::MAX, ReadyWith(bomb("in drop"), Some(bomb("value"))));
            assert_eq!(panic_of(limited).await, "in drop");
            Ok(())
        })
        .await
        .unwrap_err();
        assert!(error.failures().is_empty());
        assert_eq!(failures(error.cleanup_failures()), ["panic: value"]);
    });
}

/// What had happened to the body happened to a local task, which waited for its turn and then for the future in one
/// async block, and to an exit handler.
#[test]
fn a_panic_in_the_destructor_of_a_finished_local_task_or_exit_handler_hides_no_failure() {
    on_current_thread(|| async {
        let local = LocalSet::new();
        let open = Pool::open(async |pool: Pool| {
            pool.spawn_local(ReadyWith(bomb("in drop"), Some(Err("error".into()))));
            Ok(())
        });
        let error = local.run_until(open).await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: error", "panic: in drop"]);
    });
    on_both(|| async {
        let error = Pool::open(async |_: Pool| {
            let handler = |(), _| ReadyWith(bomb("in drop"), Some(Err(BoxError::from("error"))));
            Ok(with_exit((), async |_| Ok(()), handler).await?)
        })
        .await
        .unwrap_err();
        assert_eq!(failures(error.failures()), ["error: exit handler failed: error"]);
        assert_eq!(failures(error.cleanup_failures()), ["panic: in drop"]);
    });
}

#[test]
fn a_handle_hears_of_a_panic_in_a_destructor() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let finished = pool.spawn_with_handle(ReadyWith(bomb("finished"), Some(Ok(1))));
        assert!(pool.run().await.is_err());
        assert_eq!(finished.await, Err(TaskStopped::Panicked));
    });
}

#[test]
fn a_task_that_fails_and_panics_in_its_destructor_has_two_failures() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(ReadyWith(bomb("in drop"), Some(Err("error".into()))));
            pending().await
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: error", "panic: in drop"]);
    });
}

#[test]
fn a_task_that_panics_and_panics_in_its_destructor_has_two_failures() {
    struct Panics<T>(T);
    impl<T> Future for Panics<T> {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let _ = &self.0;
            quiet_panic("in poll")
        }
    }
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(Panics(bomb("in drop")));
            pending().await
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in poll", "panic: in drop"]);
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_body_that_is_cut_short_is_a_failure_of_the_body() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            let _bomb = bomb("in drop");
            pool.spawn(async { Err("task".into()) });
            pending().await
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: task", "panic: in drop"]);
        assert!(error.failures()[1].task().is_body());
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_dropped_body_goes_to_the_dropper_and_the_tasks_end() {
    on_both(|| async {
        let alive = Alive::default();
        let one = alive.one();
        let mut open = Box::pin(Pool::<BoxError>::open(async |pool| {
            let _bomb = bomb("in drop");
            pool.spawn(async {
                let _one = one;
                busy().await
            });
            pending::<Result<(), _>>().await
        }));
        assert!(poll_once(open.as_mut()).await.is_pending());
        assert_eq!(panic_text(|| drop(open)), "in drop");
        until(|| alive.count() == 0).await;
    });
}

#[test]
fn a_panic_in_the_destructor_of_an_uncalled_closure_is_a_failure() {
    watched(|| {
        let runtime = Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build().unwrap();
        let outcome: Outcome = runtime.block_on(Pool::open(async |pool: Pool| {
            // The only thread is taken, so that the second closure can be aborted.
            let (began, has_begun) = oneshot::channel();
            let first = pool.clone();
            pool.spawn_blocking(move || {
                began.send(()).unwrap();
                while !first.is_closed() {
                    thread::yield_now();
                }
            });
            has_begun.await?;
            let bomb = bomb("in drop");
            pool.spawn_blocking(move || drop(bomb));
            pool.cancel();
            Ok(())
        }));
        // Aborted before it was called, or called and then it has panicked: it is told in either case.
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
    });
}

#[test]
fn a_value_that_nobody_wants_may_panic_in_its_destructor() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            let (dropped, is_dropped) = oneshot::channel();
            let handle = pool.spawn_with_handle(async {
                is_dropped.await?;
                Ok(bomb("value"))
            });
            drop(handle);
            dropped.send(()).unwrap();
            pending().await
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: value"]);
    });
}

#[test]
fn a_value_of_the_body_that_is_discarded_may_panic_in_its_destructor_and_hides_no_failure() {
    on_both(|| async {
        let alive = Alive::default();
        let open = Pool::open(async |pool: Pool| {
            let one = alive.one();
            pool.spawn(async {
                let _one = one;
                yield_now().await;
                Err("task".into())
            });
            Ok::<_, BoxError>(bomb("value"))
        });
        let mut open = Box::pin(open);
        let result = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| open.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|outcome| outcome.err()),
            Err(_) => Poll::Ready(None),
        });
        let error = result.await;
        assert_eq!(alive.count(), 0);
        let error = error.expect("the failure of the task is lost");
        assert_eq!(failures(error.failures()), ["error: task", "panic: value"]);
    });
}

/// An error whose destructor panics.
#[derive(Debug)]
struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        quiet_panic("error");
    }
}

impl fmt::Display for Explosive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("explosive")
    }
}

impl Error for Explosive {}

#[test]
fn an_error_may_panic_in_its_destructor() {
    on_both(|| async {
        let alive = Alive::default();
        let one = alive.one();
        let outcome: Result<(), PoolError<Explosive>> = Pool::open(async |pool| {
            pool.spawn(async { Err(Explosive) });
            pool.spawn(async {
                let _one = one;
                pending::<()>().await;
            });
            pending().await
        })
        .await;
        assert_eq!(alive.count(), 0);
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: explosive"]);
        // It is the user's now, and so is the panic.
        assert_eq!(panic_text(|| drop(error)), "error");
    });
}

/// The second panic used to end the process.
#[test]
fn planned_tasks_are_all_dropped_although_they_panic_at_that() {
    on_both(|| async {
        let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
        let planned = |pool: &Pool, message| {
            let (one, bomb) = (alive.one(), bomb(message));
            pool.spawn(async {
                drop((one, bomb));
            });
        };
        ["first", "second", "third"].iter().for_each(|message| planned(&pool, message));
        assert_eq!(panic_text(|| pool.cancel()), "first");
        assert_eq!(alive.count(), 0);
        assert!(pool.is_closed() && pool.is_empty());
        pool.run().await.unwrap();

        // A pool that never runs.
        let pool = Pool::<BoxError>::new();
        ["first", "second"].iter().for_each(|message| planned(&pool, message));
        assert_eq!(panic_text(|| drop(pool)), "first");
        assert_eq!(alive.count(), 0);
        let unwound = panic_text(|| {
            let pool = Pool::<BoxError>::new();
            planned(&pool, "planned");
            quiet_panic("outer");
        });
        assert_eq!((unwound.as_str(), alive.count()), ("outer", 0));
    });
}

/// It used to unwind out of the task before that was counted as ended: whoever waited for its slot waited for ever.
#[test]
fn an_error_may_panic_when_it_is_asked_for_its_cause() {
    #[derive(Debug)]
    struct Causeless;
    impl fmt::Display for Causeless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("causeless")
        }
    }
    impl Error for Causeless {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            quiet_panic("cause")
        }
    }
    on_both(|| async {
        let builder = Pool::<BoxError>::builder().limit(1).on_failure(|_| OnFailure::Collect);
        let open = builder.open(async |pool: Pool| {
            let tasks = [(); 2].map(|()| pool.spawn_with_handle::<(), _>(async { Err(Causeless.into()) }));
            for task in tasks {
                assert_eq!(task.await, Err(TaskStopped::Failed));
            }
            Err::<(), _>(Causeless.into())
        });
        assert_eq!(failures(open.await.unwrap_err().failures()), ["error: causeless"; 3]);
    });
}

/// An error that says only that a pool was cancelled, and panics as it is dropped.
#[derive(Debug)]
struct ExplosiveEcho(PoolError);

impl ExplosiveEcho {
    async fn boxed() -> BoxError {
        let cancelled = Pool::<BoxError>::open(async |pool| {
            pool.cancel();
            pending::<Result<(), _>>().await
        });
        Box::new(Self(cancelled.await.unwrap_err()))
    }
}

impl Drop for ExplosiveEcho {
    fn drop(&mut self) {
        quiet_panic("echo");
    }
}

impl fmt::Display for ExplosiveEcho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ExplosiveEcho {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// It used to unwind out of the task, or the body, before anything was recorded.
#[test]
fn an_error_that_is_no_failure_may_panic_in_its_destructor() {
    on_both(|| async {
        let pool = Pool::<BoxError>::builder().grace(Duration::MAX).build();
        let own = pool.clone();
        let handle = pool.spawn_with_handle::<(), _>(async move {
            own.cancel();
            cancellation_token().cancelled().await;
            Err(ExplosiveEcho::boxed().await)
        });
        assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["panic: echo"]);
        assert_eq!(handle.await, Err(TaskStopped::Panicked));

        let builder = Pool::<BoxError>::builder().grace(Duration::MAX);
        let open = builder.open(async |pool: Pool| {
            pool.cancel();
            cancellation_token().cancelled().await;
            Err::<(), _>(ExplosiveEcho::boxed().await)
        });
        assert_eq!(failures(open.await.unwrap_err().failures()), ["panic: echo"]);
    });
}

/// What a pool returns in which three tasks have failed with errors that panic as they are dropped.
async fn three_explosive_errors() -> PoolError<Explosive> {
    let pool = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect).build();
    for _ in 0..3 {
        pool.spawn(async { Err(Explosive) });
    }
    pool.run().await.unwrap_err()
}

/// What is asked for used to be lost to the destructor of what is not.
#[test]
fn a_part_of_an_error_can_be_had_although_the_rest_panics_as_it_is_dropped() {
    on_both(|| async {
        std::mem::forget(three_explosive_errors().await.into_first_error().unwrap());
        assert!(three_explosive_errors().await.into_cleanup_failures().is_empty());
        let all = three_explosive_errors().await.into_failures();
        assert_eq!(failures(&all), ["error: explosive"; 3]);
        all.into_iter().for_each(std::mem::forget);
    });
}

/// The panic of its destructor used to come out of the drop, and the second ended the process.
#[test]
fn an_error_that_nobody_is_left_to_tell_may_panic_in_its_destructor() {
    on_both(|| async {
        let begun = Alive::default();
        let fails = || {
            let counted = begun.one();
            async move {
                drop(counted);
                Err::<(), _>(Explosive)
            }
        };
        let group = wait_all((fails(), fails(), pending::<Result<(), Explosive>>()));
        until(|| begun.count() == 0).await;
        // Outside of a pool.
        drop(group);
        let group = try_all((fails(), fails(), pending::<Result<(), Explosive>>()));
        until(|| begun.count() == 0).await;
        drop(group);
    });
}

/// The first panic of a conversion used to take all failures after it along.
#[test]
fn an_error_may_panic_as_it_is_converted_for_a_pool_further_out() {
    struct Stubborn;

    impl std::fmt::Display for Stubborn {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("stubborn")
        }
    }
    impl From<Stubborn> for BoxError {
        fn from(_: Stubborn) -> Self {
            quiet_panic("conversion")
        }
    }
    on_both(|| async {
        let failed = LatchEvent::new();
        let error = Pool::open(async |_: Pool| {
            let builder = Pool::<Stubborn>::builder().on_failure(|_| OnFailure::Collect);
            let mut inner = Box::pin(builder.open(async |inner: Pool<Stubborn>| {
                for _ in 0..2 {
                    let task = inner.spawn_with_handle::<(), _>(async { Err(Stubborn) });
                    assert_eq!(task.await, Err(TaskStopped::Failed));
                }
                let task = inner.spawn_with_handle::<(), _>(async { quiet_panic("task") });
                assert_eq!(task.await, Err(TaskStopped::Panicked));
                failed.set();
                pending::<Result<(), _>>().await
            }));
            poll_until(inner.as_mut(), || failed.is_set()).await;
            drop(inner);
            Ok(())
        })
        .await
        .unwrap_err();
        let expected = ["panic: conversion", "panic: conversion", "panic: task"];
        assert_eq!(failures(error.cleanup_failures()), expected);
    });
}

/// It used to be recorded in the pool that had returned, where nobody looks any more.
#[test]
fn a_panic_in_a_queued_task_that_is_given_up_on_is_told_further_out() {
    // A worker blocks in the destructor.
    on_multi_thread(|| async {
        let error = Pool::open(async |_: Pool| {
            let pool = Pool::<BoxError>::builder().limit(1).abandon_after(Duration::from_millis(1)).build();
            let (dropping, (release, released)) = (LatchEvent::new(), std::sync::mpsc::channel::<()>());
            pool.spawn(pending::<()>());
            let mut run = pin!(pool.clone().run());
            assert!(poll_once(run.as_mut()).await.is_pending());
            let drops = dropping.clone();
            let slow = OnDrop::new(move || {
                drops.set();
                let _ = released.recv();
                quiet_panic("late");
            });
            let queued = pool.spawn_with_handle::<(), _>(async {
                let _slow = slow;
                pending().await
            });
            queued.cancel();
            // In real time, since the clock must not run ahead.
            until(|| dropping.is_set()).await;
            pool.cancel();
            let error = run.await.unwrap_err();
            assert_eq!((error.failures().len(), error.stuck().len()), (0, 1));
            drop(release);
            Ok(())
        })
        .await
        .unwrap_err();
        assert_eq!(failures(error.cleanup_failures()), ["panic: late"]);
    });
}

/// The handle used to say that the task was cancelled.
#[test]
fn the_handle_of_a_task_that_panics_twice_in_destructors_says_so() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let handle = pool.spawn_with_handle(ReadyWith(bomb("in drop"), Some(Ok(bomb("value")))));
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: in drop", "panic: value"]);
        assert_eq!(handle.await.err(), Some(TaskStopped::Panicked));
    });
}

/// Nobody used to hear of it.
#[test]
fn a_panic_in_the_destructor_of_shielded_work_that_its_runtime_cuts_off_is_a_cleanup_failure() {
    on_both(|| async {
        for polled in [false, true] {
            let error = Pool::open(async |_: Pool| {
                let gone = current_thread();
                let (bomb, entered) = (bomb("in drop"), gone.enter());
                let work = shield(async {
                    let _bomb = bomb;
                    pending::<()>().await;
                });
                drop(entered);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        if polled {
                            gone.block_on(turns(10));
                        }
                        drop(gone);
                    });
                });
                assert!(panic_of(work).await.contains("has shut down"));
                Ok(())
            })
            .await
            .unwrap_err();
            assert_eq!(failures(error.cleanup_failures()), ["panic: in drop"], "polled: {polled}");
        }
    });
}

// ===== payloads =====

struct ExplosivePayload;

impl Drop for ExplosivePayload {
    fn drop(&mut self) {
        quiet_panic("payload");
    }
}

/// What a pool returns whose three tasks have met, and panic then with a payload that panics when it is dropped.
async fn three_explosive_payloads() -> PoolError {
    let (pool, meeting) = (Pool::<BoxError>::new(), Arc::new(Barrier::new(3)));
    for _ in 0..3 {
        let meeting = Arc::clone(&meeting);
        pool.spawn_blocking(move || {
            meeting.wait();
            resume_unwind(Box::new(ExplosivePayload));
        });
    }
    pool.run().await.unwrap_err()
}

#[test]
fn payloads_that_panic_in_their_destructors_are_all_kept() {
    on_both(|| async {
        let error = three_explosive_payloads().await;
        assert!(error.is_panic());
        let mut kept = 0;
        for failed in error.into_failures() {
            let Failure::Panic(payload) = failed.into_failure() else { panic!("no panic") };
            assert_eq!(payload.message(), None);
            let payload = payload.into_inner();
            assert!(payload.is::<ExplosivePayload>());
            std::mem::forget(payload);
            kept += 1;
        }
        assert_eq!(kept, 3);
    });
}

#[test]
fn payloads_that_panic_in_their_destructors_can_be_dropped() {
    on_both(|| async {
        let error = three_explosive_payloads().await;
        assert_eq!(error.failures().len(), 3);
        drop(error);
    });
}

#[test]
fn a_payload_is_resumed_although_the_others_panic_as_they_are_dropped() {
    on_both(|| async {
        let error = three_explosive_payloads().await;
        let payload = catch_unwind(AssertUnwindSafe(|| error.resume_panic())).unwrap_err();
        assert!(payload.is::<ExplosivePayload>());
        std::mem::forget(payload);
    });
}

#[test]
fn the_panic_of_the_body_is_resumed_although_the_payloads_of_tasks_panic_as_they_are_dropped() {
    on_both(|| async {
        let alive = Alive::default();
        let builder = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect);
        let open = builder.open(async |pool| -> Result<(), BoxError> {
            for _ in 0..3 {
                let counted = alive.one();
                let task = pool.spawn_with_handle::<(), _>(async move {
                    let _counted = counted;
                    resume_unwind(Box::new(ExplosivePayload))
                });
                assert_eq!(task.await, Err(TaskStopped::Panicked));
            }
            quiet_panic("body")
        });
        assert_eq!(panic_of(open).await, "body");
        assert_eq!(alive.count(), 0);
    });
}

/// The error used to be dropped while the panic went on already, which ended the process.
#[test]
fn the_panic_of_the_body_is_resumed_although_the_errors_of_tasks_panic_as_they_are_dropped() {
    on_both(|| async {
        let builder = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect);
        let open = builder.open(async |pool: Pool<Explosive>| -> Result<(), Explosive> {
            for _ in 0..3 {
                let task = pool.spawn_with_handle::<(), _>(async { Err(Explosive) });
                assert_eq!(task.await, Err(TaskStopped::Failed));
            }
            quiet_panic("body")
        });
        // Within a task, which unwinds through the future that it awaits.
        let unwound = tokio::spawn(async { open.await.is_ok() }).await.unwrap_err();
        assert_eq!(unwound.into_panic().downcast_ref(), Some(&"body"));
    });
}

/// `resume_panic` used to drop the error while the panic went on already, which ended the process.
#[test]
fn a_panic_is_resumed_although_an_error_beside_it_panics_as_it_is_dropped() {
    on_both(|| async {
        let builder = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect);
        let open = builder.open(async |pool: Pool<Explosive>| {
            pool.spawn(async { Err(Explosive) });
            pool.spawn(async { quiet_panic("task") });
            Ok(())
        });
        let error = open.await.unwrap_err();
        assert_eq!(error.failures().len(), 2);
        assert_eq!(panic_text(|| error.resume_panic()), "task");
    });
}

#[test]
fn the_payload_of_a_panic_reaches_the_caller() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async { resume_unwind(Box::new(42_u8)) });
            pending().await
        })
        .await;
        let Failure::Panic(payload) = outcome.unwrap_err().into_failures().remove(0).into_failure() else {
            panic!("no panic")
        };
        assert_eq!(*payload.into_inner().downcast::<u8>().unwrap(), 42);
    });
}

#[test]
fn the_body_may_panic_with_a_payload_that_panics_in_its_destructor() {
    on_both(|| async {
        let alive = Alive::default();
        let one = alive.one();
        let mut open = Box::pin(Pool::<BoxError>::open(async |pool| -> Result<(), BoxError> {
            pool.spawn(async {
                let _one = one;
                pending::<()>().await;
            });
            resume_unwind(Box::new(ExplosivePayload))
        }));
        let payload = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| open.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|_| None),
            Err(payload) => Poll::Ready(Some(payload)),
        });
        let payload = payload.await.expect("it panics");
        assert!(payload.is::<ExplosivePayload>());
        assert_eq!(alive.count(), 0);
        std::mem::forget(payload);
    });
}

#[test]
fn a_payload_of_any_type_can_be_raised() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async { panic_any(String::from("raised")) });
            pending().await
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: raised"]);
    });
}

// ===== every point =====

/// A pool with some of everything in it, which comes to its end by itself.
async fn busy_pool(alive: Alive) {
    async fn steps(_counted: impl Send, count: usize) {
        for _ in 0..count {
            yield_now().await;
        }
    }
    let outcome: Outcome = Pool::open(async |pool| {
        let _body = alive.one();
        for count in 0..3 {
            pool.spawn(steps(alive.one(), count));
        }
        let one = alive.one();
        let value = pool.spawn_with_handle(async {
            steps(one, 2).await;
            Ok(1)
        });
        let one = alive.one();
        pool.spawn_blocking(move || drop(one));
        let nested = alive.one();
        pool.spawn(async {
            let inner: Outcome = Pool::open(async |pool| {
                pool.spawn(steps(nested, 5));
                Ok(())
            })
            .await;
            inner.unwrap();
        });
        value.await?;
        yield_now().await;
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[test]
fn a_pool_may_be_dropped_after_any_number_of_polls() {
    on_both(|| async {
        for polls in 0.. {
            let alive = Alive::default();
            let mut open = tokio_test::task::spawn(busy_pool(alive.clone()));
            let mut finished = false;
            for _ in 0..polls {
                finished = open.poll().is_ready();
                if finished {
                    break;
                }
                yield_now().await;
            }
            assert!(!finished || alive.count() == 0);
            drop(open);
            until(|| alive.count() == 0).await;
            if finished {
                break;
            }
        }
    });
}

#[test]
fn a_nested_pool_may_be_dropped_after_any_number_of_polls() {
    on_both(|| async {
        let mut finished = false;
        for polls in 0.. {
            let alive = Alive::default();
            let outcome: Outcome = Pool::open(async |_| {
                let mut nested = tokio_test::task::spawn(busy_pool(alive.clone()));
                for _ in 0..polls {
                    finished = nested.poll().is_ready();
                    if finished {
                        break;
                    }
                    yield_now().await;
                }
                Ok(())
            })
            .await;
            outcome.unwrap();
            assert_eq!(alive.count(), 0);
            if finished {
                break;
            }
        }
    });
}

#[test]
fn a_task_may_panic_at_any_step() {
    on_both(|| async {
        for step in 0..10 {
            for culprit in 0..3 {
                let alive = Alive::default();
                let outcome: Outcome = Pool::open(async |pool| {
                    for task in 0..3 {
                        let one = alive.one();
                        pool.spawn(async move {
                            let _one = one;
                            for now in 0.. {
                                if (task, now) == (culprit, step) {
                                    quiet_panic("culprit");
                                }
                                yield_now().await;
                            }
                        });
                    }
                    Ok(())
                })
                .await;
                assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: culprit"]);
                assert_eq!(alive.count(), 0);
            }
        }
    });
}

#[test]
fn the_body_may_panic_at_any_step() {
    on_both(|| async {
        for step in 0..10 {
            let alive = Alive::default();
            let panic = panic_of(Pool::<BoxError>::open(async |pool| {
                for now in 0.. {
                    if now == step {
                        quiet_panic("body");
                    }
                    let one = alive.one();
                    pool.spawn(async {
                        let _one = one;
                        busy().await
                    });
                    yield_now().await;
                }
                Ok(())
            }));
            assert_eq!(panic.await, "body");
            assert_eq!(alive.count(), 0);
        }
    });
}

#[test]
fn several_failures_at_once_are_all_kept() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let barrier = Arc::new(Barrier::new(10));
        for task in 0..10 {
            let barrier = Arc::clone(&barrier);
            pool.spawn_blocking(move || {
                barrier.wait();
                if task % 2 == 0 { Err("error".into()) } else { quiet_panic("panic") }
            });
        }
        let mut all = failures(pool.run().await.unwrap_err().failures());
        all.sort();
        assert_eq!(all, [["error: error"; 5], ["panic: panic"; 5]].concat());
    });
}

#[test]
fn a_panic_leaves_other_pools_and_its_own_usable() {
    on_both(|| async {
        let outcome: Outcome<_> = Pool::open(async |outer| {
            for _ in 0..10 {
                let inner: Outcome<_> = Pool::open(async |pool| {
                    let _bomb = bomb("in drop");
                    pool.spawn(async { quiet_panic("task") });
                    pending::<Result<(), _>>().await
                })
                .await;
                assert_eq!(failures(inner.unwrap_err().failures()), ["panic: task", "panic: in drop"]);
                let task = outer.spawn_with_handle(async { Ok(1) });
                assert_eq!(task.await, Ok(1));
            }
            outer.spawn(async { quiet_panic("outer") });
            outer.cancelled().await;
            Ok(outer)
        })
        .await;
        assert!(outcome.unwrap_err().is_panic());
    });
}

// ===== code that calls back =====

#[test]
fn a_destructor_may_use_the_pool_while_that_aborts() {
    watched(|| {
        on_both(|| async {
            let alive = Alive::default();
            let outcome: Outcome = Pool::open(async |pool| {
                for _ in 0..10 {
                    let (own, one) = (pool.clone(), alive.one());
                    pool.spawn(async move {
                        let _meddling = OnDrop::new(move || {
                            let _one = one;
                            meddle(&own);
                            meddle::<BoxError>(&Pool::current());
                        });
                        pending::<()>().await;
                    });
                }
                yield_now().await;
                Err("body".into())
            })
            .await;
            assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
            assert_eq!(alive.count(), 0);
        });
    });
}

#[test]
fn a_destructor_may_use_the_pool_when_its_task_has_finished() {
    watched(|| {
        on_both(|| async {
            let outcome: Outcome = Pool::open(async |pool| {
                let own = pool.clone();
                pool.spawn(ReadyWith(OnDrop::new(move || meddle(&own)), Some(Ok(()))));
                let own = pool.clone();
                drop(pool.spawn_with_handle(async move { Ok(OnDrop::new(move || meddle(&own))) }));
                Ok(())
            })
            .await;
            outcome.unwrap();
        });
    });
}

#[test]
fn a_destructor_may_use_the_pool_while_its_owner_is_dropped() {
    watched(|| {
        on_both(|| async {
            let alive = Alive::default();
            let mut open = Box::pin(Pool::<BoxError>::open(async |pool| {
                let (own, other, one) = (pool.clone(), pool.clone(), alive.one());
                let _body = OnDrop::new(move || meddle(&own));
                pool.spawn(async move {
                    let _task = OnDrop::new(move || {
                        let _one = one;
                        meddle(&other);
                    });
                    pending::<()>().await;
                });
                pending::<Result<(), _>>().await
            }));
            assert!(poll_once(open.as_mut()).await.is_pending());
            drop(open);
            until(|| alive.count() == 0).await;
        });
    });
}

#[test]
fn a_planned_task_may_use_the_pool_when_it_is_dropped() {
    watched(|| {
        on_both(|| async {
            let pool = Pool::<BoxError>::new();
            let own = pool.clone();
            let meddling = OnDrop::new(move || meddle(&own));
            pool.spawn(async { drop(meddling) });
            pool.cancel();
            pool.run().await.unwrap();
        });
    });
}

/// An error that meddles with its pool when it is converted, and when it is dropped, and is counted until then.
struct Meddlesome {
    pool: Pool<Self>,
    _counted: Counted,
}

impl std::fmt::Display for Meddlesome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("meddlesome")
    }
}

impl Drop for Meddlesome {
    fn drop(&mut self) {
        meddle(&self.pool);
    }
}

impl From<Meddlesome> for BoxError {
    fn from(error: Meddlesome) -> Self {
        meddle(&error.pool);
        "meddlesome".into()
    }
}

#[test]
fn an_error_may_use_the_pool_when_it_is_discarded() {
    watched(|| {
        on_both(|| async {
            let (alive, pool) =
                (Alive::default(), Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Discard).build());
            let error = Meddlesome { pool: pool.clone(), _counted: alive.one() };
            pool.spawn(async { Err(error) });
            assert!(pool.run().await.is_ok());
            assert_eq!(alive.count(), 0);
        });
    });
}

#[test]
fn an_error_may_use_the_pool_when_the_panic_of_the_body_takes_it_along() {
    watched(|| {
        on_both(|| async {
            let alive = Alive::default();
            let builder = Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Collect);
            let open = builder.open(async |pool: Pool<Meddlesome>| {
                let error = Meddlesome { pool: pool.clone(), _counted: alive.one() };
                let task = pool.spawn_with_handle::<(), _>(async { Err(error) });
                assert_eq!(task.await, Err(TaskStopped::Failed));
                if true { quiet_panic("body") } else { Ok(()) }
            });
            assert_eq!(panic_of(open).await, "body");
            assert_eq!(alive.count(), 0);
        });
    });
}

#[test]
fn an_error_may_use_the_pool_when_it_is_reported_further_out() {
    watched(|| {
        on_both(|| async {
            let (alive, failed) = (Alive::default(), LatchEvent::new());
            let error = Pool::open(async |_: Pool| {
                let builder = Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Collect);
                let mut inner = Box::pin(builder.open(async |inner: Pool<Meddlesome>| {
                    let error = Meddlesome { pool: inner.clone(), _counted: alive.one() };
                    let task = inner.spawn_with_handle::<(), _>(async { Err(error) });
                    assert_eq!(task.await, Err(TaskStopped::Failed));
                    failed.set();
                    pending::<Result<(), _>>().await
                }));
                poll_until(inner.as_mut(), || failed.is_set()).await;
                drop(inner);
                Ok(())
            });
            assert_eq!(failures(error.await.unwrap_err().cleanup_failures()), ["error: meddlesome"]);
            assert_eq!(alive.count(), 0);
        });
    });
}

/// An error that uses its pool when it is asked for its cause.
#[derive(Debug)]
struct Inquisitive(Pool, Arc<AtomicUsize>);

impl fmt::Display for Inquisitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inquisitive")
    }
}

impl Error for Inquisitive {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        meddle(&self.0);
        self.1.fetch_add(1, Ordering::SeqCst);
        None
    }
}

#[test]
fn an_error_may_use_the_pool_when_it_is_asked_for_its_cause() {
    watched(|| {
        on_both(|| async {
            let (asked, pool) = (Arc::new(AtomicUsize::new(0)), Pool::<BoxError>::new());
            let error = Inquisitive(pool.clone(), Arc::clone(&asked));
            pool.spawn(async { Err(error.into()) });
            assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: inquisitive"]);
            assert!(asked.load(Ordering::SeqCst) > 0, "it was not asked, or that has panicked");
        });
    });
}

/// A waker that meddles with a pool when it is woken and when it is dropped.
struct Meddler(Pool);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        meddle(&self.0);
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        meddle(&self.0);
    }
}

/// Polls to the end, with a waker that meddles and another one each time.
async fn meddling<F: Future>(pool: &Pool, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let waker = Waker::from(Arc::new(Meddler(pool.clone())));
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        drop(waker);
        yield_now().await;
    }
}

#[test]
fn the_waker_of_the_driver_may_use_the_pool() {
    watched(|| {
        on_both(|| async {
            for _ in 0..100 {
                let pool = Pool::<BoxError>::new();
                let own = pool.clone();
                pool.spawn(async move {
                    yield_now().await;
                    own.spawn(async {});
                });
                pool.spawn(pending::<()>());
                meddling(&pool.clone(), pool.run()).await.unwrap();
            }
        });
    });
}

#[test]
fn the_waker_of_a_waiter_may_use_the_pool() {
    watched(|| {
        on_both(|| async {
            let pool = Pool::<BoxError>::new();
            let waker = Waker::from(Arc::new(Meddler(pool.clone())));
            let mut waiters: Vec<_> = (0..10).map(|_| Box::pin(pool.cancelled())).collect();
            for waiter in &mut waiters {
                assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            pool.cancel();
            drop(waker);
            for waiter in waiters {
                waiter.await;
            }
        });
    });
}

#[test]
fn the_waker_of_a_handle_may_use_the_pool() {
    watched(|| {
        on_both(|| async {
            let outcome: Outcome<_> = Pool::open(async |pool| {
                let handle = pool.spawn_with_handle(async {
                    yield_now().await;
                    Ok(1)
                });
                let value = meddling(&pool, handle).await;
                assert!(matches!(value, Ok(1) | Err(TaskStopped::Cancelled)));
                yield_now().await;
                Ok(())
            })
            .await;
            // The first waker that was dropped has cancelled the pool.
            assert!(outcome.unwrap_err().is_cancelled());
        });
    });
}

/// Awaits something in a pool of its own, with wakers that meddle with that pool, until it closes for that.
async fn meddled<T>(wait: impl AsyncFnOnce(&Pool) -> T) {
    let outcome = Pool::<BoxError>::builder().limit(1).open(async |pool: Pool| {
        meddling(&pool, wait(&pool)).await;
        pending::<Result<(), _>>().await
    });
    assert!(outcome.await.unwrap_err().is_cancelled());
}

/// A future that is ready after some turns.
async fn turning(turns: usize) -> Result<(), BoxError> {
    for _ in 0..turns {
        yield_now().await;
    }
    Ok(())
}

/// A waker that calls back when it is cloned is not among these: it takes `unsafe` code, which the tests do without as
/// the crate does. Wakers are cloned before a lock is taken.
#[test]
fn the_waker_of_whatever_waits_may_use_the_pool() {
    watched(|| {
        on_both(|| async {
            for turns in [0, 1, 2, 5] {
                meddled(async |pool| pool.spawn_with_handle(turning(turns)).await).await;
                meddled(async |pool| {
                    pool.spawn(turning(turns));
                    pool.ready().await;
                })
                .await;
                let task = async move |started: Started<()>| {
                    turning(turns).await?;
                    started.ready(());
                    Ok(())
                };
                meddled(async |pool| pool.start(task).await).await;
                meddled(async |pool| {
                    let own = pool.clone();
                    pool.spawn(async move {
                        turning(turns).await?;
                        own.cancel();
                        Ok(())
                    });
                    pool.cancelled().await;
                })
                .await;
                meddled(async |pool| {
                    pool.spawn(turning(turns));
                    pool.idle().await;
                })
                .await;
                meddled(async |pool| pool.track_future(turning(turns)).await).await;
                meddled(async |_| {
                    let mut group = TaskGroup::<()>::new();
                    group.spawn(turning(turns));
                    group.spawn(turning(turns + 1));
                    while group.next().await.is_some() {}
                    group.spawn(pending());
                    group.shutdown().await;
                })
                .await;
                meddled(async |_| map(2, 0..4, turning).collect().await).await;
                meddled(async |_| race([turning(turns), turning(turns + 1)]).await).await;
                meddled(async |_| try_all([turning(turns), turning(turns + 1)]).await).await;
                meddled(async |_| wait_all([turning(turns), turning(turns + 1)]).await).await;
                meddled(async |_| shield(turning(turns)).await).await;
                let body = async move |_: &mut ()| turning(turns).await;
                meddled(async |_| with_exit((), body, move |(), _| turning(turns)).await).await;
                let nested = Pool::open(async move |_: Pool| turning(turns).await);
                meddled(async |_| timeout(Duration::MAX, nested).await).await;
                meddled(async |_| prime(turning(turns)).await).await;
                meddled(async |_| cancel_task(tokio::spawn(turning(turns))).await).await;
                meddled(async |_| {
                    let latch = LatchEvent::new();
                    let set = latch.wait_set();
                    tokio::spawn(async move {
                        drop(turning(turns).await);
                        latch.set();
                    });
                    set.await;
                })
                .await;
            }
        });
    });
}

/// Polls with ten wakers, one after the other, then releases what is waited for: only the last may be woken.
async fn only_the_last_is_woken<F: Future>(name: &str, future: F, release: impl FnOnce()) -> F::Output {
    let mut future = Box::pin(future);
    let mut wakers: Vec<_> = (0..10).map(|_| tokio_test::task::spawn(())).collect();
    for waker in &mut wakers {
        assert!(waker.enter(|cx, _| future.as_mut().poll(cx)).is_pending(), "{name} does not wait");
        // What it waits for gets its turn, and may register.
        turns(10).await;
    }
    assert!(wakers.iter().all(|waker| !waker.is_woken()), "{name} is woken too early");
    release();
    let last = wakers.pop().unwrap();
    until(|| last.is_woken()).await;
    assert!(wakers.iter().all(|waker| !waker.is_woken()), "{name} has woken who polled it before");
    future.await
}

#[test]
fn whatever_waits_wakes_only_the_last_who_polled_it() {
    on_both(|| async {
        let pool = Pool::<BoxError>::builder().limit(1).keep_open(true).build();
        // Polled once, since a pool that begins to run wakes who waits for a slot.
        let mut run = Box::pin(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        let running = tokio::spawn(run);
        let gate = LatchEvent::new();
        let wait = || {
            gate.unset();
            let opened = gate.wait_set();
            async {
                opened.await;
                Ok::<_, BoxError>(1)
            }
        };
        let set = || gate.set();
        let (opened, own) = (wait(), pool.clone());
        // First, since a slot may be freed a moment after the handle of its task is ready.
        let occupied = async {
            own.spawn(async { opened.await.map(drop) });
            own.ready().await;
        };
        only_the_last_is_woken("ready", occupied, set).await;
        let handle = pool.spawn_with_handle(wait());
        assert_eq!(only_the_last_is_woken("a handle", handle, set).await, Ok(1));
        let opened = wait();
        let start = pool.start(async |started| started.ready(opened.await.unwrap()));
        assert_eq!(only_the_last_is_woken("start", start, set).await, Ok(1));

        assert_eq!(only_the_last_is_woken("race", race([wait()]), set).await.1.unwrap(), 1);
        assert_eq!(only_the_last_is_woken("try_all", try_all([wait()]), set).await.unwrap(), [1]);
        let [outcome] = only_the_last_is_woken("wait_all", wait_all([wait()]), set).await;
        assert_eq!(outcome.unwrap(), 1);
        assert_eq!(only_the_last_is_woken("shield", shield(wait()), set).await.unwrap(), 1);
        let opened = wait();
        let visit = with_exit((), async |_| opened.await, async |_, _| Ok(()));
        assert_eq!(only_the_last_is_woken("with_exit, its body", visit, set).await.unwrap(), 1);
        let opened = wait();
        let visit = with_exit((), async |_| Ok(2), async |_, _| opened.await.map(drop));
        assert_eq!(only_the_last_is_woken("with_exit, its handler", visit, set).await.unwrap(), 2);
        let limited = timeout(Duration::MAX, wait());
        assert_eq!(only_the_last_is_woken("timeout", limited, set).await.unwrap().unwrap(), 1);
        assert_eq!(only_the_last_is_woken("prime", prime(wait()), set).await.unwrap(), 1);
        assert_eq!(only_the_last_is_woken("open", Pool::open(async |_: Pool| wait().await), set).await.unwrap(), 1);

        only_the_last_is_woken("cancelled", pool.cancelled(), || pool.cancel()).await;
        running.await.unwrap().unwrap();
    });
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let (release, released) = oneshot::channel::<()>();
        pool.spawn(async { drop(released.await) });
        let mut run = Box::pin(pool.run());
        for _ in 0..10 {
            let mut early = tokio_test::task::spawn(run.as_mut());
            assert!(early.poll().is_pending());
        }
        // It is moved to a task, whose waker is the only one that still works.
        let last = tokio::spawn(run);
        yield_now().await;
        release.send(()).unwrap();
        last.await.unwrap().unwrap();
    });
}

// ===== runtimes =====

#[test]
fn a_runtime_that_is_dropped_takes_the_pools_on_it_along() {
    watched(|| {
        for runtime in [current_thread(), multi_thread()] {
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
            assert_eq!(alive.count(), 0);
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

#[test]
fn tasks_that_are_cut_off_by_their_runtime_are_failures() {
    watched(|| {
        for gone in [current_thread(), multi_thread()] {
            let alive = Alive::default();
            let (one, seen) = (alive.one(), alive.clone());
            let (pool, open) = orphan(gone, async move |pool| {
                pool.spawn(async {
                    let _one = one;
                    pending::<()>().await;
                });
                pending::<()>().await;
            });
            assert_eq!(seen.count(), 0);
            assert!(pool.is_closed());
            let error = current_thread().block_on(open).unwrap_err();
            assert_eq!(failures(error.failures()), ["cancelled"]);
            assert!(!error.is_cancelled() && error.to_string().contains("runtime shutting down"), "{error}");
        }
    });
}

#[test]
fn a_task_spawned_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        for gone in [current_thread(), multi_thread()] {
            let (pool, open) = orphan(gone, async |_| pending::<()>().await);
            assert!(!pool.is_closed());
            let alive = Alive::default();
            let (own, one) = (pool.clone(), alive.one());
            let meddling = OnDrop::new(move || {
                let _one = one;
                meddle(&own);
            });
            pool.spawn(async { drop(meddling) });
            assert_eq!(alive.count(), 0);
            assert!(pool.is_closed());
            let error = current_thread().block_on(open).unwrap_err();
            let all = failures(error.failures());
            assert!(all.contains(&"cancelled".to_owned()), "{all:?}");
        }
    });
}

#[test]
fn the_handle_of_a_task_on_a_dead_runtime_says_cancelled() {
    watched(|| {
        let (pool, open) = orphan(current_thread(), async |_| pending::<()>().await);
        let handle = pool.spawn_with_handle(async { Ok(1) });
        current_thread().block_on(async {
            assert_eq!(failures(open.await.unwrap_err().failures()), ["cancelled"]);
            assert_eq!(handle.await, Err(TaskStopped::Cancelled));
        });
    });
}

#[test]
fn a_closure_spawned_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread(), async |_| pending::<()>().await);
        let own = pool.clone();
        let meddling = OnDrop::new(move || meddle(&own));
        pool.spawn_blocking(move || drop(meddling));
        let error = current_thread().block_on(open).unwrap_err();
        assert!(failures(error.failures()).contains(&"cancelled".to_owned()));
    });
}

#[test]
fn a_panic_in_a_destructor_on_a_dead_runtime_is_a_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread(), async |_| pending::<()>().await);
        let bomb = bomb("in drop");
        pool.spawn(async { drop(bomb) });
        let error = current_thread().block_on(open).unwrap_err();
        assert_eq!(failures(error.failures()), ["cancelled", "panic: in drop"]);
    });
}

#[test]
fn a_cancelled_pool_on_a_dead_runtime_has_no_failure() {
    watched(|| {
        let (pool, open) = orphan(current_thread(), async |_| pending::<()>().await);
        pool.cancel_with("enough");
        let error = current_thread().block_on(open).unwrap_err();
        assert!(error.is_cancelled() && error.cancel_reason() == Some("enough"));
    });
}

#[test]
fn the_owner_of_a_pool_on_a_dead_runtime_may_be_dropped() {
    watched(|| {
        let (pool, open) = orphan(current_thread(), async |pool| {
            pool.spawn(pending::<()>());
            pending::<()>().await
        });
        drop(open);
        assert!(pool.is_closed() && pool.is_empty());
    });
}

#[test]
fn what_a_dead_runtime_cut_off_is_reported_by_the_enclosing_pool() {
    on_both(|| async {
        let gone = current_thread();
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
    });
}

#[test]
fn tasks_run_on_the_runtime_of_the_owner_whoever_spawns_them() {
    watched(|| {
        let own = Builder::new_multi_thread().worker_threads(1).thread_name("own").build().unwrap();
        let outcome: Outcome = own.block_on(Pool::open(async |pool| {
            let (pool, (sender, receiver)) = (pool.clone(), oneshot::channel());
            thread::spawn(move || {
                current_thread().block_on(async {
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
        for runtime in [current_thread(), multi_thread()] {
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
                assert_eq!(alive.count(), 1);
            });
            drop(runtime);
            assert_eq!(alive.count(), 0);
        }
    });
}

#[test]
fn blocking_on_another_runtime_in_a_task_is_an_ordinary_panic() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async { current_thread().block_on(async {}) });
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_panic());
    });
}

#[test]
fn dropping_a_runtime_in_a_task_is_an_ordinary_panic() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            let other = multi_thread();
            pool.spawn(async { drop(other) });
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_panic());
    });
}

#[test]
fn block_in_place_on_a_current_thread_runtime_is_an_ordinary_panic() {
    on_current_thread(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async { tokio::task::block_in_place(|| {}) });
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_panic());
    });
}

/// On a runtime that has neither timers nor I/O.
fn without_drivers<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    watched(move || Builder::new_current_thread().build().unwrap().block_on(test()));
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
                pool.spawn(holding(counted));
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

// ===== floods =====

#[test]
fn the_driver_is_not_polled_for_each_wake_of_a_task() {
    on_both(|| async {
        let polls = AtomicUsize::new(0);
        let outcome: Outcome = Pool::open(async |pool| {
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    pool.spawn_with_handle(async {
                        for _ in 0..10_000 {
                            yield_now().await;
                        }
                        Ok(())
                    })
                })
                .collect();
            let mut all = pin!(async {
                for task in tasks {
                    task.await?;
                }
                Ok(())
            });
            std::future::poll_fn(|cx| {
                polls.fetch_add(1, Ordering::SeqCst);
                all.as_mut().poll(cx)
            })
            .await
        })
        .await;
        outcome.unwrap();
        assert!(polls.load(Ordering::SeqCst) < 20, "{polls:?}");
    });
}

#[test]
fn a_flood_of_tasks_does_not_keep_a_timeout_from_firing() {
    fn next() {
        Pool::<BoxError>::current().spawn(async { next() });
    }
    let flood = || async {
        let open = Pool::<BoxError>::open(async |_| {
            next();
            pending::<Result<(), _>>().await
        });
        assert!(timeout(Duration::from_millis(5), open).await.is_err());
    };
    watched(move || current_thread().block_on(flood()));
    on_multi_thread(flood);
}

#[test]
fn a_blocking_task_is_not_claimed_to_have_been_cancelled() {
    on_both(|| async {
        let alive = Alive::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = oneshot::channel();
        let one = alive.one();
        let pool = Pool::<BoxError>::new();
        pool.spawn_blocking(move || {
            let _one = one;
            began.send(()).unwrap();
            let _ = released.recv();
        });
        let own = pool.clone();
        let mut run = pin!(pool.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        has_begun.await.unwrap();
        own.cancel();
        stays_pending(run.as_mut()).await;
        assert_eq!((alive.count(), own.len()), (1, 1));
        release.send(()).unwrap();
        run.await.unwrap();
        assert_eq!((alive.count(), own.len()), (0, 0));
    });
}

// ===== wakers that panic =====

/// A waker that panics each time it is woken.
struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        quiet_panic("in a waker");
    }
}

/// Polls once, with a waker that panics.
fn poll_with_bomb<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::new(PanicsWhenWoken))))
}

#[test]
fn a_waker_of_the_driver_that_panics_as_tasks_end_loses_nothing() {
    on_both(|| async {
        let (gate, alive) = (LatchEvent::new(), Alive::default());
        let mut open = pin!(Pool::open(async |pool: Pool| {
            for number in 0..3 {
                let (open, counted) = (gate.wait_set(), alive.one());
                pool.spawn(async move {
                    open.await;
                    drop(counted);
                    if number == 1 { Err("error".into()) } else { Ok(()) }
                });
            }
            Ok(())
        }));
        assert!(poll_with_bomb(open.as_mut()).is_pending());
        gate.set();
        until(|| alive.count() == 0).await;
        assert_eq!(failures(open.await.unwrap_err().failures()), ["error: error", "panic: in a waker"]);
    });
}

#[test]
fn a_waker_that_panics_does_so_in_who_cancels_and_the_pool_closes_all_the_same() {
    on_both(|| async {
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
    });
}

/// The task that failed used to unwind with it, before it was counted as ended: nobody had its slot.
#[test]
fn a_waker_that_panics_as_a_task_closes_the_pool_leaves_the_others_their_turn() {
    on_both(|| async {
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
    });
}

/// The second panic used to end the process.
#[test]
fn a_waker_that_panics_as_a_planned_pool_closes_leaves_no_plan_behind() {
    on_both(|| async {
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
    });
}

#[test]
fn a_waker_of_a_handle_that_panics_keeps_the_pool_from_nothing() {
    on_both(|| async {
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
    });
}

// ===== what does not give way =====

#[test]
fn a_task_that_never_gets_to_an_await_is_waited_for() {
    on_multi_thread(|| async {
        let (begun, stop, alive) = (LatchEvent::new(), Arc::new(AtomicUsize::new(0)), Alive::default());
        let failed = std::cell::Cell::new(false);
        let mut open = pin!(Pool::open(async |pool: Pool| {
            let (begun, stop, counted) = (begun.clone(), Arc::clone(&stop), alive.one());
            let has_begun = begun.wait_set();
            pool.spawn(async move {
                let _counted = counted;
                begun.set();
                while stop.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
                yield_now().await;
                panic!("it was aborted at that await");
            });
            has_begun.await;
            failed.set(true);
            Err::<(), BoxError>("error".into())
        }));
        poll_until(open.as_mut(), || failed.get()).await;
        stays_pending(open.as_mut()).await;
        assert_eq!(alive.count(), 1);
        stop.store(1, Ordering::SeqCst);
        assert_eq!(failures(open.await.unwrap_err().failures()), ["error: error"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_task_that_has_spent_its_budget_runs_pools_all_the_same() {
    on_both(|| async {
        let task = tokio::spawn(async {
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
            let (sum, [first]) = Pool::open(async |pool: Pool| {
                let values: Vec<_> = (0..200).map(|n| pool.spawn_with_handle(async move { Ok(n) })).collect();
                let mut sum = 0;
                for value in values {
                    sum += value.await?;
                }
                Ok((sum, try_all([async { Ok::<_, BoxError>(1) }]).await?))
            })
            .await
            .unwrap();
            assert_eq!((sum, first), (19_900, 1));
        });
        task.await.unwrap();
    });
}

// ===== destructors while the runtime shuts down =====

#[test]
fn destructors_may_spawn_and_cancel_while_the_runtime_shuts_down() {
    for new_runtime in [current_thread as fn() -> Runtime, multi_thread] {
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
#[test]
fn a_local_task_that_a_panic_takes_along_was_cut_off() {
    on_current_thread(|| async {
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
    });
}

/// Fills a pool with a task of a `LocalSet`, which is then polled with a bomb, and with three others; all of them wait.
///
/// At the abort a pool used to take all wakers out, and to lose those that came after one that panicked: their tasks, and
/// all who waited for them, stayed for ever.
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
            pool.spawn_local(holding(counted));
            yield_now().await;
        })
        .await;
    for _ in 0..3 {
        let counted = alive.one();
        pool.spawn(holding(counted));
    }
    turns(20).await;
    assert!(poll_with_bomb(Pin::new(local)).is_pending());
    assert_eq!(alive.count(), 4);
}

/// Waits for ever with what it holds.
async fn holding(held: impl Sized) {
    pending::<()>().await;
    drop(held);
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

#[test]
fn a_waker_of_a_local_set_that_panics_at_the_abort_keeps_nobody_alive() {
    on_current_thread(|| async {
        let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
        let (mut local, mut run) = (LocalSet::new(), pin!(pool.clone().run()));
        with_a_bomb(&pool, &alive, &mut local, run.as_mut()).await;
        pool.cancel();
        assert!(poll_once(run.as_mut()).await.is_pending(), "the panic goes no further");
        local.run_until(turns(10)).await;
        run.await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_waker_of_a_local_set_that_panics_as_the_owner_is_dropped_keeps_nobody_alive() {
    on_current_thread(|| async {
        let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
        let (mut local, mut run) = (LocalSet::new(), Box::pin(pool.clone().run()));
        with_a_bomb(&pool, &alive, &mut local, run.as_mut()).await;
        drop(run);
        local.run_until(turns(10)).await;
        until(|| alive.count() == 0).await;
    });
}

/// It also left the queue to whoever had panicked: nobody after that had a turn.
#[test]
fn a_waker_of_a_local_set_that_panics_at_its_turn_leaves_the_others_theirs() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_waker_of_the_driver_that_panics_leaves_nobody_waiting_for_the_closing() {
    on_current_thread(|| async {
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let mut run = pin!(pool.clone().run());
        assert!(poll_with_bomb(run.as_mut()).is_pending());
        let mut cancelled = pin!(pool.cancelled());
        assert!(poll_once(cancelled.as_mut()).await.is_pending());
        assert_eq!(panic_text(|| pool.cancel()), "in a waker");
        run.await.unwrap();
        cancelled.await;
    });
}

#[test]
fn a_waker_that_panics_as_the_owner_is_dropped_keeps_nobody_alive() {
    on_both(|| async {
        let (pool, alive) = (Pool::<BoxError>::builder().keep_open(true).build(), Alive::default());
        let mut run = Box::pin(pool.clone().run());
        let counted = alive.one();
        pool.spawn(holding(counted));
        assert!(poll_once(run.as_mut()).await.is_pending());
        let mut cancelled = pin!(pool.cancelled());
        assert!(poll_with_bomb(cancelled.as_mut()).is_pending());
        drop(run);
        until(|| alive.count() == 0).await;
        cancelled.await;
    });
}
