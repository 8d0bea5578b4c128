//! The tools of the tests: both runtimes, drop flags, a log of events, and a deadline for what must not hang.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { no_hang(Duration::from_secs(1_000_000), test()).await });
}

fn run_on_multi_thread(test: &Test<'_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { no_hang(Duration::from_secs(60), test()).await });
}

async fn no_hang<F: Future>(limit: Duration, test: F) -> F::Output {
    tokio::time::timeout(limit, test).await.expect("the test hangs")
}

/// Counts values that are alive.
#[derive(Clone, Default)]
pub struct Alive(Arc<AtomicUsize>);

/// A value that is counted until it is dropped.
pub struct Counted(Arc<AtomicUsize>);

impl Alive {
    /// A new value to count: move it into a future to see when that is dropped.
    pub fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.0))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps a value for as long as the process lives: as `mem::forget` does, but not a leak to a leak checker.
pub fn keep_forever(value: impl Send + 'static) {
    static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().push(Box::new(value));
}

/// A record of what happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    pub fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A value that writes an event when it is dropped.
    pub fn on_drop(&self, event: &'static str) -> OnDrop<impl FnOnce() + Send + use<>> {
        let log = self.clone();
        OnDrop::new(move || log.push(event))
    }
}

/// Calls a closure when it is dropped.
pub struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub fn new(call: F) -> Self {
        Self(Some(call))
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// A task that is waiting, and so cannot be stopped, until it is polled again: it yields for ever.
pub async fn busy() {
    loop {
        tokio::task::yield_now().await;
    }
}

/// Polls a future once, with the waker of the task that this is called from.
pub async fn poll_once<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
}

/// Yields until something has come about, and fails if that takes far too long.
pub async fn until(holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(50), "it does not come about");
        tokio::task::yield_now().await;
    }
}

/// Polls a future, which must not be ready, until something has come about; fails if that takes far too long.
pub async fn poll_until<F: Future + ?Sized>(mut future: Pin<&mut F>, holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(50), "it does not come about");
        assert!(poll_once(future.as_mut()).await.is_pending(), "it is ready too early");
        tokio::task::yield_now().await;
    }
}

/// Runs what might deadlock in a thread of its own, and fails if it has not returned after 30 seconds.
pub fn watched<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(code()));
    match receiver.recv_timeout(Duration::from_secs(30)) {
        Ok(answer) => answer,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(_) => std::panic::resume_unwind(thread.join().map(drop).unwrap_err()),
    }
}

impl Alive {
    /// A new value to count whose destructor gives everybody else time to run ahead.
    pub fn slow(&self) -> OnDrop<impl FnOnce() + Send + use<>> {
        let counted = self.one();
        OnDrop::new(move || {
            (0..200).for_each(|_| std::thread::yield_now());
            drop(counted);
        })
    }
}

/// Polls a future many times, letting others run in between, and fails if it is ready.
pub async fn stays_pending<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) {
    for _ in 0..100 {
        let ready = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        assert!(!ready, "it is ready too early");
        tokio::task::yield_now().await;
    }
}

/// The message that a closure panics with; fails if it returns.
pub fn panic_text<R>(code: impl FnOnce() -> R) -> String {
    let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)) else { panic!("it returned") };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().expect("a message").to_string(),
    }
}

/// The message that a future panics with when it is polled; fails if it is ready.
pub async fn panic_of<F: Future>(future: F) -> String {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let mut poll = || future.as_mut().poll(cx);
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut poll));
        match polled {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(_)) => panic!("it was ready"),
            Err(payload) => std::task::Poll::Ready(panic_text(|| std::panic::resume_unwind(payload))),
        }
    })
    .await
}

/// How each of some tasks failed: `error: …`, `panic: …` or `cancelled`.
pub fn failures<E: std::fmt::Display>(of: &[aiodrive::TaskError<E>]) -> Vec<String> {
    let text = |failed: &aiodrive::TaskError<E>| match failed.failure() {
        aiodrive::Failure::Error(error) => format!("error: {error}"),
        aiodrive::Failure::Panic(payload) => format!("panic: {payload}"),
        aiodrive::Failure::Ended => "ended".to_owned(),
        _ => "cancelled".to_owned(),
    };
    of.iter().map(text).collect()
}

/// A panic that prints nothing.
pub fn quiet_panic(message: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(message))
}
