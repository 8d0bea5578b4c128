//! What runs, in which order, and what `open` and `run` return.

use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolError};
use tokio::runtime::Handle;
use tokio::sync::{Barrier, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::support::{Alive, Log, on_both, on_current_thread, on_multi_thread, until, watched};

/// Counts the times that tasks came to some point.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn up(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

// ===== what `open` and `run` wait for =====

#[test]
fn all_tasks_have_ended_when_run_returns() {
    on_both(|| async {
        let (count, pool) = (Count::default(), Pool::<BoxError>::new());
        for turns in 0..100 {
            let count = count.clone();
            pool.spawn(async move {
                for _ in 0..turns % 7 {
                    yield_now().await;
                }
                count.up();
            });
        }
        pool.run().await.unwrap();
        assert_eq!(count.get(), 100);
    });
}

#[test]
fn all_tasks_have_ended_when_open_returns() {
    on_both(|| async {
        let count = Count::default();
        Pool::open(async |pool: Pool| {
            for _ in 0..100 {
                let count = count.clone();
                pool.spawn(async move {
                    yield_now().await;
                    count.up();
                });
            }
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count.get(), 100);
    });
}

#[test]
fn open_waits_for_tasks_that_the_body_does_not_look_at() {
    on_both(|| async {
        let (count, gates) = (Count::default(), [oneshot::channel(), oneshot::channel()]);
        let (open, wait): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
        let mut opened = task::spawn(Pool::open(async |pool: Pool| {
            for gate in wait {
                let count = count.clone();
                pool.spawn(async move {
                    gate.await?;
                    count.up();
                    Ok(())
                });
            }
            Ok(42)
        }));
        for gate in open {
            assert_pending!(opened.poll());
            gate.send(()).unwrap();
        }
        assert_eq!(opened.await.unwrap(), 42);
        assert_eq!(count.get(), 2);
    });
}

#[test]
fn open_waits_for_the_body_when_all_tasks_have_ended() {
    on_both(|| async {
        let (open, gate) = oneshot::channel();
        let mut opened = task::spawn(Pool::open(async |pool: Pool| {
            pool.spawn_with_handle(async { Ok(()) }).await?;
            Ok::<i32, BoxError>(gate.await?)
        }));
        assert_pending!(opened.poll());
        yield_now().await;
        assert_pending!(opened.poll());
        open.send(7).unwrap();
        assert_eq!(opened.await.unwrap(), 7);
    });
}

#[test]
fn the_pool_returns_at_the_end_of_the_slowest_task() {
    on_current_thread(|| async {
        let start = tokio::time::Instant::now();
        Pool::open(async |pool: Pool| {
            for millis in [10, 50, 30] {
                pool.spawn(sleep(Duration::from_millis(millis)));
            }
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(start.elapsed().as_millis(), 50);
    });
}

#[test]
fn an_empty_pool_is_ready_at_its_first_poll() {
    on_both(|| async {
        assert_ready_ok!(task::spawn(Pool::<BoxError>::new().run()).poll());
        assert_eq!(assert_ready_ok!(task::spawn(Pool::open(async |_: Pool| Ok(1))).poll()), 1);
        assert_eq!(assert_ready_ok!(task::spawn(Pool::<BoxError>::builder().open(async |_| Ok(2))).poll()), 2);
    });
}

#[test]
fn a_pool_handle_holds_no_pool_open() {
    on_both(|| async {
        let kept = Pool::<BoxError>::new();
        kept.clone().run().await.unwrap();
        let inner = Pool::open(async |pool: Pool| Ok(pool)).await.unwrap();
        assert!(kept.is_closed() && inner.is_closed());
    });
}

#[test]
fn tasks_that_are_ready_at_once_end_the_pool() {
    on_both(|| async {
        for tasks in 0..20 {
            let pool = Pool::<BoxError>::new();
            (0..tasks).for_each(|_| pool.spawn(async {}));
            pool.run().await.unwrap();
        }
    });
}

#[test]
fn the_owner_is_woken_once_for_ten_thousand_tasks() {
    on_current_thread(|| async {
        let (ran, pool) = (Count::default(), Pool::<BoxError>::new());
        for _ in 0..10_000 {
            let ran = ran.clone();
            pool.spawn(async move { ran.up() });
        }
        let mut run = task::spawn(pool.run());
        assert_pending!(run.poll());
        while ran.get() < 10_000 {
            assert!(!run.is_woken(), "woken with {} tasks ended", ran.get());
            yield_now().await;
        }
        assert!(run.is_woken(), "not woken by the last task");
        assert_ready_ok!(run.poll());
    });
}

#[test]
fn others_have_their_turns_while_ten_thousand_tasks_end() {
    on_current_thread(|| async {
        let (ran, pool) = (Count::default(), Pool::<BoxError>::new());
        for _ in 0..10_000 {
            let ran = ran.clone();
            pool.spawn(async move { ran.up() });
        }
        let running = tokio::spawn(pool.run());
        let mut turns = 0;
        while !running.is_finished() {
            turns += usize::from((1..10_000).contains(&ran.get()));
            yield_now().await;
        }
        running.await.unwrap().unwrap();
        assert!(turns > 10, "{turns} turns");
    });
}

#[test]
fn a_million_tasks_all_run_and_those_that_wait_are_stopped_in_the_end() {
    on_both(|| async {
        let (ran, alive, base) = (Count::default(), Alive::default(), Handle::current().metrics().num_alive_tasks());
        let outcome: Result<(), _> = Pool::open(async |pool: Pool| {
            for waits in [false, true].into_iter().cycle().take(1_000_000) {
                let (ran, one) = (ran.clone(), alive.one());
                pool.spawn(async move {
                    let _one = one;
                    ran.up();
                    if waits {
                        pending::<()>().await;
                    }
                });
            }
            until(|| ran.get() == 1_000_000 && alive.count() == 500_000).await;
            Err("enough".into())
        })
        .await;
        assert_eq!(outcome.unwrap_err().failures().len(), 1);
        assert_eq!(alive.count(), 0);
        until(|| Handle::current().metrics().num_alive_tasks() == base).await;
    });
}

// ===== planned tasks =====

#[test]
fn planned_tasks_start_when_run_is_polled() {
    on_current_thread(|| async {
        let (log, pool) = (Log::default(), Pool::<BoxError>::new());
        for nth in 0..3 {
            let log = log.clone();
            pool.spawn(async move { log.push(nth.to_string()) });
        }
        yield_now().await;
        let run = pool.run();
        yield_now().await;
        assert!(log.events().is_empty());
        run.await.unwrap();
        assert_eq!(log.events(), ["0", "1", "2"]);
    });
}

#[test]
fn a_run_that_is_dropped_unpolled_drops_planned_tasks_unpolled() {
    on_both(|| async {
        let (alive, count, pool) = (Alive::default(), Count::default(), Pool::<BoxError>::new());
        for _ in 0..3 {
            let (one, count) = (alive.one(), count.clone());
            pool.spawn(async move {
                count.up();
                drop(one);
            });
        }
        drop(pool.clone().run());
        assert_eq!((alive.count(), count.get()), (0, 0));
        assert!(pool.is_closed());
    });
}

#[test]
fn a_planned_pool_that_is_dropped_drops_its_tasks_unpolled() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    let (one, two) = (alive.one(), alive.one());
    pool.spawn(async move {
        drop(one);
        unreachable!("nobody runs the pool");
    });
    pool.spawn_blocking(move || drop(two));
    assert_eq!(alive.count(), 2);
    drop(pool);
    assert_eq!(alive.count(), 0);
}

#[test]
fn every_kind_of_task_can_be_planned_without_a_runtime() {
    let (count, pool) = (Count::default(), Pool::<BoxError>::new());
    let counts: [Count; 3] = std::array::from_fn(|_| count.clone());
    let [first, second, third] = counts;
    pool.spawn(async move { first.up() });
    pool.try_spawn(async move { second.up() }).unwrap();
    pool.spawn_blocking(move || third.up());
    let handle = pool.spawn_with_handle(async { Ok(4) });
    assert_eq!(pool.len(), 4);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pool.run()).unwrap();
    assert_eq!(count.get(), 3);
    assert_eq!(runtime.block_on(handle).unwrap(), 4);
}

// ===== where tasks are spawned from =====

#[test]
fn the_body_can_spawn_late() {
    on_both(|| async {
        let sum = Pool::open(async |pool: Pool| {
            let first = pool.spawn_with_handle(async { Ok(40) });
            yield_now().await;
            let first = first.await?;
            let second = pool.spawn_with_handle(async { Ok(2) });
            Ok(first + second.await?)
        });
        assert_eq!(sum.await.unwrap(), 42);
    });
}

#[test]
fn a_task_can_spawn_into_its_own_pool() {
    on_both(|| async {
        let count = Count::default();
        Pool::open(async |pool: Pool| {
            let (inner, counts) = (pool.clone(), [count.clone(), count.clone(), count.clone()]);
            let [outermost, middle, innermost] = counts;
            pool.spawn(async move {
                yield_now().await;
                let innermost_pool = inner.clone();
                inner.spawn(async move {
                    yield_now().await;
                    innermost_pool.spawn(async move { innermost.up() });
                    middle.up();
                });
                outermost.up();
            });
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count.get(), 3);
    });
}

#[test]
fn a_task_that_spawns_its_successor_keeps_the_pool_open() {
    fn spawn_next(pool: &Pool, left: usize, count: Count) {
        let next = pool.clone();
        pool.spawn(async move {
            count.up();
            if left > 0 {
                spawn_next(&next, left - 1, count);
            }
        });
    }
    on_both(|| async {
        let (pool, count) = (Pool::new(), Count::default());
        spawn_next(&pool, 999, count.clone());
        pool.run().await.unwrap();
        assert_eq!(count.get(), 1_000);
    });
}

#[test]
fn a_thread_without_a_runtime_can_spawn_into_a_running_pool() {
    on_both(|| async {
        let value = Pool::open(async |pool: Pool| {
            let thread = std::thread::spawn(move || pool.spawn_with_handle(async { Ok(5) }));
            Ok(thread.join().unwrap().await?)
        });
        assert_eq!(value.await.unwrap(), 5);
    });
}

#[test]
fn a_spawn_from_outside_reaches_a_pool_that_waits() {
    on_both(|| async {
        let (open, gate) = oneshot::channel();
        let pool = Pool::<BoxError>::new();
        pool.spawn(async move { Ok(gate.await?) });
        let mut run = task::spawn(pool.clone().run());
        assert_pending!(run.poll());
        let late = pool.spawn_with_handle(async { Ok("late") });
        assert_eq!(late.await.unwrap(), "late");
        assert_pending!(run.poll());
        open.send(()).unwrap();
        run.await.unwrap();
    });
}

// ===== how tasks run =====

#[test]
fn tasks_interleave_turn_by_turn() {
    on_current_thread(|| async {
        let (log, pool) = (Log::default(), Pool::<BoxError>::new());
        for _ in 0..2 {
            let log = log.clone();
            pool.spawn(async move {
                for turn in 0..3 {
                    log.push(turn.to_string());
                    yield_now().await;
                }
            });
        }
        pool.run().await.unwrap();
        assert_eq!(log.events(), ["0", "0", "1", "1", "2", "2"]);
    });
}

#[test]
fn tasks_and_body_run_at_the_same_time() {
    on_both(|| async {
        let all = Arc::new(Barrier::new(4));
        Pool::open(async |pool: Pool| {
            for _ in 0..3 {
                let all = Arc::clone(&all);
                pool.spawn(async move {
                    let _ = all.wait().await;
                });
            }
            all.wait().await;
            Ok(())
        })
        .await
        .unwrap();
    });
}

#[test]
fn tasks_run_on_several_threads() {
    on_multi_thread(|| async {
        // Each keeps its thread until both are there.
        let both = Arc::new(std::sync::Barrier::new(2));
        let pool = Pool::<BoxError>::new();
        for _ in 0..2 {
            let both = Arc::clone(&both);
            pool.spawn(async move {
                let _ = both.wait();
            });
        }
        pool.run().await.unwrap();
    });
}

#[test]
fn a_task_that_ends_well_disturbs_nobody() {
    on_both(|| async {
        let (open, gate) = oneshot::channel();
        let value = Pool::open(async |pool: Pool| {
            let slow = pool.spawn_with_handle(async { Ok::<i32, BoxError>(gate.await?) });
            pool.spawn_with_handle(async { Ok(()) }).await?;
            assert!(!pool.is_closed() && !slow.is_finished());
            open.send(9).unwrap();
            Ok(slow.await?)
        });
        assert_eq!(value.await.unwrap(), 9);
    });
}

#[test]
fn pools_in_a_loop_that_never_have_to_wait_let_others_run() {
    watched(|| {
        on_both(|| async {
            tokio::select! {
                biased;
                () = async {
                    loop {
                        assert_eq!(Pool::<BoxError>::open(async |_| Ok(1)).await.unwrap(), 1);
                        Pool::<BoxError>::new().run().await.unwrap();
                    }
                } => {}
                () = yield_now() => {}
            }
        });
    });
}

#[test]
fn a_task_is_dropped_as_it_ends_and_not_with_the_pool() {
    on_both(|| async {
        let (alive, ended) = (Alive::default(), Arc::new(Semaphore::new(0)));
        Pool::open(async |pool: Pool| {
            for _ in 0..1_000 {
                let (one, last) = (alive.one(), Arc::clone(&ended));
                // A future by hand: what an async block holds is dropped in its last poll.
                pool.spawn(std::future::poll_fn(move |_| {
                    let _held = &one;
                    last.add_permits(1);
                    Poll::Ready(())
                }));
            }
            drop(ended.acquire_many(1_000).await?);
            until(|| alive.count() == 0).await;
            assert!(!pool.is_closed());
            Ok(())
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_task_may_return_nothing_a_result_or_never() {
    async fn never() -> Infallible {
        std::future::pending().await
    }
    on_both(|| async {
        let error = Pool::open(async |pool: Pool<&'static str>| {
            pool.spawn(async {});
            pool.spawn(async { Ok(()) });
            pool.spawn(never());
            pool.spawn(async {
                loop {
                    yield_now().await;
                }
            });
            pool.spawn_blocking(|| {});
            pool.spawn_blocking(|| Ok(()));
            yield_now().await;
            Err::<(), _>("enough")
        });
        assert_eq!(error.await.unwrap_err().into_first_error(), Some("enough"));
    });
}

// ===== the body =====

#[test]
fn the_body_borrows_from_its_surroundings() {
    on_both(|| async {
        let (input, mut output) = (String::from("in"), String::new());
        Pool::open(async |pool: Pool| {
            let text = input.clone();
            output = pool.spawn_with_handle(async move { Ok(text + "side") }).await?;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!((input.as_str(), output.as_str()), ("in", "inside"));
    });
}

#[test]
fn the_body_is_polled_in_place_and_need_not_be_send() {
    on_both(|| async {
        let thread = std::thread::current().id();
        let value = Pool::open(async |_: Pool| {
            let value = Rc::new(3);
            for _ in 0..10 {
                assert_eq!(std::thread::current().id(), thread);
                yield_now().await;
            }
            Ok(*value)
        });
        assert_eq!(value.await.unwrap(), 3);
    });
}

#[test]
fn the_body_does_not_start_before_open_is_polled() {
    on_both(|| async {
        let count = Count::default();
        let opened = Pool::open(async |_: Pool| {
            count.up();
            Ok(())
        });
        yield_now().await;
        assert_eq!(count.get(), 0);
        opened.await.unwrap();
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_pool_can_be_opened_inside_tokio_spawn() {
    on_both(|| async {
        let task = tokio::spawn(async {
            Pool::open(async |pool: Pool| Ok(pool.spawn_with_handle(async { Ok(1) }).await? + 1)).await
        });
        assert_eq!(task.await.unwrap().unwrap(), 2);
    });
}

#[test]
fn values_arrive_in_spawn_order_whatever_the_order_of_the_ends() {
    on_both(|| async {
        let values = Pool::open(async |pool: Pool| {
            let turns = |nth: usize| (nth * 37) % 11;
            let handles: Vec<_> = (0..100)
                .map(|nth| {
                    pool.spawn_with_handle(async move {
                        for _ in 0..turns(nth) {
                            yield_now().await;
                        }
                        Ok(nth)
                    })
                })
                .collect();
            let mut values = Vec::new();
            for handle in handles {
                values.push(handle.await?);
            }
            Ok(values)
        });
        assert!(values.await.unwrap().into_iter().eq(0..100));
    });
}

// ===== what a pool tells about itself =====

#[test]
fn len_follows_spawns_and_ends() {
    on_both(|| async {
        Pool::open(async |pool: Pool| {
            assert!(pool.is_empty());
            let mut running = Vec::new();
            for _ in 0..2 {
                let (open, gate) = oneshot::channel::<()>();
                running.push((open, pool.spawn_with_handle(async { Ok(gate.await?) })));
            }
            for _ in 0..16 {
                assert_eq!(pool.len(), 2);
                let (open, handle) = running.remove(0);
                open.send(()).unwrap();
                handle.await?;
                // The handle is ready a moment before tokio has published the end.
                while pool.len() != 1 {
                    yield_now().await;
                }
                let (open, gate) = oneshot::channel::<()>();
                running.push((open, pool.spawn_with_handle(async { Ok(gate.await?) })));
            }
            for (open, _) in running {
                open.send(()).unwrap();
            }
            Ok(())
        })
        .await
        .unwrap();
    });
}

#[test]
fn len_counts_planned_tasks_and_is_zero_after_the_end() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        pool.spawn(async {});
        pool.spawn(async {});
        assert_eq!((pool.len(), pool.is_empty(), pool.is_closed()), (2, false, false));
        pool.clone().run().await.unwrap();
        assert_eq!((pool.len(), pool.is_empty(), pool.is_closed()), (0, true, true));
    });
}

#[test]
fn a_pool_knows_its_name() {
    assert_eq!(Pool::<BoxError>::new().name(), None);
    assert_eq!(Pool::<BoxError>::builder().name("web").build().name(), Some("web"));
    assert_eq!(Pool::<BoxError>::builder().name(String::from("owned")).build().clone().name(), Some("owned"));
    on_both(|| async {
        let name = Pool::<BoxError>::builder().name("api").open(async |pool| Ok(pool.name().map(str::to_owned)));
        assert_eq!(name.await.unwrap().as_deref(), Some("api"));
    });
}

#[test]
fn debug_shows_name_state_and_len() {
    on_both(|| async {
        let pool = Pool::<BoxError>::builder().name("web").build();
        let (open, gate) = oneshot::channel::<()>();
        let (started, wait) = oneshot::channel();
        pool.spawn_blocking(move || {
            started.send(()).unwrap();
            drop(gate.blocking_recv());
        });
        assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: planned, len: 1 }"#);
        let mut run = task::spawn(pool.clone().run());
        assert_pending!(run.poll());
        wait.await.unwrap();
        assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: running, len: 1 }"#);
        pool.cancel();
        assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closing, len: 1 }"#);
        assert_pending!(run.poll());
        assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closing, len: 1 }"#);
        open.send(()).unwrap();
        run.await.unwrap();
        assert_eq!(format!("{pool:?}"), r#"Pool { name: Some("web"), state: closed, len: 0 }"#);
        let unnamed = format!("{:?}", Pool::<BoxError>::default());
        assert_eq!(unnamed, r#"Pool { name: None, state: planned, len: 0 }"#);
    });
}

#[test]
fn debug_of_the_builders_shows_their_names() {
    assert!(format!("{:?}", Pool::<BoxError>::builder()).starts_with("PoolBuilder { name: None, "));
    assert!(format!("{:?}", Pool::<BoxError>::builder().name("a")).starts_with(r#"PoolBuilder { name: Some("a"), "#));
    let pool = Pool::<BoxError>::new();
    assert_eq!(format!("{:?}", pool.build_task()), "TaskBuilder { name: None, depth: 0, daemon: false }");
    let task = pool.build_task().name("b").depth(-1).daemon();
    assert_eq!(format!("{task:?}"), r#"TaskBuilder { name: Some("b"), depth: -1, daemon: true }"#);
}

#[test]
fn current_is_the_pool_in_its_body_and_in_its_tasks() {
    on_both(|| async {
        assert!(Pool::<BoxError>::try_current().is_none());
        let named = |name: &'static str| Pool::<BoxError>::builder().name(name);
        let name = || Pool::<BoxError>::current().name().map(str::to_owned);
        let names = named("outer").open(async |pool| {
            let body = name();
            let task = pool.spawn_with_handle(async move { Ok(name()) }).await?;
            let inner = named("inner").open(async |_| Ok(name())).await?;
            Ok([body, task, inner, name()])
        });
        assert_eq!(names.await.unwrap().map(Option::unwrap), ["outer", "outer", "inner", "outer"]);
        assert!(Pool::<BoxError>::try_current().is_none());
    });
}

#[test]
fn current_skips_pools_of_other_error_types() {
    on_both(|| async {
        let found = Pool::<BoxError>::builder().name("boxed").open(async |_| {
            let inner: Result<_, PoolError<&str>> = Pool::builder()
                .name("strs")
                .open(async |_| {
                    let strs = Pool::<&str>::current().name() == Some("strs");
                    let boxed = Pool::<BoxError>::current().name() == Some("boxed");
                    Ok(strs && boxed && Pool::<String>::try_current().is_none())
                })
                .await;
            Ok(inner?)
        });
        assert!(found.await.unwrap());
    });
}

#[test]
fn a_blocking_task_runs_inside_the_pool_and_can_spawn() {
    on_both(|| async {
        let count = Count::default();
        Pool::open(async |pool: Pool| {
            let count = count.clone();
            pool.spawn_blocking(move || {
                Pool::<BoxError>::current().spawn(async move { count.up() });
            });
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn the_pool_waits_for_a_blocking_task() {
    on_both(|| async {
        let (open, gate) = oneshot::channel::<()>();
        let pool = Pool::<BoxError>::new();
        pool.spawn_blocking(move || Ok(gate.blocking_recv()?));
        let mut run = task::spawn(pool.run());
        assert_pending!(run.poll());
        open.send(()).unwrap();
        run.await.unwrap();
    });
}

#[test]
fn cancelled_is_ready_once_the_pool_has_ended() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        let other = pool.clone();
        let mut cancelled = task::spawn(other.cancelled());
        assert_pending!(cancelled.poll());
        pool.clone().run().await.unwrap();
        assert_eq!(cancelled.poll(), Poll::Ready(()));
        assert_eq!(task::spawn(pool.cancelled()).poll(), Poll::Ready(()));
    });
}
