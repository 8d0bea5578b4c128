//! `race`, `try_all`, `wait_all`, `timeout`, `timeout_at`, `prime` and `cancel_task`.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, Pending, Ready, pending, poll_fn, ready};
use std::io;
use std::marker::PhantomPinned;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use aiodrive::{
    BoxError, Failure, LatchEvent, OnFailure, Pool, PoolError, TaskError, TaskStopped, cancel_task, prime, race,
    shield, timeout, timeout_at, try_all, wait_all,
};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::time::{Instant, advance, sleep, sleep_until};
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};

use crate::support::{
    Alive, Log, OnDrop, busy, failures, on_both, on_current_thread, on_multi_thread, panic_of, panic_text, poll_once,
    poll_until, quiet_panic, stays_pending, until, watched,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A branch that says when it has begun, and ends only when it is aborted.
async fn endless<T>(alive: Alive, begun: Arc<Barrier>) -> T {
    let _slow = alive.slow();
    begun.wait().await;
    busy().await;
    unreachable!("it yields for ever")
}

/// A branch that panics in its destructor, and ends only when it is aborted.
async fn panicking_in_drop<T>(begun: Arc<Barrier>) -> T {
    let _bomb = OnDrop::new(|| panic!("in drop"));
    begun.wait().await;
    pending().await
}

type Bomb = OnDrop<fn()>;

/// An output that panics when it is dropped.
fn bomb() -> Bomb {
    OnDrop::new(|| panic!("in drop"))
}

/// A branch that blocks its thread, once it has begun, until its neighbour has been aborted, and then has an output.
fn blocked_until_abort<T: Send>(
    output: T,
) -> (impl Future<Output = T> + Send, Arc<AtomicBool>, impl Future<Output = T> + Send) {
    let (guard, gone) = std::sync::mpsc::channel::<()>();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let blocked = async move {
        begins.store(true, Ordering::SeqCst);
        assert!(gone.recv().is_err(), "nothing is sent");
        output
    };
    let aborted = async move {
        let _guard = guard;
        pending().await
    };
    (blocked, begun, aborted)
}

/// A branch that leaves something behind that ends only with the gate.
fn leaves_behind(gate: &LatchEvent, log: &Log) {
    let (opened, log) = (gate.wait_set(), log.clone());
    drop(shield(async move {
        opened.await;
        log.push("left behind");
    }));
}

/// What is reported as cleanup failures of a pool with this body, in which nothing else fails.
async fn cleanup_of<F: Future<Output = ()>>(body: impl FnOnce() -> F) -> Vec<String> {
    let opened: Result<(), PoolError> = Pool::open(|_| async {
        body().await;
        Ok(())
    })
    .await;
    let Err(error) = opened else { return Vec::new() };
    assert!(error.failures().is_empty(), "{error}");
    failures(error.cleanup_failures())
}

// ===== race =====

#[test]
fn race_yields_the_index_and_the_output_of_the_first_to_finish() {
    on_both(|| async {
        let (sender, receiver) = oneshot::channel();
        let mut winner = pin!(race((pending(), async { receiver.await.unwrap() }, pending())));
        stays_pending(winner.as_mut()).await;
        sender.send("second").unwrap();
        assert_eq!(winner.await, (1, "second"));
    });
}

#[test]
fn race_takes_vectors_arrays_and_tuples_of_up_to_eight() {
    on_both(|| async {
        assert_eq!(race(vec![ready('v')]).await, (0, 'v'));
        assert_eq!(race([ready('a')]).await, (0, 'a'));
        assert_eq!(race((ready(1),)).await, (0, 1));
        assert_eq!(race((pending(), ready(2))).await, (1, 2));
        assert_eq!(race((pending(), pending(), ready(3))).await, (2, 3));
        assert_eq!(race((pending(), pending(), pending(), ready(4))).await, (3, 4));
        assert_eq!(race((pending(), pending(), pending(), pending(), ready(5))).await, (4, 5));
        let six = (pending(), pending(), pending(), pending(), pending(), ready(6));
        assert_eq!(race(six).await, (5, 6));
        let seven = (pending(), pending(), pending(), pending(), pending(), pending(), ready(7));
        assert_eq!(race(seven).await, (6, 7));
        let eight = (pending(), pending(), pending(), pending(), pending(), pending(), pending(), async { 8 });
        assert_eq!(race(eight).await, (7, 8));
    });
}

#[test]
fn race_losers_have_ended_when_it_returns() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(4)));
        let losers = [(); 3].map(|()| endless(alive.clone(), begun.clone()));
        let [first, second, third] = losers;
        let winner = async move {
            begun.wait().await;
            "won"
        };
        assert_eq!(race((first, second, winner, third)).await, (2, "won"));
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn race_waits_for_what_its_losers_leave_behind() {
    on_both(|| async {
        let (gate, log, begun) = (LatchEvent::new(), Log::default(), Arc::new(Barrier::new(2)));
        let winner = {
            let begun = begun.clone();
            async move { _ = begun.wait().await.is_leader() }
        };
        let loser = {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                let nested: Result<(), PoolError> = Pool::open(async |_| {
                    leaves_behind(&gate, &log);
                    begun.wait().await;
                    pending().await
                })
                .await;
                nested.unwrap();
            }
        };
        let mut racing = pin!(race((winner, loser)));
        stays_pending(racing.as_mut()).await;
        gate.set();
        assert_eq!(racing.await.0, 0);
        assert_eq!(log.events(), ["left behind"]);
    });
}

#[test]
fn race_is_won_by_an_error_as_by_a_value() {
    on_both(|| async {
        let failing = async { Err::<(), _>("lost") };
        assert_eq!(race((failing, pending())).await, (0, Err("lost")));
    });
}

