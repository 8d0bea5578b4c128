//! Destructors, errors, wakers and policies that call the pool back.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use aiodrive::{
    BoxError, LatchEvent, OnFailure, Pool, Started, TaskGroup, TaskStopped, cancel_task, map, prime, race, shield,
    timeout, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::support::{
    Alive, Counted, Meddler, OnDrop, Outcome, ReadyWith, both, failures, meddle, meddled, meddling, panic_of,
    poll_once, poll_until, quiet_panic, turning, turns, until,
};

/// An error that meddles with its pool when it is converted, and when it is dropped, and is counted until then.
struct Meddlesome {
    pool: Pool<Self>,
    _counted: Counted,
}

impl std::fmt::Display for Meddlesome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("meddlesome")
    }
}

impl Drop for Meddlesome {
    fn drop(&mut self) {
        meddle(&self.pool);
    }
}

impl From<Meddlesome> for BoxError {
    fn from(error: Meddlesome) -> Self {
        meddle(&error.pool);
        "meddlesome".into()
    }
}

/// An error that uses its pool when it is asked for its cause.
#[derive(Debug)]
struct Inquisitive(Pool, Arc<AtomicUsize>);

impl fmt::Display for Inquisitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inquisitive")
    }
}

impl Error for Inquisitive {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        meddle(&self.0);
        self.1.fetch_add(1, Ordering::SeqCst);
        None
    }
}

/// Polls with ten wakers, one after the other, then releases what is waited for: only the last may be woken.
async fn only_the_last_is_woken<F: Future>(name: &str, future: F, release: impl FnOnce()) -> F::Output {
    let mut future = Box::pin(future);
    let mut wakers: Vec<_> = (0..10).map(|_| tokio_test::task::spawn(())).collect();
    for waker in &mut wakers {
        assert!(waker.enter(|cx, _| future.as_mut().poll(cx)).is_pending(), "{name} does not wait");
        // What it waits for gets its turn, and may register.
        turns(10).await;
    }
    assert!(wakers.iter().all(|waker| !waker.is_woken()), "{name} is woken too early");
    release();
    let last = wakers.pop().unwrap();
    until(|| last.is_woken()).await;
    assert!(wakers.iter().all(|waker| !waker.is_woken()), "{name} has woken who polled it before");
    future.await
}

