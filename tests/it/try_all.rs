//! `try_all`: every value, or every error.

use std::future::{Ready, pending, ready};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, shield, try_all};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::{Barrier, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    Alive, Log, a_group_that_is_dropped_is_waited_for, blocked_until_abort, bomb, both, cleanup_of_dropped,
    current_thread, endless_branch, failures, leaves_behind, multi_thread, opened, panic_text, panicking_in_drop,
    panics_in_drop, paused_runtime, quiet_panic, running, stays_pending, turns, until,
};

#[apply(both)]
async fn try_all_in_a_pool_that_is_cancelled_says_once_that_it_was() {
    let opened = Pool::builder().grace(Duration::MAX).open(async |pool: Pool| {
        let begun = Arc::new(AtomicUsize::new(0));
        let part = || {
            let begins = Arc::clone(&begun);
            async move {
                let opened = Pool::builder().grace(Duration::ZERO).open(async move |_: Pool| {
                    begins.fetch_add(1, Ordering::SeqCst);
                    pending::<Result<(), BoxError>>().await
                });
                Ok::<_, BoxError>(opened.await?)
            }
        };
        let all = try_all([part(), part(), part()]);
        until(|| begun.load(Ordering::SeqCst) == 3).await;
        pool.cancel();
        Ok(all.await.unwrap_err().failures().len())
    });
    assert_eq!(opened.await.unwrap(), 1);
}

#[apply(both)]
async fn try_all_yields_the_values_in_order_whoever_finishes_first() {
    let (first_done, second_done) = (LatchEvent::new(), LatchEvent::new());
    let (after_first, after_second) = (first_done.wait_set(), second_done.wait_set());
    let third = async { Ok::<_, BoxError>(3) };
    let second = async move {
        after_first.await;
        second_done.set();
        Ok::<_, BoxError>("two")
    };
    let first = async move {
        after_second.await;
        Ok::<_, BoxError>('1')
    };
    let all = try_all((first, second, third));
    first_done.set();
    assert_eq!(all.await.unwrap(), ('1', "two", 3));
}

#[apply(both)]
async fn try_all_takes_vectors_arrays_and_tuples_of_up_to_eight() {
    fn ok<T>(value: T) -> Ready<io::Result<T>> {
        ready(Ok(value))
    }
    assert_eq!(try_all(vec![ok(1), ok(2)]).await.unwrap(), vec![1, 2]);
    assert_eq!(try_all([ok(1), ok(2)]).await.unwrap(), [1, 2]);
    assert_eq!(try_all((ok(1),)).await.unwrap(), (1,));
    assert_eq!(try_all((ok(1), ok("2"))).await.unwrap(), (1, "2"));
    assert_eq!(try_all((ok(1), ok("2"), ok('3'))).await.unwrap(), (1, "2", '3'));
    assert_eq!(try_all((ok(1), ok("2"), ok('3'), ok(4.0))).await.unwrap(), (1, "2", '3', 4.0));
    let five = (ok(1), ok("2"), ok('3'), ok(4.0), ok(b'5'));
    assert_eq!(try_all(five).await.unwrap(), (1, "2", '3', 4.0, b'5'));
    let six = (ok(1), ok("2"), ok('3'), ok(4.0), ok(b'5'), ok(()));
    assert_eq!(try_all(six).await.unwrap(), (1, "2", '3', 4.0, b'5', ()));
    let seven = (ok(1), ok("2"), ok('3'), ok(4.0), ok(b'5'), ok(()), ok([7]));
    assert_eq!(try_all(seven).await.unwrap(), (1, "2", '3', 4.0, b'5', (), [7]));
    let eight = (ok(1), ok("2"), ok('3'), ok(4.0), ok(b'5'), ok(()), ok([7]), async { Ok(vec![8]) });
    assert_eq!(try_all(eight).await.unwrap(), (1, "2", '3', 4.0, b'5', (), [7], vec![8]));
}

