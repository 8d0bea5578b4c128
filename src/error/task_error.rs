//! One failure of one task.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Debug, Display};

use super::{BoxError, Failure, TaskInfo};

/// One failure: what failed, and which task it was.
///
/// Unlike tokio's `JoinError`, which knows a panic or an abort of a task by its id, it also holds the error that the
/// task returned, and knows the task by its name and the line that spawned it.
///
/// Its `Display` is one line, `task "fetch" (src/main.rs:10:5) failed: connection refused`; with `{:#}` the error is
/// printed in that form as well, which breaks the lines of a nested [`PoolError`](crate::PoolError).
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
}

impl<E> TaskError<E> {
    /// A failure of this task.
    pub(crate) fn new(task: TaskInfo, failure: Failure<E>) -> Self {
        Self { task, failure }
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
    pub fn into_failure(self) -> Failure<E> {
        self.failure
    }
}

impl<E: Into<BoxError>> TaskError<E> {
    /// Forgets the error's type, so that a scope of any type can report it.
    pub(crate) fn boxed(self) -> TaskError {
        TaskError { task: self.task, failure: self.failure.boxed() }
    }
}

impl<E: Debug> Debug for TaskError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError").field("task", &self.task).field("failure", &self.failure).finish()
    }
}

impl<E: Display> Display for TaskError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.task)?;
        match &self.failure {
            Failure::Error(error) => {
                f.write_str("failed: ")?;
                Display::fmt(error, f)
            }
            Failure::Panic(payload) => write!(f, "panicked: {payload}"),
            Failure::Cancelled => f.write_str("was cut off by its runtime shutting down"),
        }
    }
}

impl<E: Debug + Display + 'static> Error for TaskError<E> {
    /// The cause of the error that the task returned, if that is a [`BoxError`]: the error's own text is part of
    /// `Display` already. Other types are reached through [`failure`](Self::failure).
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let Failure::Error(error) = &self.failure else { return None };
        (error as &dyn Any).downcast_ref::<BoxError>()?.source()
    }
}
