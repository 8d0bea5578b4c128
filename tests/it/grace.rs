//! What tasks and bodies have between the request to stop and the abort, with a grace and without.

use std::future::{pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, TaskStopped, cancellation_token};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Clock, GRACE, Log, OnDrop, Outcome, Witness, asked, both, cancelled_once, current_thread, elapsed, failures,
    multi_thread, panic_of, polite, poll_once, quiet_panic, secs, stays_pending, with_and_without_grace, with_grace,
};

// ===== who is asked (`tests/rules/causes.rs` has each cause with each kind of work) =====

#[apply(both)]
async fn a_pool_that_ends_by_itself_needs_no_grace() {
    with_and_without_grace(async |w: Witness| {
        let log = Log::default();
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                let log = log.clone();
                pool.spawn(async move {
                    yield_now().await;
                    log.push("ended");
                });
                Ok(7)
            })
            .await;
        assert_eq!((outcome.unwrap(), log.events().as_slice()), (7, &["ended".to_owned()][..]));
    })
    .await;
}

#[apply(both)]
async fn an_error_of_a_task_asks_the_others_and_the_body() {
    with_and_without_grace(async |w: Witness| {
        let outcome: Outcome<_> = w
            .open(async |pool| {
                pool.spawn(async { Err("task".into()) });
                w.body().await
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: task"]);
        assert!(!error.is_cancelled() && !error.failures()[0].task().is_body());
        w.check();
        w.check_body();
    })
    .await;
}

#[apply(both)]
async fn cancelling_asks_a_body_that_can_still_return_its_value_in_the_grace() {
    with_and_without_grace(async |w: Witness| {
        let outcome: Outcome<_> = w
            .open(async |pool| {
                pool.clone().spawn(async move { pool.cancel_with("deployment") });
                w.body().await
            })
            .await;
        if w.has_grace() {
            assert_eq!(outcome.unwrap(), 7);
        } else {
            let error = outcome.unwrap_err();
            assert!(error.is_cancelled());
            assert_eq!(error.cancel_reason(), Some("deployment"));
        }
        w.check();
        w.check_body();
    })
    .await;
}

#[apply(both)]
async fn a_body_that_fails_in_the_grace_after_a_task_has_failed_is_the_second_failure() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.spawn(async { Err("task".into()) });
            asked().await;
            Err("body".into())
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: task", "error: body"]);
    assert_eq!(error.failures().iter().map(|failed| failed.task().is_body()).collect::<Vec<_>>(), [false, true]);
}

#[apply(both)]
async fn what_fails_in_a_nested_pool_that_is_cancelled_goes_to_whoever_cancelled_it() {
    let outcome: Outcome = Pool::open(async |outer: Pool| {
        let (inner, begun): (Pool, _) = (with_grace(Duration::MAX).build(), LatchEvent::new());
        let begins = begun.clone();
        inner.spawn(async move {
            begins.set();
            asked().await;
            Err("in the end".into())
        });
        let cancels = async {
            begun.wait_set().await;
            inner.cancel();
        };
        let (ended, ()) = tokio::join!(inner.clone().run(), cancels);
        assert_eq!(failures(ended.unwrap_err().failures()), ["error: in the end"]);
        assert!(!outer.is_closed() && !cancellation_token().is_cancelled());
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_body_that_panics_in_the_grace_is_resumed_when_the_tasks_have_ended() {
    with_and_without_grace(async |w: Witness| {
        if !w.has_grace() {
            return;
        }
        let panic = panic_of(w.open(async |pool| -> Result<(), BoxError> {
            pool.cancel();
            asked().await;
            quiet_panic("body")
        }))
        .await;
        assert_eq!(panic, "body");
        w.check();
    })
    .await;
}

#[apply(both)]
async fn a_pool_that_is_cancelled_before_it_runs_has_nothing_to_wait_for() {
    with_and_without_grace(async |w: Witness| {
        let pool = w.builder().build();
        w.enter(&pool);
        pool.cancel();
        assert_eq!((w.alive.count(), pool.len(), pool.is_closed()), (0, 0, true));
        assert!(pool.try_spawn(async {}).is_err());
        pool.run().await.unwrap();
        assert_eq!(w.log.events().len(), 0);
    })
    .await;
}

#[apply(both)]
async fn a_pool_whose_enclosing_task_is_asked_to_stop_asks_its_own_tasks() {
    with_and_without_grace(async |w: Witness| {
        let (outer, inner, log) = (w.builder().build(), w.builder().build(), w.log.clone());
        w.enter(&inner);
        outer.spawn(async move {
            let ended = inner.run().await;
            log.push(format!("inner returned {}", ended.is_ok()));
        });
        cancelled_once(&outer, w.begun()).await.unwrap();
        w.check();
        assert_eq!(w.count("inner returned true"), usize::from(w.has_grace()));
    })
    .await;
}

#[apply(both)]
async fn a_pool_whose_future_is_dropped_asks_its_tasks_and_the_enclosing_pool_waits() {
    with_and_without_grace(async |w: Witness| {
        let outcome: Outcome<_> = Pool::open(async |_| {
            {
                let opened = w.builder().open(async |pool| {
                    w.enter(&pool);
                    w.body().await
                });
                let mut opened = pin!(opened);
                assert!(poll_once(opened.as_mut()).await.is_pending());
                w.begun().await;
            }
            // The body has gone at once: it lived in the future.
            assert_eq!((w.count("body gone"), w.count("body asked")), (1, 0));
            Ok(7)
        })
        .await;
        assert_eq!(outcome.unwrap(), 7);
        w.check();
    })
    .await;
}

// ===== the time =====

#[apply(current_thread)]
async fn tasks_and_body_are_asked_at_once_and_cut_off_when_the_grace_is_over() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.spawn(clock.stubborn("task gone"));
            pool.clone().spawn(async move {
                sleep(secs(1)).await;
                pool.cancel();
            });
            let _gone = clock.on_drop("body gone");
            asked().await;
            clock.say("body asked");
            pending().await
        })
        .await;
    clock.say("returned");
    assert!(outcome.unwrap_err().is_cancelled());
    let mut events = clock.events();
    events[..2].sort();
    assert_eq!(events, ["1: asked", "1: body asked", "11: body gone", "11: task gone", "11: returned"]);
}

#[apply(current_thread)]
async fn a_grace_ends_early_when_all_have_ended() {
    let begin = Instant::now();
    let outcome: Outcome<_> = with_grace(GRACE)
        .open(async |pool| {
            for seconds in 1..=3 {
                pool.spawn(async move {
                    asked().await;
                    sleep(secs(seconds)).await;
                });
            }
            pool.cancel();
            asked().await;
            sleep(secs(2)).await;
            Ok(7)
        })
        .await;
    assert_eq!((outcome.unwrap(), begin.elapsed()), (7, secs(3)));
}

#[apply(current_thread)]
async fn a_grace_lasts_as_long_as_the_body_when_no_task_is_left() {
    let begin = Instant::now();
    let outcome: Outcome<_> = with_grace(GRACE)
        .open(async |pool| {
            pool.spawn(asked());
            pool.cancel();
            sleep(secs(4)).await;
            Ok(begin.elapsed())
        })
        .await;
    assert_eq!((outcome.unwrap(), begin.elapsed()), (secs(4), secs(4)));
}

#[apply(current_thread)]
async fn a_grace_without_end_never_aborts() {
    let begin = Instant::now();
    let pool = with_grace(Duration::MAX).build();
    let slow = pool.spawn_with_handle(async {
        asked().await;
        sleep(secs(900_000)).await;
        Ok(7)
    });
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!((slow.await, begin.elapsed()), (Ok(7), secs(900_001)));
}

#[apply(both)]
async fn a_grace_of_no_time_is_none() {
    let alive = Alive::default();
    let refused = AtomicBool::new(false);
    let outcome: Outcome = with_grace(Duration::ZERO)
        .open(async |pool| {
            let one = alive.one();
            pool.spawn(async move {
                let _one = one;
                pending::<()>().await
            });
            pool.cancel();
            refused.store(pool.try_spawn(async {}).is_err(), Ordering::SeqCst);
            pending().await
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled() && refused.into_inner());
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn a_grace_that_is_shorter_than_a_tick_is_over_all_the_same() {
    let begin = Instant::now();
    let pool = with_grace(Duration::from_nanos(1)).build();
    pool.spawn(pending::<()>());
    pool.cancel_on(ready(()));
    pool.run().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(2), "{:?}", begin.elapsed());
}

// ===== what can be done meanwhile =====

#[apply(both)]
async fn a_pool_is_closed_from_the_beginning_of_its_grace() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            let mut cancelled = pin!(pool.cancelled());
            assert!(!pool.is_closed());
            stays_pending(cancelled.as_mut()).await;
            pool.cancel();
            assert!(pool.is_closed());
            assert!(poll_once(cancelled.as_mut()).await.is_ready());
            pool.cancelled().await;
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_pool_that_asks_its_tasks_is_shown_as_closing_with_those_that_are_left() {
    let release = LatchEvent::new();
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            let released = release.wait_set();
            pool.spawn(released);
            pool.cancel();
            asked().await;
            assert_eq!(pool.len(), 1);
            assert!(format!("{pool:?}").contains("closing"), "{pool:?}");
            release.set();
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[apply(both)]
async fn tasks_can_be_spawned_during_the_grace() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let of_task = pool.spawn_with_handle(async {
                asked().await;
                let helper = Pool::<BoxError>::current().spawn_with_handle(async { Ok(1) });
                Ok(helper.await?)
            });
            pool.cancel();
            asked().await;
            let of_body = pool.spawn_with_handle(async { Ok(2) });
            let from_outside = pool.clone();
            let thread = thread::spawn(move || from_outside.spawn_with_handle(async { Ok(3) }));
            let of_thread = thread.join().unwrap();
            assert!(pool.try_spawn(async {}).is_ok());
            let (sender, blocked) = oneshot::channel();
            pool.spawn_blocking(move || sender.send(4).unwrap());
            Ok([of_task.await?, of_body.await?, of_thread.await?, blocked.await?])
        })
        .await;
    assert_eq!(outcome.unwrap(), [1, 2, 3, 4]);
}

