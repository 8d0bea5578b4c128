//! Daemons: tasks that never hold their pool open, and are tasks like any other in everything else.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aiodrive::{BoxError, Pool, TaskStopped, cancellation_token, race, shield};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Crowd, FOREVER, Log, OnDrop, Outcome, both, busy, current_thread, elapsed, failures, keep, panic_of, polite,
    quiet_panic, secs, until, with_grace,
};

/// Ends some turns after it has begun, and writes that.
fn worker(log: &Log, turns: usize, event: &'static str) -> impl Future<Output = ()> + Send + use<> {
    let log = log.clone();
    async move {
        for _ in 0..turns {
            yield_now().await;
        }
        log.push(event);
    }
}

/// Spawns a daemon.
fn daemon(pool: &Pool, task: impl Future<Output = ()> + Send + 'static) {
    pool.build_task().daemon().spawn(task);
}

// ===== what they do not hold open =====

#[apply(both)]
async fn a_daemon_ends_when_the_body_has() {
    let alive = Alive::default();
    let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
        let slow = alive.slow();
        daemon(&pool, async {
            let _slow = slow;
            busy().await
        });
        daemon(&pool, keep(alive.one()));
        for _ in 0..20 {
            yield_now().await;
        }
        assert_eq!((alive.count(), pool.is_closed()), (2, false));
        Ok(42)
    })
    .await;
    assert_eq!((outcome.unwrap(), alive.count()), (42, 0));
}

#[apply(both)]
async fn a_daemon_ends_with_the_last_task_and_not_with_the_body() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        daemon(&pool, keep(log.on_drop("daemon")));
        pool.spawn(worker(&log, 50, "slow"));
        pool.spawn(worker(&log, 0, "quick"));
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events().last().unwrap(), "daemon");
    assert_eq!(log.events().len(), 3);
}

#[apply(both)]
async fn a_daemon_ends_with_the_last_task_whatever_the_depth_of_either() {
    for (of_daemon, of_task) in [(0, 1), (0, -1), (1, 0), (-1, 0), (5, 5), (i32::MIN, i32::MAX), (i32::MAX, i32::MIN)] {
        let log = Log::default();
        let pool: Pool = Pool::new();
        pool.build_task().daemon().depth(of_daemon).spawn(keep(log.on_drop("daemon")));
        pool.build_task().depth(of_task).spawn(worker(&log, 50, "task"));
        pool.run().await.unwrap();
        assert_eq!(log.events(), ["task", "daemon"], "daemon at {of_daemon}, task at {of_task}");
    }
}

#[apply(both)]
async fn a_daemon_outlives_the_pools_that_are_below_a_task() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    daemon(&pool, keep(log.on_drop("daemon")));
    let work = worker(&log, 50, "nested");
    pool.spawn(async {
        let outcome: Outcome = Pool::open(async |nested: Pool| {
            nested.spawn(work);
            Ok(())
        })
        .await;
        outcome.unwrap();
    });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["nested", "daemon"]);
}

#[apply(both)]
async fn a_daemon_of_a_nested_pool_holds_no_enclosing_one_open() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let one = alive.one();
        pool.spawn(async {
            let outcome: Outcome = Pool::open(async |nested: Pool| {
                daemon(&nested, keep(one));
                Ok(())
            })
            .await;
            outcome.unwrap();
        });
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_planned_pool_of_nothing_but_daemons_is_over_at_once() {
    for grace in [Duration::ZERO, FOREVER] {
        let (alive, pool) = (Alive::default(), Pool::<BoxError>::builder().grace(grace).build());
        for depth in [0, 1, -1] {
            let one = alive.one();
            pool.build_task().daemon().depth(depth).spawn(async move {
                let _one = one;
                cancellation_token().cancelled().await;
            });
        }
        pool.run().await.unwrap();
        assert_eq!(alive.count(), 0, "a daemon is left; grace: {grace:?}");
    }
}

#[apply(current_thread)]
async fn daemons_that_have_not_begun_when_the_pool_ends_are_dropped_unpolled() {
    let (alive, begun) = (Alive::default(), Arc::new(AtomicBool::new(false)));
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (one, begun) = (alive.one(), Arc::clone(&begun));
        daemon(&pool, async move {
            let _one = one;
            begun.store(true, Ordering::SeqCst);
        });
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!((alive.count(), begun.load(Ordering::SeqCst)), (0, false));
}

