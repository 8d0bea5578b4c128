//! Every public error: what a task, a pool and the functions can report, and how it reads.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Debug, Display, Write as _};
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::{Arc, Mutex, PoisonError};

use crate::closing_reason::ClosingReason;

/// The error type of a [`Pool`](crate::Pool) that names no other: any error that can cross threads.
///
/// `?` converts every error into it, and `.into()` a text. It is the usual boxed error; `anyhow::Error` converts into
/// it, too.
///
/// # Examples
///
/// ```
/// use aiodrive::BoxError;
///
/// fn parse(text: &str) -> Result<u32, BoxError> {
///     let number: u32 = text.parse()?;
///     if number == 0 { Err("zero is not allowed".into()) } else { Ok(number) }
/// }
///
/// assert!(parse("one").unwrap_err().is::<std::num::ParseIntError>());
/// assert_eq!(parse("0").unwrap_err().to_string(), "zero is not allowed");
/// ```
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

// ===== PoolError =====

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
    pub(crate) pool: Option<Arc<str>>,
    pub(crate) failures: Vec<TaskError<E>>,
    pub(crate) cleanup_failures: Vec<TaskError>,
    pub(crate) stuck: Vec<TaskInfo>,
    pub(crate) reason: ClosingReason,
}

impl<E> PoolError<E> {
    pub(crate) fn new(report: Report<E>) -> Self {
        Self(Box::new(report))
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
    pub fn into_failures(self) -> Vec<TaskError<E>> {
        self.0.failures
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
    pub fn into_first_error(self) -> Option<E> {
        self.0.failures.into_iter().find_map(|failed| match failed.failure {
            Failure::Error(error) => Some(error),
            _ => None,
        })
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
        self.first().is_some_and(|failed| matches!(failed.failure, Failure::Panic(_)))
    }

    /// Lets the first panic among the failures go on in the caller; gives the error back if there is none.
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
        let panicked = |failed: &TaskError<E>| matches!(failed.failure, Failure::Panic(_));
        let Some(at) = self.0.failures.iter().position(panicked) else { return self };
        match self.0.failures.remove(at).failure {
            Failure::Panic(payload) => payload.resume(),
            _ => unreachable!("it was found as a panic"),
        }
    }

    /// What failed below the pool when its own owner was gone: tasks that were still ending, shielded work and exit
    /// handlers whose future had been dropped.
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
        let mut parts = Parts { between: if f.alternate() { "\n" } else { "; " }, first: true };
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

/// Puts something between the parts of a text.
struct Parts {
    between: &'static str,
    first: bool,
}

impl Parts {
    fn begin(&mut self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = std::mem::replace(&mut self.first, false);
        f.write_str(if first { "" } else { self.between })
    }
}

/// One failure as it is; several after their number, on one line or, in the alternate form, on a line each.
fn write_list<T: Display>(f: &mut fmt::Formatter<'_>, what: &str, failures: &[T]) -> fmt::Result {
    if let [only] = failures {
        return Display::fmt(only, f);
    }
    write!(f, "{} {what}:", failures.len())?;
    for (nth, failed) in failures.iter().enumerate() {
        if f.alternate() {
            f.write_str("\n  ")?;
            write!(Indented(f), "{failed:#}")?;
        } else {
            write!(f, "{} {failed}", if nth == 0 { "" } else { ";" })?;
        }
    }
    Ok(())
}

/// Moves every line but the first two columns to the right.
struct Indented<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Indented<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            self.0.write_str(line)?;
            if line.ends_with('\n') {
                self.0.write_str("  ")?;
            }
        }
        Ok(())
    }
}

impl<E: Debug + Display + 'static> Error for PoolError<E> {
    /// The cause of the only failure; with several, each failure has its own. Of a pool that was only cancelled: that
    /// it was asked to stop.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.failures() {
            [] if self.is_cancelled() => Some(&AskedToStop),
            [only] => only.source(),
            _ => None,
        }
    }
}

/// The cause of an error that says only that a pool was cancelled: by this it is known, whatever its type.
#[derive(Debug, thiserror::Error)]
#[error("it was asked to stop")]
struct AskedToStop;

