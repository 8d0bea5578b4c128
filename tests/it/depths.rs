//! Depths: a pool closes from the highest to the lowest, and each is joined before the next is touched.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, LatchEvent, Pool, TaskStopped, cancellation_token, race, shield, timeout, try_all, wait_all,
    with_exit,
};
use macro_rules_attribute::apply;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, sleep};
use tokio_test::assert_ready;

use crate::support::{
    Alive, FOREVER, Log, OnDrop, Outcome, block_until_closed, both, busy, current_thread, failures, keep, panic_of,
    poll_once, poll_until, quiet_panic, secs, stays_pending, turns, until,
};

/// Writes an event when it is dropped, after it has given everybody else time to run ahead.
fn slowly(log: &Log, event: String) -> OnDrop<impl FnOnce() + Send + use<>> {
    let log = log.clone();
    OnDrop::new(move || {
        (0..50).for_each(|_| thread::yield_now());
        log.push(event);
    })
}

/// Spawns a task that never ends; it writes its depth when it is dropped.
fn spawn_at(pool: &Pool, depth: i32, log: &Log) {
    pool.build_task().depth(depth).spawn(keep(slowly(log, depth.to_string())));
}

/// Spawns a task that ends when it is asked to, and writes its depth then.
fn polite_at(pool: &Pool, depth: i32, log: &Log) {
    let log = log.clone();
    pool.build_task().depth(depth).spawn(async move {
        cancellation_token().cancelled().await;
        log.push(depth.to_string());
    });
}

async fn fallible(task: impl Future<Output = ()> + Send + 'static) -> Result<(), BoxError> {
    task.await;
    Ok(())
}

fn texts(depths: &[i32]) -> Vec<String> {
    depths.iter().map(i32::to_string).collect()
}

// ===== the order =====

#[apply(both)]
async fn any_depth_is_closed_in_its_turn() {
    let (log, polite) = (Log::default(), Log::default());
    let depths = [-3, i32::MAX, 0, i32::MIN, -1, 7, i32::MIN + 1, i32::MAX - 1, 1];
    let [aborted, asked]: [Pool; 2] = [Pool::new(), Pool::builder().grace(FOREVER).build()];
    depths.iter().for_each(|&depth| spawn_at(&aborted, depth, &log));
    depths.iter().for_each(|&depth| polite_at(&asked, depth, &polite));
    for pool in [aborted, asked] {
        pool.cancel_on(async { (0..10).for_each(|_| thread::yield_now()) });
        pool.run().await.unwrap();
    }
    let order = texts(&[i32::MAX, i32::MAX - 1, 7, 1, 0, -1, -3, i32::MIN + 1, i32::MIN]);
    assert_eq!(log.events(), order);
    assert_eq!(polite.events(), order);
}

#[apply(both)]
async fn the_lowest_depth_alone_is_closed() {
    for depth in [i32::MIN, -1, 1, i32::MAX] {
        let log = Log::default();
        let pool: Pool = Pool::new();
        spawn_at(&pool, depth, &log);
        pool.cancel_on(yield_now());
        pool.run().await.unwrap();
        assert_eq!(log.events(), [depth.to_string()], "at depth {depth}");
    }
}

#[apply(both)]
async fn the_order_does_not_depend_on_the_depth_of_the_failure() {
    for failing in [-9, -1, 0, 1, 2, 9] {
        let log = Log::default();
        let pool: Pool = Pool::new();
        [1, -1, 2, 0].iter().for_each(|&depth| spawn_at(&pool, depth, &log));
        pool.build_task().depth(failing).spawn(async { Err("first".into()) });
        assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: first"], "failure at {failing}");
        assert_eq!(log.events(), ["2", "1", "0", "-1"], "failure at {failing}");
    }
}

#[apply(both)]
async fn the_order_does_not_depend_on_the_cause() {
    for grace in [Duration::ZERO, FOREVER] {
        for cause in ["error", "panic", "cancel", "drop"] {
            let log = Log::default();
            let logged = log.clone();
            let enclosing: Outcome = Pool::open(async move |_| {
                let builder = Pool::builder().grace(grace);
                let mut open = Box::pin(builder.open(async |pool: Pool| -> Result<(), BoxError> {
                    let _body = logged.on_drop("body");
                    for depth in [1, -1, 2, 0] {
                        if grace.is_zero() { spawn_at(&pool, depth, &logged) } else { polite_at(&pool, depth, &logged) }
                    }
                    yield_now().await;
                    match cause {
                        "error" => Err("body".into()),
                        "panic" => quiet_panic("body"),
                        "cancel" => {
                            pool.cancel();
                            cancellation_token().cancelled().await;
                            Ok(())
                        }
                        _ => pending().await,
                    }
                }));
                match cause {
                    "panic" => assert_eq!(panic_of(open).await, "body"),
                    "drop" => {
                        for _ in 0..10 {
                            assert!(poll_once(open.as_mut()).await.is_pending());
                            yield_now().await;
                        }
                    }
                    _ => drop(open.await),
                }
                Ok(())
            })
            .await;
            enclosing.unwrap();
            let events = log.events().into_iter().filter(|event| event != "body").collect::<Vec<_>>();
            assert_eq!(events, ["2", "1", "0", "-1"], "{cause}, grace {grace:?}");
            assert_eq!(log.events().len(), 5, "with the body; {cause}, grace {grace:?}");
        }
    }
}

