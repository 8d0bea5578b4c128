//! Everything that went wrong in a pool.
//!
//! There are three lists: the failures of the pool's own tasks and its body; cleanup failures, of something nested
//! whose owner was gone; and the tasks for which the pool has stopped waiting. An error with none of them says that the
//! body was cut short by a cancellation. How it reads is in [`text`](super::text), and how it is made in
//! [`chain`](super::chain).

use std::mem;
use std::sync::Arc;

use super::BoxError;
use super::closing_reason::ClosingReason;
use super::stopped::CancelledError;
use super::task_error::{Failure, TaskError, TaskInfo, catch};

/// Everything that went wrong in a pool, in the order in which the pool recorded it.
///
/// A pool returns this when a task or the body failed, when something nested failed whose owner was gone, when it
/// stopped waiting for a task, or when its body was cut short by [`cancel`](crate::Pool::cancel). No failure hides
/// another: [`failures`](Self::failures) has all of them, in the order in which the pool recorded them.
///
/// How it reads:
///
/// - `{}` is one line, with the first three of each list, and how many more there are.
/// - `{:#}` is the report: a failure a line, each with its chain of causes, and those of nested pools indented. A chain
///   of more than 24 links is shortened in the middle. Causes are those of a [`BoxError`] or, with the feature
///   `anyhow`, of an `anyhow::Error`; any other error is written with its own `{:#}`, and has its causes after
///   [`boxed`](Self::boxed).
/// - `{:?}` is that report, too: it is what a `main` that returns the error prints, and a test. `{:#?}` shows the
///   structure.
///
/// It can be shown, asked for its [`source`](std::error::Error::source), and dropped, however deep pools are nested in
/// each other. An error type of your own in between, whose `Display` shows the error in it, recurses: after 64 such
/// levels, three dots stand for the rest.
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
pub struct PoolError<E = BoxError>(Box<Inner<E>>);

/// Boxed, so that a `Result` with it stays small.
struct Inner<E> {
    report: Report<E>,
    /// What it says, if it says only that something was stopped.
    stop: Option<CancelledError>,
}

/// What a [`PoolError`] is made of.
pub(crate) struct Report<E> {
    /// Its name.
    pub(crate) pool: Option<Arc<str>>,
    /// Of its tasks and its body, in order of occurrence.
    pub(crate) failures: Vec<TaskError<E>>,
    /// Of something nested whose owner was gone, in order of occurrence.
    pub(crate) cleanup_failures: Vec<TaskError>,
    /// The tasks for which it has stopped waiting.
    pub(crate) stuck: Vec<TaskInfo>,
    pub(crate) reason: ClosingReason,
}

impl<E> Report<E> {
    /// Drops the failures one by one, for a caller who returns something else, or lets a panic go on. Either would be
    /// lost to a destructor that panics: such a panic goes no further.
    fn discard(self) {
        self.failures.into_iter().for_each(|failed| drop(catch(|| drop(failed))));
        self.cleanup_failures.into_iter().for_each(|failed| drop(catch(|| drop(failed))));
    }
}

impl<E> PoolError<E> {
    /// The error with this report, and what it says if it says only that something was stopped.
    pub(super) fn with_stop(report: Report<E>, stop: Option<CancelledError>) -> Self {
        Self(Box::new(Inner { report, stop }))
    }

    pub(super) fn report(&self) -> &Report<E> {
        &self.0.report
    }

    /// What it says, if it says only that something was stopped.
    pub(super) fn stop_mark(&self) -> Option<&CancelledError> {
        self.0.stop.as_ref()
    }

    /// Takes the first failure out that is wanted.
    fn take(&mut self, wanted: impl FnMut(&TaskError<E>) -> bool) -> Option<TaskError<E>> {
        let at = self.failures().iter().position(wanted)?;
        Some(self.0.report.failures.remove(at))
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
    /// let failures = error.failures().iter();
    /// let names: Vec<_> = failures.map(|failed| failed.task().name().unwrap()).collect();
    /// assert_eq!(names, ["parse", "count"]);
    /// # }
    /// ```
    #[must_use]
    pub fn failures(&self) -> &[TaskError<E>] {
        &self.0.report.failures
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
    ///     let Failure::Error(text) = failed.into_failure() else { panic!("no error") };
    ///     assert_eq!(text, "line 3 is empty");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn into_failures(mut self) -> Vec<TaskError<E>> {
        let failures = mem::take(&mut self.0.report.failures);
        self.0.report.discard();
        failures
    }

    /// The first failure that the pool recorded. It is the one that closed the pool, if a failure did, unless a policy
    /// had [collected](crate::OnFailure::Collect) others before.
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
        self.0.report.failures.first()
    }

