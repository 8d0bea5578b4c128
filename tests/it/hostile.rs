//! Code of the user's that panics or calls back, in each place where the crate calls it.
//!
//! `panics_in_drop`, `panic_payload`, `reentrancy` and `wakers` have more of the kind for tasks, bodies and the errors of
//! pools, `on_failure` for policies, `map` for its source and its function, `tests/tracing.rs` for subscribers.

use std::fmt;
use std::future::{Future, pending, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, LatchEvent, OnFailure, Pool, PoolError, Started, TaskError, TaskGroup, cancel_task,
    cancellation_token, map, race, shield, timeout, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::task::yield_now;

use crate::support::{
    Alive, Count, Counted, OnDrop, bomb, both, failures, meddle, multi_thread, panic_of, panic_text, poll_once,
    poll_until, poll_with_bomb, quiet_panic, turns, until,
};

/// What failed, the failures before the cleanup failures.
fn all_failures<T>(returned: Result<T, PoolError>) -> Vec<String> {
    let Err(error) = returned else { return Vec::new() };
    failures(error.failures()).into_iter().chain(failures(error.cleanup_failures())).collect()
}

// ===== wakers that panic =====

/// What a task does while somebody waits for it.
struct Job {
    gate: Pin<Box<dyn Future<Output = ()> + Send>>,
    _counted: Counted,
}

impl Job {
    async fn run(self) -> Result<(), BoxError> {
        self.gate.await;
        Ok(())
    }
}

/// Has something wait with a waker that panics, lets it come about, and awaits it: the pool comes to its end, and tells of
/// nothing but such panics.
async fn armed<F: Future>(name: &str, wait: impl FnOnce(&Pool, Job, Job) -> F) {
    let (gate, alive) = (LatchEvent::new(), Alive::default());
    let job = || Job { gate: Box::pin(gate.wait_set()), _counted: alive.one() };
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let mut waiting = pin!(wait(&pool, job(), job()));
        // What ends at once, on another thread, wakes nobody.
        let is_armed = poll_with_bomb(waiting.as_mut()).is_pending();
        turns(3).await;
        gate.set();
        if is_armed {
            waiting.await;
        }
        pool.cancel();
        Ok(())
    });
    let told = all_failures(opened.await);
    assert!(told.iter().all(|told| told == "panic: in a waker"), "{name}: {told:?}");
    assert_eq!(alive.count(), 0, "{name}");
}

