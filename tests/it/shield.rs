//! `shield`: work that is finished even if nobody waits for it.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, race, shield, timeout, try_all, with_exit};
use macro_rules_attribute::apply;
use tokio::time::advance;
use tokio_test::{assert_pending, task};

use crate::support::{
    Alive, Log, OnDrop, both, cleanup_of, current_thread, failures, gated, panic_of, panic_text, paused_runtime,
    poll_once, quiet_panic, until, waits_for,
};

#[apply(current_thread)]
async fn shield_says_in_its_debug_text_whether_it_has_ended() {
    let gate = LatchEvent::new();
    let mut shielded = shield(gate.wait_set());
    assert_eq!(format!("{shielded:?}"), "Shield { is_finished: false }");
    gate.set();
    until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
    (&mut shielded).await;
    assert_eq!(format!("{shielded:?}"), "Shield { is_finished: true }", "and still when nothing is left in it");
}

#[apply(both)]
async fn shield_yields_the_output() {
    assert_eq!(shield(async { 42 }).await, 42);
    assert_eq!(shield(async { Err::<(), _>("failed") }).await, Err("failed"));
}

#[apply(both)]
async fn shield_spawns_its_future_when_it_is_called() {
    let (gate, log) = (LatchEvent::from(true), Log::default());
    let shielded = shield(gated(&gate, &log));
    until(|| !log.events().is_empty()).await;
    shielded.await;
}

#[apply(both)]
async fn shield_that_panicked_and_was_awaited_is_no_cleanup_failure() {
    let cleanup = cleanup_of(async || {
        assert_eq!(panic_of(shield(async { panic!("shielded") })).await, "shielded");
    });
    assert!(cleanup.await.is_empty());
}

#[test]
fn shield_outside_of_a_runtime_panics_naming_the_call() {
    let message = panic_text(|| drop(shield(async {})));
    let line = line!() - 1;
    assert!(message.starts_with(&format!("`shield` at {}:{line}:", file!())), "{message}");
    assert!(message.contains("was called outside of a tokio runtime: use it in"), "{message}");
}

#[test]
fn shield_polled_after_its_runtime_has_shut_down_panics() {
    let runtime = paused_runtime();
    let entered = runtime.enter();
    let mut shielded = task::spawn(shield(pending::<()>()));
    drop(entered);
    assert_pending!(shielded.poll());
    drop(runtime);
    assert!(shielded.is_woken());
    let message = panic_text(|| shielded.poll());
    assert!(message.starts_with("the runtime of shielded work has shut down"), "{message}");
}

#[apply(both)]
async fn shield_that_is_dropped_goes_on_and_the_pool_waits_for_it() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let opened = Pool::open(async |_: Pool| {
        drop(shield(gated(&gate, &log)));
        Ok(())
    });
    waits_for(opened, gate.clone(), log.clone()).await.unwrap();
}

#[apply(both)]
async fn shield_goes_on_when_the_task_that_awaits_it_is_aborted() {
    let (gate, log, begun) = (LatchEvent::new(), Log::default(), LatchEvent::new());
    let opened = Pool::open(async |pool: Pool| {
        let (shielded, begin) = (gated(&gate, &log), begun.clone());
        pool.spawn(async move {
            let shielded = shield(shielded);
            begin.set();
            shielded.await;
        });
        begun.wait_set().await;
        Err::<(), _>("body".into())
    });
    let error = waits_for(opened, gate.clone(), log.clone()).await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: body"]);
}

#[apply(both)]
async fn shield_held_by_a_task_that_is_aborted_goes_on() {
    let (gate, log, begun) = (LatchEvent::new(), Log::default(), LatchEvent::new());
    let opened = Pool::open(async |pool: Pool| {
        let (shielded, begin) = (gated(&gate, &log), begun.clone());
        pool.spawn(async move {
            let _held = shield(shielded);
            begin.set();
            pending::<()>().await;
        });
        begun.wait_set().await;
        pool.cancel();
        Ok(())
    });
    drop(waits_for(opened, gate.clone(), log.clone()).await);
}