#[apply(both)]
async fn tasks_spawned_during_the_grace_have_been_asked_already() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            let late = pool.spawn_with_handle(async { Ok(cancellation_token().is_cancelled()) });
            Ok(late.await?)
        })
        .await;
    assert!(outcome.unwrap());
}

#[apply(current_thread)]
async fn tasks_that_were_never_polled_before_the_request_still_run_in_the_grace() {
    let pool = with_grace(GRACE).build();
    let value = pool.spawn_with_handle(async { Ok(cancellation_token().is_cancelled()) });
    cancelled_once(&pool, ready(())).await.unwrap();
    assert_eq!(value.await, Ok(true));
}

#[apply(current_thread)]
async fn tasks_spawned_during_the_grace_have_the_rest_of_it() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.cancel();
            sleep(secs(6)).await;
            pool.spawn(clock.stubborn("gone"));
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(clock.events(), ["6: asked", "10: gone"]);
}

#[apply(current_thread)]
async fn spawns_are_refused_from_the_abort_on() {
    let log = Log::default();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            let try_spawn = |who: &'static str| {
                let (pool, log) = (pool.clone(), log.clone());
                OnDrop::new(move || {
                    let polled = log.clone();
                    let refused = pool.try_spawn(async move { polled.push("polled") }).is_err();
                    let dropped = log.on_drop("dropped");
                    pool.spawn(async move { drop(dropped) });
                    log.push(format!("{who}: {refused}"));
                })
            };
            let of_task = try_spawn("task");
            pool.spawn(async move {
                let _at_abort = of_task;
                pending::<()>().await
            });
            let _at_abort = try_spawn("body");
            pool.cancel();
            asked().await;
            assert!(pool.try_spawn(async {}).is_ok());
            pending().await
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!(log.events(), ["dropped", "body: true", "dropped", "task: true"]);
}

