//! What tasks and bodies have between the request to stop and the abort: each row of "how a pool closes" with a grace
//! and without, tokens, nested pools, dropped owners, deadlines.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, LatchEvent, Pool, PoolBuilder, PoolError, TaskStopped, cancellation_token, race, shield, timeout,
    try_all, wait_all, with_exit,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Alive, Log, OnDrop, failures, on_both, on_current_thread, on_multi_thread, panic_of, poll_once, quiet_panic,
    stays_pending, until, watched,
};

type Outcome<T = ()> = Result<T, PoolError>;

const GRACE: Duration = secs(10);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn with_grace(grace: Duration) -> PoolBuilder {
    Pool::builder().grace(grace)
}

async fn asked() {
    cancellation_token().cancelled().await;
}

/// A log of what happened in which second.
#[derive(Clone)]
struct Clock {
    begin: Instant,
    log: Log,
}

impl Clock {
    fn start() -> Self {
        Self { begin: Instant::now(), log: Log::default() }
    }

    fn say(&self, event: &str) {
        self.log.push(format!("{}: {event}", self.begin.elapsed().as_secs_f64()));
    }

    fn on_drop(&self, event: &'static str) -> OnDrop<impl FnOnce() + Send + use<>> {
        let clock = self.clone();
        OnDrop::new(move || clock.say(event))
    }

    /// A task that hears the request, and does not heed it.
    fn stubborn(&self, name: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            let _gone = clock.on_drop(name);
            asked().await;
            clock.say("asked");
            pending().await
        }
    }

    fn events(&self) -> Vec<String> {
        self.log.events()
    }
}

// ===== each row of the table =====

/// Tasks that write down what becomes of them, for pools without a grace and with one that is never over.
struct Witness {
    grace: Duration,
    log: Log,
    alive: Alive,
}

const WITNESSES: usize = 3;

impl Witness {
    fn has_grace(&self) -> bool {
        !self.grace.is_zero()
    }

    fn builder(&self) -> PoolBuilder {
        with_grace(self.grace)
    }

    fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let (one, log) = (self.alive.one(), self.log.clone());
        async move {
            let _one = one;
            let _gone = log.on_drop("gone");
            let token = cancellation_token();
            log.push(if token.is_cancelled() { "too late" } else { "began" });
            token.cancelled().await;
            log.push("asked");
            for _ in 0..10 {
                yield_now().await;
            }
            log.push("ended");
        }
    }

    /// Spawns the witnesses.
    fn enter(&self, pool: &Pool) {
        (0..WITNESSES).for_each(|_| pool.spawn(self.task()));
    }

    /// Waits until all of them run.
    async fn begun(&self) {
        until(|| self.count("began") == WITNESSES).await;
    }

    /// What a body does that is not polled without a grace.
    async fn body(&self) -> Result<i32, BoxError> {
        let _one = self.alive.one();
        let _gone = self.log.on_drop("body gone");
        asked().await;
        self.log.push("body asked");
        yield_now().await;
        self.log.push("body ended");
        Ok(7)
    }

    fn count(&self, event: &str) -> usize {
        self.log.events().iter().filter(|seen| *seen == event).count()
    }

    /// That nothing is left, and that the witnesses could end by themselves if there was a grace.
    fn check(&self) {
        assert_eq!((self.alive.count(), self.count("gone")), (0, WITNESSES));
        if self.has_grace() {
            assert_eq!((self.count("asked"), self.count("ended")), (WITNESSES, WITNESSES));
        } else if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            // Elsewhere a task may be quicker than its abort.
            assert_eq!((self.count("asked"), self.count("ended")), (0, 0));
        }
    }

    /// The same for the body.
    fn check_body(&self) {
        assert_eq!(self.count("body gone"), 1);
        assert_eq!(
            (self.count("body asked"), self.count("body ended")),
            match self.has_grace() {
                true => (1, 1),
                false => (0, 0),
            }
        );
    }
}

fn with_and_without_grace(test: impl AsyncFn(Witness)) {
    on_both(|| async {
        for grace in [Duration::ZERO, Duration::MAX] {
            test(Witness { grace, log: Log::default(), alive: Alive::default() }).await;
        }
    });
}

#[test]
fn a_pool_that_ends_by_itself_needs_no_grace() {
    with_and_without_grace(async |w| {
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
    });
}

#[test]
fn a_grace_is_no_delay_for_a_pool_that_ends_by_itself() {
    on_current_thread(|| async {
        let begin = Instant::now();
        let outcome: Outcome<_> = with_grace(GRACE)
            .open(async |pool| {
                pool.spawn(sleep(secs(1)));
                Ok(7)
            })
            .await;
        assert_eq!((outcome.unwrap(), begin.elapsed()), (7, secs(1)));
    });
}

#[test]
fn daemons_have_the_grace_when_the_body_has_returned_and_no_task_is_left() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                (0..WITNESSES).for_each(|_| pool.build_task().daemon().spawn(w.task()));
                w.begun().await;
                Ok(7)
            })
            .await;
        assert_eq!(outcome.unwrap(), 7);
        w.check();
    });
}

#[test]
fn an_error_of_a_task_asks_the_others_and_the_body() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
                pool.spawn(async { Err("task".into()) });
                w.body().await
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: task"]);
        assert!(!error.is_cancelled() && !error.failures()[0].task().is_body());
        w.check();
        w.check_body();
    });
}

#[test]
fn a_panic_of_a_task_asks_the_others_and_the_body() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
                pool.spawn(async { quiet_panic("task") });
                w.body().await
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: task"]);
        assert!(error.is_panic());
        w.check();
        w.check_body();
    });
}

#[test]
fn an_error_of_the_body_asks_the_tasks() {
    with_and_without_grace(async |w| {
        let outcome: Outcome = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
                Err("body".into())
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body"]);
        assert!(error.failures()[0].task().is_body());
        w.check();
    });
}

