//! Values, cancelling, ids of single tasks.

use std::cell::Cell;
use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use aiodrive::{BoxError, Failure, OnFailure, Pool, TaskHandle, TaskStopped};
use macro_rules_attribute::apply;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{LocalSet, coop, yield_now};
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready_eq, task};

use crate::support::{
    Alive, Log, OnDrop, asked, both, busy, current_thread, multi_thread, poll_once, poll_until, quiet_panic, secs,
    stays_pending, until, with_grace,
};

type Outcome<T = ()> = Result<T, BoxError>;

/// A task that fails when it is allowed to.
async fn fails_after(gate: oneshot::Receiver<()>) -> Outcome<i32> {
    gate.await?;
    Err("broken".into())
}

/// The handle of a task that is waiting for ever, and has begun to.
async fn waiting(pool: &Pool, alive: &Alive) -> TaskHandle<i32> {
    let ((started, wait), one) = (oneshot::channel(), alive.one());
    let handle = pool.spawn_with_handle(async move {
        let _one = one;
        started.send(()).unwrap();
        pending().await
    });
    wait.await.unwrap();
    handle
}

// ===== what a handle gives =====

#[apply(both)]
async fn a_handle_gives_its_value_after_the_pool_has_ended() {
    let handles = Pool::open(async |pool: Pool| {
        Ok([1, 2].map(|value| {
            pool.spawn_with_handle(async move {
                yield_now().await;
                Ok(value)
            })
        }))
    });
    let [first, second] = handles.await.unwrap();
    assert!(first.is_finished() && second.is_finished());
    assert_eq!((first.await, second.await), (Ok(1), Ok(2)));
}

#[apply(both)]
async fn a_handle_tells_nobody_before_the_failure_is_known_to_the_pool() {
    let (open, gate) = oneshot::channel();
    let pool = Pool::<BoxError>::new();
    let handle = pool.spawn_with_handle(fails_after(gate));
    let mut run = task::spawn(pool.clone().run());
    assert_pending!(run.poll());
    assert!(!pool.is_closed());
    open.send(()).unwrap();
    assert_eq!(handle.await, Err(TaskStopped::Failed));
    assert!(pool.is_closed());
    run.await.unwrap_err();
}

