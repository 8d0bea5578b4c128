//! What the options of a pool do: `on_failure`, `keep_open`, `cancel_on`, `spawn_local`, `abandon_after`.

use std::cell::Cell;
use std::fmt;
use std::future::{pending, poll_fn, ready};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{
    BoxError, Failure, LatchEvent, OnFailure, Pool, PoolError, TaskHandle, TaskInfo, TaskStopped, cancellation_token,
    race, shield,
};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, yield_now};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready_err, task};

use crate::support::{
    Alive, Counted, Log, OnDrop, busy, failures, on_both, on_current_thread, on_multi_thread, panic_of, panic_text,
    quiet_panic, stays_pending, until, watched,
};

const LONG: Duration = Duration::from_secs(1_000);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A pool that runs in a task of its own.
fn running<E>(pool: &Pool<E>) -> JoinHandle<Result<(), PoolError<E>>>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    tokio::spawn(pool.clone().run())
}

/// A pool that does the same about every failure.
fn always(what: OnFailure) -> Pool {
    Pool::builder().on_failure(move |_| what).build()
}

async fn fails(text: &'static str) -> Result<(), BoxError> {
    Err(text.into())
}

/// Has a task of a running pool fail, and waits until it has.
async fn failed(pool: &Pool, text: &'static str) {
    let handle = pool.spawn_with_handle(fails(text));
    assert_eq!(handle.await, Err(TaskStopped::Failed));
}

// ===== on_failure: what it decides =====

#[test]
fn cancel_is_the_default() {
    on_both(|| async {
        assert_eq!(OnFailure::default(), OnFailure::Cancel);
        for pool in [Pool::new(), always(OnFailure::Cancel)] {
            let alive = Alive::default();
            let one = alive.one();
            pool.spawn(async move {
                let _one = one;
                pending::<()>().await;
            });
            pool.spawn(fails("broken"));
            let error = pool.run().await.unwrap_err();
            assert_eq!(failures(error.failures()), ["error: broken"]);
            assert_eq!(alive.count(), 0);
        }
    });
}

#[test]
fn a_collected_failure_leaves_the_siblings_running_and_is_returned() {
    on_both(|| async {
        let (pool, log, latch) = (always(OnFailure::Collect), Log::default(), LatchEvent::new());
        let (ended, go) = (log.clone(), latch.wait_set());
        pool.spawn(async move {
            go.await;
            ended.push("sibling");
        });
        let running = running(&pool);
        failed(&pool, "broken").await;
        assert!(!pool.is_closed());
        latch.set();
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken"]);
        assert_eq!(log.events(), ["sibling"]);
    });
}

#[test]
fn collected_failures_are_in_order_of_occurrence() {
    on_both(|| async {
        let opened = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
            failed(&pool, "first").await;
            let panics = pool.spawn_with_handle(async { quiet_panic("second") as Result<(), BoxError> });
            assert_eq!(panics.await, Err(TaskStopped::Panicked));
            failed(&pool, "third").await;
            assert!(!pool.is_closed());
            Ok("value")
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: first", "panic: second", "error: third"]);
        assert!(!error.is_panic() && !error.is_cancelled());
    });
}

#[test]
fn discarded_failures_are_forgotten_and_the_body_keeps_its_value() {
    on_both(|| async {
        let opened = Pool::builder().on_failure(|_| OnFailure::Discard).open(async |pool: Pool| {
            failed(&pool, "error").await;
            let panics = pool.spawn_with_handle(async { quiet_panic("panic") as Result<(), BoxError> });
            assert_eq!(panics.await, Err(TaskStopped::Panicked));
            assert!(!pool.is_closed());
            Ok("value")
        });
        assert_eq!(opened.await.unwrap(), "value");
    });
}

#[test]
fn each_failure_is_decided_by_itself() {
    on_both(|| async {
        let builder = Pool::<BoxError>::builder().on_failure(|failed| match failed.failure() {
            Failure::Error(error) if error.to_string() == "collect" => OnFailure::Collect,
            Failure::Error(_) => OnFailure::Discard,
            _ => OnFailure::Cancel,
        });
        let opened = builder.open(async |pool: Pool| {
            failed(&pool, "discard").await;
            failed(&pool, "collect").await;
            failed(&pool, "discard").await;
            pool.spawn(async { quiet_panic("cancel") as () });
            pending::<()>().await;
            Ok(())
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: collect", "panic: cancel"]);
    });
}

#[test]
fn a_blocking_closure_is_asked_about_as_any_task() {
    on_both(|| async {
        let pool = always(OnFailure::Collect);
        pool.spawn_blocking(|| Err("blocking".into()));
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: blocking"]);
        let pool = always(OnFailure::Discard);
        pool.spawn_blocking(|| quiet_panic("blocking") as ());
        pool.run().await.unwrap();
    });
}

#[test]
fn a_collected_failure_gives_its_slot_to_the_next() {
    on_both(|| async {
        let pool: Pool = Pool::builder().limit(1).on_failure(|_| OnFailure::Collect).build();
        for text in ["first", "second", "third"] {
            pool.spawn(fails(text));
        }
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: first", "error: second", "error: third"]);
    });
}

#[test]
fn a_pool_with_collected_failures_that_is_cancelled_returns_them() {
    on_both(|| async {
        let opened = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
            failed(&pool, "broken").await;
            pool.cancel_with("enough");
            pending::<()>().await;
            Ok(())
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken"]);
        assert!(!error.is_cancelled());
    });
}

#[test]
fn failures_while_the_pool_closes_are_decided_too() {
    on_both(|| async {
        for (what, expected) in [(OnFailure::Discard, &[][..]), (OnFailure::Collect, &["error: late", "panic: late"])] {
            let pool: Pool = Pool::builder().grace(LONG).on_failure(move |_| what).build();
            let (begun, wait) = oneshot::channel();
            pool.spawn(async move {
                begun.send(()).unwrap();
                cancellation_token().cancelled().await;
                let panics = Pool::<BoxError>::current()
                    .spawn_with_handle(async { quiet_panic("late") as Result<(), BoxError> });
                failed(&Pool::current(), "late").await;
                assert_eq!(panics.await, Err(TaskStopped::Panicked));
            });
            let running = running(&pool);
            wait.await.unwrap();
            pool.cancel();
            match running.await.unwrap() {
                Ok(()) => assert!(expected.is_empty()),
                Err(error) => {
                    let mut texts = failures(error.failures());
                    texts.sort();
                    assert_eq!(texts, expected);
                }
            }
        }
    });
}

#[test]
fn a_destructor_that_panics_while_it_is_aborted_is_asked_about() {
    on_both(|| async {
        let (pool, (begun, wait)) = (always(OnFailure::Discard), oneshot::channel());
        pool.spawn(async move {
            let _panics = OnDrop::new(|| quiet_panic("destructor"));
            begun.send(()).unwrap();
            pending::<()>().await;
        });
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        running.await.unwrap().unwrap();
    });
}

// ===== on_failure: what it is asked =====

#[test]
fn the_policy_sees_the_name_the_site_and_the_failure() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let builder = Pool::<BoxError>::builder().on_failure(move |failed| {
            let task = failed.task();
            assert!(!task.is_body() && task.spawned_at().file() == file!());
            asked.push(format!("{:?} {} {failed}", task.name(), task.spawned_at().line()));
            OnFailure::Discard
        });
        let pool: Pool = builder.limit(1).build();
        pool.build_task().name("one").spawn(fails("broken"));
        let first = line!() - 1;
        pool.spawn(async { quiet_panic("two") as () });
        let second = line!() - 1;
        pool.run().await.unwrap();
        let events = log.events();
        let [one, two] = &events[..] else { panic!("{events:?}") };
        assert!(one.starts_with(&format!("Some(\"one\") {first} task \"one\" (")), "{one}");
        assert!(one.ends_with(") failed: broken"), "{one}");
        assert!(two.starts_with(&format!("None {second} task at ")) && two.ends_with(" panicked: two"), "{two}");
    });
}

