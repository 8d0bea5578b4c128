//! `shield` and `with_exit`: what must be finished.

use std::cell::Cell;
use std::future::{Future, Ready, pending, poll_fn, ready};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, ExitError, LatchEvent, Pool, PoolError, cancel_task, cancellation_token, race, shield, timeout,
    try_all, with_exit,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::advance;
use tokio_test::{assert_pending, task};

use crate::support::{
    Alive, Log, OnDrop, failures, on_both, on_current_thread, panic_of, panic_text, poll_once, quiet_panic,
    stays_pending, until,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Work that ends with the gate, and writes that down.
fn gated(gate: &LatchEvent, log: &Log) -> impl Future<Output = ()> + Send + use<> {
    let (gate, log) = (gate.clone(), log.clone());
    async move {
        gate.wait_set().await;
        log.push("finished");
    }
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

/// Fails if the future is ready before the gate is open, or if the work has not been finished when it is.
async fn waits_for<F: Future>(future: F, gate: LatchEvent, log: Log) -> F::Output {
    let mut future = pin!(future);
    stays_pending(future.as_mut()).await;
    assert!(log.events().is_empty());
    gate.set();
    let output = future.await;
    assert_eq!(log.events(), ["finished"]);
    output
}

// ===== shield =====

#[test]
fn shield_says_in_its_debug_text_whether_it_has_ended() {
    on_current_thread(|| async {
        let gate = LatchEvent::new();
        let mut shielded = shield(gate.wait_set());
        assert_eq!(format!("{shielded:?}"), "Shield { is_finished: false }");
        gate.set();
        until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
        (&mut shielded).await;
        assert_eq!(format!("{shielded:?}"), "Shield { is_finished: true }", "and still when nothing is left in it");
        assert_eq!(format!("{shielded:?}"), "Shield { is_finished: true }");
    });
}

#[test]
fn shield_yields_the_output() {
    on_both(|| async {
        assert_eq!(shield(async { 42 }).await, 42);
        assert_eq!(shield(async { Err::<(), _>("failed") }).await, Err("failed"));
    });
}

#[test]
fn shield_spawns_its_future_when_it_is_called() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::from(true), Log::default());
        let shielded = shield(gated(&gate, &log));
        until(|| !log.events().is_empty()).await;
        shielded.await;
    });
}

#[test]
fn shield_resumes_the_panic_when_it_is_polled() {
    on_both(|| async { assert_eq!(panic_of(shield(async { panic!("shielded") })).await, "shielded") });
}

#[test]
fn shield_that_panicked_and_was_awaited_is_no_cleanup_failure() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            assert_eq!(panic_of(shield(async { panic!("shielded") })).await, "shielded");
        });
        assert!(cleanup.await.is_empty());
    });
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
    let runtime = runtime();
    let entered = runtime.enter();
    let mut shielded = task::spawn(shield(pending::<()>()));
    drop(entered);
    assert_pending!(shielded.poll());
    drop(runtime);
    assert!(shielded.is_woken());
    let message = panic_text(|| shielded.poll());
    assert!(message.starts_with("the runtime of shielded work has shut down"), "{message}");
}

#[test]
fn shield_polled_after_it_was_ready_panics() {
    on_both(|| async {
        let mut shielded = shield(ready(1));
        assert_eq!((&mut shielded).await, 1);
        assert!(!panic_of(shielded).await.is_empty());
    });
}

#[test]
fn shield_that_is_dropped_goes_on_and_the_pool_waits_for_it() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let opened = Pool::open(async |_: Pool| {
            drop(shield(gated(&gate, &log)));
            Ok(())
        });
        waits_for(opened, gate.clone(), log.clone()).await.unwrap();
    });
}

#[test]
fn shield_goes_on_when_the_task_that_awaits_it_is_aborted() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_held_by_a_task_that_is_aborted_goes_on() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_goes_on_when_the_pool_itself_is_dropped_in_another() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let opened = cleanup_of(async || {
            let mut inner = Box::pin(Pool::open(async |_: Pool| {
                shield(gated(&gate, &log)).await;
                Ok(())
            }));
            assert!(poll_once(inner.as_mut()).await.is_pending());
        });
        assert!(waits_for(opened, gate.clone(), log.clone()).await.is_empty());
    });
}