#[apply(both)]
async fn a_handle_is_ready_once_its_task_has_been_dropped() {
    Pool::open(async |pool: Pool| {
        for _ in 0..50 {
            let alive = Alive::default();
            let one = alive.one();
            // A future by hand: what an async block holds is dropped in its last poll.
            let held = std::future::poll_fn(move |_| {
                let _one = &one;
                Poll::Ready(Ok(()))
            });
            pool.spawn_with_handle(held).await?;
            assert_eq!(alive.count(), 0, "a value is there although its task is still held");
            let cancelled = waiting(&pool, &alive).await;
            cancelled.cancel();
            assert_eq!((cancelled.await, alive.count()), (Err(TaskStopped::Cancelled), 0));
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn an_async_block_that_is_not_run_gives_no_value() {
    let pool = Pool::<BoxError>::new();
    let planned = pool.spawn_with_handle(async { Ok(1) });
    drop(pool);
    assert!(planned.is_finished() && planned.id().is_none());
    assert_eq!(planned.await, Err(TaskStopped::Cancelled));

    let pool = Pool::<BoxError>::new();
    pool.cancel();
    let refused = pool.spawn_with_handle(async { Ok(1) });
    assert!(refused.is_finished() && refused.id().is_none());
    assert_eq!(refused.await, Err(TaskStopped::Cancelled));
}

// ===== awaiting by reference =====

#[apply(both)]
async fn a_handle_that_loses_a_select_keeps_its_value() {
    let value = Pool::open(async |pool: Pool| {
        let (open, gate) = oneshot::channel::<i32>();
        let mut handle = pool.spawn_with_handle(async { Ok(gate.await?) });
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = &mut handle => unreachable!("its task waits"),
                () = yield_now() => {}
            }
        }
        open.send(6).unwrap();
        Ok(handle.await?)
    });
    assert_eq!(value.await.unwrap(), 6);
}

/// Without the budget of the task that looks, which says `Pending` once it is spent.
#[apply(multi_thread)]
async fn a_handle_that_is_finished_is_ready() {
    Pool::open(async |pool: Pool| {
        for nth in 0..1_000 {
            let handle = pool.spawn_with_handle(async move { Ok(nth) });
            while !handle.is_finished() {
                std::hint::spin_loop();
            }
            assert_ready_eq!(task::spawn(coop::unconstrained(handle)).poll(), Ok(nth));
        }
        Ok(())
    })
    .await
    .unwrap();
}

// ===== dropping a handle =====

#[apply(both)]
async fn a_task_goes_on_without_its_handle_and_the_pool_waits_for_it() {
    let ended = Arc::new(AtomicBool::new(false));
    let (open, gate) = oneshot::channel::<()>();
    let mut opened = task::spawn(Pool::open(async |pool: Pool| {
        let ended = Arc::clone(&ended);
        drop(pool.spawn_with_handle(async move {
            gate.await?;
            ended.store(true, Ordering::SeqCst);
            Ok(())
        }));
        Ok(())
    }));
    assert_pending!(opened.poll());
    open.send(()).unwrap();
    opened.await.unwrap();
    assert!(ended.load(Ordering::SeqCst));
}

#[apply(both)]
async fn a_failure_without_a_handle_is_reported() {
    let pool = Pool::<BoxError>::new();
    drop(pool.spawn_with_handle(async { Err::<i32, _>("unheard".into()) }));
    assert_eq!(pool.run().await.unwrap_err().into_first_error().unwrap().to_string(), "unheard");
}

#[apply(both)]
async fn a_value_that_nobody_takes_is_dropped() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    let (one, two) = (alive.one(), alive.one());
    drop(pool.spawn_with_handle(async { Ok(one) }));
    let kept = pool.spawn_with_handle(async { Ok(two) });
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 1);
    drop(kept);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn the_panic_of_a_value_that_nobody_takes_is_a_failure() {
    let pool = Pool::<BoxError>::new();
    let value = OnDrop::new(|| panic!("value"));
    drop(pool.build_task().name("unheard").spawn_with_handle(async { Ok(value) }));
    // It ends only if that closes the pool.
    pool.spawn(pending::<()>());
    let error = pool.run().await.unwrap_err();
    let failed = error.first().unwrap();
    assert_eq!(failed.task().name(), Some("unheard"));
    let Failure::Panic(payload) = failed.failure() else { panic!("{error:?}") };
    assert_eq!((payload.message(), error.failures().len()), (Some("value"), 1));
}

// ===== cancelling =====

#[apply(both)]
async fn cancelling_a_task_is_no_failure_and_leaves_its_siblings_alone() {
    let sum = Pool::open(async |pool: Pool| {
        let (alive, all) = (Alive::default(), Arc::new(Barrier::new(9)));
        let mut siblings = Vec::new();
        for nth in 0..16 {
            if nth % 2 == 0 {
                let all = Arc::clone(&all);
                siblings.push(pool.spawn_with_handle(async move {
                    all.wait().await;
                    Ok(nth)
                }));
            } else {
                let odd = waiting(&pool, &alive).await;
                odd.cancel();
                assert_eq!(odd.await, Err(TaskStopped::Cancelled));
            }
        }
        assert!(alive.count() == 0 && !pool.is_closed());
        all.wait().await;
        let mut sum = 0;
        for sibling in siblings {
            sum += sibling.await?;
        }
        Ok(sum)
    });
    assert_eq!(sum.await.unwrap(), (0..16).step_by(2).sum());
}

#[apply(both)]
async fn cancelling_again_changes_nothing() {
    Pool::open(async |pool: Pool| {
        let handle = waiting(&pool, &Alive::default()).await;
        (0..3).for_each(|_| handle.cancel());
        let mut handle = handle;
        assert_eq!((&mut handle).await, Err(TaskStopped::Cancelled));
        handle.cancel();
        assert!(handle.is_finished());
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn cancelling_a_task_that_has_ended_keeps_its_value() {
    let pool = Pool::<BoxError>::new();
    let handle = pool.spawn_with_handle(async { Ok(3) });
    pool.run().await.unwrap();
    handle.cancel();
    assert_eq!(handle.await, Ok(3));
}

#[apply(current_thread)]
async fn a_task_that_is_cancelled_before_its_first_poll_is_never_polled() {
    Pool::open(async |pool: Pool| {
        let alive = Alive::default();
        let one = alive.one();
        let handle = pool.spawn_with_handle(async move {
            let _one = one;
            unreachable!("it was cancelled before") as Outcome
        });
        handle.cancel();
        assert_eq!((handle.await, alive.count()), (Err(TaskStopped::Cancelled), 0));
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(current_thread)]
async fn a_planned_task_that_is_cancelled_is_never_polled() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    let one = alive.one();
    let handle = pool.spawn_with_handle(async move {
        let _one = one;
        unreachable!("it was cancelled before the pool ran") as Outcome
    });
    handle.cancel();
    let other = pool.spawn_with_handle(async { Ok(1) });
    pool.run().await.unwrap();
    assert_eq!((handle.await, other.await), (Err(TaskStopped::Cancelled), Ok(1)));
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_busy_task_is_cancelled_at_its_next_await() {
    Pool::open(async |pool: Pool| {
        let alive = Alive::default();
        let one = alive.one();
        let handle = pool.spawn_with_handle(async move {
            let _one = one;
            busy().await;
            Ok(())
        });
        yield_now().await;
        handle.cancel();
        assert_eq!((handle.await, alive.count()), (Err(TaskStopped::Cancelled), 0));
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_task_can_cancel_itself() {
    let (alive, (give, take)) = (Alive::default(), oneshot::channel::<TaskHandle<()>>());
    let pool = Pool::<BoxError>::new();
    let one = alive.one();
    let handle = pool.spawn_with_handle(async move {
        let _one = one;
        take.await?.cancel();
        busy().await;
        Ok(())
    });
    give.send(handle).unwrap();
    pool.run().await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_task_that_ends_in_the_poll_in_which_it_is_cancelled_has_ended_well() {
    let ((give, take), pool) = (oneshot::channel::<Arc<TaskHandle<i32>>>(), Pool::<BoxError>::new());
    let handle = Arc::new(pool.spawn_with_handle(async move {
        take.await?.cancel();
        Ok(5)
    }));
    give.send(Arc::clone(&handle)).unwrap();
    pool.run().await.unwrap();
    assert_eq!(Arc::into_inner(handle).unwrap().await, Ok(5));
}

#[apply(both)]
async fn an_error_in_the_poll_in_which_a_task_is_cancelled_is_a_failure() {
    let ((give, take), pool) = (oneshot::channel::<TaskHandle<i32>>(), Pool::<BoxError>::new());
    let handle = pool.spawn_with_handle(async move {
        take.await?.cancel();
        Err("too late".into())
    });
    give.send(handle).unwrap();
    assert_eq!(pool.run().await.unwrap_err().into_first_error().unwrap().to_string(), "too late");
}

#[apply(both)]
async fn a_destructor_that_panics_in_a_cancelled_task_is_a_failure() {
    let (started, wait) = oneshot::channel();
    let mut ended = None;
    let error = Pool::open(async |pool: Pool| {
        let handle = ended.insert(pool.spawn_with_handle(async move {
            let _panics = OnDrop::new(|| panic!("destructor"));
            started.send(()).unwrap();
            pending::<Outcome>().await
        }));
        wait.await?;
        handle.cancel();
        pending::<Outcome>().await
    });
    let error = error.await.unwrap_err();
    let Some(Failure::Panic(payload)) = error.first().map(|failed| failed.failure()) else { panic!("{error:?}") };
    assert_eq!((payload.message(), error.failures().len()), (Some("destructor"), 1));
    assert_eq!(ended.unwrap().await, Err(TaskStopped::Panicked));
}

#[apply(both)]
async fn cancelling_the_last_task_ends_a_pool_without_a_body() {
    let pool = Pool::<BoxError>::new();
    let handle = pool.spawn_with_handle(pending::<Outcome>());
    let mut run = task::spawn(pool.run());
    assert_pending!(run.poll());
    handle.cancel();
    run.await.unwrap();
    assert_eq!(handle.await, Err(TaskStopped::Cancelled));
}

/// The handle tells of its task, and not of what that leaves behind.
#[apply(both)]
async fn a_handle_is_ready_before_what_its_task_leaves_behind_has_ended() {
    let (alive, told) = (Alive::default(), Cell::new(None));
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let mut opened = Box::pin(Pool::open(async |pool: Pool| {
        let ((started, wait), one) = (oneshot::channel(), alive.one());
        let owner = pool.spawn_with_handle(async {
            Pool::open(async |inner: Pool| {
                inner.spawn_blocking(move || {
                    let _one = one;
                    started.send(()).unwrap();
                    let _ = blocked.recv();
                });
                Ok(())
            })
            .await?;
            Ok(())
        });
        wait.await?;
        owner.cancel();
        told.set(Some((owner.await, alive.count())));
        Ok(())
    }));
    poll_until(opened.as_mut(), || told.get().is_some()).await;
    stays_pending(opened.as_mut()).await;
    assert_eq!(alive.count(), 1);
    drop(release);
    // Not before: nobody is waited for any more if this fails.
    assert_eq!(told.get(), Some((Err(TaskStopped::Cancelled), 1)));
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}

// ===== ids, ends, and how a handle reads =====

#[apply(both)]
async fn the_id_is_the_one_that_the_task_sees() {
    Pool::open(async |pool: Pool| {
        let mut handle = pool.spawn_with_handle(async { Ok(tokio::task::id()) });
        let id = handle.id();
        assert!(id.is_some());
        assert_eq!(Some((&mut handle).await?), id);
        assert_eq!(handle.id(), id);
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_running_task_is_not_finished() {
    Pool::open(async |pool: Pool| {
        let (open, gate) = oneshot::channel::<()>();
        let mut handle = pool.spawn_with_handle(async { Ok(gate.await?) });
        yield_now().await;
        assert!(!handle.is_finished());
        open.send(()).unwrap();
        (&mut handle).await?;
        assert!(handle.is_finished());
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(multi_thread)]
async fn a_task_that_is_cancelled_is_finished_only_when_its_future_is_dropped() {
    Pool::open(async |pool: Pool| {
        let ((dropping, drops), (release, released)) = (oneshot::channel(), std::sync::mpsc::channel::<()>());
        let (began, has_begun) = oneshot::channel();
        let mut handle = pool.spawn_with_handle(async move {
            let _slow = OnDrop::new(move || {
                dropping.send(()).unwrap();
                let _ = released.recv();
            });
            began.send(()).unwrap();
            pending::<Outcome>().await
        });
        has_begun.await?;
        handle.cancel();
        assert!(!handle.is_finished());
        drops.await?;
        assert!(!handle.is_finished());
        assert!(poll_once(Pin::new(&mut handle)).await.is_pending());
        drop(release);
        assert_eq!((&mut handle).await, Err(TaskStopped::Cancelled));
        assert!(handle.is_finished());
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(current_thread)]
async fn a_task_is_finished_in_whatever_way_it_has_ended() {
    let pool = Pool::<BoxError>::new();
    let handles = [
        pool.spawn_with_handle(async { Ok(()) }),
        pool.spawn_with_handle(async { Err("broken".into()) }),
        pool.spawn_with_handle(async { panic!("broken") }),
        pool.spawn_with_handle(pending()),
    ];
    pool.run().await.unwrap_err();
    assert!(handles.iter().all(TaskHandle::is_finished));
    let mut ends = Vec::new();
    for handle in handles {
        ends.push(handle.await);
    }
    use TaskStopped::{Cancelled, Failed, Panicked};
    assert_eq!(ends, [Ok(()), Err(Failed), Err(Panicked), Err(Cancelled)]);
}

#[apply(both)]
async fn debug_shows_the_id_and_whether_the_task_has_ended() {
    let pool = Pool::<BoxError>::new();
    let handle = pool.spawn_with_handle(async { Ok(()) });
    assert_eq!(format!("{handle:?}"), "TaskHandle { id: None, is_finished: false }");
    pool.run().await.unwrap();
    assert_eq!(format!("{handle:?}"), format!("TaskHandle {{ id: {:?}, is_finished: true }}", handle.id()));
    assert!(handle.id().is_some());
}

#[apply(both)]
async fn debug_of_a_handle_needs_no_debug_of_its_value() {
    struct Opaque;
    Pool::open(async |pool: Pool| {
        let (open, gate) = oneshot::channel::<Opaque>();
        let mut handle = pool.spawn_with_handle(async { Ok(gate.await?) });
        yield_now().await;
        let running = format!("TaskHandle {{ id: {:?}, is_finished: false }}", handle.id());
        assert!(handle.id().is_some());
        assert_eq!(format!("{handle:?}"), running);
        assert!(open.send(Opaque).is_ok());
        let Opaque = (&mut handle).await?;
        assert_eq!(format!("{handle:?}"), running.replace("false", "true"));
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_handle_that_is_moved_wakes_only_the_last_who_polled_it() {
    Pool::open(async |pool: Pool| {
        let (open, gate) = oneshot::channel::<i32>();
        let mut handle = pool.spawn_with_handle(async { Ok(gate.await?) });
        let mut first = task::spawn(());
        first.enter(|cx, _| assert_pending!(Pin::new(&mut handle).poll(cx)));
        let mut second = task::spawn(handle);
        assert_pending!(second.poll());
        open.send(9).unwrap();
        until(|| second.is_woken()).await;
        assert!(!first.is_woken());
        assert_ready_eq!(second.poll(), Ok(9));
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(both)]
async fn a_handle_can_be_moved_to_and_awaited_by_another_task() {
    let value = Pool::open(async |pool: Pool| {
        let first = pool.spawn_with_handle(async {
            yield_now().await;
            Ok(20)
        });
        let second = pool.spawn_with_handle(async { Ok(first.await? + 1) });
        Ok(tokio::spawn(second).await??)
    });
    assert_eq!(value.await.unwrap(), 21);
}

// ===== blocking tasks =====

fn one_blocking_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap()
}

#[apply(both)]
async fn a_blocking_task_that_fails_or_panics_fails_the_pool() {
    let pool = Pool::<BoxError>::new();
    pool.spawn_blocking(|| Err("broken".into()));
    assert_eq!(pool.run().await.unwrap_err().into_first_error().unwrap().to_string(), "broken");

    let pool = Pool::<BoxError>::new();
    pool.spawn_blocking(|| panic!("broken"));
    assert!(pool.run().await.unwrap_err().is_panic());
}

#[test]
fn a_blocking_task_that_is_aborted_before_it_starts_is_dropped_unrun() {
    one_blocking_thread().block_on(async {
        let (alive, (open, gate)) = (Alive::default(), oneshot::channel::<()>());
        let occupant = tokio::task::spawn_blocking(move || gate.blocking_recv());
        let mut opened = task::spawn(Pool::open(async |pool: Pool| {
            let one = alive.one();
            pool.spawn_blocking(move || {
                let _one = one;
                unreachable!("the only thread is occupied until it is aborted");
            });
            Err::<(), _>("enough".into())
        }));
        // It is dropped by the thread that would have run it.
        assert_pending!(opened.poll());
        open.send(()).unwrap();
        let error = opened.await.unwrap_err();
        assert_eq!((error.failures().len(), alive.count()), (1, 0));
        assert_eq!(error.into_first_error().unwrap().to_string(), "enough");
        occupant.await.unwrap().unwrap();
    });
}

#[test]
fn a_destructor_that_panics_in_a_blocking_task_that_never_ran_is_a_failure() {
    one_blocking_thread().block_on(async {
        let (open, gate) = oneshot::channel::<()>();
        let occupant = tokio::task::spawn_blocking(move || gate.blocking_recv());
        let pool = Pool::<BoxError>::new();
        let panics = OnDrop::new(|| panic!("destructor"));
        pool.spawn_blocking(move || {
            let _panics = panics;
            unreachable!("the only thread is occupied until it is aborted");
        });
        let mut run = task::spawn(pool.clone().run());
        assert_pending!(run.poll());
        pool.cancel();
        assert_pending!(run.poll());
        open.send(()).unwrap();
        let error = run.await.unwrap_err();
        let Some(Failure::Panic(payload)) = error.first().map(|failed| failed.failure()) else { panic!("{error:?}") };
        assert_eq!((payload.message(), error.failures().len()), (Some("destructor"), 1));
        occupant.await.unwrap().unwrap();
    });
}

#[apply(both)]
async fn the_handle_of_a_blocking_closure_gives_its_value() {
    let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Discard).build();
    let here = std::thread::current().id();
    let value = pool.spawn_blocking_with_handle(move || Ok(std::thread::current().id() != here));
    let fails = pool.spawn_blocking_with_handle(|| Err::<(), _>("broken".into()));
    let panics = pool.spawn_blocking_with_handle(|| quiet_panic("broken") as Outcome);
    pool.run().await.unwrap();
    assert_eq!(value.await, Ok(true), "it ran on a thread of the runtime");
    assert_eq!((fails.await, panics.await), (Err(TaskStopped::Failed), Err(TaskStopped::Panicked)));
}

/// One that has begun at once, and one that has waited for its turn.
#[apply(both)]
async fn a_blocking_closure_that_has_begun_runs_to_its_end_although_it_is_cancelled() {
    let alive = Alive::default();
    for waits in [false, true] {
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            let ((started, wait), (open, gate)) = (oneshot::channel(), oneshot::channel::<()>());
            let (leave, occupied) = oneshot::channel::<()>();
            if waits {
                pool.spawn(async { drop(occupied.await) });
            }
            let one = alive.one();
            let mut handle = pool.spawn_blocking_with_handle(move || {
                let _one = one;
                started.send(()).unwrap();
                gate.blocking_recv()?;
                Ok(7)
            });
            drop(leave);
            wait.await?;
            handle.cancel();
            stays_pending(Pin::new(&mut handle)).await;
            assert_eq!((handle.is_finished(), alive.count()), (false, 1), "waits: {waits}");
            open.send(()).unwrap();
            assert_eq!((handle.await, alive.count()), (Ok(7), 0), "waits: {waits}");
            Ok(())
        });
        opened.await.unwrap();
    }
}

#[apply(both)]
async fn a_blocking_closure_that_waits_for_its_turn_is_dropped_when_it_is_cancelled() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let (alive, (leave, occupied)) = (Alive::default(), oneshot::channel::<()>());
        let one = alive.one();
        pool.spawn(async { drop(occupied.await) });
        let handle = pool.spawn_blocking_with_handle(move || {
            let _one = one;
            unreachable!("the only slot is taken until it is cancelled") as Outcome
        });
        handle.cancel();
        assert_eq!((handle.await, alive.count()), (Err(TaskStopped::Cancelled), 0));
        drop(leave);
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn a_closure_that_waits_for_its_turn_keeps_the_id_of_the_task_that_waited() {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        let mut at_once = pool.spawn_blocking_with_handle(|| Ok(tokio::task::id()));
        let id = at_once.id();
        assert_eq!(Some((&mut at_once).await?), id, "it had no need to wait");

        let (leave, occupied) = oneshot::channel::<()>();
        pool.ready().await;
        pool.spawn(async { drop(occupied.await) });
        let mut waits = pool.spawn_blocking_with_handle(|| Ok(tokio::task::id()));
        let id = waits.id();
        assert!(id.is_some());
        drop(leave);
        assert_ne!(Some((&mut waits).await?), id, "another task runs the closure");
        assert_eq!(waits.id(), id);
        Ok(())
    });
    opened.await.unwrap();
}

// ===== tasks of this thread =====

#[apply(both)]
async fn the_handle_of_a_local_task_gives_its_value() {
    let opened = Pool::builder().on_failure(|_| OnFailure::Discard).open(async |pool: Pool| {
        let (here, kept) = (std::thread::current().id(), Rc::new(7));
        let mut value = pool.spawn_local_with_handle(async move {
            yield_now().await;
            assert_eq!(std::thread::current().id(), here);
            Ok((*kept, tokio::task::id()))
        });
        let id = value.id();
        let (seven, seen) = (&mut value).await?;
        assert_eq!((seven, Some(seen)), (7, id));
        let fails = pool.spawn_local_with_handle(async { Err::<(), _>("broken".into()) });
        let panics = pool.spawn_local_with_handle(async { quiet_panic("broken") as Outcome });
        assert_eq!((fails.await, panics.await), (Err(TaskStopped::Failed), Err(TaskStopped::Panicked)));
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
}

#[apply(both)]
async fn a_local_task_is_cancelled_by_its_handle() {
    let opened = Pool::open(async |pool: Pool| {
        let (alive, (started, wait)) = (Alive::default(), oneshot::channel());
        let one = Rc::new(alive.one());
        let handle = pool.spawn_local_with_handle(async move {
            let _one = one;
            started.send(()).unwrap();
            pending::<Outcome>().await
        });
        wait.await?;
        handle.cancel();
        assert_eq!((handle.await, alive.count()), (Err(TaskStopped::Cancelled), 0));
        assert!(!pool.is_closed());
        Ok(())
    });
    LocalSet::new().run_until(opened).await.unwrap();
}

// ===== whoever is woken by a handle =====

/// Notes, when it is woken, how many values are alive.
struct Counts(Alive, Mutex<Vec<usize>>);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0.count());
    }
}

/// A value that is lost to a panic in the destructor of its future.
#[apply(both)]
async fn a_lost_value_is_gone_when_its_handle_wakes_somebody() {
    let (pool, alive) = (Pool::<BoxError>::new(), Alive::default());
    let (counts, value) = (Arc::new(Counts(alive.clone(), Mutex::default())), alive.one());
    let panics = OnDrop::new(|| panic!("captured"));
    let mut value = Some(value);
    let mut handle = pool.spawn_with_handle(std::future::poll_fn(move |_| {
        let _captured = &panics;
        Poll::Ready(Ok(value.take().unwrap()))
    }));
    let waker = Waker::from(Arc::clone(&counts));
    assert!(Pin::new(&mut handle).poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(pool.run().await.unwrap_err().is_panic());
    assert_eq!(*counts.1.lock().unwrap(), [0]);
    assert_eq!(handle.await.err(), Some(TaskStopped::Panicked));
}

/// Looks at a handle when that wakes it.
#[derive(Default)]
struct Looks {
    at: Mutex<Option<TaskHandle<i32>>>,
    finished: Mutex<Vec<bool>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let finished = self.at.lock().unwrap().as_ref().map(TaskHandle::is_finished);
        self.finished.lock().unwrap().extend(finished);
    }
}

/// The value is there a moment before the task has ended.
#[apply(both)]
async fn a_handle_that_wakes_somebody_is_finished() {
    let (open, gate) = oneshot::channel::<i32>();
    let (pool, looks) = (Pool::<BoxError>::new(), Arc::new(Looks::default()));
    let mut handle = pool.spawn_with_handle(async { Ok(gate.await?) });
    let waker = Waker::from(Arc::clone(&looks));
    assert!(Pin::new(&mut handle).poll(&mut Context::from_waker(&waker)).is_pending());
    *looks.at.lock().unwrap() = Some(handle);
    open.send(8).unwrap();
    pool.run().await.unwrap();
    assert_eq!(*looks.finished.lock().unwrap(), [true]);
    // It has the waker, which is what has it.
    let handle = looks.at.lock().unwrap().take();
    drop(handle);
}

#[apply(current_thread)]
async fn a_handle_leaves_alone_what_its_task_has_left_behind() {
    let log = Log::default();
    let opened = Pool::open(async |pool: Pool| {
        let said = log.clone();
        let task = pool.spawn_with_handle(async move {
            let inner: Pool = with_grace(secs(10)).build();
            inner.spawn(async move {
                asked().await;
                sleep(secs(3)).await;
                said.push("flushed");
            });
            assert!(tokio::time::timeout(secs(1), inner.run()).await.is_err());
            Ok(())
        });
        sleep(secs(2)).await;
        assert!(task.is_finished());
        task.cancel();
        Ok(task.await?)
    });
    opened.await.unwrap();
    assert_eq!(log.events(), ["flushed"]);
}