#[apply(current_thread)]
async fn the_next_depth_waits_for_all_of_one() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(100)).build();
    for (depth, cleanup) in [(0, 1), (2, 20), (1, 5), (2, 50)] {
        let log = log.clone();
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            log.push(format!("{depth} asked at {}", begin.elapsed().as_secs()));
            sleep(secs(cleanup)).await;
            log.push(format!("{depth} done at {}", begin.elapsed().as_secs()));
        });
    }
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!(
        log.events(),
        [
            "2 asked at 1",
            "2 asked at 1",
            "2 done at 21",
            "2 done at 51",
            "1 asked at 51",
            "1 done at 56",
            "0 asked at 56",
            "0 done at 57"
        ]
    );
}

/// What the first leaves behind does not keep the second from its end.
#[apply(both)]
async fn tasks_of_one_depth_are_aborted_together() {
    let (log, begun) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let (pool, mut releases) = (Pool::<BoxError>::new(), Vec::new());
    spawn_at(&pool, 0, &log);
    for owner in ["first", "second"] {
        let (release, released) = mpsc::channel::<()>();
        let (dropped, begins) = (log.on_drop(owner), Arc::clone(&begun));
        releases.push(release);
        pool.build_task().depth(1).spawn(async move {
            let _dropped = dropped;
            let nested: Outcome = Pool::open(async move |nested| {
                nested.spawn_blocking(move || {
                    begins.fetch_add(1, Ordering::SeqCst);
                    let _ = released.recv();
                });
                pending().await
            })
            .await;
            drop(nested);
        });
    }
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    until(|| begun.load(Ordering::SeqCst) == 2).await;
    pool.cancel();
    poll_until(run.as_mut(), || log.events().len() >= 2).await;
    stays_pending(run.as_mut()).await;
    let mut owners = log.events();
    owners.sort();
    assert_eq!(owners, ["first", "second"], "depth 0 waits for what they have left");
    drop(releases);
    run.await.unwrap();
    assert_eq!(log.events()[2..], ["0"]);
}

#[apply(both)]
async fn tasks_of_one_depth_are_asked_together() {
    let (barrier, log) = (Arc::new(Barrier::new(10)), Log::default());
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    for _ in 0..10 {
        let (barrier, log) = (Arc::clone(&barrier), log.clone());
        pool.build_task().depth(3).spawn(async move {
            cancellation_token().cancelled().await;
            barrier.wait().await;
            log.push("met");
        });
    }
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(log.events().len(), 10);
}

#[apply(both)]
async fn a_daemon_lives_on_when_the_tasks_at_its_depth_have_ended() {
    let (pool, log): (Pool, _) = (Pool::builder().grace(secs(10)).build(), Log::default());
    let hears = |name| {
        let log = log.clone();
        async move {
            cancellation_token().cancelled().await;
            log.push(name);
        }
    };
    pool.build_task().depth(1).daemon().spawn(hears("daemon"));
    pool.spawn(hears("task"));
    let short = pool.build_task().depth(1).spawn_with_handle(async { Ok(()) });
    let run = tokio::spawn(pool.clone().run());
    short.await.unwrap();
    until(|| pool.len() == 2).await;
    turns(10).await;
    assert_eq!(pool.len(), 2);
    pool.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(log.events(), ["daemon", "task"]);
}

#[apply(both)]
async fn the_token_of_a_depth_whose_tasks_have_ended_is_cancelled_with_the_pool() {
    let pool: Pool = Pool::builder().keep_open(true).build();
    let run = tokio::spawn(pool.clone().run());
    let gives = pool.build_task().depth(1).spawn_with_handle(async { Ok(cancellation_token()) });
    let token = gives.await.unwrap();
    until(|| pool.is_empty()).await;
    assert!(!token.is_cancelled());
    pool.cancel();
    run.await.unwrap().unwrap();
    assert!(token.is_cancelled());
}

