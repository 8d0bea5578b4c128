//! Destructors that panic: each is a failure, and hides none.

use std::error::Error;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, thread};

use aiodrive::{
    BoxError, Exit, LatchEvent, OnFailure, Pool, PoolError, TaskStopped, cancellation_token, shield, timeout, with_exit,
};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    Alive, Explosive, OnDrop, Outcome, ReadyWith, bomb, both, busy, current_thread, current_thread_runtime, failures,
    keep, multi_thread, on_both, on_current_thread, panic_of, panic_text, poll_once, poll_until, quiet_panic, turns,
    until,
};

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

/// What a pool returns in which three tasks have failed with errors that panic as they are dropped.
async fn three_explosive_errors() -> PoolError<Explosive> {
    let pool = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect).build();
    for _ in 0..3 {
        pool.spawn(async { Err(Explosive) });
    }
    pool.run().await.unwrap_err()
}

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

// ===== destructors that panic =====

#[apply(both)]
async fn a_panic_in_the_destructor_of_an_aborted_task_is_a_failure() {
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
}

#[apply(current_thread)]
async fn a_panic_in_the_destructor_of_a_task_that_never_began_is_a_failure() {
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
}

#[apply(both)]
async fn a_panic_in_the_destructor_of_a_finished_future_is_a_failure() {
    let outcome: Outcome<_> = Pool::open(async |pool| {
        let handle = pool.spawn_with_handle(ReadyWith(bomb("in drop"), Some(Ok(1))));
        Ok(handle)
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
}

/// The closure of the body used to be called in an async block. The future's destructor then unwound through that
/// block, as if the body had panicked: its error was dropped, and so were the failures of all tasks.
#[apply(both)]
async fn a_panic_in_the_destructor_of_a_finished_body_hides_no_failure() {
    let outcome: Outcome = Pool::open(|_: Pool| ReadyWith(bomb("in drop"), Some(Err("error".into())))).await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: error", "panic: in drop"]);
    let outcome: Outcome<i32> = Pool::open(|_: Pool| ReadyWith(bomb("in drop"), Some(Ok(1)))).await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in drop"]);
}

/// It used to end the process: the output was dropped while the panic of the destructor went on already.
#[apply(both)]
async fn a_timeout_resumes_the_panic_of_a_destructor_although_the_output_panics_as_it_is_dropped() {
    let error = Pool::open(async |_: Pool| {
        let limited = timeout(Duration::MAX, ReadyWith(bomb("in drop"), Some(bomb("value"))));
        assert_eq!(panic_of(limited).await, "in drop");
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(error.failures().is_empty());
    assert_eq!(failures(error.cleanup_failures()), ["panic: value"]);
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

#[apply(both)]
async fn a_handle_hears_of_a_panic_in_a_destructor() {
    let pool = Pool::<BoxError>::new();
    let finished = pool.spawn_with_handle(ReadyWith(bomb("finished"), Some(Ok(1))));
    assert!(pool.run().await.is_err());
    assert_eq!(finished.await, Err(TaskStopped::Panicked));
}

#[apply(both)]
async fn a_task_that_fails_and_panics_in_its_destructor_has_two_failures() {
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(ReadyWith(bomb("in drop"), Some(Err("error".into()))));
        pending().await
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: error", "panic: in drop"]);
}

#[apply(both)]
async fn a_task_that_panics_and_panics_in_its_destructor_has_two_failures() {
    struct Panics<T>(T);
    impl<T> Future for Panics<T> {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let _ = &self.0;
            quiet_panic("in poll")
        }
    }
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(Panics(bomb("in drop")));
        pending().await
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: in poll", "panic: in drop"]);
}

#[apply(both)]
async fn a_panic_in_the_destructor_of_a_dropped_body_goes_to_the_dropper_and_the_tasks_end() {
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
}

#[apply(both)]
async fn a_value_of_the_body_that_is_discarded_may_panic_in_its_destructor_and_hides_no_failure() {
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
}

#[apply(both)]
async fn an_error_may_panic_in_its_destructor() {
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
}

/// The second panic used to end the process.
#[apply(both)]
async fn planned_tasks_are_all_dropped_although_they_panic_at_that() {
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
}

/// It used to unwind out of the task before that was counted as ended: whoever waited for its slot waited for ever.
#[apply(both)]
async fn an_error_may_panic_when_it_is_asked_for_its_cause() {
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
    let builder = Pool::<BoxError>::builder().limit(1).on_failure(|_| OnFailure::Collect);
    let open = builder.open(async |pool: Pool| {
        let tasks = [(); 2].map(|()| pool.spawn_with_handle::<(), _>(async { Err(Causeless.into()) }));
        for task in tasks {
            assert_eq!(task.await, Err(TaskStopped::Failed));
        }
        Err::<(), _>(Causeless.into())
    });
    assert_eq!(failures(open.await.unwrap_err().failures()), ["error: causeless"; 3]);
}

/// It used to unwind out of the task, or the body, before anything was recorded.
#[apply(both)]
async fn an_error_that_is_no_failure_may_panic_in_its_destructor() {
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
}

/// What is asked for used to be lost to the destructor of what is not.
#[apply(both)]
async fn a_part_of_an_error_can_be_had_although_the_rest_panics_as_it_is_dropped() {
    std::mem::forget(three_explosive_errors().await.into_first_error().unwrap());
    assert!(three_explosive_errors().await.into_cleanup_failures().is_empty());
    let all = three_explosive_errors().await.into_failures();
    assert_eq!(failures(&all), ["error: explosive"; 3]);
    all.into_iter().for_each(std::mem::forget);
}

/// The panic of its destructor used to come out of the drop. `with_exit` drops it itself, where no runtime swallows
/// that.
#[apply(both)]
async fn an_error_that_nobody_is_left_to_tell_may_panic_in_its_destructor() {
    let body = async |_: &mut ()| Err::<(), _>(Explosive);
    let handler = async |(), _: Exit| -> Result<(), Explosive> { quiet_panic("exit") };
    // Outside of a pool.
    assert_eq!(panic_of(with_exit((), body, handler)).await, "exit");
}

/// The first panic of a conversion used to take all failures after it along.
#[apply(both)]
async fn an_error_may_panic_as_it_is_converted_for_a_pool_further_out() {
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
}

/// It used to be recorded in the pool that had returned, where nobody looks any more.
#[apply(multi_thread)]
async fn a_panic_in_a_queued_task_that_is_given_up_on_is_told_further_out() {
    // A worker blocks in the destructor.
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
}

/// The handle used to say that the task was cancelled.
#[apply(both)]
async fn the_handle_of_a_task_that_panics_twice_in_destructors_says_so() {
    let pool = Pool::<BoxError>::new();
    let handle = pool.spawn_with_handle(ReadyWith(bomb("in drop"), Some(Ok(bomb("value")))));
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: in drop", "panic: value"]);
    assert_eq!(handle.await.err(), Some(TaskStopped::Panicked));
}

/// Nobody used to hear of it.
#[apply(both)]
async fn a_panic_in_the_destructor_of_shielded_work_that_its_runtime_cuts_off_is_a_cleanup_failure() {
    for polled in [false, true] {
        let error = Pool::open(async |_: Pool| {
            let gone = current_thread_runtime();
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
}

// ===== every point =====

/// At most so many polls: more than the pool takes on one thread. On several, real time says how many it takes.
const POLLS: usize = 60;

#[apply(both)]
async fn a_pool_may_be_dropped_after_any_number_of_polls() {
    for polls in 0..POLLS {
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
        assert!(!finished || alive.count() == 0, "it has ended before its tasks, after {polls} polls");
        drop(open);
        until(|| alive.count() == 0).await;
        if finished {
            break;
        }
    }
}

#[apply(both)]
async fn a_nested_pool_may_be_dropped_after_any_number_of_polls() {
    for polls in 0..POLLS {
        let mut finished = false;
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
        assert_eq!(alive.count(), 0, "something is left after {polls} polls");
        if finished {
            break;
        }
    }
}

#[apply(both)]
async fn a_task_may_panic_at_any_step() {
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
            assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: culprit"], "task {culprit} at step {step}");
            assert_eq!(alive.count(), 0, "something is left of task {culprit} at step {step}");
        }
    }
}

#[apply(both)]
async fn the_body_may_panic_at_any_step() {
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
        assert_eq!(panic.await, "body", "at step {step}");
        assert_eq!(alive.count(), 0, "something is left at step {step}");
    }
}

#[apply(both)]
async fn several_failures_at_once_are_all_kept() {
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
}

#[apply(both)]
async fn a_panic_leaves_other_pools_and_its_own_usable() {
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
}

/// In a destructor that an abort runs, a pool closes as it starts.
#[apply(both)]
async fn the_destructor_of_a_plan_whose_pool_is_aborted_as_it_starts_is_a_failure() {
    let opened: Outcome = Pool::open(async |pool: Pool| {
        let inner: Pool = Pool::new();
        inner.spawn(keep(bomb("in a plan")));
        inner.cancel_on(pending::<()>());
        let (begun, wait) = oneshot::channel();
        let task = pool.spawn_with_handle(async move {
            let _starts = OnDrop::new(move || {
                let mut run = pin!(inner.run());
                let _ = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            });
            begun.send(()).unwrap();
            pending::<Result<(), _>>().await
        });
        wait.await?;
        task.cancel();
        assert_eq!(task.await, Err(TaskStopped::Cancelled));
        Ok(())
    })
    .await;
    assert_eq!(failures(opened.unwrap_err().cleanup_failures()), ["panic: in a plan"]);
}