#[apply(both)]
async fn a_destructor_may_use_the_pool_while_that_aborts() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        for _ in 0..10 {
            let (own, one) = (pool.clone(), alive.one());
            pool.spawn(async move {
                let _meddling = OnDrop::new(move || {
                    let _one = one;
                    meddle(&own);
                    meddle::<BoxError>(&Pool::current());
                });
                pending::<()>().await;
            });
        }
        yield_now().await;
        Err("body".into())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_destructor_may_use_the_pool_when_its_task_has_finished() {
    let outcome: Outcome = Pool::open(async |pool| {
        let own = pool.clone();
        pool.spawn(ReadyWith(OnDrop::new(move || meddle(&own)), Some(Ok(()))));
        let own = pool.clone();
        drop(pool.spawn_with_handle(async move { Ok(OnDrop::new(move || meddle(&own))) }));
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_destructor_may_use_the_pool_while_its_owner_is_dropped() {
    let alive = Alive::default();
    let mut open = Box::pin(Pool::<BoxError>::open(async |pool| {
        let (own, other, one) = (pool.clone(), pool.clone(), alive.one());
        let _body = OnDrop::new(move || meddle(&own));
        pool.spawn(async move {
            let _task = OnDrop::new(move || {
                let _one = one;
                meddle(&other);
            });
            pending::<()>().await;
        });
        pending::<Result<(), _>>().await
    }));
    assert!(poll_once(open.as_mut()).await.is_pending());
    drop(open);
    until(|| alive.count() == 0).await;
}

#[apply(both)]
async fn a_planned_task_may_use_the_pool_when_it_is_dropped() {
    let pool = Pool::<BoxError>::new();
    let own = pool.clone();
    let meddling = OnDrop::new(move || meddle(&own));
    pool.spawn(async { drop(meddling) });
    pool.cancel();
    pool.run().await.unwrap();
}

#[apply(both)]
async fn an_error_may_use_the_pool_when_it_is_discarded() {
    let (alive, pool) = (Alive::default(), Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Discard).build());
    let error = Meddlesome { pool: pool.clone(), _counted: alive.one() };
    pool.spawn(async { Err(error) });
    assert!(pool.run().await.is_ok());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn an_error_may_use_the_pool_when_the_panic_of_the_body_takes_it_along() {
    let alive = Alive::default();
    let builder = Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Collect);
    let open = builder.open(async |pool: Pool<Meddlesome>| {
        let error = Meddlesome { pool: pool.clone(), _counted: alive.one() };
        let task = pool.spawn_with_handle::<(), _>(async { Err(error) });
        assert_eq!(task.await, Err(TaskStopped::Failed));
        if true { quiet_panic("body") } else { Ok(()) }
    });
    assert_eq!(panic_of(open).await, "body");
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn an_error_may_use_the_pool_when_it_is_reported_further_out() {
    let (alive, failed) = (Alive::default(), LatchEvent::new());
    let error = Pool::open(async |_: Pool| {
        let builder = Pool::<Meddlesome>::builder().on_failure(|_| OnFailure::Collect);
        let mut inner = Box::pin(builder.open(async |inner: Pool<Meddlesome>| {
            let error = Meddlesome { pool: inner.clone(), _counted: alive.one() };
            let task = inner.spawn_with_handle::<(), _>(async { Err(error) });
            assert_eq!(task.await, Err(TaskStopped::Failed));
            failed.set();
            pending::<Result<(), _>>().await
        }));
        poll_until(inner.as_mut(), || failed.is_set()).await;
        drop(inner);
        Ok(())
    });
    assert_eq!(failures(error.await.unwrap_err().cleanup_failures()), ["error: meddlesome"]);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn an_error_may_use_the_pool_when_it_is_asked_for_its_cause() {
    let (asked, pool) = (Arc::new(AtomicUsize::new(0)), Pool::<BoxError>::new());
    let error = Inquisitive(pool.clone(), Arc::clone(&asked));
    pool.spawn(async { Err(error.into()) });
    assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: inquisitive"]);
    assert!(asked.load(Ordering::SeqCst) > 0, "it was not asked, or that has panicked");
}

#[apply(both)]
async fn the_waker_of_the_driver_may_use_the_pool() {
    for _ in 0..100 {
        let pool = Pool::<BoxError>::new();
        let own = pool.clone();
        pool.spawn(async move {
            yield_now().await;
            own.spawn(async {});
        });
        pool.spawn(pending::<()>());
        meddling(&pool.clone(), pool.run()).await.unwrap();
    }
}

#[apply(both)]
async fn the_waker_of_a_waiter_may_use_the_pool() {
    let pool = Pool::<BoxError>::new();
    let waker = Waker::from(Arc::new(Meddler(pool.clone())));
    let mut waiters: Vec<_> = (0..10).map(|_| Box::pin(pool.cancelled())).collect();
    for waiter in &mut waiters {
        assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    pool.cancel();
    drop(waker);
    for waiter in waiters {
        waiter.await;
    }
}

#[apply(both)]
async fn the_waker_of_a_handle_may_use_the_pool() {
    let outcome: Outcome<_> = Pool::open(async |pool| {
        let handle = pool.spawn_with_handle(async {
            yield_now().await;
            Ok(1)
        });
        let value = meddling(&pool, handle).await;
        assert!(matches!(value, Ok(1) | Err(TaskStopped::Cancelled)));
        yield_now().await;
        Ok(())
    })
    .await;
    // The first waker that was dropped has cancelled the pool.
    assert!(outcome.unwrap_err().is_cancelled());
}

/// A waker that calls back when it is cloned is not among these: it takes `unsafe` code, which the tests do without as
/// the crate does. Wakers are cloned before a lock is taken.
#[apply(both)]
async fn the_waker_of_whatever_waits_may_use_the_pool() {
    for turns in [0, 1, 2, 5] {
        meddled(async |pool| pool.spawn_with_handle(turning(turns)).await).await;
        meddled(async |pool| {
            pool.spawn(turning(turns));
            pool.ready().await;
        })
        .await;
        let task = async move |started: Started<()>| {
            turning(turns).await?;
            started.ready(());
            Ok(())
        };
        meddled(async |pool| pool.start(task).await).await;
        meddled(async |pool| {
            let own = pool.clone();
            pool.spawn(async move {
                turning(turns).await?;
                own.cancel();
                Ok(())
            });
            pool.cancelled().await;
        })
        .await;
        meddled(async |pool| {
            pool.spawn(turning(turns));
            pool.idle().await;
        })
        .await;
        meddled(async |pool| pool.track_future(turning(turns)).await).await;
        meddled(async |_| {
            let mut group = TaskGroup::<()>::new();
            group.spawn(turning(turns));
            group.spawn(turning(turns + 1));
            while group.next().await.is_some() {}
            group.spawn(pending());
            group.shutdown().await;
        })
        .await;
        meddled(async |_| map(2, 0..4, turning).collect().await).await;
        meddled(async |_| race([turning(turns), turning(turns + 1)]).await).await;
        meddled(async |_| try_all([turning(turns), turning(turns + 1)]).await).await;
        meddled(async |_| wait_all([turning(turns), turning(turns + 1)]).await).await;
        meddled(async |_| shield(turning(turns)).await).await;
        let body = async move |_: &mut ()| turning(turns).await;
        meddled(async |_| with_exit((), body, move |(), _| turning(turns)).await).await;
        let nested = Pool::open(async move |_: Pool| turning(turns).await);
        meddled(async |_| timeout(Duration::MAX, nested).await).await;
        meddled(async |_| prime(turning(turns)).await).await;
        meddled(async |_| cancel_task(tokio::spawn(turning(turns))).await).await;
        meddled(async |_| {
            let latch = LatchEvent::new();
            let set = latch.wait_set();
            tokio::spawn(async move {
                drop(turning(turns).await);
                latch.set();
            });
            set.await;
        })
        .await;
    }
}

#[apply(both)]
async fn whatever_waits_wakes_only_the_last_who_polled_it() {
    let pool = Pool::<BoxError>::builder().limit(1).keep_open(true).build();
    // Polled once, since a pool that begins to run wakes who waits for a slot.
    let mut run = Box::pin(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let running = tokio::spawn(run);
    let gate = LatchEvent::new();
    let wait = || {
        gate.unset();
        let opened = gate.wait_set();
        async {
            opened.await;
            Ok::<_, BoxError>(1)
        }
    };
    let set = || gate.set();
    let (opened, own) = (wait(), pool.clone());
    // First, since a slot may be freed a moment after the handle of its task is ready.
    let occupied = async {
        own.spawn(async { opened.await.map(drop) });
        own.ready().await;
    };
    only_the_last_is_woken("ready", occupied, set).await;
    let handle = pool.spawn_with_handle(wait());
    assert_eq!(only_the_last_is_woken("a handle", handle, set).await, Ok(1));
    let opened = wait();
    let start = pool.start(async |started| started.ready(opened.await.unwrap()));
    assert_eq!(only_the_last_is_woken("start", start, set).await, Ok(1));

    assert_eq!(only_the_last_is_woken("race", race([wait()]), set).await.1.unwrap(), 1);
    assert_eq!(only_the_last_is_woken("try_all", try_all([wait()]), set).await.unwrap(), [1]);
    let [outcome] = only_the_last_is_woken("wait_all", wait_all([wait()]), set).await;
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(only_the_last_is_woken("shield", shield(wait()), set).await.unwrap(), 1);
    let opened = wait();
    let visit = with_exit((), async |_| opened.await, async |_, _| Ok(()));
    assert_eq!(only_the_last_is_woken("with_exit, its body", visit, set).await.unwrap(), 1);
    let opened = wait();
    let visit = with_exit((), async |_| Ok(2), async |_, _| opened.await.map(drop));
    assert_eq!(only_the_last_is_woken("with_exit, its handler", visit, set).await.unwrap(), 2);
    let limited = timeout(Duration::MAX, wait());
    assert_eq!(only_the_last_is_woken("timeout", limited, set).await.unwrap().unwrap(), 1);
    assert_eq!(only_the_last_is_woken("prime", prime(wait()), set).await.unwrap(), 1);
    assert_eq!(only_the_last_is_woken("open", Pool::open(async |_: Pool| wait().await), set).await.unwrap(), 1);

    only_the_last_is_woken("cancelled", pool.cancelled(), || pool.cancel()).await;
    running.await.unwrap().unwrap();
}

#[apply(both)]
async fn the_last_waker_is_the_one_that_is_woken() {
    let pool = Pool::<BoxError>::new();
    let (release, released) = oneshot::channel::<()>();
    pool.spawn(async { drop(released.await) });
    let mut run = Box::pin(pool.run());
    for _ in 0..10 {
        let mut early = tokio_test::task::spawn(run.as_mut());
        assert!(early.poll().is_pending());
    }
    // It is moved to a task, whose waker is the only one that still works.
    let last = tokio::spawn(run);
    yield_now().await;
    release.send(()).unwrap();
    last.await.unwrap().unwrap();
}
