//! The signals of the operating system: none is lost, the first cancels, the second aborts.
//!
//! They go to this whole process, so that only one test at a time may send them.
#![cfg(unix)]

#[path = "it/support/mod.rs"]
#[allow(unused, reason = "it is the library of the tests in `it`")]
mod support;

use std::future::{Future, pending};
use std::pin::pin;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aiodrive::{ClosingReason, Failure, Pool, ShutdownSignals, cancellation_token, shutdown_signal};
use tokio::runtime::Builder;
use tokio::time::timeout;

use self::support::{Log, panic_of, panic_text, poll_once, poll_until, stays_pending, until};

/// Runs a test alone, on each kind of runtime. The clock is not paused: it would run ahead while a signal is awaited.
fn alone<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        alone_on(builder, &test);
    }
}

/// Runs a test alone, on this kind of runtime.
fn alone_on<F: Future<Output = ()>>(mut builder: Builder, test: impl Fn() -> F) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), test()).await.expect("the test hangs") });
}

/// Sends a signal to this process, and waits until everybody who listens has been told.
async fn send(signal: &str) {
    let mut witness = ShutdownSignals::new();
    let sent = Command::new("kill").args([signal, &std::process::id().to_string()]).status().unwrap();
    assert!(sent.success());
    witness.recv().await;
}

/// A pool with a task that hears the request to stop, and goes on until it is aborted.
fn stubborn() -> (Pool, Log) {
    let (pool, log): (Pool, _) = (Pool::builder().grace(Duration::MAX).build(), Log::default());
    let seen = log.clone();
    pool.spawn(async move {
        let _gone = seen.on_drop("aborted");
        seen.push("begun");
        cancellation_token().cancelled().await;
        seen.push("asked");
        pending::<()>().await
    });
    (pool, log)
}

#[test]
fn no_signal_is_lost_between_two_calls() {
    alone(|| async {
        let mut signals = ShutdownSignals::new();
        send("-INT").await;
        send("-TERM").await;
        assert!(poll_once(pin!(signals.recv())).await.is_ready());
        assert!(poll_once(pin!(signals.recv())).await.is_ready());
        // A call that is dropped takes none along.
        assert!(poll_once(pin!(signals.recv())).await.is_pending(), "there were two");
        // Of two that wait, tokio may tell one a moment before the other.
        send("-TERM").await;
        signals.recv().await;
    });
}

#[test]
fn the_first_signal_cancels_and_the_second_aborts() {
    for (first, second) in [("-INT", "-TERM"), ("-TERM", "-INT"), ("-TERM", "-TERM"), ("-INT", "-INT")] {
        alone(|| async {
            let (pool, log) = stubborn();
            pool.cancel_on_signals();
            let run = tokio::spawn(pool.clone().run());
            until(|| log.events() == ["begun"]).await;
            send(first).await;
            until(|| log.events() == ["begun", "asked"]).await;
            assert!(matches!(pool.closing_reason(), Some(ClosingReason::Cancelled(_))));
            assert!(!run.is_finished());
            send(second).await;
            run.await.unwrap().unwrap();
            assert_eq!(log.events(), ["begun", "asked", "aborted"]);
        });
    }
}

/// It listens from the call on, if that is in a runtime.
#[test]
fn a_signal_that_comes_before_the_pool_runs_cancels_it() {
    alone(|| async {
        let (pool, log) = stubborn();
        pool.cancel_on_signals();
        send("-TERM").await;
        let run = tokio::spawn(pool.clone().run());
        until(|| log.events() == ["begun", "asked"]).await;
        send("-TERM").await;
        run.await.unwrap().unwrap();
        assert_eq!(log.events().last().unwrap(), "aborted");
    });
}

/// On one thread, where whatever has been spawned is polled while another yields: so the watcher listens then.
#[test]
fn a_pool_that_is_planned_outside_of_a_runtime_hears_of_signals_once_it_runs() {
    alone_on(Builder::new_current_thread(), || async {
        let outside = thread::spawn(|| {
            let (pool, log) = stubborn();
            pool.cancel_on_signals();
            (pool, log)
        });
        let (pool, log) = outside.join().unwrap();
        let mut run = pin!(pool.clone().run());
        stays_pending(run.as_mut()).await;
        assert_eq!(log.events(), ["begun"]);
        send("-INT").await;
        poll_until(run.as_mut(), || log.events() == ["begun", "asked"]).await;
        assert!(matches!(pool.closing_reason(), Some(ClosingReason::Cancelled(_))));
        stays_pending(run.as_mut()).await;
        send("-TERM").await;
        run.await.unwrap();
        assert_eq!(log.events(), ["begun", "asked", "aborted"]);
    });
}

#[test]
fn signals_in_a_runtime_without_the_io_driver_are_a_failure_of_the_pool() {
    for inside in [false, true] {
        let (pool, log) = stubborn();
        let mut runtime = Builder::new_current_thread();
        let error = runtime.enable_time().build().unwrap().block_on(async {
            match inside {
                true => pool.cancel_on_signals(),
                false => thread::scope(|scope| scope.spawn(|| pool.cancel_on_signals()).join().unwrap()),
            }
            let aborted = pool.clone();
            pool.spawn(async move {
                cancellation_token().cancelled().await;
                aborted.abort();
            });
            pool.clone().run().await.unwrap_err()
        });
        let [failed] = error.failures() else { panic!("{error:#}") };
        assert_eq!(failed.task().name(), Some("cancel_on_signals"), "inside: {inside}");
        let Failure::Panic(payload) = failed.failure() else { panic!("{error:#}") };
        assert!(payload.message().is_some_and(|text| text.contains("enable_io")), "{error:#}");
        assert_eq!(pool.closing_reason(), Some(ClosingReason::Failed), "inside: {inside}");
        assert_eq!(log.events().last().unwrap(), "aborted", "inside: {inside}");
    }
}

#[test]
fn who_listens_in_a_runtime_without_the_io_driver_panics() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let called = panic_text(|| drop(ShutdownSignals::new()));
        let polled = panic_of(shutdown_signal()).await;
        for panic in [called, polled] {
            assert!(panic.contains("enable_io"), "{panic}");
        }
    });
}

/// What the documentation warns of: each of the two hears the *first* signal.
#[test]
fn two_shutdown_signals_fire_at_the_same_signal() {
    alone(|| async {
        let (pool, log) = stubborn();
        pool.cancel_on(aiodrive::prime(shutdown_signal()));
        pool.abort_on(aiodrive::prime(shutdown_signal()));
        let run = tokio::spawn(pool.clone().run());
        until(|| log.events() == ["begun"]).await;
        send("-TERM").await;
        run.await.unwrap().unwrap();
        assert_eq!(log.events().last().unwrap(), "aborted");
    });
}