#[apply(both)]
async fn an_empty_pool_with_an_ended_daemon_is_over() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        daemon(&pool, worker(&log, 0, "daemon"));
        until(|| pool.is_empty()).await;
        // Long enough for the pool to look at what has ended.
        for _ in 0..100 {
            yield_now().await;
            assert!(!pool.is_closed(), "a daemon that ends well disturbs nobody");
        }
        pool.spawn(worker(&log, 5, "task"));
        until(|| pool.is_empty()).await;
        log.push("body");
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["daemon", "task", "body"]);
}

#[apply(both)]
async fn daemons_are_members_of_their_pool() {
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        daemon(&pool, pending());
        pool.build_task().daemon().depth(3).spawn(pending::<()>());
        pool.spawn(async {});
        until(|| pool.len() == 2).await;
        assert!(!pool.is_empty());
        Ok(())
    })
    .await;
    outcome.unwrap();
}

// ===== how they are cancelled =====

#[apply(both)]
async fn a_daemon_that_listens_ends_by_itself() {
    let log = Log::default();
    let outcome: Outcome = Pool::builder()
        .grace(FOREVER)
        .open(async |pool: Pool| {
            let logged = log.clone();
            daemon(&pool, async move {
                cancellation_token().cancelled().await;
                yield_now().await;
                logged.push("daemon");
            });
            pool.spawn(worker(&log, 20, "task"));
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["task", "daemon"]);
}

#[apply(current_thread)]
async fn a_daemon_that_ignores_its_token_is_aborted_after_the_grace() {
    let begin = Instant::now();
    let alive = Alive::default();
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    let one = alive.one();
    daemon(&pool, async move {
        let _token = cancellation_token();
        keep(one).await
    });
    pool.spawn(sleep(secs(3)));
    pool.run().await.unwrap();
    assert_eq!((begin.elapsed(), alive.count()), (secs(13), 0));
}

#[apply(current_thread)]
async fn daemons_are_cancelled_one_depth_after_the_other() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    for (depth, cleanup) in [(0, 2), (-1, 1000), (1, 3), (2, 1000)] {
        let log = log.clone();
        pool.build_task().daemon().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            log.push(format!("{depth} at {}", begin.elapsed().as_secs()));
            sleep(secs(cleanup)).await;
        });
    }
    pool.spawn(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["2 at 1", "1 at 11", "0 at 14", "-1 at 16"]);
    assert_eq!(begin.elapsed(), secs(26));
}

#[apply(both)]
async fn daemons_and_tasks_of_one_depth_close_together_and_before_the_next() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    for depth in [0, 2, 1] {
        let [of_task, of_daemon] = [0; 2].map(|_| {
            let log = log.clone();
            OnDrop::new(move || {
                (0..50).for_each(|_| std::thread::yield_now());
                log.push(depth.to_string());
            })
        });
        pool.build_task().depth(depth).spawn(keep(of_task));
        pool.build_task().daemon().depth(depth).spawn(keep(of_daemon));
    }
    pool.spawn(async { Err("first".into()) });
    assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: first"]);
    assert_eq!(log.events(), ["2", "2", "1", "1", "0", "0"]);
}

#[apply(both)]
async fn what_is_below_a_daemon_has_ended_when_the_pool_returns() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (flags, (ready, says_so)) = ([0; 4].map(|_| alive.slow()), oneshot::channel());
        let [a, b, c, d] = flags;
        let leaf = |flag| async {
            let _flag = flag;
            busy().await
        };
        let (a, b, c) = (leaf(a), leaf(b), leaf(c));
        daemon(&pool, async move {
            let outcome: Outcome = Pool::open(async move |nested: Pool| {
                daemon(&nested, a);
                nested.spawn(async move {
                    race((b, c)).await;
                });
                nested.spawn(async move {
                    let _flag = d;
                    ready.send(()).unwrap();
                    busy().await
                });
                pending().await
            })
            .await;
            drop(outcome);
        });
        says_so.await?;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_handle_of_a_daemon_says_that_it_was_cancelled() {
    let mut handle = None;
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        handle = Some(pool.build_task().daemon().spawn_with_handle(pending::<Result<(), _>>()));
        let value = pool.build_task().daemon().spawn_with_handle(async { Ok(42) });
        assert_eq!(value.await?, 42);
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(handle.unwrap().await, Err(TaskStopped::Cancelled));
}

