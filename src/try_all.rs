//! All of several futures, or the errors.
//!
//! A failure decides in the [`group`](crate::group), and those that come after it are wanted all the same: they are in
//! the report, in order of occurrence. What fails below without an owner goes into the report as well, as in a pool.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{BoxError, CancelledError, Failure, PoolError, TaskError, cancellation, catch};
use crate::group::{Branches, CallFuture, Collector, Ended, Group, Handles, Shape, error_of_call, for_tuples};
use crate::scope::{Cleanup, Reporter, Rules, Unreported, failure_of};

/// Runs futures at the same time, as tasks, and yields all their values, in order, or every error.
///
/// At the first error or panic it aborts the others. `try_all` is ready only when all have ended, with everything
/// nested in them.
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
/// With all failures in order of occurrence: the first is the one that made it abort the others. In a blocking call, if
/// the task around it was aborted, with an error that [is cancelled](PoolError::is_cancelled).
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
/// let missing = async { Err::<u32, BoxError>("no such user".into()) };
/// let outcome = try_all((missing, pending::<Result<u32, BoxError>>()));
/// let error = outcome.await.unwrap_err();
/// assert_eq!(error.into_first_error().unwrap().to_string(), "no such user");
/// # }
/// ```
#[track_caller]
pub fn try_all<S: TryAll>(futures: S) -> TryAllFuture<S::Output, S::Error> {
    let cleanup = Cleanup::new();
    let group = Group::new("try_all", Some(cleanup.clone()));
    let handles = futures.spawn(&group);
    let left_behind = LeftBehind { cleanup, reporter: Arc::clone(group.reporter()) };
    TryAllFuture(CallFuture::new(group, handles, |branches| all(left_behind, branches, S::collect)))
}

/// Waits for all, and takes the values, or the failures.
async fn all<H: Handles, T, E: Send + 'static>(
    left_behind: LeftBehind,
    branches: Branches<H>,
    collect: fn(H::Ended, &mut Outcomes<E>) -> Option<T>,
) -> Result<T, PoolError<E>> {
    let call = Arc::clone(branches.call());
    let (_, ended) = branches.join().await;
    let below = left_behind.cleanup.close();
    let mut failures = Outcomes {
        reporter: Arc::clone(&left_behind.reporter),
        any: call.first().is_some() || !below.is_empty(),
        of_branches: Vec::new(),
        cut_off: None,
        is_aborted: call.is_aborted(),
        below,
    };
    collect(ended, &mut failures).ok_or_else(|| failures.into_error())
}

/// What has failed inside the call and has no owner. If the call is dropped before it has returned that, it goes to the
/// enclosing scope.
struct LeftBehind {
    cleanup: Cleanup,
    reporter: Arc<Reporter>,
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        for failure in self.cleanup.close() {
            self.reporter.pass_on(failure);
        }
    }
}

/// Takes the values, or, if there is a failure, all failures.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Outcomes<E> {
    reporter: Arc<Reporter>,
    /// Whether there is any failure, so that the values are nobody's.
    any: bool,
    /// Each with its place in the order.
    of_branches: Vec<(usize, TaskError<E>)>,
    /// A branch that was cut off without a word.
    cut_off: Option<usize>,
    /// Whether that was an abort of the task around the call.
    is_aborted: bool,
    /// What has failed below without an owner, and as values were dropped.
    below: Vec<TaskError>,
}

impl<T: Send + 'static, E: Into<BoxError> + Send + 'static> Collector<Result<T, E>> for Outcomes<E> {
    type Item = T;

    /// A failure decides, and so does a branch that was cut off by its runtime.
    fn rules() -> Rules<Result<T, E>> {
        Rules { decides: |ended| !matches!(ended, Some(Ok(Ok(_)))), failure_of }
    }

