//! A grace within a grace: what nested pools hear, and how long they have.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::time::Duration;

use aiodrive::{
    BoxError, LatchEvent, Pool, PoolBuilder, TaskStopped, cancellation_token, race, shield, timeout, try_all, wait_all,
};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Clock, GRACE, Log, Outcome, Witness, asked, both, cancelled_once, current_thread, elapsed, failures,
    multi_thread, nested, polite, poll_once, secs, stays_pending, until, with_and_without_grace, with_grace,
};

/// Opens a pool in a blocking closure of a pool, and checks that it hears of the end of that, and how. What is asked on
/// one thread just before it is aborted from another may still hear of it.
async fn a_pool_in_a_blocking_closure_hears(outer: Pool, expected: &[&str]) {
    let log = Log::default();
    let (begun, running) = oneshot::channel();
    let said = log.clone();
    outer.spawn_blocking(move || {
        let opened = with_grace(Duration::MAX).open(async |inner: Pool| {
            let said = said.clone();
            let mut hears = Box::pin(async move {
                asked().await;
                said.push("asked");
            });
            // It says so after its poll: in that, on another thread, it might hear of the end while it is aborted.
            let (waits, waiting) = oneshot::channel();
            let mut waits = Some(waits);
            inner.spawn(poll_fn(move |cx| {
                let polled = hears.as_mut().poll(cx);
                waits.take().into_iter().for_each(|waits| waits.send(()).unwrap());
                polled
            }));
            waiting.await?;
            begun.send(inner).unwrap();
            let _: () = asked().await;
            Ok::<_, BoxError>(())
        });
        let ended = Handle::current().block_on(opened);
        said.push(format!("returned {}", ended.is_ok()));
    });
    let mut run = pin!(outer.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let inner = running.await.unwrap();
    outer.cancel();
    let heard = ends_by_itself(run.as_mut(), &inner).await;
    assert!(heard, "it hangs until somebody else cancels it");
    assert_eq!(log.events(), expected, "what was heard in the closure");
}

/// What happens in which second, when a pool is cancelled that has another one in one of its tasks: with `asked` and
/// `inner gone`, the task of the inner pool says what becomes of it, which hears of its end and does not heed that.
async fn cancelled_after_a_second(outer: PoolBuilder, inner: PoolBuilder) -> Vec<String> {
    let (clock, outer, inner) = (Clock::start(), outer.build(), inner.build());
    inner.spawn(clock.stubborn("inner gone"));
    let said = clock.clone();
    outer.spawn(async move {
        let _gone = said.on_drop("owner gone");
        inner.run().await.unwrap();
    });
    outer.cancel_on(sleep(secs(1)));
    outer.run().await.unwrap();
    clock.say("returned");
    clock.events()
}

/// Whether the run of a pool ends without one below it being cancelled.
async fn ends_by_itself<F: Future>(mut run: Pin<&mut F>, below: &Pool) -> bool {
    let begin = std::time::Instant::now();
    let mut by_itself = true;
    while poll_once(run.as_mut()).await.is_pending() {
        if !below.is_closed() && begin.elapsed() > secs(30) {
            by_itself = false;
            below.cancel();
        }
        yield_now().await;
    }
    by_itself
}

#[apply(current_thread)]
async fn nested_pools_close_themselves_three_levels_down_each_with_its_own_grace() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(secs(5))
        .open(async |outer| {
            let clock2 = clock.clone();
            outer.spawn(async move {
                let middle: Outcome = with_grace(secs(3))
                    .open(async |middle| {
                        let clock3 = clock2.clone();
                        middle.spawn(async move {
                            let inner = with_grace(secs(1)).build();
                            inner.spawn(clock3.stubborn("inner gone"));
                            inner.run().await.unwrap();
                            clock3.say("inner returned");
                        });
                        middle.spawn(clock2.stubborn("middle gone"));
                        pending().await
                    })
                    .await;
                assert!(middle.unwrap_err().is_cancelled());
                clock2.say("middle returned");
            });
            outer.spawn(clock.stubborn("outer gone"));
            sleep(secs(1)).await;
            outer.cancel();
            pending().await
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled());
    let mut events = clock.events();
    events[..3].sort();
    assert_eq!(events[..3], ["1: asked", "1: asked", "1: asked"]);
    assert_eq!(
        events[3..],
        ["2: inner gone", "2: inner returned", "4: middle gone", "4: middle returned", "6: outer gone"]
    );
}

#[apply(both)]
async fn nested_pools_hear_the_request_at_every_level() {
    with_and_without_grace(async |w: Witness| {
        let pools = nested([w.builder(), w.builder(), w.builder()]);
        w.enter(&pools[2]);
        cancelled_once(&pools[0], w.begun()).await.unwrap();
        w.check();
        assert_eq!(pools.each_ref().map(Pool::is_closed), [true; 3]);
    })
    .await;
}

#[apply(both)]
async fn a_nested_pool_inside_a_function_hears_the_request() {
    with_and_without_grace(async |w: Witness| {
        let outer = w.builder().build();
        let inner = w.builder().build();
        w.enter(&inner);
        outer.spawn(async move {
            let (_, ended) = race([async move { timeout(Duration::MAX, inner.run()).await }]).await;
            ended.unwrap().unwrap();
        });
        cancelled_once(&outer, w.begun()).await.unwrap();
        w.check();
    })
    .await;
}

#[apply(current_thread)]
async fn a_nested_grace_that_is_longer_ends_with_the_enclosing_one() {
    let events = cancelled_after_a_second(with_grace(secs(10)), with_grace(secs(100))).await;
    assert_eq!(events, ["1: asked", "11: owner gone", "11: inner gone", "11: returned"]);
}

#[apply(current_thread)]
async fn a_nested_pool_has_no_grace_when_the_enclosing_one_has_none() {
    for none in [None, Some(Duration::ZERO)] {
        let outer = none.map_or_else(Pool::builder, with_grace);
        let events = cancelled_after_a_second(outer, with_grace(GRACE)).await;
        assert_eq!(events, ["1: owner gone", "1: inner gone", "1: returned"], "outer grace: {none:?}");
    }
}

#[apply(current_thread)]
async fn a_nested_pool_with_a_grace_of_no_time_is_aborted_at_the_request() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |outer| {
            let inner = with_grace(Duration::ZERO).build();
            let said = clock.clone();
            inner.spawn(async move {
                let _gone = said.on_drop("inner gone");
                pending::<()>().await
            });
            outer.cancel_on(sleep(secs(1)));
            inner.run().await?;
            clock.say("inner returned");
            sleep(secs(2)).await;
            Ok(())
        })
        .await;
    outcome.unwrap();
    clock.say("returned");
    assert_eq!(clock.events(), ["1: inner gone", "1: inner returned", "3: returned"]);
}

