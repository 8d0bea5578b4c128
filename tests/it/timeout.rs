//! `timeout` and `timeout_at`.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, cancellation_token, timeout, timeout_at, try_all, wait_all};
use macro_rules_attribute::apply;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, sleep};
use tokio_test::task;

use crate::support::{
    Alive, GRACE, Log, OnDrop, Outcome, asked, both, busy, cleanup_of, current_thread, drop_group, failures,
    leaves_behind, opened, panic_of, panic_text, panics_in_drop, poll_once, secs, stays_pending, until, watched,
    with_grace, with_stubborn_task,
};

// ===== deadlines =====

#[apply(current_thread)]
async fn a_timeout_around_a_pool_is_up_when_the_grace_after_it_is() {
    let (pool, clock) = with_stubborn_task(GRACE);
    assert!(timeout(secs(1), pool.run()).await.is_err());
    clock.say("returned");
    assert_eq!(clock.events(), ["1: asked", "11: gone", "11: returned"]);
}

#[apply(current_thread)]
async fn a_timeout_around_a_pool_waits_no_longer_than_its_tasks_need() {
    let begin = Instant::now();
    let pool = with_grace(GRACE).build();
    pool.spawn(async {
        asked().await;
        sleep(secs(2)).await;
    });
    assert!(timeout(secs(1), pool.run()).await.is_err());
    assert_eq!(begin.elapsed(), secs(3));
}

#[apply(current_thread)]
async fn a_timeout_in_the_middle_of_the_grace_leaves_the_rest_of_it() {
    let (pool, clock) = with_stubborn_task(GRACE);
    pool.cancel_on(sleep(secs(1)));
    assert!(timeout(secs(5), pool.run()).await.is_err());
    clock.say("returned");
    assert_eq!(clock.events(), ["1: asked", "11: gone", "11: returned"]);
}

#[apply(current_thread)]
async fn a_pool_that_is_cancelled_and_ends_before_the_deadline_has_not_timed_out() {
    let begin = Instant::now();
    let opened = with_grace(secs(3)).open(async |pool: Pool| -> Result<(), BoxError> {
        pool.cancel_on(sleep(secs(1)));
        pending().await
    });
    let outcome = timeout(secs(5), opened).await.expect("it was quicker");
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!(begin.elapsed(), secs(4));
}

#[apply(current_thread)]
async fn what_fails_in_the_grace_after_a_timeout_is_a_cleanup_failure() {
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
}

#[apply(current_thread)]
async fn a_timeout_that_is_nested_in_another_lets_the_first_deadline_decide() {
    for (outer, inner) in [(1, 5), (5, 1)] {
        let (pool, clock) = with_stubborn_task(secs(2));
        let outcome = timeout(secs(outer), timeout(secs(inner), pool.run())).await;
        clock.say("returned");
        assert_eq!(outcome.is_err(), outer == 1, "{outer} around {inner}");
        assert_eq!(clock.events(), ["1: asked", "3: gone", "3: returned"], "{outer} around {inner}");
    }
}

#[apply(current_thread)]
async fn a_timeout_of_no_time_still_asks_the_tasks_that_were_launched() {
    let (pool, clock) = with_stubborn_task(GRACE);
    assert!(timeout(Duration::ZERO, pool.run()).await.is_err());
    assert_eq!(clock.events(), ["0: asked", "10: gone"]);
}

#[apply(both)]
async fn a_timeout_without_end_around_a_pool_changes_nothing() {
    let opened = with_grace(Duration::MAX).open(async |pool: Pool| {
        pool.spawn(asked());
        pool.cancel();
        Ok::<_, BoxError>(7)
    });
    assert_eq!(timeout(Duration::MAX, opened).await.unwrap().unwrap(), 7);
}

#[apply(current_thread)]
async fn the_caller_of_a_timeout_is_not_asked_and_goes_on() {
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
}

/// A future with a destructor that runs after the panic of its poll, not while that unwinds.
struct BothPanic<F, D> {
    future: F,
    _bomb: D,
}

impl<F: Future + Unpin, D: Unpin> Future for BothPanic<F, D> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.future).poll(cx)
    }
}

/// A future that whoever is woken polls at once, with what came of that each time.
struct PolledAtOnce<T> {
    future: Mutex<Option<Pin<Box<dyn Future<Output = T> + Send>>>>,
    polls: Mutex<Vec<Poll<T>>>,
}

