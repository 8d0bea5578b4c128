//! How a stop travels: whose time counts, how far an abort reaches, and who is told apart.

use std::future::{pending, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aiodrive::{
    BoxError, ClosingReason, LatchEvent, Pool, TaskGroup, TaskHandle, TaskStopped, map, race, shield, try_all,
    try_cancellation_token, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, yield_now};
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Clock, Log, OnDrop, Outcome, asked, both, current_thread, failures, kept_open, multi_thread, nested,
    on_both, on_current_thread, on_multi_thread, poll_once, quiet_panic, secs, stays_pending, turns, until, with_grace,
};

type Job = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Hears the signal, works for so many seconds more, and returns.
async fn polite(seconds: u64) -> Result<u64, BoxError> {
    asked().await;
    sleep(secs(seconds)).await;
    Ok(seconds)
}

/// How long something takes on the paused clock.
async fn elapsed<F: Future>(future: F) -> (u64, F::Output) {
    let begin = Instant::now();
    let output = future.await;
    (begin.elapsed().as_secs(), output)
}

// ===== time nests =====

#[apply(current_thread)]
async fn what_fans_out_has_the_time_of_the_task_around_it() {
    let pool: Pool = with_grace(secs(10)).build();
    let by_pool = pool.spawn_with_handle(async {
        Ok(Pool::open(async |inner: Pool| Ok(inner.spawn_with_handle(polite(3)).await?)).await?)
    });
    let deep = pool.spawn_with_handle(async {
        let middle = Pool::open(async |_: Pool| {
            Ok(Pool::open(async |inner: Pool| Ok(inner.spawn_with_handle(polite(3)).await?)).await?)
        });
        Ok(middle.await?)
    });
    let by_function = pool.spawn_with_handle(async { Ok(try_all([polite(3), polite(3)]).await?.len()) });
    pool.cancel_on(sleep(secs(1)));
    assert_eq!(elapsed(pool.run()).await.0, 4);
    assert_eq!((by_pool.await, deep.await, by_function.await), (Ok(3), Ok(3), Ok(2)));
}

/// No task is left in the pool around, and nobody in it waits for a turn: what is nested there has its time all the same.
#[apply(current_thread)]
async fn what_an_ended_task_has_handed_on_has_the_time_of_its_pool() {
    for outer in [None, Some(10)] {
        let clock = Clock::start();
        let grace = outer.map_or_else(Pool::builder, |grace| with_grace(secs(grace)));
        let [around, pool] = nested([with_grace(secs(10)), grace]);
        let task = clock.deaf("gone");
        pool.spawn(async move {
            let inner: Pool = with_grace(secs(5)).build();
            inner.spawn(task);
            assert!(poll_once(pin!(inner.run())).await.is_pending());
        });
        around.cancel_on(sleep(secs(1)));
        around.run().await.unwrap();
        clock.say("returned");
        assert_eq!(clock.events(), ["5: gone", "5: returned"], "outer grace: {outer:?}");
    }
}

// ===== an abort goes all the way down =====

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
    // The abort drops this task first. Then it tells what is nested, to which the closure's pool may come before or after.
    pool.spawn(async move {
        let _told = OnDrop::new(move || aborted.store(true, Ordering::SeqCst));
        pending::<()>().await
    });
    pool.abort_on(begun.wait_set());
    pool.run().await.unwrap();
}

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

// ===== watchers =====

#[apply(both)]
async fn a_watcher_that_has_ended_is_no_task_less() {
    let pool: Pool = with_grace(Duration::MAX).keep_open(true).build();
    let (alive, log, began) = (Alive::default(), Log::default(), LatchEvent::new());
    let (one, gone, has_begun) = (alive.one(), alive.clone(), began.wait_set());
    pool.cancel_on(async move {
        let _one = one;
        pending::<()>().await
    });
    let (own, said) = (pool.clone(), log.clone());
    pool.build_task().daemon().spawn(async move {
        began.set();
        asked().await;
        until(|| gone.count() == 0).await;
        turns(10).await;
        said.push(own.len().to_string());
    });
    let run = tokio::spawn(pool.clone().run());
    has_begun.await;
    pool.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(log.events(), ["1"], "the daemon");
}

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

