//! What closes a pool from beside: `cancel_on`, `abort_on` and `cancel_at`.

use std::future::{Future, pending};
use std::time::Duration;

use aiodrive::{ClosingReason, LatchEvent, Pool};
use tokio::time::Instant;

use crate::cell::{Cell, ENDLESS, Flavor, NO_TIME, Work, with};
use crate::support::{Alive, failures, quiet_panic, until};

/// What is ready never, and counted.
fn never(alive: &Alive) -> impl Future<Output = ()> + Send + use<> {
    let one = alive.one();
    async move {
        let _one = one;
        pending().await
    }
}

/// A watcher costs no grace, counts in no `len`, and is dropped before the pool returns.
async fn a_watcher_holds_no_pool_open(cell: Cell) {
    let (cell, alive) = (cell.deaf(), Alive::default());
    let pool = with(ENDLESS).build();
    pool.cancel_on(never(&alive));
    pool.abort_on(never(&alive));
    pool.cancel_at(Some(Instant::now() + Duration::from_secs(1_000_000)));
    let watchers = || pool.tree().nodes().filter(|node| node.is_daemon()).count();
    assert_eq!(watchers(), 3, "in the plan");
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    let tasks = pool.len();
    // The task of a closing that was handed on has ended, or is about to.
    assert!(tasks == 1 || tasks == 0 && cell.is(Work::HandedOn), "{tasks}");
    assert_eq!(watchers(), 3);
    cell.finish();
    run.await.unwrap().unwrap();
    cell.assert_finished();
    assert_eq!(alive.count(), 0);
}

/// What can only cancel is dropped when the pool begins to close; what can abort is polled until the end.
async fn what_can_abort_is_polled_until_the_end(cell: Cell) {
    let (cancels, aborts, second) = (Alive::default(), Alive::default(), LatchEvent::new());
    let pool = with(ENDLESS).build();
    pool.cancel_on(never(&cancels));
    let (one, signal) = (aborts.one(), second.wait_set());
    pool.abort_on(async move {
        let _one = one;
        signal.await;
    });
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    assert_eq!((cancels.count(), aborts.count()), (1, 1));
    pool.cancel();
    cell.asked().await;
    until(|| cancels.count() == 0).await;
    cell.goes_on().await;
    assert_eq!(aborts.count(), 1);
    second.set();
    run.await.unwrap().unwrap();
    cell.assert_asked_and_aborted();
    assert_eq!(aborts.count(), 0);
}

/// A first signal cancels, and a second one aborts.
async fn a_first_signal_cancels_and_a_second_aborts(cell: Cell) {
    let (first, second) = (LatchEvent::new(), LatchEvent::new());
    let pool = with(ENDLESS).build();
    pool.cancel_on(first.wait_set());
    pool.abort_on(second.wait_set());
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    cell.goes_on().await;
    cell.assert_not_asked();
    first.set();
    cell.asked().await;
    cell.goes_on().await;
    second.set();
    run.await.unwrap().unwrap();
    cell.assert_asked_and_aborted();
}

/// A deadline can be moved and taken back, and the last call counts. One that is over cancels at once.
async fn the_last_deadline_counts(cell: Cell) {
    let pool = with(ENDLESS).build();
    let in_seconds = |seconds| pool.cancel_at(Some(Instant::now() + Duration::from_secs(seconds)));
    in_seconds(1_000_000);
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    in_seconds(2_000_000);
    if cell.flavor == Flavor::CurrentThread {
        // Where the clock stands still between two lines.
        pool.cancel_at(Some(Instant::now() + cell.short()));
    }
    pool.cancel_at(None);
    if cell.flavor == Flavor::CurrentThread {
        tokio::time::sleep(2 * cell.short()).await;
    }
    cell.goes_on().await;
    assert!(!pool.is_closed());
    in_seconds(3_000_000);
    pool.cancel_at(Some(Instant::now() - Duration::from_millis(1)));
    cell.closes_with(&pool, ENDLESS).await;
    run.await.unwrap().unwrap();
    cell.assert_finished();
    assert!(matches!(pool.closing_reason(), Some(ClosingReason::Deadline)));
}

/// A deadline that lies ahead cancels when it comes.
async fn a_deadline_cancels_when_it_comes(cell: Cell) {
    for grace in NO_TIME {
        let cell = cell.again();
        let pool = with(grace).build();
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        let begin = Instant::now();
        pool.cancel_at(Some(begin + cell.short()));
        run.await.unwrap().unwrap();
        assert!(begin.elapsed() >= cell.short());
        cell.assert_took(begin, cell.short());
        cell.assert_aborted_at_once();
    }
}

/// A signal that panics is a failure of the pool, which closes as for any other. It has the name of the method, and the
/// line of its call.
async fn a_watcher_that_panics_cancels_everything(cell: Cell) {
    for aborts in [false, true] {
        let (cell, go) = (cell.again(), LatchEvent::new());
        let pool = with(ENDLESS).build();
        let goes = go.wait_set();
        let signal = async move {
            goes.await;
            quiet_panic("no signals here")
        };
        let line = if aborts {
            pool.abort_on(signal);
            line!() - 1
        } else {
            pool.cancel_on(signal);
            line!() - 1
        };
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        go.set();
        cell.closes_with(&pool, ENDLESS).await;
        let error = run.await.unwrap().unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: no signals here"]);
        let task = error.first().unwrap().task();
        assert_eq!(task.name(), Some(if aborts { "abort_on" } else { "cancel_on" }));
        assert_eq!((task.spawned_at().file(), task.spawned_at().line()), (file!(), line));
        cell.assert_finished();
    }
}

/// A watcher keeps a pool open that is to be kept open, until it fires.
async fn a_watcher_keeps_a_pool_open(cell: Cell) {
    let (cell, go) = (cell.deaf(), LatchEvent::new());
    let watchers: [fn(&Pool, LatchEvent); 2] =
        [|pool, go| pool.cancel_on(go.wait_set()), |pool, go| pool.abort_on(go.wait_set())];
    for watch in watchers {
        let (cell, go) = (cell.again(), go.clone());
        go.unset();
        let pool = with(ENDLESS).keep_open(true).build();
        watch(&pool, go.clone());
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        drop(pool);
        cell.finish();
        until(|| cell.has("finished")).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert!(!run.is_finished());
        go.set();
        run.await.unwrap().unwrap();
        cell.assert_finished();
    }
}

matrix! {
    a_watcher_holds_no_pool_open,
    what_can_abort_is_polled_until_the_end,
    a_first_signal_cancels_and_a_second_aborts,
    the_last_deadline_counts,
    a_deadline_cancels_when_it_comes,
    a_watcher_that_panics_cancels_everything,
    a_watcher_keeps_a_pool_open,
}
