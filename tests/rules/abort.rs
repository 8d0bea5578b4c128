//! How far an abort reaches, whoever aborts, and what it spares.

use std::future::pending;

use aiodrive::{BoxError, Failure, Pool, TaskGroup, TaskStopped, map, race, shield, try_all, wait_all, with_exit};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::cell::{Cell, ENDLESS, Flavor, GRACES, Job, with};
use crate::support::{OnDrop, failures, poll_until, until};

/// An abort ends a grace that has begun.
async fn an_abort_ends_a_grace_that_has_begun(cell: Cell) {
    let pool = with(ENDLESS).build();
    pool.spawn(cell.work());
    let run = cell.run(&pool).await;
    pool.cancel_with("first");
    cell.asked().await;
    cell.goes_on().await;
    pool.abort();
    run.await.unwrap().unwrap();
    cell.assert_asked_and_aborted();
    assert_eq!(pool.closing_reason().unwrap().cancel_reason(), Some("first"), "the first reason stays");
}

/// An abort of the pool around ends the grace that a pool has by a cause of its own.
async fn an_outer_abort_cuts_a_grace_short(cell: Cell) {
    let (around, pool) = (with(ENDLESS).build(), with(ENDLESS).build());
    pool.spawn(cell.work());
    let runs = pool.clone();
    around.spawn(async move {
        runs.run().await?;
        Ok(())
    });
    let run = cell.run(&around).await;
    pool.cancel();
    cell.asked().await;
    cell.goes_on().await;
    around.abort();
    run.await.unwrap().unwrap();
    cell.assert_asked_and_aborted();
}

/// An abort goes all the way down, whatever grace the pools on its way have.
async fn an_abort_goes_all_the_way_down(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let outermost = with(ENDLESS).build();
        let inside = cell.clone();
        outermost.spawn(async move {
            let opened = with(grace).open(async |_: Pool| {
                let innermost = with(grace).build();
                innermost.spawn(inside.work());
                innermost.run().await?;
                Ok(())
            });
            Ok(opened.await?)
        });
        let run = cell.run(&outermost).await;
        outermost.abort();
        run.await.unwrap().unwrap();
        cell.assert_aborted_at_once();
    }
}

/// A handle that cancels its task aborts what is nested in it too. Nobody else is disturbed.
async fn a_task_that_its_handle_cancels_takes_along_what_is_nested(cell: Cell) {
    for grace in GRACES {
        let cell = cell.with_owner();
        let opened = with(grace).open(async |pool: Pool| {
            let task = pool.spawn_with_handle(cell.work());
            cell.begun().await;
            task.cancel();
            assert_eq!(task.await, Err(TaskStopped::Cancelled));
            // Its own future has been dropped. What is nested may be dropped elsewhere, and the pool waits for it.
            until(|| cell.has("aborted")).await;
            cell.assert_aborted_at_once();
            assert!(!pool.is_closed());
            Ok(7)
        });
        assert_eq!(opened.await.unwrap(), 7);
    }
}

/// A race aborts its losers without any grace, and returns when they are gone.
async fn a_race_aborts_its_losers(cell: Cell) {
    let opened = with(ENDLESS).open(async |_: Pool| {
        let (seen, work) = (cell.clone(), cell.work());
        let winner: Job = Box::pin(async move {
            seen.begun().await;
            Ok(())
        });
        let staying: Job = Box::pin(async move {
            work.await?;
            pending().await
        });
        let (index, result) = race([staying, winner]).await;
        assert!(index == 1 && result.is_ok());
        cell.assert_aborted_at_once();
        Ok(())
    });
    opened.await.unwrap();
}

/// So does a `try_all` with the rest, when one has failed.
async fn a_failed_try_all_aborts_the_rest(cell: Cell) {
    let opened = with(ENDLESS).open(async |_: Pool| {
        let seen = cell.clone();
        let loser: Job = Box::pin(async move {
            seen.begun().await;
            Err("broken".into())
        });
        let error = try_all([cell.work(), loser]).await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken"]);
        cell.assert_aborted_at_once();
        Ok(())
    });
    opened.await.unwrap();
}

/// So does a `TaskGroup` that is told to abort its children.
async fn a_group_aborts_its_children(cell: Cell) {
    let cell = cell.with_owner();
    let opened = with(ENDLESS).open(async |_: Pool| {
        let mut group = TaskGroup::<(), BoxError>::new();
        group.spawn(cell.work());
        cell.begun().await;
        group.abort_all();
        let ended = group.next().await.unwrap().unwrap_err();
        assert!(matches!(ended.failure(), Failure::Cancelled), "{ended}");
        assert!(group.next().await.is_none());
        cell.assert_aborted_at_once();
        Ok(())
    });
    opened.await.unwrap();
}