#[apply(current_thread)]
async fn a_deadline_can_be_moved_and_taken_back() {
    let pool: Pool = Pool::new();
    let mover = pool.clone();
    pool.spawn(async move {
        let in_seconds = |seconds| mover.cancel_at(Some(Instant::now() + secs(seconds)));
        in_seconds(2);
        sleep(secs(1)).await;
        in_seconds(5);
        sleep(secs(1)).await;
        mover.cancel_at(None);
        sleep(secs(10)).await;
        in_seconds(1);
        in_seconds(3);
        pending::<()>().await
    });
    assert_eq!(elapsed(pool.clone().run()).await.0, 15);
    assert!(matches!(pool.closing_reason(), Some(ClosingReason::Deadline)));
    pool.cancel_at(Some(Instant::now()));
}

#[apply(current_thread)]
async fn a_deadline_may_be_over_or_beyond_all_clocks() {
    let pool: Pool = Pool::new();
    pool.spawn(pending::<()>());
    pool.cancel_at(Some(Instant::now() + Duration::from_secs(60 * 60 * 24 * 365 * 100)));
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    sleep(secs(1_000)).await;
    assert!(poll_once(run.as_mut()).await.is_pending());
    pool.cancel_at(Some(Instant::now() - secs(1)));
    let error = run.await;
    assert!(error.is_ok());
}

// ===== how one task differs =====

// ===== a grace that nobody can use =====