#[apply(both)]
async fn the_token_of_a_depth_is_not_cancelled_before_its_turn() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    let lower = [1, 0, -1].map(|depth| {
        let (sender, token) = oneshot::channel();
        pool.build_task().depth(depth).spawn(async move {
            assert!(sender.send(cancellation_token()).is_ok());
            cancellation_token().cancelled().await;
        });
        token
    });
    let (upper, logged) = (pool.clone(), log.clone());
    pool.build_task().depth(2).spawn(async move {
        let mut tokens = Vec::new();
        for token in lower {
            tokens.push(token.await.unwrap());
        }
        upper.cancel();
        cancellation_token().cancelled().await;
        for _ in 0..100 {
            yield_now().await;
            assert!(tokens.iter().all(|token| !token.is_cancelled()), "a depth hears before its turn");
        }
        logged.push("looked");
    });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["looked"]);
}

#[apply(current_thread)]
async fn a_depth_without_tasks_takes_no_time() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    polite_at(&pool, 1_000_000, &log);
    for depth in [500, 400, i32::MIN] {
        pool.build_task().depth(depth).spawn(async {});
    }
    polite_at(&pool, 0, &log);
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!((log.events(), begin.elapsed()), (texts(&[1_000_000, 0]), secs(1)));
}

#[apply(current_thread)]
async fn a_depth_that_ends_as_the_pool_closes_delays_nothing() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    let stop = pool.clone();
    pool.build_task().depth(2).spawn(async move { stop.cancel() });
    polite_at(&pool, 1, &log);
    pool.run().await.unwrap();
    assert_eq!((log.events(), begin.elapsed()), (texts(&[1]), Duration::ZERO));
}

#[apply(both)]
async fn a_task_of_any_depth_holds_the_pool_open() {
    for depth in [i32::MIN, -1, 1, i32::MAX] {
        let ended = Log::default();
        let logged = ended.clone();
        let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
            pool.build_task().depth(depth).spawn(async move {
                for _ in 0..50 {
                    yield_now().await;
                }
                // The last to end is in another depth than the one before.
                Pool::<BoxError>::current().spawn(async move {
                    yield_now().await;
                    logged.push("ended");
                });
            });
            Ok(42)
        })
        .await;
        assert_eq!((outcome.unwrap(), ended.events().len()), (42, 1), "at depth {depth}");
    }
}

#[apply(both)]
async fn every_kind_of_task_can_have_a_depth() {
    let log = Log::default();
    let polite = |event: &'static str| {
        let log = log.clone();
        async move {
            cancellation_token().cancelled().await;
            log.push(event);
        }
    };
    let local = LocalSet::new();
    let opened = local.run_until(Pool::builder().grace(FOREVER).open(async |pool: Pool| {
        let at = |depth| pool.build_task().depth(depth);
        at(1).spawn(polite("spawn"));
        at(2).try_spawn(polite("try_spawn")).unwrap();
        let task = polite("spawn_with_handle");
        let handle = at(3).spawn_with_handle(async {
            let _: () = task.await;
            Ok(())
        });
        at(4).spawn_local(polite("spawn_local"));
        let (logged, (begun, begins)) = (log.clone(), oneshot::channel());
        at(5).spawn_blocking(move || {
            begun.send(()).unwrap();
            while !cancellation_token().is_cancelled() {
                thread::yield_now();
            }
            logged.push("spawn_blocking");
        });
        let task = polite("start");
        let started = at(6).start(|started| async {
            started.ready(());
            task.await;
        });
        started.await?;
        begins.await?;
        pool.cancel();
        handle.await?;
        Ok(())
    }));
    opened.await.unwrap();
    let order = ["start", "spawn_blocking", "spawn_local", "spawn_with_handle", "try_spawn", "spawn"];
    assert_eq!(log.events(), order);
}

#[apply(both)]
async fn ten_thousand_tasks_in_four_depths_are_closed_in_order() {
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let pool: Pool = Pool::new();
    for n in 0..10_000 {
        let (depth, dropped) = (n % 4 - 1, Arc::clone(&dropped));
        let flag = OnDrop::new(move || dropped.lock().unwrap().push(depth));
        pool.build_task().depth(depth).spawn(keep(flag));
    }
    pool.cancel_on(async {
        for _ in 0..20 {
            yield_now().await;
        }
    });
    pool.run().await.unwrap();
    let dropped = dropped.lock().unwrap();
    assert_eq!(dropped.len(), 10_000);
    assert!(dropped.is_sorted_by(|earlier, later| earlier >= later));
}

#[apply(both)]
async fn ten_thousand_polite_tasks_in_four_depths_are_closed_in_order() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    for n in 0..10_000 {
        let (depth, ended) = (n % 4 - 1, Arc::clone(&ended));
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            ended.lock().unwrap().push(depth);
        });
    }
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    let ended = ended.lock().unwrap();
    assert_eq!(ended.len(), 10_000);
    assert!(ended.is_sorted_by(|earlier, later| earlier >= later));
}

