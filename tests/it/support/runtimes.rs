//! Where a test runs: on both kinds of runtime, with a limit for what must not hang.

use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// A test without its type, so that the code of the runtimes is compiled once and not for each test.
type Test<'a> = dyn Fn() -> Pin<Box<dyn Future<Output = ()> + 'a>> + 'a;

/// Runs a test on a current-thread runtime with a paused clock, then on a multi-thread one, and fails if it hangs.
///
/// The limit is real time on the second, and far beyond what any test sleeps on the first.
pub fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let test = || Box::pin(test()) as Pin<Box<dyn Future<Output = ()> + '_>>;
    run_on_current_thread(&test);
    run_on_multi_thread(&test);
}

/// Runs a test on a current-thread runtime with a paused clock.
pub fn on_current_thread<F: Future<Output = ()>>(test: impl Fn() -> F) {
    run_on_current_thread(&|| Box::pin(test()));
}

/// Runs a test on a runtime with two worker threads.
pub fn on_multi_thread<F: Future<Output = ()>>(test: impl Fn() -> F) {
    run_on_multi_thread(&|| Box::pin(test()));
}

fn run_on_current_thread(test: &Test<'_>) {
    paused_runtime().block_on(async { no_hang(Duration::from_secs(1_000_000), test()).await });
}

fn run_on_multi_thread(test: &Test<'_>) {
    multi_thread_runtime().block_on(async { no_hang(Duration::from_secs(200), test()).await });
}

async fn no_hang<F: Future>(limit: Duration, test: F) -> F::Output {
    tokio::time::timeout(limit, test).await.expect("the test hangs")
}

/// Runs what might deadlock in a thread of its own, and fails if it has not returned after 300 seconds.
pub fn watched<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || sender.send(code())).unwrap();
    match receiver.recv_timeout(Duration::from_secs(300)) {
        Ok(answer) => answer,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(_) => std::panic::resume_unwind(thread.join().map(drop).unwrap_err()),
    }
}

/// A test of the macros below.
pub type BoxedTest = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs a test on a current-thread runtime with a paused clock, in a thread of its own, so that it fails if that is
/// blocked for ever.
pub fn watched_on_current_thread(test: BoxedTest) {
    watched(move || run_on_current_thread(&test));
}

/// Runs a test on a runtime with two worker threads, likewise.
pub fn watched_on_multi_thread(test: BoxedTest) {
    watched(move || run_on_multi_thread(&test));
}

/// Makes two tests of one, which is then a module: `on_current_thread`, with a paused clock, and `on_multi_thread`.
macro_rules! both {
    ($(#[$attribute:meta])* async fn $name:ident() $test:block) => {
        mod $name {
            #[allow(unused_imports, reason = "not every test needs what its file imports")]
            use super::*;

            fn boxed() -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(async $test)
            }

            #[test]
            $(#[$attribute])*
            fn on_current_thread() {
                crate::support::watched_on_current_thread(boxed);
            }

            #[test]
            $(#[$attribute])*
            fn on_multi_thread() {
                crate::support::watched_on_multi_thread(boxed);
            }
        }
    };
}
pub(crate) use both;

/// A test on a current-thread runtime with a paused clock.
macro_rules! current_thread {
    ($(#[$attribute:meta])* async fn $name:ident() $test:block) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            crate::support::watched_on_current_thread(|| Box::pin(async $test));
        }
    };
}
pub(crate) use current_thread;

/// A test on a runtime with two worker threads.
macro_rules! multi_thread {
    ($(#[$attribute:meta])* async fn $name:ident() $test:block) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            crate::support::watched_on_multi_thread(|| Box::pin(async $test));
        }
    };
}
pub(crate) use multi_thread;

pub fn current_thread_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

pub fn multi_thread_runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A runtime of each kind, with clocks that go.
pub fn both_runtimes() -> [Runtime; 2] {
    [current_thread_runtime(), multi_thread_runtime()]
}
