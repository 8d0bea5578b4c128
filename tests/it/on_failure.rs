//! `on_failure`: what it decides, what it is asked, and when.

use std::fmt;
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;

use aiodrive::{
    BoxError, ClosingReason, Failure, LatchEvent, OnFailure, Pool, TaskHandle, TaskStopped, cancellation_token,
};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    Alive, Counted, Explosive, LONG, Log, OnDrop, Slot, both, endless, failed, fails, failures, multi_thread, panic_of,
    quiet_panic, running, until, until_running,
};

/// A pool that does the same about every failure.
fn always(what: OnFailure) -> Pool {
    Pool::builder().on_failure(move |_| what).build()
}

// ===== on_failure: what it decides =====

#[apply(both)]
async fn who_passes_on_that_a_task_has_failed_adds_no_failure_whatever_becomes_of_that() {
    for (decision, expected) in [(OnFailure::Collect, &["error: broken"][..]), (OnFailure::Discard, &[])] {
        let pool = always(decision);
        let breaks = pool.spawn_with_handle(async { Err::<(), _>("broken".into()) });
        pool.spawn(async move { Ok(breaks.await?) });
        let failed = pool.run().await.err();
        let failed = failed.map(|error| failures(error.failures())).unwrap_or_default();
        assert_eq!(failed, expected, "{decision:?}");
    }
}

/// Nobody else reports that it has not done what it was to do. The policy of the pool decides, or that of the task.
#[apply(both)]
async fn a_body_that_passes_on_a_discarded_failure_has_failed_itself() {
    for panics in [false, true] {
        for of_task in [false, true] {
            let builder = if of_task { Pool::builder() } else { Pool::builder().on_failure(|_| OnFailure::Discard) };
            let opened = builder.open(async |pool: Pool| {
                let task = pool.build_task();
                let task = if of_task { task.on_failure(OnFailure::Discard) } else { task };
                let breaks = task.spawn_with_handle(async move {
                    if panics { quiet_panic("broken") } else { Err::<(), _>("broken".into()) }
                });
                breaks.await?;
                Ok(())
            });
            let error = opened.await.unwrap_err();
            let [failed] = error.failures() else { panic!("{error:?}; panics: {panics}, of the task: {of_task}") };
            assert!(failed.task().is_body() && !error.is_cancelled(), "{error}");
            let says = if panics { "error: task panicked" } else { "error: task failed" };
            assert_eq!(failures(error.failures()), [says]);
            assert!(error.to_string().starts_with("body failed: task "), "{error}");
        }
    }
}

