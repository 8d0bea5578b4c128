//! All of several futures, however each of them ends.
//!
//! Nothing decides in the [`group`](crate::group): each branch runs to its end. A branch of which nothing is known then
//! was cut off: by its runtime or, in a blocking call, by an abort of the task around it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{BoxError, Failure, TaskError};
use crate::group::{Branches, CallFuture, Collector, Ended, Group, Handles, Shape, for_tuples};
use crate::scope::{Reporter, Rules, Unreported, failure_of};

/// Runs futures at the same time, as tasks, each to its end, and yields for each of them, in order, its value or its
/// failure.
///
/// A failure stops none of the others. The result has an entry for every future, whether it returned, failed or
/// panicked. `wait_all` is ready only when all have ended, with everything below them.
///
/// The futures are spawned when `wait_all` is called, on the runtime that it is called from. They come as a `Vec`, an
/// array or a tuple of up to eight, whose values and errors may differ in type. A future without a value, of `()`, has
/// a `Result<(), TaskError<Infallible>>`: all that it can do is panic.
///
/// Unlike [`tokio::join!`](https://docs.rs/tokio/latest/tokio/macro.join.html), it runs its branches as tasks of their
/// own, which may use several processors and cannot borrow from the caller, and a panic of one is a result. Unlike
/// `JoinSet::join_all`, it keeps the order and does not panic.
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
/// use aiodrive::{BoxError, Failure, wait_all};
///
/// async fn ping(host: u8) -> Result<u8, BoxError> {
///     if host == 1 { Err("no answer".into()) } else { Ok(host) }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let [first, second, third] = wait_all([ping(0), ping(1), ping(2)]).await;
/// assert_eq!((first.unwrap(), third.unwrap()), (0, 2));
/// assert!(matches!(second.unwrap_err().failure(), Failure::Error(_)));
/// # }
/// ```
///
/// The values that there are, and a line about each failure:
///
/// ```
/// use aiodrive::{BoxError, wait_all};
///
/// async fn temperature(sensor: u8) -> Result<i32, BoxError> {
///     match sensor {
///         0 => Ok(21),
///         1 => Err("no answer".into()),
///         _ => panic!("there are two sensors"),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut readings = Vec::new();
/// let outcomes = wait_all((0..3).map(temperature).collect::<Vec<_>>()).await;
/// for (sensor, outcome) in outcomes.into_iter().enumerate() {
///     match outcome {
///         Ok(reading) => readings.push(reading),
///         Err(failed) => eprintln!("sensor {sensor}: {failed}"),
///     }
/// }
/// assert_eq!(readings, [21]);
/// # }
/// ```
#[track_caller]
pub fn wait_all<S: WaitAll>(futures: S) -> WaitAllFuture<S::Output> {
    let group = Group::new("wait_all", None);
    let handles = futures.spawn(&group);
    let outcomes = Outcomes(Arc::clone(group.reporter()));
    WaitAllFuture(CallFuture::new(group, handles, |branches| all(outcomes, branches, S::collect)))
}

/// Waits for all, and takes what they have come to.
async fn all<H: Handles, T>(
    mut outcomes: Outcomes,
    branches: Branches<H>,
    collect: fn(H::Ended, &mut Outcomes) -> Option<T>,
) -> T {
    let (_, ended) = branches.join().await;
    collect(ended, &mut outcomes).expect("there is an outcome of each branch")
}

/// Makes an outcome of each branch.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Outcomes(Arc<Reporter>);

impl<T: WaitOutput> Collector<T> for Outcomes {
    type Item = Outcome<T>;

    /// Nothing decides.
    fn rules() -> Rules<T> {
        Rules { decides: |_| false, failure_of: |output| failure_of(output.into_result()) }
    }

    fn collect(&mut self, index: usize, ended: Ended<T>) -> Option<Outcome<T>> {
        let failure = match ended.map(Unreported::take) {
            Ok(Ok(output)) => match output.into_result() {
                Ok(value) => return Some(Ok(value)),
                Err(error) => Failure::Error(error),
            },
            Ok(Err(payload)) => Failure::Panic(payload),
            Err(_) => Failure::Cancelled,
        };
        Some(Err(TaskError::new(self.0.branch(index), failure)))
    }
}

/// What [`wait_all`] accepts: a `Vec`, an array or a tuple of up to eight futures of a `Result` or of `()`.
///
/// This trait is sealed.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let number = async { Ok::<_, aiodrive::BoxError>(1) };
/// let text = async { Err::<(), _>("not a word") };
///
/// let (number, text) = aiodrive::wait_all((number, text)).await;
/// assert_eq!(number.unwrap(), 1);
/// assert!(text.unwrap_err().to_string().ends_with("failed: not a word"));
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`wait_all` cannot run `{Self}`",
    label = "neither a `Vec`, an array nor a tuple of up to eight futures of a `Result` or of `()` that are `Send + 'static`",
    note = "give it a Vec, an array or a tuple: an iterator becomes one by `.collect::<Vec<_>>()`"
)]
pub trait WaitAll: Shape<Outcomes, Collected = Self::Output> {
    /// A `Result<T, TaskError<E>>` for each future, in the shape of the futures.
    type Output: Send + 'static;
}

/// What a branch yields: a `Result`, or nothing.
pub trait WaitOutput: Send + 'static {
    type Value: Send + 'static;
    type Error: Into<BoxError> + Send + 'static;

    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

impl<T: Send + 'static, E: Into<BoxError> + Send + 'static> WaitOutput for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

impl WaitOutput for () {
    type Value = ();
    type Error = Infallible;

    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What there is in the place of a branch.
type Outcome<T> = Result<<T as WaitOutput>::Value, TaskError<<T as WaitOutput>::Error>>;

impl<F: Future<Output: WaitOutput> + Send + 'static> WaitAll for Vec<F> {
    type Output = Vec<Outcome<F::Output>>;
}

impl<F: Future<Output: WaitOutput> + Send + 'static, const N: usize> WaitAll for [F; N] {
    type Output = [Outcome<F::Output>; N];
}

macro_rules! wait_all_tuple {
    ($($F:ident $n:tt),+) => {
        impl<$($F: Future<Output: WaitOutput> + Send + 'static),+> WaitAll for ($($F,)+) {
            type Output = ($(Outcome<$F::Output>,)+);
        }
    };
}

for_tuples!(wait_all_tuple);

/// The future of [`wait_all`], over the outcomes of all futures.
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
/// use aiodrive::futures::WaitAllFuture;
/// use aiodrive::{BoxError, TaskError};
///
/// let outcomes: WaitAllFuture<Vec<Result<u32, TaskError<BoxError>>>> =
///     aiodrive::wait_all(vec![ready(Ok(1))]);
/// assert_eq!(outcomes.await.remove(0).unwrap(), 1);
/// # }
/// ```
#[must_use = "the futures are aborted when this is dropped"]
pub struct WaitAllFuture<T>(CallFuture<T>);

impl<T> Future for WaitAllFuture<T> {
    type Output = T;

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.poll(cx)
    }
}

impl<T> fmt::Debug for WaitAllFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitAllFuture").finish_non_exhaustive()
    }
}