#[apply(both)]
async fn a_waker_that_panics_keeps_nobody_who_waits_from_it() {
    armed("handle", |pool, one, _| pool.spawn_with_handle(one.run())).await;
    let task = |one: Job| {
        async move |started: Started<()>| {
            one.run().await?;
            started.ready(());
            Ok(())
        }
    };
    armed("start", |pool, one, _| pool.start(task(one))).await;
    armed("ready", |pool, one, _| {
        pool.spawn(one.run());
        let pool = pool.clone();
        async move { pool.ready().await }
    })
    .await;
    armed("idle", |pool, one, other| {
        pool.spawn(one.run());
        pool.spawn(other.run());
        let pool = pool.clone();
        async move { pool.idle().await }
    })
    .await;
    let cancels = |pool: &Pool, one: Job| {
        let own = pool.clone();
        pool.spawn(async move {
            one.run().await?;
            own.cancel();
            Ok(())
        });
    };
    armed("cancelled", |pool, one, _| {
        cancels(pool, one);
        let pool = pool.clone();
        async move { pool.cancelled().await }
    })
    .await;
    armed("token", |pool, one, _| {
        cancels(pool, one);
        async { cancellation_token().cancelled().await }
    })
    .await;
    armed("open", |_, one, _| {
        Pool::open(async |pool: Pool| {
            pool.spawn(one.run());
            Ok(())
        })
    })
    .await;
    armed("run", |_, one, other| {
        let nested: Pool = Pool::new();
        nested.spawn(one.run());
        nested.spawn(other.run());
        nested.run()
    })
    .await;
    armed("race", |_, one, other| race([one.run(), other.run()])).await;
    armed("try_all", |_, one, other| try_all([one.run(), other.run()])).await;
    armed("wait_all", |_, one, other| wait_all([one.run(), other.run()])).await;
    armed("shield", |_, one, _| shield(one.run())).await;
    armed("timeout", |_, one, other| {
        timeout(Duration::MAX, async {
            drop(shield(one.run()));
            drop(shield(other.run()));
        })
    })
    .await;
    armed("with_exit", |_, one, other| {
        let body = async move |_: &mut ()| {
            drop(shield(one.run()));
            Ok(())
        };
        with_exit((), body, |(), _| other.run())
    })
    .await;
    armed("group", |_, one, other| async {
        let mut group = TaskGroup::<()>::new();
        group.spawn(one.run());
        group.spawn(other.run());
        while group.next().await.is_some() {}
    })
    .await;
    armed("shutdown", |_, one, _| async {
        let mut group = TaskGroup::<()>::new();
        group.spawn(shield(one.run()));
        group.shutdown().await
    })
    .await;
    armed("map", |_, one, other| async {
        let mut items = map(2, [one, other], Job::run);
        while items.next().await.is_some() {}
    })
    .await;
    armed("collect", |_, one, other| map(2, [one, other], Job::run).collect()).await;
    armed("cancel_task", |_, one, _| {
        let held = OnDrop::new(|| drop(one));
        cancel_task(tokio::spawn(async {
            let _held = held;
            pending::<()>().await;
        }))
    })
    .await;
}

/// Listens to its token with a waker that panics, and is counted twice as soon as it does.
async fn listening(counted: (Counted, Alive)) {
    let token = cancellation_token();
    let mut cancelled = pin!(token.cancelled());
    assert!(poll_with_bomb(cancelled.as_mut()).is_pending());
    let _listens = counted.1.one();
    pending::<()>().await;
}

/// A token, which libraries wait for as well.
#[apply(both)]
async fn a_waker_of_a_token_that_panics_keeps_the_pool_from_no_step() {
    for is_dropped in [false, true] {
        let alive = Alive::default();
        let opened = Pool::open(async |_: Pool| {
            let nested: Pool = Pool::builder().grace(Duration::from_millis(5)).build();
            nested.spawn(listening((alive.one(), alive.clone())));
            let mut run = Box::pin(nested.clone().run());
            poll_until(run.as_mut(), || alive.count() == 2).await;
            if is_dropped {
                drop(run);
                return Ok(());
            }
            nested.cancel();
            Ok(run.await?)
        });
        let told = opened.await.unwrap_err().to_string();
        assert!(told.contains("panicked: in a waker"), "{told}");
        assert_eq!(alive.count(), 0, "something is left; dropped: {is_dropped}");
    }
}

#[apply(both)]
async fn a_waker_of_a_token_that_panics_while_a_body_unwinds_does_not_end_the_process() {
    let alive = Alive::default();
    let opened = Pool::open(async |pool: Pool| {
        let counted = alive.clone();
        pool.spawn(async move {
            let nested: Pool = Pool::builder().grace(Duration::from_millis(5)).build();
            nested.spawn(listening((counted.one(), counted.clone())));
            let mut run = Box::pin(nested.run());
            poll_until(run.as_mut(), || counted.count() == 2).await;
            quiet_panic("the task");
        });
        pending::<Result<(), _>>().await
    });
    let told = all_failures(opened.await);
    assert_eq!(told, ["panic: the task", "panic: in a waker"]);
    assert_eq!(alive.count(), 0);
}

// ===== wakers that call back =====

/// A waker that does something when it is woken.
struct Calls<F>(F);