#[apply(both)]
async fn shield_goes_on_when_the_pool_itself_is_dropped_in_another() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let opened = cleanup_of(async || {
        let mut inner = Box::pin(Pool::open(async |_: Pool| {
            shield(gated(&gate, &log)).await;
            Ok(())
        }));
        assert!(poll_once(inner.as_mut()).await.is_pending());
    });
    assert!(waits_for(opened, gate.clone(), log.clone()).await.is_empty());
}

#[apply(both)]
async fn shield_delays_the_outermost_of_three_pools_when_the_owner_of_the_inner_ones_is_aborted() {
    let (gate, log, begun) = (LatchEvent::new(), Log::default(), LatchEvent::new());
    let opened = Pool::open(async |outer: Pool| {
        let (shielded, begin) = (gated(&gate, &log), begun.clone());
        let owner = outer.spawn_with_handle(async move {
            Pool::open(async |middle: Pool| {
                middle.spawn(async move {
                    Pool::open(async |inner: Pool| {
                        inner.spawn(async move {
                            let shielded = shield(shielded);
                            begin.set();
                            shielded.await;
                        });
                        pending::<Result<(), BoxError>>().await
                    })
                    .await?;
                    Ok(())
                });
                pending::<Result<(), BoxError>>().await
            })
            .await?;
            Ok(())
        });
        begun.wait_set().await;
        owner.cancel();
        assert!(owner.await.is_err());
        Ok(())
    });
    waits_for(opened, gate.clone(), log.clone()).await.unwrap();
}

#[apply(both)]
async fn shield_below_a_function_is_waited_for_by_it() {
    for function in ["race", "try_all", "timeout", "with_exit", "shield"] {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let work = gated(&gate, &log);
        let branch = async move {
            drop(shield(work));
            io::Result::Ok(())
        };
        let future: std::pin::Pin<Box<dyn Future<Output = ()>>> = match function {
            "race" => Box::pin(async { drop(race([branch]).await) }),
            "try_all" => Box::pin(async { drop(try_all([branch]).await) }),
            "timeout" => Box::pin(async { drop(timeout(Duration::MAX, branch).await) }),
            "with_exit" => Box::pin(async { drop(with_exit((), async |_| branch.await, |(), _| ready(Ok(()))).await) }),
            // Shielded work is over when its future is; what that leaves behind is waited for further out.
            _ => Box::pin(async { drop(Pool::open(async |_: Pool| Ok(shield(branch).await?)).await) }),
        };
        waits_for(future, gate, log).await;
    }
}