#[test]
fn a_panic_of_the_body_asks_the_tasks_and_is_resumed_when_they_have_ended() {
    with_and_without_grace(async |w| {
        let panic = panic_of(w.builder().open(async |pool| -> Result<(), BoxError> {
            w.enter(&pool);
            w.begun().await;
            quiet_panic("body")
        }))
        .await;
        assert_eq!(panic, "body");
        w.check();
    });
}

#[test]
fn cancelling_asks_the_tasks_and_keeps_the_value_of_a_body_that_had_returned() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
                pool.clone().spawn(async move {
                    yield_now().await;
                    pool.cancel();
                });
                Ok(7)
            })
            .await;
        assert_eq!(outcome.unwrap(), 7);
        w.check();
    });
}

#[test]
fn cancelling_asks_a_body_that_can_still_return_its_value_in_the_grace() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
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
    });
}

#[test]
fn a_body_that_cancels_its_own_pool_goes_on_in_the_grace() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                w.enter(&pool);
                w.begun().await;
                pool.cancel();
                w.body().await
            })
            .await;
        assert_eq!(outcome.is_ok(), w.has_grace());
        w.check();
        w.check_body();
    });
}

#[test]
fn a_body_that_fails_in_the_grace_of_a_cancelled_pool_is_a_failure() {
    on_both(|| async {
        let outcome: Outcome = with_grace(Duration::MAX)
            .open(async |pool| {
                pool.cancel();
                asked().await;
                Err("body".into())
            })
            .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
    });
}

#[test]
fn a_body_that_fails_in_the_grace_after_a_task_has_failed_is_the_second_failure() {
    on_both(|| async {
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
    });
}

#[test]
fn what_fails_in_a_nested_pool_that_is_cancelled_goes_to_whoever_cancelled_it() {
    on_both(|| async {
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
    });
}

#[test]
fn a_body_that_panics_in_the_grace_is_resumed_when_the_tasks_have_ended() {
    with_and_without_grace(async |w| {
        if !w.has_grace() {
            return;
        }
        let panic = panic_of(w.builder().open(async |pool| -> Result<(), BoxError> {
            w.enter(&pool);
            w.begun().await;
            pool.cancel();
            asked().await;
            quiet_panic("body")
        }))
        .await;
        assert_eq!(panic, "body");
        w.check();
    });
}

#[test]
fn a_planned_pool_that_is_cancelled_returns_ok_when_its_tasks_have_ended() {
    with_and_without_grace(async |w| {
        let pool = w.builder().build();
        w.enter(&pool);
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        w.begun().await;
        pool.cancel();
        run.await.unwrap();
        w.check();
    });
}

#[test]
fn a_pool_that_is_cancelled_before_it_runs_has_nothing_to_wait_for() {
    with_and_without_grace(async |w| {
        let pool = w.builder().build();
        w.enter(&pool);
        pool.cancel();
        assert_eq!(w.alive.count(), 0);
        assert!(pool.try_spawn(async {}).is_err());
        pool.run().await.unwrap();
        assert_eq!(w.log.events().len(), 0);
    });
}

#[test]
fn a_pool_whose_enclosing_task_is_asked_to_stop_asks_its_own_tasks() {
    with_and_without_grace(async |w| {
        let outer = w.builder().build();
        let inner = w.builder().build();
        w.enter(&inner);
        let (inner, kept) = (Some(inner), w.log.clone());
        outer.spawn(async move {
            let ended = inner.unwrap().run().await;
            kept.push(format!("inner returned {}", ended.is_ok()));
        });
        let mut run = pin!(outer.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        w.begun().await;
        outer.cancel();
        run.await.unwrap();
        w.check();
        assert_eq!(w.count("inner returned true"), usize::from(w.has_grace()));
    });
}

#[test]
fn a_pool_whose_future_is_dropped_asks_its_tasks_and_the_enclosing_pool_waits() {
    with_and_without_grace(async |w| {
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
    });
}

// ===== the time =====

#[test]
fn tasks_and_body_are_asked_at_once_and_cut_off_when_the_grace_is_over() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_grace_ends_early_when_all_have_ended() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_grace_lasts_as_long_as_the_body_when_no_task_is_left() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_grace_without_end_never_aborts() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_grace_of_no_time_is_none() {
    on_both(|| async {
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
    });
}

#[test]
fn a_grace_that_is_shorter_than_a_tick_is_over_all_the_same() {
    on_current_thread(|| async {
        let begin = Instant::now();
        let pool = with_grace(Duration::from_nanos(1)).build();
        pool.spawn(pending::<()>());
        pool.cancel_on(std::future::ready(()));
        pool.run().await.unwrap();
        assert!(begin.elapsed() <= Duration::from_millis(2), "{:?}", begin.elapsed());
    });
}

#[test]
fn the_time_before_the_request_is_not_part_of_the_grace() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let pool = with_grace(GRACE).build();
        pool.spawn(clock.stubborn("gone"));
        pool.cancel_on(sleep(secs(100)));
        pool.run().await.unwrap();
        assert_eq!(clock.events(), ["100: asked", "110: gone"]);
    });
}

// ===== what can be done meanwhile =====

#[test]
fn a_pool_is_closed_from_the_beginning_of_its_grace() {
    on_both(|| async {
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
    });
}

#[test]
fn a_pool_that_asks_its_tasks_is_shown_as_closing_with_those_that_are_left() {
    on_both(|| async {
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
    });
}

#[test]
fn tasks_can_be_spawned_during_the_grace() {
    on_both(|| async {
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
    });
}

#[test]
fn tasks_spawned_during_the_grace_have_been_asked_already() {
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                pool.cancel();
                asked().await;
                let late = pool.spawn_with_handle(async { Ok(cancellation_token().is_cancelled()) });
                Ok(late.await?)
            })
            .await;
        assert!(outcome.unwrap());
    });
}