#[apply(current_thread)]
async fn daemons_that_cannot_have_heard_cost_no_grace() {
    let opened = elapsed(with_grace(secs(10)).open(async |pool: Pool| {
        pool.build_task().daemon().spawn(pending::<()>());
        sleep(secs(1)).await;
        Ok(())
    }));
    assert_eq!(opened.await.0, 1);
    // Nor when others have used some of it.
    let pool: Pool = with_grace(secs(10)).build();
    pool.build_task().daemon().spawn(pending::<()>());
    pool.spawn(sleep(secs(3)));
    pool.build_task().depth(1).daemon().spawn(pending::<()>());
    pool.cancel_on(yield_now());
    assert_eq!(elapsed(pool.run()).await.0, 3);

    // The pool looks before the daemon is polled, and once more after that.
    let begins_late: Pool = with_grace(secs(10)).build();
    let own = begins_late.clone();
    begins_late.spawn(async move {
        own.cancel();
        own.build_task().daemon().spawn(pending::<()>());
    });
    assert_eq!(elapsed(tokio::spawn(begins_late.run())).await.0, 0);

    let one_has_ended: Pool = with_grace(secs(10)).build();
    one_has_ended.build_task().daemon().spawn(pending::<()>());
    one_has_ended.build_task().daemon().spawn(yield_now());
    one_has_ended.spawn(sleep(secs(3)));
    assert_eq!(elapsed(one_has_ended.run()).await.0, 3);
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

#[apply(current_thread)]
async fn daemons_that_may_have_heard_have_the_grace() {
    let with_token = elapsed(with_grace(secs(10)).open(async |pool: Pool| {
        pool.build_task().daemon().spawn(async { drop(polite(3).await) });
        sleep(secs(1)).await;
        Ok(())
    }));
    assert_eq!(with_token.await.0, 4);
    let that_wait = elapsed(with_grace(secs(10)).open(async |pool: Pool| {
        let waits = pool.clone();
        pool.build_task().daemon().spawn(async move {
            waits.cancelled().await;
            sleep(secs(2)).await;
        });
        sleep(secs(1)).await;
        Ok(())
    }));
    assert_eq!(that_wait.await.0, 3);
    let with_a_pool = elapsed(with_grace(secs(10)).open(async |pool: Pool| {
        pool.build_task().daemon().spawn(async {
            let nested: Pool = Pool::new();
            nested.spawn(async { drop(polite(5).await) });
            nested.run().await?;
            Ok(())
        });
        sleep(secs(1)).await;
        Ok(())
    }));
    assert_eq!(with_a_pool.await.0, 6);
}

/// As the pool begins to close, the daemon is in the middle of its first poll, on another thread.
#[apply(multi_thread)]
async fn a_daemon_may_hear_as_long_as_its_first_poll_lasts() {
    let (begun, log) = (LatchEvent::new(), Log::default());
    let opened: Outcome = with_grace(secs(1_000))
        .open(async |pool: Pool| {
            let (begins, closing, seen) = (begun.clone(), pool.clone(), log.clone());
            pool.build_task().daemon().spawn(async move {
                begins.set();
                while !closing.is_closed() {
                    std::thread::yield_now();
                }
                // The driver looks who is left.
                (0..200).for_each(|_| std::thread::yield_now());
                asked().await;
                yield_now().await;
                seen.push("heard");
            });
            begun.wait_set().await;
            Ok(())
        })
        .await;
    opened.unwrap();
    assert_eq!(log.events(), ["heard"]);
}

#[apply(current_thread)]
async fn queued_tasks_that_cannot_start_cost_no_grace() {
    // The slots are held by a lower depth, which is not cancelled before the higher one is closed.
    let of_two: Pool = with_grace(secs(10)).limit(2).build();
    for _ in 0..2 {
        of_two.build_task().depth(-1).spawn(async { drop(polite(2).await) });
    }
    for _ in 0..3 {
        of_two.spawn(async { panic!("its turn does not come") });
    }
    of_two.cancel_on(sleep(secs(1)));
    assert_eq!(elapsed(of_two.run()).await.0, 3);

    let handed_on: Pool = with_grace(secs(10)).limit(1).build();
    handed_on.build_task().depth(-1).spawn(async {});
    handed_on.build_task().depth(-1).spawn(async { drop(polite(2).await) });
    handed_on.spawn(async { panic!("its turn does not come") });
    handed_on.cancel_on(sleep(secs(1)));
    assert_eq!(elapsed(handed_on.run()).await.0, 3);

    // One that is cancelled by its handle is no longer there.
    let cancelled: Pool = with_grace(secs(10)).limit(1).build();
    cancelled.build_task().depth(-1).spawn(async { drop(polite(2).await) });
    let [one, _other] = [(); 2]
        .map(|()| cancelled.spawn_with_handle(async { panic!("its turn does not come") as Result<(), BoxError> }));
    cancelled.cancel_on(async move {
        sleep(secs(1)).await;
        one.cancel();
        yield_now().await;
    });
    assert_eq!(elapsed(cancelled.run()).await.0, 3);
}

#[apply(current_thread)]
async fn queued_tasks_that_cannot_start_cost_no_grace_once_they_are_alone() {
    let pool: Pool = with_grace(secs(10)).limit(1).build();
    pool.build_task().depth(-1).spawn(async { drop(polite(2).await) });
    pool.build_task().unlimited().spawn(async { drop(polite(2).await) });
    pool.spawn(async { panic!("its turn does not come") });
    pool.cancel_on(sleep(secs(1)));
    assert_eq!(elapsed(pool.run()).await.0, 5);
}

#[apply(current_thread)]
async fn a_task_whose_turn_is_about_to_come_as_its_pool_is_cancelled_has_the_grace() {
    let (pool, log): (Pool, _) = (with_grace(secs(10)).limit(1).build(), Log::default());
    let (own, heard) = (pool.clone(), log.clone());
    // This has no slot.
    pool.build_task().depth(-1).unlimited().spawn(async { drop(polite(1).await) });
    // The pool looks after this has ended, and before the next is polled with its slot.
    pool.spawn(async move {
        for _ in 0..3 {
            yield_now().await;
        }
        own.cancel();
    });
    pool.spawn(async move {
        asked().await;
        heard.push("heard");
    });
    tokio::spawn(pool.run()).await.unwrap().unwrap();
    assert_eq!(log.events(), ["heard"]);
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

#[apply(current_thread)]
async fn what_overran_a_grace_is_known_after_the_run() {
    let clock = Clock::start();
    let pool: Pool = with_grace(secs(2)).build();
    pool.build_task().name("polite").spawn(async { drop(polite(1).await) });
    pool.build_task().name("upload").spawn(clock.deaf("upload"));
    pool.build_task().name("deep").depth(-1).spawn(clock.deaf("deep"));
    pool.build_task().name("request").spawn(async move {
        let part: Pool = Pool::new();
        part.build_task().name("part").spawn(clock.deaf("part"));
        let timed: Pool = with_grace(secs(1)).build();
        timed.build_task().name("tells it itself").spawn(clock.deaf("timed"));
        let other: Pool = Pool::new();
        other.build_task().name("other").spawn(clock.deaf("other"));
        let (one, two, three) = tokio::join!(part.run(), timed.clone().run(), other.run());
        drop((one, two, three));
        pending::<()>().await
    });
    pool.cancel_on(yield_now());
    pool.clone().run().await.unwrap();
    let overrun = pool.overrun();
    let names: Vec<_> = overrun.iter().filter_map(|task| task.name()).collect();
    assert_eq!(names, ["upload", "request", "part", "other", "deep"]);
    assert!(overrun.iter().all(|task| task.spawned_at().file() == file!()));

    let well: Pool = with_grace(secs(2)).build();
    well.spawn(async { drop(polite(1).await) });
    well.cancel_on(yield_now());
    well.clone().run().await.unwrap();
    assert!(well.overrun().is_empty());
}

#[apply(current_thread)]
async fn what_an_abort_cuts_out_of_a_grace_has_overrun_it() {
    let clock = Clock::start();
    let pool: Pool = with_grace(secs(10)).build();
    pool.build_task().name("polite").spawn(async { drop(polite(1).await) });
    pool.build_task().name("upload").spawn(clock.deaf("upload"));
    // The abort takes all of its time.
    pool.build_task().name("deep").depth(-1).spawn(clock.deaf("deep"));
    // This has none.
    pool.build_task().name("without").depth(-1).no_grace().spawn(clock.deaf("without"));
    pool.cancel_on(yield_now());
    pool.abort_on(sleep(secs(3)));
    pool.clone().run().await.unwrap();
    let mut ended = clock.events();
    ended.sort();
    assert_eq!(ended, ["3: deep", "3: upload", "3: without"]);
    assert_eq!(pool.overrun().iter().map(|task| task.name()).collect::<Vec<_>>(), [Some("upload"), Some("deep")]);
}

#[apply(current_thread)]
async fn a_signal_that_would_cancel_a_closing_pool_is_not_waited_for() {
    // As a watcher that has others beside it, and as the first.
    let cancels: [fn(&Pool); 2] = [|pool| pool.cancel_on(yield_now()), |pool| pool.cancel()];
    for cancel in cancels {
        let pool: Pool = with_grace(secs(10)).build();
        let (late, log) = (pool.clone(), Log::default());
        let polled = log.clone();
        pool.spawn(async move {
            asked().await;
            late.cancel_on(async move { polled.push("polled") });
            late.cancel_on(pending::<()>());
            sleep(secs(1)).await;
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        cancel(&pool);
        assert!(run.await.is_ok());
        assert!(log.events().is_empty());
    }
}

#[apply(current_thread)]
async fn the_first_task_without_a_grace_that_comes_in_the_grace_has_none() {
    let pool: Pool = with_grace(secs(10)).build();
    pool.spawn(async {
        asked().await;
        let pool: Pool = Pool::current();
        pool.build_task().no_grace().spawn(async { sleep(secs(8)).await });
        sleep(secs(2)).await;
        Ok(())
    });
    pool.cancel_on(sleep(secs(1)));
    assert_eq!(elapsed(pool.run()).await.0, 3);
}

#[apply(both)]
async fn an_abort_right_after_the_cancel_takes_the_whole_grace() {
    let pool: Pool = with_grace(secs(10)).build();
    for (name, depth) in [("above", 1), ("middle", 0), ("below", -1)] {
        pool.build_task().name(name).depth(depth).spawn(pending::<()>());
    }
    pool.cancel();
    pool.abort();
    pool.clone().run().await.unwrap();
    assert!(pool.overrun().is_empty(), "its tasks were dropped before it ran");

    let running: Pool = with_grace(secs(10)).keep_open(true).build();
    let run = tokio::spawn(running.clone().run());
    for (name, depth) in [("above", 1), ("middle", 0), ("below", -1)] {
        running.build_task().name(name).depth(depth).spawn(pending::<()>());
    }
    until(|| format!("{running:?}").contains("running")).await;
    running.cancel();
    running.abort();
    run.await.unwrap().unwrap();
    let overrun = running.overrun();
    assert_eq!(overrun.iter().filter_map(|task| task.name()).collect::<Vec<_>>(), ["above", "middle", "below"]);
}

#[apply(current_thread)]
async fn an_abort_that_cuts_no_grace_short_leaves_no_overrun() {
    let aborted: Pool = with_grace(secs(10)).build();
    aborted.spawn(pending::<()>());
    aborted.abort_on(sleep(secs(1)));
    aborted.clone().run().await.unwrap();
    assert!(aborted.overrun().is_empty(), "it was never cancelled");

    let ended: Pool = with_grace(secs(10)).build();
    ended.spawn(async { drop(polite(1).await) });
    ended.build_task().depth(-1).spawn(async { drop(polite(1).await) });
    ended.cancel_on(yield_now());
    ended.abort_on(sleep(secs(5)));
    ended.clone().run().await.unwrap();
    assert!(ended.overrun().is_empty(), "it had ended before the abort");
}

// ===== kept open, idle, how it closed =====

#[apply(both)]
async fn a_pool_that_is_kept_open_ends_when_nothing_can_come_any_more() {
    kept_open().run().await.unwrap();

    let pool = kept_open();
    pool.spawn(async {});
    pool.run().await.unwrap();

    let (pool, end) = (kept_open(), LatchEvent::new());
    let (handle, gate) = (pool.clone(), end.clone());
    pool.spawn(async move {
        gate.wait_set().await;
        drop(handle);
    });
    let mut run = pin!(pool.run());
    // A task has a handle.
    stays_pending(run.as_mut()).await;
    end.set();
    run.await.unwrap();
}

#[apply(both)]
async fn a_handle_a_daemon_and_a_watcher_keep_a_pool_open() {
    let holders: [fn(&Pool); 4] = [
        |pool| pool.build_task().daemon().spawn(pending::<()>()),
        |pool| pool.cancel_on(pending::<()>()),
        |pool| pool.abort_on(pending::<()>()),
        |pool| pool.cancel_at(Some(Instant::now() + secs(1_000))),
    ];
    for hold in holders {
        let pool = kept_open();
        hold(&pool);
        stays_pending(pin!(pool.run())).await;
    }
    let pool = kept_open();
    let mut run = pin!(pool.clone().run());
    stays_pending(run.as_mut()).await;
    pool.cancel_at(Some(Instant::now() + secs(1_000)));
    pool.cancel_at(None);
    drop(pool);
    run.await.unwrap();
}

// ===== tracked futures =====

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
async fn the_panic_of_a_tracked_future_is_that_of_who_polls_it() {
    let opened: Outcome = Pool::open(async |pool: Pool| {
        let panicked = tokio::spawn(pool.track_future(async { quiet_panic("in the handler") }));
        assert!(panicked.await.unwrap_err().is_panic());
        Ok(())
    })
    .await;
    opened.unwrap();
}

// ===== the rest =====

#[apply(both)]
async fn there_is_a_token_in_everything_that_belongs_to_a_pool() {
    assert!(try_cancellation_token().is_none());
    let opened: Outcome = Pool::open(async |pool: Pool| {
        assert!(try_cancellation_token().is_some());
        pool.spawn(async { assert!(try_cancellation_token().is_some()) });
        let (_, inside) = race([async { try_cancellation_token().is_some() }]).await;
        assert!(inside);
        assert!(shield(async { try_cancellation_token().is_some_and(|token| !token.is_cancelled()) }).await);
        Ok(())
    })
    .await;
    opened.unwrap();
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