#[apply(both)]
async fn shield_panic_after_it_was_dropped_is_a_cleanup_failure_that_names_the_call() {
    let (gate, line) = (LatchEvent::new(), Cell::new(0));
    let error = Pool::open(async |_: Pool| {
        let opened = gate.wait_set();
        let work = async move {
            opened.await;
            panic!("nobody waits")
        };
        line.set(line!() + 1);
        drop::<aiodrive::Shield<()>>(shield(work));
        gate.set();
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(error.failures().is_empty());
    assert_eq!(failures(error.cleanup_failures()), ["panic: nobody waits"]);
    let at = error.cleanup_failures()[0].task().spawned_at();
    assert_eq!((at.file(), at.line()), (file!(), line.get()));
}

#[apply(both)]
async fn shield_panic_that_nobody_took_is_reported_when_it_is_dropped() {
    let cleanup = cleanup_of(async || {
        let shielded = shield(async { panic!("untaken") });
        until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
        drop::<aiodrive::Shield<()>>(shielded);
    });
    assert_eq!(cleanup.await, ["panic: untaken"]);
}

/// Whether the output is dropped by the `Shield` or by the task, the pool waits until that has been reported.
#[apply(both)]
async fn shield_panic_is_reported_also_if_it_is_dropped_just_as_the_work_ends() {
    for turns in 0..100 {
        let cleanup = cleanup_of(async || {
            let work = shield(async { quiet_panic("untaken") });
            for _ in 0..turns % 4 {
                tokio::task::yield_now().await;
            }
            drop::<aiodrive::Shield<()>>(work);
        });
        assert_eq!(cleanup.await, ["panic: untaken"], "dropped after {turns} turns");
    }
}

#[apply(both)]
async fn shield_output_that_nobody_takes_is_dropped_also_if_it_is_an_error() {
    for finished_before in [false, true] {
        let alive = Alive::default();
        let cleanup = cleanup_of(async || {
            let counted = alive.one();
            let shielded = shield(async move { Err::<(), _>(counted) });
            if finished_before {
                until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
            }
            drop(shielded);
        });
        assert!(cleanup.await.is_empty(), "an error that nobody takes is reported; finished before: {finished_before}");
        assert_eq!(alive.count(), 0, "the output is kept; finished before: {finished_before}");
    }
}

/// It used to be a panic of a bare task, of which nobody hears; or it came out of the drop.
#[apply(both)]
async fn shield_output_that_nobody_takes_may_panic_as_it_is_dropped() {
    let cleanup = cleanup_of(async || {
        let gate = LatchEvent::new();
        let open = gate.wait_set();
        let output = || OnDrop::new(|| quiet_panic("output"));
        drop(shield(async move {
            open.await;
            output()
        }));
        gate.set();
    });
    assert_eq!(cleanup.await, ["panic: output"]);
    let sent = async || {
        let gate = LatchEvent::new();
        let set = gate.clone();
        let work = shield(async move {
            let output = OnDrop::new(|| quiet_panic("output"));
            set.set();
            output
        });
        gate.wait_set().await;
        until(|| format!("{work:?}") == "Shield { is_finished: true }").await;
        drop(work);
    };
    assert_eq!(cleanup_of(sent).await, ["panic: output"]);
    sent().await;
}

#[apply(both)]
async fn shield_panic_of_a_destructor_goes_to_the_pool_and_the_output_to_the_caller() {
    let cleanup = cleanup_of(async || {
        let bomb = OnDrop::new(|| panic!("in drop"));
        let work = poll_fn(move |_| {
            let _captured = &bomb;
            Poll::Ready(42)
        });
        assert_eq!(shield(work).await, 42);
    });
    assert_eq!(cleanup.await, ["panic: in drop"]);
}

#[apply(both)]
async fn shield_awaited_by_reference_loses_nothing_in_a_select() {
    let gate = LatchEvent::new();
    let opened = gate.wait_set();
    let mut shielded = shield(async move {
        opened.await;
        42
    });
    for _ in 0..10 {
        tokio::select! {
            biased;
            _ = &mut shielded => unreachable!("the gate is closed"),
            () = tokio::task::yield_now() => {}
        }
    }
    gate.set();
    assert_eq!(shielded.await, 42);
}

#[apply(current_thread)]
async fn shield_goes_on_after_a_timeout_that_waits_for_it() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let work = gated(&gate, &log);
    let mut limited = Box::pin(timeout(Duration::from_secs(1), async { shield(work).await }));
    assert!(poll_once(limited.as_mut()).await.is_pending());
    advance(Duration::from_secs(2)).await;
    assert!(waits_for(limited, gate, log).await.is_err());
}

#[apply(both)]
async fn shield_that_leaves_the_pool_gives_its_output_afterwards() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let opened = Pool::open(async |_: Pool| {
        let work = gated(&gate, &log);
        Ok(shield(async move {
            work.await;
            42
        }))
    });
    let shielded = waits_for(opened, gate.clone(), log.clone()).await.unwrap();
    assert_eq!(shielded.await, 42);
}

#[apply(both)]
async fn shield_without_a_pool_goes_on_when_it_is_dropped() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    drop(shield(gated(&gate, &log)));
    gate.set();
    until(|| log.events() == ["finished"]).await;
}
