//! `track_future`: a future that is a member of its pool, and is polled by somebody else.

use std::future::{pending, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, TaskStopped};
use macro_rules_attribute::apply;
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};

use crate::support::{
    Alive, Outcome, asked, both, current_thread, endless, multi_thread_runtime, poll_once, quiet_panic, secs,
    stays_pending, until, watched, with_grace,
};

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

// ===== the limit =====

#[apply(both)]
async fn a_tracked_future_takes_up_no_slot_of_the_limit() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let alive = Alive::default();
        let mut tracked = task::spawn(pool.track_future(endless(&alive)));
        assert_pending!(tracked.poll());
        assert_ready!(task::spawn(pool.ready()).poll());
        for n in 0..3 {
            assert_eq!(pool.spawn_with_handle(async move { Ok(n) }).await, Ok(n));
        }
        // A handle is ready a moment before its task has ended.
        until(|| pool.len() == 1).await;
        assert_eq!(alive.count(), 1);
        drop(tracked);
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn a_tracked_future_waits_for_no_slot_of_the_limit() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let (go, begun) = (LatchEvent::new(), LatchEvent::new());
        let (goes, begins) = (go.wait_set(), begun.clone());
        pool.spawn(async move {
            begins.set();
            goes.await;
        });
        begun.wait_set().await;
        let mut queued = task::spawn(pool.spawn_with_handle(async { Ok(()) }));
        assert_ready_eq!(task::spawn(pool.track_future(async { 7 })).poll(), Ok(7));
        assert_pending!(queued.poll());
        go.set();
        queued.await?;
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn a_tracked_future_of_a_planned_pool_takes_up_no_slot_of_the_limit() {
    let (pool, alive): (Pool, _) = (Pool::builder().limit(1).build(), Alive::default());
    let mut tracked = task::spawn(pool.track_future(endless(&alive)));
    let value = pool.spawn_with_handle(async { Ok(7) });
    let run = tokio::spawn(pool.clone().run());
    assert_eq!(value.await, Ok(7));
    assert_pending!(tracked.poll());
    assert_eq!(pool.spawn_with_handle(async { Ok(8) }).await, Ok(8));
    assert_eq!(alive.count(), 1);
    drop(tracked);
    run.await.unwrap().unwrap();
}

// ===== the abort =====

#[apply(both)]
async fn an_aborted_pool_waits_until_a_tracked_future_is_polled() {
    let (pool, alive): (Pool, _) = (Pool::builder().keep_open(true).build(), Alive::default());
    let mut run = Box::pin(pool.clone().run());
    stays_pending(run.as_mut()).await;
    let mut tracked = task::spawn(pool.track_future(endless(&alive)));
    assert_pending!(tracked.poll());
    pool.abort();
    stays_pending(run.as_mut()).await;
    assert!(tracked.is_woken(), "nobody is told that there is something to do");
    assert_eq!((pool.len(), alive.count()), (1, 1), "somebody else has dropped it");
    assert_ready_eq!(tracked.poll(), Err(TaskStopped::Cancelled));
    assert_eq!(alive.count(), 0, "it is dropped at that poll");
    run.await.unwrap();
}

#[apply(both)]
async fn an_aborted_pool_waits_until_a_tracked_future_that_nobody_polls_is_dropped() {
    for polled in [false, true] {
        let (pool, alive): (Pool, _) = (Pool::builder().keep_open(true).build(), Alive::default());
        let mut run = Box::pin(pool.clone().run());
        stays_pending(run.as_mut()).await;
        let mut tracked = task::spawn(pool.track_future(endless(&alive)));
        if polled {
            assert_pending!(tracked.poll());
        }
        pool.abort();
        stays_pending(run.as_mut()).await;
        assert_eq!(alive.count(), 1, "polled: {polled}");
        drop(tracked);
        assert_eq!(alive.count(), 0, "polled: {polled}");
        run.await.unwrap();
    }
}

#[apply(current_thread)]
async fn an_aborted_pool_waits_for_a_tracked_future_until_it_gives_up() {
    let builder = Pool::builder().keep_open(true).grace(secs(5)).abandon_after(secs(10));
    let (pool, alive, begin): (Pool, _, _) = (builder.build(), Alive::default(), Instant::now());
    let mut run = task::spawn(pool.clone().run());
    assert_pending!(run.poll());
    let mut tracked = task::spawn(pool.build_task().name("request").track_future(endless(&alive)));
    let other = tokio::spawn(pool.track_future(pending::<()>()));
    assert_pending!(tracked.poll());
    pool.cancel();
    let error = run.await.unwrap_err();
    assert_eq!(begin.elapsed(), secs(15), "after the grace and the wait");
    assert!(matches!(error.stuck(), [stuck] if stuck.name() == Some("request")), "{error}");
    assert_eq!(other.await.unwrap(), Err(TaskStopped::Cancelled), "it was polled in time");
    // It lives until whoever has it polls it.
    assert_eq!((pool.len(), alive.count()), (0, 1));
    assert_ready_eq!(tracked.poll(), Err(TaskStopped::Cancelled));
    assert_eq!(alive.count(), 0);
}

// ===== the driver, which is woken for its end =====

/// Has another thread poll, and goes on when that has looked.
struct Looks(Mutex<mpsc::Sender<mpsc::Sender<()>>>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        // While it polls, it has looked.
        if thread::current().name() != Some("driver") {
            let (looked, look) = mpsc::channel();
            self.0.lock().unwrap().send(looked).ok();
            look.recv().ok();
        }
    }
}

/// Beside a daemon that listens to nothing, the end of a tracked one ends the grace. It has to be gone by the time that
/// the driver is told.
#[test]
fn a_tracked_daemon_is_gone_when_the_driver_looks() {
    watched(|| {
        let (runtime, begun) = (multi_thread_runtime(), LatchEvent::new());
        let pool: Pool = with_grace(Duration::MAX).keep_open(true).build();
        let begins = begun.clone();
        pool.build_task().daemon().spawn(async move {
            begins.set();
            pending::<()>().await;
        });
        let tracked = pool.build_task().daemon().track_future(pending::<()>());
        let (send, looks) = mpsc::channel();
        let (handle, runner) = (runtime.handle().clone(), pool.clone());
        let drive = move || {
            let _entered = handle.enter();
            let waker = Waker::from(Arc::new(Looks(Mutex::new(send))));
            let (mut run, mut cx) = (pin!(runner.run()), Context::from_waker(&waker));
            let mut polled = run.as_mut().poll(&mut cx);
            while polled.is_pending() {
                let looked = looks.recv().unwrap();
                polled = run.as_mut().poll(&mut cx);
                drop(looked);
            }
        };
        let driver = thread::Builder::new().name("driver".to_owned()).spawn(drive).unwrap();
        runtime.block_on(begun.wait_set());
        pool.cancel();
        drop(tracked);
        driver.join().unwrap();
    });
}
