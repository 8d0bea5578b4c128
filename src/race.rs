//! The first of several futures to finish.
//!
//! Every branch that finishes decides in the [`group`](crate::group). Several may do so before the others could be
//! aborted: when the future of the race is polled next, the one with the lowest index wins. The outputs of the others
//! are dropped, which reports their panics.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::group::{Branches, CallFuture, Collector, Ended, Group, Handles, Shape, for_tuples};
use crate::scope::{Rules, Unreported};

/// Runs futures at the same time, as tasks, and yields the index and the output of the first to finish.
///
/// `race` aborts the others, and is ready only when they have ended, with everything nested in them. It also aborts
/// what the winner has left behind, such as a pool in its grace. An `Err` wins as an `Ok` does: to race for the first
/// success, let a future that fails wait for ever, or collect with [`wait_all`](crate::wait_all()).
///
/// The futures are spawned when `race` is called, on the runtime that it is called from. They come as a `Vec`, an array
/// or a tuple of up to eight, all with the same output type.
///
/// Unlike [`tokio::select!`](https://docs.rs/tokio/latest/tokio/macro.select.html), it runs its branches as tasks of
/// their own, which may use several processors, cannot borrow from the caller, and are waited for when they are cut
/// off. Unlike `JoinSet::join_next`, it leaves nothing behind.
///
/// # Fairness
///
/// Of the futures that have finished by the time `race` is polled, the one with the lowest index wins.
///
/// # Panics
///
/// - If there is no future to wait for.
/// - Outside of a tokio runtime.
/// - When polled, with the panic of the winner, after the others have ended. The panic of another future is a
///   [cleanup failure](crate::PoolError::cleanup_failures) of the enclosing pool.
/// - When polled, if the runtime of the futures has shut down before one could finish; or if the task in which it was
///   called was aborted and could not be dropped: in a blocking call, or if it is awaited in a
///   [`shield`](crate::shield()) that it was called outside of.
///
/// # Cancel safety
///
/// Cancel safe if the futures are. Dropping the returned future aborts all of them, and the enclosing pool waits for
/// their end.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use aiodrive::race;
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// async fn mirror(answer: &'static str, latency: u64) -> &'static str {
///     sleep(Duration::from_millis(latency)).await;
///     answer
/// }
///
/// let (index, answer) = race([mirror("far", 80), mirror("near", 5)]).await;
/// assert_eq!((index, answer), (1, "near"));
/// # }
/// ```
///
/// The first success:
///
/// ```
/// use std::future::{pending, ready};
/// use aiodrive::race;
///
/// /// Waits for ever if `attempt` fails, so that it cannot win.
/// async fn success<T, E>(attempt: impl Future<Output = Result<T, E>>) -> T {
///     match attempt.await {
///         Ok(value) => value,
///         Err(_) => pending().await,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let attempts = [ready(Err("refused")), ready(Ok("connected"))];
/// let (index, answer) = race(attempts.map(success)).await;
/// assert_eq!((index, answer), (1, "connected"));
/// # }
/// ```
///
/// Nothing can win a race without participants:
///
/// ```should_panic
/// let nobody: Vec<std::future::Ready<()>> = Vec::new();
/// let _ = aiodrive::race(nobody);
/// ```
#[track_caller]
pub fn race<S: Race>(futures: S) -> RaceFuture<S::Output> {
    let group = Group::new("race", None);
    let handles = futures.spawn(&group);
    assert!(!handles.is_empty(), "`race` was called without a future to wait for");
    RaceFuture(CallFuture::new(group, handles, |branches| first(branches, S::collect)))
}

/// Waits for the first, and for the end of the others.
async fn first<H: Handles, T: Send + 'static, U>(
    branches: Branches<H>,
    collect: fn(H::Ended, &mut Winner<T>) -> U,
) -> (usize, T) {
    let call = Arc::clone(branches.call());
    let (first, ended) = branches.join().await;
    let Some(index) = first else {
        let why = if call.is_aborted() { "the task around it was aborted" } else { "their runtime has shut down" };
        panic!("no future of a `race` could finish: {why}")
    };
    let mut winner = Winner { index, output: None };
    collect(ended, &mut winner);
    let output = winner.output.expect("who has decided was not cut off").take();
    (index, output.unwrap_or_else(|payload| payload.resume()))
}

/// Takes the output of the winner. Those of the others are dropped, which reports their panics.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Winner<T> {
    index: usize,
    output: Option<Unreported<T>>,
}

impl<T: Send + 'static> Collector<T> for Winner<T> {
    type Item = ();

    /// Whoever finishes first decides. An `Err` is but a value.
    fn rules() -> Rules<T> {
        Rules { decides: |ended| ended.is_some(), failure_of: |_| None }
    }

    fn collect(&mut self, index: usize, ended: Ended<T>) -> Option<()> {
        if index == self.index {
            self.output = ended.ok();
        }
        Some(())
    }
}

/// What [`race`] accepts: a `Vec`, an array or a tuple of up to eight futures with one output type.
///
/// This trait is sealed.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::future::{pending, ready};
///
/// assert_eq!(aiodrive::race((pending(), ready(3))).await, (1, 3));
/// assert_eq!(aiodrive::race(vec![ready("a")]).await, (0, "a"));
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`race` cannot run `{Self}`",
    label = "neither a `Vec`, an array nor a tuple of up to eight futures that have one output type and are `Send + 'static`",
    note = "give it a Vec, an array or a tuple: an iterator becomes one by `.collect::<Vec<_>>()`"
)]
pub trait Race: Shape<Winner<Self::Output>> {
    /// What each of the futures yields.
    type Output: Send + 'static;
}

impl<F: Future<Output: Send> + Send + 'static> Race for Vec<F> {
    type Output = F::Output;
}

impl<F: Future<Output: Send> + Send + 'static, const N: usize> Race for [F; N] {
    type Output = F::Output;
}

macro_rules! race_tuple {
    ($($F:ident $n:tt),+) => {
        impl<T: Send + 'static, $($F: Future<Output = T> + Send + 'static),+> Race for ($($F,)+) {
            type Output = T;
        }
    };
}

for_tuples!(race_tuple);

/// The future of [`race`].
///
/// # Panics
///
/// As [`race`] says, and if it is polled again after it was ready.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::future::ready;
/// use aiodrive::futures::RaceFuture;
///
/// let first: RaceFuture<u32> = aiodrive::race([ready(42)]);
/// assert_eq!(first.await, (0, 42));
/// # }
/// ```
#[must_use = "the futures are aborted when this is dropped"]
pub struct RaceFuture<T>(CallFuture<(usize, T)>);

impl<T> Future for RaceFuture<T> {
    type Output = (usize, T);

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

impl<T> fmt::Debug for RaceFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaceFuture").field("decided", &self.0.is_decided()).finish()
    }
}
