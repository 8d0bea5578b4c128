//! All of several futures, or the errors.
//!
//! A failure decides in the [`group`](crate::group), and those that come after it are wanted all the same: they are in
//! the report, in order of occurrence. The values wait on the board until all are there, and are then put into their
//! [`slots`](crate::slots). What fails below without an owner goes into the report as well, as in a pool.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::closing_reason::ClosingReason;
use crate::error::{BoxError, Failure, PoolError, Report, TaskError, TaskInfo, catch};
use crate::group::{Group, Rules};
use crate::scope::Cleanup;
use crate::slots::{Choice, Slots, for_tuples};

/// Runs futures at the same time, as tasks, and yields all their values, in order, or every error.
///
/// At the first error or panic the others are aborted. `try_all` is ready only when all have ended, with everything
/// below them.
///
/// The futures are spawned when `try_all` is called, on the runtime that it is called from. They come as a `Vec`, an
/// array or a tuple of up to eight; the values of a tuple may differ in type, the errors may not.
///
/// Unlike [`tokio::try_join!`](https://docs.rs/tokio/latest/tokio/macro.try_join.html), it runs its branches as tasks
/// of their own, which may use several processors and cannot borrow from the caller, waits for those that it has cut
/// off, and returns all errors and panics instead of the first error.
///
/// # Fairness
///
/// Failures count in the order in which they came, whatever their index, and any of them wins over all values.
///
/// # Errors
///
/// With all failures in order of occurrence: the first is the one that made it abort the others.
///
/// # Panics
///
/// Outside of a tokio runtime, unless there is no future to run.
///
/// # Cancel safety
///
/// Cancel safe if the futures are. Dropping the returned future aborts all of them. The enclosing pool waits for their
/// end, and reports what failed meanwhile.
///
/// # Examples
///
/// ```
/// use aiodrive::{BoxError, try_all};
///
/// async fn user() -> Result<&'static str, BoxError> {
///     Ok("Ada")
/// }
/// async fn page() -> Result<u32, BoxError> {
///     Ok(7)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let (name, number) = try_all((user(), page())).await?;
/// assert_eq!((name, number), ("Ada", 7));
///
/// let pages: Vec<u32> = try_all((0..3).map(|_| page()).collect::<Vec<_>>()).await?;
/// assert_eq!(pages, [7, 7, 7]);
/// # Ok(())
/// # }
/// ```
///
/// The first error ends the others:
///
/// ```
/// use std::future::pending;
/// use aiodrive::{BoxError, try_all};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let outcome = try_all((async { Err::<u32, BoxError>("no such user".into()) }, pending::<Result<u32, BoxError>>()));
/// let error = outcome.await.unwrap_err();
/// assert_eq!(error.into_first_error().unwrap().to_string(), "no such user");
/// # }
/// ```
#[track_caller]
pub fn try_all<S: TryAll>(futures: S) -> TryAllFuture<S::Slots, <S::Slots as Slots>::Item, S::Output, S::Error> {
    let cleanup = Cleanup::new();
    let rules = Rules {
        decides: Result::is_err,
        first_only: false,
        cut_off: |failure| match failure {
            Failure::Panic(payload) => Ok(Err(Failure::Panic(payload))),
            _ => Ok(Err(Failure::Cancelled)),
        },
        orphaned: |item: Result<_, Failure<S::Error>>| item.err().map(Failure::boxed),
    };
    let mut group = Group::new("try_all", Some(cleanup.clone()), rules);
    let slots = futures.spawn(&mut group);
    TryAllFuture { group, slots: Some(slots), finish: S::finish, cleanup }
}

/// What [`try_all`] accepts: a `Vec`, an array or a tuple of up to eight futures of a `Result` with one error type.
///
/// This trait is sealed.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use aiodrive::{BoxError, try_all};
///
/// let squares = (0..3).map(|n| async move { Ok::<_, BoxError>(n * n) });
/// assert_eq!(try_all(squares.collect::<Vec<_>>()).await.unwrap(), [0, 1, 4]);
/// # }
/// ```
pub trait TryAll: sealed::Sealed<Self::Slots, Self::Output, Self::Error> {
    /// The values, in the shape of the futures.
    type Output;
    /// The error of each of the futures.
    type Error: Into<BoxError> + Send + 'static;
    #[doc(hidden)]
    type Slots: Slots;
}