/// Whether an error says nothing that its pool does not know, if its type can be told, boxed or not: that a nested pool
/// was cancelled, or how a task has stopped.
pub(crate) fn is_echo<E: 'static>(error: &E) -> bool {
    let stopped = |stopped: &TaskStopped| *stopped != TaskStopped::NotReady;
    let error = error as &dyn Any;
    match error.downcast_ref::<BoxError>() {
        Some(error) => {
            error.source().is_some_and(|cause| cause.is::<AskedToStop>()) || error.downcast_ref().is_some_and(stopped)
        }
        None => {
            error.downcast_ref().is_some_and(PoolError::<BoxError>::is_cancelled)
                || error.downcast_ref().is_some_and(stopped)
        }
    }
}

// ===== TaskError =====

/// One failure: what failed, and which task it was.
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

// ===== Failure, PanicPayload, TaskInfo =====

/// How a task failed.
///
/// # Examples
///
/// ```
/// use aiodrive::{Failure, OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Collect).build();
/// pool.spawn(async { Err("disk full".into()) });
/// pool.spawn(async { panic!("a bug") });
///
/// for failed in pool.run().await.unwrap_err().failures() {
///     match failed.failure() {
///         Failure::Error(error) => assert_eq!(error.to_string(), "disk full"),
///         Failure::Panic(payload) => assert_eq!(payload.message(), Some("a bug")),
///         _ => unreachable!("the runtime goes on"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure<E = BoxError> {
    /// It returned an error.
    Error(E),
    /// It panicked: while it ran, or in a destructor while it was aborted.
    Panic(PanicPayload),
    /// Its runtime shut down before it had ended. A task that the pool or its own handle aborted is no failure.
    Cancelled,
}

impl<E: Into<BoxError>> Failure<E> {
    /// Forgets the error's type.
    pub(crate) fn boxed(self) -> Failure {
        match self {
            Self::Error(error) => Failure::Error(error.into()),
            Self::Panic(payload) => Failure::Panic(payload),
            Self::Cancelled => Failure::Cancelled,
        }
    }
}

/// What a task panicked with.
///
/// Unlike the bare `Box<dyn Any + Send>` it is `Sync`, knows its message, and survives a payload whose own destructor
/// panics.
///
/// # Examples
///
/// ```
/// use aiodrive::{Failure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// pool.spawn(async { std::panic::panic_any(404) });
/// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
/// let Failure::Panic(payload) = failed.into_failure() else { unreachable!() };
/// assert_eq!(payload.to_string(), "a value that is no message");
/// assert_eq!(payload.into_inner().downcast_ref(), Some(&404));
/// # }
/// ```
pub struct PanicPayload(Box<Payload>);

struct Payload {
    message: Option<Box<str>>,
    /// `None` only while it is being given away or dropped. The mutex is never locked: it makes the payload `Sync`.
    value: Mutex<Option<Box<dyn Any + Send>>>,
}

impl PanicPayload {
    pub(crate) fn new(value: Box<dyn Any + Send>) -> Self {
        let text = value.downcast_ref::<&str>().copied();
        let text = text.or_else(|| value.downcast_ref::<String>().map(String::as_str));
        Self(Box::new(Payload { message: text.map(Box::from), value: Mutex::new(Some(value)) }))
    }

    /// The message, if the panic was raised with one, as `panic!` does.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { panic!("row {} has no key", 17) });
    /// let error = pool.run().await.unwrap_err();
    /// let Failure::Panic(payload) = error.failures()[0].failure() else { unreachable!() };
    /// assert_eq!(payload.message(), Some("row 17 has no key"));
    /// # }
    /// ```
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// The value that the task panicked with.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { std::panic::panic_any(404) });
    /// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
    /// let Failure::Panic(payload) = failed.into_failure() else { unreachable!() };
    /// assert_eq!(*payload.into_inner().downcast::<i32>().unwrap(), 404);
    /// # }
    /// ```
    #[must_use]
    pub fn into_inner(mut self) -> Box<dyn Any + Send> {
        match self.take() {
            Some(value) => value,
            None => unreachable!("the payload is taken only here and in `drop`"),
        }
    }

