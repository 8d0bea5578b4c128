//! Small pools under thousands of schedules: no order of the steps may lose a wake-up, leave a task behind, or hang.
//!
//! `.ci/schedules/run` runs it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aiodrive::{
    BoxError, Failure, Pool, Started, TaskStopped, cancellation_token, race, shield, timeout, try_all, wait_all,
    with_exit,
};
use shuttle::future::block_on;
use tokio::sync::oneshot;
use tokio::task::yield_now;

/// Runs a test under random schedules, and under those that preempt seldom.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = std::env::var("SCHEDULES").map_or(2_000, |count| count.parse().unwrap());
    shuttle::check_random(test.clone(), schedules);
    shuttle::check_pct(test, schedules, 3);
}

/// Counts values that are alive. Its steps are none that are explored.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct Counted(Arc<AtomicUsize>);

impl Alive {
    fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.0))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for ever with what it holds.
async fn holding(held: impl Sized) {
    pending::<()>().await;
    drop(held);
}

#[test]
fn tasks_come_to_their_end() {
    explore(|| {
        let alive = Alive::default();
        let sum = block_on(Pool::open(async |pool: Pool| {
            let (one, two) = (alive.one(), alive.one());
            pool.spawn(async move { drop(one) });
            let value = pool.spawn_with_handle(async move {
                let _two = two;
                yield_now().await;
                Ok(2)
            });
            Ok(1 + value.await?)
        }));
        assert_eq!((sum.unwrap(), alive.count()), (3, 0));
    });
}

#[test]
fn a_failure_ends_its_siblings_and_the_body() {
    explore(|| {
        let alive = Alive::default();
        let error = block_on(Pool::<BoxError>::open(async |pool| {
            pool.spawn(holding(alive.one()));
            pool.spawn(async { Err("error".into()) });
            pool.spawn(holding(alive.one()));
            holding(alive.one()).await;
            Ok(())
        }));
        let error = error.unwrap_err();
        assert_eq!((error.failures().len(), alive.count()), (1, 0));
        assert!(matches!(error.failures()[0].failure(), Failure::Error(_)));
    });
}

#[test]
fn what_an_aborted_owner_leaves_is_waited_for() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |pool| {
            let (one, two) = (alive.one(), alive.one());
            let owner = pool.spawn_with_handle(async move {
                let inner = Pool::<BoxError>::open(async |inner| {
                    inner.spawn(holding(one));
                    holding(two).await;
                    Ok(())
                });
                Ok(inner.await?)
            });
            yield_now().await;
            owner.cancel();
            assert_eq!(owner.await, Err(TaskStopped::Cancelled));
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn who_spawns_while_another_cancels_leaves_nothing() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let (spawner, canceller) = (pool.clone(), pool.clone());
        let counts = alive.clone();
        let spawning = shuttle::thread::spawn(move || {
            for _ in 0..3 {
                spawner.spawn(holding(counts.one()));
            }
        });
        let cancelling = shuttle::thread::spawn(move || canceller.cancel());
        block_on(pool.run()).unwrap();
        spawning.join().unwrap();
        cancelling.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn handles_are_told_whoever_cancels() {
    explore(|| {
        let pool = Pool::<BoxError>::new();
        let handles = [(); 2].map(|()| {
            pool.spawn_with_handle(async {
                yield_now().await;
                Ok(1)
            })
        });
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || own.cancel());
        block_on(async {
            let [first, second] = handles;
            let waiting = tokio::spawn(second);
            pool.run().await.unwrap();
            for answer in [first.await, waiting.await.unwrap()] {
                assert!(matches!(answer, Ok(1) | Err(TaskStopped::Cancelled)));
            }
        });
        cancelling.join().unwrap();
    });
}

#[test]
fn a_handle_that_cancels_meets_a_task_at_any_point() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |pool| {
            let one = alive.one();
            let handle = pool.spawn_with_handle(async move {
                let _one = one;
                yield_now().await;
                yield_now().await;
                Ok(1)
            });
            shuttle::thread::yield_now();
            handle.cancel();
            assert!(matches!(handle.await, Ok(1) | Err(TaskStopped::Cancelled)));
            assert_eq!(alive.count(), 0);
            Ok(())
        }));
        ended.unwrap();
    });
}