mod sealed {
    use crate::error::Failure;
    use crate::group::Group;
    use crate::slots::Slots;

    /// `S` has a class for each value, and is turned into a `T` when all are there.
    pub trait Sealed<S: Slots, T, E: Send + 'static> {
        /// Spawns the futures as branches of a group, in order, and makes their places.
        fn spawn(self, group: &mut Group<Result<S::Item, Failure<E>>>) -> S;

        /// Takes the values out, which are all there.
        fn finish(slots: S) -> T;
    }
}

/// What a branch has come to, `wrap` being what makes an item of its value.
fn item_of<T, E, I>(
    output: Result<Result<T, E>, crate::PanicPayload>,
    wrap: impl FnOnce(Option<T>) -> I,
) -> Result<I, Failure<E>> {
    match output {
        Ok(Ok(value)) => Ok(wrap(Some(value))),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(payload) => Err(Failure::Panic(payload)),
    }
}

/// A value out of its class.
fn present<T>(slot: Option<T>) -> T {
    slot.expect("every future has returned a value")
}

impl<F, T, E> TryAll for Vec<F>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + 'static,
{
    type Output = Vec<T>;
    type Error = E;
    type Slots = Vec<Option<T>>;
}

impl<F, T, E> sealed::Sealed<Vec<Option<T>>, Vec<T>, E> for Vec<F>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + 'static,
{
    fn spawn(self, group: &mut Group<Result<Option<T>, Failure<E>>>) -> Vec<Option<T>> {
        self.into_iter()
            .map(|future| group.spawn(future, |output| item_of(output, |value| value)))
            .map(|()| None)
            .collect()
    }

    fn finish(slots: Vec<Option<T>>) -> Vec<T> {
        slots.into_iter().map(present).collect()
    }
}

impl<F, T, E, const N: usize> TryAll for [F; N]
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + 'static,
{
    type Output = [T; N];
    type Error = E;
    type Slots = [Option<T>; N];
}

impl<F, T, E, const N: usize> sealed::Sealed<[Option<T>; N], [T; N], E> for [F; N]
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + 'static,
{
    fn spawn(self, group: &mut Group<Result<Option<T>, Failure<E>>>) -> [Option<T>; N] {
        self.map(|future| group.spawn(future, |output| item_of(output, |value| value))).map(|()| None)
    }

    fn finish(slots: [Option<T>; N]) -> [T; N] {
        slots.map(present)
    }
}

macro_rules! try_all_tuple {
    (A 0 $(, $F:ident $n:tt)*) => {
        impl<A: TryBranch, $($F: TryBranch<Error = A::Error>),*> TryAll for (A, $($F,)*) {
            type Output = (A::Value, $($F::Value,)*);
            type Error = A::Error;
            type Slots = (Option<A::Value>, $(Option<$F::Value>,)*);
        }

        impl<A: TryBranch, $($F: TryBranch<Error = A::Error>),*>
            sealed::Sealed<(Option<A::Value>, $(Option<$F::Value>,)*), (A::Value, $($F::Value,)*), A::Error>
            for (A, $($F,)*)
        {
            fn spawn(
                self,
                group: &mut Group<Result<Choice<Option<A::Value>, $(Option<$F::Value>),*>, Failure<A::Error>>>,
            ) -> (Option<A::Value>, $(Option<$F::Value>,)*) {
                group.spawn(self.0, |output| item_of(output, Choice::A));
                $(group.spawn(self.$n, |output| item_of(output, Choice::$F));)*
                Default::default()
            }

            fn finish(slots: (Option<A::Value>, $(Option<$F::Value>,)*)) -> (A::Value, $($F::Value,)*) {
                (present(slots.0), $(present(slots.$n),)*)
            }
        }
    };
}