#[test]
fn try_all_without_futures_is_ready_at_the_first_poll_without_a_runtime() {
    let mut none = task::spawn(try_all(Vec::<Ready<io::Result<u8>>>::new()));
    assert!(assert_ready!(none.poll()).unwrap().is_empty());
    let mut none = task::spawn(try_all::<[Ready<io::Result<u8>>; 0]>([]));
    assert_eq!(assert_ready!(none.poll()).unwrap(), []);
}

#[test]
fn try_all_outside_of_a_runtime_panics_naming_the_call() {
    let message = panic_text(|| drop(try_all([ready(io::Result::Ok(1))])));
    let line = line!() - 1;
    assert!(message.starts_with(&format!("`try_all` at {}:{line}:", file!())), "{message}");
    assert!(message.contains("was called outside of a tokio runtime: use it in"), "{message}");
}

#[apply(both)]
async fn try_all_spawns_its_futures_when_it_is_called() {
    let begun = LatchEvent::new();
    let begin = begun.clone();
    let all = try_all([async move {
        begin.set();
        io::Result::Ok(())
    }]);
    begun.wait_set().await;
    all.await.unwrap();
}

#[apply(both)]
async fn try_all_aborts_the_others_at_the_first_error_and_returns_when_they_have_ended() {
    let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(3)));
    let [left, right] = [(); 2].map(|()| endless_branch::<Result<(), &str>>(alive.clone(), begun.clone()));
    let failing = async move {
        begun.wait().await;
        Err::<(), _>("first")
    };
    let error = try_all((left, failing, right)).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first"], "to be aborted is no failure");
    assert!(error.cleanup_failures().is_empty());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn try_all_aborts_the_others_at_the_first_panic() {
    let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
    let other = endless_branch::<io::Result<()>>(alive.clone(), begun.clone());
    let panicking = async move {
        begun.wait().await;
        if true { panic!("first") } else { io::Result::Ok(()) }
    };
    let error = try_all((other, panicking)).await.unwrap_err();
    assert!(error.is_panic());
    assert_eq!(failures(error.failures()), ["panic: first"]);
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn try_all_returns_every_error_the_first_one_first() {
    let (deadline, log) = (Instant::now() + Duration::from_secs(1), Log::default());
    let branch = |number: i32| {
        let log = log.clone();
        async move {
            sleep_until(deadline).await;
            let panics = number == 3;
            log.push(format!("{}: {number}", if panics { "panic" } else { "error" }));
            if panics { panic!("{number}") } else { Err::<(), _>(number.to_string()) }
        }
    };
    let error = try_all([1, 2, 3, 4].map(branch)).await.unwrap_err();
    let mut all = failures(error.failures());
    assert_eq!(all, log.events(), "in the order in which they failed");
    all.sort();
    assert_eq!(all, ["error: 1", "error: 2", "error: 4", "panic: 3"]);
}

#[apply(multi_thread)]
async fn try_all_has_the_error_of_a_branch_that_could_not_be_aborted_any_more_after_the_first() {
    let (blocked, begun, aborted) = blocked_until_abort(Err::<(), _>("second"));
    let first = async {
        until(move || begun.load(Ordering::SeqCst)).await;
        Err::<(), _>("first")
    };
    let error = try_all((blocked, aborted, first)).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "error: second"]);
}

#[apply(both)]
async fn try_all_has_the_panic_of_an_aborted_destructor_after_the_error_that_aborted_it() {
    let begun = Arc::new(Barrier::new(2));
    let aborted = panicking_in_drop::<Result<(), &str>>(begun.clone());
    let failing = async move {
        begun.wait().await;
        Err::<(), _>("first")
    };
    let error = try_all((aborted, failing)).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first", "panic: in drop"]);
    assert_eq!(error.into_first_error(), Some("first"));
}

