//! Futures that are polled by hand, and waits without a clock.

use std::pin::Pin;
use std::time::Duration;

use aiodrive::BoxError;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::panic_text;

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
        assert!(started.elapsed() < Duration::from_secs(150), "it does not come about");
        tokio::task::yield_now().await;
    }
}

/// Polls a future, which must not be ready, until something has come about; fails if that takes far too long.
pub async fn poll_until<F: Future + ?Sized>(mut future: Pin<&mut F>, holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(150), "it does not come about");
        assert!(poll_once(future.as_mut()).await.is_pending(), "it is ready too early");
        tokio::task::yield_now().await;
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

/// Polls a future for some time, in which it must not be ready, and drops it.
pub async fn dropped_after<F: Future>(time: Duration, future: F) {
    assert!(tokio::time::timeout(time, future).await.is_err(), "it is ready too early");
}

/// How long something takes on the paused clock.
pub async fn elapsed<F: Future>(future: F) -> (u64, F::Output) {
    let begin = Instant::now();
    let output = future.await;
    (begin.elapsed().as_secs(), output)
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

/// A future that is ready after some turns.
pub async fn turning(turns: usize) -> Result<(), BoxError> {
    for _ in 0..turns {
        yield_now().await;
    }
    Ok(())
}

pub async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}