impl<F: Fn() + Send + Sync> Wake for Calls<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// The waker of one who waits for a thing asks for the same thing.
#[apply(both)]
async fn a_waker_may_wait_for_the_same_again() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let (gate, woken) = (LatchEvent::new(), Arc::new(AtomicUsize::new(0)));
        let open = gate.wait_set();
        pool.spawn(open);
        let (own, count) = (pool.clone(), Arc::clone(&woken));
        let waker = Waker::from(Arc::new(Calls(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let waits: [Pin<Box<dyn Future<Output = ()>>>; 3] =
                [Box::pin(own.ready()), Box::pin(own.idle()), Box::pin(own.cancelled())];
            for mut wait in waits {
                let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
        })));
        let mut waits: [Pin<Box<dyn Future<Output = ()>>>; 3] =
            [Box::pin(pool.ready()), Box::pin(pool.idle()), Box::pin(pool.cancelled())];
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        gate.set();
        until(|| woken.load(Ordering::SeqCst) >= 2).await;
        pool.cancel();
        assert!(woken.load(Ordering::SeqCst) >= 3);
        for wait in waits {
            wait.await;
        }
        Ok(())
    });
    opened.await.unwrap();
}

// ===== destructors that call back =====

async fn holding<T>(held: T) -> Result<(), BoxError> {
    let _held = held;
    pending().await
}

#[apply(both)]
async fn a_destructor_in_a_function_that_is_dropped_may_use_the_pool() {
    // How many branches each of them has.
    for (which, branches) in [2, 2, 2, 1, 1, 2, 1, 1, 1].into_iter().enumerate() {
        let meddled = Count::default();
        let opened = Pool::open(async |pool: Pool| {
            let meddler = || {
                let (pool, meddled) = (pool.clone(), meddled.clone());
                OnDrop::new(move || {
                    meddle(&pool);
                    meddled.up();
                })
            };
            let branch = || holding(meddler());
            let mut waiting: Pin<Box<dyn Future<Output = ()>>> = match which {
                0 => Box::pin(async { drop(race([branch(), branch()]).await) }),
                1 => Box::pin(async { drop(try_all([branch(), branch()]).await) }),
                2 => Box::pin(async { drop(wait_all([branch(), branch()]).await) }),
                3 => Box::pin(async { drop(timeout(Duration::MAX, branch()).await) }),
                4 => Box::pin(async {
                    let mut group = TaskGroup::<()>::new();
                    group.spawn(branch());
                    drop(group.next().await);
                }),
                5 => Box::pin(async { drop(map(2, 0..4, |_| branch()).collect().await) }),
                6 => Box::pin(async { drop(pool.track_future(branch()).await) }),
                7 => Box::pin(async {
                    let body = async |_: &mut OnDrop<_>| pending::<Result<(), BoxError>>().await;
                    drop(with_exit(meddler(), body, |_, _| ready(Ok(()))).await);
                }),
                _ => Box::pin(async {
                    let nested: Pool = Pool::new();
                    nested.spawn(branch());
                    drop(nested.run().await);
                }),
            };
            for _ in 0..5 {
                assert!(poll_once(waiting.as_mut()).await.is_pending(), "{which} ended before it was dropped");
                yield_now().await;
            }
            drop(waiting);
            // Cancelled by what was dropped, if that had a moment.
            pool.cancel();
            Ok(())
        });
        assert_eq!(all_failures(opened.await), [""; 0], "{which}");
        assert_eq!(meddled.get(), branches, "{which}");
    }
}

// ===== policies =====

/// A hook that holds something.
fn never(held: impl Send + Sync + 'static) -> impl Fn(&BoxError) -> bool + Send + Sync {
    move |_| {
        let _held = &held;
        false
    }
}

/// Its failure has no owner when it comes.
async fn orphan(message: &'static str) {
    let body = async |_: &mut ()| pending::<Result<(), BoxError>>().await;
    let mut visit = Box::pin(with_exit((), body, async move |(), _: Exit| Err(message.into())));
    assert!(poll_once(visit.as_mut()).await.is_pending());
}