#[test]
fn shield_delays_the_outermost_of_three_pools_when_the_owner_of_the_inner_ones_is_aborted() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_below_a_function_is_waited_for_by_it() {
    on_both(|| async {
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
                "with_exit" => {
                    Box::pin(async { drop(with_exit((), async |_| branch.await, |(), _| ready(Ok(()))).await) })
                }
                // Shielded work is over when its future is; what that leaves behind is waited for further out.
                _ => Box::pin(async { drop(Pool::open(async |_: Pool| Ok(shield(branch).await?)).await) }),
            };
            waits_for(future, gate, log).await;
        }
    });
}

#[test]
fn shield_panic_after_it_was_dropped_is_a_cleanup_failure_that_names_the_call() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_panic_that_nobody_took_is_reported_when_it_is_dropped() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let shielded = shield(async { panic!("untaken") });
            until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
            drop::<aiodrive::Shield<()>>(shielded);
        });
        assert_eq!(cleanup.await, ["panic: untaken"]);
    });
}

/// Whether the output is dropped by the `Shield` or by the task, the pool waits until that has been reported.
#[test]
fn shield_panic_is_reported_also_if_it_is_dropped_just_as_the_work_ends() {
    on_both(|| async {
        for turns in 0..100 {
            let cleanup = cleanup_of(async || {
                let work = shield(async { quiet_panic("untaken") });
                for _ in 0..turns % 4 {
                    tokio::task::yield_now().await;
                }
                drop::<aiodrive::Shield<()>>(work);
            });
            assert_eq!(cleanup.await, ["panic: untaken"]);
        }
    });
}

#[test]
fn shield_output_that_nobody_takes_is_dropped_also_if_it_is_an_error() {
    for finished_before in [false, true] {
        on_both(async || {
            let alive = Alive::default();
            let cleanup = cleanup_of(async || {
                let counted = alive.one();
                let shielded = shield(async move { Err::<(), _>(counted) });
                if finished_before {
                    until(|| format!("{shielded:?}") == "Shield { is_finished: true }").await;
                }
                drop(shielded);
            });
            assert!(cleanup.await.is_empty());
            assert_eq!(alive.count(), 0);
        });
    }
}

/// It used to be a panic of a bare task, of which nobody hears; or it came out of the drop.
#[test]
fn shield_output_that_nobody_takes_may_panic_as_it_is_dropped() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_panic_of_a_destructor_goes_to_the_pool_and_the_output_to_the_caller() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let bomb = OnDrop::new(|| panic!("in drop"));
            let work = poll_fn(move |_| {
                let _captured = &bomb;
                Poll::Ready(42)
            });
            assert_eq!(shield(work).await, 42);
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn shield_awaited_by_reference_loses_nothing_in_a_select() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_goes_on_after_a_timeout_that_waits_for_it() {
    on_current_thread(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let work = gated(&gate, &log);
        let mut limited = Box::pin(timeout(Duration::from_secs(1), async { shield(work).await }));
        assert!(poll_once(limited.as_mut()).await.is_pending());
        advance(Duration::from_secs(2)).await;
        assert!(waits_for(limited, gate, log).await.is_err());
    });
}

#[test]
fn shield_that_leaves_the_pool_gives_its_output_afterwards() {
    on_both(|| async {
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
    });
}

#[test]
fn shield_that_panics_without_a_pool_harms_nobody() {
    on_both(|| async {
        let alive = Alive::default();
        let gate = LatchEvent::new();
        let (open, counted) = (gate.wait_set(), alive.one());
        drop(shield(async move {
            let _counted = counted;
            open.await;
            quiet_panic("nobody hears of this");
        }));
        gate.set();
        until(|| alive.count() == 0).await;
        assert_eq!(shield(async { 1 }).await, 1);
        assert_eq!(tokio::spawn(async { 2 }).await.unwrap(), 2);
    });
}

