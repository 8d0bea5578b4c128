//! Each cause for which a pool closes, with no time, with none by its own grace, and with time without end.

use std::future::pending;
use std::time::Duration;

use aiodrive::{BoxError, ClosingReason, LatchEvent, OnFailure, Pool, TaskStopped};
use tokio::time::Instant;

use crate::cell::{Cell, Close, ENDLESS, GRACES, Job, NO_TIME, Outcome, Work, with};
use crate::support::{Count, failures, panic_of, poll_until, quiet_panic};

/// A task that ends, and how its failure reads.
type Ending = (fn() -> Job, &'static str);

/// Ways in which a task can fail.
const FAILURES: [Ending; 2] = [
    (|| Box::pin(async { Err("broken".into()) }), "error: broken"),
    (|| Box::pin(async { quiet_panic("panicked") }), "panic: panicked"),
];

type IsReason = fn(&ClosingReason) -> bool;

/// The body has returned and no task is left but daemons: they are cancelled, and the value is returned.
async fn a_pool_with_nothing_left_but_daemons_cancels_them(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let inside = cell.clone();
        let opened = with(grace).open(async move |pool: Pool| {
            pool.build_task().daemon().spawn(inside.work());
            inside.begun().await;
            inside.assert_not_asked();
            Ok(7)
        });
        let (opened, ()) = tokio::join!(opened, cell.uses(grace));
        assert_eq!(opened.unwrap(), 7);
        cell.assert_used(grace);
    }
}

/// A task has failed: everything is cancelled, the body too, and the failure is returned.
async fn a_failed_task_cancels_everything(cell: Cell) {
    for grace in GRACES {
        for (job, text) in FAILURES {
            let cell = cell.again();
            let inside = cell.clone();
            let opened = with(grace).open(async move |pool: Pool| {
                pool.spawn(inside.work());
                inside.begun().await;
                inside.assert_not_asked();
                pool.spawn(job());
                pool.cancelled().await;
                if grace == ENDLESS { Ok(7) } else { pending().await }
            });
            let (opened, ()) = tokio::join!(opened, cell.uses(grace));
            let error = opened.unwrap_err();
            assert_eq!(failures(error.failures()), [text]);
            assert!(!error.is_cancelled() && !error.was_cancelled());
            cell.assert_used(grace);
        }
    }
}

/// An essential task has ended while the pool was open: the policy is asked, and the pool closes, whatever it says.
async fn the_end_of_an_essential_task_cancels_everything(cell: Cell) {
    let well: Ending = (|| Box::pin(async { Ok(()) }), "ended");
    let policies = [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard];
    for (grace, what) in GRACES.into_iter().flat_map(|grace| policies.map(|what| (grace, what))) {
        for (job, text) in FAILURES.into_iter().chain([well]) {
            for daemon in [false, true] {
                let (cell, asked) = (cell.again(), Count::default());
                let asks = asked.clone();
                let policy = move |_: &_| {
                    asks.up();
                    what
                };
                let pool = with(grace).on_failure(policy).build();
                pool.spawn(cell.work());
                let run = cell.run(&pool).await;
                cell.assert_not_asked();
                let task = pool.build_task().essential();
                if daemon {
                    task.daemon().spawn(job())
                } else {
                    task.spawn(job())
                }
                cell.closes_with(&pool, grace).await;
                match (run.await.unwrap(), what) {
                    (outcome, OnFailure::Discard) => outcome.unwrap(),
                    (outcome, _) => assert_eq!(failures(outcome.unwrap_err().failures()), [text]),
                }
                assert_eq!(asked.get(), 1, "{text}, {what:?}; daemon: {daemon}");
                cell.assert_used(grace);
            }
        }
    }
}

/// The body has returned an error: everything is cancelled, and that is among the failures.
async fn a_failed_body_cancels_everything(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let inside = cell.clone();
        let opened = with(grace).open(async move |pool: Pool| {
            pool.spawn(inside.work());
            inside.begun().await;
            inside.assert_not_asked();
            Err::<(), BoxError>("body".into())
        });
        let (opened, ()) = tokio::join!(opened, cell.uses(grace));
        let error = opened.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body"]);
        assert!(error.failures()[0].task().is_body());
        assert!(!error.is_cancelled() && !error.was_cancelled());
        cell.assert_used(grace);
    }
}

fn panicking() -> Result<(), BoxError> {
    quiet_panic("body")
}

