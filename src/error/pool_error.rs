//! Everything that went wrong in a pool.
//!
//! There are three lists: the failures of the pool's own tasks and its body; cleanup failures, of what had lost its
//! owner; and what the pool gave up on. An error with none of them says that the body was cut short by a cancellation.

use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::mem;
use std::sync::Arc;

use super::echo::CancelledError;
use super::text::{Parts, write_list};
use super::{BoxError, Failure, TaskError, TaskInfo, catch};
use crate::closing_reason::ClosingReason;

/// Everything that went wrong in a pool, in order of occurrence.
///
/// A pool returns this when a task or the body failed, when something below it failed whose owner was gone, when it
/// gave up on a task, or when its body was cut short by [`cancel`](crate::Pool::cancel). No failure hides another:
/// [`failures`](Self::failures) has all of them, and the first is the one that closed the pool.
///
/// Its `Display` is one line; `{:#}` prints one failure a line and indents the failures of nested pools. A `main` that
/// returns a `PoolError` prints its `Debug`, which is longer and made for debugging: print `{error:#}` there yourself.
///
/// Unlike tokio's `JoinError`, it knows the name of the task and where it was spawned, and it holds the task's own
/// error beside the panics.
///
/// See [errors and panics](crate::docs::errors_and_panics) for where each failure goes.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Pool::open(async |pool: Pool| {
///     pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
///     Ok(())
/// })
/// .await
/// .unwrap_err();
///
/// assert_eq!(error.first().unwrap().task().name(), Some("fetch"));
/// assert!(error.to_string().ends_with("failed: connection refused"));
/// # }
/// ```
pub struct PoolError<E = BoxError>(Box<Report<E>>);

/// What a [`PoolError`] is made of; boxed, so that a `Result` with it stays small.
pub(crate) struct Report<E> {
    /// Its name.
    pub(crate) pool: Option<Arc<str>>,
    /// Of its tasks and its body, in order of occurrence.
    pub(crate) failures: Vec<TaskError<E>>,
    /// Of what had lost its owner, in order of occurrence.
    pub(crate) cleanup_failures: Vec<TaskError>,
    /// What it gave up on.
    pub(crate) stuck: Vec<TaskInfo>,
    pub(crate) reason: ClosingReason,
}

impl<E> Report<E> {
    /// Drops the failures one by one, for a caller who returns something else, or lets a panic go on. Either would be
    /// lost to a destructor that panics: such a panic goes no further.
    pub(crate) fn discard(self) {
        self.failures.into_iter().for_each(|failed| drop(catch(|| drop(failed))));
        self.cleanup_failures.into_iter().for_each(|failed| drop(catch(|| drop(failed))));
    }
}

impl<E> PoolError<E> {
    /// The error with this report.
    pub(crate) fn new(report: Report<E>) -> Self {
        Self(Box::new(report))
    }

    /// Takes the first failure out that is wanted.
    fn take(&mut self, wanted: impl FnMut(&TaskError<E>) -> bool) -> Option<Failure<E>> {
        let at = self.0.failures.iter().position(wanted)?;
        Some(self.0.failures.remove(at).into_failure())
    }

    /// All failures of the pool's tasks and of its body, in order of occurrence.
    ///
    /// Empty if the pool was only cancelled, or if all that failed is in
    /// [`cleanup_failures`](Self::cleanup_failures).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{OnFailure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Collect).build();
    /// pool.build_task().name("parse").spawn(async { Err("line 3 is empty".into()) });
    /// pool.build_task().name("count").spawn(async { panic!("division by zero") });
    /// let error = pool.run().await.unwrap_err();
    /// let names: Vec<_> = error.failures().iter().map(|failed| failed.task().name().unwrap()).collect();
    /// assert_eq!(names, ["parse", "count"]);
    /// # }
    /// ```
    #[must_use]
    pub fn failures(&self) -> &[TaskError<E>] {
        &self.0.failures
    }

    /// The same failures by value, in order of occurrence.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool<String> = Pool::new();
    /// pool.spawn(async { Err("line 3 is empty".to_string()) });
    /// for failed in pool.run().await.unwrap_err().into_failures() {
    ///     assert!(matches!(failed.into_failure(), Failure::Error(text) if text == "line 3 is empty"));
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn into_failures(mut self) -> Vec<TaskError<E>> {
        let failures = mem::take(&mut self.0.failures);
        self.0.discard();
        failures
    }

