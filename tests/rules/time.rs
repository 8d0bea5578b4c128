//! Whose time counts between the request to stop and the abort, and who costs none.

use std::future::pending;
use std::time::Duration;

use aiodrive::{TaskStopped, cancellation_token};
use tokio::time::Instant;

use crate::cell::{Cell, Close, ENDLESS, GRACES, NO_TIME, Work, with};
use crate::support::{Alive, OnDrop, failures, until};

/// When a grace is over, what is left is aborted, and `Pool::overrun` names it: what is in the pool, and in pools without
/// a grace of their own.
async fn what_overruns_a_grace_is_aborted_and_named(cell: Cell) {
    let pool = with(Some(cell.short())).build();
    pool.build_task().name("work").spawn(cell.work());
    let run = cell.run(&pool).await;
    let begin = Instant::now();
    pool.cancel();
    run.await.unwrap().unwrap();
    cell.assert_took(begin, cell.short());
    cell.assert_aborted();
    let overrun = pool.overrun();
    let names: Vec<_> = overrun.iter().filter_map(|task| task.name()).collect();
    match cell.work {
        Work::Task | Work::TryAll => assert_eq!(names, ["work"]),
        Work::Nested => assert_eq!(names, ["work", "leaf"]),
        // The pool has ended its own tasks. What is left is in a pool with a grace of its own.
        Work::HandedOn => assert!(names.is_empty()),
    }
}

/// A grace ends early when everything has ended.
async fn a_grace_is_over_when_nothing_is_left(cell: Cell) {
    let pool = with(Some(Duration::from_secs(1_000_000))).build();
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    let begin = Instant::now();
    pool.cancel();
    cell.closes_with(&pool, ENDLESS).await;
    run.await.unwrap().unwrap();
    cell.assert_took(begin, Duration::ZERO);
    cell.assert_finished();
    assert!(pool.overrun().is_empty());
}

/// A grace of one's own can only shorten the time of the task around, not prolong it.
async fn an_inner_grace_never_outlasts_the_outer_one(cell: Cell) {
    for outer in [None, Some(Duration::ZERO), Some(cell.short())] {
        let cell = cell.again();
        let (around, pool) = (with(outer).build(), with(ENDLESS).build());
        pool.spawn(cell.work());
        around.spawn(async move {
            pool.run().await?;
            Ok(())
        });
        let run = cell.run(&around).await;
        let begin = Instant::now();
        around.cancel();
        run.await.unwrap().unwrap();
        cell.assert_took(begin, outer.unwrap_or_default());
        cell.assert_aborted();
    }
}

/// A shorter grace inside is over although the task around the pool has time left, and goes on.
async fn an_inner_grace_may_be_shorter_than_the_outer_one(cell: Cell) {
    for inner in [Duration::ZERO, cell.short()] {
        let cell = cell.again();
        let (around, pool) = (with(ENDLESS).build(), with(Some(inner)).build());
        pool.spawn(cell.work());
        let inside = cell.clone();
        let after = around.spawn_with_handle(async move {
            pool.run().await?;
            inside.assert_aborted();
            Ok(cancellation_token().is_cancelled())
        });
        let run = cell.run(&around).await;
        let begin = Instant::now();
        around.cancel();
        assert_eq!(after.await, Ok(true));
        run.await.unwrap().unwrap();
        cell.assert_took(begin, inner);
    }
}

/// A cause of its own ends the time that a pool has from the task around it.
async fn a_cause_of_its_own_ends_the_time_from_outside(cell: Cell) {
    let causes: [(Close, bool); 3] = [
        (|pool| pool.cancel(), true),
        (|pool| pool.abort(), true),
        (|pool| pool.spawn(async { Err("broken".into()) }), false),
    ];
    for (cause, is_well) in causes {
        let cell = cell.again();
        let (around, pool) = (with(ENDLESS).build(), with(None).build());
        pool.spawn(cell.work());
        let runs = pool.clone();
        let inner = around.spawn_with_handle(async move { Ok(runs.run().await) });
        let run = cell.run(&around).await;
        around.cancel();
        cell.asked().await;
        until(|| pool.is_closed()).await;
        cell.goes_on().await;
        cause(&pool);
        assert_eq!(inner.await.unwrap().is_ok(), is_well);
        cell.assert_asked_and_aborted();
        run.await.unwrap().unwrap();
    }
}