#[test]
fn tasks_that_were_never_polled_before_the_request_still_run_in_the_grace() {
    on_current_thread(|| async {
        let pool = with_grace(GRACE).build();
        let value = pool.spawn_with_handle(async { Ok(cancellation_token().is_cancelled()) });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        pool.cancel();
        run.await.unwrap();
        assert_eq!(value.await, Ok(true));
    });
}

#[test]
fn tasks_spawned_during_the_grace_have_the_rest_of_it() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn spawns_are_refused_from_the_abort_on() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn handles_of_what_is_refused_or_cut_off_by_the_end_of_the_grace_say_so() {
    on_current_thread(|| async {
        let pool = with_grace(GRACE).build();
        let cut_off = pool.spawn_with_handle(pending::<Result<(), _>>());
        pool.cancel_on(sleep(secs(1)));
        pool.clone().run().await.unwrap();
        let refused = pool.spawn_with_handle(async { Ok(()) });
        assert_eq!((cut_off.await, refused.await), (Err(TaskStopped::Cancelled), Err(TaskStopped::Cancelled)));
    });
}

#[test]
fn a_closed_pool_without_grace_refuses_spawns_at_once() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.cancel();
            assert!(pool.try_spawn(async {}).is_err());
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_cancelled());
    });
}

#[test]
fn tasks_that_wait_for_a_slot_get_it_during_the_grace_and_are_dropped_by_the_abort() {
    on_current_thread(|| async {
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
        pool.cancel_on(std::future::ready(()));
        pool.run().await.unwrap();
        clock.say("returned");
        assert_eq!(clock.events(), ["0: first", "6: second", "10: returned"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn tasks_that_spawn_as_long_as_they_can_are_all_gone_in_the_end() {
    on_multi_thread(|| async {
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
            assert_eq!(alive.count(), 0);
        }
    });
}

#[test]
fn failures_during_the_grace_are_recorded_and_change_no_step() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_failure_in_the_grace_of_a_cancelled_pool_outranks_the_value_of_the_body() {
    on_both(|| async {
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
    });
}

#[test]
fn cancelling_again_during_the_grace_changes_nothing() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_reason_that_is_given_during_the_grace_is_too_late() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn cancelling_during_the_grace_of_a_failure_hides_nothing() {
    on_both(|| async {
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
    });
}

#[test]
fn a_task_can_be_cancelled_by_its_handle_during_the_grace() {
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                let handle = pool.spawn_with_handle(pending::<Result<(), _>>());
                pool.cancel();
                asked().await;
                handle.cancel();
                Ok(handle.await)
            })
            .await;
        assert_eq!(outcome.unwrap(), Err(TaskStopped::Cancelled));
    });
}

// ===== tokens =====

#[test]
fn a_body_and_its_tasks_have_the_token_of_the_pool() {
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                let token = cancellation_token();
                let handle = pool.spawn_with_handle(async { Ok(cancellation_token()) });
                let of_task = handle.await?;
                assert!(!token.is_cancelled() && !of_task.is_cancelled());
                pool.cancel();
                token.cancelled().await;
                Ok(of_task.is_cancelled() && cancellation_token().is_cancelled())
            })
            .await;
        assert!(outcome.unwrap());
    });
}

#[test]
fn branches_of_functions_hear_the_enclosing_pool() {
    on_both(|| async {
        let (pool, log) = (with_grace(Duration::MAX).build(), Log::default());
        let branch = |log: &Log| {
            let log = log.clone();
            async move {
                let token = cancellation_token();
                log.push(if token.is_cancelled() { "too late" } else { "began" });
                token.cancelled().await;
                Ok::<_, BoxError>(7)
            }
        };
        let said = log.clone();
        let raced = pool.spawn_with_handle(async move { race([branch(&said), branch(&said)]).await.1 });
        let said = log.clone();
        let tried = pool.spawn_with_handle(async move { Ok(try_all([branch(&said), branch(&said)]).await?) });
        let said = log.clone();
        let waited = pool.spawn_with_handle(async move { Ok(wait_all([branch(&said), branch(&said)]).await.len()) });
        let said = log.clone();
        let timed = pool.spawn_with_handle(async move { timeout(Duration::MAX, branch(&said)).await? });
        let said = log.clone();
        let stayed = pool.spawn_with_handle(async move {
            let body = async |_: &mut ()| branch(&said).await;
            let handler = |(), exit| async move {
                assert_eq!(exit, Exit::Finished);
                Ok(())
            };
            Ok(with_exit((), body, handler).await?)
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        until(|| log.events().len() == 8).await;
        pool.cancel();
        run.await.unwrap();
        assert_eq!(log.events(), ["began"; 8]);
        assert_eq!((raced.await, tried.await, waited.await), (Ok(7), Ok([7, 7]), Ok(2)));
        assert_eq!((timed.await, stayed.await), (Ok(7), Ok(7)));
    });
}

#[test]
fn shielded_work_is_never_asked() {
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                let heard = LatchEvent::new();
                let waits = heard.wait_set();
                let work = shield(async move {
                    let token = cancellation_token();
                    waits.await;
                    [token.is_cancelled(), cancellation_token().is_cancelled()]
                });
                pool.cancel();
                asked().await;
                heard.set();
                Ok(work.await)
            })
            .await;
        assert_eq!(outcome.unwrap(), [false, false]);
    });
}

#[test]
fn an_exit_handler_is_never_asked() {
    on_both(|| async {
        let seen = Arc::new(std::sync::Mutex::new(None));
        let outcome: Outcome = with_grace(Duration::MAX)
            .open(async |pool| {
                pool.cancel();
                asked().await;
                let body = async |_: &mut ()| {
                    let _: () = assert!(cancellation_token().is_cancelled());
                    Ok::<_, BoxError>(())
                };
                let seen = Arc::clone(&seen);
                let handler = |(), _| async move {
                    *seen.lock().unwrap() = Some(cancellation_token().is_cancelled());
                    Ok(())
                };
                Ok(with_exit((), body, handler).await?)
            })
            .await;
        outcome.unwrap();
        assert_eq!(*seen.lock().unwrap(), Some(false));
    });
}