#[test]
fn race_resumes_the_panic_of_the_winner_when_the_losers_have_ended() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
        let loser = endless::<()>(alive.clone(), begun.clone());
        let winner = async move {
            begun.wait().await;
            panic!("the winner")
        };
        assert_eq!(panic_of(race((loser, winner))).await, "the winner");
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn race_reports_the_panic_of_a_destructor_of_a_loser_as_a_cleanup_failure() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let begun = Arc::new(Barrier::new(2));
            let loser = panicking_in_drop(begun.clone());
            let winner = async move { _ = begun.wait().await.is_leader() };
            assert_eq!(race((loser, winner)).await.0, 1);
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn race_reports_the_panic_of_the_output_of_a_loser_as_a_cleanup_failure() {
    on_current_thread(|| async {
        let cleanup = cleanup_of(async || {
            let output = async |bomb: Option<Bomb>| bomb;
            assert_eq!(race([output(None), output(Some(bomb()))]).await.0, 0);
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn race_reports_the_panic_of_the_output_of_a_loser_that_cannot_be_aborted_any_more() {
    on_multi_thread(|| async {
        let cleanup = cleanup_of(async || {
            let (blocked, begun, aborted) = blocked_until_abort(bomb());
            let winner = async {
                until(move || begun.load(Ordering::SeqCst)).await;
                None
            };
            let (blocked, aborted) = (async { Some(blocked.await) }, async { Some(aborted.await) });
            assert_eq!(race((blocked, aborted, winner)).await.0, 2);
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn race_reports_the_panic_of_a_loser_that_finished_as_well_as_a_cleanup_failure() {
    on_current_thread(|| async {
        let cleanup = cleanup_of(async || {
            let losing = || -> i32 { panic!("second") };
            assert_eq!(race((ready(1), async move { losing() })).await, (0, 1));
        })
        .await;
        assert_eq!(cleanup, ["panic: second"]);
    });
}

#[test]
fn race_drops_the_error_of_a_loser_that_finished_as_well() {
    on_current_thread(|| async {
        let alive = Alive::default();
        let counted = alive.one();
        let cleanup = cleanup_of(async || {
            assert_eq!(race((ready(Ok(1)), async { Err(counted) })).await.1.ok(), Some(1));
            assert_eq!(alive.count(), 0);
        });
        assert!(cleanup.await.is_empty(), "an error is but a value to a race");
    });
}

#[test]
fn race_names_the_line_of_its_call_in_a_cleanup_failure() {
    on_current_thread(|| async {
        let line = Cell::new(0);
        let error = Pool::open(async |_: Pool| {
            line.set(line!() + 1);
            assert_eq!(race((ready(1), async { panic!("second") })).await, (0, 1));
            Ok(())
        })
        .await
        .unwrap_err();
        let at = error.cleanup_failures()[0].task().spawned_at();
        assert_eq!((at.file(), at.line()), (file!(), line.get()));
    });
}

#[test]
fn race_tie_goes_to_the_lowest_index() {
    on_current_thread(|| async {
        let deadline = Instant::now() + Duration::from_secs(1);
        for count in [2, 3, 17, 100] {
            let branch = |index| async move {
                sleep_until(deadline).await;
                index
            };
            assert_eq!(race((0..count).map(branch).collect::<Vec<_>>()).await, (0, 0), "{count} branches");
        }
    });
}

#[test]
fn race_tie_goes_to_the_lowest_index_also_if_that_finished_last() {
    on_current_thread(|| async {
        let gates = [(); 3].map(|()| LatchEvent::new());
        let branch = |(index, gate): (usize, &LatchEvent)| {
            let open = gate.wait_set();
            async move {
                open.await;
                index
            }
        };
        let mut racing = task::spawn(race(gates.iter().enumerate().map(branch).collect::<Vec<_>>()));
        assert_pending!(racing.poll());
        for gate in gates.iter().rev() {
            gate.set();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        assert_ready_eq!(racing.poll(), (0, 0));
    });
}

/// To abort thousands of tasks takes longer than a turn should, and so does freeing them.
#[test]
fn race_of_many_leaves_the_others_their_turn_as_it_aborts_the_losers() {
    on_current_thread(|| async {
        let alive = Alive::default();
        let branch = |index| {
            let one = alive.one();
            async move {
                let _one = one;
                if index > 0 {
                    pending::<()>().await;
                }
            }
        };
        let mut racing = task::spawn(race((0..3_000).map(branch).collect::<Vec<_>>()));
        assert_pending!(racing.poll());
        until(|| racing.is_woken()).await;
        let mut turns = 0;
        while racing.poll().is_pending() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(alive.count(), 0);
        assert!(turns > 20, "{turns}");
    });
}

#[test]
fn race_without_futures_panics() {
    let message = "`race` was called without a future to wait for";
    assert_eq!(panic_text(|| drop(race(Vec::<Ready<()>>::new()))), message);
    assert_eq!(panic_text(|| drop(race::<[Ready<()>; 0]>([]))), message);
    on_both(|| async { assert_eq!(panic_text(|| drop(race(Vec::<Ready<()>>::new()))), message) });
}

#[test]
fn race_outside_of_a_runtime_panics_naming_the_call() {
    let message = panic_text(|| drop(race([ready(1)])));
    let line = line!() - 1;
    assert!(message.starts_with(&format!("`race` at {}:{line}:", file!())), "{message}");
    assert!(message.contains("was called outside of a tokio runtime: use it in"), "{message}");
}

#[test]
fn race_spawns_its_futures_when_it_is_called() {
    on_both(|| async {
        let begun = LatchEvent::new();
        let begin = begun.clone();
        let racing = race([async move { begin.set() }]);
        begun.wait_set().await;
        assert_eq!(racing.await.0, 0);
    });
}

#[test]
fn race_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    for polled in [false, true] {
        on_both(async || {
            let alive = Alive::default();
            let cleanup = cleanup_of(async || {
                let begun = Arc::new(Barrier::new(3));
                let branches = [(); 2].map(|()| endless::<()>(alive.clone(), begun.clone()));
                let mut racing = race(branches);
                if polled {
                    assert!(poll_once(pin!(&mut racing)).await.is_pending());
                }
                begun.wait().await;
                drop(racing);
            })
            .await;
            assert!(cleanup.is_empty(), "to be aborted is no failure: {cleanup:?}");
            assert_eq!(alive.count(), 0, "polled: {polled}");
        });
    }
}

#[test]
fn race_that_is_dropped_reports_the_panics_of_its_branches() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let begun = Arc::new(Barrier::new(2));
            let racing = race([panicking_in_drop::<()>(begun.clone())]);
            begun.wait().await;
            drop(racing);
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn race_that_is_dropped_while_its_losers_end_reports_the_panic_of_the_winner() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let (gate, begun) = (LatchEvent::new(), Arc::new(Barrier::new(2)));
            let loser = {
                let (gate, begun) = (gate.clone(), begun.clone());
                async move {
                    leaves_behind(&gate, &Log::default());
                    begun.wait().await;
                    pending::<()>().await
                }
            };
            let winner = async move {
                begun.wait().await;
                panic!("the winner")
            };
            let before = Handle::current().metrics().num_alive_tasks();
            let mut racing = Box::pin(race((loser, winner)));
            // Until only what was left behind is alive.
            while Handle::current().metrics().num_alive_tasks() > before + 1 {
                stays_pending(racing.as_mut()).await;
            }
            drop(racing);
            gate.set();
        })
        .await;
        assert_eq!(cleanup, ["panic: the winner"]);
    });
}

/// Nor does a second cancel hurry it.
#[test]
fn race_that_is_cancelled_while_its_losers_end_is_waited_for_by_the_enclosing_pool() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let (begun, decided) = (Arc::new(Barrier::new(2)), LatchEvent::new());
        let mut opened = Box::pin(cleanup_of(async || {
            let pool = Pool::<BoxError>::current();
            let loser = {
                let (gate, log, begun) = (gate.clone(), log.clone(), begun.clone());
                async move {
                    leaves_behind(&gate, &log);
                    begun.wait().await;
                    pending::<()>().await
                }
            };
            let (meets, decides) = (begun.clone(), decided.clone());
            let winner = async move {
                meets.wait().await;
                decides.set();
            };
            let racing = pool.spawn_with_handle(async { Ok(race((loser, winner)).await) });
            decided.wait_set().await;
            // The task that races, and what was left behind: the race is decided, and its loser is gone.
            until(|| Handle::current().metrics().num_alive_tasks() == 2).await;
            racing.cancel();
            racing.cancel();
            assert_eq!(racing.await, Err(TaskStopped::Cancelled));
            log.push("cancelled");
        }));
        poll_until(opened.as_mut(), || !log.events().is_empty()).await;
        stays_pending(opened.as_mut()).await;
        gate.set();
        assert!(opened.await.is_empty());
        assert_eq!(log.events(), ["cancelled", "left behind"]);
    });
}

#[test]
fn race_loser_takes_nothing_once_it_has_returned() {
    on_both(|| async {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let receive = |()| {
            let receiver = receiver.clone();
            async move { receiver.lock().await.recv().await }
        };
        sender.send(1).unwrap();
        assert_eq!(race([(), ()].map(receive)).await.1, Some(1));
        sender.send(2).unwrap();
        assert_eq!(receive(()).await, Some(2));
    });
}

#[test]
fn race_can_be_awaited_by_reference() {
    on_both(|| async {
        let gate = LatchEvent::new();
        let mut racing = race([gate.wait_set()]);
        tokio::select! {
            biased;
            _ = &mut racing => unreachable!("the gate is closed"),
            () = ready(()) => {}
        }
        gate.set();
        assert_eq!(racing.await.0, 0);
    });
}

#[test]
fn race_against_the_request_to_stop_ends_the_work() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), LatchEvent::new());
        let opened = Pool::<BoxError>::builder().grace(Duration::MAX).open(async |pool: Pool| {
            let (own, counts, begins, counted) = (pool.clone(), alive.clone(), begun.clone(), alive.one());
            let stopped = pool.spawn_with_handle(async move {
                let work = async move {
                    let _counted = counted;
                    begins.set();
                    busy().await;
                };
                let (winner, ()) = race((work, async move { own.cancelled().await })).await;
                Ok((winner, counts.count()))
            });
            begun.wait_set().await;
            pool.cancel();
            Ok(stopped.await?)
        });
        assert_eq!(opened.await.unwrap(), (1, 0));
    });
}