/// The panic used to unwind out of the call in place of the error, which was lost.
#[apply(both)]
async fn try_all_returns_its_error_although_a_value_that_nobody_gets_panics_as_it_is_dropped() {
    let gates = [(); 2].map(|()| LatchEvent::new());
    let value = |gate: &LatchEvent| {
        let gate = gate.clone();
        async move {
            // Once it is set, this poll is the last: the value cannot be aborted any more.
            gate.set();
            Ok::<_, BoxError>(panics_in_drop())
        }
    };
    let [first, second] = gates.each_ref().map(LatchEvent::wait_set);
    let fails = async move {
        first.await;
        second.await;
        Err::<(), _>(BoxError::from("error"))
    };
    let error = try_all((value(&gates[0]), value(&gates[1]), fails)).await.err().unwrap();
    assert_eq!(failures(error.failures()), ["error: error"]);
    assert_eq!(failures(error.cleanup_failures()), ["panic: in drop"; 2]);
}

#[apply(both)]
async fn try_all_returns_a_cleanup_failure_although_a_value_panics_as_it_is_dropped() {
    let value = async {
        drop(shield(async { quiet_panic("left behind") }));
        Ok::<_, BoxError>(panics_in_drop())
    };
    let error = try_all([value]).await.err().unwrap();
    assert!(error.failures().is_empty());
    assert_eq!(failures(error.cleanup_failures()), ["panic: left behind", "panic: in drop"]);
}

#[apply(both)]
async fn try_all_names_the_line_of_its_call() {
    let line = line!() + 1;
    let error = try_all([ready(Err::<(), _>("failed"))]).await.unwrap_err();
    let task = error.first().unwrap().task();
    assert_eq!((task.spawned_at().file(), task.spawned_at().line()), (file!(), line));
    assert_eq!((task.name(), task.is_body()), (None, false));
}

#[apply(both)]
async fn try_all_returns_what_failed_in_a_pool_of_an_aborted_branch_as_cleanup_failures() {
    let begun = Arc::new(Barrier::new(2));
    let nested = {
        let begun = begun.clone();
        Pool::open(async |pool: Pool| {
            pool.spawn(panicking_in_drop::<()>(begun));
            pending::<Result<(), BoxError>>().await
        })
    };
    let nested = async { nested.await.map_err(BoxError::from) };
    let failing = async move {
        begun.wait().await;
        Err::<(), BoxError>("first".into())
    };
    let error = try_all((nested, failing)).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: first"]);
    assert_eq!(failures(error.cleanup_failures()), ["panic: in drop"]);
}

#[apply(both)]
async fn try_all_fails_when_all_that_failed_is_a_cleanup_failure() {
    let branch = async {
        drop(shield(async { panic!("left behind") }));
        Ok::<_, BoxError>(())
    };
    let error = try_all([branch]).await.unwrap_err();
    assert!(error.first().is_none());
    assert_eq!(failures(error.cleanup_failures()), ["panic: left behind"]);
}

#[apply(both)]
async fn try_all_waits_for_what_its_branches_leave_behind() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let branch = {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            leaves_behind(&gate, &log);
            io::Result::Ok(())
        }
    };
    let mut all = pin!(try_all([branch]));
    stays_pending(all.as_mut()).await;
    gate.set();
    all.await.unwrap();
    assert_eq!(log.events(), ["left behind"]);
}

#[apply(both)]
async fn try_all_in_a_spawned_task_takes_async_blocks_with_boxed_errors() {
    let task = tokio::spawn(async {
        let parse = |text: &'static str| async move { Ok::<i32, BoxError>(text.parse()?) };
        let sum: i32 = try_all(vec![parse("1"), parse("2")]).await.unwrap().into_iter().sum();
        let pair = try_all((parse("3"), async { Ok("four") })).await.unwrap();
        let error = try_all([parse("five")]).await.unwrap_err();
        (sum, pair, failures(error.failures()))
    });
    let failed = vec!["error: invalid digit found in string".to_owned()];
    assert_eq!(task.await.unwrap(), (3, (3, "four"), failed));
}

#[apply(both)]
async fn try_all_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    a_group_that_is_dropped_is_waited_for::<io::Result<()>, _>(try_all).await;
}

