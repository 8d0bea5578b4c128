//! `with_exit`: a handler that runs however its body ends.

use std::cell::Cell;
use std::future::{Future, Ready, pending, poll_fn, ready};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, ExitError, LatchEvent, Pool, PoolError, cancel_task, cancellation_token, shield, timeout, with_exit,
};
use macro_rules_attribute::apply;
use tokio_test::{assert_pending, task};

use crate::support::{
    Alive, Log, OnDrop, both, cleanup_of, current_thread, failures, gated, panic_of, panic_text, paused_runtime,
    poll_once, quiet_panic, stays_pending, until, waits_for,
};

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

#[apply(both)]
async fn with_exit_gives_the_resource_to_the_body_and_then_to_the_handler() {
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
}

#[apply(both)]
async fn with_exit_tells_the_handler_how_the_body_ended() {
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
}

#[apply(both)]
async fn with_exit_returns_what_failed_and_no_handler_makes_it_undone() {
    let cases = [
        (Ok(42), Ok(()), "42"),
        (Err("b"), Ok(()), "b"),
        (Ok(42), Err("e"), "exit handler failed: e"),
        (Err("b"), Err("e"), "b; exit handler failed: e"),
    ];
    for (body, exit, expected) in cases {
        let outcome = with_exit((), async |_| body, move |(), _| ready(exit)).await;
        match (&outcome, body, exit) {
            (Ok(42), Ok(_), Ok(()))
            | (Err(ExitError::Body("b")), Err(_), Ok(()))
            | (Err(ExitError::Exit("e")), Ok(_), Err(_))
            | (Err(ExitError::Both { body: "b", exit: "e" }), Err(_), Err(_)) => {}
            _ => panic!("{outcome:?}"),
        }
        assert_eq!(
            outcome.map_or_else(|error| error.to_string(), |value| value.to_string()),
            expected,
            "body: {body:?}, handler: {exit:?}"
        );
    }
}

#[apply(both)]
async fn with_exit_reads_well_around_and_below_a_pool() {
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
}

#[apply(both)]
async fn with_exit_whose_body_was_only_asked_to_stop_is_no_failure() {
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
}

#[apply(both)]
async fn with_exit_whose_body_passes_on_how_a_task_failed_adds_no_failure() {
    // With a grace the body is not cut off before it can pass that on.
    let opened = Pool::builder().grace(Duration::MAX).open(async |pool: Pool| {
        let failing = pool.spawn_with_handle(async { Err::<(), _>("no such user".into()) });
        let body = async |_: &mut ()| Ok::<(), BoxError>(failing.await?);
        Ok(with_exit((), body, |_, _| ready(Ok(()))).await?)
    });
    assert_eq!(failures(opened.await.unwrap_err().failures()), ["error: no such user"]);
}

#[apply(both)]
async fn with_exit_whose_handler_was_cancelled_is_a_failure_also_while_its_pool_closes() {
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
}

#[apply(both)]
async fn with_exit_that_is_dropped_is_waited_for_by_the_pool() {
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
}

#[apply(both)]
async fn with_exit_that_is_dropped_reports_how_the_handler_failed() {
    for (panics, expected) in [(false, "error: exit"), (true, "panic: exit")] {
        let cleanup = cleanup_of(async || {
            let mut visit = Box::pin(with_exit((), async |_| pending::<Result<(), BoxError>>().await, breaks(panics)));
            assert!(poll_once(visit.as_mut()).await.is_pending());
        });
        assert_eq!(cleanup.await, [expected]);
    }
}