/// What begins when the token around it has fired already is cleanup work: it runs as ever, and only an abort ends it.
async fn what_begins_after_the_request_runs_until_an_abort(cell: Cell) {
    for aborts in [false, true] {
        let cell = cell.deaf();
        let (pool, inside) = (with(ENDLESS).build(), cell.clone());
        pool.spawn(async move {
            cancellation_token().cancelled().await;
            inside.work().await
        });
        pool.cancel_on(async {});
        let run = cell.run(&pool).await;
        cell.goes_on().await;
        if aborts {
            pool.abort();
            run.await.unwrap().unwrap();
            cell.assert_aborted_at_once();
        } else {
            cell.finish();
            run.await.unwrap().unwrap();
            cell.assert_finished();
        }
    }
}

/// A pool that begins after the request does not follow it: its tasks are not asked. All others have the token that has
/// fired.
async fn a_pool_that_begins_after_the_request_does_not_hear_it(cell: Cell) {
    let (pool, inside) = (with(ENDLESS).build(), cell.clone());
    pool.spawn(async move {
        cancellation_token().cancelled().await;
        inside.work().await
    });
    pool.cancel_on(async {});
    let run = cell.run(&pool).await;
    if cell.is(Work::Nested) {
        cell.goes_on().await;
        cell.assert_not_asked();
        pool.abort();
        run.await.unwrap().unwrap();
        cell.assert_aborted_at_once();
    } else {
        cell.closes_with(&pool, ENDLESS).await;
        run.await.unwrap().unwrap();
        cell.assert_finished();
    }
}

/// Depths are closed from the highest to the lowest: each is joined, with all that is nested there, before the next one
/// hears anything.
async fn a_depth_is_joined_before_the_next_one_is_asked(cell: Cell) {
    for grace in GRACES {
        let (high, low) = (cell.again(), cell.plain());
        let pool = with(grace).build();
        pool.build_task().depth(1).spawn(high.work());
        pool.build_task().depth(-1).spawn(low.work());
        let run = high.run(&pool).await;
        low.begun().await;
        pool.cancel();
        if grace == ENDLESS {
            high.asked().await;
            high.goes_on().await;
            low.assert_not_asked();
            high.finish();
            low.asked().await;
            high.assert_finished();
        }
        low.uses(grace).await;
        run.await.unwrap().unwrap();
        high.assert_used(grace);
        low.assert_used(grace);
    }
}

/// An abort goes through the depths in the same order.
async fn an_abort_joins_a_depth_before_it_aborts_the_next(cell: Cell) {
    for grace in GRACES {
        let (cell, lower) = (cell.again(), Alive::default());
        let pool = with(grace).build();
        pool.build_task().depth(1).spawn(cell.work());
        let (higher, one) = (cell.clone(), lower.one());
        pool.build_task().depth(0).spawn(async move {
            let _one = one;
            let _last = OnDrop::new(move || higher.assert_aborted());
            pending::<()>().await
        });
        let run = cell.run(&pool).await;
        until(|| lower.count() == 1).await;
        pool.abort();
        run.await.unwrap().unwrap();
        assert_eq!(lower.count(), 0);
        cell.assert_aborted_at_once();
    }
}

