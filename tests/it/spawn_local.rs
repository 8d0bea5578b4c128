//! `spawn_local`: tasks that stay on their thread.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aiodrive::{BoxError, LatchEvent, OnFailure, Pool};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    Alive, Crowd, Log, OnDrop, both, busy, endless, fails, failures, kept_open, multi_thread, panic_text, quiet_panic,
    running, until, until_running,
};

#[apply(both)]
async fn a_local_task_may_hold_what_is_not_send() {
    let sum = Rc::new(Cell::new(0));
    let opened = Pool::open(async |pool: Pool| {
        for n in 1..=3 {
            let sum = Rc::clone(&sum);
            pool.spawn_local(async move {
                yield_now().await;
                sum.set(sum.get() + n);
            });
        }
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
    assert_eq!((sum.get(), Rc::strong_count(&sum)), (6, 1));
}

#[apply(both)]
async fn a_local_task_stays_on_its_thread_and_is_in_the_pool() {
    let here = std::thread::current().id();
    let opened = Pool::builder().name("mine").open(async |pool: Pool| {
        let (done, wait) = oneshot::channel();
        pool.spawn_local(async move {
            for _ in 0..100 {
                yield_now().await;
                assert_eq!(std::thread::current().id(), here);
            }
            done.send(Pool::<BoxError>::current().name().map(str::to_owned)).unwrap();
        });
        Ok(wait.await?)
    });
    assert_eq!(LocalSet::new().run_until(opened).await.unwrap().as_deref(), Some("mine"));
}

#[apply(multi_thread)]
async fn a_local_task_in_a_pool_that_runs_elsewhere_is_joined() {
    let (pool, log) = (kept_open(), Log::default());
    let running = running(&pool);
    until_running(&pool).await;
    let (far, events) = (pool.clone(), log.clone());
    // A runtime of its own, on a thread of its own.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let ended = events.on_drop("dropped");
            let (begun, wait) = oneshot::channel();
            far.spawn_local(async move {
                let _ended = ended;
                begun.send(()).unwrap();
                busy().await;
            });
            wait.await.unwrap();
            far.cancel();
            until(|| !events.events().is_empty()).await;
        });
    });
    running.await.unwrap().unwrap();
    assert_eq!(log.events(), ["dropped"]);
    thread.join().unwrap();
}

#[apply(both)]
async fn under_a_limit_local_tasks_and_others_begin_in_the_order_of_their_spawns() {
    let (log, crowd) = (Log::default(), Crowd::default());
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        for n in 0..6 {
            let (log, visit) = (log.clone(), crowd.visit());
            let work = async move {
                log.push(n.to_string());
                visit.await;
            };
            if n % 2 == 0 { pool.spawn_local(work) } else { pool.spawn(work) }
        }
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
    assert_eq!(log.events(), ["0", "1", "2", "3", "4", "5"]);
    crowd.respected(1, 6);
}

#[apply(both)]
async fn a_local_task_that_waits_for_its_turn_is_one_task() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        for tasks in 1..=3 {
            if tasks == 1 {
                pool.spawn(pending::<()>())
            } else {
                pool.spawn_local(pending::<()>())
            }
            assert_eq!(pool.len(), tasks);
        }
        pool.cancel();
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
}

#[apply(both)]
async fn a_local_task_that_waits_for_its_turn_is_dropped_unpolled_when_the_pool_closes() {
    let (alive, log) = (Alive::default(), Log::default());
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        pool.spawn(pending::<()>());
        let (one, polled) = (alive.one(), log.clone());
        pool.spawn_local(async move {
            let _one = one;
            polled.push("polled");
        });
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(alive.count(), 1);
        pool.cancel();
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
    assert_eq!(alive.count(), 0);
    assert!(log.events().is_empty());
}