#[test]
fn race_whose_runtime_has_shut_down_panics() {
    let runtime = runtime();
    let entered = runtime.enter();
    let mut racing = task::spawn(race([pending::<()>()]));
    drop(entered);
    assert_pending!(racing.poll());
    drop(runtime);
    assert!(racing.is_woken());
    let message = panic_text(|| racing.poll());
    assert!(message.contains("no future of a `race` could finish"), "{message}");
}

#[test]
fn race_is_not_won_by_a_destructor_that_panics_as_the_runtime_shuts_down() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let gone = runtime();
            let entered = gone.enter();
            let bomb = OnDrop::new(|| quiet_panic("in drop"));
            let racing = race([async move {
                let _bomb = bomb;
                pending::<()>().await
            }]);
            drop(entered);
            std::thread::scope(|scope| _ = scope.spawn(|| drop(gone)));
            let message = panic_of(racing).await;
            assert!(message.contains("no future of a `race` could finish"), "{message}");
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn functions_say_in_their_debug_text_what_they_are() {
    on_current_thread(async || {
        let mut racing = race([ready(())]);
        assert_eq!(format!("{racing:?}"), "RaceFuture { decided: false }");
        while poll_once(Pin::new(&mut racing)).await.is_pending() {
            tokio::task::yield_now().await;
        }
        assert_eq!(format!("{racing:?}"), "RaceFuture { decided: true }");
        let (one, all) = (try_all([ready(io::Result::Ok(()))]), wait_all([ready(io::Result::Ok(()))]));
        assert_eq!(format!("{one:?}"), "TryAllFuture { failed: false }");
        assert_eq!(format!("{all:?}"), "WaitAllFuture { .. }");
    });
}

// ===== try_all =====

#[test]
fn try_all_yields_the_values_in_order_whoever_finishes_first() {
    on_both(|| async {
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
    });
}

#[test]
fn try_all_takes_vectors_arrays_and_tuples_of_up_to_eight() {
    fn ok<T>(value: T) -> Ready<io::Result<T>> {
        ready(Ok(value))
    }
    on_both(|| async {
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
    });
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

#[test]
fn try_all_spawns_its_futures_when_it_is_called() {
    on_both(|| async {
        let begun = LatchEvent::new();
        let begin = begun.clone();
        let all = try_all([async move {
            begin.set();
            io::Result::Ok(())
        }]);
        begun.wait_set().await;
        all.await.unwrap();
    });
}

#[test]
fn try_all_aborts_the_others_at_the_first_error_and_returns_when_they_have_ended() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(3)));
        let [left, right] = [(); 2].map(|()| endless::<Result<(), &str>>(alive.clone(), begun.clone()));
        let failing = async move {
            begun.wait().await;
            Err::<(), _>("first")
        };
        let error = try_all((left, failing, right)).await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: first"], "to be aborted is no failure");
        assert!(error.cleanup_failures().is_empty());
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn try_all_aborts_the_others_at_the_first_panic() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
        let other = endless::<io::Result<()>>(alive.clone(), begun.clone());
        let panicking = async move {
            begun.wait().await;
            if true { panic!("first") } else { io::Result::Ok(()) }
        };
        let error = try_all((other, panicking)).await.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(failures(error.failures()), ["panic: first"]);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn try_all_returns_every_error_the_first_one_first() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn try_all_has_the_error_of_a_branch_that_could_not_be_aborted_any_more_after_the_first() {
    on_multi_thread(|| async {
        let (blocked, begun, aborted) = blocked_until_abort(Err::<(), _>("second"));
        let first = async {
            until(move || begun.load(Ordering::SeqCst)).await;
            Err::<(), _>("first")
        };
        let error = try_all((blocked, aborted, first)).await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: first", "error: second"]);
    });
}

#[test]
fn try_all_has_the_panic_of_an_aborted_destructor_after_the_error_that_aborted_it() {
    on_both(|| async {
        let begun = Arc::new(Barrier::new(2));
        let aborted = panicking_in_drop::<Result<(), &str>>(begun.clone());
        let failing = async move {
            begun.wait().await;
            Err::<(), _>("first")
        };
        let error = try_all((aborted, failing)).await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: first", "panic: in drop"]);
        assert_eq!(error.into_first_error(), Some("first"));
    });
}