#[test]
fn the_policy_is_asked_about_each_failure_once() {
    on_both(|| async {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let pool: Pool = Pool::builder()
            .on_failure(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                OnFailure::Collect
            })
            .build();
        (0..100).for_each(|_| pool.spawn(fails("broken")));
        (0..100).for_each(|_| pool.spawn(async {}));
        assert_eq!(pool.run().await.unwrap_err().failures().len(), 100);
        assert_eq!(asked.load(Ordering::SeqCst), 100);
    });
}

#[test]
fn a_task_that_fails_and_panics_in_its_destructor_is_asked_about_twice() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let pool: Pool = Pool::builder()
            .on_failure(move |failed| {
                asked.push(failures(std::slice::from_ref(failed)).remove(0));
                OnFailure::Collect
            })
            .build();
        let panics = OnDrop::new(|| quiet_panic("destructor"));
        pool.spawn(poll_fn(move |_| {
            let _ = &panics;
            Poll::Ready(Err("broken".into()))
        }));
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken", "panic: destructor"]);
        assert_eq!(log.events(), ["error: broken", "panic: destructor"]);
    });
}

#[test]
fn the_policy_is_not_asked_about_what_is_cancelled() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let pool: Pool = Pool::builder()
            .on_failure(move |failed| {
                asked.push(failed.to_string());
                OnFailure::Collect
            })
            .build();
        let by_handle = pool.spawn_with_handle(pending::<Result<(), BoxError>>());
        let by_pool = pool.spawn_with_handle(pending::<Result<(), BoxError>>());
        let running = running(&pool);
        by_handle.cancel();
        assert_eq!(by_handle.await, Err(TaskStopped::Cancelled));
        pool.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(by_pool.await, Err(TaskStopped::Cancelled));
        assert!(log.events().is_empty());
    });
}

#[test]
fn the_policy_is_not_asked_about_the_body() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let policy = move |failed: &aiodrive::TaskError| {
            asked.push(failed.to_string());
            OnFailure::Discard
        };
        let alive = Alive::default();
        let opened = Pool::builder().on_failure(policy.clone()).open(async |pool: Pool| {
            let one = alive.one();
            pool.spawn(async move {
                let _one = one;
                pending::<()>().await;
            });
            Err::<(), _>("body".into())
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: body"]);
        assert_eq!(alive.count(), 0);

        let opened = Pool::builder().on_failure(policy).open(async |_: Pool| quiet_panic("body") as Result<(), _>);
        assert_eq!(panic_of(opened).await, "body");
        assert!(log.events().is_empty());
    });
}

#[test]
fn the_policy_is_asked_about_what_a_runtime_cut_off() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let pool: Pool = Pool::builder()
            .keep_open(true)
            .on_failure(move |failed| {
                asked.push(failed.to_string());
                OnFailure::Discard
            })
            .build();
        let running = running(&pool);
        until(|| format!("{pool:?}").contains("running")).await;
        let local = LocalSet::new();
        {
            let _inside = local.enter();
            pool.spawn_local(pending::<()>());
        }
        drop(local);
        until(|| !log.events().is_empty()).await;
        pool.cancel();
        running.await.unwrap().unwrap();
        let [event] = &log.events()[..] else { panic!("asked once: {:?}", log.events()) };
        assert!(event.ends_with("was cut off by an abort or its runtime shutting down"), "{event}");
    });
}

#[test]
fn the_failure_of_a_daemon_is_decided_as_any() {
    on_both(|| async {
        for (what, expected) in [(OnFailure::Discard, 0), (OnFailure::Collect, 1)] {
            let opened = Pool::builder().on_failure(move |_| what).open(async |pool: Pool| {
                let daemon = pool.build_task().daemon().spawn_with_handle(fails("daemon"));
                assert_eq!(daemon.await, Err(TaskStopped::Failed));
                assert!(!pool.is_closed());
                Ok(())
            });
            assert_eq!(opened.await.map_or_else(|error| error.failures().len(), |()| 0), expected);
        }
    });
}

#[test]
fn a_nested_pool_has_its_own_policy_and_is_one_failure_of_the_outer() {
    on_both(|| async {
        let log = Log::default();
        let asked = log.clone();
        let policy = move |failed: &aiodrive::TaskError| {
            asked.push(failures(std::slice::from_ref(failed)).remove(0));
            OnFailure::Collect
        };
        let outer: Pool = Pool::builder().on_failure(policy).build();
        outer.build_task().name("owner").spawn(async {
            Pool::open(async |inner: Pool| {
                inner.build_task().name("inner").spawn(fails("broken"));
                inner.spawn(pending::<()>());
                Ok(())
            })
            .await?;
            Ok(())
        });
        outer.spawn(async {
            let discarded = Pool::builder().on_failure(|_| OnFailure::Discard).open(async |inner: Pool| {
                failed(&inner, "discarded").await;
                Ok(())
            });
            discarded.await?;
            Ok(())
        });
        let error = outer.run().await.unwrap_err();
        let [failed] = error.failures() else { panic!("{error}") };
        assert_eq!(failed.task().name(), Some("owner"));
        let [event] = &log.events()[..] else { panic!("{:?}", log.events()) };
        assert!(event.starts_with("error: task \"inner\" (") && event.ends_with(") failed: broken"), "{event}");
    });
}

// ===== on_failure: when and where it is called =====

/// A handle that a policy can look at.
type Slot<T> = Arc<Mutex<Option<T>>>;

#[test]
fn handles_still_say_how_their_task_failed() {
    on_both(|| async {
        for what in [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard] {
            for (panics, expected) in [(false, TaskStopped::Failed), (true, TaskStopped::Panicked)] {
                let pool = always(what);
                let handle = pool.spawn_with_handle(async move {
                    if panics { quiet_panic("broken") } else { Err::<(), BoxError>("broken".into()) }
                });
                assert_eq!(pool.run().await.is_ok(), what == OnFailure::Discard);
                assert_eq!(handle.await, Err(expected));
            }
        }
    });
}

#[test]
fn the_policy_is_called_before_the_handle_is_ready() {
    on_both(|| async {
        let (log, slot) = (Log::default(), Slot::<TaskHandle<()>>::default());
        let (asked, seen) = (log.clone(), Arc::clone(&slot));
        let pool: Pool = Pool::builder()
            .on_failure(move |_| {
                let finished = seen.lock().unwrap().as_ref().unwrap().is_finished();
                asked.push(format!("finished: {finished}"));
                OnFailure::Discard
            })
            .build();
        *slot.lock().unwrap() = Some(pool.spawn_with_handle(fails("broken")));
        pool.run().await.unwrap();
        assert_eq!(log.events(), ["finished: false"]);
        let handle = slot.lock().unwrap().take().unwrap();
        assert!(handle.is_finished());
    });
}