#[test]
fn outside_of_a_pool_the_token_is_nobodys() {
    assert!(!cancellation_token().is_cancelled());
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                pool.cancel();
                asked().await;
                // A bare task is outside of the pool that it is spawned from.
                Ok(tokio::spawn(async { cancellation_token().is_cancelled() }).await?)
            })
            .await;
        assert!(!outcome.unwrap());
        let (mine, other) = (cancellation_token(), cancellation_token());
        mine.cancel();
        assert!(!other.is_cancelled() && !cancellation_token().is_cancelled());
    });
}

#[test]
fn a_blocking_closure_hears_the_request_in_the_grace() {
    on_both(|| async {
        let pool = with_grace(Duration::MAX).build();
        let (begun, running) = oneshot::channel();
        pool.spawn_blocking(move || {
            let token = cancellation_token();
            begun.send(token.is_cancelled()).unwrap();
            Handle::current().block_on(token.cancelled());
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        assert_eq!(running.await, Ok(false));
        pool.cancel();
        run.await.unwrap();
    });
}

/// Spins until the token is cancelled; `false` if it never is.
fn hears(token: &CancellationToken) -> bool {
    let begin = std::time::Instant::now();
    while !token.is_cancelled() && begin.elapsed() < secs(30) {
        thread::yield_now();
    }
    token.is_cancelled()
}

#[test]
fn a_blocking_closure_hears_the_request_also_without_a_grace() {
    on_both(|| async {
        let (log, pool) = (Log::default(), Pool::<BoxError>::new());
        let (begun, running) = oneshot::channel();
        let said = log.clone();
        pool.spawn_blocking(move || {
            let token = cancellation_token();
            begun.send(()).unwrap();
            said.push(format!("old token {}", hears(&token)));
            said.push(format!("new token {}", hears(&cancellation_token())));
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        running.await.unwrap();
        pool.cancel();
        run.await.unwrap();
        assert_eq!(log.events(), ["old token true", "new token true"]);
    });
}

#[test]
fn a_token_that_was_given_away_is_cancelled_also_without_a_grace() {
    on_both(|| async {
        let pool: Pool = Pool::new();
        let (give, given) = oneshot::channel();
        pool.spawn(async move {
            drop(give.send(cancellation_token()));
            pending::<()>().await
        });
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        let token = given.await.unwrap();
        assert!(!token.is_cancelled());
        pool.cancel();
        run.await.unwrap();
        assert!(token.is_cancelled());
    });
}

#[test]
fn a_token_that_was_given_away_is_cancelled_when_the_pool_has_ended_by_itself() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w.builder().open(async |_| Ok(cancellation_token())).await;
        assert!(outcome.unwrap().is_cancelled());
    });
}

#[test]
fn destructors_of_what_is_aborted_see_a_token_that_is_cancelled() {
    with_and_without_grace(async |w| {
        let log = w.log.clone();
        let pool = with_grace(if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO }).build();
        let at_abort = OnDrop::new(move || log.push(cancellation_token().is_cancelled().to_string()));
        pool.spawn(async move {
            let _at_abort = at_abort;
            pending::<()>().await
        });
        pool.cancel_on(async {
            for _ in 0..5 {
                yield_now().await;
            }
        });
        pool.run().await.unwrap();
        assert_eq!(w.log.events(), ["true"]);
    });
}

#[test]
fn destructors_of_a_body_that_is_cut_short_see_a_token_that_is_cancelled() {
    with_and_without_grace(async |w| {
        let grace = if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO };
        let outcome: Outcome = with_grace(grace)
            .open(async |pool| {
                let log = w.log.clone();
                let _at_abort = OnDrop::new(move || log.push(cancellation_token().is_cancelled().to_string()));
                pool.cancel();
                pending().await
            })
            .await;
        assert!(outcome.unwrap_err().is_cancelled());
        assert_eq!(w.log.events(), ["true"]);
    });
}

#[test]
fn a_token_can_be_given_away_to_tasks_outside_of_the_pool() {
    on_both(|| async {
        let outcome: Outcome<_> = with_grace(Duration::MAX)
            .open(async |pool| {
                let (token, (begun, running)) = (cancellation_token(), oneshot::channel());
                let outside = tokio::spawn(async move {
                    begun.send(token.is_cancelled()).unwrap();
                    token.cancelled_owned().await;
                    7
                });
                assert!(!running.await?);
                assert!(!outside.is_finished());
                pool.cancel();
                Ok(outside.await?)
            })
            .await;
        assert_eq!(outcome.unwrap(), 7);
    });
}

#[test]
fn child_tokens_are_asked_with_their_parents_and_not_the_other_way_round() {
    on_both(|| async {
        let outcome: Outcome = with_grace(Duration::MAX)
            .open(async |pool| {
                let token = cancellation_token();
                let (child, other) = (token.child_token(), token.child_token());
                other.cancel();
                assert!(!token.is_cancelled() && !child.is_cancelled() && !pool.is_closed());
                pool.cancel();
                child.cancelled().await;
                assert!(token.is_cancelled() && token.child_token().is_cancelled());
                Ok(())
            })
            .await;
        outcome.unwrap();
    });
}

#[test]
fn a_user_who_cancels_the_token_does_not_close_the_pool() {
    with_and_without_grace(async |w| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                let sibling = pool.spawn_with_handle(async {
                    asked().await;
                    Ok(1)
                });
                cancellation_token().cancel();
                let heard = sibling.await?;
                assert!(!pool.is_closed() && poll_once(pin!(pool.cancelled())).await.is_pending());
                let later = pool.spawn_with_handle(async { Ok(2) });
                Ok((heard, later.await?))
            })
            .await;
        assert_eq!(outcome.unwrap(), (1, 2));
    });
}