/// A `TaskGroup` and a `map` that are dropped abort everything, and the pool around waits for that.
async fn a_group_or_map_that_is_dropped_aborts_everything(cell: Cell) {
    for maps in [false, true] {
        let cell = cell.with_owner();
        let opened = with(ENDLESS).open(async |_: Pool| {
            if maps {
                let mut map = map(1, [cell.work()], |work| work);
                let mut next = Box::pin(map.next());
                poll_until(next.as_mut(), || cell.is_running()).await;
            } else {
                let mut group = TaskGroup::<(), BoxError>::new();
                group.spawn(cell.work());
                cell.begun().await;
            }
            Ok(())
        });
        opened.await.unwrap();
        cell.assert_aborted_at_once();
    }
}

/// What is aborted while a `race`, a `try_all` or a `wait_all` runs in it takes their branches along.
async fn an_abort_reaches_the_branches_of_functions(cell: Cell) {
    let functions: [fn(Job) -> Job; 3] = [
        |work| Box::pin(async move { race([work]).await.1 }),
        |work| Box::pin(async move { try_all([work]).await.map(drop).map_err(BoxError::from) }),
        |work| Box::pin(async move { wait_all([work]).await.into_iter().next().unwrap().map_err(BoxError::from) }),
    ];
    for function in functions {
        let cell = cell.with_owner();
        let pool = with(ENDLESS).build();
        pool.spawn(function(cell.work()));
        let run = cell.run(&pool).await;
        pool.abort();
        run.await.unwrap().unwrap();
        // A branch of a branch may hear of the signal as the abort is on its way.
        cell.assert_aborted();
    }
}

/// An abort spares shielded work and the handlers of `with_exit`, with all that is nested there. The pool waits for them.
async fn an_abort_spares_what_is_shielded(cell: Cell) {
    for handles in [false, true] {
        let cell = cell.deaf();
        let (pool, work) = (with(ENDLESS).build(), cell.work());
        pool.spawn(async move {
            if handles {
                with_exit((), async |()| Ok::<_, BoxError>(()), move |(), _| work).await?;
                Ok(())
            } else {
                shield(work).await
            }
        });
        let run = cell.run(&pool).await;
        pool.abort();
        until(|| pool.is_empty()).await;
        cell.goes_on().await;
        assert!(!run.is_finished(), "it waits");
        cell.finish();
        run.await.unwrap().unwrap();
        cell.assert_finished();
    }
}

/// A pool that was opened in place, under `block_on` in a blocking call, hears of the abort around it.
async fn an_abort_reaches_a_pool_in_a_blocking_call(cell: Cell) {
    for grace in GRACES {
        for in_place in [false, true] {
            if in_place && cell.flavor == Flavor::CurrentThread {
                continue;
            }
            let cell = cell.again();
            let (around, pool, runtime) = (with(ENDLESS).build(), with(grace).build(), Handle::current());
            pool.spawn(cell.work());
            if in_place {
                around.spawn(async move {
                    block_in_place(|| runtime.block_on(pool.run()))?;
                    Ok(())
                });
            } else {
                around.spawn_blocking(move || {
                    runtime.block_on(pool.run())?;
                    Ok(())
                });
            }
            let run = cell.run(&around).await;
            around.abort();
            run.await.unwrap().unwrap();
            cell.assert_aborted();
        }
    }
}

/// What begins in a destructor of an aborted task, or is spawned there, has no time either.
async fn what_begins_after_the_abort_does_not_run(cell: Cell) {
    for grace in GRACES {
        let cell = cell.again();
        let (pool, late) = (with(grace).build(), cell.again());
        let (spawns, work) = (pool.clone(), cell.work());
        let last = late.clone();
        pool.spawn(async move {
            let _late = OnDrop::new(move || {
                assert!(spawns.try_spawn(last.work()).is_err());
                spawns.spawn(last.work());
                drop(spawns.spawn_with_handle(last.work()));
            });
            work.await?;
            pending::<Result<(), BoxError>>().await
        });
        let run = cell.run(&pool).await;
        pool.abort();
        run.await.unwrap().unwrap();
        cell.assert_aborted_at_once();
        assert!(!late.has("begun"));
        assert!(pool.try_spawn(late.work()).is_err());
        assert_eq!(pool.spawn_with_handle(late.work()).await, Err(TaskStopped::Cancelled));
    }
}

matrix! {
    an_abort_ends_a_grace_that_has_begun,
    an_outer_abort_cuts_a_grace_short,
    an_abort_goes_all_the_way_down,
    a_task_that_its_handle_cancels_takes_along_what_is_nested,
    a_race_aborts_its_losers,
    a_failed_try_all_aborts_the_rest,
    a_group_aborts_its_children,
    a_group_or_map_that_is_dropped_aborts_everything,
    an_abort_reaches_the_branches_of_functions,
    an_abort_spares_what_is_shielded,
    an_abort_reaches_a_pool_in_a_blocking_call,
    what_begins_after_the_abort_does_not_run,
}