#[test]
fn the_policy_is_called_before_the_slot_is_given_on() {
    on_multi_thread(|| async {
        let (begun, seen) = (Arc::new(AtomicBool::new(false)), Log::default());
        let (polled, asked) = (Arc::clone(&begun), seen.clone());
        let pool: Pool = Pool::builder()
            .limit(1)
            .on_failure(move |_| {
                (0..1_000).for_each(|_| std::thread::yield_now());
                asked.push(format!("the next has begun: {}", polled.load(Ordering::SeqCst)));
                OnFailure::Cancel
            })
            .build();
        pool.spawn(fails("broken"));
        let next = Arc::clone(&begun);
        pool.spawn(async move { next.store(true, Ordering::SeqCst) });
        pool.run().await.unwrap_err();
        assert_eq!(seen.events(), ["the next has begun: false"]);
    });
}

#[test]
fn a_failure_without_grace_gives_its_slot_to_nobody() {
    on_multi_thread(|| async {
        for _ in 0..20 {
            let (pool, begun): (Pool, _) = (Pool::builder().limit(1).build(), Arc::new(AtomicBool::new(false)));
            pool.spawn(async {
                yield_now().await;
                Err("broken".into())
            });
            let next = Arc::clone(&begun);
            pool.spawn(async move { next.store(true, Ordering::SeqCst) });
            pool.run().await.unwrap_err();
            assert!(!begun.load(Ordering::SeqCst), "the pool had closed before");
        }
    });
}

#[test]
fn policies_of_several_tasks_run_at_the_same_time() {
    watched(|| {
        on_multi_thread(|| async {
            let both = Barrier::new(2);
            let pool: Pool = Pool::builder()
                .on_failure(move |_| {
                    both.wait();
                    OnFailure::Collect
                })
                .build();
            pool.spawn_blocking(|| Err("one".into()));
            pool.spawn_blocking(|| Err("two".into()));
            assert_eq!(pool.run().await.unwrap_err().failures().len(), 2);
        });
    });
}

#[test]
fn a_policy_may_call_its_pool() {
    watched(|| {
        on_both(|| async {
            let (log, slot) = (Log::default(), Slot::<Pool>::default());
            let (asked, mine) = (log.clone(), Arc::clone(&slot));
            let pool: Pool = Pool::builder()
                .name("mine")
                .on_failure(move |_| {
                    let pool = mine.lock().unwrap().clone().unwrap();
                    let text = format!("{pool:?}");
                    assert!(text.contains("mine") && text.contains("running"), "{text}");
                    assert!(!pool.is_closed() && !pool.is_empty());
                    assert_eq!(pool.tree().to_string(), pool.root_tree().to_string());
                    let log = asked.clone();
                    pool.spawn(async move { log.push("spawned by the policy") });
                    pool.cancel_on(pending::<()>());
                    OnFailure::Discard
                })
                .build();
            *slot.lock().unwrap() = Some(pool.clone());
            pool.spawn(fails("broken"));
            pool.run().await.unwrap();
            assert_eq!(log.events(), ["spawned by the policy"]);
            drop(slot.lock().unwrap().take());
        });
    });
}

#[test]
fn a_policy_may_cancel_its_pool() {
    watched(|| {
        on_both(|| async {
            for what in [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard] {
                let slot = Slot::<Pool>::default();
                let mine = Arc::clone(&slot);
                let opened = Pool::builder()
                    .on_failure(move |_| {
                        mine.lock().unwrap().take().unwrap().cancel_with("policy");
                        what
                    })
                    .open(async |pool: Pool| {
                        *slot.lock().unwrap() = Some(pool.clone());
                        pool.spawn(fails("broken"));
                        pending::<()>().await;
                        Ok(())
                    });
                let error = opened.await.unwrap_err();
                let expected: &[&str] = if what == OnFailure::Discard { &[] } else { &["error: broken"] };
                assert_eq!(failures(error.failures()), expected);
                assert_eq!(error.cancel_reason(), Some("policy"));
            }
        });
    });
}

#[test]
fn a_policy_that_panics_closes_the_pool_and_is_reported_after_the_failure() {
    on_both(|| async {
        let alive = Alive::default();
        let pool: Pool = Pool::builder().on_failure(|_| quiet_panic("policy")).build();
        let one = alive.one();
        pool.spawn(async move {
            let _one = one;
            pending::<()>().await;
        });
        let handle = pool.build_task().name("culprit").spawn_with_handle(fails("broken"));
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken", "panic: policy"]);
        assert!(error.failures().iter().all(|failed| failed.task().name() == Some("culprit")));
        assert_eq!(alive.count(), 0);
        assert_eq!(handle.await, Err(TaskStopped::Failed));
    });
}

/// An error with a destructor that panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        quiet_panic("bomb");
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ticking")
    }
}

impl From<Bomb> for BoxError {
    fn from(bomb: Bomb) -> Self {
        std::mem::forget(bomb);
        "ticking".into()
    }
}

#[test]
fn a_discarded_error_that_panics_in_its_destructor_closes_the_pool() {
    on_both(|| async {
        let alive = Alive::default();
        let pool: Pool<Bomb> = Pool::builder().on_failure(|_| OnFailure::Discard).build();
        let one = alive.one();
        pool.spawn(async move {
            let _one = one;
            pending::<()>().await;
        });
        let handle = pool.build_task().name("culprit").spawn_with_handle(async { Err::<(), _>(Bomb) });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: bomb"]);
        assert_eq!(error.first().unwrap().task().name(), Some("culprit"));
        assert_eq!(alive.count(), 0);
        assert_eq!(handle.await, Err(TaskStopped::Failed));
    });
}

#[test]
fn many_discarded_failures_leave_nothing() {
    #[derive(Debug)]
    struct Heavy(#[expect(dead_code, reason = "it is counted")] Kept);
    struct Kept(#[expect(dead_code, reason = "it is counted")] Counted);
    impl fmt::Debug for Kept {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Kept")
        }
    }
    impl fmt::Display for Heavy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("heavy")
        }
    }
    impl std::error::Error for Heavy {}
    on_both(|| async {
        let (alive, made) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
        let pool: Pool<Heavy> = Pool::builder().on_failure(|_| OnFailure::Discard).keep_open(true).build();
        let running = running(&pool);
        for _ in 0..10_000 {
            let (alive, made) = (alive.clone(), Arc::clone(&made));
            pool.spawn(async move {
                made.fetch_add(1, Ordering::SeqCst);
                Err(Heavy(Kept(alive.one())))
            });
        }
        until(|| made.load(Ordering::SeqCst) == 10_000 && alive.count() == 0).await;
        assert!(!pool.is_closed());
        pool.cancel();
        running.await.unwrap().unwrap();
    });
}

#[test]
fn a_policy_is_dropped_before_its_pool_returns() {
    on_both(|| async {
        let alive = Alive::default();
        let one = alive.one();
        let pool: Pool = Pool::builder()
            .on_failure(move |_| {
                let _ = &one;
                OnFailure::Discard
            })
            .build();
        pool.spawn(fails("broken"));
        pool.clone().run().await.unwrap();
        assert_eq!(alive.count(), 0, "although there is still a handle");
        drop(pool);
    });
}

// ===== keep_open =====

fn kept_open() -> Pool {
    Pool::builder().keep_open(true).build()
}

