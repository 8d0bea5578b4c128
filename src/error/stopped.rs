//! What says only that something was stopped: a task, a pool, or a spawn.
//!
//! A task or a body passes such an error on with `?`, from a nested pool or from a handle, often with an error of its
//! own around it. To count it would turn each cancellation into a failure, and each failure into two. So the whole
//! chain of causes is searched, in every type that can be asked for one.
//!
//! That is done at each pool that a failure passes, and yet the cost is linear in all: the search ends at the first
//! [`PoolError`] that it comes to, since that has the answer, which was found when it was made. Where the error type is
//! a foreign one, so that it is not known as a `PoolError`, its answer is its cause, and ends the chain.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Debug};

use super::chain::{LONGEST_CHAIN, as_error, as_link};
use super::pool_error::{PoolError, Report};
use super::task_error::{Failure, catch};

/// Why a [`TaskHandle`](crate::TaskHandle) has no value to give.
///
/// It only marks what happened: the error or the panic itself is in the [`PoolError`] of the task's pool. So `?` can be
/// used on a handle: a task or a body that returns a `TaskStopped` adds no failure to it, unless it is
/// [`NotReady`](Self::NotReady).
///
/// # Examples
///
/// ```
/// use aiodrive::{OnFailure, Pool, TaskStopped};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Pool::builder()
///     .on_failure(|_| OnFailure::Collect)
///     .open(async |pool: Pool| {
///         let connect = async { Err::<(), _>("connection refused".into()) };
///         let failed = pool.spawn_with_handle(connect);
///         assert_eq!(failed.await, Err(TaskStopped::Failed));
///         Ok(())
///     })
///     .await
///     .unwrap_err();
/// assert!(error.to_string().ends_with("failed: connection refused"));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskStopped {
    /// It was cancelled: by its handle, by its pool, by its runtime, or before it began.
    #[error("task was cancelled")]
    Cancelled,
    /// It returned an error.
    #[error("task failed")]
    Failed,
    /// It panicked.
    #[error("task panicked")]
    Panicked,
    /// It was [started](crate::Pool::start), and ended or went on without ever saying that it was ready.
    #[error("task never said that it was ready")]
    NotReady,
}

/// A task that was not spawned because the pool is closed, given back by [`Pool::try_spawn`](crate::Pool::try_spawn).
///
/// Like the error of a channel whose receiver is gone, it holds what could not be delivered: the future, never polled.
///
/// # Examples
///
/// ```
/// let pool: aiodrive::Pool = aiodrive::Pool::new();
/// pool.cancel();
/// assert_eq!(pool.try_spawn(async {}).unwrap_err().to_string(), "the pool is closed");
/// ```
#[derive(thiserror::Error)]
#[error("the pool is closed")]
pub struct SpawnError<F>(pub(crate) F);

impl<F> SpawnError<F> {
    /// The future, never polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (pool, other): (Pool, Pool) = (Pool::new(), Pool::new());
    /// pool.cancel();
    /// if let Err(refused) = pool.try_spawn(async {}) {
    ///     other.spawn(refused.into_inner());
    /// }
    /// assert_eq!(other.len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F> Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpawnError(..)")
    }
}

/// What an error says that says only that something was stopped. It is also the cause of a [`PoolError`] that says
/// that, whatever its type.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CancelledError {
    /// Something was cancelled. Once the pool at which that arrives is closing, it is no failure.
    #[error("it was stopped")]
    Cancelled,
    /// A task has failed or panicked. It is no failure either if the pool at which that arrives has that one.
    #[error("another task failed")]
    Failed,
}

/// What the pool's `is_cancellation` says of an error.
pub(crate) type IsCancellation<E> = dyn Fn(&E) -> bool + Send + Sync;

/// What an error says, if it says only that something was stopped. Where the error itself does not tell,
/// `is_cancellation` does.
///
/// All that it calls is the user's. If that panics, the error says more than that.
pub(crate) fn cancellation<E: 'static>(
    error: &E,
    is_cancellation: Option<&IsCancellation<E>>,
) -> Option<CancelledError> {
    let found = catch(|| match (error as &dyn Any).downcast_ref() {
        Some(stopped) => cancellation_in(stopped as &TaskStopped),
        None => as_error(error).and_then(cancellation_in).or_else(|| boxed_in(error).and_then(cancellation_in)),
    });
    let asked = || is_cancellation.is_some_and(|asked| catch(|| asked(error)).unwrap_or(false));
    found.ok().flatten().or_else(|| asked().then_some(CancelledError::Cancelled))
}

/// What `anyhow::Error::from_boxed` hides from the chain of causes.
#[cfg(feature = "anyhow")]
fn boxed_in<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    let error = (error as &dyn Any).downcast_ref::<anyhow::Error>()?;
    error.downcast_ref::<super::BoxError>().map(|boxed| &**boxed as _)
}

#[cfg(not(feature = "anyhow"))]
fn boxed_in<E: 'static>(_: &E) -> Option<&(dyn Error + 'static)> {
    None
}

/// The same, of an error that can be asked for its cause.
///
/// A chain without an end is followed for a million links.
pub(super) fn cancellation_in(error: &(dyn Error + 'static)) -> Option<CancelledError> {
    let mut link = error;
    for _ in 0..LONGEST_CHAIN {
        if let Some(says) = link.downcast_ref() {
            return Some(*says);
        }
        if let Some(stopped) = link.downcast_ref() {
            return match stopped {
                TaskStopped::Cancelled => Some(CancelledError::Cancelled),
                TaskStopped::Failed | TaskStopped::Panicked => Some(CancelledError::Failed),
                // It is news that a task never said that it was ready.
                TaskStopped::NotReady => None,
            };
        }
        link = match as_link(link) {
            Some(link) => link.stop()?,
            None => link.source()?,
        };
    }
    None
}

impl<E: 'static> PoolError<E> {
    /// The error with this report, by the pool's `is_cancellation`.
    pub(crate) fn new(report: Report<E>, is_cancellation: Option<&IsCancellation<E>>) -> Self {
        let stop = cancellation_of(&report, is_cancellation).map(|says| match says {
            CancelledError::Cancelled => &CancelledError::Cancelled as _,
            CancelledError::Failed => &CancelledError::Failed as _,
        });
        Self::with_stop(report, stop)
    }
}