#[apply(current_thread)]
async fn handles_of_what_is_refused_or_cut_off_by_the_end_of_the_grace_say_so() {
    let pool = with_grace(GRACE).build();
    let cut_off = pool.spawn_with_handle(pending::<Result<(), _>>());
    pool.cancel_on(sleep(secs(1)));
    pool.clone().run().await.unwrap();
    let refused = pool.spawn_with_handle(async { Ok(()) });
    assert_eq!((cut_off.await, refused.await), (Err(TaskStopped::Cancelled), Err(TaskStopped::Cancelled)));
}

#[apply(current_thread)]
async fn tasks_that_wait_for_a_slot_get_it_during_the_grace_and_are_dropped_by_the_abort() {
    let (clock, alive) = (Clock::start(), Alive::default());
    let pool = with_grace(GRACE).limit(1).build();
    for name in ["first", "second", "third"] {
        let (clock, one) = (clock.clone(), alive.one());
        pool.spawn(async move {
            let _one = one;
            clock.say(name);
            sleep(secs(6)).await;
        });
    }
    pool.cancel_on(ready(()));
    pool.run().await.unwrap();
    clock.say("returned");
    assert_eq!(clock.events(), ["0: first", "6: second", "10: returned"]);
    assert_eq!(alive.count(), 0);
}