    /// The first failure that is an error, as the task or the body returned it.
    ///
    /// Panics are skipped. To resume a panic in the caller, call [`resume_panic`](Self::resume_panic) before.
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
        let error = self.take(failed).and_then(TaskError::into_error);
        self.0.report.discard();
        error
    }

    /// Whether there is no failure in it: the body was cut short by [`cancel`](crate::Pool::cancel), or because the
    /// enclosing pool closes. (Or an [essential](crate::TaskBuilder::essential) task has ended, and a policy has
    /// discarded that.)
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
        self.failures().is_empty() && self.cleanup_failures().is_empty() && self.stuck().is_empty()
    }

    /// Whether the pool was closed from outside: by a cancel, an abort or a signal, its own or that of the pool in
    /// which it is nested. Unlike with [`is_cancelled`](Self::is_cancelled), something may have failed as well.
    ///
    /// With this, a service can tell a shutdown in which something went wrong from an end that nobody asked for.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
    /// pool.spawn(async {
    ///     cancellation_token().cancelled().await;
    ///     Err("cannot write the last page".into())
    /// });
    /// pool.cancel_on(async { tokio::task::yield_now().await });
    /// let error = pool.run().await.unwrap_err();
    /// assert!(error.was_cancelled() && !error.is_cancelled());
    /// # }
    /// ```
    #[must_use]
    pub fn was_cancelled(&self) -> bool {
        self.closing_reason().is_from_outside()
    }

    /// What was given to [`cancel_with`](crate::Pool::cancel_with), if that is what closed the pool, or the pool in
    /// which it is nested.
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
        self.0.report.reason.cancel_reason()
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
    /// let opened = Pool::open(async |_: Pool| Err::<(), _>("no such host".into()));
    /// let error = opened.await.unwrap_err();
    /// assert_eq!(*error.closing_reason(), ClosingReason::Failed);
    /// # }
    /// ```
    #[must_use]
    pub fn closing_reason(&self) -> &ClosingReason {
        &self.0.report.reason
    }

    /// Whether the [first](Self::first) failure is a panic.
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

    /// Resumes the first panic among the failures in the caller; gives the error back if there is none.
    ///
    /// All other failures are dropped before, as [`into_failures`](Self::into_failures) and its like drop what they do
    /// not return. If the destructor of an error panics then, that panic is dropped.
    ///
    /// # Panics
    ///
    /// With the payload of the first failure that is a panic, if there is one. The panic hook is not called again.
    ///
    /// # Examples
    ///
    /// A test that fails with the panic of its task:
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
        let Some(Failure::Panic(payload)) = self.take(panicked).map(TaskError::into_failure) else { return self };
        self.0.report.discard();
        payload.resume()
    }

    /// Failures of something nested whose owner was gone: of tasks that were still ending, of shielded work and exit
    /// handlers whose future had been dropped, of a nested pool whose body panicked. Also panics in the destructors of
    /// values that a function could no longer return.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, shield};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |_: Pool| {
    ///     // As when the task that awaits it is aborted.
    ///     drop(shield(async { panic!("the commit has failed") }));
    ///     Ok(())
    /// });
    /// let error = error.await.unwrap_err();
    /// assert!(error.failures().is_empty());
    /// let failed = error.cleanup_failures()[0].to_string();
    /// assert!(failed.ends_with("panicked: the commit has failed"));
    /// # }
    /// ```
    #[must_use]
    pub fn cleanup_failures(&self) -> &[TaskError] {
        &self.0.report.cleanup_failures
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
        let failures = mem::take(&mut self.0.report.cleanup_failures);
        self.0.report.discard();
        failures
    }

    /// The tasks for which the pool has stopped waiting: every task of the pool and of everything nested in it that had
    /// not ended when the time of [`abandon_after`](crate::PoolBuilder::abandon_after) was over.
    ///
    /// The tasks of one depth are in the order in which they were spawned, daemons after the others, each followed by
    /// those nested in it. Last come those whose owner is gone. If the pool waited for something that is no task, for
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
    ///     let _ = blocked.recv(); // for ever, as far as the pool can tell
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
        &self.0.report.stuck
    }

    /// The same error, with the errors of its failures in boxes.
    ///
    /// So their causes are part of the report, and can be reached through [`source`](std::error::Error::source): call it
    /// where an error of a pool with an error type of its own becomes a [`BoxError`] or an `anyhow::Error`, which forget
    /// that type. If the conversion of an error panics, that panic is the failure.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// #[error("cannot load the configuration")]
    /// struct LoadError(#[source] std::io::Error);
    ///
    /// async fn serve() -> anyhow::Result<()> {
    ///     let pool: Pool<LoadError> = Pool::new();
    ///     pool.spawn(async { Err(LoadError(std::io::Error::other("no such file: app.toml"))) });
    ///     pool.run().await.map_err(aiodrive::PoolError::boxed)?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = serve().await.unwrap_err();
    /// let report = format!("{error:#}");
    /// assert!(report.ends_with("cannot load the configuration: no such file: app.toml"));
    /// # }
    /// ```
    #[must_use]
    pub fn boxed(self) -> PoolError
    where
        E: Into<BoxError>,
    {
        let Inner { report, stop } = *self.0;
        let Report { pool, failures, cleanup_failures, stuck, reason } = report;
        let failures = failures.into_iter().map(TaskError::boxed).collect();
        PoolError::with_stop(Report { pool, failures, cleanup_failures, stuck, reason }, stop)
    }
}