#[apply(both)]
async fn try_all_that_is_dropped_reports_the_panics_of_outputs_that_it_has() {
    for polled in [false, true] {
        let has_bombs = |gate| try_all((ready(Ok(panics_in_drop())), ready(Ok(panics_in_drop())), opened(gate)));
        assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"; 2], "polled: {polled}");
        let has_bombs = |gate: LatchEvent| {
            try_all([true, false].map(|waits| {
                let open = gate.wait_set();
                async move {
                    if waits {
                        open.await;
                    }
                    Ok::<_, BoxError>((!waits).then(panics_in_drop))
                }
            }))
        };
        assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"], "polled: {polled}");
    }
}

#[apply(both)]
async fn try_all_that_is_dropped_reports_the_error_of_a_branch() {
    for polled in [false, true] {
        let cleanup = cleanup_of_dropped(polled, |gate| {
            let left = LatchEvent::new();
            let has_left = left.wait_set();
            let branch = async move {
                leaves_behind(&gate, &Log::default());
                left.set();
                Ok::<_, BoxError>(())
            };
            // Not before, or it would have the branch aborted that has left nothing yet.
            let failing = async move {
                has_left.await;
                Err::<(), BoxError>("before the drop".into())
            };
            try_all((branch, failing))
        });
        assert_eq!(cleanup.await, ["error: before the drop"], "polled: {polled}");
    }
}

#[apply(both)]
async fn try_all_that_is_dropped_reports_what_was_left_behind() {
    for polled in [false, true] {
        let cleanup = cleanup_of_dropped(polled, |gate| {
            let left = LatchEvent::new();
            let has_left = left.wait_set();
            let branch = async move {
                drop(shield(async { panic!("left behind") }));
                leaves_behind(&gate, &Log::default());
                left.set();
                Ok::<_, BoxError>(())
            };
            // The second makes sure that the first is not taken for the one that waits: it ends later.
            let second = async move {
                has_left.await;
                Ok(())
            };
            try_all((branch, second))
        });
        assert_eq!(cleanup.await, ["panic: left behind"], "polled: {polled}");
    }
}

#[test]
fn try_all_says_that_its_runtime_has_shut_down() {
    let runtime = paused_runtime();
    let entered = runtime.enter();
    let mut all = task::spawn(try_all([pending::<io::Result<()>>()]));
    drop(entered);
    assert_pending!(all.poll());
    drop(runtime);
    let error = assert_ready!(all.poll()).unwrap_err();
    assert_eq!(failures(error.failures()), ["cancelled"]);
}

#[apply(both)]
async fn try_all_error_passes_through_a_pool() {
    let error = Pool::open(async |_: Pool| {
        try_all([ready(io::Result::Ok(1))]).await?;
        Ok(try_all([ready(Err::<(), _>(io::Error::other("inner")))]).await?)
    })
    .await
    .unwrap_err();
    assert!(error.to_string().ends_with("failed: inner"), "{error}");
}

/// The destructor of a branch is the first failure, and comes after the call has heard of the abort.
#[apply(multi_thread)]
async fn values_of_an_aborted_call_are_dropped_as_those_of_a_failed_one() {
    let (begun, wait) = oneshot::channel();
    let (pool, log) = (Pool::<BoxError>::builder().keep_open(true).build(), Log::default());
    let said = log.clone();
    pool.spawn_blocking(move || {
        let value = || ready(Ok::<_, BoxError>(Some(panics_in_drop())));
        let last = async {
            let _bomb = bomb("of a branch");
            begun.send(()).unwrap();
            pending::<Result<(), BoxError>>().await
        };
        let error = Handle::current().block_on(async { try_all((value(), value(), last)).await }).err().unwrap();
        failures(error.failures()).into_iter().for_each(|text| said.push(text));
        failures(error.cleanup_failures()).into_iter().for_each(|text| said.push(text));
    });
    let run = running(&pool);
    wait.await.unwrap();
    turns(10).await;
    pool.abort();
    run.await.unwrap().unwrap();
    assert_eq!(log.events(), ["panic: of a branch", "panic: in drop", "panic: in drop"]);
}