#[test]
fn shield_without_a_pool_goes_on_when_it_is_dropped() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        drop(shield(gated(&gate, &log)));
        gate.set();
        until(|| log.events() == ["finished"]).await;
    });
}

// ===== with_exit =====

/// An exit handler that writes down what it is told.
fn writes<R: Send + 'static>(log: &Log) -> impl FnOnce(R, Exit) -> Ready<Result<(), BoxError>> + Send + use<R> {
    let log = log.clone();
    move |_, exit| {
        log.push(format!("{exit:?}"));
        ready(Ok(()))
    }
}

/// An exit handler that fails, or panics.
fn breaks<R: Send + 'static>(panics: bool) -> impl FnOnce(R, Exit) -> Ready<Result<(), BoxError>> + Send {
    move |_, _| if panics { panic!("exit") } else { ready(Err("exit".into())) }
}

#[test]
fn with_exit_gives_the_resource_to_the_body_and_then_to_the_handler() {
    on_both(|| async {
        let exit = |resource: Vec<_>, exit| async move {
            assert_eq!((resource, exit), (vec!["made", "used"], Exit::Finished));
            io::Result::Ok(())
        };
        let body = async |resource: &mut Vec<&str>| {
            resource.push("used");
            tokio::task::yield_now().await;
            Ok(resource.len())
        };
        assert_eq!(with_exit(vec!["made"], body, exit).await.unwrap(), 2);
    });
}

#[test]
fn with_exit_tells_the_handler_how_the_body_ended() {
    on_both(|| async {
        let log = Log::default();
        with_exit((), async |_| Ok(()), writes(&log)).await.unwrap();
        with_exit((), async |_| Err::<(), _>("body".into()), writes(&log)).await.unwrap_err();
        let panicking = async |_: &mut ()| if true { panic!("body") } else { Ok(()) };
        assert_eq!(panic_of(with_exit((), panicking, writes(&log))).await, "body");
        let mut dropped = Box::pin(with_exit((), async |_| pending::<Result<(), BoxError>>().await, writes(&log)));
        assert!(poll_once(dropped.as_mut()).await.is_pending());
        drop(dropped);
        until(|| log.events().len() == 4).await;
        assert_eq!(log.events(), ["Finished", "Failed", "Panicked", "Cancelled"]);
    });
}

#[test]
fn with_exit_returns_what_failed_and_no_handler_makes_it_undone() {
    let cases = [
        (Ok(42), Ok(()), "42"),
        (Err("b"), Ok(()), "b"),
        (Ok(42), Err("e"), "exit handler failed: e"),
        (Err("b"), Err("e"), "b; exit handler failed: e"),
    ];
    for (body, exit, expected) in cases {
        on_both(async || {
            let outcome = with_exit((), async |_| body, move |(), _| ready(exit)).await;
            match (&outcome, body, exit) {
                (Ok(42), Ok(_), Ok(()))
                | (Err(ExitError::Body("b")), Err(_), Ok(()))
                | (Err(ExitError::Exit("e")), Ok(_), Err(_))
                | (Err(ExitError::Both { body: "b", exit: "e" }), Err(_), Err(_)) => {}
                _ => panic!("{outcome:?}"),
            }
            assert_eq!(outcome.map_or_else(|error| error.to_string(), |value| value.to_string()), expected);
        });
    }
}

#[test]
fn with_exit_reads_well_around_and_below_a_pool() {
    on_both(|| async {
        let login = || async |_: &mut ()| Err::<(), _>(BoxError::from("no such user"));
        let request = async |_: &mut ()| {
            let nested = Pool::open(async |pool: Pool| {
                pool.build_task().name("login").spawn(async move {
                    with_exit((), login(), breaks(false)).await?;
                    Ok(())
                });
                Ok(())
            });
            Ok::<(), BoxError>(nested.await?)
        };
        let error = with_exit((), request, breaks(false)).await.unwrap_err();
        let ExitError::Both { body, .. } = &error else { panic!("{error:?}") };
        let nested = body.downcast_ref::<PoolError>().unwrap();
        let task = nested.failures()[0].task().to_string();
        let failed = "failed: no such user; exit handler failed: exit";
        assert_eq!(error.to_string(), format!("{task} {failed}; exit handler failed: exit"));
        let failed = "failed:\n  no such user\n  exit handler failed: exit";
        assert_eq!(format!("{error:#}"), format!("{task} {failed}\nexit handler failed: exit"));
    });
}