impl<T: Send + 'static> PolledAtOnce<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { future: Mutex::new(Some(Box::pin(future))), polls: Mutex::default() })
    }

    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut future = self.future.lock().unwrap();
        let polled = future.as_mut().map(|future| future.as_mut().poll(&mut Context::from_waker(&waker)));
        if polled.as_ref().is_some_and(Poll::is_ready) {
            *future = None;
        }
        self.polls.lock().unwrap().extend(polled);
    }
}

impl<T: Send + 'static> Wake for PolledAtOnce<T> {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

// ===== timeout =====

#[apply(both)]
async fn timeout_yields_the_output_of_what_was_in_time() {
    let in_time = async {
        tokio::task::yield_now().await;
        "in time"
    };
    assert_eq!(timeout(Duration::from_secs(1000), in_time).await, Ok("in time"));
    assert_eq!(timeout(Duration::from_secs(1), async { Err::<(), _>("failed") }).await, Ok(Err("failed")));
}

#[apply(both)]
async fn timeout_fails_with_the_error_of_tokio() {
    let elapsed: Result<(), tokio::time::error::Elapsed> = timeout(Duration::ZERO, pending()).await;
    assert_eq!(elapsed.unwrap_err().to_string(), "deadline has elapsed");
}

#[apply(current_thread)]
async fn timeout_lasts_as_long_as_it_says() {
    let start = Instant::now();
    assert!(timeout(Duration::from_secs(5), sleep(Duration::from_secs(6))).await.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert!(timeout(Duration::from_secs(5), sleep(Duration::from_secs(4))).await.is_ok());
    assert_eq!(start.elapsed(), Duration::from_secs(9));
}

#[apply(both)]
async fn timeout_of_zero_is_lost_to_a_future_that_is_ready_at_the_first_poll() {
    assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1));
    let polls = Cell::new(0);
    let waiting = poll_fn(|_| {
        polls.set(polls.get() + 1);
        Poll::<()>::Pending
    });
    assert!(timeout(Duration::ZERO, waiting).await.is_err());
    // In real time, tokio's timers are rounded up to the next millisecond: it may have been polled then, too.
    let is_paused = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    assert!(polls.get() == 1 || (polls.get() > 1 && !is_paused), "{polls:?}");
}

#[apply(current_thread)]
async fn timeout_is_lost_to_a_future_that_blocks_its_thread_past_the_limit_and_is_ready_then() {
    let begin = Instant::now();
    let blocking = async {
        // The limit has begun.
        tokio::task::yield_now().await;
        // The clock moves on within one poll.
        assert!(poll_once(pin!(advance(Duration::from_secs(2)))).await.is_pending());
        2
    };
    assert_eq!(timeout(Duration::from_secs(1), blocking).await, Ok(2));
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}

#[apply(both)]
async fn timeout_can_be_without_limit() {
    let gate = LatchEvent::new();
    let mut waiting = pin!(timeout(Duration::MAX, gate.wait_set()));
    stays_pending(waiting.as_mut()).await;
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        // Most of what is left of the million seconds that a test may take.
        advance(Duration::from_secs(900_000)).await;
        stays_pending(waiting.as_mut()).await;
    }
    gate.set();
    assert_eq!(waiting.await, Ok(()));
}

