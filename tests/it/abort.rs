//! `abort` and `abort_on`: how far an abort reaches, and what it spares.

use std::future::{pending, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aiodrive::{
    BoxError, ClosingReason, LatchEvent, Pool, TaskGroup, TaskHandle, map, race, shield, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, yield_now};
use tokio::time::sleep;

use crate::support::{
    Alive, Clock, Log, OnDrop, Outcome, asked, both, current_thread, failures, multi_thread, nested, on_both,
    on_current_thread, on_multi_thread, poll_once, quiet_panic, secs, until, with_grace,
};

type Job = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

#[apply(current_thread)]
async fn an_abort_ends_every_grace_below() {
    let clock = Clock::start();
    let [pool, one, two] = nested([with_grace(secs(100)), with_grace(secs(80)), with_grace(secs(60))]);
    one.spawn(clock.deaf("nested"));
    two.spawn(clock.deaf("two levels down"));
    pool.cancel_on(sleep(secs(1)));
    pool.abort_on(sleep(secs(3)));
    pool.clone().run().await.unwrap();
    let mut events = clock.events();
    events.sort();
    assert_eq!(events, ["3: nested", "3: two levels down"]);
    assert!(matches!(pool.closing_reason(), Some(ClosingReason::Cancelled(_))), "the first reason stays");
}

#[apply(current_thread)]
async fn an_abort_reaches_a_closing_that_was_handed_on() {
    let clock = Clock::start();
    let outer = Pool::open(async |pool: Pool| {
        let inner: Pool = with_grace(secs(100)).build();
        inner.spawn(clock.deaf("gone"));
        assert!(tokio::time::timeout(secs(1), inner.run()).await.is_err());
        sleep(secs(1)).await;
        pool.abort();
        pending::<Result<(), _>>().await
    });
    assert!(outer.await.unwrap_err().is_cancelled());
    assert_eq!(clock.events(), ["2: gone"]);
}

#[apply(current_thread)]
async fn an_abort_leaves_shielded_work_and_exit_handlers_alone() {
    let clock = Clock::start();
    let pool: Pool = Pool::new();
    let (shielded, handled) = (clock.clone(), clock.clone());
    pool.spawn(async move {
        shield(async move {
            let inner: Pool = with_grace(secs(100)).build();
            inner.spawn(async move {
                sleep(secs(3)).await;
                shielded.say("shielded work is done");
            });
            drop(inner.run().await);
        })
        .await;
    });
    pool.spawn(async move {
        let exit = async move |(), _| {
            sleep(secs(3)).await;
            handled.say("the handler is done");
            Ok::<_, BoxError>(())
        };
        with_exit((), async |()| pending::<Result<(), BoxError>>().await, exit).await?;
        Ok(())
    });
    pool.abort_on(sleep(secs(1)));
    pool.run().await.unwrap();
    clock.say("returned");
    assert_eq!(clock.events(), ["3: shielded work is done", "4: the handler is done", "4: returned"]);
}

#[apply(multi_thread)]
async fn what_begins_in_an_aborted_task_has_no_time() {
    let alive = Alive::default();
    let pool: Pool = Pool::new();
    let one = alive.one();
    pool.spawn(async move {
        let _late = OnDrop::new(move || {
            let inner: Pool = with_grace(secs(1_000)).build();
            inner.spawn(async move {
                let _one = one;
                pending::<()>().await
            });
            block_in_place(|| Handle::current().block_on(inner.run())).unwrap();
        });
        pending::<()>().await
    });
    pool.abort_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 0);
}

// ===== in blocking calls and closures =====

/// Opens a pool in place, in a blocking call, and has something else end it.
fn in_place(end: fn(&Pool, Job)) {
    on_multi_thread(move || async move {
        for limit in [None, Some(1)] {
            let alive = Alive::default();
            let opened: Outcome = Pool::open(async |outer: Pool| {
                let (begun, has_begun) = oneshot::channel();
                let one = alive.one();
                let blocks = Box::pin(async move {
                    let builder =
                        limit.map_or_else(|| with_grace(secs(0)), |limit| with_grace(secs(1_000)).limit(limit));
                    let inner: Pool = builder.build();
                    inner.spawn(async move {
                        let _one = one;
                        begun.send(()).expect("somebody waits");
                        pending::<()>().await
                    });
                    block_in_place(|| Handle::current().block_on(inner.run()))?;
                    Ok(())
                });
                let canceller = outer.clone();
                end(&outer, blocks);
                outer.spawn(async move {
                    has_begun.await?;
                    canceller.spawn(async { Err("beside it".into()) });
                    Ok(())
                });
                Ok(())
            })
            .await;
            assert_eq!(failures(opened.unwrap_err().failures()), ["error: beside it"], "limit: {limit:?}");
            assert_eq!(alive.count(), 0, "something is left; limit: {limit:?}");
        }
    });
}

