//! `wait_all`: how each has ended.

use std::convert::Infallible;
use std::future::{Future, Ready, pending, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use aiodrive::{BoxError, Failure, LatchEvent, OnFailure, Pool, PoolError, TaskError, TaskStopped, try_all, wait_all};
use macro_rules_attribute::apply;
use tokio::sync::Barrier;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    Alive, Log, OnDrop, a_group_that_is_dropped_is_waited_for, blocked_until_abort, both, cleanup_of,
    cleanup_of_dropped, current_thread, failures, leaves_behind, multi_thread, opened, panic_text, panicking_in_drop,
    panics_in_drop, paused_runtime, poll_once, quiet_panic, stays_pending, until,
};

/// What a pool reports whose body drops the future of a function after its tasks have ended.
async fn reported_for_dropped<F>(call: impl FnOnce() -> F) -> Vec<String> {
    let opened: Result<(), PoolError> = Pool::open(async |_: Pool| {
        let called = call();
        yield_now().await;
        drop(called);
        Ok(())
    })
    .await;
    let error = opened.unwrap_err();
    assert!(error.failures().is_empty(), "{error}");
    let named = |failed: &TaskError| failed.task().to_string().starts_with("branch 0 of wait_all");
    assert!(error.cleanup_failures().iter().all(named), "{error}");
    failures(error.cleanup_failures())
}

// ===== functions that are dropped, and their Debug forms =====

