//! How one task differs from the others of its pool.

use aiodrive::{LatchEvent, OnFailure, Pool, TaskStopped};

use crate::cell::{Cell, ENDLESS, Flavor, GRACES, NO_TIME, Work, with};
use crate::support::{failures, poll_until, turns, until};

/// `no_grace`: aborted at the signal, with all that is nested in it, while the others have their time. One that comes
/// later is aborted too.
async fn a_task_without_grace_is_aborted_at_the_signal(cell: Cell) {
    for daemon in [false, true] {
        let (cell, other, late) = (cell.again(), cell.plain(), cell.plain());
        let pool = with(ENDLESS).build();
        let task = pool.build_task().no_grace();
        if daemon {
            task.daemon().spawn(cell.work())
        } else {
            task.spawn(cell.work())
        }
        pool.spawn(other.work());
        let run = cell.run(&pool).await;
        other.begun().await;
        pool.cancel();
        until(|| cell.has("aborted")).await;
        cell.assert_aborted_at_once();
        pool.build_task().no_grace().spawn(late.work());
        other.uses(ENDLESS).await;
        run.await.unwrap().unwrap();
        other.assert_finished();
        // On several threads it may be polled before the abort comes.
        assert!(cell.flavor == Flavor::MultiThread || !late.has("begun"));
    }
}

/// `unlimited`: takes no slot, and needs none.
async fn an_unlimited_task_takes_no_slot(cell: Cell) {
    let cell = cell.deaf();
    let opened = with(None).limit(1).open(async |pool: Pool| {
        pool.build_task().unlimited().spawn(cell.work());
        cell.begun().await;
        pool.ready().await;
        assert_eq!(pool.spawn_with_handle(async { Ok(7) }).await, Ok(7), "the slot is free");
        let (full, second) = (cell.plain(), cell.again());
        pool.spawn(full.work());
        full.begun().await;
        pool.build_task().unlimited().spawn(second.work());
        second.begun().await;
        full.assert_not_asked();
        cell.finish();
        second.finish();
        pool.cancel();
        Ok(())
    });
    opened.await.unwrap();
}

/// A daemon takes no slot either, and holds no pool open.
async fn a_daemon_takes_no_slot_and_holds_nothing_open(cell: Cell) {
    for grace in NO_TIME {
        let cell = cell.deaf();
        let opened = with(grace).limit(1).open(async |pool: Pool| {
            pool.build_task().daemon().spawn(cell.work());
            cell.begun().await;
            assert_eq!(pool.spawn_with_handle(async { Ok(7) }).await, Ok(7), "the slot is free");
            Ok(())
        });
        opened.await.unwrap();
        cell.assert_aborted_at_once();
    }
}

/// `essential`: its end closes the pool, as long as that is open.
async fn an_essential_task_may_not_end_while_the_pool_is_open(cell: Cell) {
    for daemon in [false, true] {
        let (cell, other) = (cell.deaf().with_owner(), cell.plain());
        let pool = with(ENDLESS).build();
        pool.spawn(other.work());
        let task = pool.build_task().essential().name("work");
        if daemon {
            task.daemon().spawn(cell.work())
        } else {
            task.spawn(cell.work())
        }
        let run = cell.run(&pool).await;
        other.begun().await;
        other.goes_on().await;
        other.assert_not_asked();
        cell.finish();
        other.uses(ENDLESS).await;
        let error = run.await.unwrap().unwrap_err();
        assert_eq!(failures(error.failures()), ["ended"]);
        assert_eq!(error.first().unwrap().task().name(), Some("work"));
        other.assert_finished();
    }
}

/// An essential task that ends while its pool closes has done what it should: when the pool is cancelled, and when
/// nothing is left but daemons.
async fn an_essential_task_may_end_with_its_pool(cell: Cell) {
    let ways = [(false, true), (true, true), (true, false)];
    for (grace, (daemon, cancels)) in GRACES.into_iter().flat_map(|grace| ways.map(|way| (grace, way))) {
        let (cell, last) = (cell.with_owner(), LatchEvent::new());
        let pool = with(grace).build();
        pool.spawn(last.wait_set());
        let task = pool.build_task().essential();
        if daemon {
            task.daemon().spawn(cell.work())
        } else {
            task.spawn(cell.work())
        }
        let run = cell.run(&pool).await;
        if cancels {
            pool.cancel()
        }
        last.set();
        cell.closes_with(&pool, grace).await;
        run.await.unwrap().unwrap();
        cell.assert_used(grace);
    }
}

/// An essential task that its own handle aborts has not failed, and closes nothing.
async fn an_essential_task_may_be_aborted_by_its_handle(cell: Cell) {
    for daemon in [false, true] {
        let cell = cell.with_owner();
        let opened = with(ENDLESS).open(async |pool: Pool| {
            let task = pool.build_task().essential();
            let task = if daemon { task.daemon() } else { task }.spawn_with_handle(cell.work());
            cell.begun().await;
            task.cancel();
            assert_eq!(task.await, Err(TaskStopped::Cancelled));
            until(|| cell.has("aborted")).await;
            turns(50).await;
            assert!(!pool.is_closed());
            Ok(())
        });
        opened.await.unwrap();
        cell.assert_aborted_at_once();
    }
}