/// The body has panicked: everything is cancelled and joined, and the panic is resumed. What has failed until then goes
/// to the pool around.
async fn a_panic_of_the_body_is_resumed_when_everything_has_ended(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let outside = Pool::open(async |_: Pool| {
            let (inside, failed) = (cell.clone(), LatchEvent::new());
            let opened = with(grace).on_failure(|_| OnFailure::Collect).open(async move |pool: Pool| {
                pool.spawn(inside.work());
                inside.begun().await;
                let handle = pool.spawn_with_handle(async { Err::<(), _>("before".into()) });
                handle.await.unwrap_err();
                inside.assert_not_asked();
                failed.set();
                panicking()
            });
            let (panic, ()) = tokio::join!(panic_of(opened), cell.uses(grace));
            assert_eq!(panic, "body");
            cell.assert_used(grace);
            Ok(())
        });
        let error = outside.await.unwrap_err();
        assert!(error.failures().is_empty());
        assert_eq!(failures(error.cleanup_failures()), ["error: before"]);
    }
}

/// The pool is cancelled, at once or by a deadline: everything is cancelled, and that is no failure.
async fn a_cancelled_pool_returns_ok(cell: Cell) {
    let ways: [(Close, IsReason); 4] = [
        (|pool| pool.cancel(), |reason| matches!(reason, ClosingReason::Cancelled(_))),
        (|pool| pool.cancel_with("deployment"), |reason| reason.cancel_reason() == Some("deployment")),
        (|pool| pool.cancel_on(async {}), |reason| matches!(reason, ClosingReason::Cancelled(_))),
        (|pool| pool.cancel_at(Some(Instant::now())), |reason| matches!(reason, ClosingReason::Deadline)),
    ];
    for grace in GRACES {
        for (cancel, is_expected) in ways {
            let cell = cell.again();
            let pool = with(grace).build();
            pool.spawn(cell.work());
            let run = cell.run(&pool).await;
            cell.assert_not_asked();
            cancel(&pool);
            cell.closes_with(&pool, grace).await;
            run.await.unwrap().unwrap();
            cell.assert_used(grace);
            assert!(pool.closing_reason().is_some_and(|reason| is_expected(&reason)));
        }
    }
}

/// A cancelled `open` returns the value, if its body has returned it; otherwise an error says that it was cancelled.
async fn a_cancelled_open_returns_the_value_if_there_is_one(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let inside = cell.clone();
        let opened = with(grace).open(async move |pool: Pool| {
            pool.spawn(inside.work());
            inside.begun().await;
            inside.assert_not_asked();
            let late = pool.clone();
            pool.spawn(async move { late.cancel() });
            Ok(7)
        });
        let (opened, ()) = tokio::join!(opened, cell.uses(grace));
        assert_eq!(opened.unwrap(), 7);
        cell.assert_used(grace);
    }
    for grace in NO_TIME {
        let cell = cell.again();
        let opened: Outcome = with(grace)
            .open(async |pool: Pool| {
                pool.spawn(cell.work());
                cell.begun().await;
                pool.cancel_with("deployment");
                pending().await
            })
            .await;
        let error = opened.unwrap_err();
        assert!(error.is_cancelled() && error.was_cancelled());
        assert_eq!(error.cancel_reason(), Some("deployment"));
        cell.assert_aborted_at_once();
    }
}

/// The task around the pool is asked to stop: a pool without a grace of its own has the time of that task.
async fn a_pool_closes_with_the_one_around_it_and_has_its_time(cell: Cell) {
    for (outer, inner) in GRACES.into_iter().flat_map(|outer| GRACES.map(|inner| (outer, inner))) {
        let cell = cell.again();
        let (around, pool) = (with(outer).build(), with(inner).build());
        pool.spawn(cell.work());
        let runs = pool.clone();
        around.spawn(async move {
            runs.run().await?;
            Ok(())
        });
        let run = cell.run(&around).await;
        cell.assert_not_asked();
        around.cancel_with("deployment");
        let has_time = outer == ENDLESS && inner != Some(Duration::ZERO);
        let grace = if has_time { ENDLESS } else { None };
        cell.closes_with(&pool, grace).await;
        run.await.unwrap().unwrap();
        cell.assert_used(grace);
        let reason = pool.closing_reason().unwrap();
        if outer == ENDLESS {
            assert!(matches!(reason, ClosingReason::ParentClosing(_)), "{reason}");
            assert_eq!(reason.cancel_reason(), Some("deployment"));
        }
    }
}