#[apply(both)]
async fn with_exit_that_is_dropped_reports_no_handler_that_says_only_that_it_was_stopped() {
    let opened = Pool::open(async |_: Pool| {
        let handler = async |(), _: Exit| {
            let stopped = Pool::open(async |pool: Pool| {
                pool.cancel();
                pending::<Result<(), BoxError>>().await
            });
            Ok::<_, BoxError>(stopped.await?)
        };
        let mut visit = Box::pin(with_exit((), async |_| pending::<Result<(), BoxError>>().await, handler));
        assert!(poll_once(visit.as_mut()).await.is_pending());
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn with_exit_names_the_line_of_its_call_in_a_cleanup_failure() {
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
}

#[apply(both)]
async fn with_exit_handler_runs_when_its_task_is_aborted() {
    #[derive(Clone, Copy, Debug)]
    enum By {
        Handle,
        Cancel,
        Failure,
    }
    for by in [By::Handle, By::Cancel, By::Failure] {
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
    }
}

#[apply(both)]
async fn with_exit_handler_runs_in_a_bare_task_that_is_aborted() {
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
}

#[apply(both)]
async fn with_exit_handler_that_has_begun_is_not_cut_short() {
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
}

#[apply(both)]
async fn with_exit_dropped_while_the_handler_runs_reports_the_failure_of_the_body() {
    for (panics, expected) in [(false, "error: body"), (true, "panic: body")] {
        for handler_fails in [false, true] {
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
            assert_eq!(cleanup.await, all, "handler fails: {handler_fails}");
        }
    }
}

#[apply(both)]
async fn with_exit_handler_begins_when_all_that_the_body_opened_has_ended() {
    for dropped in [false, true] {
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
        assert!(opened.await.is_empty(), "a failure is reported; dropped: {dropped}");
        let how = if dropped { "Cancelled" } else { "Finished" };
        assert_eq!(log.events(), ["finished", "finished", how]);
    }
}

#[apply(both)]
async fn with_exit_handler_finds_the_locals_of_a_dropped_body_gone() {
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
}

#[apply(both)]
async fn with_exit_handlers_nest_and_run_inside_out() {
    for dropped in [false, true] {
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
            assert!(cleanup.is_empty(), "a failure is reported twice: {cleanup:?}");
        }
    }
}

#[apply(both)]
async fn with_exit_resumes_the_panic_of_the_body_and_reports_how_the_handler_failed() {
    for (panics, expected) in [(false, "error: exit"), (true, "panic: exit")] {
        let cleanup = cleanup_of(async || {
            let body = async |_: &mut ()| if true { panic!("body") } else { Ok(()) };
            assert_eq!(panic_of(with_exit((), body, breaks(panics))).await, "body");
        });
        assert_eq!(cleanup.await, [expected]);
    }
}

#[apply(both)]
async fn with_exit_resumes_the_panic_of_the_handler_and_reports_the_error_of_the_body() {
    for (fails, expected) in [(false, &[][..]), (true, &["error: body"])] {
        let cleanup = cleanup_of(async || {
            let body = async |_: &mut ()| if fails { Err(BoxError::from("body")) } else { Ok(()) };
            assert_eq!(panic_of(with_exit((), body, breaks(true))).await, "exit");
        });
        assert_eq!(cleanup.await, expected);
    }
}

#[apply(both)]
async fn with_exit_resumes_the_panic_of_a_destructor_of_what_the_body_holds() {
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
}

/// The panic used to unwind out of the call in place of the handler's error, which was lost; and it ended the process if
/// the handler had panicked.
#[apply(both)]
async fn with_exit_tells_how_its_handler_failed_although_the_value_of_the_body_panics_as_it_is_dropped() {
    for panics in [false, true] {
        let cleanup = cleanup_of(async || {
            let body = async |_: &mut ()| Ok::<_, BoxError>(OnDrop::new(|| quiet_panic("value")));
            let ended = with_exit((), body, breaks(panics));
            if panics {
                assert_eq!(panic_of(ended).await, "exit", "the panic of the handler is not the outcome");
            } else {
                assert_eq!(ended.await.err().unwrap().to_string(), "exit handler failed: exit");
            }
        });
        assert_eq!(cleanup.await, ["panic: value"], "handler panics: {panics}");
    }
}

#[apply(both)]
async fn with_exit_keeps_an_error_whose_future_panics_as_it_is_dropped() {
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
}

#[apply(both)]
async fn with_exit_that_was_never_polled_drops_the_resource_without_the_handler() {
    let log = Log::default();
    let exit = writes(&log);
    let visit = with_exit(log.on_drop("resource"), async |_| Ok(()), exit);
    drop(visit);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.events(), ["resource"]);
}

#[apply(both)]
async fn with_exit_in_a_spawned_task_borrows_in_its_body() {
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
}

#[apply(both)]
async fn with_exit_handler_is_in_the_enclosing_pool() {
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
    let runtime = paused_runtime();
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
    let (runtime, alive, begun) = (paused_runtime(), Alive::default(), LatchEvent::new());
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
fn with_exit_resumes_the_panic_of_its_body_if_the_runtime_shuts_down_before_the_handler_has_ended() {
    let runtime = paused_runtime();
    let body = async |(): &mut ()| -> Result<(), BoxError> { quiet_panic("broken") };
    let mut visit = task::spawn(with_exit((), body, |(), _| async { Ok(()) }));
    let entered = runtime.enter();
    assert_pending!(visit.poll());
    drop(entered);
    drop(runtime);
    assert_eq!(panic_text(|| visit.poll().is_ready()), "broken");
}

#[test]
fn with_exit_dropped_after_its_runtime_has_shut_down_drops_the_resource() {
    let (runtime, log) = (paused_runtime(), Log::default());
    let resource = log.on_drop("resource");
    let mut visit = task::spawn(with_exit(resource, async |_| pending::<Result<(), BoxError>>().await, writes(&log)));
    let entered = runtime.enter();
    assert_pending!(visit.poll());
    drop(entered);
    drop(runtime);
    drop(visit);
    assert_eq!(log.events(), ["resource"]);
}

#[apply(current_thread)]
async fn with_exit_works_under_a_timeout() {
    let log = Log::default();
    let visit = with_exit((), async |_| pending::<Result<(), BoxError>>().await, writes(&log));
    assert!(timeout(Duration::from_secs(1), visit).await.is_err());
    assert_eq!(log.events(), ["Cancelled"], "the handler has ended when the timeout returns");
}
