//! All of several futures, however each of them ends.
//!
//! Nothing decides in the [`group`](crate::group): each branch runs to its end. The results have a class for each
//! branch from the beginning, which says that it was cut off; so it is right also about a branch that its runtime drops
//! without a word.

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{BoxError, Failure, PanicPayload, TaskError, TaskInfo};
use crate::group::{Group, Rules};
use crate::slots::{Choice, Slots, for_tuples};

/// Runs futures at the same time, as tasks, each to its end, and yields for each of them, in order, its value or its
/// failure.
///
/// A failure stops none of the others. The result has a class for every future, whether it returned, failed or
/// panicked. `wait_all` is ready only when all have ended, with everything below them.
///
/// The futures are spawned when `wait_all` is called, on the runtime that it is called from. They come as a `Vec`, an
/// array or a tuple of up to eight, whose values and errors may differ in type.
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
/// What there is to be had, with a word about the rest:
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
/// for (sensor, outcome) in wait_all((0..3).map(temperature).collect::<Vec<_>>()).await.into_iter().enumerate() {
///     match outcome {
///         Ok(reading) => readings.push(reading),
///         Err(failed) => eprintln!("sensor {sensor}: {failed}"),
///     }
/// }
/// assert_eq!(readings, [21]);
/// # }
/// ```
#[track_caller]
pub fn wait_all<S: WaitAll>(futures: S) -> WaitAllFuture<S::Output, <S::Output as Slots>::Item> {
    let rules = Rules { decides: |_| false, first_only: false, cut_off: Err, orphaned: S::orphaned };
    let mut group = Group::new("wait_all", None, rules);
    let results = futures.spawn(&mut group);
    WaitAllFuture { group, results: Some(results) }
}

/// What [`wait_all`] accepts: a `Vec`, an array or a tuple of up to eight futures of a `Result`.
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
pub trait WaitAll: sealed::Sealed<Self::Output> {
    /// A `Result<T, TaskError<E>>` for each future, in the shape of the futures.
    type Output: Slots;
}

mod sealed {
    use crate::error::Failure;
    use crate::group::Group;
    use crate::slots::Slots;

    /// `S` is the shape of the results.
    pub trait Sealed<S: Slots> {
        /// The results, as long as nothing else is known: cut off by the runtime.
        fn spawn(self, group: &mut Group<S::Item>) -> S;

        /// What there is to be reported of a result that nobody gets.
        fn orphaned(item: S::Item) -> Option<Failure>;
    }
}

/// A branch of `wait_all`: its value and its error as types with names.
pub trait WaitBranch: Future<Output = Result<Self::Value, Self::Error>> + Send + 'static {
    type Value: Send + Unpin + 'static;
    type Error: Into<BoxError> + Send + Unpin + 'static;
}

impl<F, T, E> WaitBranch for F
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + Unpin + 'static,
    E: Into<BoxError> + Send + Unpin + 'static,
{
    type Value = T;
    type Error = E;
}

/// What a branch comes to.
type Outcome<F> = Result<<F as WaitBranch>::Value, TaskError<<F as WaitBranch>::Error>>;

/// What a branch has come to.
fn outcome<T, E>(
    at: &'static Location<'static>,
    output: Result<Result<T, E>, PanicPayload>,
) -> Result<T, TaskError<E>> {
    let failure = match output {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => Failure::Error(error),
        Err(payload) => Failure::Panic(payload),
    };
    Err(TaskError::new(TaskInfo::unnamed(at), failure))
}

/// What a branch has come to of which nothing is known.
fn unknown<T, E>(at: &'static Location<'static>) -> Result<T, TaskError<E>> {
    Err(TaskError::new(TaskInfo::unnamed(at), Failure::Cancelled))
}

/// The failure in a result that nobody gets.
fn orphan<T, E: Into<BoxError>>(outcome: Result<T, TaskError<E>>) -> Option<Failure> {
    outcome.err().map(|failed| failed.into_failure().boxed())
}

impl<F: WaitBranch> WaitAll for Vec<F> {
    type Output = Vec<Outcome<F>>;
}

impl<F: WaitBranch> sealed::Sealed<Vec<Outcome<F>>> for Vec<F> {
    fn spawn(self, group: &mut Group<Outcome<F>>) -> Vec<Outcome<F>> {
        let at = group.spawned_at();
        self.into_iter().map(|future| group.spawn(future, |output| outcome(at, output))).map(|()| unknown(at)).collect()
    }

    fn orphaned(item: Outcome<F>) -> Option<Failure> {
        orphan(item)
    }
}

impl<F: WaitBranch, const N: usize> WaitAll for [F; N] {
    type Output = [Outcome<F>; N];
}

impl<F: WaitBranch, const N: usize> sealed::Sealed<[Outcome<F>; N]> for [F; N] {
    fn spawn(self, group: &mut Group<Outcome<F>>) -> [Outcome<F>; N] {
        let at = group.spawned_at();
        self.map(|future| group.spawn(future, |output| outcome(at, output))).map(|()| unknown(at))
    }

    fn orphaned(item: Outcome<F>) -> Option<Failure> {
        orphan(item)
    }
}

macro_rules! wait_all_tuple {
    ($($F:ident $n:tt),+) => {
        impl<$($F: WaitBranch),+> WaitAll for ($($F,)+) {
            type Output = ($(Outcome<$F>,)+);
        }

        impl<$($F: WaitBranch),+> sealed::Sealed<($(Outcome<$F>,)+)> for ($($F,)+) {
            fn spawn(self, group: &mut Group<Choice<$(Outcome<$F>),+>>) -> ($(Outcome<$F>,)+) {
                let at = group.spawned_at();
                $(group.spawn(self.$n, |output| Choice::$F(outcome(at, output)));)+
                ($(unknown::<$F::Value, $F::Error>(at),)+)
            }

            fn orphaned(item: Choice<$(Outcome<$F>),+>) -> Option<Failure> {
                match item {
                    $(Choice::$F(item) => orphan(item),)+
                }
            }
        }
    };
}

for_tuples!(wait_all_tuple);

/// The future of [`wait_all`], over what the futures yield: `I` is the outcome of one, `S` that of all.
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
/// let outcomes: WaitAllFuture<Vec<Result<u32, TaskError<BoxError>>>, _> = aiodrive::wait_all(vec![ready(Ok(1))]);
/// assert_eq!(outcomes.await.remove(0).unwrap(), 1);
/// # }
/// ```
#[must_use = "the futures are aborted when this is dropped"]
pub struct WaitAllFuture<S, I: Send + 'static> {
    group: Group<I>,
    /// `None` once they have been yielded.
    results: Option<S>,
}

impl<S, I: Send + 'static> Unpin for WaitAllFuture<S, I> {}

impl<S: Slots<Item = I>, I: Send + 'static> Future for WaitAllFuture<S, I> {
    type Output = S;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S> {
        // What was cut off by the runtime has a class that says so already.
        ready!(self.group.poll_ended(cx));
        ready!(self.group.poll_settled(cx));
        let mut results = self.results.take().expect("`wait_all` was polled after it was ready");
        for (index, item) in self.group.take_items() {
            results.put(index, item);
        }
        Poll::Ready(results)
    }
}

impl<S, I: Send + 'static> fmt::Debug for WaitAllFuture<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitAllFuture").finish_non_exhaustive()
    }
}
