//! Limits: how many tasks run at a time, in which order the others come, and what becomes of those that wait.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, OnFailure, Pool, TaskHandle, TaskStopped, cancellation_token};
use macro_rules_attribute::apply;
use tokio::runtime;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    Alive, Crowd, FOREVER, Log, OnDrop, Outcome, both, current_thread, failures, keep, many, on_both, panic_text,
    poll_once, poll_until, quiet_panic, secs, stays_pending, until, until_running, watched,
};

fn limited(tasks: usize) -> Pool {
    Pool::builder().limit(tasks).build()
}

// ===== how many run =====

#[apply(both)]
async fn as_many_tasks_run_as_the_limit_allows_and_no_more() {
    for (limit, tasks) in [(1, 50), (2, 100), (10, 1025), (100, 1000), (1000, 20), (usize::MAX, 20)] {
        let (crowd, gathered) = (Crowd::default(), limit.min(tasks));
        let pool = limited(limit);
        for _ in 0..tasks {
            let crowd = crowd.clone();
            pool.spawn(async move {
                let _inside = crowd.enter();
                // The limit is reached, not only respected.
                until(|| crowd.counts()[1] == gathered).await;
                yield_now().await;
            });
        }
        pool.run().await.unwrap();
        assert_eq!(crowd.counts(), [0, gathered, tasks], "{tasks} tasks, limit {limit}");
    }
}

#[apply(both)]
async fn tasks_spawned_by_the_body_and_by_tasks_are_limited_too() {
    let crowd = Crowd::default();
    let outcome: Outcome = Pool::builder()
        .limit(3)
        .open(async |pool: Pool| {
            for n in 0..100 {
                let (visit, more) = (crowd.visit(), crowd.visit());
                pool.spawn(async {
                    visit.await;
                    Pool::<BoxError>::current().spawn(more);
                });
                if n % 10 == 0 {
                    yield_now().await;
                }
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    crowd.respected(3, 200);
}

#[apply(both)]
async fn threads_that_spawn_at_the_same_time_are_limited_together() {
    let crowd = Crowd::default();
    let outcome: Outcome = Pool::builder()
        .limit(4)
        .open(async |pool: Pool| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..250).for_each(|_| pool.spawn(crowd.visit())));
                }
            });
            Ok(())
        })
        .await;
    outcome.unwrap();
    crowd.respected(4, 1000);
}

#[apply(both)]
async fn a_limit_of_one_is_one_after_the_other_in_spawn_order() {
    let (log, crowd) = (Log::default(), Crowd::default());
    let pool = limited(1);
    for n in 0..200 {
        let (log, visit) = (log.clone(), crowd.visit());
        pool.spawn(async move {
            log.push(format!("{n} begins"));
            visit.await;
            log.push(format!("{n} ends"));
        });
    }
    pool.run().await.unwrap();
    let order: Vec<_> = (0..200).flat_map(|n| [format!("{n} begins"), format!("{n} ends")]).collect();
    assert_eq!((log.events(), crowd.counts()), (order, [0, 1, 200]));
}

