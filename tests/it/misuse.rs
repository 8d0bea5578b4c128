//! What a pool says to those who use it wrongly, and what it does not do to them.

use std::future::{Future, Ready, pending};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, LatchEvent, Pool, Started, TaskStopped, cancel_task, prime, race, shield, timeout, timeout_at, try_all,
    wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::time::Instant;
use tokio_test::{assert_ready, assert_ready_eq};

use crate::support::{Alive, Outcome, both, panic_of, panic_text, poll_once, quiet_panic};

/// The place that a message names: this file, at the line of `site`.
fn place(site: &Location<'_>) -> String {
    format!("{}:{}:", site.file(), site.line())
}

#[track_caller]
fn here() -> &'static Location<'static> {
    Location::caller()
}

/// What the crate says where there is no runtime.
const WHAT_TO_DO: &str = "outside of a tokio runtime: use it in an async fn below `#[tokio::main]`";

/// What a future panics with that is polled where there is no runtime.
fn polled_outside(future: impl Future) -> String {
    panic_text(|| tokio_test::task::spawn(future).poll().is_ready())
}

// ===== no runtime =====

#[test]
fn open_outside_of_a_runtime_names_the_call() {
    let (open, site) = (Pool::<BoxError>::open(async |_| Ok(())), here());
    let message = polled_outside(open);
    assert!(message.contains("`Pool::open`") && message.contains(WHAT_TO_DO), "{message}");
    assert!(message.contains(&place(site)), "{message}");
}

#[cfg(feature = "signal")]
#[test]
fn signals_outside_of_a_runtime_name_the_call_and_say_what_to_do() {
    let (signal, site) = (aiodrive::shutdown_signal(), here());
    let mut line = 0;
    let listens = with_panic_line(&mut line, || panic_text(|| drop(aiodrive::ShutdownSignals::new())));
    assert_eq!(line, site.line() + 2);
    let calls =
        [(polled_outside(signal), "shutdown_signal", site.line()), (listens, "ShutdownSignals::new", site.line() + 2)];
    for (message, call, line) in calls {
        assert!(message.starts_with(&format!("`{call}` at {}:{line}:", site.file())), "{message}");
        assert!(message.contains(WHAT_TO_DO), "{message}");
    }
}

#[test]
fn run_outside_of_a_runtime_names_the_call() {
    let pool = Pool::<BoxError>::new();
    let (run, site) = (pool.run(), here());
    let message = polled_outside(run);
    assert!(message.contains("`Pool::run`") && message.contains(WHAT_TO_DO), "{message}");
    assert!(message.contains(&place(site)), "{message}");
}

#[test]
fn a_pool_that_found_no_runtime_drops_its_tasks_and_is_closed() {
    let (alive, pool) = (Alive::default(), Pool::<BoxError>::new());
    let one = alive.one();
    pool.spawn(async move {
        let _one = one;
        pending::<()>().await;
    });
    let seen = pool.clone();
    polled_outside(pool.run());
    assert!(seen.is_closed() && seen.is_empty());
    assert_eq!(alive.count(), 0);
}

#[test]
fn calling_open_and_run_needs_no_runtime() {
    drop(Pool::<BoxError>::open(async |_| Ok(())));
    drop(Pool::<BoxError>::new().run());
}

// ===== running twice =====

/// The message of a second `run`.
fn run_again(pool: Pool) {
    let site = here();
    let mut line = 0;
    let message = with_panic_line(&mut line, || {
        panic_text(|| {
            drop(pool.run());
        })
    });
    assert!(message.contains("`Pool::run`") && message.contains("already ran"), "{message}");
    assert!((site.line()..site.line() + 10).contains(&line), "the panic is located in line {line}");
}

/// Notes the line that a panic in this thread is located in; it must be in this file.
fn with_panic_line<R>(line: &mut u32, code: impl FnOnce() -> R) -> R {
    thread_local! {
        static AT: std::cell::Cell<Option<(String, u32)>> = const { std::cell::Cell::new(None) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            AT.set(info.location().map(|at| (at.file().to_owned(), at.line())));
            default(info);
        }));
    });
    let result = code();
    let (file, at) = AT.take().expect("nothing panicked");
    assert_eq!(file, file!());
    *line = at;
    result
}