// ===== nested pools =====

#[test]
fn nested_pools_close_themselves_three_levels_down_each_with_its_own_grace() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn nested_pools_hear_the_request_at_every_level() {
    with_and_without_grace(async |w| {
        let pools = [w.builder().build(), w.builder().build(), w.builder().build()];
        let [outer, middle, inner] = pools.clone();
        w.enter(&inner);
        middle.spawn(async move { inner.run().await.map_err(BoxError::from) });
        outer.spawn(async move { middle.run().await.map_err(BoxError::from) });
        let mut run = pin!(outer.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        w.begun().await;
        pools[0].cancel();
        run.await.unwrap();
        w.check();
        assert!(pools.iter().all(Pool::is_closed));
    });
}

#[test]
fn a_nested_pool_inside_a_function_hears_the_request() {
    with_and_without_grace(async |w| {
        let outer = w.builder().build();
        let inner = w.builder().build();
        w.enter(&inner);
        outer.spawn(async move {
            let (_, ended) = race([async move { timeout(Duration::MAX, inner.run()).await }]).await;
            ended.unwrap().unwrap();
        });
        let mut run = pin!(outer.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        w.begun().await;
        outer.cancel();
        run.await.unwrap();
        w.check();
    });
}

#[test]
fn a_nested_grace_that_is_longer_ends_with_the_enclosing_one() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let outer = with_grace(secs(10)).build();
        let inner = with_grace(secs(100)).build();
        inner.spawn(clock.stubborn("inner gone"));
        let said = clock.clone();
        outer.spawn(async move {
            let _cut_off = said.on_drop("owner gone");
            inner.run().await.unwrap();
        });
        outer.cancel_on(sleep(secs(1)));
        outer.run().await.unwrap();
        clock.say("returned");
        assert_eq!(clock.events(), ["1: asked", "11: owner gone", "11: inner gone", "11: returned"]);
    });
}

#[test]
fn a_nested_pool_has_no_grace_when_the_enclosing_one_has_none() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let outer: Pool = Pool::new();
        let inner = with_grace(GRACE).build();
        inner.spawn(clock.stubborn("inner gone"));
        let said = clock.clone();
        outer.spawn(async move {
            let _cut_off = said.on_drop("owner gone");
            inner.run().await.unwrap();
        });
        outer.cancel_on(sleep(secs(1)));
        outer.run().await.unwrap();
        clock.say("returned");
        assert_eq!(clock.events(), ["1: owner gone", "1: inner gone", "1: returned"]);
    });
}

#[test]
fn a_nested_pool_with_a_grace_of_no_time_is_aborted_at_the_request() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_nested_pool_inside_shielded_work_does_not_hear_the_request() {
    on_both(|| async {
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
    });
}

#[test]
fn a_pool_that_is_opened_after_the_request_runs_as_ever() {
    on_both(|| async {
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
    });
}

#[test]
fn a_pool_that_is_opened_after_the_request_is_cut_off_by_the_abort() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn functions_that_are_called_after_the_request_run_as_ever() {
    on_both(|| async {
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
    });
}

#[test]
fn functions_that_are_called_after_the_request_are_cut_off_by_the_abort() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn a_user_who_cancels_the_token_closes_the_nested_pools_that_listen_to_it() {
    on_both(|| async {
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
    });
}