// ===== what is below a depth is joined with it =====

/// Runs `upper` at depth 1, cancels the pool when it says so, and sees that all of `alive` is gone before depth 0 is
/// touched.
async fn outlived_by_depth_0<F>(alive: &Alive, grace: Duration, upper: impl FnOnce(oneshot::Sender<()>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ready, says_so) = oneshot::channel();
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(grace).build();
    pool.build_task().depth(1).spawn(upper(ready));
    let (seen, still) = (log.clone(), alive.clone());
    let lower = OnDrop::new(move || seen.push(format!("{} alive", still.count())));
    pool.build_task().depth(0).spawn(async move {
        let _lower = lower;
        cancellation_token().cancelled().await
    });
    pool.cancel_on(says_so);
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["0 alive"], "depth 0 is touched while something above is left");
    assert_eq!(alive.count(), 0, "something is left");
}

#[apply(both)]
async fn a_slow_destructor_is_waited_for_before_the_next_depth() {
    let alive = Alive::default();
    let slow = [alive.slow(), alive.slow()];
    outlived_by_depth_0(&alive, Duration::ZERO, |ready| async move {
        let _slow = slow;
        ready.send(()).unwrap();
        busy().await
    })
    .await;
}

#[apply(both)]
async fn a_blocking_task_is_waited_for_before_the_next_depth() {
    for grace in [Duration::ZERO, FOREVER] {
        let alive = Alive::default();
        let slow = alive.slow();
        outlived_by_depth_0(&alive, grace, |ready| async move {
            let pool: Pool = Pool::current();
            pool.build_task().depth(1).spawn_blocking(move || {
                ready.send(()).unwrap();
                block_until_closed();
                drop(slow);
            });
        })
        .await;
    }
}

#[apply(both)]
async fn nested_pools_are_waited_for_before_the_next_depth() {
    for grace in [Duration::ZERO, FOREVER] {
        let alive = Alive::default();
        let flags: Vec<_> = (0..9).map(|_| alive.slow()).collect();
        outlived_by_depth_0(&alive, grace, |ready| async move {
            let outcome: Outcome = Pool::builder()
                .grace(Duration::ZERO)
                .open(async move |pool: Pool| {
                    pool.spawn(async move {
                        let innermost: Outcome = Pool::builder()
                            .grace(Duration::ZERO)
                            .open(async move |pool: Pool| {
                                for (depth, flag) in (0..).zip(flags) {
                                    pool.build_task().depth(depth % 3).spawn(async move {
                                        let _flag = flag;
                                        busy().await
                                    });
                                }
                                ready.send(()).unwrap();
                                pending().await
                            })
                            .await;
                        drop(innermost);
                    });
                    pending().await
                })
                .await;
            drop(outcome);
        })
        .await;
    }
}

#[apply(both)]
async fn race_and_its_like_are_waited_for_before_the_next_depth() {
    for kind in 0..4 {
        let alive = Alive::default();
        let (one, other) = (alive.slow(), alive.slow());
        outlived_by_depth_0(&alive, Duration::ZERO, |ready| async move {
            let leaf = |flag| async move {
                let _flag = flag;
                busy().await
            };
            let telling = async move {
                ready.send(()).unwrap();
                let _flag = other;
                busy().await
            };
            let one = leaf(one);
            match kind {
                0 => drop(race((one, telling)).await),
                1 => drop(try_all((fallible(one), fallible(telling))).await),
                2 => drop(wait_all((fallible(one), fallible(telling))).await),
                _ => drop(timeout(FOREVER, race((one, telling))).await),
            }
        })
        .await;
    }
}

#[apply(both)]
async fn shielded_work_is_waited_for_before_the_next_depth() {
    for grace in [Duration::ZERO, FOREVER] {
        let alive = Alive::default();
        let slow = alive.slow();
        outlived_by_depth_0(&alive, grace, |ready| async move {
            drop(shield(async move {
                ready.send(()).unwrap();
                let _slow = slow;
                for _ in 0..200 {
                    yield_now().await;
                }
            }));
        })
        .await;
    }
}

#[apply(both)]
async fn exit_handlers_are_waited_for_before_the_next_depth() {
    let (alive, log) = (Alive::default(), Log::default());
    let (slow, logged) = (alive.slow(), log.clone());
    outlived_by_depth_0(&alive, Duration::ZERO, |ready| async move {
        let body = async |_: &mut _| {
            ready.send(()).unwrap();
            pending::<Result<(), BoxError>>().await
        };
        let visit = with_exit(slow, body, async move |slow, how: Exit| {
            for _ in 0..200 {
                yield_now().await;
            }
            drop(slow);
            logged.push(format!("{how:?}"));
            Ok(())
        });
        drop(visit.await);
    })
    .await;
    assert_eq!(log.events(), ["Cancelled"]);
}