#[test]
fn a_pool_in_a_blocking_call_hears_that_a_task_beside_it_has_failed() {
    in_place(|pool, blocks| pool.spawn(blocks));
}

#[test]
fn a_pool_in_a_blocking_call_of_a_branch_hears_it_too() {
    in_place(|pool, blocks| {
        pool.spawn(async move {
            try_all([blocks]).await?;
            Ok(())
        });
    });
}

#[test]
fn a_function_in_a_blocking_call_is_aborted_with_the_task() {
    in_place(|pool, blocks| {
        pool.spawn(async move {
            let all = wait_all([blocks]);
            let [result] = block_in_place(|| Handle::current().block_on(all));
            result?;
            Ok(())
        });
    });
}

type Call = fn(LatchEvent) -> Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;

/// Has a blocking closure wait for a call whose branches never end, and aborts the pool around it.
async fn aborted_in_a_blocking_closure(call: Call) -> Outcome {
    let begins = LatchEvent::new();
    let begun = begins.clone();
    let pool: Pool = Pool::new();
    pool.spawn_blocking(move || Handle::current().block_on(call(begins)));
    pool.abort_on(async move { begun.wait_set().await });
    pool.run().await
}

/// One that says that it has begun.
async fn never(begun: LatchEvent) -> Result<(), BoxError> {
    begun.set();
    pending().await
}

#[apply(both)]
async fn that_a_call_in_a_blocking_closure_is_aborted_is_no_failure() {
    let calls: [(&str, Call); 5] = [
        ("try_all", |begun| {
            Box::pin(async {
                try_all([never(begun)]).await?;
                Ok(())
            })
        }),
        ("wait_all", |begun| {
            Box::pin(async {
                let [branch] = wait_all([never(begun)]).await;
                Ok(branch?)
            })
        }),
        ("TaskGroup", |begun| {
            Box::pin(async {
                let mut group = TaskGroup::new();
                group.spawn(never(begun));
                Ok(group.next().await.expect("a child")?)
            })
        }),
        ("map", |begun| Box::pin(async { Ok(map(1, [begun], never).next().await.expect("an item")?) })),
        ("collect", |begun| {
            Box::pin(async {
                let error = map(1, [begun], never).collect().await.unwrap_err();
                assert!(error.is_cancelled(), "{error}");
                assert!(matches!(error.closing_reason(), ClosingReason::ParentClosing(_)), "{error}");
                Err(error.into())
            })
        }),
    ];
    for (what, call) in calls {
        let outcome = aborted_in_a_blocking_closure(call).await;
        assert!(outcome.is_ok(), "{what}: {}", outcome.unwrap_err());
    }
}

/// It has nothing to return, and nobody can drop it.
#[apply(both)]
async fn a_race_in_a_blocking_closure_that_is_aborted_panics_and_says_why() {
    let outcome = aborted_in_a_blocking_closure(|begun| Box::pin(async { race([never(begun)]).await.1 })).await;
    let error = outcome.unwrap_err();
    let panic = "panic: no future of a `race` could finish: the task around it was aborted";
    assert_eq!(failures(error.failures()), [panic]);
}

#[apply(multi_thread)]
async fn a_pool_in_a_blocking_call_hears_that_its_task_is_cancelled_by_a_handle() {
    let opened: Outcome = Pool::open(async |outer: Pool| {
        let (begun, has_begun) = oneshot::channel();
        let blocks = outer.spawn_with_handle(async move {
            let inner: Pool = with_grace(secs(1_000)).build();
            inner.spawn(async move {
                begun.send(()).expect("somebody waits");
                pending::<()>().await
            });
            block_in_place(|| Handle::current().block_on(inner.run()))?;
            Ok(())
        });
        has_begun.await?;
        blocks.cancel();
        // It returns what it made of the end of its pool: the abort finds it in that poll.
        let _ = blocks.await;
        Ok(())
    })
    .await;
    opened.unwrap();
}

#[apply(both)]
async fn a_pool_that_begins_in_a_blocking_closure_during_the_abort_is_aborted() {
    let (begun, aborted) = (LatchEvent::new(), Arc::new(AtomicBool::new(false)));
    let pool: Pool = Pool::new();
    let (set, is_aborted, runtime) = (begun.clone(), Arc::clone(&aborted), Handle::current());
    pool.spawn_blocking(move || {
        set.set();
        while !is_aborted.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let inner: Pool = with_grace(Duration::MAX).build();
        inner.spawn(pending::<()>());
        let _ = runtime.block_on(inner.run());
        let mut group: TaskGroup<()> = TaskGroup::new();
        let _in_runtime = runtime.enter();
        group.spawn(pending());
        assert!(runtime.block_on(group.next()).unwrap().is_err(), "it is aborted");
    });
    // The abort drops this task first. Then it tells what is nested, to which the closure's pool may come before or
    // after.
    pool.spawn(async move {
        let _told = OnDrop::new(move || aborted.store(true, Ordering::SeqCst));
        pending::<()>().await
    });
    pool.abort_on(begun.wait_set());
    pool.run().await.unwrap();
}