    /// The first failure, which is the one that closed the pool, if one did.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("parse").spawn(async { Err("line 3 is empty".into()) });
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.first().unwrap().task().name(), Some("parse"));
    /// # }
    /// ```
    #[must_use]
    pub fn first(&self) -> Option<&TaskError<E>> {
        self.0.failures.first()
    }

    /// The first failure that is an error, as the task or the body returned it.
    ///
    /// Panics are skipped. To let a panic go on in the caller, call [`resume_panic`](Self::resume_panic) before.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// async fn read() -> std::io::Result<()> {
    ///     Err(std::io::ErrorKind::NotFound.into())
    /// }
    ///
    /// let pool: Pool<std::io::Error> = Pool::new();
    /// pool.spawn(read());
    /// let error = pool.run().await.unwrap_err().into_first_error().unwrap();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # }
    /// ```
    #[must_use]
    pub fn into_first_error(mut self) -> Option<E> {
        let failed = |failed: &TaskError<E>| matches!(failed.failure(), Failure::Error(_));
        let error = match self.take(failed) {
            Some(Failure::Error(error)) => Some(error),
            _ => None,
        };
        self.0.discard();
        error
    }

    /// Whether nothing failed: the body was cut short by [`cancel`](crate::Pool::cancel), or because the enclosing task
    /// was asked to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |pool: Pool| {
    ///     pool.cancel();
    ///     std::future::pending::<()>().await;
    ///     Ok(())
    /// });
    /// assert!(error.await.unwrap_err().is_cancelled());
    /// # }
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.failures.is_empty() && self.0.cleanup_failures.is_empty() && self.0.stuck.is_empty()
    }

    /// What was given to [`cancel_with`](crate::Pool::cancel_with), if that is what closed the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |pool: Pool| {
    ///     pool.cancel_with("deployment");
    ///     std::future::pending::<()>().await;
    ///     Ok(())
    /// });
    /// assert_eq!(error.await.unwrap_err().cancel_reason(), Some("deployment"));
    /// # }
    /// ```
    #[must_use]
    pub fn cancel_reason(&self) -> Option<&str> {
        match &self.0.reason {
            ClosingReason::Cancelled(reason) => reason.as_deref(),
            _ => None,
        }
    }

    /// Why the pool closed. What failed later, while it closed, is among the failures all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{ClosingReason, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |_: Pool| Err::<(), _>("no such host".into())).await.unwrap_err();
    /// assert_eq!(*error.closing_reason(), ClosingReason::Failed);
    /// # }
    /// ```
    #[must_use]
    pub fn closing_reason(&self) -> &ClosingReason {
        &self.0.reason
    }

    /// Whether the failure that closed the pool is a panic.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { panic!("a bug") });
    /// assert!(pool.run().await.unwrap_err().is_panic());
    /// # }
    /// ```
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.first().is_some_and(|failed| matches!(failed.failure(), Failure::Panic(_)))
    }

    /// Lets the first panic among the failures go on in the caller; gives the error back if there is none.
    ///
    /// All other failures are dropped before, as [`into_failures`](Self::into_failures) and its like drop what they do
    /// not return: if the destructor of an error panics at that, nobody hears of it.
    ///
    /// # Panics
    ///
    /// With the payload of the first failure that is a panic, if there is one. The panic hook is not called again.
    ///
    /// # Examples
    ///
    /// A test that is to fail where its task does:
    ///
    /// ```should_panic
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { assert_eq!(1 + 1, 3) });
    /// if let Err(error) = pool.run().await {
    ///     let error = error.resume_panic(); // goes on here, if nothing panicked
    ///     println!("{error}");
    /// }
    /// # }
    /// ```
    pub fn resume_panic(mut self) -> Self {
        let panicked = |failed: &TaskError<E>| matches!(failed.failure(), Failure::Panic(_));
        let Some(Failure::Panic(payload)) = self.take(panicked) else { return self };
        self.0.discard();
        payload.resume()
    }

    /// What failed below the pool when its own owner was gone: tasks that were still ending, shielded work and exit
    /// handlers whose future had been dropped. Also values that a function could not return any more, and that panicked
    /// as they were dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, shield};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |_: Pool| {
    ///     drop(shield(async { panic!("the commit has failed") })); // as when its task is aborted
    ///     Ok(())
    /// });
    /// let error = error.await.unwrap_err();
    /// assert!(error.failures().is_empty());
    /// assert!(error.cleanup_failures()[0].to_string().ends_with("panicked: the commit has failed"));
    /// # }
    /// ```
    #[must_use]
    pub fn cleanup_failures(&self) -> &[TaskError] {
        &self.0.cleanup_failures
    }

    /// The same cleanup failures by value, in order of occurrence.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool, shield};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |_: Pool| {
    ///     drop(shield(async { std::panic::panic_any(404) })); // as when its task is aborted
    ///     Ok(())
    /// });
    /// let failed = error.await.unwrap_err().into_cleanup_failures().remove(0);
    /// let Failure::Panic(payload) = failed.into_failure() else { unreachable!() };
    /// assert_eq!(payload.into_inner().downcast_ref(), Some(&404));
    /// # }
    /// ```
    #[must_use]
    pub fn into_cleanup_failures(mut self) -> Vec<TaskError> {
        let failures = mem::take(&mut self.0.cleanup_failures);
        self.0.discard();
        failures
    }

    /// What the pool has given up on: every task, of the pool and of all that is below it, that had not ended when the
    /// time of [`abandon_after`](crate::PoolBuilder::abandon_after) was over.
    ///
    /// The tasks of one depth are in the order in which they were spawned, daemons after the others, each followed by
    /// those below it. Last come those whose owner is gone. If the pool waited for something that is no task, for
    /// example a pool that was moved out of its task, then its own body is named instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main]
    /// # async fn main() {
    /// let (release, blocked) = std::sync::mpsc::channel::<()>();
    /// let (started, running) = tokio::sync::oneshot::channel();
    /// let pool: Pool = Pool::builder().abandon_after(Duration::from_millis(1)).build();
    /// pool.build_task().name("printer").spawn_blocking(move || {
    ///     let _ = started.send(());
    ///     drop(blocked.recv()); // for ever, as far as the pool can tell
    /// });
    /// pool.cancel_on(running);
    ///
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.stuck()[0].name(), Some("printer"));
    /// assert!(error.to_string().starts_with(r#"gave up on task "printer" ("#));
    /// # drop(release);
    /// # }
    /// ```
    #[must_use]
    pub fn stuck(&self) -> &[TaskInfo] {
        &self.0.stuck
    }
}