#[apply(both)]
async fn running_twice_in_sequence_panics() {
    let pool = Pool::new();
    pool.clone().run().await.unwrap();
    run_again(pool);
}

#[apply(both)]
async fn running_twice_in_parallel_panics() {
    let pool = Pool::new();
    pool.spawn(pending::<()>());
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    run_again(pool.clone());
    // The first run is none the worse for it.
    pool.cancel();
    run.await.unwrap();
}

#[apply(both)]
async fn running_twice_panics_although_the_first_was_not_polled() {
    let pool = Pool::new();
    let first = pool.clone().run();
    run_again(pool);
    first.await.unwrap();
}

#[apply(both)]
async fn running_again_after_the_first_was_dropped_panics() {
    let pool = Pool::new();
    drop(pool.clone().run());
    run_again(pool);
}

#[apply(both)]
async fn running_a_pool_from_its_own_task_is_a_panic_of_that_task() {
    let pool = Pool::<BoxError>::new();
    let own = pool.clone();
    pool.spawn(async move { drop(own.run()) });
    let error = pool.run().await.unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("already ran"), "{error}");
}

#[apply(both)]
async fn running_a_pool_from_its_body_is_a_panic_of_the_caller() {
    // `open` is the run of its pool: nobody else can be its owner.
    let open = Pool::<BoxError>::open(async |pool| {
        let mut second = tokio_test::task::spawn(pool.run());
        let _ = second.poll();
        Ok(())
    });
    assert!(panic_of(open).await.contains("already ran"));
}

// ===== a pool that is closed =====

async fn finished() -> Pool {
    Pool::open(async |pool| Ok(pool)).await.unwrap()
}

#[apply(both)]
async fn try_spawn_on_a_closed_pool_gives_the_future_back() {
    let pool = finished().await;
    let polled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&polled);
    let refused = pool.try_spawn(async move { flag.store(true, Ordering::SeqCst) }).unwrap_err();
    assert_eq!(refused.to_string(), "the pool is closed");
    assert!(!polled.load(Ordering::SeqCst));
    refused.into_inner().await;
    assert!(polled.load(Ordering::SeqCst));
    let named = pool.build_task().name("late").try_spawn(async {}).unwrap_err();
    named.into_inner().await;
}

/// Spawns in every way into a pool that is closed, and finds that each is refused, unpolled.
fn every_spawn_is_refused(pool: &Pool) {
    let alive = Alive::default();
    let task = || {
        let one = alive.one();
        async move {
            drop(one);
            quiet_panic("it was polled")
        }
    };
    let closure = || {
        let one = alive.one();
        move || {
            drop(one);
            quiet_panic("it was called")
        }
    };
    pool.spawn(task());
    pool.try_spawn(task()).map_err(drop).unwrap_err();
    pool.spawn_blocking(closure());
    pool.spawn_local(task());
    pool.build_task().name("late").daemon().spawn(task());
    pool.build_task().depth(1).try_spawn(task()).map_err(drop).unwrap_err();
    pool.build_task().name("late").spawn_blocking(closure());
    pool.cancel_on(task());
    assert_eq!(alive.count(), 0, "what was refused is kept");

    let one = alive.one();
    let handle = pool.spawn_with_handle(async move {
        drop(one);
        Ok(1)
    });
    assert!(
        alive.count() == 0 && handle.is_finished() && handle.id().is_none(),
        "the handle of a refused task is not at its end: {handle:?}"
    );
    handle.cancel();
    assert_ready_eq!(tokio_test::task::spawn(handle).poll(), Err(TaskStopped::Cancelled));

    let one = alive.one();
    let start = pool.start(async move |started: Started<u8>| {
        started.ready(1);
        drop(one);
    });
    assert_eq!(alive.count(), 0, "a start that was refused is kept");
    assert_ready_eq!(tokio_test::task::spawn(start).poll(), Err(TaskStopped::Cancelled));

    assert_ready!(tokio_test::task::spawn(pool.cancelled()).poll());
    assert_ready!(tokio_test::task::spawn(pool.ready()).poll());
    pool.cancel();
    assert!(pool.is_closed() && pool.is_empty() && Pool::<BoxError>::try_current().is_none());
}