#[apply(current_thread)]
async fn timeout_counts_from_the_call() {
    let start = Instant::now();
    let limited = timeout(Duration::from_secs(5), pending::<()>());
    advance(Duration::from_secs(3)).await;
    assert!(limited.await.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[apply(current_thread)]
async fn timeout_at_takes_a_deadline_of_the_past_as_one_of_now() {
    let past = Instant::now();
    advance(Duration::from_secs(3)).await;
    let now = Instant::now();
    assert_eq!(timeout_at(past, async { 1 }).await, Ok(1), "what is ready wins");
    assert!(timeout_at(past, pending::<()>()).await.is_err());
    assert_eq!(Instant::now(), now);
}

#[apply(current_thread)]
async fn timeout_at_lasts_until_its_deadline() {
    let deadline = Instant::now() + Duration::from_secs(7);
    assert_eq!(timeout_at(deadline, sleep(Duration::from_secs(6))).await, Ok(()));
    assert!(timeout_at(deadline, pending::<()>()).await.is_err());
    assert_eq!(Instant::now(), deadline);
}

#[apply(current_thread)]
async fn timeouts_nest_and_the_shorter_one_elapses() {
    let limits = [(1, 10, 1), (10, 1, 1), (3, 4, 3)];
    for (outer, inner, elapsed) in limits {
        let start = Instant::now();
        let nested = timeout(Duration::from_secs(inner), pending::<()>());
        let outcome = timeout(Duration::from_secs(outer), nested).await;
        assert_eq!(outcome.is_err(), outer < inner, "{outer} around {inner}");
        assert!(outcome.is_err() || outcome.unwrap().is_err(), "{outer} around {inner}");
        assert_eq!(start.elapsed(), Duration::from_secs(elapsed), "{outer} around {inner}");
    }
}

#[apply(both)]
async fn timeout_has_dropped_what_it_cut_off() {
    let alive = Alive::default();
    let slow = alive.slow();
    let cut_off = async move {
        let _slow = slow;
        pending::<()>().await
    };
    // Still held when it has returned.
    let mut limited = pin!(timeout(Duration::ZERO, cut_off));
    assert!(limited.as_mut().await.is_err());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn timeout_returns_when_the_tasks_of_what_was_dropped_in_it_have_ended() {
    let alive = Alive::default();
    let nested = Pool::open(async |pool: Pool| {
        for _ in 0..3 {
            let (alive, slow) = (alive.clone(), alive.slow());
            pool.spawn(async move {
                let _slow = slow;
                let deeper: Result<(), PoolError> = Pool::open(async |pool: Pool| {
                    let slow = alive.slow();
                    pool.spawn(async move {
                        let _slow = slow;
                        busy().await;
                    });
                    pending().await
                })
                .await;
                deeper.unwrap();
            });
        }
        until(|| alive.count() == 6).await;
        pending::<Result<(), BoxError>>().await
    });
    // Ready as soon as everything runs, as a timer would be.
    let begun = timeout(Duration::MAX, async {
        tokio::select! {
            _ = nested => unreachable!("it is pending"),
            () = until(|| alive.count() == 6) => {}
        }
    });
    assert_eq!(begun.await, Ok(()));
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn timeout_waits_for_what_is_left_behind_however_long_that_takes() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let mut limited = pin!(timeout(Duration::ZERO, async {
        leaves_behind(&gate, &log);
        pending::<()>().await
    }));
    stays_pending(limited.as_mut()).await;
    gate.set();
    assert!(limited.await.is_err(), "it elapsed all the same");
    assert_eq!(log.events(), ["left behind"]);
}

#[apply(both)]
async fn timeout_cuts_off_what_never_runs_out_of_work() {
    let working = async {
        loop {
            tokio::task::consume_budget().await;
        }
    };
    assert!(timeout(Duration::ZERO, working).await.is_err());
}

#[test]
fn timeout_cuts_off_what_yields_for_ever_in_real_time() {
    watched(|| {
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                assert!(timeout(Duration::from_millis(1), busy()).await.is_err());
            });
        }
    });
}

#[apply(both)]
async fn timeout_lets_a_panic_through_when_everything_below_has_ended() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let panicking = async {
        leaves_behind(&gate, &log);
        panic!("inside")
    };
    let mut limited = Box::pin(timeout(Duration::MAX, panicking));
    stays_pending(limited.as_mut()).await;
    gate.set();
    assert_eq!(panic_of(limited).await, "inside");
    assert_eq!(log.events(), ["left behind"]);
}