#[apply(both)]
async fn hundreds_of_branches_of_a_call_that_is_dropped_are_aborted() {
    let alive = Alive::default();
    let opened = Pool::open(async |_: Pool| {
        let branches = (0..600).map(|_| {
            let counted = alive.one();
            async move {
                let _counted = counted;
                pending::<()>().await
            }
        });
        let mut all = Box::pin(wait_all(branches.collect::<Vec<_>>()));
        assert!(poll_once(all.as_mut()).await.is_pending());
        drop(all);
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn what_failed_in_a_wait_all_that_is_dropped_is_reported() {
    let fails = || async { Err::<(), BoxError>("lost".into()) };
    assert_eq!(reported_for_dropped(|| wait_all(vec![fails()])).await, ["error: lost"]);
    assert_eq!(reported_for_dropped(|| wait_all([fails()])).await, ["error: lost"]);
    assert_eq!(reported_for_dropped(|| wait_all((fails(),))).await, ["error: lost"]);
}

/// A hundred branches that end in an order of their own, each after the one before it, and the log of that.
fn shuffled() -> (Vec<impl Future<Output = Result<usize, BoxError>> + Send>, Log) {
    let (turns, log) = ((0..=100).map(|_| LatchEvent::new()).collect::<Vec<_>>(), Log::default());
    turns[0].set();
    let branch = |index: usize| {
        let turn = index * 37 % 100;
        let (mine, next, log) = (turns[turn].clone(), turns[turn + 1].clone(), log.clone());
        async move {
            mine.wait_set().await;
            log.push(turn.to_string());
            next.set();
            Ok(index)
        }
    };
    ((0..100).map(branch).collect(), log)
}

// ===== try_all =====

#[apply(both)]
async fn wait_all_that_is_dropped_reports_the_panics_of_outputs_that_it_has() {
    for polled in [false, true] {
        let value = || ready(Ok::<_, BoxError>(panics_in_drop()));
        let has_bombs = |gate| wait_all((value(), value(), opened(gate)));
        assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"; 2], "polled: {polled}");
    }
}

// ===== wait_all =====

#[apply(both)]
async fn wait_all_stops_nobody() {
    let gate = LatchEvent::new();
    let opened = gate.wait_set();
    let slow = async move {
        opened.await;
        Ok::<_, BoxError>("finished")
    };
    let failing = async { Err::<(), BoxError>("failed".into()) };
    let panicking = async { if true { panic!("panicked") } else { Ok::<(), BoxError>(()) } };
    let mut all = pin!(wait_all((failing, slow, panicking)));
    stays_pending(all.as_mut()).await;
    gate.set();
    let (failed, finished, panicked) = all.await;
    assert_eq!(finished.unwrap(), "finished");
    assert_eq!(failures(&[failed.unwrap_err(), panicked.unwrap_err()]), ["error: failed", "panic: panicked"]);
}

#[apply(both)]
async fn wait_all_has_a_place_for_everyone_in_order() {
    let branch = |index: usize| async move {
        match index % 3 {
            0 => Ok(index),
            1 => Err(format!("failed {index}")),
            _ => panic!("panicked {index}"),
        }
    };
    let outcomes = wait_all((0..30).map(branch).collect::<Vec<_>>()).await;
    assert_eq!(outcomes.len(), 30);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match (index % 3, outcome) {
            (0, Ok(value)) => assert_eq!(value, index),
            (1, Err(error)) => assert_eq!(failures(&[error]), [format!("error: failed {index}")]),
            (2, Err(error)) => assert_eq!(failures(&[error]), [format!("panic: panicked {index}")]),
            (_, outcome) => panic!("{index}: {outcome:?}"),
        }
    }
}

#[apply(both)]
async fn wait_all_and_try_all_of_a_hundred_are_in_order_whoever_finishes_first() {
    let (turns, indices) = ((0..100).map(|turn: usize| turn.to_string()), 0..100_usize);
    let (branches, log) = shuffled();
    let waited = wait_all(branches).await.into_iter().map(Result::unwrap);
    assert!(waited.eq(indices.clone()) && log.events().into_iter().eq(turns.clone()));
    let (branches, log) = shuffled();
    let tried = try_all(branches).await.unwrap();
    assert!(tried.into_iter().eq(indices) && log.events().into_iter().eq(turns));
}

#[apply(both)]
async fn wait_all_takes_vectors_arrays_and_tuples_of_up_to_eight() {
    fn ok<T>(value: T) -> Ready<io::Result<T>> {
        ready(Ok(value))
    }
    fn err<E>(error: E) -> Ready<Result<(), E>> {
        ready(Err(error))
    }
    assert_eq!(wait_all(vec![ok(1), ok(2)]).await.into_iter().map(Result::unwrap).sum::<i32>(), 3);
    assert_eq!(wait_all([ok(1), ok(2)]).await.map(Result::unwrap), [1, 2]);
    let (a,) = wait_all((ok(1),)).await;
    assert_eq!(a.unwrap(), 1);
    let (a, b) = wait_all((ok('1'), err("2"))).await;
    assert!(a.is_ok() && b.is_err());
    let (a, _, c) = wait_all((ok('1'), err("2"), ok(3))).await;
    assert!(a.is_ok() && c.is_ok());
    let (a, .., d) = wait_all((ok('1'), err("2"), ok(3), err(BoxError::from("4")))).await;
    assert!(a.is_ok() && d.is_err());
    let (.., e) = wait_all((ok('1'), err("2"), ok(3), err(BoxError::from("4")), ok("5"))).await;
    assert_eq!(e.unwrap(), "5");
    let (.., f) = wait_all((ok('1'), err("2"), ok(3), ok(4), ok("5"), err(io::Error::other("6")))).await;
    assert_eq!(failures(&[f.unwrap_err()]), ["error: 6"]);
    let (.., b, _, _, _, _, g) = wait_all((ok(1), err("2"), ok(3), ok(4), ok(5), ok(6), ok(vec![7]))).await;
    assert_eq!((failures(&[b.unwrap_err()]), g.unwrap()), (vec!["error: 2".to_owned()], vec![7]));
    let (a, .., h) =
        wait_all((ok(1), err("2"), ok(3), ok(4), ok(5), ok(6), ok(7), async { Ok::<_, BoxError>(8) })).await;
    assert_eq!((a.unwrap(), h.unwrap()), (1, 8));
}

#[apply(both)]
async fn wait_all_takes_futures_without_a_value() {
    let branch = |panics: bool| async move {
        if panics {
            panic!("panicked")
        }
    };
    let [ended, panicked]: [Result<(), TaskError<Infallible>>; 2] = wait_all([branch(false), branch(true)]).await;
    assert!(ended.is_ok());
    assert!(matches!(panicked.unwrap_err().into_failure(), Failure::Panic(_)));
    let (nothing, value) = wait_all((branch(false), ready(io::Result::Ok(1)))).await;
    assert_eq!((nothing.unwrap(), value.unwrap()), ((), 1));
    assert!(wait_all(vec![branch(false)]).await[0].is_ok());
}

#[test]
fn wait_all_without_futures_is_ready_at_the_first_poll_without_a_runtime() {
    let mut none = task::spawn(wait_all(Vec::<Ready<io::Result<u8>>>::new()));
    assert!(assert_ready!(none.poll()).is_empty());
}

#[test]
fn wait_all_outside_of_a_runtime_panics_naming_the_call() {
    let message = panic_text(|| drop(wait_all([ready(io::Result::Ok(1))])));
    let line = line!() - 1;
    assert!(message.starts_with(&format!("`wait_all` at {}:{line}:", file!())), "{message}");
    assert!(message.contains("was called outside of a tokio runtime: use it in"), "{message}");
}

#[apply(both)]
async fn wait_all_of_task_handles_keeps_the_place_of_a_cancelled_one() {
    let all = Pool::open(async |pool: Pool| {
        let cancelled = pool.spawn_with_handle(pending::<Result<i32, BoxError>>());
        let finished = pool.spawn_with_handle(async { Ok(1) });
        until(|| finished.is_finished()).await;
        cancelled.cancel();
        Ok(wait_all([finished, cancelled, pool.spawn_with_handle(async { Ok(3) })]).await)
    })
    .await
    .unwrap();
    let [first, second, third] = all;
    assert_eq!((first.unwrap(), third.unwrap()), (1, 3));
    assert!(matches!(second.unwrap_err().into_failure(), Failure::Error(TaskStopped::Cancelled)));
}

#[apply(both)]
async fn wait_all_of_task_handles_that_are_all_ready_says_how_each_has_ended() {
    let pool = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect).build();
    let handles = [
        pool.spawn_with_handle(async { Err("error".into()) }),
        pool.spawn_with_handle(async { Ok(2) }),
        pool.spawn_with_handle(async { quiet_panic("panic") }),
    ];
    assert_eq!(pool.run().await.unwrap_err().failures().len(), 2);
    assert!(handles.iter().all(|handle| handle.is_finished()));
    let stopped = |outcome: Result<i32, TaskError<TaskStopped>>| match outcome.map_err(TaskError::into_failure) {
        Err(Failure::Error(stopped)) => Err(stopped),
        outcome => Ok(outcome.unwrap()),
    };
    let all = wait_all(handles).await.map(stopped);
    assert_eq!(all, [Err(TaskStopped::Failed), Ok(2), Err(TaskStopped::Panicked)]);
}

#[apply(both)]
async fn wait_all_names_the_line_of_its_call() {
    let line = line!() + 1;
    let [failed] = wait_all([ready(Err::<(), _>("failed"))]).await;
    let failed = failed.unwrap_err();
    assert_eq!((failed.task().spawned_at().file(), failed.task().spawned_at().line()), (file!(), line));
}

#[apply(both)]
async fn wait_all_waits_for_what_its_branches_leave_behind() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let branch = {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            leaves_behind(&gate, &log);
            Err::<(), _>("failed")
        }
    };
    let mut all = pin!(wait_all([branch]));
    stays_pending(all.as_mut()).await;
    gate.set();
    assert!(all.await[0].is_err());
    assert_eq!(log.events(), ["left behind"]);
}