/// `on_failure` of a task is asked in the place of that of the pool. A failure of what was handed on is one of cleanup.
async fn the_policy_of_a_task_overrides_that_of_its_pool(cell: Cell) {
    for decision in [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard] {
        let (cell, other) = (cell.deaf(), cell.plain());
        let pool = with(ENDLESS).on_failure(|_| panic!("it has a policy of its own")).build();
        pool.spawn(other.work());
        pool.build_task().on_failure(decision).spawn(cell.work());
        let run = cell.run(&pool).await;
        other.begun().await;
        cell.fail();
        until(|| cell.has("failed")).await;
        let is_task = !cell.is(Work::HandedOn);
        if is_task && decision == OnFailure::Cancel {
            other.asked().await;
        } else {
            other.goes_on().await;
            other.assert_not_asked();
            pool.cancel();
        }
        other.finish();
        match run.await.unwrap() {
            Ok(()) => assert!(is_task && decision == OnFailure::Discard),
            Err(error) => {
                let found = if is_task { error.failures() } else { error.cleanup_failures() };
                assert_eq!(found.len(), 1, "{error:#}");
                assert!(!is_task || decision != OnFailure::Discard);
            }
        }
        other.assert_finished();
    }
}

/// A tracked future is a member of its pool: it hears the signal, and is waited for.
async fn a_tracked_future_has_the_time_of_its_pool(cell: Cell) {
    let pool = with(ENDLESS).keep_open(true).build();
    let somebody = tokio::spawn(pool.track_future(cell.work()));
    let run = cell.run(&pool).await;
    cell.assert_not_asked();
    pool.cancel();
    cell.asked().await;
    cell.goes_on().await;
    assert!(!run.is_finished());
    cell.finish();
    somebody.await.unwrap().unwrap().unwrap();
    run.await.unwrap().unwrap();
    cell.assert_finished();
}

/// A tracked future is cut off by the abort, with all that is nested in it. One that comes later is never polled.
async fn a_tracked_future_is_cut_off_by_the_abort(cell: Cell) {
    for aborts in [false, true] {
        let cell = cell.with_owner();
        let pool = with(if aborts { ENDLESS } else { None }).keep_open(true).build();
        let somebody = tokio::spawn(pool.track_future(cell.work()));
        let run = cell.run(&pool).await;
        if aborts {
            pool.abort()
        } else {
            pool.cancel()
        }
        assert!(matches!(somebody.await.unwrap(), Err(TaskStopped::Cancelled)));
        if cell.is(Work::Task) {
            cell.assert_aborted();
        }
        run.await.unwrap().unwrap();
        cell.assert_aborted();
        let late = cell.again();
        assert!(matches!(pool.track_future(late.work()).await, Err(TaskStopped::Cancelled)));
        assert!(!late.has("begun"));
    }
}

/// A tracked future that is dropped by who polls it lets go of its pool.
async fn a_tracked_future_that_is_dropped_holds_nothing(cell: Cell) {
    let cell = cell.with_owner();
    let opened = with(None).open(async |pool: Pool| {
        let mut tracked = Box::pin(pool.track_future(cell.work()));
        poll_until(tracked.as_mut(), || cell.is_running()).await;
        assert_eq!(pool.len(), 1);
        drop(tracked);
        assert_eq!(pool.len(), 0);
        // Nothing but a closing with a grace of its own goes on: a drop is no abort.
        if cell.is(Work::HandedOn) {
            cell.goes_on().await;
            cell.finish();
        }
        Ok(())
    });
    opened.await.unwrap();
    if cell.is(Work::HandedOn) { cell.assert_finished() } else { cell.assert_aborted() }
}

/// Spawned anywhere below, a task without a policy is asked about by the pool that it is in.
async fn a_failure_is_decided_where_it_arrives(cell: Cell) {
    let (cell, other) = (cell.deaf(), cell.plain());
    let pool = with(ENDLESS).on_failure(|_| OnFailure::Collect).on_cleanup_failure(|_| OnFailure::Discard).build();
    pool.spawn(cell.work());
    pool.spawn(other.work());
    let run = cell.run(&pool).await;
    other.begun().await;
    cell.fail();
    until(|| cell.has("failed")).await;
    other.goes_on().await;
    other.assert_not_asked();
    pool.cancel();
    other.uses(ENDLESS).await;
    match run.await.unwrap() {
        Ok(()) => assert!(cell.is(Work::HandedOn), "only its failure is one of cleanup"),
        Err(error) => assert_eq!(error.failures().len(), 1),
    }
    other.assert_finished();
}

matrix! {
    a_task_without_grace_is_aborted_at_the_signal,
    an_unlimited_task_takes_no_slot,
    a_daemon_takes_no_slot_and_holds_nothing_open,
    an_essential_task_may_not_end_while_the_pool_is_open,
    an_essential_task_may_end_with_its_pool,
    an_essential_task_may_be_aborted_by_its_handle,
    the_policy_of_a_task_overrides_that_of_its_pool,
    a_tracked_future_has_the_time_of_its_pool,
    a_tracked_future_is_cut_off_by_the_abort,
    a_tracked_future_that_is_dropped_holds_nothing,
    a_failure_is_decided_where_it_arrives,
}