#[apply(current_thread)]
async fn a_nested_pool_that_is_cut_off_has_no_grace_and_is_joined_before_the_next_depth_of_its_parent() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    spawn_at(&pool, 0, &log);
    let (logged, (ready, says_so)) = (log.clone(), oneshot::channel());
    pool.build_task().depth(1).spawn(async move {
        let nested = Pool::<BoxError>::builder().grace(secs(10)).open(async |nested: Pool| {
            for depth in [0, 1] {
                let log = logged.clone();
                nested.build_task().depth(depth).spawn(async move {
                    let _gone = slowly(&log, format!("nested {depth} gone"));
                    pending::<()>().await
                });
            }
            ready.send(()).unwrap();
            pending::<Result<(), _>>().await
        });
        drop(nested.await);
    });
    pool.cancel_on(says_so);
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["nested 1 gone", "nested 0 gone", "0"]);
}

#[apply(both)]
async fn the_depths_of_a_nested_pool_are_stages_of_one_of_its_parent() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    let (ready, says_so) = oneshot::channel();
    spawn_at(&pool, 0, &log);
    spawn_at(&pool, 2, &log);
    let logged = log.clone();
    pool.build_task().depth(1).spawn(async move {
        let outcome: Outcome = Pool::open(async move |nested: Pool| {
            for depth in [0, 2, 1] {
                nested.build_task().depth(depth).spawn(keep(slowly(&logged, format!("nested {depth}"))));
            }
            ready.send(()).unwrap();
            pending().await
        })
        .await;
        drop(outcome);
    });
    pool.cancel_on(says_so);
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["2", "nested 2", "nested 1", "nested 0", "0"]);
}

#[apply(both)]
async fn a_nested_pool_is_asked_with_the_depth_of_its_task() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    let (ready, says_so) = oneshot::channel();
    polite_at(&pool, 0, &log);
    polite_at(&pool, 2, &log);
    let logged = log.clone();
    pool.build_task().depth(1).spawn(async move {
        let nested: Pool = Pool::builder().grace(FOREVER).build();
        for depth in [0, 2, 1] {
            let logged = logged.clone();
            nested.build_task().depth(depth).spawn(async move {
                cancellation_token().cancelled().await;
                logged.push(format!("nested {depth}"));
            });
        }
        nested.spawn(async move { ready.send(()).unwrap() });
        nested.run().await.unwrap();
        logged.push("1");
    });
    pool.cancel_on(says_so);
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["2", "nested 2", "nested 1", "nested 0", "1", "0"]);
}

#[apply(current_thread)]
async fn the_depths_of_a_dropped_pool_are_closed_by_the_same_steps() {
    let (log, begin) = (Log::default(), Instant::now());
    let logged = log.clone();
    let outcome: Outcome = Pool::open(async move |_| {
        let pool: Pool = Pool::builder().grace(secs(10)).build();
        for (depth, cleanup) in [(0, 5), (2, 3), (1, 100), (-1, 0)] {
            let left = logged.clone();
            pool.build_task().depth(depth).spawn(async move {
                cancellation_token().cancelled().await;
                let _left = OnDrop::new(move || left.push(format!("{depth} at {}", begin.elapsed().as_secs())));
                sleep(secs(cleanup)).await;
            });
        }
        assert!(timeout(secs(1), pool.run()).await.is_err());
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["2 at 4", "1 at 14", "0 at 19", "-1 at 19"]);
    assert_eq!(begin.elapsed(), secs(19));
}

// ===== lower depths, and the body, run on =====

#[apply(both)]
async fn a_lower_depth_serves_a_higher_one_that_closes() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    let (requests, mut inbox) = tokio::sync::mpsc::unbounded_channel::<oneshot::Sender<u32>>();
    pool.spawn(async move {
        let asked = cancellation_token();
        while let Some(Some(request)) = asked.run_until_cancelled(inbox.recv()).await {
            request.send(42).unwrap();
        }
    });
    for depth in [3, 2, 1] {
        let (requests, log) = (requests.clone(), log.clone());
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            // Whoever is asked too early is gone by then.
            for _ in 0..100 {
                yield_now().await;
            }
            let (request, answer) = oneshot::channel();
            requests.send(request).unwrap();
            log.push(format!("{depth}: {}", answer.await.unwrap()));
        });
    }
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["3: 42", "2: 42", "1: 42"]);
}

#[apply(both)]
async fn the_body_runs_on_while_higher_depths_are_closed() {
    let log = Log::default();
    let (release, released) = mpsc::channel();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let _body = log.on_drop("body dropped");
        spawn_at(&pool, -1, &log);
        let (logged, (begun, begins)) = (log.clone(), oneshot::channel());
        pool.build_task().depth(1).spawn_blocking(move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
            logged.push("1");
        });
        begins.await?;
        pool.cancel();
        for _ in 0..100 {
            yield_now().await;
        }
        log.push("body runs on");
        release.send(())?;
        pending().await
    })
    .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!(log.events(), ["body runs on", "1", "body dropped", "-1"]);
}

