//! Who waits for what: what holds a pool open, `idle`, spawns while it closes, and a runtime that is gone.

use std::time::Duration;

use aiodrive::{BoxError, Failure, LatchEvent, Pool, PoolError, cancellation_token};
use tokio::task::yield_now;

use crate::cell::{Cell, Close, ENDLESS, GRACES, Outcome, Work, with};
use crate::support::{Count, failures, poll_once, poll_until, until, watched};

/// A pool waits for everything in it, at any depth, also for a closing whose owner has ended.
async fn a_pool_waits_for_everything_in_it(cell: Cell) {
    for grace in GRACES {
        let cell = cell.deaf();
        let pool = with(grace).build();
        pool.spawn(cell.work());
        let run = cell.run(&pool).await;
        cell.goes_on().await;
        assert!(!run.is_finished() && !pool.is_closed());
        cell.finish();
        run.await.unwrap().unwrap();
        cell.assert_finished();
        assert!(pool.is_closed() && pool.is_empty());
    }
}

/// `idle` is ready when no task is left but daemons, none in the queue either. A closing that was handed on is no task
/// any more.
async fn idle_waits_for_tasks(cell: Cell) {
    let cell = cell.deaf();
    let inside = cell.clone();
    let opened = with(None).limit(1).open(async move |pool: Pool| {
        pool.build_task().daemon().spawn(std::future::pending::<()>());
        pool.idle().await;
        pool.spawn(inside.work());
        let queued = Count::default();
        for _ in 0..2 {
            let ended = queued.clone();
            pool.spawn(async move { ended.up() });
        }
        inside.begun().await;
        if inside.is(Work::HandedOn) {
            pool.idle().await;
            inside.goes_on().await;
        } else {
            let mut idle = Box::pin(pool.idle());
            for _ in 0..50 {
                assert!(poll_once(idle.as_mut()).await.is_pending());
                yield_now().await;
            }
            inside.finish();
            idle.await;
        }
        assert_eq!(queued.get(), 2);
        inside.finish();
        Ok(())
    });
    opened.await.unwrap();
    cell.assert_finished();
}

/// `idle` is ready when the pool has closed.
async fn idle_ends_with_the_pool(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let pool = with(grace).build();
        pool.spawn(cell.work());
        let idle = tokio::spawn({
            let pool = pool.clone();
            async move { pool.idle().await }
        });
        let run = cell.run(&pool).await;
        pool.cancel();
        cell.closes_with(&pool, grace).await;
        run.await.unwrap().unwrap();
        idle.await.unwrap();
    }
}

/// During the grace, spawns are accepted, and have heard the request from their first moment on.
async fn spawns_are_accepted_during_the_grace(cell: Cell) {
    let pool = with(ENDLESS).build();
    let first = cell.plain();
    pool.spawn(first.work());
    let run = first.run(&pool).await;
    pool.cancel();
    first.asked().await;
    assert!(pool.try_spawn(cell.work()).is_ok());
    cell.begun().await;
    if cell.is(Work::Nested) {
        // Its pool is opened after the request.
        cell.goes_on().await;
        cell.assert_not_asked();
        pool.abort();
    } else {
        cell.closes_with(&pool, ENDLESS).await;
        until(|| cell.has("finished")).await;
        first.goes_on().await;
        first.finish();
    }
    run.await.unwrap().unwrap();
    if cell.is(Work::Nested) { cell.assert_aborted_at_once() } else { first.assert_finished() }
}

/// A pool whose failure comes from outside says so: `was_cancelled`, with failures or without.
async fn an_error_knows_whether_its_pool_was_stopped(cell: Cell) {
    let stops: [Close; 2] = [|pool| pool.cancel(), |pool| pool.abort()];
    for stop in stops {
        let cell = cell.again();
        let opened: Outcome = with(Some(Duration::ZERO))
            .open(async |pool: Pool| {
                pool.spawn(cell.work());
                cell.begun().await;
                stop(&pool);
                std::future::pending().await
            })
            .await;
        let error = opened.unwrap_err();
        assert!(error.was_cancelled() && error.is_cancelled());
    }
    let cell = cell.deaf().with_owner();
    let pool = with(None).build();
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    cell.fail();
    match run.await.unwrap() {
        Ok(()) => panic!("it has failed"),
        Err(error) => assert!(!error.was_cancelled() && !error.is_cancelled()),
    }
}

/// The reason of the pool around is known in each pool below that closes with it, at any depth.
async fn the_reason_is_known_all_the_way_down(cell: Cell) {
    let (outermost, innermost) = (with(ENDLESS).build(), with(None).build());
    innermost.spawn(cell.work());
    let runs = innermost.clone();
    outermost.spawn(async move {
        let opened = Pool::open(async |_: Pool| Ok(runs.run().await?));
        Ok(opened.await?)
    });
    let run = cell.run(&outermost).await;
    outermost.cancel_with("deployment");
    cell.closes_with(&innermost, ENDLESS).await;
    run.await.unwrap().unwrap();
    assert_eq!(innermost.closing_reason().unwrap().cancel_reason(), Some("deployment"));
}

/// A nested pool that is kept open ends when the task around it is asked to stop, if a task of it awaits the token.
async fn a_kept_open_nested_pool_ends_with_the_task_around_it(cell: Cell) {
    let (around, inside) = (with(ENDLESS).build(), cell.clone());
    around.spawn(async move {
        let kept = with(None).keep_open(true).build();
        kept.spawn(inside.work());
        kept.build_task().daemon().spawn(async { cancellation_token().cancelled().await });
        kept.run().await?;
        Ok(())
    });
    let run = cell.run(&around).await;
    around.cancel();
    cell.closes_with(&around, ENDLESS).await;
    run.await.unwrap().unwrap();
    cell.assert_finished();
}

/// A runtime that shuts down has no time left: every grace is over, and every failure is returned.
async fn a_runtime_that_is_gone_has_no_time_left(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        // No runtime may be dropped in a task.
        watched(move || {
            let runtime = cell.runtime();
            let (pool, go) = (with(grace).build(), LatchEvent::new());
            let goes = go.wait_set();
            pool.spawn(cell.work());
            pool.spawn(async move {
                goes.await;
                Err::<(), BoxError>("broken".into())
            });
            let mut run = Box::pin(pool.clone().run());
            runtime.block_on(async {
                poll_until(run.as_mut(), || cell.is_running()).await;
                go.set();
                until(|| pool.is_closed()).await;
            });
            drop(runtime);
            let elsewhere = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let error: PoolError = elsewhere.block_on(run).unwrap_err();
            cell.assert_aborted();
            let all = || error.failures().iter().chain(error.cleanup_failures());
            assert!(failures(error.failures()).contains(&"error: broken".to_owned()), "{error:#}");
            assert!(!all().any(|failed| matches!(failed.failure(), Failure::Panic(_))), "{error:#}");
            // What had no time was aborted by its pool, what had time was cut off by the runtime. A closing that was handed
            // on may go first: for what is in it, its grace is over.
            let is_cut_off = all().any(|failed| matches!(failed.failure(), Failure::Cancelled));
            assert!(is_cut_off || grace != ENDLESS || cell.is(Work::HandedOn), "{error:#}");
        });
    }
}

matrix! {
    a_pool_waits_for_everything_in_it,
    idle_waits_for_tasks,
    idle_ends_with_the_pool,
    spawns_are_accepted_during_the_grace,
    an_error_knows_whether_its_pool_was_stopped,
    the_reason_is_known_all_the_way_down,
    a_kept_open_nested_pool_ends_with_the_task_around_it,
    a_runtime_that_is_gone_has_no_time_left,
}