#[apply(both)]
async fn a_daemon_that_its_handle_cancels_disturbs_nobody() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let handle = pool.build_task().daemon().spawn_with_handle(pending::<Result<(), _>>());
        handle.cancel();
        assert_eq!(handle.await, Err(TaskStopped::Cancelled));
        pool.spawn(worker(&log, 10, "task"));
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["task"]);
}

#[apply(both)]
async fn a_blocking_daemon_is_waited_for() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (slow, (begun, begins)) = (alive.slow(), oneshot::channel());
        pool.build_task().daemon().spawn_blocking(move || {
            begun.send(()).unwrap();
            while !Pool::<BoxError>::current().is_closed() {
                std::thread::yield_now();
            }
            drop(slow);
        });
        begins.await?;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

// ===== how they fail =====

#[apply(both)]
async fn a_failure_of_a_daemon_closes_the_pool() {
    for depth in [-1, 0, 1] {
        for (panics, text) in [(false, "error: daemon"), (true, "panic: daemon")] {
            let alive = Alive::default();
            let outcome: Outcome = Pool::open(async |pool: Pool| {
                pool.spawn(keep(alive.one()));
                pool.build_task().daemon().depth(depth).spawn(async move {
                    yield_now().await;
                    if panics { quiet_panic("daemon") } else { Err("daemon".into()) }
                });
                pending().await
            })
            .await;
            assert_eq!(failures(outcome.unwrap_err().failures()), [text], "at depth {depth}");
            assert_eq!(alive.count(), 0, "somebody is left; depth: {depth}, panics: {panics}");
        }
    }
}

#[apply(both)]
async fn a_daemon_that_fails_in_its_last_cleanup_fails_the_pool() {
    for (panics, text) in [(false, "error: cleanup"), (true, "panic: cleanup")] {
        let outcome: Outcome<_> = Pool::builder()
            .grace(FOREVER)
            .open(async |pool: Pool| {
                pool.build_task().daemon().spawn(async move {
                    cancellation_token().cancelled().await;
                    if panics { quiet_panic("cleanup") } else { Err("cleanup".into()) }
                });
                Ok(42)
            })
            .await;
        assert_eq!(failures(outcome.unwrap_err().failures()), [text]);
    }
}

#[apply(both)]
async fn a_daemon_whose_destructor_panics_fails_the_pool() {
    let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
        daemon(&pool, keep(OnDrop::new(|| quiet_panic("destructor"))));
        Ok(42)
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["panic: destructor"]);
}

#[apply(both)]
async fn daemons_are_joined_when_the_body_fails() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        daemon(&pool, keep(alive.one()));
        yield_now().await;
        Err("body".into())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
    let panic = panic_of(Pool::open(async |pool: Pool| -> Result<(), BoxError> {
        daemon(&pool, keep(alive.one()));
        yield_now().await;
        quiet_panic("body")
    }));
    assert_eq!((panic.await.as_str(), alive.count()), ("body", 0));
}

/// A daemon that opens a pool again each time one has panicked, which it does five times.
fn restarting(pool: &Pool, attempts: &Arc<AtomicUsize>, alive: &Alive) {
    let (counted, alive) = (Arc::clone(attempts), alive.clone());
    daemon(pool, async move {
        loop {
            let (counted, one) = (Arc::clone(&counted), alive.one());
            let outcome: Outcome = Pool::open(async move |nested: Pool| {
                nested.spawn(async move {
                    let _one = one;
                    if counted.fetch_add(1, Ordering::SeqCst) < 5 {
                        quiet_panic("again")
                    }
                    pending::<()>().await
                });
                Ok(())
            })
            .await;
            assert!(outcome.unwrap_err().is_panic());
        }
    });
}

#[apply(both)]
async fn a_daemon_can_restart_what_panics_until_the_pool_ends() {
    let (attempts, alive) = (Arc::new(AtomicUsize::new(0)), Alive::default());
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        restarting(&pool, &attempts, &alive);
        until(|| attempts.load(Ordering::SeqCst) == 6).await;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!((attempts.load(Ordering::SeqCst), alive.count()), (6, 0));
}