#[test]
fn a_pool_that_is_kept_open_stays_when_its_tasks_have_ended() {
    on_both(|| async {
        let (pool, log) = (kept_open(), Log::default());
        let mut run = Box::pin(pool.clone().run());
        stays_pending(run.as_mut()).await;
        for n in 1..=3 {
            let log = log.clone();
            let handle = pool.spawn_with_handle(async move {
                log.push(n.to_string());
                Ok(())
            });
            stays_pending(run.as_mut()).await;
            handle.await.unwrap();
        }
        assert_eq!(log.events(), ["1", "2", "3"]);
        pool.cancel();
        run.await.unwrap();
    });
}

#[test]
fn keep_open_can_be_taken_back() {
    on_both(|| async {
        let pool: Pool = Pool::builder().keep_open(true).keep_open(false).build();
        pool.run().await.unwrap();
    });
}

#[test]
fn a_failure_closes_a_pool_that_is_kept_open() {
    on_both(|| async {
        let pool = kept_open();
        pool.spawn(fails("broken"));
        assert_eq!(failures(pool.run().await.unwrap_err().failures()), ["error: broken"]);
    });
}

#[test]
fn a_later_failure_closes_a_pool_that_is_kept_open_and_idle() {
    on_both(|| async {
        let pool = kept_open();
        let mut run = Box::pin(pool.clone().run());
        stays_pending(run.as_mut()).await;
        pool.spawn_with_handle(async { Ok(()) }).await.unwrap();
        until(|| pool.is_empty()).await;
        stays_pending(run.as_mut()).await;
        pool.spawn(fails("broken"));
        assert_eq!(failures(run.await.unwrap_err().failures()), ["error: broken"]);
    });
}

#[test]
fn cancel_on_closes_a_pool_that_is_kept_open() {
    on_current_thread(|| async {
        let (pool, begin) = (kept_open(), Instant::now());
        pool.cancel_on(sleep(seconds(60)));
        pool.run().await.unwrap();
        assert_eq!(begin.elapsed(), seconds(60));
    });
}

#[test]
fn a_pool_that_is_kept_open_stays_when_its_body_has_returned() {
    on_both(|| async {
        let (log, handle) = (Log::default(), Slot::<Pool>::default());
        let mut opened = Box::pin(Pool::builder().keep_open(true).open(async |pool: Pool| {
            *handle.lock().unwrap() = Some(pool);
            Ok("value")
        }));
        stays_pending(opened.as_mut()).await;
        let (pool, ran) = (handle.lock().unwrap().take().unwrap(), log.clone());
        assert!(!pool.is_closed());
        pool.spawn(async move { ran.push("ran") });
        until(|| !log.events().is_empty()).await;
        stays_pending(opened.as_mut()).await;
        pool.cancel();
        assert_eq!(opened.await.unwrap(), "value");
    });
}

#[test]
fn a_body_that_fails_closes_a_pool_that_is_kept_open() {
    on_both(|| async {
        let opened = Pool::builder().keep_open(true).open(async |_: Pool| Err::<(), _>("body".into()));
        assert_eq!(failures(opened.await.unwrap_err().failures()), ["error: body"]);
    });
}