#[test]
fn with_exit_whose_body_was_only_asked_to_stop_is_no_failure() {
    on_both(|| async {
        let pool: Pool = Pool::builder().grace(Duration::MAX).build();
        let begun = LatchEvent::new();
        let begin = begun.clone();
        pool.spawn(async move {
            let body = async |_: &mut ()| {
                let nested = Pool::builder().grace(Duration::ZERO).open(async |_: Pool| {
                    begin.set();
                    pending::<Result<(), BoxError>>().await
                });
                Ok::<(), BoxError>(nested.await?)
            };
            with_exit((), body, |_, _| ready(Ok(()))).await?;
            Ok(())
        });
        pool.cancel_on(begun.wait_set());
        pool.run().await.unwrap();
    });
}

#[test]
fn with_exit_whose_body_passes_on_how_a_task_failed_adds_no_failure() {
    on_both(|| async {
        // With a grace the body is not cut off before it can pass that on.
        let opened = Pool::builder().grace(Duration::MAX).open(async |pool: Pool| {
            let failing = pool.spawn_with_handle(async { Err::<(), _>("no such user".into()) });
            let body = async |_: &mut ()| Ok::<(), BoxError>(failing.await?);
            Ok(with_exit((), body, |_, _| ready(Ok(()))).await?)
        });
        assert_eq!(failures(opened.await.unwrap_err().failures()), ["error: no such user"]);
    });
}

#[test]
fn with_exit_whose_handler_was_cancelled_is_a_failure_also_while_its_pool_closes() {
    on_both(|| async {
        let pool: Pool = Pool::builder().grace(Duration::MAX).build();
        let stop = pool.clone();
        pool.spawn(async move {
            let asked = cancellation_token();
            let handler = move |(), _| async move {
                stop.cancel();
                asked.cancelled().await;
                let nested = Pool::open(async |pool: Pool| {
                    pool.cancel();
                    pending::<Result<(), BoxError>>().await
                });
                Ok::<(), BoxError>(nested.await?)
            };
            with_exit((), async |_| Ok(()), handler).await?;
            Ok(())
        });
        let error = pool.run().await.unwrap_err();
        assert_eq!(failures(error.failures()), ["error: exit handler failed: pool cancelled"]);
    });
}

#[test]
fn with_exit_that_is_dropped_is_waited_for_by_the_pool() {
    on_both(|| async {
        let (gate, log) = (LatchEvent::new(), Log::default());
        let opened = cleanup_of(async || {
            let work = gated(&gate, &log);
            let exit = |(), exit| async move {
                assert_eq!(exit, Exit::Cancelled);
                work.await;
                Ok::<_, BoxError>(())
            };
            let mut visit = Box::pin(with_exit((), async |_| pending::<Result<(), BoxError>>().await, exit));
            assert!(poll_once(visit.as_mut()).await.is_pending());
        });
        assert!(waits_for(opened, gate.clone(), log.clone()).await.is_empty());
    });
}

#[test]
fn with_exit_that_is_dropped_reports_how_the_handler_failed() {
    for (panics, expected) in [(false, "error: exit"), (true, "panic: exit")] {
        on_both(async || {
            let cleanup = cleanup_of(async || {
                let mut visit =
                    Box::pin(with_exit((), async |_| pending::<Result<(), BoxError>>().await, breaks(panics)));
                assert!(poll_once(visit.as_mut()).await.is_pending());
            });
            assert_eq!(cleanup.await, [expected]);
        });
    }
}