impl<E: Debug> Debug for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolError")
            .field("pool", &self.0.pool)
            .field("failures", &self.0.failures)
            .field("cleanup_failures", &self.0.cleanup_failures)
            .field("stuck", &self.0.stuck)
            .field("closing_reason", &self.0.reason)
            .finish()
    }
}

impl<E: Display> Display for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { pool, failures, cleanup_failures, stuck, .. } = &*self.0;
        if let Some(name) = pool {
            write!(f, "pool \"{name}\": ")?;
        }
        if self.is_cancelled() {
            f.write_str("pool cancelled")?;
            return self.cancel_reason().iter().try_for_each(|reason| write!(f, ": {reason}"));
        }
        let mut parts = Parts::new(f);
        if !failures.is_empty() {
            parts.begin(f)?;
            write_list(f, "tasks failed", failures)?;
        }
        if !cleanup_failures.is_empty() {
            parts.begin(f)?;
            write_list(f, "failed while cleaning up", cleanup_failures)?;
        }
        if !stuck.is_empty() {
            parts.begin(f)?;
            f.write_str("gave up on ")?;
            write_list(f, "tasks", stuck)?;
        }
        Ok(())
    }
}

impl<E: Debug + Display + 'static> Error for PoolError<E> {
    /// The cause of the only failure; with several, each failure has its own. Of a pool that was only cancelled: that
    /// it was asked to stop.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.failures() {
            [] if self.is_cancelled() => Some(&CancelledError),
            [only] => only.source(),
            _ => None,
        }
    }
}