#[apply(multi_thread)]
async fn a_policy_that_an_abandoned_task_drops_last_may_panic_and_loses_no_failure() {
    let (release, blocked) = mpsc::channel::<()>();
    let (blocked, asked) = (Mutex::new(blocked), Arc::new(AtomicBool::new(false)));
    let [policy, hook] = ["policy", "hook"].map(bomb);
    let is_asked = Arc::clone(&asked);
    let builder = Pool::builder().keep_open(true).abandon_after(Duration::from_millis(1));
    let inner: Pool = builder
        .on_cleanup_failure(move |_| {
            let _held = &policy;
            is_asked.store(true, Ordering::SeqCst);
            let _ = blocked.lock().unwrap().recv();
            OnFailure::Collect
        })
        .is_cancellation(never(hook))
        .build();
    inner.spawn(orphan("too late"));
    let outer = Pool::open(async |outer: Pool| {
        let run = inner.clone().run();
        let run = outer.spawn_with_handle(async { Ok(run.await.is_err()) });
        until(|| asked.load(Ordering::SeqCst)).await;
        inner.cancel();
        assert!(run.await?, "it has given up on something");
        // The pool has returned, and let go of its policies.
        drop(release);
        Ok(())
    });
    let error = outer.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["error: too late"]);
}

#[apply(both)]
async fn a_hook_that_panics_as_it_is_dropped_is_a_failure_although_nothing_else_has_failed() {
    let builder = Pool::builder().is_cancellation(never(bomb("hook")));
    let error = builder.open(async |_: Pool| Ok(1)).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: hook"]);
}

#[test]
fn the_policies_of_a_pool_that_never_runs_may_all_panic_as_they_are_dropped() {
    assert_eq!(panic_text(|| drop(with_bombs(Pool::builder()).build())), "on_failure");
    assert_eq!(panic_text(|| drop(with_bombs(Pool::builder()))), "on_failure");
}

#[apply(both)]
async fn the_policies_of_a_pool_that_is_dropped_may_panic_and_the_enclosing_pool_has_it() {
    let error = Pool::open(async |_: Pool| {
        let mut inner =
            Box::pin(with_bombs(Pool::builder()).open(async |_: Pool| pending::<Result<(), BoxError>>().await));
        assert!(poll_once(inner.as_mut()).await.is_pending());
        Ok(())
    });
    let expected = ["panic: on_failure", "panic: on_cleanup_failure", "panic: is_cancellation"];
    assert_eq!(failures(error.await.unwrap_err().cleanup_failures()), expected);
}

#[apply(both)]
async fn a_policy_of_cleanup_failures_that_panics_keeps_them() {
    let policy = |_: &TaskError| -> OnFailure { quiet_panic("the policy") };
    let opened = Pool::builder().on_cleanup_failure(policy).open(async |_: Pool| {
        orphan("one").await;
        orphan("two").await;
        Ok(())
    });
    let error = opened.await.unwrap_err();
    let mut told = failures(error.cleanup_failures());
    told.sort();
    assert!(error.failures().is_empty() && told == ["error: one", "error: two"], "{error}");
}