// ===== what is left behind =====

/// A branch has ended and left a pool behind, which closes in its own time. Whoever called waits for that, and there is
/// no branch any more by which the pool could hear of the abort.
#[test]
fn an_abort_reaches_what_an_ended_branch_has_left_behind() {
    async fn leaves(clock: Clock) -> Result<(), BoxError> {
        let left: Pool = with_grace(secs(1_000)).build();
        left.spawn(clock.deaf("left"));
        assert!(poll_once(pin!(left.run())).await.is_pending());
        Ok(())
    }

    // Not of a `race`: what a branch that wins has left behind is aborted with the others.
    let calls: [fn(Clock) -> Job; 3] = [
        |clock| Box::pin(async { Ok(try_all([leaves(clock)]).await.map(drop)?) }),
        |clock| Box::pin(async { Ok(wait_all([leaves(clock)]).await.into_iter().collect::<Result<_, _>>()?) }),
        |clock| {
            Box::pin(async {
                let mut group = TaskGroup::new();
                group.spawn(leaves(clock));
                while group.next().await.transpose()?.is_some() {}
                Ok(())
            })
        },
    ];
    for (call, name) in calls.into_iter().zip(["try_all", "wait_all", "TaskGroup"]) {
        on_current_thread(|| async move {
            let (pool, clock): (Pool, _) = (with_grace(secs(10)).build(), Clock::start());
            pool.spawn(call(clock.clone()));
            pool.cancel_on(sleep(secs(1)));
            pool.run().await.unwrap();
            clock.say("returned");
            assert_eq!(clock.events(), ["11: left", "11: returned"], "{name}");
        });
    }
}

/// The abort comes in the poll in which everything has ended: tokio drops the future before that is polled again.
#[test]
fn a_pool_that_has_just_ended_as_the_task_around_it_is_aborted_loses_no_failure() {
    for panics in [false, true] {
        on_both(move || async move {
            let outer = Pool::<BoxError>::new();
            let (give, given) = oneshot::channel::<TaskHandle<()>>();
            let around = outer.spawn_with_handle(async move {
                let opened: Outcome = with_grace(secs(1_000))
                    .open(async |inner: Pool| {
                        let around = given.await?;
                        inner.spawn(async { Err("task".into()) });
                        asked().await;
                        until(|| inner.is_empty()).await;
                        around.cancel();
                        if panics { quiet_panic("body") } else { Err("body".into()) }
                    })
                    .await;
                Ok(opened?)
            });
            let mut run = pin!(outer.run());
            assert!(poll_once(run.as_mut()).await.is_pending());
            give.send(around).unwrap();
            let error = run.await.unwrap_err();
            let body = if panics { "panic: body" } else { "error: body" };
            assert!(error.failures().is_empty(), "{error:#}");
            assert_eq!(failures(error.cleanup_failures()), ["error: task", body], "panics: {panics}");
        });
    }
}

// ===== `abort_on` =====

#[apply(current_thread)]
async fn what_can_abort_is_awaited_until_the_last_depth_is_joined() {
    let clock = Clock::start();
    let pool: Pool = with_grace(secs(100)).build();
    for (depth, name) in [(1, "high"), (0, "zero"), (-1, "low")] {
        pool.build_task().depth(depth).spawn(clock.deaf(name));
    }
    pool.cancel_on(yield_now());
    pool.abort_on(sleep(secs(250)));
    pool.run().await.unwrap();
    assert_eq!(clock.events(), ["100: high", "200: zero", "250: low"]);
}

#[apply(both)]
async fn a_closing_pool_can_be_aborted_by_a_signal_that_comes_when_depth_0_is_closed() {
    let pool: Pool = with_grace(Duration::MAX).build();
    let (alive, log) = (Alive::default(), Log::default());
    let (witness, heard) = (alive.one(), log.clone());
    pool.build_task().depth(-1).spawn(async move {
        let _witness = witness;
        asked().await;
        heard.push("heard");
        pending::<()>().await
    });
    pool.spawn(async {});
    let run = tokio::spawn(pool.clone().run());
    pool.cancel_on(ready(()));
    until(|| log.events() == ["heard"]).await;
    // Depth 0 is closed.
    pool.abort_on(ready(()));
    // It has returned, although its grace has no end.
    run.await.unwrap().unwrap();
    assert_eq!(alive.count(), 0);
}