    /// Lets the panic go on in the caller.
    ///
    /// # Panics
    ///
    /// Always, with this payload. The panic hook is not called again.
    ///
    /// # Examples
    ///
    /// ```should_panic
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { panic!("a bug") });
    /// for failed in pool.run().await.unwrap_err().into_failures() {
    ///     if let Failure::Panic(payload) = failed.into_failure() {
    ///         payload.resume();
    ///     }
    /// }
    /// # }
    /// ```
    pub fn resume(self) -> ! {
        panic::resume_unwind(self.into_inner())
    }

    fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        self.0.value.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for PanicPayload {
    /// A payload's destructor is user code and may panic itself: that panic ends here, with its own payload, which
    /// could do the same again, forgotten.
    fn drop(&mut self) {
        if let Some(value) = self.take() {
            if let Err(payload) = catch(|| drop(value)) {
                std::mem::forget(payload.into_inner());
            }
        }
    }
}

impl Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PanicPayload").field(&self.message()).finish()
    }
}

impl Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message().unwrap_or("a value that is no message"))
    }
}

/// Runs user code and turns its panic into a value.
///
/// The crate looks at nothing that the code may have left half changed, so that unwind safety is the user's matter,
/// as in [`std::thread::spawn`].
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(PanicPayload::new)
}

/// Which task it was.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, TaskInfo};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
/// let error = pool.run().await.unwrap_err();
/// let task: &TaskInfo = error.first().unwrap().task();
/// assert_eq!(task.to_string(), format!("task \"fetch\" ({})", task.spawned_at()));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskInfo {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) body: bool,
}

impl TaskInfo {
    /// A task that was given no name: a branch of a group, shielded work, an exit handler.
    pub(crate) fn unnamed(spawned_at: &'static Location<'static>) -> Self {
        Self { name: None, spawned_at, body: false }
    }

    /// The name that it was given, if it was given one.
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
    /// assert_eq!(error.first().unwrap().task().name(), Some("fetch"));
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where it was spawned; for a body, where its pool was opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { Err("connection refused".into()) }); let here = line!();
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.first().unwrap().task().spawned_at().line(), here);
    /// # }
    /// ```
    #[must_use]
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.spawned_at
    }

    /// Whether it is the body of the pool and no spawned task.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |_: Pool| Err::<(), _>("no such user".into())).await.unwrap_err();
    /// assert!(error.first().unwrap().task().is_body());
    /// # }
    /// ```
    #[must_use]
    pub fn is_body(&self) -> bool {
        self.body
    }
}

impl Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            _ if self.body => f.write_str("body"),
            Some(name) => write!(f, "task \"{name}\" ({})", self.spawned_at),
            None => write!(f, "task at {}", self.spawned_at),
        }
    }
}

// ===== what handles and the functions return =====

/// Why a [`TaskHandle`](crate::TaskHandle) has no value to give.
///
/// It only marks what happened: the error or the panic itself is in the [`PoolError`] of the task's pool. So `?` can be
/// used on a handle: a task or a body that returns a `TaskStopped` does not add a failure to that, unless it is
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
///         let failed = pool.spawn_with_handle(async { Err::<(), _>("connection refused".into()) });
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

/// What failed in [`with_exit`](crate::with_exit()): the body, the exit handler, or both.
///
/// # Examples
///
/// ```
/// use aiodrive::{ExitError, with_exit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = with_exit(
///     "session",
///     async |_| Err::<(), _>("query failed"),
///     async |_, _| Err("logout failed"),
/// );
/// let error = error.await.unwrap_err();
/// assert!(matches!(error, ExitError::Both { body: "query failed", exit: "logout failed" }));
/// assert_eq!(error.to_string(), "body failed: query failed; exit handler failed: logout failed");
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ExitError<E> {
    /// Only the body failed.
    #[error("body failed: {0}")]
    Body(E),
    /// Only the exit handler failed.
    #[error("exit handler failed: {0}")]
    Exit(E),
    /// Both failed.
    #[error("body failed: {body}; exit handler failed: {exit}")]
    Both {
        /// What the body returned.
        body: E,
        /// What the exit handler returned.
        exit: E,
    },
}