#[apply(multi_thread)]
async fn tasks_that_spawn_as_long_as_they_can_are_all_gone_in_the_end() {
    for _ in 0..20 {
        let alive = Alive::default();
        let outcome: Outcome = with_grace(Duration::from_millis(1))
            .open(async |pool| {
                for _ in 0..4 {
                    let (one, alive, pool) = (alive.one(), alive.clone(), pool.clone());
                    pool.clone().spawn(async move {
                        let _one = one;
                        asked().await;
                        loop {
                            let child = alive.one();
                            pool.spawn(async move {
                                let _child = child;
                                pending::<()>().await
                            });
                            yield_now().await;
                        }
                    });
                }
                yield_now().await;
                pool.cancel();
                pending().await
            })
            .await;
        assert!(outcome.unwrap_err().is_cancelled());
        assert_eq!(alive.count(), 0, "tasks are left");
    }
}

#[apply(current_thread)]
async fn failures_during_the_grace_are_recorded_and_change_no_step() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.spawn(clock.stubborn("gone"));
            pool.spawn(async {
                asked().await;
                sleep(secs(2)).await;
                Err("second".into())
            });
            pool.spawn(async {
                asked().await;
                sleep(secs(4)).await;
                quiet_panic("third")
            });
            pool.spawn(async {
                let _at_abort = OnDrop::new(|| quiet_panic("fourth"));
                pending::<()>().await
            });
            sleep(secs(1)).await;
            pool.spawn(async { Err("first".into()) });
            pending().await
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "error: second", "panic: third", "panic: fourth"]);
    assert_eq!(clock.events(), ["1: asked", "11: gone"]);
}

#[apply(both)]
async fn a_failure_in_the_grace_of_a_cancelled_pool_outranks_the_value_of_the_body() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.spawn(async {
                asked().await;
                Err("while tidying up".into())
            });
            pool.cancel();
            Ok(())
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: while tidying up"]);
    assert!(!error.is_cancelled());
}

#[apply(current_thread)]
async fn cancelling_again_during_the_grace_changes_nothing() {
    let clock = Clock::start();
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.spawn(clock.stubborn("gone"));
            sleep(secs(1)).await;
            pool.cancel_with("first");
            sleep(secs(5)).await;
            pool.cancel();
            pool.cancel_with("second");
            pending().await
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!((error.is_cancelled(), error.cancel_reason()), (true, Some("first")));
    assert_eq!(clock.events(), ["1: asked", "11: gone"]);
}

#[apply(current_thread)]
async fn a_reason_that_is_given_during_the_grace_is_too_late() {
    let outcome: Outcome = with_grace(GRACE)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            pool.cancel_with("late");
            pending().await
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!((error.is_cancelled(), error.cancel_reason()), (true, None));
}

#[apply(both)]
async fn cancelling_during_the_grace_of_a_failure_hides_nothing() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.spawn(async { Err("task".into()) });
            asked().await;
            pool.cancel_with("late");
            Ok(())
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: task"]);
    assert_eq!((error.is_cancelled(), error.cancel_reason()), (false, None));
}

// ===== who cannot use it =====

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

#[apply(current_thread)]
async fn queued_tasks_cost_no_grace_although_the_slot_is_just_being_passed_on() {
    let pool: Pool = with_grace(secs(10)).limit(1).build();
    let own = pool.clone();
    pool.spawn(async move {
        sleep(secs(1)).await;
        own.cancel();
    });
    // It gets the slot, and hears the signal when the depth above is closed.
    pool.spawn(async {
        asked().await;
    });
    pool.build_task().depth(1).spawn(async {});
    assert_eq!(elapsed(tokio::spawn(pool.run())).await.0, 1);
}