// ===== what an error is made of =====

/// Everything that has gone wrong.
pub(crate) struct Failures<E> {
    /// Of tasks and body, in order of occurrence.
    tasks: Vec<TaskError<E>>,
    /// Of something nested whose owner was gone.
    cleanup: Vec<TaskError>,
    /// The tasks that the pool has stopped waiting for.
    stuck: Vec<TaskInfo>,
    /// How to pass on what fails after the pool has returned, in what it has stopped waiting for.
    returned: Option<fn(TaskError<E>) -> TaskError>,
}

impl<E> Default for Failures<E> {
    fn default() -> Self {
        Self { tasks: Vec::new(), cleanup: Vec::new(), stuck: Vec::new(), returned: None }
    }
}

impl<E> Failures<E> {
    /// If the pool has returned, what makes a failure fit for the enclosing scope.
    pub(crate) fn returned(&self) -> Option<fn(TaskError<E>) -> TaskError> {
        self.returned
    }

    /// Adds a failure. The pool has not returned.
    pub(crate) fn push(&mut self, failure: TaskError<E>) {
        self.tasks.push(failure);
    }

    /// Adds a failure of something nested. If the pool has returned, it comes back.
    pub(crate) fn push_cleanup(&mut self, failure: TaskError) -> Option<TaskError> {
        if self.returned.is_some() {
            return Some(failure);
        }
        self.cleanup.push(failure);
        None
    }

    pub(crate) fn push_stuck(&mut self, tasks: impl IntoIterator<Item = TaskInfo>) {
        self.stuck.extend(tasks);
    }

    /// Whether no task has been named that the pool has stopped waiting for.
    pub(crate) fn has_no_stuck(&self) -> bool {
        self.stuck.is_empty()
    }

    /// Takes the lists, of which the error is made. From here on, failures come back.
    pub(crate) fn report(&mut self, pool: Option<Arc<str>>, reason: ClosingReason) -> Report<E>
    where
        E: Into<BoxError>,
    {
        let Self { tasks, cleanup, stuck, .. } = mem::take(self);
        self.returned = Some(TaskError::boxed);
        Report { pool, failures: tasks, cleanup_failures: cleanup, stuck, reason }
    }
}