#[apply(both)]
async fn after_a_failure_the_body_is_dropped_between_the_depths_above_and_below() {
    let log = Log::default();
    let error = Pool::<BoxError>::open(async |pool| {
        let _body = log.on_drop("body");
        for depth in [-1, 1, -2, 2] {
            spawn_at(&pool, depth, &log);
        }
        pool.spawn(async { Err("task".into()) });
        pending::<Result<(), _>>().await
    });
    assert_eq!(failures(error.await.unwrap_err().failures()), ["error: task"]);
    assert_eq!(log.events(), ["2", "1", "body", "-1", "-2"]);
}

#[apply(both)]
async fn a_body_that_returns_while_a_higher_depth_closes_has_returned() {
    let (release, released) = mpsc::channel();
    let outcome: Outcome<_> = Pool::open(async |pool: Pool| {
        let (begun, begins) = oneshot::channel();
        pool.build_task().depth(1).spawn_blocking(move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
        });
        begins.await?;
        pool.cancel();
        yield_now().await;
        release.send(())?;
        Ok(42)
    })
    .await;
    assert_eq!(outcome.unwrap(), 42);
}

#[apply(current_thread)]
async fn the_body_has_the_grace_of_depth_0_after_that_of_the_higher() {
    let begin = Instant::now();
    let outcome: Outcome = Pool::builder()
        .grace(secs(10))
        .open(async |pool: Pool| {
            pool.build_task().depth(1).spawn(keep(()));
            pool.cancel();
            cancellation_token().cancelled().await;
            assert_eq!(begin.elapsed(), secs(10));
            let _dropped = OnDrop::new(move || assert_eq!(begin.elapsed(), secs(20)));
            sleep(secs(1000)).await;
            Ok(())
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!(begin.elapsed(), secs(20));
}

#[apply(both)]
async fn a_body_that_fails_while_a_higher_depth_closes_changes_no_step() {
    let log = Log::default();
    let (release, released) = mpsc::channel();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        [0, -1].iter().for_each(|&depth| spawn_at(&pool, depth, &log));
        let (logged, (begun, begins)) = (log.clone(), oneshot::channel());
        pool.build_task().depth(1).spawn_blocking(move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
            // The body has failed, and still nothing below is touched.
            (0..50).for_each(|_| thread::yield_now());
            logged.push("1");
        });
        begins.await?;
        pool.cancel();
        yield_now().await;
        release.send(())?;
        Err("body".into())
    })
    .await;
    assert_eq!(failures(outcome.unwrap_err().failures()), ["error: body"]);
    assert_eq!(log.events(), ["1", "0", "-1"]);
}

// ===== grace =====

#[apply(current_thread)]
async fn each_depth_has_the_grace_for_itself_and_takes_what_it_needs() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    for (depth, cleanup) in [(2, 3), (1, 1000), (0, 0), (-1, 9), (-2, 11)] {
        let log = log.clone();
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            log.push(format!("{depth} at {}", begin.elapsed().as_secs()));
            sleep(secs(cleanup)).await;
        });
    }
    pool.cancel_on(sleep(secs(100)));
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["2 at 100", "1 at 103", "0 at 113", "-1 at 113", "-2 at 122"]);
    assert_eq!(begin.elapsed(), secs(132));
}

#[apply(both)]
async fn a_task_that_its_handle_cancels_makes_way_for_the_next_depth() {
    let log = Log::default();
    let outcome: Outcome = Pool::builder()
        .grace(FOREVER)
        .open(async |pool: Pool| {
            let stubborn = pool.build_task().depth(2).spawn_with_handle(pending::<Result<(), _>>());
            polite_at(&pool, 1, &log);
            yield_now().await;
            pool.cancel();
            for _ in 0..50 {
                yield_now().await;
            }
            log.push("2 is cancelled");
            stubborn.cancel();
            assert_eq!(stubborn.await, Err(TaskStopped::Cancelled));
            cancellation_token().cancelled().await;
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["2 is cancelled", "1"]);
}

// ===== failures while closing =====

#[apply(current_thread)]
async fn a_failure_below_while_a_higher_depth_closes_changes_no_step() {
    let (log, begin) = (Log::default(), Instant::now());
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    for depth in [2, 1] {
        let log = log.clone();
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            sleep(secs(2)).await;
            log.push(format!("{depth} at {}", begin.elapsed().as_secs()));
        });
    }
    let logged = log.clone();
    pool.spawn(async move {
        cancellation_token().cancelled().await;
        logged.push(format!("0 at {}", begin.elapsed().as_secs()));
    });
    pool.spawn(async { Err("first".into()) });
    pool.spawn(async {
        sleep(secs(1)).await;
        Err("second".into())
    });
    pool.build_task().depth(-1).spawn(async {
        sleep(secs(3)).await;
        quiet_panic("third")
    });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "error: second", "panic: third"]);
    assert_eq!((log.events(), begin.elapsed()), (["2 at 2", "1 at 4", "0 at 4"].map(String::from).into(), secs(4)));
}