#[apply(both)]
async fn a_nested_pool_inside_shielded_work_does_not_hear_the_request() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let (inner, release) = (with_grace(Duration::MAX).build(), LatchEvent::new());
            let stays = inner.spawn_with_handle({
                let (released, closed) = (release.wait_set(), inner.clone());
                async move {
                    released.await;
                    Ok((cancellation_token().is_cancelled(), closed.is_closed()))
                }
            });
            let mut work = pin!(shield(inner.run()));
            pool.cancel();
            asked().await;
            stays_pending(work.as_mut()).await;
            release.set();
            work.await?;
            Ok(stays.await?)
        })
        .await;
    assert_eq!(outcome.unwrap(), (false, false));
}

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

/// No task is left in the pool around, and nobody in it waits for a turn: what is nested there has its time all the
/// same.
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

#[apply(both)]
async fn a_pool_that_is_opened_after_the_request_runs_as_ever() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            let inner: Outcome<_> = Pool::open(async |inner| {
                assert!(!cancellation_token().is_cancelled());
                let task = inner.spawn_with_handle(async {
                    yield_now().await;
                    Ok(cancellation_token().is_cancelled())
                });
                let asked = task.await?;
                Ok((asked, inner.is_closed()))
            })
            .await;
            Ok(inner?)
        })
        .await;
    assert_eq!(outcome.unwrap(), (false, false));
}