/// Queued tasks cost no grace when they cannot start: here the work, at a lower depth, has the only slot.
async fn queued_tasks_that_cannot_start_cost_no_grace(cell: Cell) {
    let cell = cell.with_owner();
    let pool = with(ENDLESS).limit(1).build();
    pool.build_task().depth(-1).spawn(cell.work());
    let run = cell.run(&pool).await;
    let queued = pool.spawn_with_handle(async { Ok(()) });
    pool.cancel();
    assert_eq!(queued.await, Err(TaskStopped::Cancelled));
    cell.closes_with(&pool, ENDLESS).await;
    run.await.unwrap().unwrap();
    cell.assert_finished();
}

/// Daemons that cannot have heard the signal cost no grace. Those in which something is nested may have heard it there.
async fn daemons_that_cannot_have_heard_cost_no_grace(cell: Cell) {
    for depth in [-1, 0, 1] {
        for cancels in [false, true] {
            let cell = cell.deaf();
            let pool = with(ENDLESS).build();
            pool.build_task().depth(depth).daemon().spawn(cell.work());
            let (inside, closes) = (cell.clone(), pool.clone());
            pool.spawn(async move {
                inside.begun().await;
                if cancels {
                    closes.cancel();
                }
            });
            let run = cell.run(&pool).await;
            if cell.is(Work::Task) {
                run.await.unwrap().unwrap();
                cell.assert_aborted_at_once();
            } else {
                until(|| pool.is_closed()).await;
                cell.goes_on().await;
                cell.finish();
                run.await.unwrap().unwrap();
                cell.assert_finished();
            }
        }
    }
}

/// Without time, a task hears nothing: the abort comes before the signal. So it is too for what is nested in it.
async fn without_time_the_abort_comes_first(cell: Cell) {
    for outer in NO_TIME {
        for inner in GRACES {
            let cell = cell.again();
            let around = with(outer).build();
            let pool = with(inner).build();
            pool.spawn(cell.work());
            around.spawn(async move {
                pool.run().await?;
                Ok(())
            });
            let run = cell.run(&around).await;
            around.cancel();
            run.await.unwrap().unwrap();
            cell.assert_aborted_at_once();
        }
    }
}

/// What fails in its grace, or panics, is reported like any other failure, once.
async fn what_fails_in_the_grace_is_returned(cell: Cell) {
    for panics in [false, true] {
        let cell = cell.again();
        let pool = with(ENDLESS).build();
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        pool.cancel();
        cell.asked().await;
        if panics {
            cell.panic()
        } else {
            cell.fail()
        }
        let error = run.await.unwrap().unwrap_err();
        assert!(error.was_cancelled() && !error.is_cancelled());
        // The task of a closing that was handed on has ended before.
        let found = if cell.is(Work::HandedOn) { error.cleanup_failures() } else { error.failures() };
        assert_eq!(found.len(), 1, "{error:#}");
        assert_eq!(error.failures().len() + error.cleanup_failures().len(), 1, "{error:#}");
        let text = failures(found).remove(0);
        assert!(text.contains("work"), "{text}");
        let is_direct = matches!(cell.work, Work::Task | Work::HandedOn);
        assert_eq!(text == if panics { "panic: work" } else { "error: work" }, is_direct, "{text}");
    }
}

matrix! {
    what_overruns_a_grace_is_aborted_and_named,
    a_grace_is_over_when_nothing_is_left,
    an_inner_grace_never_outlasts_the_outer_one,
    an_inner_grace_may_be_shorter_than_the_outer_one,
    a_cause_of_its_own_ends_the_time_from_outside,
    what_begins_after_the_request_runs_until_an_abort,
    a_pool_that_begins_after_the_request_does_not_hear_it,
    a_depth_is_joined_before_the_next_one_is_asked,
    an_abort_joins_a_depth_before_it_aborts_the_next,
    queued_tasks_that_cannot_start_cost_no_grace,
    daemons_that_cannot_have_heard_cost_no_grace,
    without_time_the_abort_comes_first,
    what_fails_in_the_grace_is_returned,
}
