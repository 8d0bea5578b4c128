//! One failure of one task.

use std::mem;

use super::box_error::BoxError;
use super::dispose::dispose;
use super::failure::Failure;
use super::task_info::TaskInfo;

/// One failure: what failed, and which task it was.
///
/// Unlike tokio's `JoinError`, which knows a panic or an abort of a task by its id, it also holds the error that the
/// task returned, and knows the task by its name and the line that spawned it.
///
/// `{}` is one line, `task "fetch" (src/main.rs:10:5) failed: connection refused`. `{:#}` is the report, with the causes
/// of the error, and with a line for each failure of a nested [`PoolError`](crate::PoolError). `{:?}` is the same
/// report, and `{:#?}` shows the structure.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, TaskError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
/// let error = pool.run().await.unwrap_err();
/// let failed: &TaskError = error.first().unwrap();
/// assert_eq!(failed.to_string(), format!("{} failed: connection refused", failed.task()));
/// # }
/// ```
pub struct TaskError<E = BoxError> {
    task: TaskInfo,
    failure: Failure<E>,
    /// How the failure is dropped. Only where it is made is `E` known to live as long as a queue of the thread may.
    dispose: fn(Failure<E>),
    /// Whether a pool has told `tracing` of it.
    #[cfg(feature = "tracing")]
    pub(super) was_told: bool,
}

impl<E> TaskError<E> {
    /// A failure of this task.
    pub(crate) fn new(task: TaskInfo, failure: Failure<E>) -> Self
    where
        E: 'static,
    {
        Self {
            task,
            failure,
            dispose: dispose::<Failure<E>>,
            #[cfg(feature = "tracing")]
            was_told: false,
        }
    }

    /// The task that failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.failures()[0].task().name(), Some("fetch"));
    /// # }
    /// ```
    #[must_use]
    pub fn task(&self) -> &TaskInfo {
        &self.task
    }

    /// How it failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { Err(std::io::Error::other("disk full").into()) });
    /// let error = pool.run().await.unwrap_err();
    /// match error.failures()[0].failure() {
    ///     Failure::Error(error) => assert!(error.is::<std::io::Error>()),
    ///     other => unreachable!("{other:?}"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn failure(&self) -> &Failure<E> {
        &self.failure
    }

    /// How it failed, by value.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool<&str> = Pool::new();
    /// pool.spawn(async { Err("disk full") });
    /// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
    /// assert!(matches!(failed.into_failure(), Failure::Error("disk full")));
    /// # }
    /// ```
    #[must_use]
    pub fn into_failure(mut self) -> Failure<E> {
        self.take()
    }

    /// The error that the task returned, if that is how it failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool<&str> = Pool::new();
    /// pool.spawn(async { Err("disk full") });
    /// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
    /// assert_eq!(failed.into_error(), Some("disk full"));
    /// # }
    /// ```
    #[must_use]
    pub fn into_error(self) -> Option<E> {
        match self.into_failure() {
            Failure::Error(error) => Some(error),
            _ => None,
        }
    }

    /// The same failure, with its error in a box.
    ///
    /// So errors of several types can be kept in one list, and their causes are part of the report and of the chain of
    /// [sources](std::error::Error::source).
    ///
    /// If the conversion panics, that panic is the failure.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, TaskError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool<std::io::Error> = Pool::new();
    /// pool.spawn(async { Err(std::io::ErrorKind::NotFound.into()) });
    /// let failed: TaskError = pool.run().await.unwrap_err().into_failures().remove(0).boxed();
    /// assert!(failed.into_error().unwrap().is::<std::io::Error>());
    /// # }
    /// ```
    #[must_use]
    pub fn boxed(mut self) -> TaskError
    where
        E: Into<BoxError>,
    {
        TaskError {
            task: self.task.clone(),
            failure: self.take().boxed(),
            dispose: dispose::<Failure>,
            #[cfg(feature = "tracing")]
            was_told: self.was_told,
        }
    }

    /// Leaves something that needs no destructor.
    fn take(&mut self) -> Failure<E> {
        mem::replace(&mut self.failure, Failure::Ended)
    }
}

impl<E> Drop for TaskError<E> {
    /// The error may hold others of its kind, as deep as pools are nested.
    fn drop(&mut self) {
        if mem::needs_drop::<E>() && matches!(self.failure, Failure::Error(_)) {
            (self.dispose)(self.take());
        }
    }
}