#[apply(both)]
async fn a_closed_pool_refuses_tasks() {
    every_spawn_is_refused(&finished().await);
}

#[test]
fn a_closed_pool_refuses_tasks_without_a_runtime_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pool = runtime.block_on(finished());
    drop(runtime);
    every_spawn_is_refused(&pool);
    thread::spawn(move || every_spawn_is_refused(&pool)).join().unwrap();
}

#[apply(both)]
async fn a_closed_pool_refuses_tasks_in_the_destructor_of_a_thread_local() {
    struct Late(Pool, mpsc::Sender<()>);
    impl Drop for Late {
        fn drop(&mut self) {
            every_spawn_is_refused(&self.0);
            self.1.send(()).unwrap();
        }
    }
    thread_local! {
        static LATE: std::cell::OnceCell<Late> = const { std::cell::OnceCell::new() };
    }
    let (pool, (sender, refused)) = (finished().await, mpsc::channel());
    thread::spawn(move || LATE.with(|late| drop(late.set(Late(pool, sender))))).join().unwrap();
    refused.recv().expect("the destructor did not run");
}

#[apply(both)]
async fn a_destructor_of_a_refused_future_may_use_the_pool() {
    let (pool, alive) = (finished().await, Alive::default());
    let (own, one) = (pool.clone(), alive.one());
    let on_drop = crate::support::OnDrop::new(move || {
        own.spawn(async move { drop(one) });
        assert_eq!(own.len(), 0);
    });
    pool.spawn(async move { drop(on_drop) });
    assert_eq!(alive.count(), 0);
}

// ===== no thread for a local task =====

#[apply(both)]
async fn spawn_local_outside_of_a_local_set_panics_at_the_callers_line_and_says_what_to_do() {
    type Never = Result<(), BoxError>;
    type Spawn = fn(&Pool);
    let ways: [(_, Spawn, _); 4] = [
        ("plain", |pool| pool.spawn_local(pending::<()>()), line!()),
        ("with a handle", |pool| drop(pool.spawn_local_with_handle(pending::<Never>())), line!()),
        ("built", |pool| pool.build_task().spawn_local(pending::<()>()), line!()),
        ("both", |pool| drop(pool.build_task().spawn_local_with_handle(pending::<Never>())), line!()),
    ];
    let opened = Pool::open(async |pool: Pool| {
        for (way, spawn, expected) in ways {
            let mut line = 0;
            let message = with_panic_line(&mut line, || panic_text(|| spawn(&pool)));
            assert_eq!(line, expected, "{way}");
            assert!(message.starts_with("`spawn_local` was called outside of a `LocalSet`"), "{way}: {message}");
            assert!(message.contains("run the pool within `LocalSet::run_until`"), "{way}: {message}");
            assert_eq!((pool.len(), pool.is_closed()), (0, false), "{way}");
        }
        Ok(())
    });
    opened.await.unwrap();
}

// ===== no current pool =====

#[test]
fn current_outside_of_a_pool_panics() {
    let mut line = 0;
    let message = with_panic_line(&mut line, || panic_text(|| drop(Pool::<BoxError>::current())));
    assert_eq!(line, line!() - 1);
    assert!(message.contains("`Pool::current`") && message.contains("outside of a pool"), "{message}");
    assert!(Pool::<BoxError>::try_current().is_none());
}

#[apply(both)]
async fn current_in_pools_of_other_error_types_panics() {
    let outcome: Outcome<_> = Pool::open(async |_| Ok(panic_text(Pool::<String>::current))).await;
    let text = outcome.unwrap();
    assert!(text.contains("alloc::string::String") && text.contains("dyn core::error::Error"), "{text}");
}

// ===== polling after the end =====