#[apply(both)]
async fn timeout_reports_what_fails_below_it_to_the_enclosing_pool() {
    let cleanup = cleanup_of(async || {
        let nested = Pool::open(async |pool: Pool| {
            let panics_in_drop = OnDrop::new(|| panic!("in drop"));
            pool.spawn(async move {
                let _bomb = panics_in_drop;
                pending::<()>().await
            });
            pending::<Result<(), BoxError>>().await
        });
        assert!(timeout(Duration::ZERO, nested).await.is_err());
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(both)]
async fn timeout_that_is_dropped_while_it_waits_tells_the_enclosing_pool_of_a_panic() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let mut opened = pin!(cleanup_of(async || {
        let panics_at_the_limit = async {
            let _bomb = OnDrop::new(|| panic!("in drop"));
            leaves_behind(&gate, &log);
            pending::<()>().await
        };
        let panics = async {
            leaves_behind(&gate, &log);
            panic!("inside")
        };
        let past = Instant::now() - Duration::from_secs(1);
        let mut elapsed = Box::pin(timeout_at(past, panics_at_the_limit));
        assert!(poll_once(elapsed.as_mut()).await.is_pending());
        let mut panicked = Box::pin(timeout(Duration::MAX, panics));
        assert!(poll_once(panicked.as_mut()).await.is_pending());
    }));
    stays_pending(opened.as_mut()).await;
    gate.set();
    assert_eq!(opened.await, ["panic: inside", "panic: in drop"]);
}

#[apply(both)]
async fn timeout_resumes_a_panic_and_reports_that_of_the_destructor() {
    let cleanup = cleanup_of(async || {
        let panicking = poll_fn(|_| -> Poll<()> { panic!("inside") });
        let panics_in_drop = OnDrop::new(|| panic!("in drop"));
        let both = BothPanic { future: panicking, _bomb: panics_in_drop };
        assert_eq!(panic_of(timeout(Duration::MAX, both)).await, "inside");
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(both)]
async fn timeout_and_a_dropped_group_name_the_line_of_their_call_in_a_cleanup_failure() {
    let lines = Cell::new([0; 4]);
    let error = Pool::open(async |_: Pool| {
        let both = |future| BothPanic { future, _bomb: panics_in_drop() };
        let panicking = || poll_fn(|_| -> Poll<()> { panic!("inside") });
        let limited = timeout(Duration::MAX, both(panicking()));
        let first = line!() - 1;
        assert_eq!(panic_of(limited).await, "inside");
        let limited = timeout_at(Instant::now(), both(panicking()));
        let second = line!() - 1;
        assert_eq!(panic_of(limited).await, "inside");
        let third = line!() + 1;
        drop_group(false, |gate| try_all((ready(Err::<(), _>("broken")), opened(gate)))).await;
        let fourth = line!() + 1;
        drop_group(false, |gate| wait_all((ready(Err::<(), _>("broken")), opened(gate)))).await;
        lines.set([first, second, third, fourth]);
        Ok(())
    })
    .await
    .unwrap_err();
    let sites = error.cleanup_failures().iter().map(|failed| failed.task().spawned_at());
    let found: Vec<_> = sites.map(|at| (at.file(), at.line())).collect();
    assert_eq!(found, lines.get().map(|line| (file!(), line)));
}

/// A scope of a pool told its driver of its end while it still held the scope of the `timeout` around. So the pool
/// returned, and the `timeout` had to wait; dropped then, it took along what the pool had returned, with its failures.
#[apply(both)]
async fn timeout_passes_on_what_a_pool_returns_as_soon_as_it_does() {
    let (fail, failing) = oneshot::channel::<()>();
    let pool = Pool::<BoxError>::new();
    pool.spawn(async {
        failing.await?;
        Err("late".into())
    });
    let polled = PolledAtOnce::new(timeout(Duration::from_secs(3_600), pool.run()));
    polled.poll();
    fail.send(()).unwrap();
    until(|| polled.polls.lock().unwrap().last().is_some_and(Poll::is_ready)).await;
    let polls = std::mem::take(&mut *polled.polls.lock().unwrap());
    let [.., Poll::Ready(Ok(Err(error)))] = &polls[..] else { panic!("{polls:?}") };
    assert_eq!(failures(error.failures()), ["error: late"]);
}

#[apply(both)]
async fn timeout_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let mut opened = pin!(cleanup_of(async || {
        let mut limited = Box::pin(timeout(Duration::MAX, async {
            leaves_behind(&gate, &log);
            pending::<()>().await
        }));
        assert!(poll_once(limited.as_mut()).await.is_pending());
    }));
    stays_pending(opened.as_mut()).await;
    gate.set();
    assert!(opened.await.is_empty());
    assert_eq!(log.events(), ["left behind"]);
}

#[apply(both)]
async fn timeout_in_a_pool_that_is_cancelled_does_not_elapse() {
    let outcome: Result<(), PoolError> = Pool::open(async |pool: Pool| {
        pool.cancel();
        drop(timeout(Duration::from_secs(1000), pending::<()>()).await);
        unreachable!("the body is cut short")
    })
    .await;
    let error = outcome.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
}

#[test]
fn timeout_needs_a_runtime_with_timers_when_it_is_polled() {
    for limit in [Duration::ZERO, Duration::from_secs(1)] {
        let limited = timeout(limit, pending::<()>());
        let line = line!() - 1;
        let message = panic_text(|| task::spawn(limited).poll());
        assert!(message.starts_with(&format!("`timeout` at {}:{line}:", file!())), "{limit:?}: {message}");
        assert!(message.contains("was polled outside of a tokio runtime"), "{limit:?}: {message}");

        let without_timers = Builder::new_current_thread().build().unwrap();
        let message = panic_text(|| without_timers.block_on(async { drop(timeout(limit, ready(())).await) }));
        assert!(message.contains("timers are disabled"), "{limit:?}: {message}");
    }
}