#[apply(both)]
async fn failures_of_all_depths_are_collected_in_order() {
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    for depth in [0, 2, -1, 1] {
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            Err(format!("cleanup {depth}").into())
        });
    }
    pool.spawn(async { Err("first".into()) });
    let error = pool.run().await.unwrap_err();
    assert_eq!(
        failures(error.failures()),
        ["error: first", "error: cleanup 2", "error: cleanup 1", "error: cleanup 0", "error: cleanup -1"]
    );
}

#[apply(both)]
async fn a_panic_while_a_depth_closes_skips_no_other() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(FOREVER).build();
    pool.build_task().depth(2).spawn(async {
        cancellation_token().cancelled().await;
        quiet_panic("cleanup")
    });
    [-1, 1, 0].iter().for_each(|&depth| polite_at(&pool, depth, &log));
    pool.cancel_on(yield_now());
    assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["panic: cleanup"]);
    assert_eq!(log.events(), ["1", "0", "-1"]);
}

#[apply(both)]
async fn a_destructor_that_panics_in_one_depth_skips_no_other() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    pool.build_task().depth(2).spawn(keep(OnDrop::new(|| quiet_panic("destructor"))));
    [-1, 1, 0].iter().for_each(|&depth| spawn_at(&pool, depth, &log));
    pool.cancel_on(async {
        for _ in 0..10 {
            yield_now().await;
        }
    });
    assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["panic: destructor"]);
    assert_eq!(log.events(), ["1", "0", "-1"]);
}

// ===== spawning while the pool closes =====

#[apply(both)]
async fn while_a_depth_closes_lower_ones_take_tasks_and_it_does_not() {
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        let (begun, begins) = oneshot::channel();
        pool.build_task().depth(1).spawn_blocking(move || {
            begun.send(()).unwrap();
            block_until_closed();
            let pool: Pool = Pool::current();
            for refused in [1, 2, i32::MAX] {
                let given_back = pool.build_task().depth(refused).try_spawn(keep(())).unwrap_err();
                drop(given_back.into_inner());
                let refused = pool.build_task().depth(refused).spawn_with_handle(async { Ok(()) });
                assert!(refused.is_finished(), "a handle of what was refused is not finished");
                assert_eq!(assert_ready!(tokio_test::task::spawn(refused).poll()), Err(TaskStopped::Cancelled));
            }
            let (sender, receiver) = mpsc::channel();
            for accepted in [0, -1, i32::MIN] {
                let sender = sender.clone();
                let run = async move { sender.send(accepted).unwrap() };
                assert!(pool.build_task().depth(accepted).try_spawn(run).is_ok(), "depth {accepted} is refused");
                // It runs, although a higher depth is being closed.
                assert_eq!(receiver.recv(), Ok(accepted), "the task of a lower depth does not run");
            }
        });
        begins.await?;
        pool.cancel();
        pending().await
    })
    .await;
    let error = outcome.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
}

#[apply(both)]
async fn tasks_spawned_below_while_a_depth_closes_are_closed_in_their_turn() {
    let log = Log::default();
    let pool: Pool = Pool::new();
    let logged = log.clone();
    let spawns = OnDrop::new(move || {
        let pool: Pool = Pool::current();
        [-1, 1, 0].iter().for_each(|&depth| spawn_at(&pool, depth, &logged));
        // Equal and higher depths are refused, and the future dropped here.
        [2, 3].iter().for_each(|&depth| spawn_at(&pool, depth, &logged));
        logged.push("spawned");
    });
    pool.build_task().depth(2).spawn(keep(spawns));
    // The last of the depths to be closed is known by then, so that those in between are new.
    spawn_at(&pool, -2, &log);
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["2", "3", "spawned", "1", "0", "-1", "-2"]);
}

#[apply(current_thread)]
async fn a_depth_takes_tasks_during_its_grace_and_not_after() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    let logged = log.clone();
    pool.build_task().depth(1).spawn(async move {
        let pool: Pool = Pool::current();
        let late = OnDrop::new(|| {
            let pool: Pool = Pool::current();
            assert!(pool.build_task().depth(1).try_spawn(async {}).is_err());
            assert!(pool.build_task().depth(0).try_spawn(async {}).is_ok());
        });
        cancellation_token().cancelled().await;
        let helper = pool.build_task().depth(1).spawn_with_handle(async {
            assert!(cancellation_token().is_cancelled());
            sleep(secs(5)).await;
            Ok("helped")
        });
        logged.push(helper.await.unwrap());
        keep(late).await
    });
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["helped"]);
}

