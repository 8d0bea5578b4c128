//! `race`: the first to finish, and the end of the others.

use std::cell::Cell;
use std::future::{Ready, pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, TaskStopped, race};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_test::{assert_pending, assert_ready_eq, task};

use crate::support::{
    Alive, Log, OnDrop, PanicsInDrop, a_group_that_is_dropped_is_waited_for, blocked_until_abort, both, busy,
    cleanup_of, current_thread, endless_branch, leaves_behind, multi_thread, panic_of, panic_text, panicking_in_drop,
    panics_in_drop, paused_runtime, poll_until, quiet_panic, stays_pending, until,
};

// ===== race =====

#[apply(both)]
async fn race_yields_the_index_and_the_output_of_the_first_to_finish() {
    let (sender, receiver) = oneshot::channel();
    let mut winner = pin!(race((pending(), async { receiver.await.unwrap() }, pending())));
    stays_pending(winner.as_mut()).await;
    sender.send("second").unwrap();
    assert_eq!(winner.await, (1, "second"));
}

#[apply(both)]
async fn race_takes_vectors_arrays_and_tuples_of_up_to_eight() {
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
}

#[apply(both)]
async fn race_losers_have_ended_when_it_returns() {
    let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(4)));
    let losers = [(); 3].map(|()| endless_branch(alive.clone(), begun.clone()));
    let [first, second, third] = losers;
    let winner = async move {
        begun.wait().await;
        "won"
    };
    assert_eq!(race((first, second, winner, third)).await, (2, "won"));
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn race_waits_for_what_its_losers_leave_behind() {
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
}

#[apply(both)]
async fn race_is_won_by_an_error_as_by_a_value() {
    let failing = async { Err::<(), _>("lost") };
    assert_eq!(race((failing, pending())).await, (0, Err("lost")));
}