/// The panic used to unwind out of the call in place of the error, which was lost.
#[test]
fn try_all_returns_its_error_although_a_value_that_nobody_gets_panics_as_it_is_dropped() {
    on_both(|| async {
        let gates = [(); 2].map(|()| LatchEvent::new());
        let value = |gate: &LatchEvent| {
            let gate = gate.clone();
            async move {
                // Once it is set, this poll is the last: the value cannot be aborted any more.
                gate.set();
                Ok::<_, BoxError>(bomb())
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
    });
}

#[test]
fn try_all_returns_a_cleanup_failure_although_a_value_panics_as_it_is_dropped() {
    on_both(|| async {
        let value = async {
            drop(shield(async { quiet_panic("left behind") }));
            Ok::<_, BoxError>(bomb())
        };
        let error = try_all([value]).await.err().unwrap();
        assert!(error.failures().is_empty());
        assert_eq!(failures(error.cleanup_failures()), ["panic: left behind", "panic: in drop"]);
    });
}

#[test]
fn try_all_names_the_line_of_its_call() {
    on_both(|| async {
        let line = line!() + 1;
        let error = try_all([ready(Err::<(), _>("failed"))]).await.unwrap_err();
        let task = error.first().unwrap().task();
        assert_eq!((task.spawned_at().file(), task.spawned_at().line()), (file!(), line));
        assert_eq!((task.name(), task.is_body()), (None, false));
    });
}

#[test]
fn try_all_returns_what_failed_in_a_pool_of_an_aborted_branch_as_cleanup_failures() {
    on_both(|| async {
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
    });
}

#[test]
fn try_all_fails_when_all_that_failed_is_a_cleanup_failure() {
    on_both(|| async {
        let branch = async {
            drop(shield(async { panic!("left behind") }));
            Ok::<_, BoxError>(())
        };
        let error = try_all([branch]).await.unwrap_err();
        assert!(error.first().is_none());
        assert_eq!(failures(error.cleanup_failures()), ["panic: left behind"]);
    });
}

#[test]
fn try_all_waits_for_what_its_branches_leave_behind() {
    on_both(|| async {
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
    });
}

#[test]
fn try_all_in_a_spawned_task_takes_async_blocks_with_boxed_errors() {
    on_both(|| async {
        let task = tokio::spawn(async {
            let parse = |text: &'static str| async move { Ok::<i32, BoxError>(text.parse()?) };
            let sum: i32 = try_all(vec![parse("1"), parse("2")]).await.unwrap().into_iter().sum();
            let pair = try_all((parse("3"), async { Ok("four") })).await.unwrap();
            let error = try_all([parse("five")]).await.unwrap_err();
            (sum, pair, failures(error.failures()))
        });
        let failed = vec!["error: invalid digit found in string".to_owned()];
        assert_eq!(task.await.unwrap(), (3, (3, "four"), failed));
    });
}

#[test]
fn try_all_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    for polled in [false, true] {
        on_both(async || {
            let alive = Alive::default();
            let cleanup = cleanup_of(async || {
                let begun = Arc::new(Barrier::new(3));
                let mut all = try_all([(); 2].map(|()| endless::<io::Result<()>>(alive.clone(), begun.clone())));
                if polled {
                    assert!(poll_once(pin!(&mut all)).await.is_pending());
                }
                begun.wait().await;
                drop(all);
            })
            .await;
            assert!(cleanup.is_empty(), "to be aborted is no failure: {cleanup:?}");
            assert_eq!(alive.count(), 0, "polled: {polled}");
        });
    }
}

/// Makes a group that fails, and drops it after polling it or not.
async fn drop_group<F: Future>(polled: bool, group: impl FnOnce(LatchEvent) -> F) {
    let gate = LatchEvent::new();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    // Those of a group before this one are counted for a moment longer than they live.
    until(|| tasks() == 0).await;
    let mut group = Box::pin(group(gate.clone()));
    if polled {
        stays_pending(group.as_mut()).await;
    }
    // What fails has ended then, and what remains is the branch that waits for the gate.
    until(|| tasks() <= 1).await;
    drop(group);
    gate.set();
}

/// What is reported by a pool in which that is done.
async fn cleanup_of_dropped<F: Future>(polled: bool, group: impl FnOnce(LatchEvent) -> F) -> Vec<String> {
    cleanup_of(async || drop_group(polled, group).await).await
}

/// The output is there already when the future that would have yielded it is dropped.
#[test]
fn race_that_is_dropped_reports_the_panic_of_an_output_that_it_has() {
    for polled in [false, true] {
        on_both(async || {
            let cleanup = cleanup_of(async || {
                let (gate, left) = (LatchEvent::new(), LatchEvent::new());
                let tasks = || Handle::current().metrics().num_alive_tasks();
                until(|| tasks() == 0).await;
                let (has_left, opened) = (left.wait_set(), gate.clone());
                let winner = async move {
                    leaves_behind(&opened, &Log::default());
                    left.set();
                    bomb()
                };
                let mut racing = Box::pin(race([winner]));
                if polled {
                    stays_pending(racing.as_mut()).await;
                }
                has_left.await;
                // Only what was left behind.
                until(|| tasks() == 1).await;
                drop(racing);
                gate.set();
            });
            assert_eq!(cleanup.await, ["panic: in drop"], "polled: {polled}");
        });
    }
}

#[test]
fn try_all_that_is_dropped_reports_the_panics_of_outputs_that_it_has() {
    for polled in [false, true] {
        on_both(async || {
            let has_bombs = |gate| try_all((ready(Ok(bomb())), ready(Ok(bomb())), opened(gate)));
            assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"; 2], "polled: {polled}");
            let has_bombs = |gate: LatchEvent| {
                try_all([true, false].map(|waits| {
                    let open = gate.wait_set();
                    async move {
                        if waits {
                            open.await;
                        }
                        Ok::<_, BoxError>((!waits).then(bomb))
                    }
                }))
            };
            assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"], "polled: {polled}");
        });
    }
}

#[test]
fn wait_all_that_is_dropped_reports_the_panics_of_outputs_that_it_has() {
    for polled in [false, true] {
        on_both(async || {
            let value = || ready(Ok::<_, BoxError>(bomb()));
            let has_bombs = |gate| wait_all((value(), value(), opened(gate)));
            assert_eq!(cleanup_of_dropped(polled, has_bombs).await, ["panic: in drop"; 2], "polled: {polled}");
        });
    }
}

#[test]
fn outputs_that_panic_as_a_function_is_dropped_go_no_further_outside_of_a_pool() {
    let value = || ready(Ok::<_, &str>(bomb()));
    for polled in [false, true] {
        on_both(async || {
            drop_group(polled, |gate| try_all((value(), value(), opened(gate)))).await;
            drop_group(polled, |gate| wait_all((value(), value(), opened(gate)))).await;
        });
    }
}

#[test]
fn try_all_that_is_dropped_reports_the_error_of_a_branch() {
    for polled in [false, true] {
        on_both(async || {
            let cleanup = cleanup_of_dropped(polled, |gate| {
                let left = async move {
                    leaves_behind(&gate, &Log::default());
                    Ok::<_, BoxError>(())
                };
                try_all((left, async { Err::<(), BoxError>("before the drop".into()) }))
            });
            assert_eq!(cleanup.await, ["error: before the drop"], "polled: {polled}");
        });
    }
}

#[test]
fn try_all_that_is_dropped_reports_what_was_left_behind() {
    for polled in [false, true] {
        on_both(async || {
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
        });
    }
}

#[test]
fn try_all_says_that_its_runtime_has_shut_down() {
    let runtime = runtime();
    let entered = runtime.enter();
    let mut all = task::spawn(try_all([pending::<io::Result<()>>()]));
    drop(entered);
    assert_pending!(all.poll());
    drop(runtime);
    let error = assert_ready!(all.poll()).unwrap_err();
    assert_eq!(failures(error.failures()), ["cancelled"]);
}

#[test]
fn try_all_error_passes_through_a_pool() {
    on_both(|| async {
        let error = Pool::open(async |_: Pool| {
            try_all([ready(io::Result::Ok(1))]).await?;
            Ok(try_all([ready(Err::<(), _>(io::Error::other("inner")))]).await?)
        })
        .await
        .unwrap_err();
        assert!(error.to_string().ends_with("failed: inner"), "{error}");
    });
}

// ===== wait_all =====

#[test]
fn wait_all_stops_nobody() {
    on_both(|| async {
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
    });
}

#[test]
fn wait_all_has_a_place_for_everyone_in_order() {
    on_both(|| async {
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
    });
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

#[test]
fn wait_all_and_try_all_of_a_hundred_are_in_order_whoever_finishes_first() {
    on_both(|| async {
        let (turns, indices) = ((0..100).map(|turn: usize| turn.to_string()), 0..100_usize);
        let (branches, log) = shuffled();
        let waited = wait_all(branches).await.into_iter().map(Result::unwrap);
        assert!(waited.eq(indices.clone()) && log.events().into_iter().eq(turns.clone()));
        let (branches, log) = shuffled();
        let tried = try_all(branches).await.unwrap();
        assert!(tried.into_iter().eq(indices) && log.events().into_iter().eq(turns));
    });
}

#[test]
fn wait_all_takes_vectors_arrays_and_tuples_of_up_to_eight() {
    fn ok<T>(value: T) -> Ready<io::Result<T>> {
        ready(Ok(value))
    }
    fn err<E>(error: E) -> Ready<Result<(), E>> {
        ready(Err(error))
    }
    on_both(|| async {
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
    });
}

#[test]
fn wait_all_takes_futures_without_a_value() {
    on_both(|| async {
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
    });
}

/// `Unpin` was a bound on the values, and on the errors of `wait_all`.
#[test]
fn values_and_errors_need_not_be_unpin() {
    #[derive(Debug)]
    struct Fixed(PhantomPinned);

    impl From<Fixed> for BoxError {
        fn from(_: Fixed) -> Self {
            "fixed".into()
        }
    }

    fn fixed(fails: bool) -> Result<Fixed, Fixed> {
        let fixed = Fixed(PhantomPinned);
        if fails { Err(fixed) } else { Ok(fixed) }
    }

    on_both(|| async {
        assert!(race([async { Fixed(PhantomPinned) }]).await.0 == 0);
        assert!(try_all([async { fixed(false) }]).await.is_ok());
        assert!(try_all((async { fixed(false) }, async { fixed(true) })).await.is_err());
        let (value, error) = wait_all((async { fixed(false) }, async { fixed(true) })).await;
        assert!(value.is_ok() && error.is_err());
    });
}

#[test]
fn functions_polled_after_they_were_ready_say_so() {
    on_both(|| async {
        async fn poll_again<F: Future + Unpin>(mut future: F) -> String {
            drop((&mut future).await);
            panic_of(async move { drop(future.await) }).await
        }
        let value = || ready(io::Result::Ok(1));
        for (function, message) in [
            ("race", poll_again(race([value()])).await),
            ("try_all", poll_again(try_all([value()])).await),
            ("wait_all", poll_again(wait_all([value()])).await),
            ("shield", poll_again(shield(value())).await),
        ] {
            assert!(message.starts_with(&format!("`{function}`")), "{message}");
            assert!(message.ends_with("was polled after it was ready"), "{message}");
        }
    });
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

#[test]
fn wait_all_of_task_handles_keeps_the_place_of_a_cancelled_one() {
    on_both(|| async {
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
    });
}

#[test]
fn wait_all_of_task_handles_that_are_all_ready_says_how_each_has_ended() {
    on_both(|| async {
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
    });
}

#[test]
fn wait_all_names_the_line_of_its_call() {
    on_both(|| async {
        let line = line!() + 1;
        let [failed] = wait_all([ready(Err::<(), _>("failed"))]).await;
        let failed = failed.unwrap_err();
        assert_eq!((failed.task().spawned_at().file(), failed.task().spawned_at().line()), (file!(), line));
    });
}

#[test]
fn wait_all_waits_for_what_its_branches_leave_behind() {
    on_both(|| async {
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
    });
}

#[test]
fn wait_all_reports_the_panic_of_a_destructor_after_the_value_as_a_cleanup_failure() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let bomb = OnDrop::new(|| panic!("in drop"));
            let mut polled = Some(1);
            let branch = poll_fn(move |_| {
                let _captured = &bomb;
                Poll::Ready(io::Result::Ok(polled.take()))
            });
            let [outcome] = wait_all([branch]).await;
            assert_eq!(outcome.unwrap(), Some(1));
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn wait_all_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    for polled in [false, true] {
        on_both(async || {
            let alive = Alive::default();
            let cleanup = cleanup_of(async || {
                let begun = Arc::new(Barrier::new(3));
                let mut all = wait_all([(); 2].map(|()| endless::<io::Result<()>>(alive.clone(), begun.clone())));
                if polled {
                    assert!(poll_once(pin!(&mut all)).await.is_pending());
                }
                begun.wait().await;
                drop(all);
            })
            .await;
            assert!(cleanup.is_empty(), "to be aborted is no failure: {cleanup:?}");
            assert_eq!(alive.count(), 0, "polled: {polled}");
        });
    }
}

#[test]
fn wait_all_that_is_dropped_reports_the_failures_of_before_the_drop() {
    for polled in [false, true] {
        on_both(async || {
            let cleanup = cleanup_of_dropped(polled, |gate| {
                let waiting = async move {
                    gate.wait_set().await;
                    Ok::<_, BoxError>(())
                };
                wait_all((waiting, async { Err::<(), _>("before the drop") }))
            });
            assert_eq!(cleanup.await, ["error: before the drop"], "polled: {polled}");
        });
    }
}

#[test]
fn wait_all_of_a_vector_or_an_array_that_is_dropped_reports_the_failures_of_before_the_drop() {
    type Branch = Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>>;
    fn branches(gate: LatchEvent) -> [Branch; 2] {
        let waiting = async move {
            gate.wait_set().await;
            Ok(())
        };
        [Box::pin(waiting), Box::pin(async { Err("before the drop") })]
    }
    on_both(async || {
        let of_array = cleanup_of_dropped(true, |gate| wait_all(branches(gate)));
        assert_eq!(of_array.await, ["error: before the drop"]);
        let of_vector = cleanup_of_dropped(true, |gate| wait_all(Vec::from(branches(gate))));
        assert_eq!(of_vector.await, ["error: before the drop"]);
    });
}

#[test]
fn wait_all_wakes_its_caller_when_the_last_has_ended_and_not_before() {
    on_current_thread(async || {
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
    });
}

#[test]
fn wait_all_that_is_dropped_reports_the_panic_of_an_output_that_comes_later() {
    on_multi_thread(|| async {
        let cleanup = cleanup_of(async || {
            let (blocked, begun, aborted) = blocked_until_abort(bomb());
            let all = wait_all((async { io::Result::Ok(blocked.await) }, async { io::Result::Ok(aborted.await) }));
            until(|| begun.load(Ordering::SeqCst)).await;
            drop(all);
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn wait_all_that_is_dropped_reports_the_error_that_comes_later() {
    on_multi_thread(|| async {
        let cleanup = cleanup_of(async || {
            let (blocked, begun, aborted) = blocked_until_abort(Err::<(), _>("after the drop"));
            let all = wait_all((blocked, aborted));
            until(|| begun.load(Ordering::SeqCst)).await;
            drop(all);
        });
        assert_eq!(cleanup.await, ["error: after the drop"]);
    });
}

/// To free the memory of thousands of tasks takes longer than a turn should.
#[test]
fn wait_all_of_many_takes_several_turns_at_the_end() {
    on_current_thread(|| async {
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
    });
}

#[test]
fn wait_all_of_none_leaves_the_others_their_turn() {
    on_current_thread(|| async {
        let neighbour = tokio::spawn(async {});
        for _ in 0..1_000 {
            assert!(wait_all(Vec::<Ready<io::Result<()>>>::new()).await.is_empty());
        }
        assert!(neighbour.is_finished());
    });
}

#[test]
fn wait_all_that_is_dropped_reports_the_panics_of_destructors() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let begun = Arc::new(Barrier::new(2));
            let all = wait_all([panicking_in_drop::<io::Result<()>>(begun.clone())]);
            begun.wait().await;
            drop(all);
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn wait_all_in_a_spawned_task_takes_async_blocks_with_boxed_errors() {
    on_both(|| async {
        let task = tokio::spawn(async {
            let parse = |text: &'static str| async move { Ok::<i32, BoxError>(text.parse()?) };
            let [one, none] = wait_all([parse("1"), parse("none")]).await;
            let (two, error) = wait_all((parse("2"), async { Err::<(), BoxError>("three".into()) })).await;
            one.unwrap() + two.unwrap() + i32::from(none.is_err()) + i32::from(error.is_err())
        });
        assert_eq!(task.await.unwrap(), 5);
    });
}

#[test]
fn wait_all_says_in_its_place_who_was_cut_off_by_the_runtime() {
    let runtime = runtime();
    let entered = runtime.enter();
    let mut all = task::spawn(wait_all((async { io::Result::Ok(1) }, pending::<io::Result<()>>())));
    drop(entered);
    runtime.block_on(async { stays_pending(pin!(poll_fn(|_| all.poll()))).await });
    drop(runtime);
    let (finished, cut_off) = assert_ready!(all.poll());
    assert_eq!(finished.unwrap(), 1);
    assert!(matches!(cut_off.unwrap_err().failure(), Failure::Cancelled));
}

// ===== timeout =====

#[test]
fn timeout_yields_the_output_of_what_was_in_time() {
    on_both(|| async {
        let in_time = async {
            tokio::task::yield_now().await;
            "in time"
        };
        assert_eq!(timeout(Duration::from_secs(1000), in_time).await, Ok("in time"));
        assert_eq!(timeout(Duration::from_secs(1), async { Err::<(), _>("failed") }).await, Ok(Err("failed")));
    });
}

#[test]
fn timeout_fails_with_the_error_of_tokio() {
    on_both(|| async {
        let elapsed: Result<(), tokio::time::error::Elapsed> = timeout(Duration::ZERO, pending()).await;
        assert_eq!(elapsed.unwrap_err().to_string(), "deadline has elapsed");
    });
}

#[test]
fn timeout_lasts_as_long_as_it_says() {
    on_current_thread(|| async {
        let start = Instant::now();
        assert!(timeout(Duration::from_secs(5), sleep(Duration::from_secs(6))).await.is_err());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(timeout(Duration::from_secs(5), sleep(Duration::from_secs(4))).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    });
}

#[test]
fn timeout_of_zero_is_lost_to_a_future_that_is_ready_at_the_first_poll() {
    on_both(|| async {
        assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1));
        let polls = Cell::new(0);
        let waiting = poll_fn(|_| {
            polls.set(polls.get() + 1);
            Poll::<()>::Pending
        });
        assert!(timeout(Duration::ZERO, waiting).await.is_err());
        // In real time, tokio's timers are rounded up to the next millisecond: it may have been polled then, too.
        let is_paused = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        assert!(polls.get() == 1 || (polls.get() > 1 && !is_paused), "{polls:?}");
    });
}

#[test]
fn timeout_is_lost_to_a_future_that_blocks_its_thread_past_the_limit_and_is_ready_then() {
    on_current_thread(|| async {
        let begin = Instant::now();
        let blocking = async {
            // The limit has begun.
            tokio::task::yield_now().await;
            // The clock moves on within one poll.
            assert!(poll_once(pin!(advance(Duration::from_secs(2)))).await.is_pending());
            2
        };
        assert_eq!(timeout(Duration::from_secs(1), blocking).await, Ok(2));
        assert_eq!(begin.elapsed(), Duration::from_secs(2));
    });
}

#[test]
fn timeout_can_be_without_limit() {
    on_both(|| async {
        let gate = LatchEvent::new();
        let mut waiting = pin!(timeout(Duration::MAX, gate.wait_set()));
        stays_pending(waiting.as_mut()).await;
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            // Most of what is left of the million seconds that a test may take.
            advance(Duration::from_secs(900_000)).await;
            stays_pending(waiting.as_mut()).await;
        }
        gate.set();
        assert_eq!(waiting.await, Ok(()));
    });
}

#[test]
fn timeout_counts_from_the_call() {
    on_current_thread(|| async {
        let start = Instant::now();
        let limited = timeout(Duration::from_secs(5), pending::<()>());
        advance(Duration::from_secs(3)).await;
        assert!(limited.await.is_err());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    });
}

#[test]
fn timeout_at_takes_a_deadline_of_the_past_as_one_of_now() {
    on_current_thread(|| async {
        let past = Instant::now();
        advance(Duration::from_secs(3)).await;
        let now = Instant::now();
        assert_eq!(timeout_at(past, async { 1 }).await, Ok(1), "what is ready wins");
        assert!(timeout_at(past, pending::<()>()).await.is_err());
        assert_eq!(Instant::now(), now);
    });
}

#[test]
fn timeout_at_lasts_until_its_deadline() {
    on_current_thread(|| async {
        let deadline = Instant::now() + Duration::from_secs(7);
        assert_eq!(timeout_at(deadline, sleep(Duration::from_secs(6))).await, Ok(()));
        assert!(timeout_at(deadline, pending::<()>()).await.is_err());
        assert_eq!(Instant::now(), deadline);
    });
}

#[test]
fn timeouts_nest_and_the_shorter_one_elapses() {
    let limits = [(1, 10, 1), (10, 1, 1), (3, 4, 3)];
    for (outer, inner, elapsed) in limits {
        on_current_thread(async || {
            let start = Instant::now();
            let nested = timeout(Duration::from_secs(inner), pending::<()>());
            let outcome = timeout(Duration::from_secs(outer), nested).await;
            assert_eq!(outcome.is_err(), outer < inner, "{outer} around {inner}");
            assert!(outcome.is_err() || outcome.unwrap().is_err());
            assert_eq!(start.elapsed(), Duration::from_secs(elapsed));
        });
    }
}

#[test]
fn timeout_has_dropped_what_it_cut_off() {
    on_both(|| async {
        let alive = Alive::default();
        let slow = alive.slow();
        let cut_off = async move {
            let _slow = slow;
            pending::<()>().await
        };
        // Still held when it has returned.
        let mut limited = pin!(timeout(Duration::ZERO, cut_off));
        assert!(limited.as_mut().await.is_err());
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn timeout_returns_when_the_tasks_of_what_was_dropped_in_it_have_ended() {
    on_both(|| async {
        let alive = Alive::default();
        let nested = Pool::open(async |pool: Pool| {
            for _ in 0..3 {
                let (alive, slow) = (alive.clone(), alive.slow());
                pool.spawn(async move {
                    let _slow = slow;
                    let deeper: Result<(), PoolError> = Pool::open(async |pool: Pool| {
                        let slow = alive.slow();
                        pool.spawn(async move {
                            let _slow = slow;
                            busy().await;
                        });
                        pending().await
                    })
                    .await;
                    deeper.unwrap();
                });
            }
            until(|| alive.count() == 6).await;
            pending::<Result<(), BoxError>>().await
        });
        // Ready as soon as everything runs, as a timer would be.
        let begun = timeout(Duration::MAX, async {
            tokio::select! {
                _ = nested => unreachable!("it is pending"),
                () = until(|| alive.count() == 6) => {}
            }
        });
        assert_eq!(begun.await, Ok(()));
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn timeout_waits_for_what_is_left_behind_however_long_that_takes() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let mut limited = pin!(timeout(Duration::ZERO, async {
            leaves_behind(&gate, &log);
            pending::<()>().await
        }));
        stays_pending(limited.as_mut()).await;
        gate.set();
        assert!(limited.await.is_err(), "it elapsed all the same");
        assert_eq!(log.events(), ["left behind"]);
    });
}

#[test]
fn timeout_cuts_off_what_never_runs_out_of_work() {
    on_both(|| async {
        let working = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        assert!(timeout(Duration::ZERO, working).await.is_err());
    });
}

#[test]
fn timeout_cuts_off_what_yields_for_ever_in_real_time() {
    watched(|| {
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                assert!(timeout(Duration::from_millis(1), busy()).await.is_err());
            });
        }
    });
}

#[test]
fn timeout_lets_a_panic_through_when_everything_below_has_ended() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let panicking = async {
            leaves_behind(&gate, &log);
            panic!("inside")
        };
        let mut limited = Box::pin(timeout(Duration::MAX, panicking));
        stays_pending(limited.as_mut()).await;
        gate.set();
        assert_eq!(panic_of(limited).await, "inside");
        assert_eq!(log.events(), ["left behind"]);
    });
}

#[test]
fn timeout_reports_what_fails_below_it_to_the_enclosing_pool() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let nested = Pool::open(async |pool: Pool| {
                let bomb = OnDrop::new(|| panic!("in drop"));
                pool.spawn(async move {
                    let _bomb = bomb;
                    pending::<()>().await
                });
                pending::<Result<(), BoxError>>().await
            });
            assert!(timeout(Duration::ZERO, nested).await.is_err());
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn timeout_that_is_dropped_while_it_waits_tells_the_enclosing_pool_of_a_panic() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let mut opened = pin!(cleanup_of(async || {
            let panics_at_the_limit = async {
                let _bomb = OnDrop::new(|| panic!("in drop"));
                leaves_behind(&gate, &log);
                pending::<()>().await
            };
            let panics = async {
                leaves_behind(&gate, &log);
                panic!("inside")
            };
            let past = Instant::now() - Duration::from_secs(1);
            let mut elapsed = Box::pin(timeout_at(past, panics_at_the_limit));
            assert!(poll_once(elapsed.as_mut()).await.is_pending());
            let mut panicked = Box::pin(timeout(Duration::MAX, panics));
            assert!(poll_once(panicked.as_mut()).await.is_pending());
        }));
        stays_pending(opened.as_mut()).await;
        gate.set();
        assert_eq!(opened.await, ["panic: inside", "panic: in drop"]);
    });
}