#[apply(current_thread)]
async fn a_pool_that_is_opened_after_the_request_is_cut_off_by_the_abort() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            sleep(secs(3)).await;
            let inner: Pool = with_grace(secs(2)).build();
            inner.spawn(clock.stubborn("inner gone"));
            let _cut_off = clock.on_drop("body gone");
            inner.run().await?;
            Ok(())
        })
        .await;
    clock.say("returned");
    // What it had returned with is another matter: it was not asked, but dropped.
    assert!(outcome.is_err());
    assert_eq!(clock.events(), ["10: body gone", "10: inner gone", "10: returned"]);
}

#[apply(both)]
async fn functions_that_are_called_after_the_request_run_as_ever() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            let job = || async {
                yield_now().await;
                Ok::<_, BoxError>(7)
            };
            let raced = race([job(), job()]).await.1?;
            let tried = try_all([job(), job()]).await?;
            let waited = wait_all([job()]).await.len();
            let timed = timeout(Duration::MAX, job()).await??;
            Ok((raced, tried, waited, timed))
        })
        .await;
    assert_eq!(outcome.unwrap(), (7, [7, 7], 1, 7));
}

#[apply(current_thread)]
async fn functions_that_are_called_after_the_request_are_cut_off_by_the_abort() {
    let (alive, begin) = (Alive::default(), Instant::now());
    let pool = with_grace(secs(2)).build();
    let job = |alive: &Alive| {
        let counted = alive.one();
        async move {
            pending::<()>().await;
            drop(counted);
            Ok::<_, BoxError>(())
        }
    };
    let all = [0, 1, 2, 3, 4].map(|which| {
        let alive = alive.clone();
        async move {
            asked().await;
            match which {
                0 => drop(race([job(&alive), job(&alive)]).await),
                1 => drop(try_all([job(&alive), job(&alive)]).await),
                2 => drop(wait_all([job(&alive), job(&alive)]).await),
                3 => drop(timeout(Duration::MAX, job(&alive)).await),
                _ => drop(Pool::open(async |_: Pool| job(&alive).await).await),
            }
        }
    });
    all.into_iter().for_each(|task| pool.spawn(task));
    let counts = alive.clone();
    let watching = pool.clone();
    pool.spawn(async move {
        asked().await;
        sleep(secs(1)).await;
        assert_eq!((counts.count(), watching.len()), (8, 6));
    });
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!((alive.count(), begin.elapsed()), (0, secs(2)));
}

#[apply(both)]
async fn a_user_who_cancels_the_token_closes_the_nested_pools_that_listen_to_it() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let token = cancellation_token();
            let inner = with_grace(Duration::MAX).build();
            inner.spawn(asked());
            let mut run = pin!(inner.clone().run());
            stays_pending(run.as_mut()).await;
            token.cancel();
            run.await?;
            Ok((inner.is_closed(), pool.is_closed()))
        })
        .await;
    assert_eq!(outcome.unwrap(), (true, false));
}

#[apply(multi_thread)]
async fn a_request_is_heard_by_a_nested_pool_whose_tasks_have_begun() {
    for round in 0..20 {
        let [outer, inner] = nested([with_grace(Duration::MAX), with_grace(Duration::MAX)]);
        let stop = outer.clone();
        inner.spawn(async move {
            stop.cancel();
            asked().await;
        });
        // The more there are to be launched, the longer is the moment.
        (0..1000).for_each(|_| inner.spawn(async {}));
        let mut run = pin!(outer.run());
        assert!(ends_by_itself(run.as_mut(), &inner).await, "it hangs, in round {round}");
    }
}

#[apply(both)]
async fn a_pool_in_a_blocking_closure_hears_the_request_in_the_grace() {
    a_pool_in_a_blocking_closure_hears(with_grace(Duration::MAX).build(), &["asked", "returned true"]).await;
}

#[apply(both)]
async fn a_pool_in_a_blocking_closure_is_aborted_without_a_grace() {
    a_pool_in_a_blocking_closure_hears(Pool::new(), &["returned false"]).await;
}