/// Opens a pool in a blocking closure of a pool, and checks that it hears of the end of that, and how. What is asked on
/// one thread just before it is aborted from another may still hear of it.
async fn a_pool_in_a_blocking_closure_hears(outer: Pool, expected: &[&str]) {
    let log = Log::default();
    let (begun, running) = oneshot::channel();
    let said = log.clone();
    outer.spawn_blocking(move || {
        let opened = with_grace(Duration::MAX).open(async |inner: Pool| {
            let said = said.clone();
            let (waits, waiting) = oneshot::channel();
            inner.spawn(async move {
                let mut asked = pin!(asked());
                assert!(poll_once(asked.as_mut()).await.is_pending());
                waits.send(()).unwrap();
                asked.await;
                said.push("asked");
            });
            // One that is in its first poll still, on another thread, may hear of the end while it is aborted.
            waiting.await?;
            for _ in 0..1_000 {
                yield_now().await;
            }
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
    assert_eq!(log.events(), expected);
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

#[test]
fn a_request_is_heard_by_a_nested_pool_whose_tasks_have_begun() {
    on_multi_thread(|| async {
        for round in 0..20 {
            let (outer, inner) = (with_grace(Duration::MAX).build(), with_grace(Duration::MAX).build());
            let (stop, below) = (outer.clone(), inner.clone());
            inner.spawn(async move {
                stop.cancel();
                asked().await;
            });
            // The more there are to be launched, the longer is the moment.
            (0..1000).for_each(|_| inner.spawn(async {}));
            outer.spawn(async move { inner.run().await.map_err(BoxError::from) });
            let mut run = pin!(outer.run());
            assert!(ends_by_itself(run.as_mut(), &below).await, "it hangs, in round {round}");
        }
    });
}

#[test]
fn a_pool_in_a_blocking_closure_hears_the_request_in_the_grace() {
    on_both(|| a_pool_in_a_blocking_closure_hears(with_grace(Duration::MAX).build(), &["asked", "returned true"]));
}

#[test]
fn a_pool_in_a_blocking_closure_is_aborted_without_a_grace() {
    on_both(|| a_pool_in_a_blocking_closure_hears(Pool::new(), &["returned false"]));
}

#[test]
fn a_task_that_passes_on_that_its_pool_was_asked_is_cancelled_and_has_not_failed() {
    on_both(|| async {
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
        let mut run = pin!(pool.clone().run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        until(|| begun.count() == 1).await;
        pool.cancel();
        run.await.unwrap();
        assert_eq!(handle.await, Err(TaskStopped::Cancelled));
    });
}

#[test]
fn a_body_that_passes_on_that_its_pool_was_asked_has_not_failed() {
    on_both(|| async {
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
    });
}

#[test]
fn that_a_nested_pool_was_asked_is_no_failure_three_levels_up() {
    on_both(|| async {
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
    });
}

#[test]
fn that_a_nested_pool_was_cancelled_is_a_failure_if_nobody_asked_the_task() {
    with_and_without_grace(async |w| {
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
    });
}

#[test]
fn a_failure_of_a_nested_pool_that_was_asked_is_a_failure() {
    on_both(|| async {
        let outcome: Outcome = with_grace(Duration::MAX)
            .open(async |pool| {
                pool.cancel_on(std::future::ready(()));
                let inner = with_grace(Duration::MAX).build();
                inner.spawn(async {
                    asked().await;
                    Err("while tidying up".into())
                });
                Ok(inner.run().await?)
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(error.failures().len(), 1);
        assert!(error.to_string().contains("while tidying up"), "{error}");
    });
}

#[test]
fn that_a_pool_with_an_error_type_of_its_own_was_asked_is_no_failure_either() {
    on_both(|| async {
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
    });
}

// ===== dropped owners =====

#[test]
fn the_closing_of_a_dropped_owner_goes_through_the_same_steps() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let outcome: Outcome = Pool::open(async |_| {
            {
                let inner = with_grace(GRACE).build();
                for (depth, name) in [(-1, "-1 gone"), (2, "2 gone"), (0, "0 gone")] {
                    inner.build_task().depth(depth).spawn(clock.stubborn(name));
                }
                let mut run = pin!(inner.run());
                assert!(poll_once(run.as_mut()).await.is_pending());
                sleep(secs(1)).await;
            }
            clock.say("dropped");
            Ok(())
        })
        .await;
        outcome.unwrap();
        clock.say("returned");
        assert_eq!(
            clock.events(),
            [
                "1: dropped",
                "1: asked",
                "11: 2 gone",
                "11: asked",
                "21: 0 gone",
                "21: asked",
                "31: -1 gone",
                "31: returned"
            ]
        );
    });
}

#[test]
fn a_dropped_owner_keeps_the_rest_of_its_grace() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let outcome: Outcome = Pool::open(async |_| {
            {
                let inner = with_grace(GRACE).build();
                inner.spawn(clock.stubborn("gone"));
                inner.cancel_on(sleep(secs(1)));
                let mut run = pin!(inner.run());
                tokio::select! {
                    _ = run.as_mut() => panic!("it has returned"),
                    () = sleep(secs(7)) => {}
                }
            }
            clock.say("dropped");
            Ok(())
        })
        .await;
        outcome.unwrap();
        clock.say("returned");
        assert_eq!(clock.events(), ["1: asked", "7: dropped", "11: gone", "11: returned"]);
    });
}

#[test]
fn a_body_that_is_dropped_in_the_grace_is_gone_at_once() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let outcome: Outcome = Pool::open(async |_| {
            {
                let mut opened = pin!(with_grace(GRACE).open(async |pool: Pool| -> Result<(), BoxError> {
                    pool.spawn(clock.stubborn("task gone"));
                    let _gone = clock.on_drop("body gone");
                    pool.cancel();
                    pending().await
                }));
                tokio::select! {
                    _ = opened.as_mut() => panic!("it has returned"),
                    () = sleep(secs(4)) => {}
                }
            }
            clock.say("dropped");
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(clock.events(), ["0: asked", "4: body gone", "4: dropped", "10: task gone"]);
    });
}

#[test]
fn tasks_of_a_dropped_owner_can_spawn_during_the_grace() {
    on_both(|| async {
        let (log, said) = (Log::default(), Log::default());
        let outcome: Outcome = Pool::open(async |_| {
            let inner = with_grace(Duration::MAX).build();
            let (log, begun) = (log.clone(), said.clone());
            inner.spawn(async move {
                begun.push("began");
                asked().await;
                let helper = Pool::<BoxError>::current().spawn_with_handle(async { Ok(7) });
                log.push(format!("{:?}", helper.await));
            });
            let mut run = pin!(inner.run());
            assert!(poll_once(run.as_mut()).await.is_pending());
            until(|| !said.events().is_empty()).await;
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(log.events(), ["Ok(7)"]);
    });
}

#[test]
fn what_fails_in_the_grace_of_a_dropped_owner_is_a_cleanup_failure() {
    on_both(|| async {
        let begun = Alive::default();
        let outcome: Outcome = Pool::open(async |_| {
            let inner = with_grace(Duration::MAX).build();
            for message in ["first", "second"] {
                let begun = begun.clone();
                inner.spawn(async move {
                    let _one = begun.one();
                    asked().await;
                    Err(message.into())
                });
            }
            let mut run = pin!(inner.run());
            assert!(poll_once(run.as_mut()).await.is_pending());
            until(|| begun.count() == 2).await;
            Ok(())
        })
        .await;
        let error = outcome.unwrap_err();
        let mut texts = failures(error.cleanup_failures());
        texts.sort();
        assert_eq!(texts, ["error: first", "error: second"]);
        assert!(error.failures().is_empty());
        assert_eq!(begun.count(), 0);
    });
}

#[test]
fn a_panic_of_the_body_whose_owner_is_dropped_in_the_grace_is_a_cleanup_failure() {
    on_both(|| async {
        let outcome: Outcome = Pool::open(async |_| {
            let release = LatchEvent::new();
            {
                let mut opened = pin!(with_grace(Duration::MAX).open(async |pool: Pool| -> Result<(), BoxError> {
                    pool.spawn(release.wait_set());
                    quiet_panic("body")
                }));
                stays_pending(opened.as_mut()).await;
            }
            release.set();
            Ok(())
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(failures(error.cleanup_failures()), ["panic: body"]);
        assert!(error.cleanup_failures()[0].task().is_body());
    });
}

#[test]
fn with_no_enclosing_pool_the_runtime_carries_the_grace_on() {
    on_current_thread(|| async {
        let clock = Clock::start();
        {
            let inner = with_grace(GRACE).build();
            inner.spawn(clock.stubborn("gone"));
            let mut run = pin!(inner.run());
            assert!(poll_once(run.as_mut()).await.is_pending());
            sleep(secs(1)).await;
        }
        clock.say("dropped");
        sleep(secs(9)).await;
        assert_eq!(clock.events(), ["1: dropped", "1: asked"]);
        sleep(secs(2)).await;
        assert_eq!(clock.events()[2..], ["11: gone"]);
    });
}

#[test]
fn an_owner_that_is_dropped_during_the_abort_is_waited_for() {
    with_and_without_grace(async |w| {
        let (ended, alive) = (Arc::new(AtomicBool::new(false)), w.alive.clone());
        let grace = if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO };
        let outcome: Outcome = Pool::open(async |_| {
            let (release, blocked) = mpsc::channel::<()>();
            let (begun, running) = oneshot::channel();
            {
                let (inner, ended, one) = (with_grace(grace).build(), Arc::clone(&ended), alive.one());
                inner.spawn_blocking(move || {
                    let _one = one;
                    begun.send(()).unwrap();
                    let _ = blocked.recv();
                    ended.store(true, Ordering::SeqCst);
                });
                let aborted = Alive::default();
                let one = aborted.one();
                inner.spawn(async move {
                    let _one = one;
                    pending::<()>().await
                });
                let mut run = pin!(inner.clone().run());
                assert!(poll_once(run.as_mut()).await.is_pending());
                running.await?;
                inner.cancel();
                // The clock of the runtime stands still as long as the closure runs.
                while aborted.count() > 0 {
                    assert!(poll_once(run.as_mut()).await.is_pending());
                    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
                        tokio::time::advance(Duration::from_millis(1)).await;
                    }
                    yield_now().await;
                }
                assert!(inner.try_spawn(async {}).is_err());
            }
            assert!(!ended.load(Ordering::SeqCst));
            drop(release);
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert!(ended.load(Ordering::SeqCst));
        assert_eq!(w.alive.count(), 0);
    });
}

#[test]
fn a_future_that_was_never_polled_leaves_nothing_to_be_graceful_with() {
    on_both(|| async {
        let alive = Alive::default();
        let pool = with_grace(Duration::MAX).build();
        let one = alive.one();
        pool.spawn(async move {
            let _one = one;
            asked().await;
        });
        drop(pool.clone().run());
        assert_eq!(alive.count(), 0);
        assert!(pool.is_closed() && pool.try_spawn(async {}).is_err());
    });
}

// ===== runtimes that end =====

fn runtimes() -> [tokio::runtime::Runtime; 2] {
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    [current, multi]
}

#[test]
fn a_runtime_that_is_dropped_in_the_middle_of_the_grace_ends_everything() {
    for grace in [secs(1_000_000), Duration::MAX] {
        watched(move || {
            for runtime in runtimes() {
                let (alive, log) = (Alive::default(), Log::default());
                let seen = |event: &str| log.events().iter().filter(|seen| *seen == event).count();
                runtime.block_on(async {
                    let inner = with_grace(grace).build();
                    for _ in 0..3 {
                        let (one, log) = (alive.one(), log.clone());
                        inner.spawn(async move {
                            let _one = one;
                            log.push("began");
                            asked().await;
                            log.push("asked");
                            pending::<()>().await
                        });
                    }
                    let outer = with_grace(grace).build();
                    outer.spawn(async move { inner.run().await.map_err(BoxError::from) });
                    drop(tokio::spawn(outer.clone().run()));
                    until(|| seen("began") == 3).await;
                    outer.cancel();
                    until(|| seen("asked") == 3).await;
                });
                assert_eq!(alive.count(), 3);
                drop(runtime);
                assert_eq!(alive.count(), 0);
            }
        });
    }
}

#[test]
fn a_pool_whose_runtime_is_dropped_in_its_grace_can_still_be_polled_elsewhere() {
    watched(|| {
        for runtime in runtimes() {
            let (alive, heard) = (Alive::default(), Log::default());
            let pool = with_grace(Duration::MAX).build();
            let (one, said) = (alive.one(), heard.clone());
            pool.spawn(async move {
                let _one = one;
                asked().await;
                said.push("asked");
                pending::<()>().await
            });
            let mut run = Box::pin(pool.clone().run());
            runtime.block_on(async {
                stays_pending(run.as_mut()).await;
                pool.cancel();
                stays_pending(run.as_mut()).await;
                until(|| heard.events().len() == 1).await;
            });
            drop(runtime);
            assert_eq!(alive.count(), 0);
            let [other, _] = runtimes();
            let error = other.block_on(run).unwrap_err();
            assert_eq!(failures(error.failures()), ["cancelled"]);
        }
    });
}

#[test]
fn a_pool_in_a_blocking_closure_ends_when_its_runtime_is_dropped_in_the_grace() {
    // A timer that is polled in a runtime that shuts down panics; it must not abort the process.
    for (grace, ends) in [(secs(1_000_000), "panicked"), (Duration::MAX, "failures: 1")] {
        let events = watched(move || {
            runtimes().map(|runtime| {
                let (alive, log) = (Alive::default(), Log::default());
                let (one, said) = (alive.one(), log.clone());
                runtime.block_on(async {
                    drop(tokio::task::spawn_blocking(move || {
                        let pool = with_grace(grace).build();
                        let (stop, in_task) = (pool.clone(), said.clone());
                        pool.spawn(async move {
                            let _one = one;
                            stop.cancel();
                            asked().await;
                            in_task.push("asked");
                            pending::<()>().await
                        });
                        let run = || Handle::current().block_on(pool.run());
                        said.push(match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                            Ok(ended) => format!("failures: {}", ended.unwrap_err().failures().len()),
                            Err(_) => "panicked".to_owned(),
                        });
                    }));
                    until(|| !log.events().is_empty()).await;
                });
                drop(runtime);
                assert_eq!(alive.count(), 0);
                log.events()
            })
        });
        for events in events {
            assert_eq!(events[0], "asked");
            // Which of the two it hears of first is not decided.
            assert!(events[1..] == [ends] || events[1..] == ["failures: 1"], "{events:?}");
        }
    }
}

#[test]
fn a_runtime_without_timers_is_reported_by_a_panic_and_leaves_nothing_behind() {
    watched(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let alive = Alive::default();
            let pool = with_grace(GRACE).build();
            let (one, stop) = (alive.one(), pool.clone());
            pool.spawn(async move {
                let _one = one;
                stop.cancel();
                pending::<()>().await
            });
            let panic = panic_of(pool.run()).await;
            assert!(panic.contains("the `grace` of a pool") && panic.contains("enable_time"), "{panic}");
            assert_eq!(alive.count(), 0);

            // For ever takes no timer.
            let pool = with_grace(Duration::MAX).build();
            let (one, stop) = (alive.one(), pool.clone());
            pool.spawn(async move {
                let _one = one;
                stop.cancel();
                asked().await;
            });
            pool.run().await.unwrap();
            assert_eq!(alive.count(), 0);
        });
    });
}

// ===== deadlines =====

#[test]
fn a_timeout_around_a_pool_is_up_when_the_grace_after_it_is() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let pool = with_grace(GRACE).build();
        pool.spawn(clock.stubborn("gone"));
        assert!(timeout(secs(1), pool.run()).await.is_err());
        clock.say("returned");
        assert_eq!(clock.events(), ["1: asked", "11: gone", "11: returned"]);
    });
}