#[test]
fn timeout_resumes_a_panic_and_reports_that_of_the_destructor() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let panicking = poll_fn(|_| -> Poll<()> { panic!("inside") });
            let bomb = OnDrop::new(|| panic!("in drop"));
            let both = BothPanic { future: panicking, _bomb: bomb };
            assert_eq!(panic_of(timeout(Duration::MAX, both)).await, "inside");
        })
        .await;
        assert_eq!(cleanup, ["panic: in drop"]);
    });
}

#[test]
fn timeout_and_a_dropped_group_name_the_line_of_their_call_in_a_cleanup_failure() {
    on_both(|| async {
        let lines = Cell::new([0; 4]);
        let error = Pool::open(async |_: Pool| {
            let both = |future| BothPanic { future, _bomb: bomb() };
            let panicking = || poll_fn(|_| -> Poll<()> { panic!("inside") });
            let limited = timeout(Duration::MAX, both(panicking()));
            let first = line!() - 1;
            assert_eq!(panic_of(limited).await, "inside");
            let limited = timeout_at(Instant::now(), both(panicking()));
            let second = line!() - 1;
            assert_eq!(panic_of(limited).await, "inside");
            let third = line!() + 1;
            drop_group(false, |gate| try_all((ready(Err::<(), _>("broken")), opened(gate)))).await;
            let fourth = line!() + 1;
            drop_group(false, |gate| wait_all((ready(Err::<(), _>("broken")), opened(gate)))).await;
            lines.set([first, second, third, fourth]);
            Ok(())
        })
        .await
        .unwrap_err();
        let sites = error.cleanup_failures().iter().map(|failed| failed.task().spawned_at());
        let found: Vec<_> = sites.map(|at| (at.file(), at.line())).collect();
        assert_eq!(found, lines.get().map(|line| (file!(), line)));
    });
}