#[test]
fn a_planned_task_is_cancelled_while_it_is_being_spawned() {
    explore(|| {
        let pool = Pool::<BoxError>::new();
        let handle = pool.spawn_with_handle(pending::<Result<(), _>>());
        let cancelling = shuttle::thread::spawn(move || {
            handle.cancel();
            handle
        });
        block_on(pool.run()).unwrap();
        assert_eq!(block_on(cancelling.join().unwrap()), Err(TaskStopped::Cancelled));
    });
}

#[test]
fn everyone_gets_a_turn_under_a_limit() {
    explore(|| {
        let (alive, ran) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
        let counts = (alive.clone(), Arc::clone(&ran));
        let ended = block_on(Pool::<BoxError>::builder().limit(1).open(async move |pool: Pool| {
            for _ in 0..4 {
                let (alive, ran) = counts.clone();
                pool.ready().await;
                pool.spawn(async move {
                    let _one = alive.one();
                    assert_eq!(alive.count(), 1, "more than the limit");
                    yield_now().await;
                    ran.fetch_add(1, Ordering::SeqCst);
                });
            }
            Ok(())
        }));
        ended.unwrap();
        assert_eq!((ran.load(Ordering::SeqCst), alive.count()), (4, 0));
    });
}

#[test]
fn who_waits_for_a_place_is_woken_when_the_pool_closes() {
    explore(|| {
        let pool = Pool::<BoxError>::builder().limit(1).build();
        pool.spawn(pending::<()>());
        let (waiting, closing) = (pool.clone(), pool.clone());
        let waiter = shuttle::thread::spawn(move || {
            block_on(async {
                waiting.ready().await;
                waiting.cancelled().await;
            });
        });
        let cancelling = shuttle::thread::spawn(move || closing.cancel());
        block_on(pool.run()).unwrap();
        waiter.join().unwrap();
        cancelling.join().unwrap();
    });
}

#[test]
fn a_request_to_stop_reaches_every_level() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().grace(Duration::MAX).build();
        let (one, two, (begun, has_begun)) = (alive.one(), alive.one(), oneshot::channel());
        pool.spawn(async move {
            let inner = Pool::<BoxError>::builder().grace(Duration::MAX).open(async |inner: Pool| {
                inner.spawn(async move {
                    // What is begun after the request is cleanup work, and is not asked.
                    drop(begun.send(()));
                    cancellation_token().cancelled().await;
                    drop(one);
                });
                Ok(())
            });
            drop(inner.await);
            cancellation_token().cancelled().await;
            drop(two);
        });
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || {
            block_on(has_begun).unwrap();
            own.cancel();
        });
        block_on(pool.run()).unwrap();
        cancelling.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn depths_end_in_their_order() {
    explore(|| {
        let alive = [(); 3].map(|()| Alive::default());
        let pool = Pool::<BoxError>::new();
        for (depth, counts) in (0..).zip(&alive) {
            let (mut one, below) = (Some(counts.one()), alive.clone());
            pool.build_task().depth(depth).spawn(async move {
                let all = below.clone();
                let _checks = OnDrop(move || {
                    drop(one.take());
                    let higher = all.iter().skip(depth as usize + 1).map(Alive::count);
                    assert_eq!(higher.sum::<usize>(), 0, "a higher depth is alive");
                });
                pending::<()>().await;
            });
        }
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || own.cancel());
        block_on(pool.run()).unwrap();
        cancelling.join().unwrap();
        assert_eq!(alive.map(|counts| counts.count()), [0; 3]);
    });
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A depth goes when its last task has ended. Somebody may still be about to put a set back there, and another task may
/// come meanwhile.
#[test]
fn depths_come_and_go() {
    explore(|| {
        block_on(async {
            let pool: Pool = Pool::builder().keep_open(true).build();
            let run = tokio::spawn(pool.clone().run());
            let spawners: Vec<_> = (0..3)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.build_task().depth(5).spawn(async {}) })
                })
                .collect();
            for spawner in spawners {
                spawner.await.unwrap();
            }
            drop(pool);
            run.await.unwrap().unwrap();
        });
    });
}

