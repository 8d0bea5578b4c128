//! A future that has begun before it is awaited.
//!
//! The first poll is made with a waker that does nothing, since there is nobody to wake yet. That loses nothing: a
//! future that is polled again has to expect another waker. It is made outside of the coop budget: with a spent one,
//! even what is ready pretends not to be, and would stay unbegun.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;

/// Polls a future once, now, and gives it back to be awaited later.
///
/// When `prime` returns, the future has gone as far as its first `.await` that has to wait: a request is sent, a place
/// in a queue is taken. It goes no further until it is awaited. No wake-up is lost, since the first poll of the
/// returned [`Primed`] polls the future again.
///
/// Unlike with [`tokio::spawn`], the future stays in its caller and can borrow from it. The poll spends none of the
/// task's coop budget, so that many futures can be primed in a row.
///
/// # Panics
///
/// With the panic of the future's first poll. An `Err` is a value, and comes when it is awaited.
///
/// # Cancel safety
///
/// Cancel safe if `future` is. Dropping the returned [`Primed`] drops the future in the middle of what it has begun.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use aiodrive::prime;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let begun = Cell::new(false);
/// let work = prime(async {
///     begun.set(true);
///     tokio::task::yield_now().await;
///     42
/// });
/// assert!(begun.get());
/// assert_eq!(work.await, 42);
/// # }
/// ```
///
/// Listening before somebody speaks:
///
/// ```
/// use aiodrive::prime;
/// use tokio::sync::Notify;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let reply = Notify::new();
/// let heard = prime(reply.notified()); // from now on, and not from the `.await` on
/// reply.notify_waiters(); // reaches those only who listen already
/// heard.await;
/// # }
/// ```
pub fn prime<F: Future>(future: F) -> Primed<F> {
    let mut future = Box::pin(future);
    let first = Pin::new(&mut unconstrained(future.as_mut())).poll(&mut Context::from_waker(Waker::noop()));
    let state = match first {
        Poll::Ready(output) => State::Ready(output),
        Poll::Pending => State::Pending(future),
    };
    Primed { state }
}

/// The future of [`prime`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let ready: aiodrive::Primed<_> = aiodrive::prime(async { 42 });
/// assert_eq!(format!("{ready:?}"), r#"Primed { state: "ready" }"#);
/// assert_eq!(ready.await, 42);
/// # }
/// ```
#[must_use = "only the first poll of the future has been made"]
pub struct Primed<F: Future> {
    state: State<F>,
}

/// How far the future has come.
enum State<F: Future> {
    /// It was ready at once, and its output waits here.
    Ready(F::Output),
    /// It has begun, and waits to be polled again.
    Pending(Pin<Box<F>>),
    /// Its output has been yielded.
    Done,
}

impl<F: Future> Unpin for Primed<F> {}

impl<F: Future> Future for Primed<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let State::Pending(future) = &mut self.state {
            let polled = future.as_mut().poll(cx);
            if polled.is_ready() {
                self.state = State::Done;
            }
            return polled;
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ready(output) => Poll::Ready(output),
            _ => panic!("a `Primed` was polled after it was ready"),
        }
    }
}

impl<F: Future> fmt::Debug for Primed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Ready(_) => "ready",
            State::Pending(_) => "pending",
            State::Done => "done",
        };
        f.debug_struct("Primed").field("state", &state).finish()
    }
}