#[apply(both)]
async fn a_chain_of_tasks_spawned_downwards_while_closing_comes_to_its_end() {
    fn next(pool: &Pool, depth: i32, log: &Log) {
        let logged = log.clone();
        let flag = OnDrop::new(move || {
            logged.push(depth.to_string());
            if depth > -5 {
                next(&Pool::current(), depth - 1, &logged);
            }
        });
        pool.build_task().depth(depth).spawn(keep(flag));
    }
    let log = Log::default();
    let pool: Pool = Pool::new();
    next(&pool, 5, &log);
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(log.events(), texts(&[5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5]));
}

#[apply(both)]
async fn a_destructor_can_spawn_below_if_there_are_other_depths() {
    for other in [None, Some(1), Some(-2)] {
        let log = Log::default();
        let pool: Pool = Pool::new();
        let logged = log.clone();
        let flag = OnDrop::new(move || {
            let accepted = Pool::<BoxError>::current().build_task().depth(-1).try_spawn(async {}).is_ok();
            logged.push(format!("accepted: {accepted}"));
        });
        pool.spawn(keep(flag));
        if let Some(depth) = other {
            pool.build_task().depth(depth).spawn(pending::<()>());
        }
        pool.cancel_on(yield_now());
        pool.run().await.unwrap();
        assert_eq!(log.events(), [format!("accepted: {}", other.is_some())], "{other:?}");
    }
}

#[apply(current_thread)]
async fn a_depth_that_was_passed_or_aborted_takes_no_tasks_again() {
    let log = Log::default();
    let pool: Pool = Pool::builder().grace(secs(10)).build();
    // Depth 1 is passed by then, and there never was a depth 5.
    polite_at(&pool, 1, &log);
    let logged = log.clone();
    pool.spawn(async move {
        let refused = |depth| Pool::<BoxError>::current().build_task().depth(depth).try_spawn(async {}).is_err();
        let in_drop = logged.clone();
        let _late = OnDrop::new(move || in_drop.push(format!("aborted: {:?}", [-1, 0, 1, 5].map(refused))));
        cancellation_token().cancelled().await;
        logged.push(format!("asked: {:?}", [-1, 0, 1, 5].map(refused)));
        pending::<()>().await
    });
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["1", "asked: [false, false, true, true]", "aborted: [false, true, true, true]"]);
}

#[apply(both)]
async fn a_pool_of_one_depth_without_a_grace_takes_nothing_at_any_depth_once_it_closes() {
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        pool.cancel();
        for depth in [i32::MIN, -1, 0, 1] {
            assert!(pool.build_task().depth(depth).try_spawn(async {}).is_err(), "depth {depth} is not refused");
        }
        Ok(())
    })
    .await;
    outcome.unwrap();
}

// ===== by hand =====

#[apply(both)]
async fn depths_come_and_go_a_thousand_times_and_are_closed_in_order() {
    let (log, pool) = (Log::default(), Pool::<BoxError>::builder().grace(FOREVER).keep_open(true).build());
    let opened = pool.clone();
    let body = async {
        let mut well = true;
        for round in 0..1000 {
            let depth = round % 5 - 2;
            // The only one at its depth, which is gone with it.
            well &= opened.build_task().depth(depth).spawn_with_handle(async { Ok(()) }).await.is_ok();
        }
        [0, -2, 2, 1, -1].iter().for_each(|&depth| polite_at(&opened, depth, &log));
        opened.cancel();
        well
    };
    let (ended, well) = tokio::join!(pool.run(), body);
    ended.unwrap();
    assert!(well);
    assert_eq!(log.events(), ["2", "1", "0", "-1", "-2"]);
}

#[apply(current_thread)]
async fn a_depth_below_zero_waits_for_depth_zero_when_the_owner_is_dropped() {
    let (alive, gate) = (Alive::default(), LatchEvent::new());
    let opened = Pool::<BoxError>::open(async |outer| {
        let mut inner = Box::pin(Pool::<BoxError>::open(async |pool| {
            pool.build_task().depth(-1).spawn(keep(alive.one()));
            shield(gate.wait_set()).await;
            Ok(())
        }));
        assert!(poll_once(inner.as_mut()).await.is_pending());
        drop(inner);
        for _ in 0..100 {
            yield_now().await;
            assert_eq!(alive.count(), 1, "depth -1 has ended before depth 0");
        }
        gate.set();
        drop(outer);
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}