/// A part of a tuple: its value and its error as types with names, by which the macro can put them together.
pub trait TryBranch: Future<Output = Result<Self::Value, Self::Error>> + Send + 'static {
    type Value: Send + Unpin + 'static;
    type Error: Into<BoxError> + Send + 'static;
}

impl<F, T, E> TryBranch for F
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + 'static,
{
    type Value = T;
    type Error = E;
}

for_tuples!(try_all_tuple);

/// The future of [`try_all`], over what the futures yield: `I` is a value, `S` has places for all, `T` is their shape.
///
/// # Panics
///
/// If it is polled again after it was ready.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::future::ready;
/// use aiodrive::BoxError;
/// use aiodrive::futures::TryAllFuture;
///
/// let both: TryAllFuture<_, _, [u32; 2], BoxError> = aiodrive::try_all([ready(Ok(1)), ready(Ok(2))]);
/// assert_eq!(both.await.unwrap(), [1, 2]);
/// # }
/// ```
#[must_use = "the futures are aborted when this is dropped"]
pub struct TryAllFuture<S, I: Send + 'static, T, E: Send + 'static> {
    group: Group<Result<I, Failure<E>>>,
    /// `None` once the values have been yielded.
    slots: Option<S>,
    /// Takes the values out of their places.
    finish: fn(S) -> T,
    /// What has failed below without an owner; closed when the report is made.
    cleanup: Cleanup,
}

impl<S, I: Send + 'static, T, E: Send + 'static> TryAllFuture<S, I, T, E> {
    /// Makes the report of what failed. The values are nobody's now: it also tells of those that panic as they are
    /// dropped.
    fn report(&self, items: Vec<(usize, Result<I, Failure<E>>)>, mut cleanup_failures: Vec<TaskError>) -> Report<E> {
        let info = || TaskInfo::unnamed(self.group.spawned_at());
        let mut failures = Vec::new();
        for (_, item) in items {
            match item.map(|value| catch(|| drop(value))) {
                Ok(dropped) => {
                    let panic = dropped.err().map(Failure::Panic);
                    cleanup_failures.extend(panic.map(|failure| TaskError::new(info(), failure)));
                }
                // A runtime that shuts down cuts off the others as well: that is no failure after the first.
                Err(Failure::Cancelled) if !failures.is_empty() => {}
                Err(failure) => failures.push(TaskError::new(info(), failure)),
            }
        }
        Report { pool: None, failures, cleanup_failures, stuck: Vec::new(), reason: ClosingReason::Failed }
    }
}

impl<S, I: Send + 'static, T, E: Send + 'static> Unpin for TryAllFuture<S, I, T, E> {}

impl<S: Slots<Item = I>, I: Send + 'static, T, E: Send + 'static> Future for TryAllFuture<S, I, T, E> {
    type Output = Result<T, PoolError<E>>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(self.group.poll_ended(cx));
        ready!(self.group.poll_settled(cx));
        let mut slots = self.slots.take().expect("`try_all` was polled after it was ready");
        let items = self.group.take_items();
        let cleanup_failures = self.cleanup.close();
        if self.group.is_decided() || !cleanup_failures.is_empty() {
            return Poll::Ready(Err(PoolError::new(self.report(items, cleanup_failures))));
        }
        for (index, item) in items {
            item.into_iter().for_each(|value| slots.put(index, value));
        }
        Poll::Ready(Ok((self.finish)(slots)))
    }
}

impl<S, I: Send + 'static, T, E: Send + 'static> Drop for TryAllFuture<S, I, T, E> {
    /// Without a report, what belongs into it goes to the enclosing scope. After a report there is nothing left.
    fn drop(&mut self) {
        self.group.pass_on(&self.cleanup);
    }
}

impl<S, I: Send + 'static, T, E: Send + 'static> fmt::Debug for TryAllFuture<S, I, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryAllFuture").field("failed", &self.group.is_decided()).finish()
    }
}