    fn collect(&mut self, index: usize, ended: Ended<Result<T, E>>) -> Option<T> {
        let Some(ended) = ended.map_or_else(Unreported::of_cut_off, Some) else {
            self.cut_off = self.cut_off.or(Some(index));
            return None;
        };
        let order = ended.order;
        let failure = match ended.take() {
            Ok(Ok(value)) if !self.any => return Some(value),
            Ok(Ok(value)) => {
                let panic = catch(|| drop(value)).err().map(Failure::Panic);
                self.below.extend(panic.map(|failure| TaskError::new(self.reporter.branch(index), failure)));
                return None;
            }
            // A pool in it heard of the abort before the branch was aborted.
            Ok(Err(error))
                if (order > 0 || self.is_aborted) && cancellation(&error, None) == Some(CancelledError::Cancelled) =>
            {
                let Err(payload) = catch(|| drop(error)) else { return None };
                Failure::Panic(payload)
            }
            Ok(Err(error)) => Failure::Error(error),
            Err(payload) => Failure::Panic(payload),
        };
        self.of_branches.push((order, TaskError::new(self.reporter.branch(index), failure)));
        None
    }
}

impl<E: 'static> Outcomes<E> {
    /// The report, in order of occurrence.
    fn into_error(mut self) -> PoolError<E> {
        self.of_branches.sort_by_key(|(order, _)| *order);
        let failures = self.of_branches.into_iter().map(|(_, failed)| failed).collect();
        let cut_off = self.cut_off.map(|index| TaskError::new(self.reporter.branch(index), Failure::Cancelled));
        error_of_call(failures, cut_off, self.below, self.is_aborted)
    }
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
#[diagnostic::on_unimplemented(
    message = "`try_all` cannot run `{Self}`",
    label = "neither a `Vec`, an array nor a tuple of up to eight futures of a `Result` that have one error type and are `Send + 'static`",
    note = "give it a Vec, an array or a tuple: an iterator becomes one by `.collect::<Vec<_>>()`"
)]
pub trait TryAll: Shape<Outcomes<Self::Error>, Collected = Self::Output> {
    /// The values, in the shape of the futures.
    type Output: Send + 'static;
    /// The error of each of the futures.
    type Error: Into<BoxError> + Send + 'static;
}

/// A branch of `try_all`: its value and its error as types with names.
pub trait TryBranch: Future<Output = Result<Self::Value, Self::Error>> + Send + 'static {
    type Value: Send + 'static;
    type Error: Into<BoxError> + Send + 'static;
}

impl<F, T, E> TryBranch for F
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    type Value = T;
    type Error = E;
}

impl<F: TryBranch> TryAll for Vec<F> {
    type Output = Vec<F::Value>;
    type Error = F::Error;
}

impl<F: TryBranch, const N: usize> TryAll for [F; N] {
    type Output = [F::Value; N];
    type Error = F::Error;
}

macro_rules! try_all_tuple {
    (A 0 $(, $F:ident $n:tt)*) => {
        impl<A: TryBranch, $($F: TryBranch<Error = A::Error>),*> TryAll for (A, $($F,)*) {
            type Output = (A::Value, $($F::Value,)*);
            type Error = A::Error;
        }
    };
}

for_tuples!(try_all_tuple);

/// The future of [`try_all`], over the values of all futures and the error of each.
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
/// let both: TryAllFuture<[u32; 2], BoxError> =
///     aiodrive::try_all([ready(Ok(1)), ready(Ok(2))]);
/// assert_eq!(both.await.unwrap(), [1, 2]);
/// # }
/// ```
#[must_use = "the futures are aborted when this is dropped"]
pub struct TryAllFuture<T, E>(CallFuture<Result<T, PoolError<E>>>);

impl<T, E> Future for TryAllFuture<T, E> {
    type Output = Result<T, PoolError<E>>;

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

impl<T, E> fmt::Debug for TryAllFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryAllFuture").field("failed", &self.0.is_decided()).finish()
    }
}