#[apply(both)]
async fn race_resumes_the_panic_of_the_winner_when_the_losers_have_ended() {
    let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
    let loser = endless_branch::<()>(alive.clone(), begun.clone());
    let winner = async move {
        begun.wait().await;
        panic!("the winner")
    };
    assert_eq!(panic_of(race((loser, winner))).await, "the winner");
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn race_reports_the_panic_of_a_destructor_of_a_loser_as_a_cleanup_failure() {
    let cleanup = cleanup_of(async || {
        let begun = Arc::new(Barrier::new(2));
        let loser = panicking_in_drop(begun.clone());
        let winner = async move { _ = begun.wait().await.is_leader() };
        assert_eq!(race((loser, winner)).await.0, 1);
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(current_thread)]
async fn race_reports_the_panic_of_the_output_of_a_loser_as_a_cleanup_failure() {
    let cleanup = cleanup_of(async || {
        let output = async |panics_in_drop: Option<PanicsInDrop>| panics_in_drop;
        assert_eq!(race([output(None), output(Some(panics_in_drop()))]).await.0, 0);
    });
    assert_eq!(cleanup.await, ["panic: in drop"]);
}

#[apply(multi_thread)]
async fn race_reports_the_panic_of_the_output_of_a_loser_that_cannot_be_aborted_any_more() {
    let cleanup = cleanup_of(async || {
        let (blocked, begun, aborted) = blocked_until_abort(panics_in_drop());
        let winner = async {
            until(move || begun.load(Ordering::SeqCst)).await;
            None
        };
        let (blocked, aborted) = (async { Some(blocked.await) }, async { Some(aborted.await) });
        assert_eq!(race((blocked, aborted, winner)).await.0, 2);
    });
    assert_eq!(cleanup.await, ["panic: in drop"]);
}

#[apply(current_thread)]
async fn race_reports_the_panic_of_a_loser_that_finished_as_well_as_a_cleanup_failure() {
    let cleanup = cleanup_of(async || {
        let losing = || -> i32 { panic!("second") };
        assert_eq!(race((ready(1), async move { losing() })).await, (0, 1));
    })
    .await;
    assert_eq!(cleanup, ["panic: second"]);
}

#[apply(current_thread)]
async fn race_drops_the_error_of_a_loser_that_finished_as_well() {
    let alive = Alive::default();
    let counted = alive.one();
    let cleanup = cleanup_of(async || {
        assert_eq!(race((ready(Ok(1)), async { Err(counted) })).await.1.ok(), Some(1));
        assert_eq!(alive.count(), 0);
    });
    assert!(cleanup.await.is_empty(), "an error is but a value to a race");
}

#[apply(current_thread)]
async fn race_names_the_line_of_its_call_in_a_cleanup_failure() {
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
}

#[apply(current_thread)]
async fn race_tie_goes_to_the_lowest_index() {
    let deadline = Instant::now() + Duration::from_secs(1);
    for count in [2, 3, 17, 100] {
        let branch = |index| async move {
            sleep_until(deadline).await;
            index
        };
        assert_eq!(race((0..count).map(branch).collect::<Vec<_>>()).await, (0, 0), "{count} branches");
    }
}

#[apply(current_thread)]
async fn race_tie_goes_to_the_lowest_index_also_if_that_finished_last() {
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
}

/// To abort thousands of tasks takes longer than a turn should, and so does freeing them.
#[apply(current_thread)]
async fn race_of_many_leaves_the_others_their_turn_as_it_aborts_the_losers() {
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
}

#[apply(both)]
async fn race_without_futures_panics() {
    let message = "`race` was called without a future to wait for";
    assert_eq!(panic_text(|| drop(race(Vec::<Ready<()>>::new()))), message);
    assert_eq!(panic_text(|| drop(race::<[Ready<()>; 0]>([]))), message);
}

#[test]
fn race_outside_of_a_runtime_panics_naming_the_call() {
    let message = panic_text(|| drop(race([ready(1)])));
    let line = line!() - 1;
    assert!(message.starts_with(&format!("`race` at {}:{line}:", file!())), "{message}");
    assert!(message.contains("was called outside of a tokio runtime: use it in"), "{message}");
}

#[apply(both)]
async fn race_spawns_its_futures_when_it_is_called() {
    let begun = LatchEvent::new();
    let begin = begun.clone();
    let racing = race([async move { begin.set() }]);
    begun.wait_set().await;
    assert_eq!(racing.await.0, 0);
}

#[apply(both)]
async fn race_that_is_dropped_is_waited_for_by_the_enclosing_pool() {
    a_group_that_is_dropped_is_waited_for::<(), _>(race).await;
}

#[apply(both)]
async fn race_that_is_dropped_reports_the_panics_of_its_branches() {
    let cleanup = cleanup_of(async || {
        let begun = Arc::new(Barrier::new(2));
        let racing = race([panicking_in_drop::<()>(begun.clone())]);
        begun.wait().await;
        drop(racing);
    })
    .await;
    assert_eq!(cleanup, ["panic: in drop"]);
}

#[apply(both)]
async fn race_that_is_dropped_while_its_losers_end_reports_the_panic_of_the_winner() {
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
}

/// Nor does a second cancel hurry it.
#[apply(both)]
async fn race_that_is_cancelled_while_its_losers_end_is_waited_for_by_the_enclosing_pool() {
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
}

#[apply(both)]
async fn race_loser_takes_nothing_once_it_has_returned() {
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
}

#[apply(both)]
async fn race_can_be_awaited_by_reference() {
    let gate = LatchEvent::new();
    let mut racing = race([gate.wait_set()]);
    tokio::select! {
        biased;
        _ = &mut racing => unreachable!("the gate is closed"),
        () = ready(()) => {}
    }
    gate.set();
    assert_eq!(racing.await.0, 0);
}

#[apply(both)]
async fn race_against_the_request_to_stop_ends_the_work() {
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
}

#[test]
fn race_whose_runtime_has_shut_down_panics() {
    let runtime = paused_runtime();
    let entered = runtime.enter();
    let mut racing = task::spawn(race([pending::<()>()]));
    drop(entered);
    assert_pending!(racing.poll());
    drop(runtime);
    assert!(racing.is_woken());
    let message = panic_text(|| racing.poll());
    assert!(message.contains("no future of a `race` could finish"), "{message}");
}

#[apply(both)]
async fn race_is_not_won_by_a_destructor_that_panics_as_the_runtime_shuts_down() {
    let cleanup = cleanup_of(async || {
        let gone = paused_runtime();
        let entered = gone.enter();
        let panics_in_drop = OnDrop::new(|| quiet_panic("in drop"));
        let racing = race([async move {
            let _bomb = panics_in_drop;
            pending::<()>().await
        }]);
        drop(entered);
        std::thread::scope(|scope| _ = scope.spawn(|| drop(gone)));
        let message = panic_of(racing).await;
        assert!(message.contains("no future of a `race` could finish"), "{message}");
    });
    assert_eq!(cleanup.await, ["panic: in drop"]);
}

// ===== try_all =====

/// The output is there already when the future that would have yielded it is dropped.
#[apply(both)]
async fn race_that_is_dropped_reports_the_panic_of_an_output_that_it_has() {
    for polled in [false, true] {
        let cleanup = cleanup_of(async || {
            let (gate, left) = (LatchEvent::new(), LatchEvent::new());
            let tasks = || Handle::current().metrics().num_alive_tasks();
            until(|| tasks() == 0).await;
            let (has_left, opened) = (left.wait_set(), gate.clone());
            let winner = async move {
                leaves_behind(&opened, &Log::default());
                left.set();
                panics_in_drop()
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
    }
}