#[test]
fn a_timeout_around_a_pool_waits_no_longer_than_its_tasks_need() {
    on_current_thread(|| async {
        let begin = Instant::now();
        let pool = with_grace(GRACE).build();
        pool.spawn(async {
            asked().await;
            sleep(secs(2)).await;
        });
        assert!(timeout(secs(1), pool.run()).await.is_err());
        assert_eq!(begin.elapsed(), secs(3));
    });
}

#[test]
fn a_timeout_in_the_middle_of_the_grace_leaves_the_rest_of_it() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let pool = with_grace(GRACE).build();
        pool.spawn(clock.stubborn("gone"));
        pool.cancel_on(sleep(secs(1)));
        assert!(timeout(secs(5), pool.run()).await.is_err());
        clock.say("returned");
        assert_eq!(clock.events(), ["1: asked", "11: gone", "11: returned"]);
    });
}

#[test]
fn a_pool_that_is_cancelled_and_ends_before_the_deadline_has_not_timed_out() {
    on_current_thread(|| async {
        let begin = Instant::now();
        let opened = with_grace(secs(3)).open(async |pool: Pool| -> Result<(), BoxError> {
            pool.cancel_on(sleep(secs(1)));
            pending().await
        });
        let outcome = timeout(secs(5), opened).await.expect("it was quicker");
        assert!(outcome.unwrap_err().is_cancelled());
        assert_eq!(begin.elapsed(), secs(4));
    });
}