#[apply(both)]
async fn a_task_that_passes_on_that_its_pool_was_asked_is_cancelled_and_has_not_failed() {
    let pool = with_grace(Duration::MAX).build();
    let begun = Alive::default();
    let one = begun.clone();
    let handle = pool.spawn_with_handle(async move {
        let value: i32 = with_grace(Duration::ZERO)
            .open(async |_| {
                let _one = one.one();
                pending().await
            })
            .await?;
        Ok(value)
    });
    cancelled_once(&pool, until(|| begun.count() == 1)).await.unwrap();
    assert_eq!(handle.await, Err(TaskStopped::Cancelled));
}

#[apply(both)]
async fn a_body_that_passes_on_that_its_pool_was_asked_has_not_failed() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.clone().spawn(async move { pool.cancel_with("deployment") });
            let nested = with_grace(Duration::ZERO);
            Ok(nested.open(async |_| pending::<Result<(), BoxError>>().await).await?)
        })
        .await;
    let error = outcome.unwrap_err();
    assert!(error.is_cancelled() && error.failures().is_empty());
    assert_eq!(error.cancel_reason(), Some("deployment"));
}

#[apply(both)]
async fn that_a_nested_pool_was_asked_is_no_failure_three_levels_up() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |outer| {
            outer.clone().spawn(async move {
                yield_now().await;
                outer.cancel();
            });
            let middle = with_grace(Duration::MAX).open(async |_| {
                let inner: Outcome = with_grace(Duration::ZERO).open(async |_| pending().await).await;
                Ok(inner?)
            });
            Ok(middle.await?)
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled());
}

#[apply(both)]
async fn that_a_nested_pool_was_cancelled_is_a_failure_if_nobody_asked_the_task() {
    with_and_without_grace(async |w: Witness| {
        let pool = w.builder().build();
        let handle = pool.spawn_with_handle(async {
            Ok(Pool::open(async |inner: Pool| {
                inner.cancel();
                pending::<Result<(), _>>().await
            })
            .await?)
        });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: pool cancelled"]);
        assert_eq!(handle.await, Err(TaskStopped::Failed));

        let outcome: Outcome = w
            .builder()
            .open(async |_| {
                Ok(Pool::open(async |inner: Pool| {
                    inner.cancel();
                    pending::<Result<(), _>>().await
                })
                .await?)
            })
            .await;
        let error = outcome.unwrap_err();
        assert!(error.failures()[0].task().is_body() && !error.is_cancelled());
    })
    .await;
}

#[apply(both)]
async fn that_a_pool_with_an_error_type_of_its_own_was_asked_is_no_failure_either() {
    let pool = with_grace(Duration::MAX).build();
    let stop = pool.clone();
    pool.spawn(async move {
        Pool::builder()
            .grace(Duration::ZERO)
            .open(async |_: Pool<std::io::Error>| {
                // Not before the inner pool is open: it would be cleanup work.
                stop.cancel();
                pending::<Result<(), _>>().await
            })
            .await?;
        Ok(())
    });
    pool.run().await.unwrap();
}

#[apply(current_thread)]
async fn a_pool_that_is_dropped_as_it_closes_on_the_time_around_it_has_none_left() {
    for cancelled_by_hand in [false, true] {
        let (clock, said) = (Clock::start(), Clock::start());
        let outer = with_grace(secs(10)).open(async |pool: Pool| {
            if cancelled_by_hand {
                cancellation_token().cancel();
            } else {
                pool.cancel_on(sleep(secs(1)));
            }
            let inner: Pool = Pool::new();
            inner.spawn(clock.deaf("inner"));
            inner.cancel_on(sleep(secs(100)));
            assert!(tokio::time::timeout(secs(2), inner.run()).await.is_err());
            let inner: Pool = Pool::new();
            inner.spawn(clock.deaf("inner"));
            inner.cancel_on(sleep(secs(100)));
            assert!(timeout(secs(2), inner.run()).await.is_err());
            said.say("body");
            Ok(())
        });
        outer.await.unwrap();
        assert_eq!(
            (clock.events(), said.events()),
            (vec!["2: inner".into(), "4: inner".into()], vec!["4: body".into()])
        );
    }
}