/// A branch that ends well when the gate opens.
async fn opened(gate: LatchEvent) -> Result<(), &'static str> {
    gate.wait_set().await;
    Ok(())
}

/// A future with a destructor that runs after the panic of its poll, not while that unwinds.
struct BothPanic<F, D> {
    future: F,
    _bomb: D,
}

impl<F: Future + Unpin, D: Unpin> Future for BothPanic<F, D> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.future).poll(cx)
    }
}

/// A future that whoever is woken polls at once, with what came of that each time.
struct PolledAtOnce<T> {
    future: Mutex<Option<Pin<Box<dyn Future<Output = T> + Send>>>>,
    polls: Mutex<Vec<Poll<T>>>,
}

impl<T: Send + 'static> PolledAtOnce<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { future: Mutex::new(Some(Box::pin(future))), polls: Mutex::default() })
    }

    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut future = self.future.lock().unwrap();
        let polled = future.as_mut().map(|future| future.as_mut().poll(&mut Context::from_waker(&waker)));
        if polled.as_ref().is_some_and(Poll::is_ready) {
            *future = None;
        }
        self.polls.lock().unwrap().extend(polled);
    }
}

impl<T: Send + 'static> Wake for PolledAtOnce<T> {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

/// A scope of a pool told its driver of its end while it still held the scope of the `timeout` around. So the pool
/// returned, and the `timeout` had to wait; dropped then, it took along what the pool had returned, with its failures.
#[test]
fn timeout_passes_on_what_a_pool_returns_as_soon_as_it_does() {
    on_both(|| async {
        let (fail, failing) = oneshot::channel::<()>();
        let pool = Pool::<BoxError>::new();
        pool.spawn(async {
            failing.await?;
            Err("late".into())
        });
        let polled = PolledAtOnce::new(timeout(Duration::from_secs(3_600), pool.run()));
        polled.poll();
        fail.send(()).unwrap();
        until(|| polled.polls.lock().unwrap().last().is_some_and(Poll::is_ready)).await;
        let polls = std::mem::take(&mut *polled.polls.lock().unwrap());
        let [.., Poll::Ready(Ok(Err(error)))] = &polls[..] else { panic!("{polls:?}") };
        assert_eq!(failures(error.failures()), ["error: late"]);
    });
}