#[test]
fn a_pool_that_is_kept_open_keeps_its_daemons() {
    on_both(|| async {
        let (pool, alive) = (kept_open(), Alive::default());
        let one = alive.one();
        pool.build_task().daemon().spawn(async move {
            let _one = one;
            pending::<()>().await;
        });
        let mut run = Box::pin(pool.clone().run());
        stays_pending(run.as_mut()).await;
        assert_eq!(alive.count(), 1);
        pool.cancel();
        run.await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_pool_that_is_kept_open_closes_when_the_enclosing_one_is_asked_to_stop() {
    on_both(|| async {
        let outer: Pool = Pool::builder().grace(LONG).build();
        let (log, (begun, wait)) = (Log::default(), oneshot::channel());
        let events = log.clone();
        outer.spawn(async move {
            let inner = kept_open();
            let _kept = inner.clone();
            inner.spawn(async move { begun.send(()).unwrap() });
            inner.run().await.unwrap();
            events.push("the inner pool has ended by itself");
        });
        let running = running(&outer);
        wait.await.unwrap();
        assert!(!running.is_finished());
        outer.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(log.events(), ["the inner pool has ended by itself"]);
    });
}

#[test]
fn a_pool_that_is_kept_open_is_cut_off_with_an_enclosing_one_without_grace() {
    on_both(|| async {
        let (outer, alive, (begun, wait)) = (Pool::<BoxError>::new(), Alive::default(), oneshot::channel());
        let one = alive.one();
        outer.spawn(async move {
            let inner = kept_open();
            inner.spawn(async move {
                let _one = one;
                begun.send(()).unwrap();
                busy().await;
            });
            inner.run().await.unwrap();
        });
        let running = running(&outer);
        wait.await.unwrap();
        outer.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_pool_that_is_kept_open_returns_collected_failures_when_it_is_cancelled() {
    on_both(|| async {
        let pool: Pool = Pool::builder().keep_open(true).on_failure(|_| OnFailure::Collect).build();
        let running = running(&pool);
        failed(&pool, "one").await;
        failed(&pool, "two").await;
        assert!(!pool.is_closed());
        pool.cancel();
        assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["error: one", "error: two"]);
    });
}

// ===== cancel_on =====

#[test]
fn a_signal_that_is_ready_cancels_the_pool() {
    on_both(|| async {
        let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
        let one = alive.one();
        pool.spawn(async move {
            let _one = one;
            pending::<()>().await;
        });
        pool.cancel_on(ready("whatever"));
        pool.run().await.unwrap();
        assert_eq!(alive.count(), 0);

        let error = Pool::open(async |pool: Pool| {
            pool.cancel_on(ready(()));
            pending::<()>().await;
            Ok(())
        });
        assert!(error.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_signal_that_is_never_ready_does_not_hold_the_pool_open() {
    on_both(|| async {
        let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
        let one = alive.one();
        pool.cancel_on(async move {
            let _one = one;
            pending::<()>().await;
        });
        pool.spawn(async {});
        pool.run().await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_signal_that_is_never_ready_does_not_use_up_the_grace() {
    on_current_thread(|| async {
        let (pool, begin): (Pool, _) = (Pool::builder().grace(LONG).build(), Instant::now());
        pool.cancel_on(pending::<()>());
        pool.spawn(sleep(seconds(1)));
        pool.run().await.unwrap();
        assert_eq!(begin.elapsed(), seconds(1));

        for busy_signal in [false, true] {
            let pool: Pool = Pool::builder().grace(LONG).build();
            if busy_signal {
                pool.cancel_on(busy())
            } else {
                pool.cancel_on(pending::<()>())
            }
            pool.spawn(async { cancellation_token().cancelled().await });
            let (stop, begin) = (pool.clone(), Instant::now());
            pool.spawn(async move { stop.cancel() });
            pool.run().await.unwrap();
            assert_eq!(begin.elapsed(), Duration::ZERO);
        }
    });
}

#[test]
fn a_signal_gives_the_tasks_their_grace() {
    on_current_thread(|| async {
        let (log, begin) = (Log::default(), Instant::now());
        let pool: Pool = Pool::builder().grace(seconds(10)).build();
        let ended = log.clone();
        pool.spawn(async move {
            cancellation_token().cancelled().await;
            sleep(seconds(2)).await;
            ended.push("ended");
        });
        pool.cancel_on(sleep(seconds(60)));
        pool.run().await.unwrap();
        assert_eq!((begin.elapsed(), log.events().len()), (seconds(62), 1));
    });
}

#[test]
fn a_signal_that_panics_is_a_failure_with_the_site_of_the_call() {
    on_both(|| async {
        let pool = Pool::<BoxError>::new();
        pool.spawn(pending::<()>());
        pool.cancel_on(async { quiet_panic("signal") as () });
        let line = line!() - 1;
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: signal"]);
        let site = error.first().unwrap().task().spawned_at();
        assert_eq!((site.file(), site.line()), (file!(), line));
    });
}

#[test]
fn a_signal_is_dropped_before_the_pool_has_ended_and_its_panic_is_a_failure() {
    on_both(|| async {
        let (pool, (begun, wait)) = (kept_open(), oneshot::channel());
        pool.cancel_on(async move {
            let _panics = OnDrop::new(|| quiet_panic("destructor"));
            begun.send(()).unwrap();
            pending::<()>().await;
        });
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        assert_eq!(failures(running.await.unwrap().unwrap_err().failures()), ["panic: destructor"]);
    });
}

#[test]
fn the_output_of_a_signal_is_dropped() {
    on_both(|| async {
        let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
        pool.spawn(pending::<()>());
        let one = alive.one();
        pool.cancel_on(async move { one });
        assert_eq!(alive.count(), 1);
        pool.run().await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn a_planned_pool_that_never_runs_drops_its_signal() {
    let (alive, polled) = (Alive::default(), Log::default());
    for cancelled in [false, true] {
        let pool = Pool::<BoxError>::new();
        let (one, log) = (alive.one(), polled.clone());
        pool.cancel_on(async move {
            let _one = one;
            log.push("polled");
        });
        assert_eq!((alive.count(), pool.len()), (1, 1));
        if cancelled {
            pool.cancel();
        } else {
            drop(pool);
        }
        assert_eq!(alive.count(), 0);
    }
    assert!(polled.events().is_empty());
}

#[test]
fn a_closed_pool_drops_the_signal_unpolled() {
    on_both(|| async {
        let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
        pool.clone().run().await.unwrap();
        let one = alive.one();
        pool.cancel_on(async move {
            let _one = one;
            quiet_panic("polled") as ()
        });
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn the_first_of_several_signals_cancels_the_pool() {
    on_current_thread(|| async {
        let (pool, alive, begin) = (kept_open(), Alive::default(), Instant::now());
        for wait in [30, 10, 20] {
            let one = alive.one();
            pool.cancel_on(async move {
                let _one = one;
                sleep(seconds(wait)).await;
            });
        }
        pool.run().await.unwrap();
        assert_eq!((begin.elapsed(), alive.count()), (seconds(10), 0));
    });
}

#[test]
fn a_signal_cancels_its_own_pool_and_no_other() {
    on_both(|| async {
        let outer = Pool::open(async |outer: Pool| {
            let inner = kept_open();
            inner.cancel_on(async { yield_now().await });
            inner.run().await?;
            Ok(outer.is_closed())
        });
        assert!(!outer.await.unwrap());
    });
}

#[test]
fn a_signal_takes_no_slot_and_is_inside_the_pool() {
    on_both(|| async {
        let (log, pool): (_, Pool) = (Log::default(), Pool::builder().name("mine").limit(1).build());
        let (end, seen) = (LatchEvent::new(), log.clone());
        let (go, signalled) = (end.wait_set(), end.clone());
        pool.spawn(go);
        pool.cancel_on(async move {
            seen.push(Pool::<BoxError>::current().name().unwrap().to_owned());
            signalled.set();
            pending::<()>().await;
        });
        pool.run().await.unwrap();
        assert_eq!(log.events(), ["mine"]);
    });
}

// ===== spawn_local =====

#[test]
fn a_local_task_may_hold_what_is_not_send() {
    on_both(|| async {
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
    });
}

#[test]
fn a_local_task_stays_on_its_thread_and_is_in_the_pool() {
    on_both(|| async {
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
    });
}

#[test]
fn a_local_task_in_a_pool_that_runs_elsewhere_is_joined() {
    on_multi_thread(|| async {
        let (pool, log) = (kept_open(), Log::default());
        let running = running(&pool);
        until(|| format!("{pool:?}").contains("running")).await;
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
    });
}

#[test]
fn under_a_limit_local_tasks_and_others_begin_in_the_order_of_their_spawns() {
    on_both(|| async {
        let log = Log::default();
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            let inside = Arc::new(AtomicUsize::new(0));
            for n in 0..6 {
                let (log, inside) = (log.clone(), Arc::clone(&inside));
                let work = async move {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    log.push(n.to_string());
                    yield_now().await;
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                };
                if n % 2 == 0 { pool.spawn_local(work) } else { pool.spawn(work) }
            }
            Ok(())
        });
        LocalSet::new().run_until(opened).await.unwrap();
        assert_eq!(log.events(), ["0", "1", "2", "3", "4", "5"]);
    });
}

#[test]
fn a_local_task_that_waits_for_its_turn_is_one_task() {
    on_both(|| async {
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            pool.spawn(pending::<()>());
            assert_eq!(pool.len(), 1);
            pool.spawn_local(pending::<()>());
            assert_eq!(pool.len(), 2);
            pool.cancel();
            Ok(())
        });
        LocalSet::new().run_until(opened).await.unwrap();
    });
}

#[test]
fn a_local_task_that_waits_for_its_turn_is_dropped_unpolled_when_the_pool_closes() {
    on_both(|| async {
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
    });
}

#[test]
fn a_local_daemon_takes_no_slot_and_does_not_hold_the_pool_open() {
    on_both(|| async {
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
    });
}

#[test]
fn local_tasks_are_closed_in_the_order_of_their_depths() {
    on_both(|| async {
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
    });
}

#[test]
fn a_local_task_that_fails_closes_the_pool_and_has_its_name_and_site() {
    on_both(|| async {
        for panics in [false, true] {
            let (alive, mut line) = (Alive::default(), 0);
            let opened = Pool::open(async |pool: Pool| {
                let one = alive.one();
                pool.spawn_local(async move {
                    let _one = Rc::new(one);
                    pending::<()>().await;
                });
                let work = async move { if panics { quiet_panic("broken") } else { fails("broken").await } };
                pool.build_task().name("local").spawn_local(work);
                line = line!() - 1;
                pending::<()>().await;
                Ok(())
            });
            let error = LocalSet::new().run_until(opened).await.unwrap_err();
            assert_eq!(failures(error.failures()), [if panics { "panic: broken" } else { "error: broken" }]);
            let task = error.first().unwrap().task();
            assert_eq!(
                (task.name(), task.spawned_at().file(), task.spawned_at().line()),
                (Some("local"), file!(), line)
            );
            assert_eq!(alive.count(), 0);
        }
    });
}

#[test]
fn a_local_task_that_is_aborted_is_dropped_on_its_own_thread() {
    on_both(|| async {
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
    });
}

#[test]
fn outside_of_a_local_set_spawn_local_panics_and_drops_the_future() {
    on_both(|| async {
        let (pool, alive) = (kept_open(), Alive::default());
        let running = running(&pool);
        until(|| format!("{pool:?}").contains("running")).await;
        let one = alive.one();
        let text = panic_text(|| {
            pool.spawn_local(async move {
                let _one = one;
            });
        });
        assert!(text.starts_with("`spawn_local` was called outside of a `LocalSet`"), "{text}");
        assert_eq!(alive.count(), 0);
        pool.cancel();
        drop(running.await.unwrap());
    });
}

#[test]
fn a_pool_is_as_it_was_after_spawn_local_has_panicked_outside_of_a_local_set() {
    on_both(|| async {
        for limit in [1, 2] {
            let pool: Pool = Pool::builder().keep_open(true).limit(limit).build();
            let running = running(&pool);
            until(|| format!("{pool:?}").contains("running")).await;
            for _ in 0..3 {
                panic_text(|| pool.spawn_local(pending::<()>()));
            }
            assert!(!pool.is_closed(), "no task has failed");
            assert_eq!(pool.len(), 0);
            assert_eq!(pool.spawn_with_handle(async { Ok(42) }).await, Ok(42), "the slots were given back");
            pool.cancel();
            running.await.unwrap().unwrap();
        }
    });
}

#[test]
fn spawn_local_in_a_planned_pool_panics_and_drops_the_future() {
    on_both(|| async {
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
    });
}

#[test]
fn a_closed_pool_drops_a_local_task_unpolled() {
    on_both(|| async {
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
    });
}

#[test]
fn a_local_set_that_is_dropped_cuts_its_tasks_off_and_that_is_a_failure() {
    on_both(|| async {
        let (pool, alive) = (kept_open(), Alive::default());
        let running = running(&pool);
        until(|| format!("{pool:?}").contains("running")).await;
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
    });
}

#[test]
fn a_local_set_that_is_dropped_with_a_task_waiting_for_its_turn_does_not_hang_the_pool() {
    on_both(|| async {
        let (pool, latch): (Pool, _) = (Pool::builder().limit(1).keep_open(true).build(), LatchEvent::new());
        let running = running(&pool);
        until(|| format!("{pool:?}").contains("running")).await;
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
    });
}

#[test]
fn a_local_task_that_fails_closes_the_pool_before_its_slot_is_given_on() {
    on_multi_thread(|| async {
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
    });
}

#[test]
fn what_is_below_a_local_task_ends_before_its_pool() {
    on_both(|| async {
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
    });
}

// ===== abandon_after =====

/// A `LocalSet` that nobody polls: what is spawned in it has no way to end, not even if it is aborted.
struct Swamp(LocalSet);

impl Swamp {
    fn new() -> Self {
        Self(LocalSet::new())
    }

    /// Spawns a task that gets stuck, in a running pool.
    fn trap(&self, pool: &Pool, name: &'static str, depth: i32) {
        let _inside = self.0.enter();
        pool.build_task().name(name).depth(depth).spawn_local(pending::<()>());
    }
}

fn impatient(wait: Duration) -> Pool {
    Pool::builder().keep_open(true).abandon_after(wait).build()
}

fn names(stuck: &[TaskInfo]) -> Vec<&str> {
    stuck.iter().map(|task| task.name().unwrap_or("-")).collect()
}

#[test]
fn a_blocking_closure_that_does_not_end_is_given_up_on_and_named() {
    on_multi_thread(|| async {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (log, (begun, wait)) = (Log::default(), oneshot::channel());
        let pool = impatient(Duration::from_millis(1));
        let ended = log.on_drop("ended");
        pool.build_task().name("culprit").spawn_blocking(move || {
            let _ended = ended;
            begun.send(()).unwrap();
            let _ = blocked.recv();
        });
        let line = line!() - 5;
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        let error = running.await.unwrap().unwrap_err();
        assert!(log.events().is_empty(), "it runs on");
        let [stuck] = error.stuck() else { panic!("{error:?}") };
        assert_eq!(
            (stuck.name(), stuck.spawned_at().file(), stuck.spawned_at().line()),
            (Some("culprit"), file!(), line)
        );
        assert!(!error.is_cancelled() && error.failures().is_empty() && error.first().is_none() && !stuck.is_body());
        drop(release);
        until(|| log.events() == ["ended"]).await;
    });
}

#[test]
fn what_is_stuck_is_named_in_the_order_of_the_spawns() {
    on_current_thread(|| async {
        let (pool, swamp, begin) = (impatient(seconds(10)), Swamp::new(), Instant::now());
        let mut running = task::spawn(pool.clone().run());
        assert_pending!(running.poll());
        for name in ["one", "two", "three"] {
            pool.spawn(pending::<()>());
            swamp.trap(&pool, name, 0);
            pool.spawn(async {});
        }
        pool.cancel();
        let error = running.await.unwrap_err();
        assert_eq!(names(error.stuck()), ["one", "two", "three"]);
        assert!(error.stuck().iter().all(|task| task.spawned_at().file() == file!()));
        assert_eq!(begin.elapsed(), seconds(10));
        assert_eq!(pool.len(), 0);
    });
}

#[test]
fn the_time_begins_with_the_abort_after_the_grace() {
    on_current_thread(|| async {
        let pool: Pool = Pool::builder().keep_open(true).grace(seconds(5)).abandon_after(seconds(10)).build();
        let (swamp, begin) = (Swamp::new(), Instant::now());
        let mut running = task::spawn(pool.clone().run());
        assert_pending!(running.poll());
        swamp.trap(&pool, "stuck", 0);
        pool.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
        assert_eq!(begin.elapsed(), seconds(15));
    });
}

#[test]
fn each_depth_has_the_time_for_itself() {
    on_current_thread(|| async {
        let (pool, swamp, begin) = (impatient(seconds(10)), Swamp::new(), Instant::now());
        let (log, mut running) = (Log::default(), task::spawn(pool.clone().run()));
        assert_pending!(running.poll());
        for (name, depth) in [("deep", -1), ("zero", 0), ("high", 1)] {
            swamp.trap(&pool, name, depth);
        }
        let ended = log.clone();
        pool.build_task().depth(-1).spawn(async move {
            let _ended = OnDrop::new(move || ended.push(format!("{}", begin.elapsed().as_secs())));
            pending::<()>().await;
        });
        yield_now().await;
        pool.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["high", "zero", "deep"]);
        assert_eq!((begin.elapsed(), log.events()), (seconds(30), vec!["20".to_owned()]));
    });
}

#[test]
fn what_ends_in_time_is_not_named() {
    on_current_thread(|| async {
        let (pool, begin) = (impatient(seconds(10)), Instant::now());
        let (shielded, waits) = (LatchEvent::new(), LatchEvent::new());
        let (begun, wait) = (waits.clone(), waits.wait_set());
        pool.build_task().name("owner").spawn(async move {
            let work = shield(async move {
                sleep(seconds(9)).await;
                shielded.set();
            });
            begun.set();
            work.await;
        });
        let running = running(&pool);
        wait.await;
        pool.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(begin.elapsed(), seconds(9));
    });
}

#[test]
fn a_pool_that_is_not_closing_is_not_impatient() {
    on_current_thread(|| async {
        let (pool, begin): (Pool, _) = (Pool::builder().abandon_after(seconds(1)).build(), Instant::now());
        pool.spawn(sleep(seconds(100)));
        pool.run().await.unwrap();
        assert_eq!(begin.elapsed(), seconds(100));
    });
}

#[test]
fn nothing_is_stuck_in_another_error() {
    on_both(|| async {
        let error = Pool::builder().abandon_after(LONG).open(async |pool: Pool| {
            pool.spawn(pending::<()>());
            pool.spawn(fails("broken"));
            Ok(())
        });
        let error = error.await.unwrap_err();
        assert!(error.stuck().is_empty());
        assert_eq!(failures(error.failures()), ["error: broken"]);
        let cancelled = Pool::builder().abandon_after(LONG).open(async |pool: Pool| {
            pool.spawn(pending::<()>());
            pool.cancel();
            pending::<()>().await;
            Ok(())
        });
        let cancelled = cancelled.await.unwrap_err();
        assert!(cancelled.stuck().is_empty() && cancelled.is_cancelled());
    });
}

#[test]
fn a_body_that_has_returned_loses_its_value_to_what_is_stuck() {
    on_current_thread(|| async {
        let (swamp, alive) = (Swamp::new(), Alive::default());
        let opened = Pool::builder().abandon_after(seconds(10)).open(async |pool: Pool| {
            swamp.trap(&pool, "stuck", 0);
            pool.cancel_with("enough");
            Ok(alive.one())
        });
        let error = opened.await.map(drop).unwrap_err();
        assert_eq!(alive.count(), 0);
        assert!(!error.is_cancelled() && !error.is_panic());
        assert_eq!((names(error.stuck()), error.cancel_reason()), (vec!["stuck"], Some("enough")));
    });
}

#[test]
fn a_body_that_panics_is_resumed_when_the_time_is_over() {
    on_current_thread(|| async {
        let (swamp, begin) = (Swamp::new(), Instant::now());
        let opened = Pool::builder().abandon_after(seconds(10)).open(async |pool: Pool| {
            swamp.trap(&pool, "stuck", 0);
            quiet_panic("body") as Result<(), _>
        });
        assert_eq!(panic_of(opened).await, "body");
        assert_eq!(begin.elapsed(), seconds(10));
    });
}

/// An error with what is `stuck`, after the task "fails" has failed or not.
async fn stuck_error(stuck: &[&'static str], failing: bool) -> PoolError {
    let (swamp, builder) = (Swamp::new(), Pool::builder().name("web").keep_open(true).abandon_after(seconds(10)));
    let pool: Pool = builder.build();
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    stuck.iter().for_each(|name| swamp.trap(&pool, name, 0));
    if failing {
        pool.build_task().name("fails").spawn(fails("broken"));
    } else {
        pool.cancel();
    }
    running.await.unwrap_err()
}

#[test]
fn an_error_says_what_is_stuck() {
    on_current_thread(|| async {
        let error = stuck_error(&["one"], false).await;
        let site = error.stuck()[0].spawned_at();
        assert_eq!(error.to_string(), format!("pool \"web\": gave up on task \"one\" ({site})"));
        assert_eq!(format!("{error:#}"), error.to_string());

        let error = stuck_error(&["one", "two"], false).await;
        let (one, two) = (format!("task \"one\" ({site})"), format!("task \"two\" ({site})"));
        assert_eq!(error.to_string(), format!("pool \"web\": gave up on 2 tasks: {one}; {two}"));
        assert_eq!(format!("{error:#}"), format!("pool \"web\": gave up on 2 tasks:\n  {one}\n  {two}"));
        assert!(format!("{error:#?}").contains("stuck: [\n        TaskInfo"), "{error:#?}");
    });
}

#[test]
fn an_error_says_what_has_failed_and_what_is_stuck() {
    on_current_thread(|| async {
        let error = stuck_error(&["one", "two"], true).await;
        assert_eq!(failures(error.failures()), ["error: broken"]);
        let site = error.stuck()[0].spawned_at();
        let failed = format!("task \"fails\" ({}) failed: broken", error.first().unwrap().task().spawned_at());
        let (one, two) = (format!("task \"one\" ({site})"), format!("task \"two\" ({site})"));
        assert_eq!(error.to_string(), format!("pool \"web\": {failed}; gave up on 2 tasks: {one}; {two}"));
        let lines = format!("pool \"web\":\n  {failed}\n  gave up on 2 tasks:\n    {one}\n    {two}");
        assert_eq!(format!("{error:#}"), lines);
        assert_eq!(error.into_first_error().unwrap().to_string(), "broken");
    });
}

#[test]
fn with_no_time_the_pool_does_not_wait_for_what_it_has_aborted() {
    on_current_thread(|| async {
        let (pool, swamp, begin) = (impatient(Duration::ZERO), Swamp::new(), Instant::now());
        let mut running = task::spawn(pool.clone().run());
        assert_pending!(running.poll());
        swamp.trap(&pool, "stuck", 0);
        pool.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
        assert_eq!(begin.elapsed(), Duration::ZERO);

        let pool: Pool = Pool::builder().abandon_after(Duration::ZERO).build();
        pool.spawn(async {});
        pool.run().await.unwrap();
    });
}

#[test]
fn with_all_the_time_there_is_the_pool_waits() {
    on_current_thread(|| async {
        let (pool, swamp) = (impatient(Duration::MAX), Swamp::new());
        let mut running = Box::pin(pool.clone().run());
        stays_pending(running.as_mut()).await;
        swamp.trap(&pool, "stuck", 0);
        pool.cancel();
        stays_pending(running.as_mut()).await;
        tokio::time::advance(seconds(100_000)).await;
        stays_pending(running.as_mut()).await;
        drop(swamp);
        running.await.unwrap();
    });
}

/// The waker of a driver used to stay in its pool, with all that the waker kept alive, for as long as there was a
/// handle; and what ended late woke somebody who had long gone on.
#[test]
fn what_was_given_up_on_does_not_wake_its_pool_when_it_ends() {
    on_current_thread(|| async {
        let (pool, swamp) = (impatient(Duration::ZERO), Swamp::new());
        let mut running = task::spawn(pool.clone().run());
        assert_pending!(running.poll());
        swamp.trap(&pool, "stuck", 0);
        pool.cancel();
        let error = assert_ready_err!(running.poll());
        assert_eq!(names(error.stuck()), ["stuck"]);
        drop(swamp);
        assert!(!running.is_woken());
    });
}

#[test]
fn what_waits_for_its_turn_is_not_stuck() {
    on_current_thread(|| async {
        let pool: Pool = Pool::builder().keep_open(true).limit(1).abandon_after(seconds(10)).build();
        let (swamp, alive) = (Swamp::new(), Alive::default());
        let mut running = task::spawn(pool.clone().run());
        assert_pending!(running.poll());
        swamp.trap(&pool, "stuck", 0);
        let one = alive.one();
        pool.build_task().name("queued").spawn(async move {
            let _one = one;
        });
        pool.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn daemons_that_are_stuck_are_named() {
    on_current_thread(|| async {
        let swamp = Swamp::new();
        let opened = Pool::builder().abandon_after(seconds(10)).open(async |pool: Pool| {
            let _inside = swamp.0.enter();
            pool.build_task().name("daemon").daemon().spawn_local(pending::<()>());
            Ok(())
        });
        assert_eq!(names(opened.await.unwrap_err().stuck()), ["daemon"]);
    });
}

#[test]
fn what_is_stuck_below_an_owner_that_was_aborted_is_named() {
    on_current_thread(|| async {
        let (pool, swamp) = (impatient(seconds(10)), Rc::new(Swamp::new()));
        let inner = Slot::<Pool>::default();
        let keep = Arc::clone(&inner);
        pool.build_task().name("owner").spawn(async move {
            let opened = Pool::open(async |inner: Pool| {
                *keep.lock().unwrap() = Some(inner);
                pending::<()>().await;
                Ok(())
            });
            drop(opened.await);
        });
        let mut running = Box::pin(pool.clone().run());
        stays_pending(running.as_mut()).await;
        let inner = inner.lock().unwrap().take().unwrap();
        swamp.trap(&pool, "outer 1", 0);
        swamp.trap(&inner, "inner", 0);
        swamp.trap(&inner, "deep in inner", -1);
        swamp.trap(&pool, "outer 2", 0);
        pool.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["outer 1", "outer 2", "inner", "deep in inner"]);
    });
}

#[test]
fn shielded_work_that_is_stuck_is_named_with_its_site() {
    on_current_thread(|| async {
        let (pool, begin) = (impatient(seconds(10)), Instant::now());
        pool.build_task().name("owner").spawn(async {
            shield(pending::<()>()).await;
        });
        let line = line!() - 2;
        let mut running = Box::pin(pool.clone().run());
        stays_pending(running.as_mut()).await;
        pool.cancel();
        let error = running.await.unwrap_err();
        let [stuck] = error.stuck() else { panic!("{error:?}") };
        assert_eq!((stuck.name(), stuck.spawned_at().file(), stuck.spawned_at().line()), (None, file!(), line));
        assert_eq!(begin.elapsed(), seconds(10));
        assert_eq!(error.to_string(), format!("gave up on task at {}", stuck.spawned_at()));
    });
}

#[test]
fn a_branch_of_a_race_that_is_stuck_is_named_with_the_site_of_the_race() {
    on_multi_thread(|| async {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (pool, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
        let line = line!() + 2;
        pool.build_task().name("racer").spawn(async move {
            race((
                async move {
                    begun.send(()).unwrap();
                    let _ = blocked.recv();
                },
                pending::<()>(),
            ))
            .await;
        });
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        let error = running.await.unwrap().unwrap_err();
        // What was only aborted may be late as well: a millisecond is not long.
        let sites: Vec<_> = error.stuck().iter().map(|task| (task.name(), task.spawned_at().line())).collect();
        assert!(sites.contains(&(None, line)), "{sites:?}, not {line}");
        drop(release);
    });
}

#[test]
fn an_enclosing_pool_that_is_patient_waits_for_what_was_given_up_on() {
    on_current_thread(|| async {
        let (outer, swamp, alive) = (Pool::<BoxError>::new(), Swamp::new(), Alive::default());
        let (inner, log) = (impatient(seconds(10)), Log::default());
        let (run, events) = (inner.clone(), log.clone());
        outer.spawn(async move {
            let error = run.run().await.unwrap_err();
            events.push(names(error.stuck()).join(" "));
        });
        let mut running = Box::pin(outer.clone().run());
        stays_pending(running.as_mut()).await;
        let one = alive.one();
        {
            let _inside = swamp.0.enter();
            inner.build_task().name("stuck").spawn_local(async move {
                let _one = one;
                pending::<()>().await;
            });
        }
        inner.cancel();
        stays_pending(running.as_mut()).await;
        tokio::time::advance(seconds(11)).await;
        stays_pending(running.as_mut()).await;
        assert_eq!((log.events(), alive.count()), (vec!["stuck".to_owned()], 1));
        drop(swamp);
        running.await.unwrap();
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn pools_that_are_both_impatient_both_name_it() {
    on_current_thread(|| async {
        let (outer, inner, swamp) = (impatient(seconds(20)), impatient(seconds(10)), Swamp::new());
        let (log, run, begin) = (Log::default(), inner.clone(), Instant::now());
        let events = log.clone();
        outer.spawn(async move {
            let error = run.run().await.unwrap_err();
            events.push(names(error.stuck()).join(" "));
        });
        let mut running = Box::pin(outer.clone().run());
        stays_pending(running.as_mut()).await;
        swamp.trap(&inner, "stuck", 0);
        inner.cancel();
        stays_pending(running.as_mut()).await;
        tokio::time::advance(seconds(11)).await;
        stays_pending(running.as_mut()).await;
        assert_eq!(log.events(), ["stuck"]);
        outer.cancel();
        assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
        assert!(begin.elapsed() >= seconds(31));
    });
}

#[test]
fn what_was_given_up_on_runs_on() {
    on_multi_thread(|| async {
        let (pool, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
        let ((release, blocked), (value, given)) = (oneshot::channel(), oneshot::channel());
        pool.spawn(async move {
            shield(async move {
                begun.send(()).unwrap();
                let asked: u32 = blocked.await.unwrap();
                value.send(asked).unwrap();
            })
            .await;
        });
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        // The owner, which was aborted, may be late as well.
        assert!(!running.await.unwrap().unwrap_err().stuck().is_empty());
        release.send(42).unwrap();
        assert_eq!(given.await.unwrap(), 42);
    });
}

#[test]
fn what_fails_after_it_was_given_up_on_is_a_cleanup_failure_of_the_enclosing_pool() {
    on_multi_thread(|| async {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (inner, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
        inner.build_task().name("late").spawn_blocking(move || {
            begun.send(()).unwrap();
            let _ = blocked.recv();
            Err("too late".into())
        });
        let outer = Pool::open(async |outer: Pool| {
            let (run, (gave_up, told)) = (inner.clone(), oneshot::channel());
            outer.spawn(async move {
                let error = run.run().await.unwrap_err();
                gave_up.send(names(error.stuck()).join(" ")).unwrap();
            });
            wait.await?;
            inner.cancel();
            assert_eq!(told.await?, "late");
            drop(release);
            Ok(())
        });
        let error = outer.await.unwrap_err();
        assert_eq!(failures(error.cleanup_failures()), ["error: too late"]);
    });
}

#[test]
fn what_fails_after_it_was_given_up_on_by_a_pool_that_panicked_is_a_cleanup_failure_of_the_enclosing_pool() {
    on_multi_thread(|| async {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let outer = Pool::<BoxError>::new();
        outer.spawn(async move {
            // Goes when the panic has come out of the inner pool.
            let _release = release;
            let (begun, wait) = oneshot::channel();
            let inner = Pool::builder().abandon_after(Duration::from_millis(1));
            let opened: Result<(), PoolError> = inner
                .open(async move |inner: Pool| {
                    inner.spawn_blocking(move || {
                        begun.send(()).unwrap();
                        let _ = blocked.lock().unwrap().recv();
                        Err("too late".into())
                    });
                    wait.await?;
                    quiet_panic("body") as Result<(), BoxError>
                })
                .await;
            drop(opened);
        });
        let error = outer.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["panic: body"]);
        assert_eq!(failures(error.cleanup_failures()), ["error: too late"]);
    });
}

#[test]
fn a_pool_that_gives_up_on_something_that_is_no_task_says_so() {
    on_current_thread(|| async {
        let (pool, slot) = (impatient(seconds(10)), Slot::default());
        let keep = Arc::clone(&slot);
        // An inner pool that is taken out of its task: the outer one waits for it all the same.
        pool.spawn(async move {
            let mut opened = Box::pin(Pool::open(async |_: Pool| {
                pending::<()>().await;
                Ok(())
            }));
            assert!(crate::support::poll_once(opened.as_mut()).await.is_pending());
            *keep.lock().unwrap() = Some(opened);
        });
        let mut running = Box::pin(pool.clone().run());
        stays_pending(running.as_mut()).await;
        let begin = Instant::now();
        pool.cancel();
        let ended = running.await;
        assert_eq!(begin.elapsed(), seconds(10));
        assert!(slot.lock().unwrap().is_some(), "it is alive");
        assert!(!ended.unwrap_err().is_cancelled());
    });
}