/// The pool is aborted: as if it was cancelled, and nothing has time, whatever its grace.
async fn an_aborted_pool_has_no_time(cell: Cell) {
    let ways: [Close; 2] = [|pool| pool.abort(), |pool| pool.abort_on(async {})];
    for grace in GRACES {
        for abort in ways {
            let cell = cell.again();
            let pool = with(grace).build();
            pool.spawn(cell.work());
            let run = cell.run(&pool).await;
            cell.assert_not_asked();
            abort(&pool);
            run.await.unwrap().unwrap();
            cell.assert_aborted_at_once();
            assert!(matches!(pool.closing_reason(), Some(ClosingReason::Aborted)));

            let cell = cell.again();
            let inside = cell.clone();
            let opened: Outcome = with(grace)
                .open(async move |pool: Pool| {
                    pool.spawn(inside.work());
                    inside.begun().await;
                    abort(&pool);
                    pending().await
                })
                .await;
            let error = opened.unwrap_err();
            assert!(error.is_cancelled() && error.was_cancelled());
            cell.assert_aborted_at_once();
        }
    }
}

/// The future of the pool is dropped, and its owner goes on: that is no abort. The pool has its own grace, and the pool
/// around it waits.
async fn a_dropped_pool_closes_with_its_own_grace(cell: Cell) {
    for outer in GRACES {
        for grace in GRACES {
            let cell = cell.again();
            let inside = cell.clone();
            let opened = with(outer).open(async move |_: Pool| {
                let pool = with(grace).build();
                pool.spawn(inside.work());
                let mut run = Box::pin(pool.run());
                poll_until(run.as_mut(), || inside.is_running()).await;
                inside.assert_not_asked();
                drop(run);
                Ok(7)
            });
            let (opened, ()) = tokio::join!(opened, cell.uses(grace));
            assert_eq!(opened.unwrap(), 7);
            cell.assert_used(grace);
        }
    }
}

/// Nobody is left from whom anything could come: a pool that is kept open ends as if it had never been kept open.
async fn a_kept_open_pool_ends_when_nothing_can_come(cell: Cell) {
    for grace in GRACES {
        let cell = cell.deaf();
        let pool = with(grace).keep_open(true).build();
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        drop(pool);
        cell.goes_on().await;
        assert!(!run.is_finished());
        cell.finish();
        run.await.unwrap().unwrap();
        cell.assert_finished();
    }
}

/// A second cause changes nothing: neither the steps, nor the reason, nor what has been recorded.
async fn a_further_cause_changes_no_step(cell: Cell) {
    let pool = with(ENDLESS).build();
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    pool.cancel_with("first");
    cell.asked().await;
    pool.cancel_with("second");
    let handle = pool.spawn_with_handle(async { Err::<(), _>("while it closes".into()) });
    assert_eq!(handle.await, Err(TaskStopped::Failed));
    cell.goes_on().await;
    cell.fail();
    let error = run.await.unwrap().unwrap_err();
    assert_eq!(error.cancel_reason(), Some("first"));
    assert!(error.was_cancelled() && !error.is_cancelled());
    let mut texts = failures(error.failures());
    texts.extend(failures(error.cleanup_failures()));
    assert_eq!(texts.len(), 2, "{error:#}");
    assert_eq!(texts[0], "error: while it closes");
    assert!(texts[1].ends_with("work"), "{}", texts[1]);
    let is_cleanup = cell.is(Work::HandedOn);
    assert_eq!(error.cleanup_failures().len(), usize::from(is_cleanup), "its task has ended before");
}

matrix! {
    a_pool_with_nothing_left_but_daemons_cancels_them,
    a_failed_task_cancels_everything,
    the_end_of_an_essential_task_cancels_everything,
    a_failed_body_cancels_everything,
    a_panic_of_the_body_is_resumed_when_everything_has_ended,
    a_cancelled_pool_returns_ok,
    a_cancelled_open_returns_the_value_if_there_is_one,
    a_pool_closes_with_the_one_around_it_and_has_its_time,
    an_aborted_pool_has_no_time,
    a_dropped_pool_closes_with_its_own_grace,
    a_kept_open_pool_ends_when_nothing_can_come,
    a_further_cause_changes_no_step,
}