#[apply(both)]
async fn a_policy_of_cleanup_failures_may_use_its_pool() {
    let (asked, own) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::<Pool>::new()));
    let (count, known) = (Arc::clone(&asked), Arc::clone(&own));
    let policy = move |_: &TaskError| {
        count.fetch_add(1, Ordering::SeqCst);
        meddle(known.get().unwrap());
        OnFailure::Discard
    };
    let opened = Pool::builder().on_cleanup_failure(policy).open(async |pool: Pool| {
        assert!(own.set(pool).is_ok());
        orphan("one").await;
        until(|| asked.load(Ordering::SeqCst) > 0).await;
        Ok(())
    });
    assert_eq!(all_failures(opened.await), [""; 0]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// An error of which the pool knows nothing.
#[derive(Debug)]
struct Opaque(&'static str);

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Opaque {}

/// Of a task, of the body, and of one that the error of a pool is asked for.
#[apply(both)]
async fn a_hook_for_cancellations_that_panics_makes_its_error_a_failure() {
    let hook = |_: &Opaque| -> bool { quiet_panic("the hook") };
    let opened = Pool::builder().is_cancellation(hook).open(async |pool: Pool<Opaque>| {
        pool.spawn(async { Err(Opaque("of the task")) });
        pool.cancelled().await;
        Err::<(), _>(Opaque("of the body"))
    });
    let error = opened.await.unwrap_err();
    assert!(!error.is_cancelled());
    assert_eq!(failures(error.failures())[0], "error: of the task");
}

#[apply(both)]
async fn a_hook_for_cancellations_may_use_its_pool() {
    let (asked, own) = (Count::default(), Arc::new(OnceLock::<Pool<Opaque>>::new()));
    let (count, known) = (asked.clone(), Arc::clone(&own));
    let hook = move |_: &Opaque| {
        meddle(known.get().unwrap());
        count.up();
        true
    };
    let opened = Pool::builder().is_cancellation(hook).open(async |pool: Pool<Opaque>| {
        assert!(own.set(pool.clone()).is_ok());
        pool.spawn(async { Err(Opaque("of the task")) });
        pending::<Result<(), _>>().await
    });
    // The hook has closed it, so that the error counts no more.
    let error = opened.await.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(asked.get(), 1);
}

/// A pool with three policies, whose destructors panic.
fn with_bombs(pool: aiodrive::PoolBuilder) -> aiodrive::PoolBuilder {
    let [failure, cleanup, hook] = ["on_failure", "on_cleanup_failure", "is_cancellation"].map(bomb);
    pool.on_failure(move |_| {
        let _held = &failure;
        OnFailure::Collect
    })
    .on_cleanup_failure(move |_| {
        let _held = &cleanup;
        OnFailure::Collect
    })
    .is_cancellation(never(hook))
}

#[apply(both)]
async fn policies_may_panic_as_they_are_dropped_and_hide_no_failure() {
    let enclosing = Pool::open(async |_: Pool| {
        let pool = with_bombs(Pool::builder()).build();
        pool.spawn(async { Err("a failure".into()) });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: a failure", "panic: on_failure", "panic: on_cleanup_failure"]);
        Ok(())
    });
    // That of the hook comes when the error has been made with it.
    assert_eq!(all_failures(enclosing.await), ["panic: is_cancellation"]);
}

#[apply(both)]
async fn policies_of_a_pool_that_is_dropped_may_panic_as_they_are_dropped() {
    let enclosing = Pool::open(async |_: Pool| {
        let pool = with_bombs(Pool::builder()).build();
        pool.spawn(pending::<()>());
        let mut run = Box::pin(pool.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        drop(run);
        Ok(())
    });
    let mut told = all_failures(enclosing.await);
    told.sort();
    assert!(told.contains(&"panic: on_failure".to_owned()), "{told:?}");
    assert!(told.contains(&"panic: on_cleanup_failure".to_owned()), "{told:?}");
}

#[apply(both)]
async fn policies_of_a_pool_whose_body_panics_may_panic_as_they_are_dropped() {
    let enclosing = Pool::open(async |pool: Pool| {
        let body = |_: Pool| async { quiet_panic("the body") };
        let nested = async move { Ok(with_bombs(Pool::builder()).open::<(), _, _>(body).await?) };
        pool.spawn_with_handle(nested).await.unwrap_err();
        Ok(())
    });
    let told = all_failures(enclosing.await);
    assert!(told.contains(&"panic: the body".to_owned()), "{told:?}");
    assert!(told.contains(&"panic: on_failure".to_owned()), "{told:?}");
    assert!(told.contains(&"panic: on_cleanup_failure".to_owned()), "{told:?}");
}

// ===== displays and sources =====

/// An error whose text panics, and whose source does.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        quiet_panic("the text")
    }
}

impl std::error::Error for Unspeakable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        quiet_panic("the source")
    }
}