#[apply(both)]
async fn a_daemon_can_restart_what_panics_until_the_pool_is_cancelled() {
    let (attempts, alive) = (Arc::new(AtomicUsize::new(0)), Alive::default());
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        restarting(&pool, &attempts, &alive);
        until(|| attempts.load(Ordering::SeqCst) == 6).await;
        assert!(!pool.is_closed());
        pool.cancel();
        pending().await
    })
    .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!((attempts.load(Ordering::SeqCst), alive.count()), (6, 0));
}

// ===== what they spawn =====

#[apply(both)]
async fn a_task_that_a_daemon_spawns_holds_the_pool_open() {
    let log = Log::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (work, (spawned, says_so)) = (worker(&log, 50, "task"), oneshot::channel());
        let flag = log.on_drop("daemon");
        daemon(&pool, async {
            Pool::<BoxError>::current().spawn(work);
            spawned.send(()).unwrap();
            keep(flag).await
        });
        says_so.await?;
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["task", "daemon"]);
}

#[apply(both)]
async fn a_daemon_that_a_daemon_spawns_holds_nothing_open() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (flags, (spawned, says_so)) = ([alive.one(), alive.one()], oneshot::channel());
        daemon(&pool, async {
            let [one, other] = flags;
            daemon(&Pool::current(), keep(one));
            spawned.send(()).unwrap();
            keep(other).await
        });
        says_so.await?;
        assert_eq!(alive.count(), 2);
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_task_spawned_as_the_pool_ends_is_joined_or_refused_and_never_leaked() {
    for _ in 0..50 {
        for grace in [Duration::ZERO, FOREVER] {
            let (alive, taken) = (Alive::default(), Log::default());
            let builder = Pool::builder().grace(grace);
            let outcome: Outcome = builder
                .open(async |pool: Pool| {
                    let (alive, log) = (alive.clone(), taken.clone());
                    daemon(&pool, async move {
                        let pool: Pool = Pool::current();
                        let asked = cancellation_token();
                        while !asked.is_cancelled() {
                            for depth in [-1, 0, 1] {
                                let one = alive.one();
                                let task = async move {
                                    yield_now().await;
                                    drop(one);
                                };
                                if pool.build_task().depth(depth).try_spawn(task).is_ok() {
                                    log.push("taken");
                                }
                            }
                            // Until its tasks have ended: else they would hold the pool open for ever.
                            while pool.len() > 1 && !asked.is_cancelled() {
                                yield_now().await;
                            }
                            yield_now().await;
                            yield_now().await;
                            if log.events().len() > 300 {
                                asked.cancelled().await;
                            }
                        }
                    });
                    until(|| !taken.events().is_empty()).await;
                    if grace == FOREVER {
                        pool.cancel();
                    }
                    Ok(())
                })
                .await;
            outcome.unwrap();
            assert_eq!(alive.count(), 0, "a task is left; grace: {grace:?}");
            assert!(!taken.events().is_empty(), "no task was taken; grace: {grace:?}");
        }
    }
}

// ===== and other settings =====

#[apply(both)]
async fn daemons_do_not_count_towards_the_limit() {
    let log = Log::default();
    let pool: Pool = Pool::builder().limit(1).build();
    for _ in 0..10 {
        daemon(&pool, keep(log.on_drop("daemon")));
    }
    pool.spawn(worker(&log, 5, "task"));
    pool.spawn(worker(&log, 5, "task"));
    pool.run().await.unwrap();
    assert_eq!(log.events()[..2], ["task", "task"]);
    assert_eq!(log.events().len(), 12);
}

#[apply(both)]
async fn the_end_of_a_daemon_frees_no_slot() {
    let crowd = Crowd::default();
    let pool: Pool = Pool::builder().limit(2).build();
    for n in 0..100 {
        daemon(&pool, async move {
            if n % 2 == 0 {
                pending().await
            }
        });
        pool.spawn(crowd.visit());
    }
    pool.run().await.unwrap();
    crowd.respected(2, 100);
}

#[apply(both)]
async fn ten_thousand_daemons_end_with_their_pool() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        for n in 0..10_000 {
            pool.build_task().daemon().depth(n % 4).spawn(keep(alive.one()));
        }
        yield_now().await;
        assert_eq!(pool.len(), 10_000);
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