#[test]
fn with_exit_names_the_line_of_its_call_in_a_cleanup_failure() {
    on_both(|| async {
        let line = Cell::new(0);
        let error = Pool::open(async |_: Pool| {
            line.set(line!() + 1);
            let visit = with_exit((), async |_| pending::<Result<(), BoxError>>().await, breaks(false));
            drop(poll_once(Box::pin(visit).as_mut()).await);
            Ok(())
        })
        .await
        .unwrap_err();
        let at = error.cleanup_failures()[0].task().spawned_at();
        assert_eq!((at.file(), at.line()), (file!(), line.get()));
    });
}

#[test]
fn with_exit_handler_runs_when_its_task_is_aborted() {
    #[derive(Clone, Copy, Debug)]
    enum By {
        Handle,
        Cancel,
        Failure,
    }
    for by in [By::Handle, By::Cancel, By::Failure] {
        on_both(async || {
            let (gate, log, begun) = (LatchEvent::new(), Log::default(), LatchEvent::new());
            let opened: std::pin::Pin<Box<dyn Future<Output = Result<(), PoolError>>>> =
                Box::pin(Pool::open(async |pool: Pool| {
                    let (work, begin) = (gated(&gate, &log), begun.clone());
                    let body = async move |_: &mut ()| {
                        begin.set();
                        pending::<Result<(), BoxError>>().await
                    };
                    let exit = |(), exit| async move {
                        assert_eq!(exit, Exit::Cancelled);
                        work.await;
                        Err::<(), BoxError>("exit".into())
                    };
                    let task = pool.spawn_with_handle(async move {
                        with_exit((), body, exit).await?;
                        Ok(())
                    });
                    begun.wait_set().await;
                    match by {
                        By::Handle => task.cancel(),
                        By::Cancel => pool.cancel(),
                        By::Failure => return Err("body".into()),
                    }
                    Ok(())
                }));
            let error = waits_for(opened, gate.clone(), log.clone()).await.unwrap_err();
            assert_eq!(failures(error.cleanup_failures()), ["error: exit"], "{by:?}");
            let failed: &[&str] = if matches!(by, By::Failure) { &["error: body"] } else { &[] };
            assert_eq!(failures(error.failures()), failed, "{by:?}");
        });
    }
}

#[test]
fn with_exit_handler_runs_in_a_bare_task_that_is_aborted() {
    on_both(|| async {
        let (log, begun) = (Log::default(), LatchEvent::new());
        let (begin, exit) = (begun.clone(), writes(&log));
        let task = tokio::spawn(async move {
            let body = async |_: &mut ()| {
                begin.set();
                pending::<Result<(), BoxError>>().await
            };
            with_exit((), body, exit).await
        });
        begun.wait_set().await;
        assert!(cancel_task(task).await.unwrap().is_none());
        until(|| log.events() == ["Cancelled"]).await;
    });
}

#[test]
fn with_exit_handler_that_has_begun_is_not_cut_short() {
    on_both(|| async {
        let (gate, log, begun) = (LatchEvent::new(), Log::default(), LatchEvent::new());
        let opened = cleanup_of(async || {
            let (work, begin) = (gated(&gate, &log), begun.clone());
            let exit = |(), exit| async move {
                assert_eq!(exit, Exit::Finished);
                begin.set();
                work.await;
                Ok::<_, BoxError>(())
            };
            let mut visit = Box::pin(with_exit((), async |_| Ok(()), exit));
            // The gate may be open by the time that the handler begins; until then the body is over once polled.
            assert!(poll_once(visit.as_mut()).await.is_pending());
            begun.wait_set().await;
        });
        assert!(waits_for(opened, gate.clone(), log.clone()).await.is_empty());
    });
}