#[test]
fn timeout_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let mut opened = pin!(cleanup_of(async || {
            let mut limited = Box::pin(timeout(Duration::MAX, async {
                leaves_behind(&gate, &log);
                pending::<()>().await
            }));
            assert!(poll_once(limited.as_mut()).await.is_pending());
        }));
        stays_pending(opened.as_mut()).await;
        gate.set();
        assert!(opened.await.is_empty());
        assert_eq!(log.events(), ["left behind"]);
    });
}

#[test]
fn timeout_in_a_pool_that_is_cancelled_does_not_elapse() {
    on_both(|| async {
        let outcome: Result<(), PoolError> = Pool::open(async |pool: Pool| {
            pool.cancel();
            drop(timeout(Duration::from_secs(1000), pending::<()>()).await);
            unreachable!("the body is cut short")
        })
        .await;
        let error = outcome.unwrap_err();
        assert!(error.is_cancelled(), "{error}");
    });
}

#[test]
fn timeout_needs_a_runtime_with_timers_when_it_is_polled() {
    for limit in [Duration::ZERO, Duration::from_secs(1)] {
        let limited = timeout(limit, pending::<()>());
        let line = line!() - 1;
        let message = panic_text(|| task::spawn(limited).poll());
        assert!(message.starts_with(&format!("`timeout` at {}:{line}:", file!())), "{limit:?}: {message}");
        assert!(message.contains("was polled outside of a tokio runtime"), "{limit:?}: {message}");

        let without_timers = Builder::new_current_thread().build().unwrap();
        let message = panic_text(|| without_timers.block_on(async { drop(timeout(limit, ready(())).await) }));
        assert!(message.contains("timers are disabled"), "{limit:?}: {message}");
    }
}

// ===== prime =====

#[test]
fn prime_polls_once_now_and_not_again_before_it_is_awaited() {
    on_both(|| async {
        let polls = AtomicUsize::new(0);
        let waker = RefCell::new(None);
        let mut primed = prime(poll_fn(|cx| {
            waker.replace(Some(cx.waker().clone()));
            if polls.fetch_add(1, Ordering::SeqCst) == 2 { Poll::Ready("done") } else { Poll::Pending }
        }));
        assert_eq!(polls.load(Ordering::SeqCst), 1);
        waker.take().unwrap().wake();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(polls.load(Ordering::SeqCst), 1, "a wake-up changes nothing");
        assert!(poll_once(pin!(&mut primed)).await.is_pending());
        assert_eq!(primed.await, "done");
    });
}

#[test]
fn prime_keeps_the_output_of_a_future_that_is_ready_at_once() {
    on_both(|| async {
        let polls = AtomicUsize::new(0);
        let primed = prime(poll_fn(|_| Poll::Ready(polls.fetch_add(1, Ordering::SeqCst))));
        assert_eq!(polls.load(Ordering::SeqCst), 1);
        assert_eq!(primed.await, 0);
        assert_eq!(polls.load(Ordering::SeqCst), 1, "it is not polled again");
    });
}

#[test]
fn prime_yields_an_error_when_it_is_awaited() {
    on_both(|| async { assert_eq!(prime(async { Err::<(), _>("failed") }).await, Err("failed")) });
}

#[test]
fn prime_panics_with_the_panic_of_the_first_poll() {
    assert_eq!(panic_text(|| drop(prime(async { panic!("at once") }))), "at once");
}

#[test]
fn prime_loses_no_wake_up_between_the_call_and_the_await() {
    on_both(|| async {
        let (sender, receiver) = oneshot::channel();
        let primed = prime(receiver);
        sender.send(1).unwrap();
        assert_eq!(primed.await, Ok(1));
    });
}