#[test]
fn a_start_has_one_answer() {
    explore(|| {
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let (starting, closing) = (pool.clone(), pool.clone());
        let starter = shuttle::thread::spawn(move || {
            let ready = starting.start(async |started: Started<u8>| {
                yield_now().await;
                started.ready(1);
            });
            block_on(ready)
        });
        let cancelling = shuttle::thread::spawn(move || closing.cancel());
        block_on(pool.run()).unwrap();
        assert!(matches!(starter.join().unwrap(), Ok(1) | Err(TaskStopped::Cancelled)));
        cancelling.join().unwrap();
    });
}

#[test]
fn functions_wait_for_all_they_have_begun() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |_| {
            let (one, two) = (alive.one(), alive.one());
            let loser = async move {
                holding(one).await;
                0
            };
            let winner = async move {
                let _two = two;
                yield_now().await;
                1
            };
            assert_eq!(race((loser, winner)).await, (1, 1));
            assert_eq!(alive.count(), 0);

            let one = alive.one();
            let endless = async move {
                holding(one).await;
                Ok::<_, BoxError>(())
            };
            assert!(try_all((endless, async { Err::<(), BoxError>("error".into()) })).await.is_err());
            assert_eq!(alive.count(), 0);

            let all = wait_all([1, 2].map(|n| async move {
                yield_now().await;
                Ok::<_, BoxError>(n)
            }));
            assert_eq!(all.await.map(Result::unwrap), [1, 2]);
            Ok(())
        }));
        ended.unwrap();
    });
}