/// Both once told the daemon of the closing, without telling it.
#[apply(current_thread)]
async fn a_daemon_that_listens_to_nothing_costs_no_grace_after_a_ready_or_a_nested_pool() {
    for nested in [false, true] {
        let begin = Instant::now();
        let opened: Outcome = Pool::builder()
            .grace(secs(10))
            .limit(8)
            .open(async |pool: Pool| {
                daemon(&pool, pending());
                let request = pool.spawn_with_handle(async move {
                    if nested {
                        Pool::open(async |_: Pool| Ok(())).await?;
                    } else {
                        Pool::<BoxError>::current().ready().await;
                    }
                    Ok(())
                });
                Ok(request.await?)
            })
            .await;
        opened.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "nested: {nested}");
    }
}

// ===== a daemon that listens to nothing, and what ends beside it in the grace =====

/// When a pool returns that is cancelled after a second, in which a daemon listens to nothing.
async fn seconds_with_a_deaf_daemon(fill: impl FnOnce(&Pool)) -> u64 {
    let pool: Pool = with_grace(secs(10)).limit(1).keep_open(true).build();
    daemon(&pool, pending());
    fill(&pool);
    pool.cancel_on(sleep(secs(1)));
    let (seconds, outcome) = elapsed(pool.run()).await;
    outcome.unwrap();
    seconds
}

/// Hears the signal, and works for a second more.
async fn request(_: Pool) -> Result<(), BoxError> {
    polite(1).await.map(drop)
}

#[apply(current_thread)]
async fn what_ends_last_beside_a_deaf_daemon_ends_the_grace() {
    let sibling = seconds_with_a_deaf_daemon(|pool| {
        daemon(pool, async { Pool::open(request).await.unwrap() });
    });
    assert_eq!(sibling.await, 2, "a sibling with a nested pool");
    let left_behind = seconds_with_a_deaf_daemon(|pool| {
        daemon(pool, async { drop(shield(sleep(secs(3)))) });
    });
    assert_eq!(left_behind.await, 3, "shielded work that a sibling has left behind");
    let closing = seconds_with_a_deaf_daemon(|pool| {
        daemon(pool, async {
            let inner: Pool = with_grace(secs(10)).build();
            inner.spawn(sleep(secs(4)));
            assert!(tokio::time::timeout(Duration::from_millis(500), inner.run()).await.is_err());
        });
    });
    assert_eq!(closing.await, 4, "a nested pool that was dropped");
    let kept = seconds_with_a_deaf_daemon(|pool| {
        daemon(pool, async {
            let inner: Pool = Pool::new();
            inner.clone().run().await.unwrap();
            keep(inner).await
        });
    });
    assert_eq!(kept.await, 1, "a nested pool that has closed, of which somebody has a handle");
    let given_up = seconds_with_a_deaf_daemon(|pool| {
        daemon(pool, async {
            let inner: Pool = Pool::builder().abandon_after(Duration::ZERO).build();
            inner.spawn(async { drop(shield(sleep(Duration::from_millis(500)))) });
            inner.cancel_on(sleep(Duration::from_millis(100)));
            assert_eq!(inner.clone().run().await.unwrap_err().stuck().len(), 1);
            keep(inner).await
        });
    });
    assert_eq!(given_up.await, 1, "the same, which had given up on a task");
    let queued = seconds_with_a_deaf_daemon(|pool| {
        pool.build_task().depth(-1).spawn(pending::<()>());
        pool.spawn(async {});
    });
    assert_eq!(queued.await, 11, "a task of a lower depth, which has the slot, and a grace of its own");
}

#[apply(current_thread)]
async fn a_deaf_daemon_costs_no_grace_when_its_pool_is_dropped_with_the_body() {
    let opened = with_grace(secs(10)).open(async |outer: Pool| {
        let run = with_grace(secs(10)).open(async |pool: Pool| {
            daemon(&pool, pending());
            pending::<Result<(), _>>().await
        });
        assert!(tokio::time::timeout(secs(1), run).await.is_err());
        yield_now().await;
        assert!(!outer.tree().to_string().contains("<pool> (closing"), "{}", outer.tree());
        Ok(())
    });
    assert_eq!(elapsed(opened).await.0, 1);
}
