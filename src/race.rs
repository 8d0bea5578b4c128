//! The first of several futures to finish.
//!
//! Every item of the [`group`](crate::group) decides. Several futures may finish before the others could be aborted:
//! when the future of the race is next polled, it compares all that have, keeps the one with the lowest index, and
//! passes the panics of the others on. What finishes after that is nobody's.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{Failure, PanicPayload};
use crate::group::{Group, Rules};
use crate::slots::for_tuples;

/// Runs futures at the same time, as tasks, and yields the index and the output of the first to finish.
///
/// The others are aborted, and `race` is ready only when they have ended, with everything below them. An `Err` wins as
/// an `Ok` does: to race for the first success, let a future that fails wait for ever, or collect with
/// [`wait_all`](crate::wait_all()).
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
/// - When polled, if the runtime of the futures has shut down before one could finish.
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
    let rules = Rules {
        decides: |_| true,
        first_only: true,
        cut_off: Err,
        orphaned: |output: Result<_, PanicPayload>| output.err().map(Failure::Panic),
    };
    let mut group = Group::new("race", None, rules);
    let count = futures.spawn(&mut group);
    assert!(count > 0, "`race` was called without a future to wait for");
    RaceFuture { group }
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
pub trait Race: sealed::Sealed<Self::Output> {
    /// What each of the futures yields.
    type Output: Send + 'static;
}

mod sealed {
    use crate::error::PanicPayload;
    use crate::group::Group;

    /// Spawns the futures as branches of a group, in order.
    pub trait Sealed<T: Send + 'static> {
        /// Says how many there were.
        fn spawn(self, group: &mut Group<Result<T, PanicPayload>>) -> usize;
    }
}

/// Spawns the futures of a vector or an array.
fn spawn_each<F>(futures: impl IntoIterator<Item = F>, group: &mut Group<Result<F::Output, PanicPayload>>) -> usize
where
    F: Future<Output: Send> + Send + 'static,
{
    futures.into_iter().map(|future| group.spawn(future, |output| output)).count()
}

impl<F: Future<Output: Send> + Send + 'static> Race for Vec<F> {
    type Output = F::Output;
}

impl<F: Future<Output: Send> + Send + 'static> sealed::Sealed<F::Output> for Vec<F> {
    fn spawn(self, group: &mut Group<Result<F::Output, PanicPayload>>) -> usize {
        spawn_each(self, group)
    }
}

impl<F: Future<Output: Send> + Send + 'static, const N: usize> Race for [F; N] {
    type Output = F::Output;
}

impl<F: Future<Output: Send> + Send + 'static, const N: usize> sealed::Sealed<F::Output> for [F; N] {
    fn spawn(self, group: &mut Group<Result<F::Output, PanicPayload>>) -> usize {
        spawn_each(self, group)
    }
}

macro_rules! race_tuple {
    ($($F:ident $n:tt),+) => {
        impl<T: Send + 'static, $($F: Future<Output = T> + Send + 'static),+> Race for ($($F,)+) {
            type Output = T;
        }

        impl<T: Send + 'static, $($F: Future<Output = T> + Send + 'static),+> sealed::Sealed<T> for ($($F,)+) {
            fn spawn(self, group: &mut Group<Result<T, PanicPayload>>) -> usize {
                $(group.spawn(self.$n, |output| output);)+
                [$($n),+].len()
            }
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
pub struct RaceFuture<T: Send + 'static> {
    /// Keeps the winner as its only item.
    group: Group<Result<T, PanicPayload>>,
}

impl<T: Send + 'static> RaceFuture<T> {
    /// Compares those that had finished when the others were aborted: the lowest index wins. A loser's output is
    /// dropped, and its panic reported. From then on the winner is the only item.
    fn keep_the_winner(&mut self) {
        let mut finished = self.group.take_items();
        finished.sort_by_key(|(index, _)| *index);
        let mut finished = finished.into_iter();
        if let Some((index, output)) = finished.next() {
            self.group.put_item(index, output);
        }
        finished.for_each(|(_, output)| self.group.orphan(output));
    }
}

impl<T: Send + 'static> Unpin for RaceFuture<T> {}

impl<T: Send + 'static> Future for RaceFuture<T> {
    type Output = (usize, T);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = self.group.poll_ended(cx);
        if self.group.is_decided() {
            self.keep_the_winner();
        }
        ready!(ended);
        ready!(self.group.poll_settled(cx));
        match self.group.take_items().pop() {
            Some((index, Ok(output))) => Poll::Ready((index, output)),
            Some((_, Err(payload))) => payload.resume(),
            None => panic!("no future of a `race` could finish, or it was polled after it was ready"),
        }
    }
}

impl<T: Send + 'static> fmt::Debug for RaceFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaceFuture").field("decided", &self.group.is_decided()).finish()
    }
}