#[test]
fn prime_is_woken_once_it_is_awaited() {
    on_both(|| async {
        let (sender, receiver) = oneshot::channel();
        let mut primed = task::spawn(prime(receiver));
        assert_pending!(primed.poll());
        assert!(!primed.is_woken());
        sender.send(1).unwrap();
        assert!(primed.is_woken());
        assert_ready_eq!(primed.poll(), Ok(1));
    });
}

#[test]
fn prime_that_is_dropped_drops_the_future() {
    let alive = Alive::default();
    let counted = alive.one();
    let primed = prime(async {
        let _counted = counted;
        pending::<()>().await
    });
    assert_eq!(alive.count(), 1);
    drop(primed);
    assert_eq!(alive.count(), 0);
}

#[test]
fn prime_borrows_and_needs_neither_send_nor_a_runtime() {
    let gate = Rc::new(Cell::new(false));
    let text = String::from("borrowed");
    let mut primed = task::spawn(prime(async {
        poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending }).await;
        text.as_str()
    }));
    assert_pending!(primed.poll());
    gate.set(true);
    assert_ready_eq!(primed.poll(), "borrowed");
}

#[test]
fn prime_panics_when_it_is_polled_after_it_was_ready() {
    for waits in [false, true] {
        let mut waiting = waits;
        let mut primed =
            task::spawn(prime(poll_fn(
                move |_| {
                    if std::mem::take(&mut waiting) { Poll::Pending } else { Poll::Ready(()) }
                },
            )));
        assert_ready!(primed.poll());
        assert_eq!(panic_text(|| primed.poll()), "a `Primed` was polled after it was ready");
    }
}

#[test]
fn prime_starts_a_timer_at_the_call() {
    on_current_thread(|| async {
        let start = Instant::now();
        let primed = prime(async { sleep(Duration::from_secs(5)).await });
        advance(Duration::from_secs(3)).await;
        primed.await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    });
}

/// A timer is bound to the runtime in which it was primed, and not to that in which it is awaited.
#[test]
fn prime_of_a_timer_can_be_awaited_on_a_runtime_without_timers() {
    watched(|| {
        let with_timers = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let inside = with_timers.enter();
        let timer = prime(async { sleep(Duration::from_millis(1)).await });
        drop(inside);
        Builder::new_current_thread().build().unwrap().block_on(timer);
    });
}

#[test]
fn prime_of_a_timer_outside_of_a_runtime_panics_at_the_call() {
    let message = panic_text(|| drop(prime(async { sleep(Duration::from_secs(1)).await })));
    assert!(message.contains("there is no reactor running"), "{message}");
}

#[test]
fn prime_does_not_see_the_budget_of_the_task() {
    on_both(|| async {
        let task = tokio::spawn(async {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            (0..10_000).for_each(|n| sender.send(n).unwrap());
            // Uses up what this task may do before it has to yield.
            let mut exhausting = Box::pin(async {
                loop {
                    receiver.recv().await;
                }
            });
            assert!(poll_once(exhausting.as_mut()).await.is_pending());
            let mut channels: Vec<_> = (0..1000).map(|_| mpsc::unbounded_channel()).collect();
            for (n, (sender, _)) in channels.iter().enumerate() {
                sender.send(n).unwrap();
            }
            let primed: Vec<_> = channels.iter_mut().map(|(_, receiver)| prime(receiver.recv())).collect();
            let pending = primed.iter().filter(|primed| format!("{primed:?}").contains("pending")).count();
            for (n, primed) in primed.into_iter().enumerate() {
                assert_eq!(primed.await, Some(n));
            }
            pending
        });
        assert_eq!(task.await.unwrap(), 0, "all were ready at the call");
    });
}

#[test]
fn prime_says_in_its_debug_text_how_far_it_is() {
    let mut primed = task::spawn(prime(ready(())));
    assert_eq!(format!("{:?}", *primed), r#"Primed { state: "ready" }"#);
    assert_ready!(primed.poll());
    assert_eq!(format!("{:?}", *primed), r#"Primed { state: "done" }"#);
    let waiting: aiodrive::Primed<Pending<()>> = prime(pending());
    assert_eq!(format!("{waiting:?}"), r#"Primed { state: "pending" }"#);
}

// ===== cancel_task =====

#[test]
fn cancel_task_returns_when_the_destructors_have_run() {
    on_both(|| async {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
        let task = tokio::spawn(endless::<()>(alive.clone(), begun.clone()));
        begun.wait().await;
        assert_eq!(cancel_task(task).await.unwrap(), None);
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn cancel_task_yields_the_output_of_a_task_that_had_returned() {
    on_both(|| async {
        let value = tokio::spawn(async { 42 });
        until(|| value.is_finished()).await;
        assert_eq!(cancel_task(value).await.unwrap(), Some(42));
        let error = tokio::spawn(async { Err::<(), _>("failed") });
        until(|| error.is_finished()).await;
        assert_eq!(cancel_task(error).await.unwrap(), Some(Err("failed")));
    });
}

#[test]
fn cancel_task_fails_if_the_task_had_panicked() {
    on_both(|| async {
        let task = tokio::spawn(async { panic!("before") });
        until(|| task.is_finished()).await;
        let error = cancel_task::<()>(task).await.unwrap_err();
        assert_eq!(error.into_panic().downcast_ref(), Some(&"before"));
    });
}

#[test]
fn cancel_task_fails_if_a_destructor_panics() {
    on_both(|| async {
        let begun = Arc::new(Barrier::new(2));
        let task = tokio::spawn(panicking_in_drop::<()>(begun.clone()));
        begun.wait().await;
        let error = cancel_task(task).await.unwrap_err();
        assert_eq!(error.into_panic().downcast_ref(), Some(&"in drop"));
    });
}

#[test]
fn cancel_task_requests_the_abort_when_it_is_called() {
    for polled in [false, true] {
        on_both(async || {
            let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
            let task = tokio::spawn(endless::<()>(alive.clone(), begun.clone()));
            begun.wait().await;
            let mut cancelling = Box::pin(cancel_task(task));
            if polled {
                drop(poll_once(cancelling.as_mut()).await);
            }
            drop(cancelling);
            until(|| alive.count() == 0).await;
        });
    }
}

#[test]
fn cancel_task_does_not_keep_its_caller_from_being_aborted() {
    on_both(|| async {
        let (alive, waits, (begun, wait)) = (Alive::default(), LatchEvent::new(), oneshot::channel());
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        // It cannot be aborted any more, so that the caller has to wait.
        let target = tokio::task::spawn_blocking(move || {
            begun.send(()).unwrap();
            let _ = blocked.recv();
        });
        wait.await.unwrap();
        let (one, waiting) = (alive.one(), waits.clone());
        let caller = tokio::spawn(async move {
            let _one = one;
            let mut cancelling = Box::pin(cancel_task(target));
            stays_pending(cancelling.as_mut()).await;
            waiting.set();
            cancelling.await
        });
        waits.wait_set().await;
        assert!(cancel_task(caller).await.unwrap().is_none());
        assert_eq!(alive.count(), 0);
        drop(release);
    });
}

#[test]
fn cancel_task_of_the_task_that_calls_it_ends_it_at_that_await() {
    on_both(|| async {
        let (log, (sender, receiver)) = (Log::default(), oneshot::channel());
        let events = log.clone();
        let task = tokio::spawn(async move {
            let own = receiver.await.unwrap();
            events.push("calls");
            drop(cancel_task::<()>(own).await);
            events.push("goes on");
        });
        let abort = task.abort_handle();
        sender.send(task).unwrap();
        until(|| abort.is_finished()).await;
        assert_eq!(log.events(), ["calls"]);
    });
}