/// What a pool says that has failed with nothing but such errors. With both kinds, that it was cancelled: this is no
/// failure only of a pool that is closing.
fn cancellation_of<E: 'static>(
    report: &Report<E>,
    is_cancellation: Option<&IsCancellation<E>>,
) -> Option<CancelledError> {
    if !report.cleanup_failures.is_empty() || !report.stuck.is_empty() {
        return None;
    }
    let mut all = report.failures.iter().map(|failed| match failed.failure() {
        Failure::Error(error) => cancellation(error, is_cancellation),
        _ => None,
    });
    let first = all.next().unwrap_or(Some(CancelledError::Cancelled))?;
    all.try_fold(first, |says, next| next.map(|next| if next == says { says } else { CancelledError::Cancelled }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BoxError, ClosingReason, TaskError, TaskInfo};

    /// An opaque type, as `eyre::Report` is one: not an error itself, and made of any.
    struct Opaque(BoxError);

    fn asks(report: &Opaque) -> bool {
        cancellation_in(&*report.0).is_some()
    }

    /// An error type of a user's.
    #[derive(Debug, thiserror::Error)]
    enum AppError {
        #[error("a component has failed")]
        Component(#[from] PoolError<AppError>),
        #[error("a task has failed")]
        Task(#[source] TaskStopped),
    }

    fn asks_variants(error: &AppError) -> bool {
        match error {
            AppError::Component(error) => error.is_cancelled(),
            AppError::Task(stopped) => *stopped != TaskStopped::NotReady,
        }
    }

    fn failed_with<E: 'static>(
        errors: impl IntoIterator<Item = E>,
        is_cancellation: Option<&IsCancellation<E>>,
    ) -> PoolError<E> {
        let failed = |error| TaskError::new(TaskInfo::of_task(None), Failure::Error(error));
        let report = Report {
            pool: None,
            failures: errors.into_iter().map(failed).collect(),
            cleanup_failures: Vec::new(),
            stuck: Vec::new(),
            reason: ClosingReason::Failed,
        };
        PoolError::new(report, is_cancellation)
    }

    #[test]
    fn a_type_that_nothing_is_known_of_is_told_by_the_hook() {
        let stopped = Opaque(TaskStopped::Cancelled.into());
        assert_eq!(cancellation(&stopped, None), None);
        assert_eq!(cancellation(&stopped, Some(&asks)), Some(CancelledError::Cancelled));
        assert_eq!(cancellation(&Opaque("broken".into()), Some(&asks)), None);
        for (error, says) in [
            (AppError::Task(TaskStopped::Cancelled), Some(CancelledError::Cancelled)),
            (AppError::Task(TaskStopped::NotReady), None),
            (AppError::from(failed_with([], None)), Some(CancelledError::Cancelled)),
            (AppError::from(failed_with([AppError::Task(TaskStopped::NotReady)], None)), None),
        ] {
            assert_eq!(cancellation(&error, Some(&asks_variants)), says, "{error:?}");
        }
    }

    #[test]
    fn a_hook_that_panics_says_nothing() {
        let panics = |_: &Opaque| std::panic::resume_unwind(Box::new("asked"));
        assert_eq!(cancellation(&Opaque(TaskStopped::Cancelled.into()), Some(&panics)), None);
    }

    #[test]
    fn the_hook_is_asked_about_what_a_type_does_not_tell_itself() {
        let own = |error: &BoxError| error.to_string() == "stop";
        assert_eq!(cancellation::<BoxError>(&"stop".into(), Some(&own)), Some(CancelledError::Cancelled));
        assert_eq!(cancellation::<BoxError>(&TaskStopped::Failed.into(), Some(&own)), Some(CancelledError::Failed));
    }

    #[test]
    fn that_another_task_failed_is_told_from_a_cancellation() {
        let says = |stopped: &[TaskStopped]| {
            let errors = stopped.iter().map(|stopped| BoxError::from(*stopped));
            cancellation::<BoxError>(&failed_with(errors, None).into(), None)
        };
        assert_eq!(says(&[TaskStopped::Failed, TaskStopped::Panicked]), Some(CancelledError::Failed));
        assert_eq!(says(&[TaskStopped::Failed, TaskStopped::Cancelled]), Some(CancelledError::Cancelled));
        assert_eq!(says(&[TaskStopped::Cancelled]), Some(CancelledError::Cancelled));
        assert_eq!(says(&[TaskStopped::Cancelled, TaskStopped::NotReady]), None);
        assert_eq!(says(&[]), Some(CancelledError::Cancelled));
    }

    /// By its cause, since a pool of another type does not know it as a `PoolError`.
    #[test]
    fn a_pool_whose_failures_the_hook_knows_says_it_to_others() {
        let stopped = || AppError::Task(TaskStopped::Cancelled);
        let typed = failed_with([stopped(), stopped()], Some(&asks_variants));
        assert_eq!(cancellation::<BoxError>(&typed.into(), None), Some(CancelledError::Cancelled));
        let typed = failed_with([stopped(), AppError::Task(TaskStopped::NotReady)], Some(&asks_variants));
        assert_eq!(cancellation::<BoxError>(&typed.into(), None), None);
    }
}