/// Awaits a future and polls it again: says what that panics with. It must not be ready once more.
async fn poll_again(name: &str, future: impl Future) -> Option<String> {
    let mut future = Box::pin(future);
    drop(future.as_mut().await);
    let mut is_pending = false;
    let again = || is_pending = tokio_test::task::spawn(future.as_mut()).poll().is_pending();
    let text = catch_unwind(AssertUnwindSafe(again)).err().map(|payload| panic_text(|| resume_unwind(payload)));
    assert!(is_pending || text.is_some(), "{name} was ready twice");
    text
}

/// Of which the docs say so.
#[apply(both)]
async fn polling_after_the_end_panics() {
    let pool = Pool::<BoxError>::builder().keep_open(true).build();
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let value = async || Ok::<_, BoxError>(1);
    let none = Vec::<Ready<Result<(), BoxError>>>::new;
    for (name, text) in [
        ("a handle", poll_again("a handle", pool.spawn_with_handle(value())).await),
        ("race", poll_again("race", race([value()])).await),
        ("try_all", poll_again("try_all", try_all([value()])).await),
        ("try_all of a tuple", poll_again("try_all of a tuple", try_all((value(), value()))).await),
        ("try_all of none", poll_again("try_all of none", try_all(none())).await),
        ("wait_all", poll_again("wait_all", wait_all([value()])).await),
        ("wait_all of a tuple", poll_again("wait_all of a tuple", wait_all((value(), value()))).await),
        ("wait_all of none", poll_again("wait_all of none", wait_all(none())).await),
        ("prime", poll_again("prime", prime(value())).await),
    ] {
        assert!(text.as_ref().is_some_and(|text| text.ends_with("was polled after it was ready")), "{name}: {text:?}");
    }
    pool.cancel();
    for text in [poll_again("run", run).await, poll_again("open", Pool::<BoxError>::open(async |_| Ok(()))).await] {
        assert_eq!(text.as_deref(), Some("the future of a pool was polled after it had completed"));
    }
}

/// Of which they say nothing.
#[apply(both)]
async fn polling_after_the_end_makes_nothing_ready_again() {
    let pool = Pool::<BoxError>::builder().limit(1).keep_open(true).build();
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    poll_again("start", pool.start(async |started: Started<u8>| started.ready(1))).await;
    poll_again("ready", pool.ready()).await;
    poll_again("idle", pool.idle()).await;
    pool.cancel();
    poll_again("cancelled", pool.cancelled()).await;
    run.await.unwrap();

    let value = async || Ok::<_, BoxError>(1);
    poll_again("shield", shield(value())).await;
    poll_again("with_exit", with_exit((), async |_| value().await, async |_, _| Ok(()))).await;
    poll_again("timeout", timeout(Duration::MAX, value())).await;
    poll_again("timeout that elapsed", timeout(Duration::ZERO, pending::<()>())).await;
    poll_again("timeout_at", timeout_at(Instant::now(), value())).await;
    poll_again("cancel_task", cancel_task(tokio::spawn(value()))).await;

    let latch = LatchEvent::new();
    poll_again("wait_unset", latch.wait_unset()).await;
    latch.set();
    poll_again("wait_set", latch.wait_set()).await;
    let change = latch.wait_change();
    latch.unset();
    poll_again("wait_change", change).await;
}

#[apply(both)]
async fn polling_after_a_panic_of_the_body_panics_or_stays_pending() {
    let mut open = tokio_test::task::spawn(Pool::<BoxError>::open(async |_| -> Result<(), _> {
        crate::support::quiet_panic("body")
    }));
    assert_eq!(panic_text(|| open.poll().is_ready()), "body");
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open.poll().is_pending()));
    assert!(again.unwrap_or(true), "it was ready");
    drop(open);
}

#[apply(both)]
async fn spurious_polls_do_no_harm() {
    let pool = Pool::<BoxError>::new();
    pool.spawn(pending::<()>());
    let seen = pool.clone();
    let mut run = tokio_test::task::spawn(Box::pin(pool.run()));
    for _ in 0..1_000 {
        assert!(run.poll().is_pending());
    }
    seen.cancel();
    assert!(run.is_woken());
    run.into_inner().await.unwrap();
}