#[test]
fn functions_that_are_dropped_are_waited_for() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |_| {
            let job = |held: Counted| async move {
                holding(held).await;
                Ok::<_, BoxError>(())
            };
            drop(race([job(alive.one()), job(alive.one())]));
            let all = try_all([job(alive.one()), job(alive.one())]);
            yield_now().await;
            drop(all);
            let mut all = std::pin::pin!(wait_all([job(alive.one()), job(alive.one())]));
            tokio::select! {
                biased;
                _ = all.as_mut() => unreachable!("its branches wait for ever"),
                () = yield_now() => {}
            }
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn guards_finish_what_was_begun() {
    explore(|| {
        let (begun, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (begins, done) = (Arc::clone(&begun), Arc::clone(&finished));
        let ended = block_on(Pool::<BoxError>::open(async move |pool| {
            let owner = pool.spawn_with_handle(async move {
                let ends = Arc::clone(&done);
                let work = shield(async move {
                    yield_now().await;
                    ends.fetch_add(1, Ordering::SeqCst);
                });
                let exit = async move |(), _| {
                    yield_now().await;
                    done.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                };
                let body = async move |_: &mut ()| {
                    // From here on both are to be finished, whatever becomes of this task.
                    begins.fetch_add(2, Ordering::SeqCst);
                    Ok::<_, BoxError>(work.await)
                };
                with_exit((), body, exit).await?;
                Ok(())
            });
            yield_now().await;
            yield_now().await;
            owner.cancel();
            let _ = owner.await;
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), finished.load(Ordering::SeqCst));
    });
}

#[test]
fn who_is_dropped_halfway_is_waited_for_around() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |_| {
            let inner = Pool::<BoxError>::open(async |inner| {
                inner.spawn(holding(alive.one()));
                inner.build_task().depth(1).spawn(holding(alive.one()));
                holding(alive.one()).await;
                Ok(())
            });
            let mut inner = Box::pin(timeout(Duration::MAX, inner));
            tokio::select! {
                biased;
                _ = inner.as_mut() => unreachable!("it waits for ever"),
                () = yield_now() => {}
            }
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

/// Each thread takes a set of tasks out of the pool to spawn into it, also the one in which the first task is.
#[test]
fn who_spawns_while_the_depth_is_aborted_leaves_nothing() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::builder().grace(Duration::MAX).open(async |pool: Pool| {
            pool.spawn(holding(alive.one()));
            let [first, second] = [(); 2].map(|()| {
                let (spawner, one) = (pool.clone(), alive.one());
                shuttle::thread::spawn(move || spawner.spawn(holding(one)))
            });
            pool.abort();
            first.join().unwrap();
            second.join().unwrap();
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

/// Nothing drops a pool that is waited for in place, in a blocking call: it has to hear of the abort.
#[test]
fn an_abort_reaches_a_pool_in_place_as_it_starts() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::new();
        let (one, two) = (alive.one(), alive.one());
        pool.spawn(async move {
            let inner = Pool::<BoxError>::builder().grace(Duration::MAX).open(async |inner: Pool| {
                inner.spawn(holding(one));
                holding(two).await;
                Ok(())
            });
            assert!(block_on(inner).unwrap_err().is_cancelled());
        });
        let own = pool.clone();
        let aborting = shuttle::thread::spawn(move || own.abort());
        block_on(pool.run()).unwrap();
        aborting.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

/// The same, by the handle of the task.
#[test]
fn a_handle_reaches_a_pool_in_place_as_it_starts() {
    explore(|| {
        let alive = Alive::default();
        let ended = block_on(Pool::<BoxError>::open(async |pool| {
            let one = alive.one();
            let task = pool.spawn_with_handle(async move {
                let inner = Pool::<BoxError>::builder().grace(Duration::MAX).build();
                inner.spawn(holding(one));
                Ok(block_on(inner.run())?)
            });
            shuttle::thread::yield_now();
            task.cancel();
            assert!(matches!(task.await, Ok(()) | Err(TaskStopped::Cancelled)));
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

/// The branches of a call in a blocking call are aborted by its future, which has to hear of the abort.
#[test]
fn an_abort_reaches_a_call_in_place_as_it_starts() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::new();
        let (one, two) = (alive.one(), alive.one());
        pool.spawn(async move {
            let branch = |held| async move { Ok::<_, BoxError>(holding(held).await) };
            assert!(block_on(try_all([branch(one), branch(two)])).is_err());
        });
        let own = pool.clone();
        let aborting = shuttle::thread::spawn(move || own.abort());
        block_on(pool.run()).unwrap();
        aborting.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

/// The slot belongs to a lower depth: what is queued at the higher one has nothing to wait for, once that is all there.
#[test]
fn a_task_that_ends_leaves_only_queued_ones() {
    explore(|| {
        let began = Arc::new(AtomicUsize::new(0));
        let pool = Pool::<BoxError>::builder().limit(1).grace(Duration::MAX).build();
        pool.spawn(async { cancellation_token().cancelled().await });
        let begins = Arc::clone(&began);
        pool.build_task().depth(1).spawn(async move {
            begins.fetch_add(1, Ordering::SeqCst);
        });
        pool.build_task().depth(1).unlimited().spawn(async {
            cancellation_token().cancelled().await;
            yield_now().await;
        });
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || own.cancel());
        block_on(pool.run()).unwrap();
        cancelling.join().unwrap();
        assert_eq!(began.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn an_abort_ends_the_grace_of_all_below() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().grace(Duration::MAX).build();
        let (one, two) = (alive.one(), alive.one());
        pool.spawn(holding(alive.one()));
        pool.spawn(async move {
            let inner = Pool::<BoxError>::builder().grace(Duration::MAX).open(async |inner: Pool| {
                inner.build_task().depth(1).spawn(holding(one));
                holding(two).await;
                Ok(())
            });
            drop(inner.await);
        });
        let (canceller, aborter) = (pool.clone(), pool.clone());
        let cancelling = shuttle::thread::spawn(move || canceller.cancel());
        let aborting = shuttle::thread::spawn(move || aborter.abort());
        block_on(pool.run()).unwrap();
        assert_eq!(alive.count(), 0);
        cancelling.join().unwrap();
        aborting.join().unwrap();
    });
}

/// Here a deadline passes at any point, which may be that of the abort, or of the task's own end.
#[test]
fn a_grace_is_over_at_any_moment() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().grace(Duration::from_secs(1)).build();
        pool.build_task().name("deaf").spawn(holding(alive.one()));
        let one = alive.one();
        pool.build_task().name("listens").spawn(async move {
            cancellation_token().cancelled().await;
            yield_now().await;
            drop(one);
        });
        let (own, aborter) = (pool.clone(), pool.clone());
        let aborting = shuttle::thread::spawn(move || {
            aborter.cancel();
            aborter.abort();
        });
        block_on(pool.run()).unwrap();
        aborting.join().unwrap();
        let overrun = own.overrun();
        assert!(overrun.is_empty() || overrun.iter().any(|task| task.name() == Some("deaf")));
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_deadline_is_moved_while_it_passes() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::new();
        pool.spawn(holding(alive.one()));
        let now = tokio::time::Instant::now();
        pool.cancel_at(Some(now));
        let own = pool.clone();
        let moving = shuttle::thread::spawn(move || own.cancel_at(Some(now + Duration::from_secs(1))));
        block_on(pool.run()).unwrap();
        moving.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn idle_waits_for_the_last_task() {
    explore(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let (spawner, first) = (pool.clone(), Arc::clone(&ran));
        pool.spawn(async move {
            let second = Arc::clone(&first);
            spawner.spawn(async move {
                yield_now().await;
                second.fetch_add(1, Ordering::SeqCst);
            });
            first.fetch_add(1, Ordering::SeqCst);
        });
        let waiting = [(); 2].map(|()| {
            let (idle, ran) = (pool.clone(), Arc::clone(&ran));
            shuttle::thread::spawn(move || {
                block_on(idle.idle());
                assert_eq!(ran.load(Ordering::SeqCst), 2);
            })
        });
        let own = pool.clone();
        let running = shuttle::thread::spawn(move || block_on(pool.run()).unwrap());
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
        own.cancel();
        running.join().unwrap();
    });
}

#[test]
fn a_kept_open_pool_ends_with_its_last_handle() {
    explore(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let holding = [(); 2].map(|()| {
            let (handle, ran) = (pool.clone(), Arc::clone(&ran));
            shuttle::thread::spawn(move || {
                handle.spawn(async move {
                    ran.fetch_add(1, Ordering::SeqCst);
                });
            })
        });
        block_on(pool.run()).unwrap();
        holding.into_iter().for_each(|holding| holding.join().unwrap());
        assert_eq!(ran.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_cancel_drops_what_is_queued() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().limit(1).build();
        let handles = [(); 3].map(|()| {
            let one = alive.one();
            pool.spawn_with_handle(async move {
                let _one = one;
                yield_now().await;
                Ok(1)
            })
        });
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || own.cancel());
        block_on(pool.run()).unwrap();
        cancelling.join().unwrap();
        assert_eq!(alive.count(), 0);
        for handle in handles {
            assert!(matches!(block_on(handle), Ok(1) | Err(TaskStopped::Cancelled)));
        }
    });
}

#[test]
fn who_is_cancelled_in_the_queue_lets_the_next_one_pass() {
    explore(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let ended = block_on(Pool::<BoxError>::builder().limit(1).open(async |pool: Pool| {
            pool.spawn(yield_now());
            let second = pool.spawn_with_handle(pending::<Result<(), _>>());
            let runs = Arc::clone(&ran);
            pool.spawn(async move {
                runs.fetch_add(1, Ordering::SeqCst);
            });
            let cancelling = shuttle::thread::spawn(move || {
                second.cancel();
                second
            });
            yield_now().await;
            assert_eq!(cancelling.join().unwrap().await, Err(TaskStopped::Cancelled));
            Ok(())
        }));
        ended.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    });
}

/// A closure waits for its turn as a task, and is then spawned once more, on a thread.
#[test]
fn closures_wait_for_their_turn() {
    explore(|| {
        let (alive, running) = (Alive::default(), Alive::default());
        let pool = Pool::<BoxError>::builder().limit(1).build();
        for _ in 0..3 {
            let (one, running) = (alive.one(), running.clone());
            pool.spawn_blocking(move || {
                let _held = (one, running.one());
                assert_eq!(running.count(), 1, "more than the limit");
                shuttle::thread::yield_now();
            });
        }
        let own = pool.clone();
        let cancelling = shuttle::thread::spawn(move || own.cancel());
        block_on(pool.run()).unwrap();
        cancelling.join().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_tracked_future_is_aborted_as_it_is_polled() {
    explore(|| {
        let alive = Alive::default();
        let pool = Pool::<BoxError>::builder().grace(Duration::MAX).keep_open(true).build();
        let (owner, aborter, one) = (pool.clone(), pool.clone(), alive.one());
        let tracked = owner.track_future(async move {
            let _one = one;
            yield_now().await;
            1
        });
        let polling = shuttle::thread::spawn(move || block_on(tracked));
        let endless = owner.track_future(holding(alive.one()));
        let waiting = shuttle::thread::spawn(move || block_on(endless));
        let aborting = shuttle::thread::spawn(move || aborter.abort());
        block_on(pool.run()).unwrap();
        aborting.join().unwrap();
        assert!(matches!(polling.join().unwrap(), Ok(1) | Err(TaskStopped::Cancelled)));
        assert_eq!(waiting.join().unwrap(), Err(TaskStopped::Cancelled));
        assert_eq!(alive.count(), 0);
    });
}

/// Who finds the pool planned may come to plan the task when the pool has returned.
#[test]
fn a_task_that_was_accepted_is_polled_although_its_pool_begins_to_run() {
    explore(|| {
        let pool = Pool::<BoxError>::new();
        let (spawner, polled) = (pool.clone(), Arc::new(AtomicBool::new(false)));
        let marks = Arc::clone(&polled);
        let spawning = shuttle::thread::spawn(move || {
            spawner.try_spawn(async move { marks.store(true, Ordering::SeqCst) }).is_ok()
        });
        block_on(pool.run()).unwrap();
        let accepted = spawning.join().unwrap();
        assert_eq!(accepted, polled.load(Ordering::SeqCst));
    });
}

#[test]
fn a_tracked_future_is_dropped_as_it_is_listed() {
    explore(|| {
        let pool = Pool::<BoxError>::builder().keep_open(true).build();
        let owner = pool.clone();
        let tracked = owner.track_future(pending::<()>());
        let dropping = shuttle::thread::spawn(move || drop(tracked));
        let running = shuttle::thread::spawn(move || block_on(pool.run()).unwrap());
        dropping.join().unwrap();
        block_on(owner.idle());
        assert_eq!(owner.len(), 0);
        owner.cancel();
        running.join().unwrap();
    });
}

#[test]
fn a_tracked_future_waits_until_it_is_listed() {
    explore(|| {
        let pool = Pool::<BoxError>::new();
        // It ends at once, and tells of that, while the others are being admitted.
        pool.spawn(async {});
        let tracked = pool.track_future(async { 1 });
        let polling = shuttle::thread::spawn(move || block_on(tracked));
        block_on(pool.run()).unwrap();
        assert_eq!(polling.join().unwrap(), Ok(1));
    });
}

/// A pool in a branch hears of the abort before the branch is aborted, and may well return that first.
#[test]
fn a_branch_that_was_stopped_has_not_failed() {
    explore(|| {
        let ended = block_on(Pool::<BoxError>::open(async |_| {
            let inner = async {
                Pool::<BoxError>::open(async |_| Ok(pending::<()>().await)).await?;
                Ok::<_, BoxError>(())
            };
            let fails = async {
                yield_now().await;
                Err::<(), BoxError>("error".into())
            };
            let error = try_all((inner, fails)).await.unwrap_err();
            assert_eq!(error.failures().len(), 1, "{error}");
            Ok(())
        }));
        ended.unwrap();
    });
}

#[test]
fn a_destructor_that_panics_as_a_branch_is_aborted_is_reported() {
    explore(|| {
        let ended = block_on(Pool::<BoxError>::open(async |_| {
            let bomb = OnDrop(|| std::panic::resume_unwind(Box::new("destructor")));
            let aborted = async move { Ok::<_, BoxError>(holding(bomb).await) };
            let error = try_all((aborted, async { Err::<(), BoxError>("error".into()) })).await.unwrap_err();
            let [first, second] = error.failures() else { panic!("{error}") };
            assert!(matches!(first.failure(), Failure::Error(_)));
            assert!(matches!(second.failure(), Failure::Panic(_)));
            Ok(())
        }));
        ended.unwrap();
    });
}

/// The handler is begun as the body is dropped by the abort, which does not reach it.
#[test]
fn an_exit_handler_may_use_a_pool() {
    explore(|| {
        let (begun, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (begins, ends) = (Arc::clone(&begun), Arc::clone(&finished));
        let pool = Pool::<BoxError>::new();
        pool.spawn(async move {
            let exit = async move |(), _| {
                let goodbye = Pool::<BoxError>::open(async |goodbye| {
                    goodbye.spawn(yield_now());
                    yield_now().await;
                    ends.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                });
                Ok(goodbye.await?)
            };
            let body = async move |_: &mut ()| {
                begins.fetch_add(1, Ordering::SeqCst);
                Ok::<_, BoxError>(pending::<()>().await)
            };
            drop(with_exit((), body, exit).await);
        });
        let own = pool.clone();
        let aborting = shuttle::thread::spawn(move || own.abort());
        block_on(pool.run()).unwrap();
        aborting.join().unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), finished.load(Ordering::SeqCst));
    });
}