#[apply(both)]
async fn wait_all_reports_the_panic_of_a_destructor_after_the_value_as_a_cleanup_failure() {
    let cleanup = cleanup_of(async || {
        let panics_in_drop = OnDrop::new(|| panic!("in drop"));
        let mut polled = Some(1);
        let branch = poll_fn(move |_| {
            let _captured = &panics_in_drop;
            Poll::Ready(io::Result::Ok(polled.take()))
        });
        let [outcome] = wait_all([branch]).await;
        assert_eq!(outcome.unwrap(), Some(1));
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(both)]
async fn wait_all_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    a_group_that_is_dropped_is_waited_for::<io::Result<()>, _>(wait_all).await;
}

#[apply(both)]
async fn wait_all_that_is_dropped_reports_the_failures_of_before_the_drop() {
    type Branch = Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>>;
    fn branches(gate: LatchEvent) -> [Branch; 2] {
        let waiting = async move {
            gate.wait_set().await;
            Ok(())
        };
        [Box::pin(waiting), Box::pin(async { Err("before the drop") })]
    }
    fn of_tuple(gate: LatchEvent) -> impl Future {
        let [waiting, failing] = branches(gate);
        wait_all((waiting, failing))
    }
    for polled in [false, true] {
        let tuple = cleanup_of_dropped(polled, of_tuple).await;
        let array = cleanup_of_dropped(polled, |gate| wait_all(branches(gate))).await;
        let vector = cleanup_of_dropped(polled, |gate| wait_all(Vec::from(branches(gate)))).await;
        assert_eq!([tuple, array, vector], [["error: before the drop"]; 3], "polled: {polled}");
    }
}

#[apply(current_thread)]
async fn wait_all_wakes_its_caller_when_the_last_has_ended_and_not_before() {
    let gates = [(); 3].map(|()| LatchEvent::new());
    let branches = gates.clone().map(|gate| async move {
        gate.wait_set().await;
        Ok::<_, BoxError>(())
    });
    let mut all = task::spawn(wait_all(branches));
    assert_pending!(all.poll());
    for gate in &gates {
        assert!(!all.is_woken(), "woken before the last");
        gate.set();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    assert!(all.is_woken(), "not woken by the last");
    assert!(assert_ready!(all.poll()).iter().all(Result::is_ok));
}

#[apply(multi_thread)]
async fn wait_all_that_is_dropped_reports_the_panic_of_an_output_that_comes_later() {
    let cleanup = cleanup_of(async || {
        let (blocked, begun, aborted) = blocked_until_abort(panics_in_drop());
        let all = wait_all((async { io::Result::Ok(blocked.await) }, async { io::Result::Ok(aborted.await) }));
        until(|| begun.load(Ordering::SeqCst)).await;
        drop(all);
    });
    assert_eq!(cleanup.await, ["panic: in drop"]);
}

#[apply(multi_thread)]
async fn wait_all_that_is_dropped_reports_the_error_that_comes_later() {
    let cleanup = cleanup_of(async || {
        let (blocked, begun, aborted) = blocked_until_abort(Err::<(), _>("after the drop"));
        let all = wait_all((blocked, aborted));
        until(|| begun.load(Ordering::SeqCst)).await;
        drop(all);
    });
    assert_eq!(cleanup.await, ["error: after the drop"]);
}

/// To free the memory of thousands of tasks takes longer than a turn should.
#[apply(current_thread)]
async fn wait_all_of_many_takes_several_turns_at_the_end() {
    let ended = Arc::new(AtomicUsize::new(0));
    let branch = |_| {
        let ended = ended.clone();
        async move { io::Result::Ok(ended.fetch_add(1, Ordering::SeqCst)) }
    };
    let mut all = pin!(wait_all((0..3_000).map(branch).collect::<Vec<_>>()));
    assert!(poll_once(all.as_mut()).await.is_pending());
    until(|| ended.load(Ordering::SeqCst) == 3_000).await;
    let mut turns = 0;
    while poll_once(all.as_mut()).await.is_pending() {
        turns += 1;
    }
    assert!(turns > 10, "{turns}");
}

#[apply(current_thread)]
async fn wait_all_of_none_leaves_the_others_their_turn() {
    let neighbour = tokio::spawn(async {});
    for _ in 0..1_000 {
        assert!(wait_all(Vec::<Ready<io::Result<()>>>::new()).await.is_empty());
    }
    assert!(neighbour.is_finished());
}

#[apply(both)]
async fn wait_all_that_is_dropped_reports_the_panics_of_destructors() {
    let cleanup = cleanup_of(async || {
        let begun = Arc::new(Barrier::new(2));
        let all = wait_all([panicking_in_drop::<io::Result<()>>(begun.clone())]);
        begun.wait().await;
        drop(all);
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(both)]
async fn wait_all_in_a_spawned_task_takes_async_blocks_with_boxed_errors() {
    let task = tokio::spawn(async {
        let parse = |text: &'static str| async move { Ok::<i32, BoxError>(text.parse()?) };
        let [one, none] = wait_all([parse("1"), parse("none")]).await;
        let (two, error) = wait_all((parse("2"), async { Err::<(), BoxError>("three".into()) })).await;
        one.unwrap() + two.unwrap() + i32::from(none.is_err()) + i32::from(error.is_err())
    });
    assert_eq!(task.await.unwrap(), 5);
}

#[test]
fn wait_all_says_in_its_place_who_was_cut_off_by_the_runtime() {
    let runtime = paused_runtime();
    let entered = runtime.enter();
    let mut all = task::spawn(wait_all((async { io::Result::Ok(1) }, pending::<io::Result<()>>())));
    drop(entered);
    runtime.block_on(async { stays_pending(pin!(poll_fn(|_| all.poll()))).await });
    drop(runtime);
    let (finished, cut_off) = assert_ready!(all.poll());
    assert_eq!(finished.unwrap(), 1);
    assert!(matches!(cut_off.unwrap_err().failure(), Failure::Cancelled));
}