#[test]
fn with_exit_dropped_while_the_handler_runs_reports_the_failure_of_the_body() {
    for (panics, expected) in [(false, "error: body"), (true, "panic: body")] {
        for handler_fails in [false, true] {
            on_both(async || {
                let gate = LatchEvent::new();
                let cleanup = cleanup_of(async || {
                    let opened = gate.wait_set();
                    let body = async |_: &mut ()| {
                        if panics { panic!("body") } else { Err::<(), BoxError>("body".into()) }
                    };
                    let exit = move |(), _| async move {
                        opened.await;
                        if handler_fails { Err("exit".into()) } else { Ok(()) }
                    };
                    let mut visit = Box::pin(with_exit((), body, exit));
                    stays_pending(visit.as_mut()).await;
                    drop(visit);
                    gate.set();
                });
                let all = if handler_fails { vec![expected, "error: exit"] } else { vec![expected] };
                assert_eq!(cleanup.await, all);
            });
        }
    }
}

#[test]
fn with_exit_handler_begins_when_all_that_the_body_opened_has_ended() {
    for dropped in [false, true] {
        on_both(async || {
            let (gate, log) = (LatchEvent::new(), Log::default());
            let mut opened = Box::pin(cleanup_of(async || {
                let body = async |_: &mut ()| {
                    drop(shield(gated(&gate, &log)));
                    let nested = Pool::open(async |_: Pool| {
                        drop(shield(gated(&gate, &log)));
                        if dropped { pending().await } else { Ok(()) }
                    });
                    if !dropped {
                        assert!(poll_once(pin!(nested)).await.is_pending());
                        return Ok(());
                    }
                    nested.await?;
                    Ok(())
                };
                let mut visit = Box::pin(with_exit((), body, writes(&log)));
                if dropped {
                    assert!(poll_once(visit.as_mut()).await.is_pending());
                } else {
                    visit.await.unwrap();
                }
            }));
            stays_pending(opened.as_mut()).await;
            assert!(log.events().is_empty(), "{:?}", log.events());
            gate.set();
            assert!(opened.await.is_empty());
            let how = if dropped { "Cancelled" } else { "Finished" };
            assert_eq!(log.events(), ["finished", "finished", how]);
        });
    }
}

#[test]
fn with_exit_handler_finds_the_locals_of_a_dropped_body_gone() {
    on_both(|| async {
        let log = Log::default();
        let body = async |_: &mut ()| {
            let _local = log.on_drop("local");
            pending::<Result<(), BoxError>>().await
        };
        let mut visit = Box::pin(with_exit(log.on_drop("resource"), async |_| body(&mut ()).await, writes(&log)));
        assert!(poll_once(visit.as_mut()).await.is_pending());
        drop(visit);
        until(|| log.events().len() == 3).await;
        assert_eq!(log.events(), ["local", "Cancelled", "resource"]);
    });
}

#[test]
fn with_exit_handlers_nest_and_run_inside_out() {
    for dropped in [false, true] {
        on_both(async || {
            let log = Log::default();
            let handler = |name: &'static str| {
                let log = log.clone();
                move |(), exit: Exit| async move {
                    tokio::task::yield_now().await;
                    log.push(format!("{name} {exit:?}"));
                    Err::<(), BoxError>(name.into())
                }
            };
            let cleanup = cleanup_of(async || {
                let innermost = async |_: &mut ()| if dropped { pending().await } else { Ok(()) };
                let inner = async |_: &mut ()| with_exit((), innermost, handler("inner")).await.map_err(BoxError::from);
                let middle = async |_: &mut ()| with_exit((), inner, handler("middle")).await.map_err(BoxError::from);
                let mut visit = Box::pin(with_exit((), middle, handler("outer")));
                if dropped {
                    assert!(poll_once(visit.as_mut()).await.is_pending());
                } else {
                    let error = visit.await.unwrap_err().to_string();
                    let inner = "exit handler failed: inner; exit handler failed: middle";
                    assert_eq!(error, format!("{inner}; exit handler failed: outer"));
                }
            });
            let cleanup = cleanup.await;
            if dropped {
                assert_eq!(log.events(), ["inner Cancelled", "middle Cancelled", "outer Cancelled"]);
                assert_eq!(cleanup, ["error: inner", "error: middle", "error: outer"]);
            } else {
                assert_eq!(log.events(), ["inner Finished", "middle Failed", "outer Failed"]);
                assert!(cleanup.is_empty());
            }
        });
    }
}