#[apply(both)]
async fn a_body_that_passes_on_a_failure_that_is_kept_adds_none() {
    for decision in [OnFailure::Collect, OnFailure::Cancel] {
        let opened = Pool::builder().on_failure(move |_| decision).open(async |pool: Pool| {
            pool.spawn_with_handle(fails("broken")).await?;
            Ok(())
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: broken"], "{decision:?}");
        assert!(!error.failures()[0].task().is_body() && !error.is_cancelled(), "{decision:?}: {error}");
    }
}

/// It fails as little as one in a pool without a body, as above.
#[apply(both)]
async fn a_task_that_passes_on_a_discarded_failure_beside_a_body_adds_none() {
    for (decision, expected) in [(OnFailure::Collect, &["error: broken"][..]), (OnFailure::Discard, &[])] {
        let opened = Pool::builder().on_failure(move |_| decision).open(async |pool: Pool| {
            let breaks = pool.spawn_with_handle(async { Err::<(), _>("broken".into()) });
            let passes_on = pool.spawn_with_handle(async move { Ok(breaks.await?) });
            assert!(passes_on.await.is_err(), "{decision:?}");
            assert!(!pool.is_closed(), "{decision:?}");
            Ok(())
        });
        let failed = opened.await.err().map(|error| failures(error.failures())).unwrap_or_default();
        assert_eq!(failed, expected, "{decision:?}");
    }
}

#[apply(both)]
async fn cancel_is_the_default() {
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
}

#[apply(both)]
async fn a_collected_failure_leaves_the_siblings_running_and_is_returned() {
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
}

#[apply(both)]
async fn collected_failures_are_in_order_of_occurrence() {
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
}

#[apply(both)]
async fn discarded_failures_are_forgotten_and_the_body_keeps_its_value() {
    let opened = Pool::builder().on_failure(|_| OnFailure::Discard).open(async |pool: Pool| {
        failed(&pool, "error").await;
        let panics = pool.spawn_with_handle(async { quiet_panic("panic") as Result<(), BoxError> });
        assert_eq!(panics.await, Err(TaskStopped::Panicked));
        assert!(!pool.is_closed());
        Ok("value")
    });
    assert_eq!(opened.await.unwrap(), "value");
}

#[apply(both)]
async fn each_failure_is_decided_by_itself() {
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
}

#[apply(both)]
async fn a_blocking_closure_is_asked_about_as_any_task() {
    let pool = always(OnFailure::Collect);
    pool.spawn_blocking(|| Err("blocking".into()));
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: blocking"]);
    let pool = always(OnFailure::Discard);
    pool.spawn_blocking(|| quiet_panic("blocking") as ());
    pool.run().await.unwrap();
}

#[apply(both)]
async fn a_pool_with_collected_failures_that_is_cancelled_returns_them() {
    let opened = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
        failed(&pool, "broken").await;
        pool.cancel_with("enough");
        pending::<()>().await;
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert!(!error.is_cancelled());
}

#[apply(both)]
async fn failures_while_the_pool_closes_are_decided_too() {
    for (what, expected) in [(OnFailure::Discard, &[][..]), (OnFailure::Collect, &["error: late", "panic: late"])] {
        let pool: Pool = Pool::builder().grace(LONG).on_failure(move |_| what).build();
        let (begun, wait) = oneshot::channel();
        pool.spawn(async move {
            begun.send(()).unwrap();
            cancellation_token().cancelled().await;
            let panics =
                Pool::<BoxError>::current().spawn_with_handle(async { quiet_panic("late") as Result<(), BoxError> });
            failed(&Pool::current(), "late").await;
            assert_eq!(panics.await, Err(TaskStopped::Panicked), "decided: {what:?}");
        });
        let running = running(&pool);
        wait.await.unwrap();
        pool.cancel();
        match running.await.unwrap() {
            Ok(()) => assert!(expected.is_empty()),
            Err(error) => {
                let mut texts = failures(error.failures());
                texts.sort();
                assert_eq!(texts, expected, "decided: {what:?}");
            }
        }
    }
}

#[apply(both)]
async fn a_destructor_that_panics_while_it_is_aborted_is_asked_about() {
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
}

// ===== on_failure: what it is asked =====

#[apply(both)]
async fn the_policy_sees_the_name_the_site_and_the_failure() {
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
}

#[apply(both)]
async fn the_policy_is_asked_about_each_failure_once() {
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
}

#[apply(both)]
async fn a_task_that_fails_and_panics_in_its_destructor_is_asked_about_twice() {
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
}

#[apply(both)]
async fn the_policy_is_not_asked_about_what_is_cancelled() {
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
}

#[apply(both)]
async fn the_policy_is_not_asked_about_the_body() {
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
}

#[apply(both)]
async fn the_policy_is_asked_about_what_a_runtime_cut_off() {
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
    until_running(&pool).await;
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
}

#[apply(both)]
async fn the_failure_of_a_daemon_is_decided_as_any() {
    for (what, expected) in [(OnFailure::Discard, 0), (OnFailure::Collect, 1)] {
        let opened = Pool::builder().on_failure(move |_| what).open(async |pool: Pool| {
            let daemon = pool.build_task().daemon().spawn_with_handle(fails("daemon"));
            assert_eq!(daemon.await, Err(TaskStopped::Failed));
            assert!(!pool.is_closed(), "{what:?} closes the pool");
            Ok(())
        });
        assert_eq!(opened.await.map_or_else(|error| error.failures().len(), |()| 0), expected, "decided: {what:?}");
    }
}

#[apply(both)]
async fn a_nested_pool_has_its_own_policy_and_is_one_failure_of_the_outer() {
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
}

// ===== on_failure: when and where it is called =====

#[apply(both)]
async fn handles_still_say_how_their_task_failed() {
    for what in [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard] {
        for (panics, expected) in [(false, TaskStopped::Failed), (true, TaskStopped::Panicked)] {
            let pool = always(what);
            let handle = pool.spawn_with_handle(async move {
                if panics { quiet_panic("broken") } else { Err::<(), BoxError>("broken".into()) }
            });
            assert_eq!(pool.run().await.is_ok(), what == OnFailure::Discard, "decided: {what:?}, panics: {panics}");
            assert_eq!(handle.await, Err(expected), "decided: {what:?}, panics: {panics}");
        }
    }
}

#[apply(both)]
async fn the_policy_is_called_before_the_handle_is_ready() {
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
}

#[apply(multi_thread)]
async fn the_policy_is_called_before_the_slot_is_given_on() {
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
}

#[apply(multi_thread)]
async fn a_failure_without_grace_gives_its_slot_to_nobody() {
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
}

#[apply(multi_thread)]
async fn policies_of_several_tasks_run_at_the_same_time() {
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
}

#[apply(both)]
async fn a_policy_may_call_its_pool() {
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
}

#[apply(both)]
async fn a_policy_may_cancel_its_pool() {
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
        assert_eq!(failures(error.failures()), expected, "decided: {what:?}");
        assert_eq!(error.cancel_reason(), Some("policy"), "decided: {what:?}");
    }
}

#[apply(both)]
async fn a_policy_that_panics_closes_the_pool_and_is_reported_after_the_failure() {
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
}

#[apply(both)]
async fn a_discarded_error_that_panics_in_its_destructor_closes_the_pool() {
    let alive = Alive::default();
    let pool: Pool<Explosive> = Pool::builder().on_failure(|_| OnFailure::Discard).build();
    let one = alive.one();
    pool.spawn(async move {
        let _one = one;
        pending::<()>().await;
    });
    let handle = pool.build_task().name("culprit").spawn_with_handle(async { Err::<(), _>(Explosive) });
    let error = pool.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: error"]);
    assert_eq!(error.first().unwrap().task().name(), Some("culprit"));
    assert_eq!(alive.count(), 0);
    assert_eq!(handle.await, Err(TaskStopped::Failed));
}

#[apply(both)]
async fn many_discarded_failures_leave_nothing() {
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
}

#[apply(both)]
async fn a_policy_is_dropped_before_its_pool_returns() {
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
}

// ===== who passes a failure on =====

#[apply(both)]
async fn an_essential_task_that_passes_a_failure_on_closes_its_pool() {
    for decision in [OnFailure::Discard, OnFailure::Collect] {
        let pool: Pool = Pool::new();
        let query =
            pool.build_task().on_failure(decision).spawn_with_handle(async { Err::<(), _>("timed out".into()) });
        pool.build_task().name("database").essential().spawn(async move { Ok(query.await?) });
        pool.spawn(pending::<()>());
        let error = pool.run().await.unwrap_err();
        let last = error.failures().last().unwrap();
        assert_eq!((last.task().name(), error.closing_reason()), (Some("database"), &ClosingReason::Failed), "{error}");
    }
}

#[apply(both)]
async fn a_chain_of_tasks_that_pass_a_failure_on_adds_none() {
    for (decision, expected) in [(OnFailure::Collect, &["error: broken"][..]), (OnFailure::Discard, &[])] {
        let pool = always(decision);
        let first = pool.spawn_with_handle(async { Err::<(), _>("broken".into()) });
        let second = pool.spawn_with_handle(async move { Ok(first.await?) });
        let third = pool.spawn_with_handle(async move { Ok(second.await?) });
        let told = pool.clone();
        pool.spawn(async move {
            assert_eq!(third.await, Err(TaskStopped::Failed));
            assert!(!told.is_closed(), "nobody has failed but the first");
        });
        let error = pool.run().await.err();
        let failed = error.map(|error| failures(error.failures())).unwrap_or_default();
        assert_eq!(failed, expected, "{decision:?}");
    }
}

#[apply(both)]
async fn a_body_that_passes_a_collected_failure_on_closes_its_pool() {
    let alive = Alive::default();
    let opened = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
        pool.spawn(endless(&alive));
        pool.spawn_with_handle(async { Err::<(), _>("broken".into()) }).await?;
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!((failures(error.failures()), alive.count()), (vec!["error: broken".to_owned()], 0));
    assert_eq!(*error.closing_reason(), ClosingReason::Failed);
}