#[apply(both)]
async fn a_local_daemon_takes_no_slot_and_does_not_hold_the_pool_open() {
    let alive = Alive::default();
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let (one, (begun, wait)) = (Rc::new(alive.one()), oneshot::channel());
        pool.build_task().daemon().spawn_local(async move {
            let _one = one;
            begun.send(()).unwrap();
            pending::<()>().await;
        });
        wait.await?;
        pool.spawn(async {});
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn local_tasks_are_closed_in_the_order_of_their_depths() {
    let log = Log::default();
    let opened = Pool::open(async |pool: Pool| {
        let begun = Rc::new(Cell::new(0));
        for (depth, event) in [(-1, "last"), (1, "first"), (0, "second")] {
            let (ended, begun) = (log.on_drop(event), Rc::clone(&begun));
            pool.build_task().depth(depth).spawn_local(async move {
                let _ended = ended;
                begun.set(begun.get() + 1);
                pending::<()>().await;
            });
        }
        while begun.get() < 3 {
            yield_now().await;
        }
        pool.cancel();
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
    assert_eq!(log.events(), ["first", "second", "last"]);
}

#[apply(both)]
async fn a_local_task_that_fails_closes_the_pool_and_has_its_name_and_site() {
    for (panics, has_name) in [(false, false), (false, true), (true, false), (true, true)] {
        let (alive, mut line) = (Alive::default(), 0);
        let opened = Pool::open(async |pool: Pool| {
            let one = alive.one();
            pool.spawn_local(async move {
                let _one = Rc::new(one);
                pending::<()>().await;
            });
            let work = async move { if panics { quiet_panic("broken") } else { fails("broken").await } };
            if has_name {
                pool.build_task().name("local").spawn_local(work);
                line = line!() - 1;
            } else {
                pool.spawn_local(work);
                line = line!() - 1;
            }
            pending::<()>().await;
            Ok(())
        });
        let error = LocalSet::new().run_until(opened).await.unwrap_err();
        assert_eq!(failures(error.failures()), [if panics { "panic: broken" } else { "error: broken" }]);
        let task = error.first().unwrap().task();
        assert_eq!((task.name(), task.is_body()), (has_name.then_some("local"), false));
        assert_eq!((task.spawned_at().file(), task.spawned_at().line()), (file!(), line));
        assert_eq!(alive.count(), 0, "something is left; panics: {panics}");
    }
}

#[apply(both)]
async fn a_local_task_that_is_aborted_is_dropped_on_its_own_thread() {
    let (here, log) = (std::thread::current().id(), Log::default());
    let opened = Pool::open(async |pool: Pool| {
        let (events, (begun, wait)) = (log.clone(), oneshot::channel());
        pool.spawn_local(async move {
            let _dropped = OnDrop::new(move || {
                events.push(format!("here: {}", std::thread::current().id() == here));
            });
            begun.send(()).unwrap();
            pending::<()>().await;
        });
        wait.await?;
        let far = pool.clone();
        std::thread::spawn(move || far.cancel()).join().unwrap();
        pending::<()>().await;
        Ok(())
    });
    assert!(LocalSet::new().run_until(opened).await.unwrap_err().is_cancelled());
    assert_eq!(log.events(), ["here: true"]);
}

#[apply(both)]
async fn a_pool_is_as_it_was_after_spawn_local_has_panicked_outside_of_a_local_set() {
    for limit in [1, 2, usize::MAX] {
        let (pool, alive): (Pool, _) = (Pool::builder().keep_open(true).limit(limit).build(), Alive::default());
        let running = running(&pool);
        until_running(&pool).await;
        for _ in 0..3 {
            let future = endless(&alive);
            let text = panic_text(|| pool.spawn_local(future));
            assert!(text.starts_with("`spawn_local` was called outside of a `LocalSet`"), "{text}");
            assert_eq!(alive.count(), 0, "the future is kept; limit {limit}");
        }
        assert!(!pool.is_closed(), "no task has failed");
        assert_eq!(pool.len(), 0, "the panic has left a task behind; limit {limit}");
        assert_eq!(pool.spawn_with_handle(async { Ok(42) }).await, Ok(42), "the slots were given back");
        pool.cancel();
        running.await.unwrap().unwrap();
    }
}

#[apply(both)]
async fn spawn_local_in_a_planned_pool_panics_and_drops_the_future() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    let inside = LocalSet::new();
    let one = alive.one();
    let text = inside
        .run_until(async {
            panic_text(|| {
                pool.spawn_local(async move {
                    let _one = one;
                });
            })
        })
        .await;
    assert!(text.starts_with("`spawn_local` was called on a pool that does not run yet"), "{text}");
    assert_eq!((alive.count(), pool.len()), (0, 0));
    let handle = pool.spawn_with_handle(async { Ok(42) });
    pool.run().await.unwrap();
    assert_eq!(handle.await, Ok(42));
}

#[apply(both)]
async fn a_closed_pool_drops_a_local_task_unpolled() {
    let (pool, alive, log) = (Pool::<BoxError>::new(), Alive::default(), Log::default());
    pool.clone().run().await.unwrap();
    let (one, polled) = (Rc::new(alive.one()), log.clone());
    // Also outside of a `LocalSet`: it is not needed any more.
    pool.spawn_local(async move {
        let _one = one;
        polled.push("polled");
    });
    assert_eq!(alive.count(), 0);
    assert!(log.events().is_empty());
}

#[apply(both)]
async fn a_local_set_that_is_dropped_cuts_its_tasks_off_and_that_is_a_failure() {
    let (pool, alive) = (kept_open(), Alive::default());
    let running = running(&pool);
    until_running(&pool).await;
    let local = LocalSet::new();
    let one = alive.one();
    {
        let _inside = local.enter();
        pool.build_task().name("local").spawn_local(async move {
            let _one = one;
            pending::<()>().await;
        });
    }
    assert_eq!((alive.count(), pool.len()), (1, 1));
    drop(local);
    assert_eq!(alive.count(), 0);
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(failures(error.failures()), ["cancelled"]);
    assert_eq!(error.first().unwrap().task().name(), Some("local"));
}

#[apply(both)]
async fn a_local_set_that_is_dropped_with_a_task_waiting_for_its_turn_does_not_hang_the_pool() {
    let (pool, latch): (Pool, _) = (Pool::builder().limit(1).keep_open(true).build(), LatchEvent::new());
    let running = running(&pool);
    until_running(&pool).await;
    let go = latch.wait_set();
    pool.spawn(go);
    let local = LocalSet::new();
    {
        let _inside = local.enter();
        pool.spawn_local(pending::<()>());
    }
    drop(local);
    latch.set();
    assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["cancelled"]);
}

#[apply(multi_thread)]
async fn a_local_task_that_fails_closes_the_pool_before_its_slot_is_given_on() {
    let (begun, seen) = (Arc::new(AtomicBool::new(false)), Log::default());
    let (polled, asked) = (Arc::clone(&begun), seen.clone());
    let builder = Pool::builder().limit(1).on_failure(move |_| {
        (0..1_000).for_each(|_| std::thread::yield_now());
        asked.push(format!("the next has begun: {}", polled.load(Ordering::SeqCst)));
        OnFailure::Cancel
    });
    let opened = builder.open(async |pool: Pool| {
        pool.spawn_local(fails("broken"));
        let next = Arc::clone(&begun);
        pool.spawn(async move { next.store(true, Ordering::SeqCst) });
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap_err();
    assert_eq!(seen.events(), ["the next has begun: false"]);
}

#[apply(both)]
async fn what_is_below_a_local_task_ends_before_its_pool() {
    let alive = Alive::default();
    let opened = Pool::open(async |pool: Pool| {
        let (slow, (begun, wait)) = (alive.slow(), oneshot::channel());
        pool.spawn_local(async move {
            let inner = Pool::open(async |inner: Pool| {
                inner.spawn_local(async move {
                    let _slow = slow;
                    begun.send(()).unwrap();
                    busy().await;
                });
                Ok(())
            });
            inner.await.unwrap();
        });
        wait.await?;
        Err::<(), _>("enough".into())
    });
    LocalSet::new().run_until(opened).await.unwrap_err();
    assert_eq!(alive.count(), 0);
}