#[test]
fn with_exit_resumes_the_panic_of_the_body_and_reports_how_the_handler_failed() {
    for (panics, expected) in [(false, "error: exit"), (true, "panic: exit")] {
        on_both(async || {
            let cleanup = cleanup_of(async || {
                let body = async |_: &mut ()| if true { panic!("body") } else { Ok(()) };
                assert_eq!(panic_of(with_exit((), body, breaks(panics))).await, "body");
            });
            assert_eq!(cleanup.await, [expected]);
        });
    }
}

#[test]
fn with_exit_resumes_the_panic_of_the_handler_and_reports_the_error_of_the_body() {
    for (fails, expected) in [(false, &[][..]), (true, &["error: body"])] {
        on_both(async || {
            let cleanup = cleanup_of(async || {
                let body = async |_: &mut ()| if fails { Err(BoxError::from("body")) } else { Ok(()) };
                assert_eq!(panic_of(with_exit((), body, breaks(true))).await, "exit");
            });
            assert_eq!(cleanup.await, expected);
        });
    }
}

#[test]
fn with_exit_reports_the_panic_of_a_destructor_of_the_body() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let bomb = OnDrop::new(|| panic!("in drop"));
            let body = async move |_: &mut ()| {
                let mut output = Some(Ok(42));
                let work = poll_fn(move |_| {
                    let _captured = &bomb;
                    Poll::Ready(output.take().unwrap())
                });
                let mut work = pin!(work);
                work.as_mut().await
            };
            let log = Log::default();
            let ended = with_exit((), body, writes(&log));
            // The panic is that of the body's last poll: its locals are dropped there.
            assert_eq!(panic_of(ended).await, "in drop");
            assert_eq!(log.events(), ["Panicked"]);
        });
        assert!(cleanup.await.is_empty());
    });
}

/// The panic used to unwind out of the call in place of the handler's error, which was lost; and it ended the process if
/// the handler had panicked.
#[test]
fn with_exit_tells_how_its_handler_failed_although_the_value_of_the_body_panics_as_it_is_dropped() {
    for panics in [false, true] {
        on_both(async || {
            let cleanup = cleanup_of(async || {
                let body = async |_: &mut ()| Ok::<_, BoxError>(OnDrop::new(|| quiet_panic("value")));
                let ended = with_exit((), body, breaks(panics));
                if panics {
                    assert_eq!(panic_of(ended).await, "exit");
                } else {
                    assert_eq!(ended.await.err().unwrap().to_string(), "exit handler failed: exit");
                }
            });
            assert_eq!(cleanup.await, ["panic: value"]);
        });
    }
}

#[test]
fn with_exit_keeps_an_error_whose_future_panics_as_it_is_dropped() {
    on_both(|| async {
        let cleanup = cleanup_of(async || {
            let body = |_: &mut ()| {
                let bomb = OnDrop::new(|| panic!("in drop"));
                poll_fn(move |_| {
                    let _captured = &bomb;
                    Poll::Ready(Err::<(), _>(BoxError::from("body")))
                })
            };
            let log = Log::default();
            let error = with_exit((), body, writes(&log)).await.unwrap_err();
            assert_eq!(error.to_string(), "body");
            assert_eq!(log.events(), ["Failed"]);
        });
        assert_eq!(cleanup.await, ["panic: in drop"]);
    });
}

#[test]
fn with_exit_that_was_never_polled_drops_the_resource_without_the_handler() {
    on_both(|| async {
        let log = Log::default();
        let exit = writes(&log);
        let visit = with_exit(log.on_drop("resource"), async |_| Ok(()), exit);
        drop(visit);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(log.events(), ["resource"]);
    });
}

