//! Which failures are in a `PoolError`, in which order, and how they read.

use std::error::Error;
use std::fmt;
use std::panic::{Location, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use aiodrive::{
    BoxError, ExitError, Failure, LatchEvent, OnFailure, PanicPayload, Pool, PoolError, TaskError, TaskHandle,
    TaskInfo, TaskStopped, cancellation_token, shield,
};
use macro_rules_attribute::apply;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Barrier, oneshot};
use tokio::task::{coop, yield_now};
use tokio_test::{assert_pending, task};

use crate::support::{
    Alive, Counted, Log, block_until_closed, bomb, both, current_thread, fails, failures, multi_thread,
    on_multi_thread, quiet_panic, stays_pending,
};

/// The error that a failure is.
fn error_in(failed: &TaskError) -> &BoxError {
    match failed.failure() {
        Failure::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

/// The error of an inner pool that a failure is.
fn group_in(failed: &TaskError) -> &PoolError {
    error_in(failed).downcast_ref().unwrap()
}

fn only<E: fmt::Debug + fmt::Display + 'static>(error: &PoolError<E>) -> &TaskError<E> {
    let [only] = error.failures() else { panic!("{error:?}") };
    only
}

/// Spawns a task that panics as it is aborted, and tells when it has begun.
fn spawn_bomb(pool: &Pool, message: &'static str) -> oneshot::Receiver<()> {
    let (started, begun) = oneshot::channel();
    pool.spawn(async move {
        let _panics = bomb(message);
        started.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    begun
}

/// Fails, then panics as it is aborted: with one failure after the other on both runtimes.
async fn error_then_panic(pool: &Pool) {
    let wait = spawn_bomb(pool, "second");
    pool.spawn(async move {
        wait.await?;
        Err("first".into())
    });
}

/// Sends when the pool has begun to close, from outside of the pool.
fn tell_when_closing(pool: &Pool, closing: oneshot::Sender<()>) {
    let pool = pool.clone();
    drop(tokio::spawn(async move {
        pool.cancelled().await;
        let _ = closing.send(());
    }));
}

// ===== which failures =====

#[apply(both)]
async fn a_single_failure_is_the_only_one() {
    let error = Pool::open(async |pool: Pool| {
        pool.spawn(async { Err("broken".into()) });
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert!(error.cleanup_failures().is_empty() && !error.is_cancelled() && !error.is_panic());
    assert_eq!(error.into_first_error().unwrap().to_string(), "broken");
}

#[apply(current_thread)]
async fn failures_of_the_same_turn_are_all_reported_and_successes_are_not() {
    let error = Pool::open(async |pool: Pool| {
        for nth in 0..5 {
            pool.spawn(async move { if nth % 2 == 0 { Err(nth.to_string().into()) } else { Ok(()) } });
        }
        Ok(())
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: 0", "error: 2", "error: 4"]);
}

#[apply(both)]
async fn failures_of_the_same_turn_stop_a_sibling_and_a_body_that_wait() {
    let (alive, log, all) = (Alive::default(), Log::default(), Arc::new(Barrier::new(4)));
    let error = Pool::open(async |pool: Pool| {
        let _one = alive.one();
        for nth in 0..3 {
            let (all, log) = (Arc::clone(&all), log.clone());
            pool.spawn(async move {
                all.wait().await;
                log.push(format!("error: {nth}"));
                Err(nth.to_string().into())
            });
        }
        let one = alive.one();
        pool.spawn(async move {
            let _one = one;
            all.wait().await;
            std::future::pending::<()>().await
        });
        std::future::pending::<Result<(), _>>().await
    });
    let (mut reported, mut failed) = (failures(error.await.unwrap_err().failures()), log.events());
    reported.sort();
    failed.sort();
    assert_eq!((&reported, alive.count()), (&failed, 0));
    assert!((1..=3).contains(&failed.len()));
}

#[test]
fn failures_are_in_order_of_occurrence() {
    /// Each is being polled, and so cannot be aborted, until the one before it has failed.
    async fn fail_in_a_row(pool: Pool) -> Result<(), BoxError> {
        let all_run = Arc::new(std::sync::Barrier::new(3));
        let mut before: Option<TaskHandle<()>> = None;
        for nth in 0..3 {
            let (all_run, before_it) = (Arc::clone(&all_run), before.take());
            before = Some(pool.spawn_with_handle(async move {
                all_run.wait();
                while before_it.as_ref().is_some_and(|task| !task.is_finished()) {
                    std::thread::yield_now();
                }
                Err(nth.to_string().into())
            }));
        }
        Ok(())
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    let error = runtime.block_on(Pool::open(fail_in_a_row)).unwrap_err();
    assert_eq!(failures(error.failures()), ["error: 0", "error: 1", "error: 2"]);
    assert_eq!(failures(&error.into_failures()), ["error: 0", "error: 1", "error: 2"]);
}

/// Takes a moment to be dropped, in which other threads go on.
struct Slow(bool);

impl Drop for Slow {
    fn drop(&mut self) {
        (0..if self.0 { 20 } else { 0 }).for_each(|_| std::thread::yield_now());
    }
}

/// Who fails drops what it holds, and with that may fail others, before its own failure can be recorded. Which of the
/// two is first is not promised; that both are there is, in the text of one line too.
#[test]
fn a_cause_and_its_consequence_are_both_told_in_either_order() {
    async fn cause(_slow: Slow, held: oneshot::Sender<()>) -> Result<(), BoxError> {
        let _dropped_first = held;
        yield_now().await;
        Err("cause".into())
    }

    async fn consequence(_slow: Slow, held: oneshot::Receiver<()>) -> Result<(), BoxError> {
        held.await.map_err(|_| "consequence".into())
    }

    on_multi_thread(|| async {
        for round in 0..1_000 {
            let (sender, receiver) = oneshot::channel();
            let (cause, consequence) =
                (cause(Slow(round % 3 == 1), sender), consequence(Slow(round % 3 == 2), receiver));
            let builder = Pool::<BoxError>::builder().grace(Duration::MAX);
            let error = match round % 2 {
                0 => {
                    let pool = builder.build();
                    pool.spawn(consequence);
                    pool.spawn(cause);
                    pool.run().await.unwrap_err()
                }
                _ => {
                    let opened = builder.open(async |pool| {
                        pool.spawn(cause);
                        consequence.await
                    });
                    opened.await.unwrap_err()
                }
            };
            let mut failed = failures(error.failures());
            failed.sort();
            assert_eq!(failed, ["error: cause", "error: consequence"], "round {round}");
            let text = error.to_string();
            assert!(text.contains("failed: cause") && text.contains("failed: consequence"), "{text}");
        }
    });
}

#[apply(both)]
async fn what_fails_while_the_pool_closes_comes_after_the_trigger() {
    let error = Pool::open(async |pool: Pool| {
        error_then_panic(&pool).await;
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "panic: second"]);
    assert_eq!(error_in(error.first().unwrap()).to_string(), "first");
}

#[apply(current_thread)]
async fn equal_errors_are_all_kept() {
    let error = Pool::open(async |pool: Pool<&str>| {
        pool.spawn(async { Err("same") });
        pool.spawn(async { Err("same") });
        Ok(())
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: same", "error: same"]);
}

#[apply(both)]
async fn equal_errors_of_a_task_and_of_the_body_are_both_kept() {
    let error = Pool::<&str>::builder().grace(Duration::MAX).open(async |pool| {
        pool.spawn(async { Err("same") });
        cancellation_token().cancelled().await;
        Err::<(), _>("same")
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: same", "error: same"]);
}

#[apply(both)]
async fn of_a_hundred_failures_each_is_reported_once_and_the_first_is_first() {
    let (all, log) = (Arc::new(Barrier::new(100)), Log::default());
    let error = Pool::open(async |pool: Pool<String>| {
        for nth in 0..100 {
            let (all, log) = (Arc::clone(&all), log.clone());
            pool.spawn(async move {
                all.wait().await;
                log.push(format!("error: {nth}"));
                Err(nth.to_string())
            });
        }
        Ok(())
    });
    let mut reported = failures(&error.await.unwrap_err().into_failures());
    let mut failed = log.events();
    assert!(!failed.is_empty());
    // On several threads, two that fail at once may be recorded in another order than they have written.
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        failed.sort();
        reported.sort();
    }
    assert_eq!(reported, failed);
}

#[apply(both)]
async fn every_error_is_dropped_exactly_once() {
    struct Tracked {
        _counted: Counted,
    }

    impl std::fmt::Display for Tracked {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("tracked")
        }
    }

    impl From<Tracked> for BoxError {
        fn from(_: Tracked) -> Self {
            "tracked".into()
        }
    }

    let alive = Alive::default();
    // No failure aborts another.
    let opened = Pool::<Tracked>::builder().on_failure(|_| OnFailure::Collect).open(async |pool| {
        for _ in 0..6 {
            let error = Tracked { _counted: alive.one() };
            pool.spawn(async move { Err(error) });
        }
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!((error.failures().len(), alive.count()), (6, 6));
    let first = error.into_first_error();
    assert_eq!(alive.count(), 1);
    drop(first);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn the_error_type_can_be_anything_that_becomes_a_boxed_error() {
    #[derive(Debug, thiserror::Error, PartialEq)]
    enum Broken {
        #[error("disk {0} is full")]
        Disk(u8),
    }
    let error = Pool::open(async |pool: Pool<Broken>| {
        pool.spawn(async { Err(Broken::Disk(3)) });
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert!(matches!(only(&error).failure(), Failure::Error(Broken::Disk(3))));
    assert!(error.to_string().ends_with("failed: disk 3 is full"));
    assert_eq!(error.into_first_error(), Some(Broken::Disk(3)));

    let error = Pool::open(async |_: Pool<std::io::Error>| Err::<(), _>(std::io::ErrorKind::NotFound.into()));
    assert_eq!(error.await.unwrap_err().into_first_error().unwrap().kind(), std::io::ErrorKind::NotFound);

    let error = Pool::open(async |_: Pool<String>| Err::<(), _>(String::from("text")));
    let error = error.await.unwrap_err();
    assert_eq!(error.to_string(), "body failed: text");
    assert_eq!(error.into_first_error().unwrap(), "text");

    let error = Pool::open(async |_| Err::<(), _>("a text"));
    assert_eq!(error.await.unwrap_err().into_first_error(), Some("a text"));
}

// ===== a task fails while the body runs =====

#[apply(both)]
async fn a_failing_task_stops_its_siblings_in_either_order_of_spawning() {
    for failing_first in [true, false] {
        let alive = Alive::default();
        let error = Pool::open(async |pool: Pool| {
            let (one, (open, gate)) = (alive.one(), oneshot::channel());
            let fail = async {
                gate.await?;
                Err("broken".into())
            };
            let wait = async move {
                let _one = one;
                open.send(()).unwrap();
                std::future::pending::<()>().await;
                unreachable!("it is stopped where it waits");
            };
            if failing_first {
                pool.spawn(fail);
                pool.spawn(wait);
            } else {
                pool.spawn(wait);
                pool.spawn(fail);
            }
            Ok(())
        });
        assert_eq!(failures(error.await.unwrap_err().failures()), ["error: broken"], "failing first: {failing_first}");
        assert_eq!(alive.count(), 0, "something is left; failing first: {failing_first}");
    }
}

#[apply(both)]
async fn a_body_in_a_nested_pool_is_interrupted() {
    let alive = Alive::default();
    let error = Pool::open(async |pool: Pool| {
        let (entered, wait) = oneshot::channel();
        pool.spawn(async move {
            wait.await?;
            Err("outer".into())
        });
        Pool::open(async |inner: Pool| {
            let one = alive.one();
            inner.spawn(async move {
                let _one = one;
                entered.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            std::future::pending::<Result<(), _>>().await
        })
        .await?;
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!((failures(error.failures()), alive.count()), (vec![String::from("error: outer")], 0));
}

#[apply(both)]
async fn code_after_a_failed_pool_is_not_reached() {
    async fn work() -> Result<(), PoolError> {
        Pool::open(async |pool: Pool| {
            pool.spawn(async { Err("broken".into()) });
            Ok(())
        })
        .await?;
        unreachable!("`?` returned");
    }
    assert_eq!(failures(work().await.unwrap_err().failures()), ["error: broken"])
}

// ===== the body sees no failure =====

#[apply(both)]
async fn a_body_that_waits_for_a_failing_task_does_not_see_the_failure() {
    let ((open, gate), (closing, closed)) = (oneshot::channel(), oneshot::channel());
    let log = Log::default();
    let seen = log.clone();
    let mut opened = task::spawn(Pool::open(async move |pool: Pool| {
        tell_when_closing(&pool, closing);
        let handle = pool.spawn_with_handle(async move {
            gate.await?;
            Err::<(), BoxError>("broken".into())
        });
        let answer = handle.await;
        seen.push(format!("{answer:?}"));
        Ok(())
    }));
    assert_pending!(opened.poll());
    open.send(()).unwrap();
    closed.await.unwrap();
    assert_eq!(failures(opened.await.map(drop::<()>).unwrap_err().failures()), ["error: broken"]);
    assert!(log.events().is_empty(), "the body is not polled once the pool closes");
}

#[apply(both)]
async fn a_body_that_goes_on_with_ok_does_not_hide_the_failure() {
    let went_on = std::cell::Cell::new(false);
    // With a grace, in which the body gets to its end.
    let builder = Pool::builder().grace(Duration::MAX);
    let error = builder.open(async |pool: Pool| {
        let handle = pool.spawn_with_handle(async { Err::<(), BoxError>("broken".into()) });
        assert_eq!(handle.await, Err(TaskStopped::Failed));
        went_on.set(true);
        Ok(42)
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: broken"]);
    assert!(went_on.get());
}

/// A body that is being polled cannot be stopped, so that it can see a failure. The pool has the error already, but its
/// driver has not begun to close: what the handle says of it was once counted as a second failure for that.
#[apply(multi_thread)]
async fn a_failure_that_a_busy_body_passes_on_is_reported_once() {
    let error = Pool::open(async |pool: Pool| {
        let mut handle = pool.spawn_with_handle(async { Err::<(), BoxError>("broken".into()) });
        // Never `Pending`, so that all of it is one poll of the body.
        let ended = coop::unconstrained(std::future::poll_fn(|cx| {
            loop {
                if let ended @ std::task::Poll::Ready(_) = std::pin::Pin::new(&mut handle).poll(cx) {
                    return ended;
                }
            }
        }));
        Ok(ended.await?)
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert!(!error.failures()[0].task().is_body());
}

#[apply(both)]
async fn a_failure_that_the_body_passes_on_in_its_grace_is_reported_once() {
    let error = Pool::builder().grace(Duration::MAX).open(async |pool: Pool| {
        let handle = pool.spawn_with_handle(async { Err::<(), BoxError>("broken".into()) });
        Ok(handle.await?)
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert!(!error.failures()[0].task().is_body());
}

// ===== the body fails =====

#[apply(both)]
async fn a_body_that_returns_early_with_handles_leaves_nothing_behind() {
    async fn work(alive: &Alive) -> Result<i32, PoolError> {
        let value = Pool::open(async |pool: Pool| {
            let (one, two) = (alive.one(), alive.one());
            let never = pool.spawn_with_handle(async move {
                let _one = one;
                std::future::pending::<Result<i32, BoxError>>().await
            });
            let _also = pool.spawn_with_handle(async move {
                let _two = two;
                std::future::pending::<Result<i32, BoxError>>().await
            });
            let number: i32 = "no number".parse()?;
            Ok(number + never.await?)
        });
        Ok(value.await? + 1)
    }
    let alive = Alive::default();
    let error = work(&alive).await.unwrap_err();
    assert_eq!(
        (failures(error.failures()), alive.count()),
        (vec![String::from("error: invalid digit found in string")], 0)
    );
}

#[apply(both)]
async fn after_an_error_of_the_body_open_waits_for_a_blocking_task() {
    let alive = Alive::default();
    let ((open, gate), (started, wait)) = (oneshot::channel::<()>(), oneshot::channel());
    let (closing, closed) = oneshot::channel();
    let mut opened = task::spawn(Pool::open(async |pool: Pool| {
        tell_when_closing(&pool, closing);
        let one = alive.one();
        pool.spawn_blocking(move || {
            started.send(()).unwrap();
            drop(gate.blocking_recv());
            drop(one);
        });
        wait.await?;
        Err::<(), _>("body".into())
    }));
    tokio::select! {
        _ = &mut opened => unreachable!("the task runs"),
        closed = closed => closed.unwrap(),
    }
    assert_pending!(opened.poll());
    assert_eq!(alive.count(), 1);
    open.send(()).unwrap();
    assert_eq!(failures(opened.await.unwrap_err().failures()), ["error: body"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_destructor_of_the_body_that_panics_comes_after_the_failure_that_cut_it_short() {
    let error = Pool::open(async |pool: Pool| {
        let _panics = bomb("body's destructor");
        pool.spawn(async { Err("task".into()) });
        std::future::pending::<Result<(), _>>().await
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: task", "panic: body's destructor"]);
    assert!(error.failures()[1].task().is_body());
}

#[apply(both)]
async fn errors_of_the_body_and_of_a_task_are_both_reported() {
    // The task is blocking, so that it cannot be aborted, and fails once the body has failed.
    let error = Pool::open(async |pool: Pool| {
        let (started, wait) = oneshot::channel();
        pool.spawn_blocking(move || {
            started.send(()).unwrap();
            block_until_closed();
            Err("task".into())
        });
        wait.await?;
        Err::<(), _>("body".into())
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: body", "error: task"]);
}

#[apply(multi_thread)]
async fn a_body_that_wraps_a_failure_in_its_own_error_adds_a_second() {
    let error = Pool::open(async |pool: Pool| {
        let handle = pool.spawn_with_handle(async { Err::<(), BoxError>("broken".into()) });
        while !handle.is_finished() {
            std::thread::yield_now();
        }
        Err::<(), _>("a task has ended".into())
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: broken", "error: a task has ended"]);
}

#[apply(both)]
async fn a_body_whose_error_is_caused_by_how_a_task_ended_adds_no_failure() {
    #[derive(Debug, thiserror::Error)]
    #[error("the import is incomplete")]
    struct Incomplete(#[source] TaskStopped);

    let error = Pool::builder().grace(Duration::MAX).open(async |pool: Pool| {
        let handle = pool.spawn_with_handle(async { Err::<(), BoxError>("broken".into()) });
        Ok(handle.await.map_err(Incomplete)?)
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
}

// ===== nested pools =====

#[apply(current_thread)]
async fn the_error_of_a_nested_pool_is_one_failure() {
    let error = Pool::open(async |pool: Pool| {
        pool.spawn(async {
            Pool::open(async |inner: Pool| {
                inner.spawn(async { Err("1".into()) });
                inner.spawn(async { Err("2".into()) });
                Ok(())
            })
            .await?;
            Ok(())
        });
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(group_in(only(&error)).failures()), ["error: 1", "error: 2"]);
}

#[apply(both)]
async fn own_failures_stand_beside_those_of_a_nested_pool() {
    let error = Pool::open(async |pool: Pool| {
        let closing = pool.clone();
        let (started, wait) = oneshot::channel();
        pool.spawn_blocking(move || {
            started.send(()).unwrap();
            while !closing.is_closed() {
                std::thread::yield_now();
            }
            Err("3".into())
        });
        wait.await?;
        Pool::open(async |inner: Pool| {
            error_then_panic(&inner).await;
            Ok(())
        })
        .await?;
        Ok(())
    });
    let error = error.await.unwrap_err();
    let [inner, own] = error.failures() else { panic!("{error:?}") };
    assert_eq!(failures(group_in(inner).failures()), ["error: first", "panic: second"]);
    assert_eq!(error_in(own).to_string(), "3");
}

#[apply(both)]
async fn a_failure_three_pools_deep_is_reported_once_with_the_sites_of_all_levels() {
    let mut lines = Vec::new();
    let error = Pool::open(async |outer: Pool| {
        lines = vec![line!() + 1, line!() + 3, line!() + 5];
        outer.spawn(async {
            Pool::open(async |middle: Pool| {
                middle.spawn(async {
                    Pool::open(async |inner: Pool| {
                        inner.spawn(async { Err("deep".into()) });
                        Ok(())
                    })
                    .await?;
                    Ok(())
                });
                Ok(())
            })
            .await?;
            Ok(())
        });
        Ok(())
    });
    let error = error.await.unwrap_err();
    let outer = only(&error);
    let middle = only(group_in(outer));
    let inner = only(group_in(middle));
    assert_eq!(error_in(inner).to_string(), "deep");
    assert_eq!([outer, middle, inner].map(|failed| failed.task().spawned_at().line()), lines[..]);
    assert_eq!(error.to_string().matches("deep").count(), 1);
    assert_eq!(format!("{error:#}").matches("deep").count(), 1);
}

#[apply(both)]
async fn a_pool_error_that_a_task_returns_is_not_merged() {
    let foreign = Pool::open(async |pool: Pool| {
        error_then_panic(&pool).await;
        Ok(())
    });
    let foreign = foreign.await.unwrap_err();
    let error = Pool::open(async |pool: Pool| {
        pool.spawn(async move { Err(foreign.into()) });
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(group_in(only(&error)).failures()), ["error: first", "panic: second"]);
}

#[apply(both)]
async fn a_pool_error_as_the_error_type_is_not_merged() {
    let foreign = Pool::open(async |pool: Pool| {
        error_then_panic(&pool).await;
        Ok(())
    });
    let foreign = foreign.await.unwrap_err();
    let error = Pool::open(async |pool: Pool<PoolError>| {
        pool.spawn(async move { Err(foreign) });
        Ok(())
    });
    let error = error.await.unwrap_err();
    let Failure::Error(foreign) = only(&error).failure() else { panic!("{error:?}") };
    assert_eq!(failures(foreign.failures()), ["error: first", "panic: second"]);
}

#[apply(both)]
async fn an_error_need_be_no_more_than_send() {
    /// Not `Sync`, and neither `Debug` nor `Display`.
    struct Code(std::cell::Cell<i32>);

    impl std::fmt::Display for Code {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("code")
        }
    }

    impl From<Code> for BoxError {
        fn from(code: Code) -> Self {
            code.0.get().to_string().into()
        }
    }

    let opened = Pool::open(async |pool: Pool<Code>| {
        pool.spawn(async { Err(Code(std::cell::Cell::new(404))) });
        Ok(())
    });
    let opened = tokio::spawn(async { opened.await.map_err(PoolError::into_first_error) });
    assert_eq!(opened.await.unwrap().unwrap_err().unwrap().0.get(), 404);
}

#[apply(both)]
async fn an_error_of_anyhow_keeps_its_context_and_its_cause() {
    let error = Pool::open(async |pool: Pool<anyhow::Error>| {
        pool.spawn(async { Err(anyhow::Error::new(TaskStopped::Cancelled).context("no answer")) });
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: no answer"]);
    let error = error.into_first_error().unwrap();
    assert_eq!(error.downcast_ref(), Some(&TaskStopped::Cancelled));
}

#[apply(both)]
async fn the_failure_of_a_nested_pool_that_is_dealt_with_does_not_reach_the_outer_one() {
    let value = Pool::open(async |pool: Pool| {
        let sibling = pool.spawn_with_handle(async {
            yield_now().await;
            Ok(1)
        });
        let inner = Pool::open(async |inner: Pool| {
            inner.spawn(async { Err("dealt with".into()) });
            Ok(())
        });
        assert_eq!(failures(inner.await.unwrap_err().failures()), ["error: dealt with"]);
        assert!(!pool.is_closed() && !cancellation_token().is_cancelled());
        Ok(sibling.await?)
    });
    assert_eq!(value.await.unwrap(), 1);
}

#[apply(both)]
async fn what_fails_after_its_owner_was_dropped_is_a_cleanup_failure() {
    let error = Pool::open(async |_: Pool| {
        let mut inner = task::spawn(Pool::open(async |inner: Pool| {
            let panics = bomb("orphan");
            inner.build_task().name("leaf").spawn(async move {
                let _panics = panics;
                std::future::pending::<()>().await;
            });
            Ok(())
        }));
        assert_pending!(inner.poll());
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert!(error.failures().is_empty() && error.first().is_none());
    assert!(!error.is_cancelled() && !error.is_panic());
    let [orphan] = error.cleanup_failures() else { panic!("{error:?}") };
    assert_eq!(failures(error.cleanup_failures()), ["panic: orphan"]);
    assert_eq!(orphan.task().name(), Some("leaf"));
    assert_eq!(error.to_string(), orphan.to_string());
    assert!(error.into_first_error().is_none());
}

#[apply(both)]
async fn a_panic_of_a_body_whose_pool_is_dropped_before_it_resumes_is_a_cleanup_failure() {
    // In the grace, or while the pool waits for what is shielded.
    for in_grace in [true, false] {
        let release = LatchEvent::new();
        let released = release.wait_set();
        let mut outer = Box::pin(Pool::open(async |_: Pool| {
            let builder = if in_grace { Pool::builder().grace(Duration::MAX) } else { Pool::builder() };
            let mut inner = Box::pin(builder.open(async |inner: Pool| -> Result<(), BoxError> {
                if in_grace {
                    inner.spawn(released)
                } else {
                    drop(shield(released))
                }
                panic!("body")
            }));
            stays_pending(inner.as_mut()).await;
            drop(inner);
            Ok(())
        }));
        stays_pending(outer.as_mut()).await;
        release.set();
        let error = outer.await.unwrap_err();
        let [orphan] = error.cleanup_failures() else { panic!("{error:?}") };
        assert_eq!(failures(error.cleanup_failures()), ["panic: body"], "in grace: {in_grace}");
        assert!(orphan.task().is_body(), "in grace: {in_grace}");
    }
}

// ===== spawn sites and names =====

/// Tells by which line each way of spawning is known: it gets a pool, and says in which line it has spawned.
async fn assert_site(spawn: impl AsyncFn(&Pool) -> u32) {
    let mut line = 0;
    let error = Pool::open(async |pool: Pool| {
        line = spawn(&pool).await;
        std::future::pending::<Result<(), _>>().await
    });
    let error = error.await.unwrap_err();
    let info = only(&error).task();
    assert_eq!((info.spawned_at().file(), info.spawned_at().line(), info.is_body()), (file!(), line, false));
}

#[apply(both)]
async fn every_way_of_spawning_records_the_line_it_is_called_in() {
    assert_site(async |pool| {
        pool.spawn(fails("broken"));
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        pool.try_spawn(fails("broken")).unwrap();
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        drop(pool.spawn_with_handle(fails("broken")));
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        pool.spawn_blocking(|| Err("broken".into()));
        line!() - 1
    })
    .await;
}

#[apply(both)]
async fn every_way_of_spawning_with_a_builder_records_the_line_it_is_called_in() {
    assert_site(async |pool| {
        let builder = pool.build_task();
        builder.spawn(fails("broken"));
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        pool.build_task().try_spawn(fails("broken")).unwrap();
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        drop(pool.build_task().spawn_with_handle(fails("broken")));
        line!() - 1
    })
    .await;
    assert_site(async |pool| {
        pool.build_task().spawn_blocking(|| Err("broken".into()));
        line!() - 1
    })
    .await;
}

#[apply(both)]
async fn a_planned_task_was_spawned_where_it_was_planned() {
    let pool = Pool::new();
    pool.spawn(fails("broken"));
    let line = line!() - 1;
    let error = pool.run().await.unwrap_err();
    assert_eq!(only(&error).task().spawned_at().line(), line);
}

#[apply(both)]
async fn a_body_was_spawned_where_its_pool_was_opened() {
    let plain = Pool::open(async |_: Pool| fails("broken").await);
    let built = Pool::<BoxError>::builder().open(async |_| fails("broken").await);
    let line = line!() - 2;
    for (error, line) in [(plain.await, line), (built.await, line + 1)] {
        let error = error.unwrap_err();
        let info = only(&error).task();
        assert_eq!((info.spawned_at().file(), info.spawned_at().line()), (file!(), line));
        assert!(info.is_body() && info.name().is_none(), "it is not told as the body: {info:?}");
        assert_eq!(info.to_string(), "body");
    }
}

#[apply(both)]
async fn a_caller_can_pass_its_own_caller_on() {
    #[track_caller]
    fn spawn_for_caller(pool: &Pool) -> &'static Location<'static> {
        pool.spawn(fails("broken"));
        Location::caller()
    }
    let pool = Pool::new();
    let site = spawn_for_caller(&pool);
    let error = pool.run().await.unwrap_err();
    assert_eq!(only(&error).task().spawned_at(), site);
}

#[apply(both)]
async fn a_name_is_kept_by_every_way_of_spawning() {
    for way in 0..4 {
        let pool = Pool::<BoxError>::new();
        let task = pool.build_task().name(format!("way {way}"));
        match way {
            0 => task.spawn(fails("broken")),
            1 => task.try_spawn(fails("broken")).unwrap(),
            2 => drop(task.spawn_with_handle(fails("broken"))),
            _ => task.spawn_blocking(|| Err("broken".into())),
        }
        let error = pool.run().await.unwrap_err();
        let info: TaskInfo = only(&error).task().clone();
        assert_eq!(info.name(), Some(format!("way {way}").as_str()), "way {way}");
        assert_eq!(info.to_string(), format!("task \"way {way}\" ({})", info.spawned_at()), "way {way}");
    }
}

// ===== how errors read =====

#[apply(both)]
async fn one_failure_reads_as_who_where_and_what() {
    let pool = Pool::<BoxError>::new();
    let line = line!() + 1;
    pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
    let error = pool.run().await.unwrap_err();
    let site = only(&error).task().spawned_at();
    assert!(site.to_string().starts_with(&format!("{}:{line}:", file!())));
    assert_eq!(error.to_string(), format!("task \"fetch\" ({site}) failed: connection refused"));
    assert_eq!(format!("{error:#}"), error.to_string());
    assert_eq!(only(&error).to_string(), error.to_string());
}

#[apply(both)]
async fn an_unnamed_task_reads_as_its_site() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async { Err("connection refused".into()) });
    let error = pool.run().await.unwrap_err();
    let site = only(&error).task().spawned_at();
    assert_eq!(error.to_string(), format!("task at {site} failed: connection refused"));
}

#[apply(both)]
async fn a_panic_reads_as_its_message() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async { panic!("index {}", 7) });
    let error = pool.run().await.unwrap_err();
    let site = only(&error).task().spawned_at();
    assert_eq!(error.to_string(), format!("task at {site} panicked: index 7"));

    let pool = Pool::<BoxError>::new();
    pool.spawn(async { std::panic::panic_any(7) });
    let error = pool.run().await.unwrap_err();
    let site = only(&error).task().spawned_at();
    assert_eq!(error.to_string(), format!("task at {site} panicked: a value that is no message"));
}

#[apply(both)]
async fn an_error_of_the_body_reads_without_a_site() {
    let error = Pool::open(async |_: Pool| Err::<(), _>("no port left".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "body failed: no port left");
    assert_eq!(format!("{error:#}"), "body failed: no port left");
    let error = Pool::builder().name("web").open(async |_: Pool| Err::<(), _>("no port left".into()));
    assert_eq!(error.await.unwrap_err().to_string(), "pool \"web\": body failed: no port left");
}

/// A pool with the name whose tasks fail with the texts.
async fn failed(name: Option<&'static str>, texts: &'static [&'static str]) -> PoolError {
    let builder = Pool::builder();
    let pool = name.into_iter().fold(builder, |builder, name| builder.name(name)).build();
    for &text in texts {
        pool.spawn(async move { Err(text.into()) });
    }
    pool.run().await.unwrap_err()
}

#[apply(current_thread)]
async fn several_failures_read_as_their_number_and_each_of_them() {
    let error = failed(None, &["one", "two", "three"]).await;
    let site = error.first().unwrap().task().spawned_at();
    let each = |text| format!("task at {site} failed: {text}");
    let [one, two, three] = ["one", "two", "three"].map(each);
    assert_eq!(error.to_string(), format!("3 tasks failed: {one}; {two}; {three}"));
    assert_eq!(format!("{error:#}"), format!("3 tasks failed:\n  {one}\n  {two}\n  {three}"));

    let error = failed(Some("web"), &["one", "two"]).await;
    assert_eq!(error.to_string(), format!("pool \"web\": 2 tasks failed: {one}; {two}"));
    assert_eq!(format!("{error:#}"), format!("pool \"web\": 2 tasks failed:\n  {one}\n  {two}"));
}

#[apply(current_thread)]
async fn nested_pools_read_indented() {
    let [several, single] = [failed(Some("in"), &["1", "2\nlines"]).await, failed(None, &["3"]).await];
    let inner = single.first().unwrap().task().spawned_at();
    let pool = Pool::<BoxError>::new();
    pool.build_task().name("several").spawn(async { Err(several.into()) });
    pool.build_task().name("single").spawn(async { Err(single.into()) });
    pool.build_task().name("plain").spawn(async { Err("4".into()) });
    let error = pool.run().await.unwrap_err();
    let [at_several, at_single, at_plain] = [0, 1, 2].map(|nth| error.failures()[nth].task().spawned_at());
    let expected = [
        String::from("3 tasks failed:"),
        format!("  task \"several\" ({at_several}) failed: pool \"in\": 2 tasks failed:"),
        format!("    task at {inner} failed: 1"),
        format!("    task at {inner} failed: 2"),
        String::from("    lines"),
        format!("  task \"single\" ({at_single}) failed: task at {inner} failed: 3"),
        format!("  task \"plain\" ({at_plain}) failed: 4"),
    ];
    assert_eq!(format!("{error:#}"), expected.join("\n"));
    assert!(!error.to_string().replace("2\nlines", "").contains('\n'));
}

#[apply(both)]
async fn the_names_of_all_levels_are_in_the_text_and_as_data() {
    let error = Pool::builder()
        .name("server")
        .open(async |pool: Pool| {
            pool.build_task().name("subsystem").spawn(async {
                let nested = Pool::builder().name("inner").open(async |pool: Pool| {
                    pool.build_task().name("nested").spawn(async { Err("broken".into()) });
                    Ok(())
                });
                Ok(nested.await?)
            });
            Ok(())
        })
        .await
        .unwrap_err();
    let failed = error.first().unwrap();
    assert_eq!(failed.task().name(), Some("subsystem"));
    let Failure::Error(inner) = failed.failure() else { panic!("{error:?}") };
    let inner: &PoolError = inner.downcast_ref().unwrap();
    let nested = inner.first().unwrap();
    assert_eq!(nested.task().name(), Some("nested"));
    let [at, below] = [failed, nested].map(|failed| failed.task().spawned_at());
    let expected = format!(
        "pool \"server\": task \"subsystem\" ({at}) failed: pool \"inner\": task \"nested\" ({below}) failed: broken"
    );
    assert_eq!(error.to_string(), expected);
}

#[apply(current_thread)]
async fn a_single_failure_that_is_a_nested_pool_reads_indented() {
    let inner = failed(None, &["1", "2"]).await;
    let at = inner.first().unwrap().task().spawned_at();
    let error = Pool::builder().name("out").open(async |_: Pool| Err::<(), _>(inner.into())).await.unwrap_err();
    let lines = format!("2 tasks failed:\n  task at {at} failed: 1\n  task at {at} failed: 2");
    assert_eq!(format!("{error:#}"), format!("pool \"out\": body failed: {lines}"));
}

#[apply(both)]
async fn failures_and_cleanup_failures_are_both_read() {
    let error = Pool::open(async |_: Pool| {
        let mut inner = task::spawn(Pool::open(async |inner: Pool| {
            let panics = bomb("orphan");
            inner.spawn(async move {
                let _panics = panics;
                std::future::pending::<()>().await;
            });
            Ok(())
        }));
        assert_pending!(inner.poll());
        Err::<(), _>("body".into())
    });
    let error = error.await.unwrap_err();
    let [orphan] = error.cleanup_failures() else { panic!("{error:?}") };
    assert_eq!(error.to_string(), format!("body failed: body; {orphan}"));
    assert_eq!(format!("{error:#}"), format!("body failed: body\n{orphan}"));
}

#[apply(both)]
async fn a_pool_that_was_cancelled_reads_as_such() {
    async fn cancelled(name: Option<&'static str>, reason: Option<&'static str>) -> PoolError {
        let builder = name.into_iter().fold(Pool::builder(), |builder, name| builder.name(name));
        let error = builder.open(async |pool: Pool| {
            match reason {
                Some(reason) => pool.cancel_with(reason),
                None => pool.cancel(),
            }
            std::future::pending::<Result<(), _>>().await
        });
        error.await.unwrap_err()
    }
    for (name, reason, text) in [
        (None, None, "pool cancelled"),
        (None, Some("SIGTERM"), "pool cancelled: SIGTERM"),
        (Some("web"), None, "pool \"web\": pool cancelled"),
        (Some("web"), Some("SIGTERM"), "pool \"web\": pool cancelled: SIGTERM"),
    ] {
        let error = cancelled(name, reason).await;
        assert_eq!((error.to_string(), format!("{error:#}")), (text.to_owned(), text.to_owned()));
        assert!(error.is_cancelled() && error.failures().is_empty() && error.first().is_none());
        assert_eq!(error.cancel_reason(), reason);
        assert_eq!(error.source().unwrap().to_string(), "it was stopped");
    }
}

#[test]
fn the_markers_read_as_what_they_say() {
    assert_eq!(TaskStopped::Cancelled.to_string(), "task was cancelled");
    assert_eq!(TaskStopped::Failed.to_string(), "task failed");
    assert_eq!(TaskStopped::Panicked.to_string(), "task panicked");
    assert!(TaskStopped::Failed.source().is_none());
}

#[test]
fn an_exit_error_reads_as_one_failure_or_both() {
    assert_eq!(ExitError::Body("torn").to_string(), "torn");
    assert_eq!(ExitError::Exit("stuck").to_string(), "exit handler failed: stuck");
    let both = ExitError::Both { body: "torn", exit: "stuck" };
    assert_eq!(both.to_string(), "torn; exit handler failed: stuck");
    assert_eq!(format!("{both:#}"), "torn\nexit handler failed: stuck");
}

#[apply(both)]
async fn debug_of_what_runs_shows_how_it_stands() {
    let builder = Pool::<BoxError>::builder();
    assert!(format!("{builder:?}").starts_with("PoolBuilder { name: None, "), "{builder:?}");
    let builder = builder.name("web");
    assert_eq!(
        format!("{builder:?}"),
        r#"PoolBuilder { name: Some("web"), grace: None, keep_open: false, limit: None, abandon_after: None, has_on_failure: false }"#
    );
    let builder = builder.limit(2);
    let expected = r#"PoolBuilder { name: Some("web"), grace: None, keep_open: false, limit: Some(2), abandon_after: None, has_on_failure: false }"#;
    assert_eq!(format!("{builder:?}"), expected);
    let pool = builder.build();
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: planned, len: 0 }"#);
    assert_eq!(format!("{:?}", pool.build_task()), "TaskBuilder { name: None, depth: 0, daemon: false }");
    let task = pool.build_task().name("task").depth(2).daemon();
    assert_eq!(format!("{task:?}"), r#"TaskBuilder { name: Some("task"), depth: 2, daemon: true }"#);
    let handle = pool.spawn_with_handle(async { Ok(()) });
    assert_eq!(format!("{handle:?}"), "TaskHandle { id: None, is_finished: false }");
    let tree = pool.tree();
    let site = tree.nodes().last().unwrap().spawned_at().unwrap();
    assert_eq!(format!("{tree:?}"), format!("[0: web (planned, 1 task), 1: <task>  {site}]"));
    pool.clone().run().await.unwrap();
    assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closed, len: 0 }"#);
    assert!(format!("{handle:?}").ends_with("is_finished: true }"), "{handle:?}");
}

#[test]
fn a_refused_spawn_reads_as_a_closed_pool() {
    let pool = Pool::<BoxError>::new();
    pool.cancel();
    let refused = pool.try_spawn(async {}).unwrap_err();
    assert_eq!((refused.to_string(), format!("{refused:?}")), ("the pool is closed".into(), "SpawnError(..)".into()));
    assert!(refused.source().is_none());
}

#[apply(both)]
async fn long_debug_shows_all_that_is_known() {
    let pool = Pool::<BoxError>::builder().name("web").build();
    pool.build_task().name("fetch").spawn(async { panic!("index 7") });
    let error = pool.run().await.unwrap_err();
    let text = format!("{error:#?}");
    for part in ["PoolError", "\"web\"", "TaskError", "\"fetch\"", file!(), "Panic(", "Some(", "\"index 7\""] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

// ===== causes =====

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("inner")]
struct Inner;

#[apply(both)]
async fn the_cause_of_a_failure_is_that_of_its_error() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async { Err(Outer(Inner).into()) });
    let error = pool.run().await.unwrap_err();
    assert!(error_in(only(&error)).is::<Outer>());
    for source in [error.source(), only(&error).source()] {
        let source = source.unwrap();
        assert!(source.is::<Inner>() && source.source().is_none());
    }
}

#[apply(current_thread)]
async fn several_failures_have_a_cause_each() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async { Err(Outer(Inner).into()) });
    pool.spawn(async { Err("no cause".into()) });
    let error = pool.run().await.unwrap_err();
    assert!(error.source().is_none());
    assert!(error.failures()[0].source().unwrap().is::<Inner>());
    assert!(error.failures()[1].source().is_none());
}

#[test]
fn the_cause_of_a_failed_visit_is_that_of_its_only_error() {
    let outer = || BoxError::from(Outer(Inner));
    for error in [ExitError::Body(outer()), ExitError::Exit(outer())] {
        assert!(error.source().unwrap().is::<Inner>(), "{error:?}");
    }
    assert!(ExitError::Both { body: outer(), exit: outer() }.source().is_none());
    assert!(ExitError::Body(BoxError::from("no cause")).source().is_none());
    assert!(ExitError::Body("cannot be asked for one").source().is_none());
}

#[apply(both)]
async fn cleanup_failures_can_be_taken_by_value() {
    let outcome: Result<(), PoolError> = Pool::open(async |_| {
        drop(shield(async { std::panic::panic_any(404_i32) }));
        Ok(())
    })
    .await;
    let [failed] = <[_; 1]>::try_from(outcome.unwrap_err().into_cleanup_failures()).unwrap();
    let Failure::Panic(payload) = failed.into_failure() else { panic!("it panics") };
    assert_eq!(payload.into_inner().downcast_ref(), Some(&404_i32));
}

#[apply(both)]
async fn a_panic_has_no_cause() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async { panic!("no cause") });
    let error = pool.run().await.unwrap_err();
    assert!(error.source().is_none() && only(&error).source().is_none());
}

// ===== picking failures out =====

#[apply(current_thread)]
async fn into_first_error_skips_panics() {
    let pool = Pool::new();
    pool.spawn(async { panic!("not this") });
    pool.spawn(async { Err("this") });
    pool.spawn(async { Err("nor this") });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: not this", "error: this", "error: nor this"]);
    assert!(error.is_panic());
    assert_eq!(error.into_first_error(), Some("this"));

    let pool = Pool::<BoxError>::new();
    pool.spawn(async { panic!("only this") });
    assert!(pool.run().await.unwrap_err().into_first_error().is_none());
}

#[apply(current_thread)]
async fn is_panic_tells_about_the_failure_that_closed_the_pool() {
    let pool = Pool::new();
    pool.spawn(async { Err("first") });
    pool.spawn(async { panic!("second") });
    let error = pool.run().await.unwrap_err();
    assert!(!error.is_panic() && matches!(error.failures()[1].failure(), Failure::Panic(_)));
}

#[apply(current_thread)]
async fn resume_panic_goes_on_with_the_first_panic() {
    let pool = Pool::new();
    pool.spawn(async { Err("an error") });
    pool.spawn(async { std::panic::panic_any(7_u8) });
    pool.spawn(async { std::panic::panic_any(8_u8) });
    let error = pool.run().await.unwrap_err();
    let payload = catch_unwind(std::panic::AssertUnwindSafe(|| error.resume_panic())).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&7_u8));
}

#[apply(current_thread)]
async fn resume_panic_gives_an_error_without_panics_back() {
    let error = failed(Some("web"), &["one", "two"]).await;
    let text = error.to_string();
    assert_eq!(error.resume_panic().to_string(), text);
}

#[apply(both)]
async fn into_failure_gives_the_error_away() {
    let error = Pool::open(async |_: Pool<String>| Err::<(), _>(String::from("mine"))).await.unwrap_err();
    let mut failures = error.into_failures();
    let Failure::Error(text) = failures.remove(0).into_failure() else { panic!("{failures:?}") };
    assert_eq!(text, "mine");
}

/// The payload of a task that panics so.
async fn payload_of(panics: impl FnOnce() + Send + 'static) -> PanicPayload {
    let pool = Pool::<BoxError>::new();
    pool.spawn(async move { panics() });
    match pool.run().await.unwrap_err().into_failures().remove(0).into_failure() {
        Failure::Panic(payload) => payload,
        other => panic!("{other:?}"),
    }
}

#[apply(both)]
async fn a_payload_knows_its_message() {
    let literal = payload_of(|| panic!("literal")).await;
    assert_eq!((literal.message(), literal.to_string().as_str()), (Some("literal"), "literal"));
    assert_eq!(format!("{literal:?}"), r#"PanicPayload(Some("literal"))"#);
    assert_eq!(literal.into_inner().downcast_ref(), Some(&"literal"));

    let formatted = payload_of(|| panic!("{}", 1)).await;
    assert_eq!((formatted.message(), formatted.to_string().as_str()), (Some("1"), "1"));
    assert_eq!(formatted.into_inner().downcast_ref(), Some(&String::from("1")));

    let other = payload_of(|| std::panic::panic_any(2)).await;
    assert_eq!((other.message(), other.to_string().as_str()), (None, "a value that is no message"));
    assert_eq!(format!("{other:?}"), "PanicPayload(None)");
    assert_eq!(other.into_inner().downcast_ref(), Some(&2));
}

#[apply(both)]
async fn a_payload_can_go_on_as_a_panic() {
    let payload = payload_of(|| std::panic::panic_any(5_u16)).await;
    let again = catch_unwind(std::panic::AssertUnwindSafe(|| payload.resume())).map(drop::<()>).unwrap_err();
    assert_eq!(again.downcast_ref(), Some(&5_u16));
}

// ===== the reason of a cancellation =====

#[apply(both)]
async fn a_failure_after_a_cancellation_leaves_its_reason() {
    let error = Pool::open(async |pool: Pool| {
        spawn_bomb(&pool, "cleanup").await?;
        pool.cancel_with("SIGTERM");
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert_eq!(
        (failures(error.failures()), error.cancel_reason()),
        (vec![String::from("panic: cleanup")], Some("SIGTERM"))
    );
    assert!(!error.is_cancelled());
}

// ===== errors of nested pools that a cancelled body returns =====

/// What the body of a pool makes of a request to stop, in time.
async fn asked_to_stop<E, F>(body: impl FnOnce() -> F) -> PoolError<E>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
    F: Future<Output = E>,
{
    let opened = Pool::<E>::builder().grace(Duration::from_secs(1_000)).open(|pool| async move {
        pool.cancel();
        cancellation_token().cancelled().await;
        Err::<(), E>(body().await)
    });
    opened.await.unwrap_err()
}

async fn cancelled_pool() -> PoolError {
    let opened = Pool::open(async |pool: Pool| {
        pool.cancel();
        std::future::pending::<Result<(), BoxError>>().await
    });
    opened.await.unwrap_err()
}

#[apply(both)]
async fn that_a_nested_pool_was_cancelled_is_no_failure_of_one_that_is_cancelled_itself() {
    let boxed = asked_to_stop(async || BoxError::from(cancelled_pool().await));
    assert!(boxed.await.is_cancelled());
    let unboxed = asked_to_stop(cancelled_pool);
    assert!(unboxed.await.is_cancelled());
}

#[apply(both)]
async fn that_a_task_has_stopped_is_no_failure_of_a_pool_that_is_cancelled() {
    let boxed = asked_to_stop(async || BoxError::from(TaskStopped::Cancelled));
    assert!(boxed.await.is_cancelled());
    let unboxed = asked_to_stop(async || TaskStopped::Cancelled);
    assert!(unboxed.await.is_cancelled());
    let news = asked_to_stop(async || TaskStopped::NotReady);
    assert_eq!(failures(news.await.failures()), [format!("error: {}", TaskStopped::NotReady)]);
}

#[apply(both)]
async fn what_is_left_of_a_nested_pool_is_told_also_by_a_body_that_is_cancelled() {
    let error = asked_to_stop(async || {
        let opened: Result<(), PoolError> = Pool::open(async |_: Pool| {
            drop(shield(async { quiet_panic("cleanup") as () }));
            Ok(())
        })
        .await;
        let error = opened.unwrap_err();
        assert!(error.failures().is_empty() && error.cleanup_failures().len() == 1);
        assert!(error.source().is_none() && !error.is_cancelled());
        BoxError::from(error)
    });
    let error = error.await;
    assert_eq!(error.failures().len(), 1);
    assert_eq!(error_in(only(&error)).downcast_ref::<PoolError>().unwrap().cleanup_failures().len(), 1);
}
