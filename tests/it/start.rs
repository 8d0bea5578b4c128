//! Two-phase start: what the call is told, when, and what it does to the task.

use std::convert::Infallible;
use std::fmt;
use std::future::{pending, poll_fn, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, Started, TaskStopped, cancellation_token, shield};
use macro_rules_attribute::apply;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready_eq, task};

use crate::support::{
    Alive, Counted, Log, OnDrop, both, current_thread, failures, keep_forever, kept_open, multi_thread, panic_text,
    poll_once, quiet_panic, running, stays_pending, until, watched,
};

type Outcome = Result<(), BoxError>;

/// A task that is never ready, nor ends.
async fn never_ready<V>(started: Started<V>) {
    let _started = started;
    pending().await
}

/// Awaits a future that a thread makes ready. A runtime that is idle meanwhile would move a paused clock on.
async fn busily<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = poll_once(future.as_mut()).await {
            return output;
        }
        yield_now().await;
    }
}

// ===== ready =====

#[apply(both)]
async fn start_gives_the_value_at_ready_and_the_task_goes_on() {
    let (alive, end) = (Alive::default(), LatchEvent::new());
    let opened = Pool::open(async |pool: Pool| {
        let (one, go) = (alive.one(), end.wait_set());
        let call = pool.start(|started| async move {
            let _one = one;
            yield_now().await;
            started.ready(42);
            go.await;
        });
        assert_eq!(call.await, Ok(42));
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!((alive.count(), pool.len()), (1, 1));
        end.set();
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn start_does_not_return_before_ready() {
    let latch = LatchEvent::new();
    let go = latch.wait_set();
    let pool = kept_open();
    let running = running(&pool);
    let mut call = pin!(pool.start(|started| async move {
        go.await;
        started.ready("set up");
    }));
    stays_pending(call.as_mut()).await;
    latch.set();
    assert_eq!(call.await, Ok("set up"));
    pool.cancel();
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn a_task_may_be_ready_and_end_in_one_poll() {
    let opened = Pool::open(async |pool: Pool| {
        let without_a_value = pool.start(|started| async move { started.ready(()) }).await;
        let with_one = pool.start(|started| async move {
            started.ready(String::from("value"));
            Ok(())
        });
        Ok((without_a_value, with_one.await))
    });
    assert_eq!(opened.await.unwrap(), (Ok(()), Ok(String::from("value"))));
}

#[apply(both)]
async fn a_task_that_never_returns_can_be_started() {
    let pool = kept_open();
    let running = running(&pool);
    let first = pool.start(|started| async move {
        started.ready(1);
        pending::<Infallible>().await
    });
    let second = pool.start(|started| async move {
        started.ready(2);
        loop {
            pending::<()>().await;
        }
    });
    assert_eq!((first.await, second.await), (Ok(1), Ok(2)));
    pool.cancel();
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn another_thread_may_say_that_the_task_is_ready() {
    let opened = Pool::open(async |pool: Pool| {
        let call = pool.build_task().daemon().start(|started| async move {
            drop(std::thread::spawn(move || started.ready(42)));
            pending::<()>().await;
        });
        assert_eq!(busily(call).await, Ok(42));
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn the_closure_may_be_ready_itself() {
    let pool = Pool::<BoxError>::new();
    let call = pool.start(|started| {
        started.ready(42);
        ready(())
    });
    assert_eq!(call.await, Ok(42), "before the pool runs");
    pool.run().await.unwrap();
}

#[apply(both)]
async fn a_failure_after_ready_is_the_pools_and_not_the_calls() {
    let pool = kept_open();
    let running = running(&pool);
    let end = LatchEvent::new();
    let go = end.wait_set();
    let fails = pool.start(|started| async move {
        started.ready(1);
        go.await;
        Err("broken".into())
    });
    assert_eq!(fails.await, Ok(1));
    assert!(!pool.is_closed());
    end.set();
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["error: broken"]);
}

#[apply(both)]
async fn a_failure_in_the_poll_in_which_it_was_ready_does_not_take_the_value_back() {
    let pool = Pool::<BoxError>::new();
    let fails = pool.start(|started| async move {
        started.ready(1);
        Err("broken".into())
    });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert_eq!(fails.await, Ok(1));

    let pool = Pool::<BoxError>::new();
    let panics = pool.start(|started| async move {
        started.ready(2);
        quiet_panic("broken") as ()
    });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: broken"]);
    assert_eq!(panics.await, Ok(2));
}

// ===== not ready =====

#[apply(both)]
async fn a_task_that_ends_well_without_being_ready_is_not_ready() {
    let opened = Pool::open(async |pool: Pool| {
        let at_once = pool.start(|started: Started<()>| async move { drop(started) }).await;
        let later = pool.start(|started: Started<()>| async move {
            let _started = started;
            yield_now().await;
            Ok(())
        });
        Ok((at_once, later.await, pool.is_closed()))
    });
    let not_ready = Err(TaskStopped::NotReady);
    assert_eq!(opened.await.unwrap(), (not_ready, not_ready, false));
}

#[apply(both)]
async fn a_task_that_drops_its_started_is_not_ready_at_once_and_goes_on() {
    let (alive, end) = (Alive::default(), LatchEvent::new());
    let opened = Pool::open(async |pool: Pool| {
        let (one, go) = (alive.one(), end.wait_set());
        let call = pool.start(|started: Started<()>| async move {
            let _one = one;
            yield_now().await;
            drop(started);
            go.await;
        });
        assert_eq!(call.await, Err(TaskStopped::NotReady));
        assert_eq!((alive.count(), pool.len(), pool.is_closed()), (1, 1, false));
        end.set();
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_started_that_the_closure_drops_is_told_after_the_first_poll() {
    let pool = kept_open();
    let goes_on = pool.start(|started: Started<()>| {
        drop(started);
        pending::<()>()
    });
    let mut goes_on = task::spawn(goes_on);
    assert_pending!(goes_on.poll(), "it may fail in its first poll");
    let running = running(&pool);
    assert_eq!(goes_on.await, Err(TaskStopped::NotReady));
    let fails = pool.start(|started: Started<()>| {
        drop(started);
        ready(Err("broken".into()))
    });
    assert_eq!(fails.await, Err(TaskStopped::Failed));
    running.await.unwrap().unwrap_err();
}

#[apply(both)]
async fn a_started_that_is_dropped_in_another_task_is_told_at_once() {
    let pool = kept_open();
    let running = running(&pool);
    let latch = LatchEvent::new();
    let go = latch.wait_set();
    let mut call = pin!(pool.start(|started: Started<()>| async move {
        Pool::<BoxError>::current().spawn(async move {
            let _started = started;
            go.await;
        });
        pending::<()>().await;
    }));
    stays_pending(call.as_mut()).await;
    until(|| pool.len() == 2).await;
    latch.set();
    assert_eq!(call.await, Err(TaskStopped::NotReady));
    assert!(!pool.is_closed());
    pool.cancel();
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn a_started_that_is_dropped_in_another_thread_is_told_at_once() {
    let pool = kept_open();
    let running = running(&pool);
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let mut call = pin!(pool.start(|started: Started<()>| async move {
        drop(std::thread::spawn(move || {
            let _started = started;
            let _ = wait.recv();
        }));
        pending::<()>().await;
    }));
    stays_pending(call.as_mut()).await;
    drop(release);
    assert_eq!(busily(call).await, Err(TaskStopped::NotReady));
    assert!(!pool.is_closed());
    pool.cancel();
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn a_started_dropped_elsewhere_in_the_poll_that_fails_says_failed() {
    let pool = kept_open();
    let running = running(&pool);
    let call = pool.start(|started: Started<()>| async move {
        std::thread::spawn(move || drop(started)).join().unwrap();
        Err("broken".into())
    });
    assert_eq!(call.await, Err(TaskStopped::Failed));
    running.await.unwrap().unwrap_err();
}

#[apply(both)]
async fn a_task_that_fails_after_it_was_not_ready_fails_in_the_pool_only() {
    let pool = kept_open();
    let running = running(&pool);
    let end = LatchEvent::new();
    let go = end.wait_set();
    let call = pool.start(|started: Started<()>| async move {
        drop(started);
        go.await;
        Err("broken".into())
    });
    assert_eq!(call.await, Err(TaskStopped::NotReady));
    end.set();
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["error: broken"]);
}

#[apply(both)]
async fn a_task_that_ends_while_its_started_lives_elsewhere_is_not_ready() {
    let (alive, kept) = (Alive::default(), Arc::new(Mutex::new(None)));
    let (keep, pool) = (Arc::clone(&kept), kept_open());
    let running = running(&pool);
    let call = pool.start(|started: Started<Counted>| async move {
        *keep.lock().unwrap() = Some(started);
    });
    assert_eq!(call.await.map(drop), Err(TaskStopped::NotReady));
    kept.lock().unwrap().take().unwrap().ready(alive.one());
    assert_eq!(alive.count(), 0, "nobody waits any more");
    pool.cancel();
    running.await.unwrap().unwrap();
}

// ===== failures before ready =====

#[apply(both)]
async fn an_error_before_ready_is_the_pools_and_the_call_says_failed() {
    let pool = kept_open();
    let running = running(&pool);
    let call = pool.start(|started: Started<()>| async move {
        yield_now().await;
        let _started = started;
        Err("broken".into())
    });
    assert_eq!(call.await, Err(TaskStopped::Failed));
    assert!(pool.is_closed(), "the failure is recorded first");
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["error: broken"]);
}

#[apply(both)]
async fn an_error_that_carries_the_started_away_says_failed() {
    struct Carrier(#[expect(dead_code, reason = "it is only carried")] Started<()>);
    impl fmt::Display for Carrier {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("carrier")
        }
    }
    impl From<Carrier> for BoxError {
        fn from(_: Carrier) -> Self {
            "carrier".into()
        }
    }
    let pool = Pool::<Carrier>::new();
    let call = pool.start(|started| async move { Err(Carrier(started)) });
    let error = pool.run().await.unwrap_err();
    assert_eq!(call.await, Err(TaskStopped::Failed), "while the error lives");
    assert_eq!(failures(error.failures()), ["error: carrier"]);
}

#[apply(both)]
async fn a_panic_before_ready_is_the_pools_and_the_call_says_panicked() {
    let pool = kept_open();
    let running = running(&pool);
    let call = pool.start(|started: Started<()>| async move {
        yield_now().await;
        let _started = started;
        quiet_panic("broken") as ()
    });
    assert_eq!(call.await, Err(TaskStopped::Panicked));
    assert!(pool.is_closed(), "the failure is recorded first");
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["panic: broken"]);
}

#[apply(both)]
async fn a_destructor_that_panics_before_ready_says_panicked() {
    let pool = Pool::<BoxError>::new();
    let panics = OnDrop::new(|| quiet_panic("destructor"));
    // A future by hand: what an async block holds is dropped before its output is there.
    let call = pool.start(move |started: Started<()>| {
        poll_fn(move |_| {
            let _ = (&started, &panics);
            Poll::Ready(())
        })
    });
    let error = pool.run().await.unwrap_err();
    assert_eq!(call.await, Err(TaskStopped::Panicked));
    assert_eq!(failures(error.failures()), ["panic: destructor"]);
}

#[apply(both)]
async fn a_body_that_awaits_the_start_of_a_task_that_fails_is_no_deadlock() {
    let alive = Alive::default();
    let opened = Pool::open(async |pool: Pool| {
        let _one = alive.one();
        pool.start(|started: Started<()>| async move {
            let _started = started;
            yield_now().await;
            Err("broken".into())
        })
        .await?;
        Ok(())
    });
    let error = opened.await.unwrap_err();
    // The body is cut off, unless it is being polled in that moment: then it hears of it, which is no failure.
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_body_that_has_grace_is_told_how_the_start_failed() {
    let told = Log::default();
    let opened = Pool::builder().grace(Duration::from_secs(100)).open(async |pool: Pool| {
        let call = pool.start(|started: Started<()>| async move {
            let _started = started;
            yield_now().await;
            Err("broken".into())
        });
        told.push(call.await.unwrap_err().to_string());
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert_eq!(told.events(), ["task failed"]);
}

/// Has a task of a pool await the start of another, which is not ready when the pool closes. Says what the call was
/// told, if it was, and how the pool has ended.
async fn closed_before_ready(grace: Duration, close: impl FnOnce(&Pool)) -> (Vec<String>, Result<(), PoolError>) {
    let pool: Pool = Pool::builder().keep_open(true).grace(grace).build();
    let (told, alive, begun) = (Log::default(), Alive::default(), LatchEvent::new());
    let (caller, tell, [one, two], begins) = (pool.clone(), told.clone(), [alive.one(), alive.one()], begun.clone());
    pool.spawn(async move {
        let _one = one;
        let call = caller.start(move |started: Started<()>| async move {
            let (_held, asked) = ((started, two), cancellation_token());
            begins.set();
            asked.cancelled().await;
        });
        tell.push(call.await.unwrap_err().to_string());
    });
    let running = running(&pool);
    begun.wait_set().await;
    close(&pool);
    let ended = running.await.unwrap();
    assert_eq!(alive.count(), 0, "something is left when the pool has returned");
    (told.events(), ended)
}

#[apply(both)]
async fn a_task_of_the_pool_that_awaits_a_start_does_not_hang_when_the_pool_closes() {
    let fail = |pool: &Pool| pool.spawn(async { Err("broken".into()) });
    let (told, ended) = closed_before_ready(Duration::ZERO, Pool::cancel).await;
    ended.unwrap();
    // On two threads a task may be quicker than its abort.
    let one_thread = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    let not_told = |told: &[String]| told.is_empty() || !one_thread && *told == [TaskStopped::NotReady.to_string()];
    assert!(not_told(&told), "it was aborted as well: {told:?}");
    let (told, ended) = closed_before_ready(Duration::ZERO, fail).await;
    assert_eq!(failures(ended.unwrap_err().failures()), ["error: broken"]);
    assert!(not_told(&told), "it was aborted as well: {told:?}");
    // With a grace the task ends by itself, and the call hears that it has.
    let (told, ended) = closed_before_ready(Duration::MAX, Pool::cancel).await;
    ended.unwrap();
    assert_eq!(told, [TaskStopped::NotReady.to_string()]);
    let (told, ended) = closed_before_ready(Duration::MAX, fail).await;
    assert_eq!(failures(ended.unwrap_err().failures()), ["error: broken"]);
    assert_eq!(told, [TaskStopped::NotReady.to_string()]);
}

#[apply(both)]
async fn the_failure_of_a_sibling_while_a_task_starts_is_the_only_one() {
    let (pool, latch) = (kept_open(), LatchEvent::new());
    let running = running(&pool);
    let call = pool.start(never_ready::<()>);
    let mut call = pin!(call);
    stays_pending(call.as_mut()).await;
    let go = latch.wait_set();
    pool.spawn(async move {
        go.await;
        Err("sibling".into())
    });
    latch.set();
    assert_eq!(call.await, Err(TaskStopped::Cancelled));
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["error: sibling"]);
}

#[apply(both)]
async fn a_task_that_waits_for_a_start_in_a_pool_that_fails_is_no_deadlock() {
    // The inner pool fails while a task is being started in it that waits for the one that fails.
    let told = Log::default();
    let outer = Pool::open(async |outer: Pool| {
        let (inner, fail) = (kept_open(), LatchEvent::new());
        let (go, both) = (fail.wait_set(), fail.wait_set());
        inner.spawn(async move {
            go.await;
            Err("inner".into())
        });
        let call = inner.start(|started| async move {
            both.await;
            pending::<()>().await;
            started.ready(());
        });
        let told = told.clone();
        outer.spawn(async move { told.push(call.await.unwrap_err().to_string()) });
        fail.set();
        let error = inner.run().await.unwrap_err();
        Ok(failures(error.failures()))
    });
    assert_eq!(outer.await.unwrap(), ["error: inner"]);
    assert_eq!(told.events(), ["task was cancelled"]);
}

// ===== cancelled =====

#[apply(both)]
async fn a_pool_that_is_cancelled_before_ready_says_cancelled() {
    let (pool, alive) = (kept_open(), Alive::default());
    let running = running(&pool);
    let one = alive.one();
    let mut call = pin!(pool.start(|started: Started<()>| async move {
        let _both = (one, started);
        pending::<()>().await;
    }));
    stays_pending(call.as_mut()).await;
    assert_eq!(alive.count(), 1);
    pool.cancel();
    assert_eq!(call.await, Err(TaskStopped::Cancelled));
    assert_eq!(alive.count(), 0, "the task is gone first");
    running.await.unwrap().unwrap();
}

#[apply(current_thread)]
async fn a_task_that_is_aborted_unpolled_says_cancelled() {
    let (pool, log) = (kept_open(), Log::default());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    let polled = log.clone();
    let call = pool.start(|started: Started<()>| async move {
        polled.push("polled");
        drop(started);
    });
    pool.cancel();
    running.await.unwrap();
    assert_eq!(call.await, Err(TaskStopped::Cancelled));
    assert!(log.events().is_empty());
}

#[apply(both)]
async fn a_destructor_that_panics_while_it_is_aborted_before_ready_says_panicked() {
    let pool = kept_open();
    let running = running(&pool);
    let (begun, wait) = oneshot::channel();
    let call = pool.start(|started: Started<()>| async move {
        let _panics = OnDrop::new(|| quiet_panic("destructor"));
        begun.send(()).unwrap();
        never_ready(started).await;
    });
    wait.await.unwrap();
    pool.cancel();
    assert_eq!(call.await, Err(TaskStopped::Panicked));
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["panic: destructor"]);
}

#[apply(current_thread)]
async fn a_pool_that_closes_says_cancelled_at_once() {
    let pool = kept_open();
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    pool.cancel();
    let call = pool.start(never_ready::<()>);
    assert_ready_eq!(task::spawn(call).poll(), Err(TaskStopped::Cancelled));
    running.await.unwrap();
}

#[test]
fn a_planned_pool_that_is_dropped_says_cancelled() {
    let alive = Alive::default();
    let pool = Pool::<BoxError>::new();
    let one = alive.one();
    let call = pool.start(|started: Started<()>| async move {
        let _both = (one, started);
        pending::<()>().await;
    });
    let mut call = task::spawn(call);
    assert_pending!(call.poll());
    assert_eq!(alive.count(), 1);
    drop(pool);
    assert!(call.is_woken());
    assert_eq!(alive.count(), 0, "the call does not hold the pool");
    assert_ready_eq!(call.poll(), Err(TaskStopped::Cancelled));
}

#[test]
fn a_planned_pool_that_is_cancelled_says_cancelled() {
    let alive = Alive::default();
    let pool = Pool::<BoxError>::new();
    let one = alive.one();
    let call = pool.start(|started: Started<()>| async move {
        let _both = (one, started);
        pending::<()>().await;
    });
    let mut call = task::spawn(call);
    assert_pending!(call.poll());
    pool.cancel();
    assert_eq!(alive.count(), 0);
    assert_ready_eq!(call.poll(), Err(TaskStopped::Cancelled));
}

#[apply(both)]
async fn a_task_that_is_queued_under_a_limit_and_dropped_says_cancelled() {
    let (alive, log) = (Alive::default(), Log::default());
    let pool = Pool::<BoxError>::builder().limit(1).build();
    let (begun, wait) = oneshot::channel();
    pool.spawn(async move {
        begun.send(()).unwrap();
        pending::<()>().await;
    });
    let running = running(&pool);
    wait.await.unwrap();
    let (one, polled) = (alive.one(), log.clone());
    let mut call = pin!(pool.start(|started: Started<()>| async move {
        let _both = (one, started);
        polled.push("polled");
    }));
    stays_pending(call.as_mut()).await;
    assert_eq!(alive.count(), 1);
    pool.cancel();
    assert_eq!(call.await, Err(TaskStopped::Cancelled));
    assert_eq!(alive.count(), 0);
    assert!(log.events().is_empty());
    running.await.unwrap().unwrap();
}

#[test]
fn a_runtime_that_shuts_down_says_cancelled() {
    for workers in [0, 2] {
        let mut builder = match workers {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build().unwrap();
        let pool = kept_open();
        let (begun, wait) = oneshot::channel();
        let call = pool.start(|started: Started<()>| async move {
            begun.send(()).unwrap();
            never_ready(started).await;
        });
        runtime.block_on(async {
            drop(running(&pool));
            wait.await.unwrap();
        });
        let mut call = task::spawn(call);
        assert_pending!(call.poll());
        drop(runtime);
        assert_ready_eq!(call.poll(), Err(TaskStopped::Cancelled));
        assert_ready_eq!(task::spawn(pool.start(never_ready::<()>)).poll(), Err(TaskStopped::Cancelled));
    }
}

#[apply(both)]
async fn ready_while_the_pool_closes_is_ready() {
    let pool: Pool = Pool::builder().keep_open(true).grace(Duration::from_secs(100)).build();
    let running = running(&pool);
    let (begun, wait) = oneshot::channel();
    let call = pool.start(|started| async move {
        begun.send(()).unwrap();
        aiodrive::cancellation_token().cancelled().await;
        started.ready("after all");
    });
    wait.await.unwrap();
    pool.cancel();
    assert_eq!(call.await, Ok("after all"));
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn shielded_work_before_ready_is_finished_and_the_call_says_cancelled() {
    let (pool, latch, log) = (kept_open(), LatchEvent::new(), Log::default());
    let running = running(&pool);
    let (begun, wait) = oneshot::channel();
    let (go, done) = (latch.wait_set(), log.clone());
    let call = pool.start(|started| async move {
        shield(async move {
            begun.send(()).unwrap();
            go.await;
            done.push("finished");
        })
        .await;
        started.ready(());
    });
    wait.await.unwrap();
    pool.cancel();
    assert_eq!(call.await, Err(TaskStopped::Cancelled));
    assert!(log.events().is_empty() && !running.is_finished());
    latch.set();
    running.await.unwrap().unwrap();
    assert_eq!(log.events(), ["finished"]);
}

// ===== a `Started` that is leaked =====

#[apply(both)]
async fn with_a_leaked_started_the_answer_comes_when_the_task_ends() {
    for (how, expected) in [
        ("ok", TaskStopped::NotReady),
        ("error", TaskStopped::Failed),
        ("panic", TaskStopped::Panicked),
        ("cancel", TaskStopped::Cancelled),
    ] {
        let (pool, latch) = (kept_open(), LatchEvent::new());
        let running = running(&pool);
        let go = latch.wait_set();
        let mut call = pin!(pool.start(|started: Started<()>| async move {
            keep_forever(started);
            go.await;
            match how {
                "ok" => Ok(()),
                "error" => Err("broken".into()),
                "panic" => quiet_panic("broken"),
                _ => pending().await,
            }
        }));
        stays_pending(call.as_mut()).await;
        latch.set();
        if how == "cancel" {
            pool.cancel();
        }
        assert_eq!(call.await, Err(expected), "{how}");
        pool.cancel();
        drop(running.await.unwrap());
    }
}

#[test]
fn with_a_started_leaked_by_the_closure_a_closed_pool_says_cancelled() {
    let pool = Pool::<BoxError>::new();
    pool.cancel();
    let call = pool.start(|started: Started<()>| {
        keep_forever(started);
        ready(())
    });
    assert_ready_eq!(task::spawn(call).poll(), Err(TaskStopped::Cancelled));
}

#[test]
fn with_a_started_kept_elsewhere_a_planned_pool_that_is_dropped_says_cancelled() {
    let (pool, kept) = (Pool::<BoxError>::new(), Arc::new(Mutex::new(None)));
    let keep = Arc::clone(&kept);
    let call = pool.start(move |started: Started<()>| {
        *keep.lock().unwrap() = Some(started);
        ready(())
    });
    let mut call = task::spawn(call);
    assert_pending!(call.poll());
    drop(pool);
    assert_ready_eq!(call.poll(), Err(TaskStopped::Cancelled));
    kept.lock().unwrap().take().unwrap().ready(());
}

// ===== a call that is dropped =====

#[apply(both)]
async fn dropping_the_call_does_nothing_to_the_task() {
    for polled in [false, true] {
        let (pool, latch, log) = (Pool::<BoxError>::new(), LatchEvent::new(), Log::default());
        let (go, done) = (latch.wait_set(), log.clone());
        let mut call = Box::pin(pool.start(|started| async move {
            go.await;
            started.ready(());
            yield_now().await;
            done.push("ended");
        }));
        let running = running(&pool);
        if polled {
            assert!(poll_once(call.as_mut()).await.is_pending());
        }
        drop(call);
        until(|| pool.len() == 1).await;
        latch.set();
        running.await.unwrap().unwrap();
        assert_eq!(log.events(), ["ended"], "polled: {polled}");
    }
}

#[apply(both)]
async fn ready_after_the_caller_has_gone_drops_the_value() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    let counts = alive.clone();
    let call = pool.start(|started| async move {
        started.ready(counts.one());
        assert_eq!(counts.count(), 0);
    });
    drop(call);
    pool.run().await.unwrap();
}

#[apply(both)]
async fn a_value_that_nobody_takes_is_dropped_with_the_call() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    let one = alive.one();
    let call = pool.start(|started| async move { started.ready(one) });
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 1);
    drop(call);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_value_that_panics_in_its_destructor_when_the_caller_has_gone_panics_in_the_task() {
    let (pool, log) = (Pool::<BoxError>::new(), Log::default());
    let before = log.clone();
    drop(pool.start(|started| async move {
        before.push("ready");
        started.ready(OnDrop::new(|| quiet_panic("value")));
        before.push("went on");
    }));
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: value"]);
    assert_eq!(log.events(), ["ready"]);
}

#[apply(both)]
async fn a_value_that_panics_in_its_destructor_with_the_call_panics_in_the_caller() {
    let pool = Pool::<BoxError>::new();
    let call = pool.start(|started| async move { started.ready(OnDrop::new(|| quiet_panic("value"))) });
    pool.run().await.unwrap();
    assert_eq!(panic_text(move || drop(call)), "value");
}

#[apply(both)]
async fn a_caller_that_is_cut_off_leaves_the_task_in_another_pool() {
    let (target, latch, log) = (kept_open(), LatchEvent::new(), Log::default());
    let running = running(&target);
    let (go, done) = (latch.wait_set(), log.clone());
    let (begun, wait) = oneshot::channel();
    let call = target.start(|started| async move {
        begun.send(()).unwrap();
        go.await;
        started.ready(());
        done.push("ended");
    });
    let caller = Pool::open(async |pool: Pool| {
        wait.await?;
        pool.cancel_with("enough");
        call.await?;
        Ok(())
    });
    let error = caller.await.unwrap_err();
    assert!(error.is_cancelled() && !target.is_closed());
    assert_eq!((error.cancel_reason(), target.len()), (Some("enough"), 1));
    latch.set();
    until(|| target.is_empty()).await;
    assert_eq!(log.events(), ["ended"]);
    target.cancel();
    running.await.unwrap().unwrap();
}

// ===== the task in its pool =====

#[apply(both)]
async fn start_spawns_at_the_call() {
    let (pool, log) = (Pool::<BoxError>::new(), Log::default());
    let called = log.clone();
    let call = pool.start(|started| {
        called.push("called");
        async move {
            called.push("polled");
            started.ready(());
        }
    });
    assert_eq!((log.events().len(), pool.len()), (1, 1));
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["called", "polled"]);
    assert_ready_eq!(task::spawn(call).poll(), Ok(()));
}

#[apply(both)]
async fn start_on_a_planned_pool_waits_until_it_runs() {
    let pool = Pool::<BoxError>::new();
    let mut call = pin!(pool.start(|started| async move { started.ready(42) }));
    stays_pending(call.as_mut()).await;
    let running = running(&pool);
    assert_eq!(call.await, Ok(42));
    running.await.unwrap().unwrap();
}

#[apply(current_thread)]
async fn a_task_that_is_not_ready_yet_keeps_the_pool_open() {
    let begin = tokio::time::Instant::now();
    let pool = Pool::<BoxError>::new();
    let call = pool.start(|started| async move {
        sleep(Duration::from_secs(2)).await;
        started.ready(());
        sleep(Duration::from_secs(3)).await;
    });
    let asked = tokio::spawn(async move {
        call.await.unwrap();
        begin.elapsed()
    });
    pool.run().await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    assert_eq!(asked.await.unwrap(), Duration::from_secs(2));
}

#[apply(both)]
async fn a_task_that_another_pool_starts_is_in_its_own_before_and_after_it_is_ready() {
    let opened = Pool::builder().name("target").open(async |target: Pool| {
        let (gate, own) = (LatchEvent::new(), target.clone());
        let names = Pool::builder().name("caller").open(async move |caller: Pool| {
            let name = || Pool::<BoxError>::current().name().unwrap().to_owned();
            let (before, open) = (Log::default(), gate.wait_set());
            let (log, begun) = (before.clone(), LatchEvent::new());
            let begins = begun.clone();
            let mut call = Box::pin(own.build_task().name("starts").start(async move |started| {
                log.push(name());
                begins.set();
                open.await;
                started.ready(());
                yield_now().await;
                log.push(name());
            }));
            let is_in = |pool: &Pool| pool.tree().nodes().filter(|node| node.name() == Some("starts")).count();
            stays_pending(call.as_mut()).await;
            begun.wait_set().await;
            assert_eq!((is_in(&own), is_in(&caller)), (1, 0));
            gate.set();
            call.await?;
            until(|| before.events().len() == 2).await;
            Ok(before.events())
        });
        Ok(names.await?)
    });
    assert_eq!(opened.await.unwrap(), ["target", "target"]);
}

#[apply(both)]
async fn the_task_is_in_the_pool_before_and_after_it_is_ready() {
    let opened = Pool::builder().name("target").open(async |pool: Pool| {
        let (log, ended) = (Log::default(), LatchEvent::new());
        let (names, end) = (log.clone(), ended.clone());
        let name = || Pool::<BoxError>::current().name().unwrap().to_owned();
        let call = pool.start(|started| async move {
            names.push(name());
            let first = names.clone();
            Pool::<BoxError>::current().spawn(async move { first.push("spawned") });
            started.ready(());
            yield_now().await;
            names.push(name());
            end.set();
        });
        call.await?;
        ended.wait_set().await;
        until(|| log.events().len() == 3).await;
        let mut events = log.events();
        events.sort();
        Ok(events)
    });
    assert_eq!(opened.await.unwrap(), ["spawned", "target", "target"]);
}

#[apply(both)]
async fn a_task_can_start_another_in_its_own_pool() {
    let opened = Pool::open(async |pool: Pool| {
        let inner = pool.clone();
        let outer = pool.start(|started| async move {
            let value = inner.start(|started| async move { started.ready(41) }).await?;
            started.ready(value + 1);
            Ok(())
        });
        Ok(outer.await?)
    });
    assert_eq!(opened.await.unwrap(), 42);
}

#[apply(both)]
async fn under_a_limit_of_1_a_task_that_awaits_a_start_waits_until_it_is_cancelled() {
    let pool: Pool = Pool::builder().limit(1).build();
    let (inner, log) = (pool.clone(), Log::default());
    let (begun, wait) = oneshot::channel();
    let polled = log.clone();
    pool.spawn(async move {
        let call = inner.start(|started| async move {
            polled.push("polled");
            started.ready(());
        });
        begun.send(()).unwrap();
        let _ = call.await;
    });
    let running = running(&pool);
    wait.await.unwrap();
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(pool.len(), 2);
    pool.cancel();
    running.await.unwrap().unwrap();
    assert!(log.events().is_empty());
}

#[apply(both)]
async fn under_a_limit_of_1_a_task_that_drops_the_call_lets_the_other_start() {
    let pool: Pool = Pool::builder().limit(1).build();
    let (inner, log) = (pool.clone(), Log::default());
    let events = log.clone();
    pool.spawn(async move {
        let polled = events.clone();
        drop(inner.start(|started| async move {
            polled.push("second");
            started.ready(());
        }));
        yield_now().await;
        events.push("first");
    });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["first", "second"]);
}

#[apply(both)]
async fn under_a_limit_of_1_a_task_can_await_the_start_of_a_daemon() {
    let pool: Pool = Pool::builder().limit(1).build();
    let inner = pool.clone();
    let answer = pool.spawn_with_handle(async move {
        let call = inner.build_task().daemon().start(|started| async move {
            started.ready(42);
            pending::<()>().await;
        });
        Ok(call.await?)
    });
    pool.run().await.unwrap();
    assert_eq!(answer.await, Ok(42));
}

#[apply(both)]
async fn a_started_task_has_its_name_and_its_site_in_errors() {
    let pool: Pool = Pool::builder().limit(1).on_failure(|_| aiodrive::OnFailure::Collect).build();
    let fails = |started: Started<()>| async move {
        drop(started);
        Err("broken".into())
    };
    let (_first, line) = (pool.start(fails), line!());
    let second = pool.build_task().name("server").start(fails);
    let error = pool.run().await.unwrap_err();
    let tasks: Vec<_> = error.failures().iter().map(|failed| failed.task()).collect();
    let sites: Vec<_> = tasks.iter().map(|task| (task.spawned_at().file(), task.spawned_at().line())).collect();
    assert_eq!(sites, [(file!(), line), (file!(), line + 1)]);
    assert_eq!((tasks[0].name(), tasks[1].name()), (None, Some("server")));
    assert_eq!(second.await, Err(TaskStopped::Failed));
}

#[apply(both)]
async fn a_policy_is_asked_about_a_start_that_fails_before_the_call_returns() {
    let log = Log::default();
    let asked = log.clone();
    let pool: Pool = Pool::builder()
        .on_failure(move |failed| {
            asked.push(failed.to_string());
            aiodrive::OnFailure::Discard
        })
        .keep_open(true)
        .build();
    let running = running(&pool);
    let call = pool.build_task().name("server").start(|started: Started<()>| async move {
        let _started = started;
        Err("broken".into())
    });
    assert_eq!(call.await, Err(TaskStopped::Failed));
    let [text] = &log.events()[..] else { panic!("asked once") };
    assert!(text.starts_with("task \"server\" (") && text.ends_with(") failed: broken"), "{text}");
    assert!(!pool.is_closed());
    pool.cancel();
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn a_closure_that_panics_panics_in_the_caller_and_leaves_the_pool_as_it_is() {
    let pool = Pool::<BoxError>::new();
    let text = panic_text(|| {
        drop(pool.start(|_: Started<()>| -> std::future::Ready<()> { quiet_panic("closure") }));
    });
    assert_eq!((text.as_str(), pool.len()), ("closure", 0));
    pool.run().await.unwrap();
}

#[test]
fn a_closure_may_use_the_pool() {
    let pool = watched(|| {
        let pool = Pool::<BoxError>::new();
        let inner = pool.clone();
        drop(pool.start(|started: Started<()>| {
            inner.spawn(async {});
            assert_eq!(inner.len(), 1);
            drop(started);
            ready(())
        }));
        pool
    });
    assert_eq!(pool.len(), 2);
}

#[apply(multi_thread)]
async fn many_starts_from_many_threads_all_get_their_own_answer() {
    let pool = kept_open();
    let running = running(&pool);
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for n in 0..200 {
                    let call = pool.start(move |started| async move {
                        match n % 3 {
                            0 => started.ready((caller, n)),
                            1 => drop(std::thread::spawn(move || started.ready((caller, n)))),
                            _ => drop(started),
                        }
                        // The thread may be slower than the end of the task.
                        if n % 3 == 1 {
                            sleep(Duration::from_secs(1_000)).await;
                        }
                    });
                    let expected = if n % 3 == 2 { Err(TaskStopped::NotReady) } else { Ok((caller, n)) };
                    assert_eq!(call.await, expected);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    pool.cancel();
    running.await.unwrap().unwrap();
}

// ===== what the call is =====

#[apply(both)]
async fn the_call_is_send_and_static_and_does_not_borrow_the_pool() {
    fn checked<F: Future + Send + 'static>(call: F) -> F {
        call
    }
    let (plain, built) = {
        let pool = Pool::<BoxError>::new();
        let plain = checked(pool.start(|started| async move { started.ready(1) }));
        let built = checked(pool.build_task().name("built").start(|started| async move { started.ready(2) }));
        drop(running(&pool));
        (plain, built)
    };
    assert_eq!(tokio::spawn(plain).await.unwrap(), Ok(1));
    assert_eq!(tokio::spawn(built).await.unwrap(), Ok(2));
}

#[apply(both)]
async fn the_value_need_not_be_sync_nor_clone() {
    let pool = Pool::<BoxError>::new();
    let call = pool.start(|started| async move { started.ready(std::cell::Cell::new(Box::new(42))) });
    pool.run().await.unwrap();
    assert_eq!(*call.await.unwrap().into_inner(), 42);
}

#[test]
fn a_started_shows_itself_whatever_its_value() {
    struct Opaque;
    let pool = Pool::<BoxError>::new();
    let mut text = String::new();
    drop(pool.start(|started: Started<Opaque>| {
        text = format!("{started:?}");
        ready(Ok(()) as Outcome)
    }));
    assert_eq!(text, "Started");
}

#[apply(current_thread)]
async fn the_debug_text_of_the_future_is_its_name() {
    let opened = Pool::open(async |pool: Pool| {
        let ready = pool.start(async |started: Started<()>| started.ready(()));
        assert_eq!(format!("{ready:?}"), "StartFuture");
        Ok(ready.await?)
    });
    opened.await.unwrap();
}