#[test]
fn what_fails_in_the_grace_after_a_timeout_is_a_cleanup_failure() {
    on_current_thread(|| async {
        let outcome: Outcome = Pool::open(async |_| {
            let inner = with_grace(GRACE).build();
            inner.spawn(async {
                asked().await;
                Err("while tidying up".into())
            });
            assert!(timeout(secs(1), inner.run()).await.is_err());
            Ok(())
        })
        .await;
        assert_eq!(failures(outcome.unwrap_err().cleanup_failures()), ["error: while tidying up"]);
    });
}

#[test]
fn a_timeout_that_is_nested_in_another_lets_the_first_deadline_decide() {
    on_current_thread(|| async {
        for (outer, inner) in [(1, 5), (5, 1)] {
            let (begin, clock) = (Instant::now(), Clock::start());
            let pool = with_grace(secs(2)).build();
            pool.spawn(clock.stubborn("gone"));
            let outcome = timeout(secs(outer), timeout(secs(inner), pool.run())).await;
            assert_eq!(outcome.is_err(), outer == 1);
            assert_eq!((clock.events(), begin.elapsed()), (vec!["1: asked".into(), "3: gone".into()], secs(3)));
        }
    });
}

#[test]
fn a_timeout_of_no_time_still_asks_the_tasks_that_were_launched() {
    on_current_thread(|| async {
        let clock = Clock::start();
        let pool = with_grace(GRACE).build();
        pool.spawn(clock.stubborn("gone"));
        assert!(timeout(Duration::ZERO, pool.run()).await.is_err());
        assert_eq!(clock.events(), ["0: asked", "10: gone"]);
    });
}

#[test]
fn a_timeout_without_end_around_a_pool_changes_nothing() {
    on_both(|| async {
        let opened = with_grace(Duration::MAX).open(async |pool: Pool| {
            pool.spawn(asked());
            pool.cancel();
            Ok::<_, BoxError>(7)
        });
        assert_eq!(timeout(Duration::MAX, opened).await.unwrap().unwrap(), 7);
    });
}

#[test]
fn the_caller_of_a_timeout_is_not_asked_and_goes_on() {
    on_current_thread(|| async {
        let outcome: Outcome<_> = with_grace(GRACE)
            .open(async |pool| {
                let inner: Pool = with_grace(secs(1)).build();
                inner.spawn(pending::<()>());
                assert!(timeout(secs(1), inner.run()).await.is_err());
                assert!(!cancellation_token().is_cancelled() && !pool.is_closed());
                let later = pool.spawn_with_handle(async { Ok(7) });
                Ok(later.await?)
            })
            .await;
        assert_eq!(outcome.unwrap(), 7);
    });
}