#[apply(current_thread)]
async fn tasks_that_wait_start_in_spawn_order() {
    let (log, begin) = (Log::default(), Instant::now());
    let outcome: Outcome = Pool::builder()
        .limit(2)
        .open(async |pool: Pool| {
            for (n, takes) in [5, 1, 1, 2, 1, 3].into_iter().enumerate() {
                let log = log.clone();
                // The depth makes no difference.
                pool.build_task().depth(n as i32 % 3 - 1).spawn(async move {
                    log.push(format!("{n} at {}", begin.elapsed().as_secs()));
                    sleep(secs(takes)).await;
                });
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["0 at 0", "1 at 0", "2 at 1", "3 at 2", "4 at 4", "5 at 5"]);
    assert_eq!(begin.elapsed(), secs(8));
}

#[apply(both)]
async fn planned_tasks_come_in_spawn_order_and_before_later_ones() {
    let log = Log::default();
    let pool = limited(1);
    for n in 0..20 {
        let logged = log.clone();
        pool.spawn(async move {
            let later = logged.clone();
            Pool::<BoxError>::current().spawn(async move { later.push(format!("later {n}")) });
            logged.push(format!("planned {n}"));
        });
    }
    pool.run().await.unwrap();
    let order: Vec<_> =
        ["planned", "later"].iter().flat_map(|kind| (0..20).map(move |n| format!("{kind} {n}"))).collect();
    assert_eq!(log.events(), order);
}

#[test]
fn a_limit_of_zero_panics() {
    let text = panic_text(|| Pool::<BoxError>::builder().limit(0));
    assert_eq!(text, "a pool with a limit of 0 would never run a task");
}

#[apply(both)]
async fn a_nested_pool_has_a_limit_of_its_own() {
    let (outer, inner) = (Crowd::default(), Crowd::default());
    let pool = limited(2);
    for _ in 0..10 {
        let (outer, visits) = (outer.clone(), (0..10).map(|_| inner.visit()).collect::<Vec<_>>());
        pool.spawn(async move {
            // It keeps its slot for as long as the nested pool runs.
            let _inside = outer.enter();
            let nested = limited(3);
            visits.into_iter().for_each(|visit| nested.spawn(visit));
            nested.run().await.unwrap();
        });
    }
    pool.run().await.unwrap();
    outer.respected(2, 10);
    inner.respected(6, 100);
}

#[apply(both)]
async fn every_kind_of_task_counts_towards_the_limit() {
    let crowd = Crowd::default();
    let local = LocalSet::new();
    let opened = local.run_until(Pool::builder().limit(2).open(async |pool: Pool| {
        let mut started = Vec::new();
        for n in 0..10 {
            pool.spawn(crowd.visit());
            pool.try_spawn(crowd.visit()).unwrap();
            let visit = crowd.visit();
            drop(pool.spawn_with_handle(async {
                let _: () = visit.await;
                Ok(())
            }));
            pool.spawn_local(crowd.visit());
            pool.build_task().depth(n).spawn_local(crowd.visit());
            let crowded = crowd.clone();
            pool.spawn_blocking(move || {
                let _inside = crowded.enter();
                (0..5).for_each(|_| thread::yield_now());
            });
            let visit = crowd.visit();
            started.push(pool.start(|started| async {
                visit.await;
                started.ready(());
            }));
        }
        for start in started {
            start.await?;
        }
        Ok(())
    }));
    opened.await.unwrap();
    crowd.respected(2, 70);
}

// ===== what waits is a member =====

#[apply(both)]
async fn spawn_does_not_wait_for_a_slot() {
    let (alive, outcome) = (Alive::default(), Pool::builder().limit(1));
    let outcome: Outcome = outcome
        .open(async |pool: Pool| {
            // No turn is given to anybody in here.
            (0..1000).for_each(|_| pool.spawn(keep(alive.one())));
            let refused = pool.try_spawn(keep(alive.one()));
            assert!(refused.is_ok());
            assert_eq!((pool.len(), alive.count()), (1001, 1001));
            pool.cancel();
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_task_can_spawn_into_its_own_full_pool() {
    let log = Log::default();
    let pool = limited(1);
    let logged = log.clone();
    pool.spawn(async move {
        let pool: Pool = Pool::current();
        for n in 0..3 {
            let logged = logged.clone();
            pool.spawn(async move { logged.push(format!("{n}")) });
        }
        yield_now().await;
        assert_eq!(pool.len(), 4);
        logged.push("parent");
    });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["parent", "0", "1", "2"]);
}

#[apply(both)]
async fn tasks_that_wait_hold_the_pool_open_and_are_counted() {
    let (ended, release) = (Log::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let pool = limited(2);
    for n in 0..5 {
        let (ended, release) = (ended.clone(), Arc::clone(&release));
        // Those that wait are at a depth in which nothing runs.
        pool.build_task().depth(n / 2).spawn(async move {
            release.acquire().await.unwrap().forget();
            ended.push("task");
        });
    }
    assert_eq!(pool.len(), 5);
    let watcher = pool.clone();
    let mut run = Box::pin(pool.run());
    for left in (1..=5).rev() {
        for _ in 0..20 {
            assert!(poll_once(run.as_mut()).await.is_pending());
            assert_eq!(
                (watcher.len(), watcher.is_empty(), watcher.is_closed()),
                (left, false, false),
                "with {left} tasks left"
            );
            yield_now().await;
        }
        release.add_permits(1);
        until(|| watcher.len() == left - 1).await;
    }
    run.await.unwrap();
    assert_eq!(ended.events().len(), 5);
}

// ===== what waits is dropped when its depth is aborted =====

#[apply(both)]
async fn tasks_that_wait_are_dropped_unpolled_when_the_pool_is_cancelled() {
    let (alive, polled) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
    let outcome: Outcome = Pool::builder()
        .limit(2)
        .open(async |pool: Pool| {
            for _ in 0..100 {
                let (one, polled) = (alive.one(), Arc::clone(&polled));
                pool.spawn(async move {
                    polled.fetch_add(1, Ordering::SeqCst);
                    keep(one).await
                });
            }
            until(|| polled.load(Ordering::SeqCst) == 2).await;
            pool.cancel();
            pending().await
        })
        .await;
    assert!(outcome.unwrap_err().is_cancelled());
    assert_eq!((alive.count(), polled.load(Ordering::SeqCst)), (0, 2));
}

/// Sees that no task that waits is polled after the pool has begun to close in a task of its highest depth, without a
/// grace.
fn nothing_begins_after(end: fn() -> Result<(), BoxError>) {
    on_both(|| async {
        for depth in [0, 1] {
            let (alive, polled) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
            let pool = limited(1);
            pool.build_task().depth(depth).spawn(async move { end() });
            for _ in 0..100 {
                let (one, polled) = (alive.one(), Arc::clone(&polled));
                pool.build_task().depth(depth).spawn(async move {
                    polled.fetch_add(1, Ordering::SeqCst);
                    drop(one);
                });
            }
            drop(pool.run().await);
            assert_eq!((alive.count(), polled.load(Ordering::SeqCst)), (0, 0), "depth {depth}");
        }
    });
}

#[test]
fn no_task_that_waits_begins_after_an_error() {
    nothing_begins_after(|| Err("first".into()));
}

#[test]
fn no_task_that_waits_begins_after_a_panic() {
    nothing_begins_after(|| quiet_panic("first"));
}

#[test]
fn no_task_that_waits_begins_after_a_cancellation() {
    nothing_begins_after(|| {
        Pool::<BoxError>::current().cancel();
        Ok(())
    });
}

#[apply(both)]
async fn handles_of_tasks_that_wait_say_cancelled_when_the_pool_is() {
    let mut handles = Vec::new();
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            handles.extend((0..10).map(|_| pool.spawn_with_handle(pending::<Result<(), _>>())));
            assert!(handles.iter().all(|handle| !handle.is_finished()));
            pool.cancel();
            Ok(())
        })
        .await;
    outcome.unwrap();
    for handle in handles {
        assert!(handle.is_finished(), "the handle of a task that waits is not finished");
        assert_eq!(handle.await, Err(TaskStopped::Cancelled));
    }
}

#[apply(current_thread)]
async fn tasks_that_wait_at_an_aborted_depth_are_dropped_and_lower_ones_still_run() {
    let (log, begin) = (Log::default(), Instant::now());
    let at = move |event: &str| format!("{event} at {}", begin.elapsed().as_secs());
    let pool: Pool = Pool::builder().limit(2).grace(secs(10)).build();
    pool.build_task().depth(1).spawn(keep(()));
    let logged = log.clone();
    pool.spawn(async move {
        cancellation_token().cancelled().await;
        logged.push(at("0 asked"));
        sleep(secs(3)).await;
    });
    for (depth, event) in [(1, "1 dropped"), (0, "0 dropped"), (-1, "-1 dropped")] {
        let logged = log.clone();
        let flag = OnDrop::new(move || logged.push(at(event)));
        let logged = log.clone();
        pool.build_task().depth(depth).spawn(async move {
            let _flag = flag;
            logged.push(at(&format!("{depth} begins")));
            sleep(secs(1)).await;
        });
    }
    pool.cancel_on(sleep(secs(1)));
    pool.run().await.unwrap();
    // Depth 1 keeps one of the two slots until it is aborted.
    assert_eq!(
        log.events(),
        [
            "1 dropped at 11",
            "0 begins at 11",
            "0 asked at 11",
            "0 dropped at 12",
            "-1 begins at 12",
            "-1 dropped at 13"
        ]
    );
    assert_eq!(begin.elapsed(), secs(14));
}

#[apply(both)]
async fn tasks_that_wait_may_begin_during_the_grace() {
    let log = Log::default();
    let pool: Pool = Pool::builder().limit(1).grace(FOREVER).build();
    for n in 0..5 {
        let log = log.clone();
        pool.spawn(async move {
            cancellation_token().cancelled().await;
            log.push(n.to_string());
        });
    }
    pool.cancel_on(yield_now());
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["0", "1", "2", "3", "4"]);
}

#[apply(both)]
async fn destructors_of_tasks_that_wait_run_where_they_may_spawn() {
    let log = Log::default();
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            pool.spawn(pending::<()>());
            for _ in 0..10 {
                let (own, log) = (pool.clone(), log.clone());
                let flag = OnDrop::new(move || {
                    let refused = own.try_spawn(async {}).is_err();
                    log.push(format!("{refused} {}", own.is_closed()));
                });
                pool.spawn(keep(flag));
            }
            pool.cancel();
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["true true"; 10]);
}

// ===== slots come back =====

#[apply(both)]
async fn a_slot_comes_back_however_its_task_ends() {
    let crowd = Crowd::default();
    let outcome: Outcome = Pool::builder()
        .limit(2)
        .on_failure(|_| OnFailure::Discard)
        .open(async |pool: Pool| {
            for _ in 0..20 {
                pool.spawn(async { quiet_panic("task") });
                pool.spawn(async { Err("task".into()) });
                pool.spawn_blocking(|| quiet_panic("closure"));
                pool.spawn(async {
                    let _flag = OnDrop::new(|| quiet_panic("destructor"));
                    yield_now().await;
                });
                let (begun, has_begun) = oneshot::channel();
                let cancelled = pool.spawn_with_handle(async {
                    begun.send(()).expect("somebody waits");
                    pending::<Result<(), _>>().await
                });
                has_begun.await?;
                cancelled.cancel();
                let unpolled = pool.spawn_with_handle(pending::<Result<(), _>>());
                unpolled.cancel();
            }
            // Both slots are free, else nobody would come to meet.
            let meeting = Arc::new(Barrier::new(2));
            for _ in 0..20 {
                let (crowd, meeting) = (crowd.clone(), Arc::clone(&meeting));
                pool.spawn(async move {
                    let _inside = crowd.enter();
                    meeting.wait().await;
                });
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(crowd.counts(), [0, 2, 20]);
}

#[apply(both)]
async fn a_local_task_gives_its_slot_back_however_it_ends() {
    let crowd = Crowd::default();
    let local = LocalSet::new();
    let opened =
        local.run_until(Pool::builder().limit(2).on_failure(|_| OnFailure::Discard).open(async |pool: Pool| {
            for _ in 0..20 {
                pool.spawn_local(async { quiet_panic("task") });
                pool.spawn_local(async { Err("task".into()) });
                pool.spawn_local(crowd.visit());
                pool.spawn(crowd.visit());
            }
            Ok(())
        }));
    opened.await.unwrap();
    crowd.respected(2, 40);
}

#[apply(both)]
async fn a_task_that_is_cancelled_while_it_waits_is_dropped_unpolled_and_keeps_nobody_waiting() {
    let (alive, polled, log) = (Alive::default(), Arc::new(AtomicUsize::new(0)), Log::default());
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            let (release, released) = oneshot::channel::<()>();
            pool.spawn(async { released.await.unwrap() });
            let waiting: Vec<_> = (0..10)
                .map(|_| {
                    let (one, polled) = (alive.one(), Arc::clone(&polled));
                    pool.spawn_with_handle(async move {
                        polled.fetch_add(1, Ordering::SeqCst);
                        drop(one);
                        Ok(())
                    })
                })
                .collect();
            let logged = log.clone();
            pool.spawn(async move { logged.push("last") });
            waiting.iter().for_each(|handle| handle.cancel());
            release.send(()).unwrap();
            for handle in waiting {
                assert_eq!(handle.await, Err(TaskStopped::Cancelled));
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!((alive.count(), polled.load(Ordering::SeqCst), log.events().len()), (0, 0, 1));
}

#[apply(both)]
async fn a_planned_task_that_was_cancelled_takes_no_slot() {
    let (crowd, pool) = (Crowd::default(), limited(1));
    let cancelled = [0; 5].map(|_| pool.spawn_with_handle(pending::<Result<(), _>>()));
    pool.spawn(crowd.visit());
    pool.spawn(crowd.visit());
    cancelled.iter().for_each(|handle| handle.cancel());
    pool.run().await.unwrap();
    assert_eq!(crowd.counts(), [0, 1, 2]);
    assert!(cancelled.iter().all(|handle| handle.is_finished()));
}

#[apply(both)]
async fn a_blocking_task_keeps_its_slot_until_it_ends() {
    let (log, (release, released)) = (Log::default(), mpsc::channel::<()>());
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            let logged = log.clone();
            let (begun, begins) = oneshot::channel();
            pool.spawn_blocking(move || {
                begun.send(()).unwrap();
                released.recv().unwrap();
                logged.push("blocking");
            });
            let logged = log.clone();
            pool.spawn_blocking(move || logged.push("blocking next"));
            let logged = log.clone();
            pool.spawn(async move { logged.push("task") });
            begins.await?;
            for _ in 0..50 {
                yield_now().await;
            }
            log.push("released");
            release.send(())?;
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(log.events(), ["released", "blocking", "blocking next", "task"]);
}

#[apply(both)]
async fn closures_that_wait_are_dropped_uncalled_when_the_pool_is_cancelled() {
    let (alive, called) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            pool.spawn(pending::<()>());
            for _ in 0..10 {
                let (one, called) = (alive.one(), Arc::clone(&called));
                pool.spawn_blocking(move || {
                    called.fetch_add(1, Ordering::SeqCst);
                    drop(one);
                });
            }
            for _ in 0..1_000 {
                yield_now().await;
            }
            pool.cancel();
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!((alive.count(), called.load(Ordering::SeqCst)), (0, 0));
}

// ===== ready =====

#[apply(current_thread)]
async fn ready_is_ready_at_once_without_a_limit_and_below_it() {
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        (0..10).for_each(|_| pool.spawn(pending::<()>()));
        assert_ready!(task::spawn(pool.ready()).poll());
        pool.cancel();
        Ok(())
    })
    .await;
    outcome.unwrap();
    let pool = limited(2);
    assert_ready!(task::spawn(pool.ready()).poll());
    pool.spawn(async {});
    assert_ready!(task::spawn(pool.ready()).poll());
    pool.spawn(async {});
    assert_pending!(task::spawn(pool.ready()).poll());
    pool.run().await.unwrap();
}

#[apply(both)]
async fn ready_waits_until_a_slot_is_free() {
    let outcome: Outcome = Pool::builder()
        .limit(2)
        .open(async |pool: Pool| {
            let (release, released) = oneshot::channel::<()>();
            pool.spawn(async { released.await.unwrap() });
            pool.ready().await;
            pool.build_task().daemon().spawn(pending::<()>());
            pool.ready().await;
            pool.build_task().depth(5).spawn(pending::<()>());
            let mut ready = Box::pin(pool.ready());
            stays_pending(ready.as_mut()).await;
            release.send(()).unwrap();
            ready.await;
            pool.ready().await;
            pool.cancel();
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_producer_that_waits_until_it_is_ready_never_queues() {
    let crowd = Crowd::default();
    let outcome: Outcome = Pool::builder()
        .limit(3)
        .open(async |pool: Pool| {
            for _ in 0..200 {
                pool.ready().await;
                let visit = crowd.visit();
                let task = pool.spawn_with_handle(async {
                    let _: () = visit.await;
                    Ok(())
                });
                assert!(task.id().is_some(), "it waits for its turn");
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    crowd.respected(3, 200);
}

#[apply(both)]
async fn many_that_wait_until_it_is_ready_all_come_through() {
    let crowd = Crowd::default();
    let outcome: Outcome = Pool::builder()
        .limit(2)
        .open(async |jobs: Pool| {
            let producers: Pool = Pool::new();
            for _ in 0..100 {
                let (crowd, jobs) = (crowd.clone(), jobs.clone());
                producers.spawn(async move {
                    for _ in 0..5 {
                        jobs.ready().await;
                        jobs.spawn(crowd.visit());
                    }
                });
            }
            producers.run().await?;
            Ok(())
        })
        .await;
    outcome.unwrap();
    crowd.respected(2, 500);
}

#[apply(both)]
async fn ready_returns_when_the_pool_closes() {
    for cancelled in [true, false] {
        let outcome: Outcome = Pool::builder()
            .limit(1)
            .grace(FOREVER)
            .open(async |pool: Pool| {
                let (fail, failing) = oneshot::channel::<()>();
                pool.spawn(async {
                    let asked = cancellation_token();
                    match asked.run_until_cancelled(failing).await {
                        Some(Ok(())) => Err("first".into()),
                        _ => Ok(()),
                    }
                });
                pool.spawn(async {});
                let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(pool.ready())).collect();
                for ready in &mut waiting {
                    stays_pending(ready.as_mut()).await;
                }
                if cancelled {
                    pool.cancel()
                } else {
                    fail.send(()).unwrap()
                }
                for ready in waiting {
                    ready.await;
                }
                Ok(())
            })
            .await;
        assert_eq!(outcome.is_ok(), cancelled, "cancelled: {cancelled}");
    }
}

#[apply(both)]
async fn a_loop_that_is_always_ready_lets_others_run() {
    for pool in [limited(1), Pool::new()] {
        tokio::select! {
            biased;
            () = async {
                loop {
                    pool.ready().await;
                }
            } => {}
            () = yield_now() => {}
        }
    }
}

/// Nobody has left by then.
#[apply(both)]
async fn ready_returns_when_the_pool_closes_although_its_slots_are_taken() {
    let pool = Pool::<BoxError>::builder().limit(1).grace(FOREVER).build();
    let (gate, inside) = (LatchEvent::new(), Log::default());
    pool.spawn(gate.wait_set());
    let (own, log) = (pool.clone(), inside.clone());
    // Beside the limit, since it is a daemon.
    pool.build_task().daemon().spawn(async move {
        own.ready().await;
        log.push("inside");
    });
    let mut run = pin!(pool.clone().run());
    let mut outside = pin!(pool.ready());
    for _ in 0..100 {
        assert!(poll_once(run.as_mut()).await.is_pending());
        assert!(poll_once(outside.as_mut()).await.is_pending());
        yield_now().await;
    }
    pool.cancel();
    outside.await;
    poll_until(run.as_mut(), || !inside.events().is_empty()).await;
    pool.ready().await;
    assert!(!gate.is_set() && !pool.is_empty());
    stays_pending(run.as_mut()).await;
    gate.set();
    run.await.unwrap();
}

#[apply(current_thread)]
async fn ready_is_ready_when_the_pool_has_closed() {
    let pool = limited(1);
    pool.spawn(async {});
    let mut waiting = task::spawn(pool.ready());
    assert_pending!(waiting.poll());
    pool.clone().run().await.unwrap();
    assert!(waiting.is_woken());
    assert_ready!(waiting.poll());
    assert_ready!(task::spawn(pool.ready()).poll());
    drop(waiting);
    let cancelled = limited(1);
    cancelled.spawn(async {});
    cancelled.cancel();
    assert_ready!(task::spawn(cancelled.ready()).poll());
}

#[apply(both)]
async fn a_call_of_ready_that_is_dropped_takes_nothing_from_the_others() {
    let outcome: Outcome = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            let (release, released) = oneshot::channel::<()>();
            pool.spawn(async { released.await.unwrap() });
            let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(pool.ready())).collect();
            for ready in &mut waiting {
                assert!(poll_once(ready.as_mut()).await.is_pending());
            }
            let last = waiting.pop().unwrap();
            drop(waiting);
            release.send(()).unwrap();
            last.await;
            pool.ready().await;
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[apply(current_thread)]
async fn planned_daemons_do_not_keep_ready_waiting() {
    let pool = limited(1);
    pool.build_task().daemon().spawn(pending::<()>());
    assert_ready!(task::spawn(pool.ready()).poll());
}

#[apply(both)]
async fn a_call_of_ready_on_a_planned_pool_hears_of_slots_that_are_free_once_it_runs() {
    let pool: Pool = Pool::builder().limit(1).keep_open(true).build();
    let cancelled = pool.spawn_with_handle(async { Ok(()) });
    let (watcher, stop) = (pool.clone(), pool.clone());
    let mut ready = Box::pin(watcher.ready());
    stays_pending(ready.as_mut()).await;
    cancelled.cancel();
    let mut run = Box::pin(pool.run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let mut was_ready = false;
    for _ in 0..100 {
        was_ready = was_ready || poll_once(ready.as_mut()).await.is_ready();
        if was_ready {
            break;
        }
        assert!(poll_once(run.as_mut()).await.is_pending());
        yield_now().await;
    }
    stop.cancel();
    run.await.unwrap();
    assert!(was_ready, "a slot is free, and `ready` does not say so");
}

#[apply(both)]
async fn a_task_that_is_cancelled_while_it_waits_ends_without_waiting_for_a_slot() {
    let outcome: Outcome<_> = Pool::builder()
        .limit(1)
        .open(async |pool: Pool| {
            let alive = Alive::default();
            pool.spawn(pending::<()>());
            let one = alive.one();
            let waits = pool.spawn_with_handle(async move {
                drop(one);
                Ok(())
            });
            waits.cancel();
            let ended = waits.await;
            pool.cancel();
            Ok((ended, alive.count()))
        })
        .await;
    assert_eq!(outcome.unwrap(), (Err(TaskStopped::Cancelled), 0));
}

#[apply(both)]
async fn a_destructor_of_a_task_that_waits_may_panic_and_is_a_failure() {
    for grace in [Duration::ZERO, Duration::from_millis(1)] {
        let pool: Pool = Pool::builder().limit(1).grace(grace).build();
        pool.spawn(pending::<()>());
        let bomb = OnDrop::new(|| {
            assert!(Pool::<BoxError>::try_current().is_some(), "it is dropped outside of its pool");
            quiet_panic("in drop")
        });
        pool.build_task().name("waits").spawn(keep(bomb));
        pool.cancel_on(yield_now());
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: in drop"], "grace: {grace:?}");
        assert_eq!(error.first().unwrap().task().name(), Some("waits"));
    }
}

#[apply(both)]
async fn a_destructor_may_panic_of_a_task_that_its_handle_takes_out_of_the_queue() {
    for planned in [true, false] {
        let pool: Pool = Pool::builder().limit(1).on_failure(|_| OnFailure::Collect).build();
        let ran = Log::default();
        let spawn = |pool: &Pool| {
            let bomb = OnDrop::new(|| quiet_panic("in drop"));
            pool.spawn_with_handle(async move {
                keep(bomb).await;
                Ok(())
            })
        };
        let early = planned.then(|| spawn(&pool));
        early.iter().for_each(TaskHandle::cancel);
        let (inside, logged) = (pool.clone(), ran.clone());
        pool.spawn(async move {
            let late = (!planned).then(|| spawn(&inside));
            for handle in late.into_iter().chain(early) {
                handle.cancel();
                assert_eq!(handle.await, Err(TaskStopped::Panicked), "planned: {planned}");
            }
            logged.push("not held up");
        });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: in drop"], "planned: {planned}");
        assert_eq!(ran.events(), ["not held up"], "planned: {planned}");
    }
}

#[apply(both)]
async fn a_planned_task_that_was_cancelled_does_not_wait_for_its_turn() {
    let (pool, (give, handle)) = (limited(1), oneshot::channel::<TaskHandle<()>>());
    pool.spawn(async move { assert_eq!(handle.await.unwrap().await, Err(TaskStopped::Cancelled)) });
    let second = pool.spawn_with_handle(async { Ok(()) });
    second.cancel();
    assert!(give.send(second).is_ok());
    pool.run().await.unwrap();
}

// ===== many, and a runtime that ends =====

#[apply(both)]
async fn a_hundred_thousand_tasks_come_through_a_limit() {
    let (count, pool) = (Arc::new(AtomicUsize::new(0)), limited(7));
    for _ in 0..100_000 {
        let count = Arc::clone(&count);
        pool.spawn(async move {
            count.fetch_add(1, Ordering::SeqCst);
        });
    }
    pool.run().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 100_000);
}

#[test]
fn a_runtime_that_shuts_down_drops_very_many_tasks_that_wait() {
    let one_thread = || runtime::Builder::new_current_thread().build().unwrap();
    let two_threads = || runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let runtimes: [fn() -> runtime::Runtime; 2] = [one_thread, two_threads];
    for runtime in runtimes {
        for owned in [true, false] {
            let left = watched(move || {
                let (alive, runtime) = (Alive::default(), runtime());
                let pool = limited(3);
                for depth in [0, 1].into_iter().cycle().take(many(100_000)) {
                    pool.build_task().depth(depth).spawn(keep(alive.one()));
                }
                let watcher = pool.clone();
                let mut run = Box::pin(pool.run());
                if owned {
                    // The driver is dropped by the runtime as well.
                    drop(runtime.spawn(run));
                    runtime.block_on(until_running(&watcher));
                    drop(runtime);
                } else {
                    runtime.block_on(async { assert!(poll_once(run.as_mut()).await.is_pending()) });
                    drop(runtime);
                    drop(run);
                }
                alive.count()
            });
            assert_eq!(left, 0, "the runtime leaves tasks behind; owned by it: {owned}");
        }
    }
}

#[apply(both)]
async fn tasks_that_wait_are_joined_by_the_enclosing_pool_when_their_owner_is_dropped() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |_| {
        let pool = limited(2);
        (0..100).for_each(|n| pool.build_task().depth(n % 3).spawn(keep(alive.slow())));
        let mut run = Box::pin(pool.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        yield_now().await;
        drop(run);
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_failure_under_a_limit_is_reported_once() {
    let pool = limited(1);
    pool.spawn(async {});
    pool.spawn(async { Err("second".into()) });
    (0..10).for_each(|_| pool.spawn(pending::<()>()));
    assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: second"]);
}

#[apply(both)]
async fn a_local_task_that_waits_for_its_turn_is_let_go_with_its_depth() {
    let local = LocalSet::new();
    let opened = local.run_until(Pool::builder().limit(1).open(async |pool: Pool| {
        pool.spawn(pending::<()>());
        pool.build_task().depth(5).spawn_local(pending::<()>());
        pool.cancel();
        Ok::<_, BoxError>(())
    }));
    opened.await.unwrap();
}