#[test]
fn with_exit_in_a_spawned_task_borrows_in_its_body() {
    on_both(|| async {
        let task = tokio::spawn(async {
            let suffix = String::from("!");
            let body = async |text: &mut String| {
                text.push_str("lo");
                tokio::task::yield_now().await;
                text.push_str(&suffix);
                Ok::<_, BoxError>(text.clone())
            };
            let said = with_exit(String::from("hel"), body, |text, _| async move {
                assert_eq!(text, "hello!");
                Ok(())
            });
            said.await.unwrap()
        });
        assert_eq!(task.await.unwrap(), "hello!");
    });
}

#[test]
fn with_exit_handler_is_in_the_enclosing_pool() {
    on_both(|| async {
        let error = Pool::open(async |_: Pool| {
            let exit = |(), _| async {
                Pool::<BoxError>::current().spawn(async { Err("spawned by the handler".into()) });
                Ok::<_, BoxError>(())
            };
            with_exit((), async |_| Ok(()), exit).await?;
            Ok(())
        })
        .await
        .unwrap_err();
        assert_eq!(failures(error.failures()), ["error: spawned by the handler"]);
    });
}

#[test]
fn with_exit_polled_outside_of_a_runtime_panics_naming_the_call() {
    let line = line!() + 1;
    let visit = with_exit((), async |_| Ok(()), writes(&Log::default()));
    let message = panic_text(|| task::spawn(visit).poll().is_ready());
    assert!(message.contains("polled outside of a tokio runtime"), "{message}");
    assert!(message.contains(&format!("{}:{line}:", file!())), "{message}");
}

#[test]
fn with_exit_panics_if_the_runtime_shuts_down_before_the_handler_has_ended() {
    let runtime = runtime();
    let handled = Arc::new(AtomicBool::new(false));
    let handle = handled.clone();
    let exit = move |(), _| async move {
        handle.store(true, Ordering::SeqCst);
        Ok::<_, BoxError>(())
    };
    let mut visit = task::spawn(with_exit((), async |_| Ok(()), exit));
    let entered = runtime.enter();
    assert_pending!(visit.poll());
    drop(entered);
    drop(runtime);
    let message = panic_text(|| visit.poll().is_ready());
    assert!(message.contains("the runtime of an exit handler has shut down"), "{message}");
    assert!(!handled.load(Ordering::SeqCst), "no handler runs in a runtime that shuts down");
}

#[test]
fn with_exit_panics_if_the_runtime_shuts_down_while_the_handler_runs() {
    let (runtime, alive, begun) = (runtime(), Alive::default(), LatchEvent::new());
    let (counted, begins) = (alive.one(), begun.clone());
    let exit = move |(), _| async move {
        let _counted = counted;
        begins.set();
        pending::<Result<(), BoxError>>().await
    };
    let mut visit = Box::pin(with_exit((), async |_| Ok(()), exit));
    runtime.block_on(async {
        assert!(poll_once(visit.as_mut()).await.is_pending());
        begun.wait_set().await;
        stays_pending(visit.as_mut()).await;
        assert_eq!(alive.count(), 1);
    });
    drop(runtime);
    assert_eq!(alive.count(), 0);
    let message = panic_text(|| task::spawn(visit).poll());
    assert!(message.contains("the runtime of an exit handler has shut down"), "{message}");
}

#[test]
fn with_exit_dropped_after_its_runtime_has_shut_down_drops_the_resource() {
    let (runtime, log) = (runtime(), Log::default());
    let resource = log.on_drop("resource");
    let mut visit = task::spawn(with_exit(resource, async |_| pending::<Result<(), BoxError>>().await, writes(&log)));
    let entered = runtime.enter();
    assert_pending!(visit.poll());
    drop(entered);
    drop(runtime);
    drop(visit);
    assert_eq!(log.events(), ["resource"]);
}

#[test]
fn with_exit_works_under_a_timeout() {
    on_current_thread(|| async {
        let log = Log::default();
        let visit = with_exit((), async |_| pending::<Result<(), BoxError>>().await, writes(&log));
        assert!(timeout(Duration::from_secs(1), visit).await.is_err());
        assert_eq!(log.events(), ["Cancelled"], "the handler has ended when the timeout returns");
    });
}