/// It is told on stderr, which takes its text: by `with_exit` itself, where no runtime swallows the panic.
#[apply(both)]
async fn an_error_without_a_text_can_be_told_to_nobody() {
    let body = async |_: &mut ()| Err::<(), BoxError>(Unspeakable.into());
    let handler = async |(), _: Exit| -> Result<(), BoxError> { quiet_panic("exit") };
    assert_eq!(panic_of(with_exit((), body, handler)).await, "exit");
}

#[apply(both)]
async fn an_error_without_a_text_goes_wherever_failures_go() {
    let opened = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
        pool.spawn(async { Err(Unspeakable.into()) });
        pool.spawn(async { Ok(try_all([async { Err::<(), BoxError>(Unspeakable.into()) }]).await.map(drop)?) });
        pool.spawn(async {
            let [ended] = wait_all([async { Err::<(), BoxError>(Unspeakable.into()) }]).await;
            Ok(ended?)
        });
        pool.spawn(async {
            let mut group = TaskGroup::<()>::new();
            group.spawn(async { Err(Unspeakable.into()) });
            Ok(group.next().await.unwrap()?)
        });
        pool.spawn(async {
            let body = async |_: &mut ()| Err::<(), BoxError>(Unspeakable.into());
            Ok(with_exit((), body, |(), _| ready(Err(Unspeakable.into()))).await?)
        });
        pool.idle().await;
        Err::<(), _>(Unspeakable.into())
    });
    assert_eq!(opened.await.unwrap_err().into_failures().len(), 6);
}

// ===== the source and the function of `map` =====

#[apply(both)]
async fn the_source_the_function_and_the_name_of_a_map_may_use_the_pool() {
    for which in 0..3 {
        let opened = Pool::open(async |pool: Pool| {
            let meddle_in = |here: i32| {
                if here == which {
                    meddle(&pool);
                }
            };
            let own = pool.clone();
            let name = move |n: usize| {
                if which == 2 {
                    meddle(&own);
                }
                n.to_string()
            };
            let source = (0..4).inspect(|_| meddle_in(0));
            let mapped = map(2, source, |n| {
                meddle_in(1);
                ready(Ok::<_, BoxError>(n))
            });
            assert_eq!(mapped.name(name).collect().await.unwrap(), [0, 1, 2, 3], "who meddles: {which}");
            Ok(())
        });
        // The pool is cancelled, which the body notices only where it waits.
        if let Err(error) = opened.await {
            assert!(error.is_cancelled(), "{error}");
        }
    }
}

#[apply(both)]
async fn the_source_and_the_function_of_a_map_may_panic_as_they_are_dropped() {
    for which in 0..3 {
        for ends in [false, true] {
            let alive = Alive::default();
            let opened = Pool::open(async |_: Pool| {
                let armed = |here: usize| (here == which).then(|| bomb("dropped"));
                let [source, function, name] = [0, 1, 2].map(armed);
                let items = (0..3).inspect(move |_| {
                    let _held = &source;
                });
                let count = alive.clone();
                let mut mapped = map(2, items, move |_| {
                    let _held = &function;
                    let counted = count.one();
                    async move {
                        let _counted = counted;
                        if !ends {
                            pending::<()>().await;
                        }
                        Ok::<_, BoxError>(())
                    }
                })
                .name(move |n| {
                    let _held = &name;
                    n.to_string()
                });
                if ends {
                    while mapped.next().await.is_some() {}
                } else {
                    assert!(
                        poll_once(pin!(mapped.next())).await.is_pending(),
                        "it has a result too early; who panics: {which}"
                    );
                }
                let text = panic_text(|| drop(mapped));
                assert_eq!(text, "dropped", "who panics: {which}, ends: {ends}");
                Ok(())
            });
            assert_eq!(all_failures(opened.await), [""; 0], "who panics: {which}, ends: {ends}");
            assert_eq!(alive.count(), 0, "something is left; who panics: {which}, ends: {ends}");
        }
    }
}
