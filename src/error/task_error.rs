//! One failure of one task: how it failed, which task it was, and what a panic leaves.
//!
//! A failure may hold the failures of a nested pool, and so on. If each were dropped in the destructor of the one around
//! it, the stack would end some ten thousand levels down. So a failure that is dropped inside another is put into a queue
//! of the thread, and dropped after it: see [`dispose`].

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{self, Debug, Display};
use std::mem::{self, ManuallyDrop};
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::BoxError;

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
        if matches!(self.failure, Failure::Error(_)) {
            (self.dispose)(self.take());
        }
    }
}

// ===== how it failed =====

/// How a task failed.
///
/// A task that was cancelled by its pool or its handle has not failed, and has none of these.
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
///         _ => unreachable!("nobody shuts the runtime down"),
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
    /// It was aborted before it had ended. In a [`PoolError`](crate::PoolError), its runtime has shut down: a task that
    /// its pool or its handle aborts is no failure. In the results of [`TaskGroup`](crate::TaskGroup),
    /// [`map`](crate::map()) and [`wait_all`](crate::wait_all()), it may be any abort.
    Cancelled,
    /// It was essential, and ended well while its pool was open.
    Ended,
}

impl<E: Into<BoxError>> Failure<E> {
    /// Forgets the error's type. The conversion is the user's, and if it panics, that is what there is to tell.
    fn boxed(self) -> Failure {
        match self {
            Self::Error(error) => catch(|| error.into()).map_or_else(Failure::Panic, Failure::Error),
            Self::Panic(payload) => Failure::Panic(payload),
            Self::Cancelled => Failure::Cancelled,
            Self::Ended => Failure::Ended,
        }
    }
}

// ===== a panic =====

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

/// Boxed, so that a failure is small.
struct Payload {
    /// A copy, since it is read through a shared reference.
    message: Option<Box<str>>,
    /// `None` only while it is being given away or dropped. The mutex is never locked: it makes the payload `Sync`.
    value: Mutex<Option<Box<dyn Any + Send>>>,
}

impl PanicPayload {
    /// What was caught.
    fn new(value: Box<dyn Any + Send>) -> Self {
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

    /// Resumes the panic in the caller.
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

    /// The value, if it was not taken before.
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

/// Goes on with a panic that was put off, unless another one is under way.
pub(crate) fn resume(panic: Option<PanicPayload>) {
    if let Some(payload) = panic.filter(|_| !thread::panicking()) {
        payload.resume();
    }
}

// ===== which task it was =====

/// Which task it was: its name, if it has one, and the line that spawned it.
///
/// What a function runs is known by the line of the call: the branches of [`race`](crate::race()),
/// [`try_all`](crate::try_all()), [`wait_all`](crate::wait_all()) and [`map`](crate::map()), shielded work, exit handlers,
/// the future of a [`timeout`](crate::timeout()).
///
/// `{}` is what stands in front of a failure: `body`, `task "fetch" (src/main.rs:10:5)`, `task at src/main.rs:10:5`
/// without a name, or `branch 0 of race at src/main.rs:10:5`.
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
    who: Who,
    /// For a body, where its pool was opened.
    spawned_at: &'static Location<'static>,
}

/// By what it is known.
#[derive(Clone, Debug)]
enum Who {
    /// A task without a name.
    Unnamed,
    Named(Arc<str>),
    /// The body, which is polled in place and is no task of the runtime.
    Body,
    /// A branch of a function. The index is a small number, so that a failure is small.
    Branch {
        function: &'static str,
        index: u32,
    },
}

impl TaskInfo {
    /// A task.
    pub(crate) fn new(name: Option<Arc<str>>, spawned_at: &'static Location<'static>) -> Self {
        Self { who: name.map_or(Who::Unnamed, Who::Named), spawned_at }
    }

    /// A task that is spawned where this is called from, in a function that tracks its callers.
    #[track_caller]
    pub(crate) fn of_task(name: Option<Arc<str>>) -> Self {
        Self::new(name, Location::caller())
    }

    /// What has no name and is no branch: shielded work, the body and the handler of `with_exit`, the future of a
    /// `timeout`.
    pub(crate) fn unnamed(spawned_at: &'static Location<'static>) -> Self {
        Self { who: Who::Unnamed, spawned_at }
    }

    /// The body of a pool that was opened there.
    pub(crate) fn of_body(opened_at: &'static Location<'static>) -> Self {
        Self { who: Who::Body, spawned_at: opened_at }
    }

    /// A branch of a call of this function, counted from 0.
    pub(crate) fn branch(function: &'static str, index: usize, called_at: &'static Location<'static>) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Self { who: Who::Branch { function, index }, spawned_at: called_at }
    }

    /// The name, to be shared.
    pub(crate) fn shared_name(&self) -> Option<Arc<str>> {
        match &self.who {
            Who::Named(name) => Some(Arc::clone(name)),
            _ => None,
        }
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
        match &self.who {
            Who::Named(name) => Some(name),
            _ => None,
        }
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
    /// let opened = Pool::open(async |_: Pool| Err::<(), _>("no such user".into()));
    /// let error = opened.await.unwrap_err();
    /// assert!(error.first().unwrap().task().is_body());
    /// # }
    /// ```
    #[must_use]
    pub fn is_body(&self) -> bool {
        matches!(self.who, Who::Body)
    }
}

impl Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.spawned_at;
        match &self.who {
            Who::Unnamed => write!(f, "task at {at}"),
            Who::Named(name) => write!(f, "task \"{name}\" ({at})"),
            Who::Body => f.write_str("body"),
            Who::Branch { function, index } => write!(f, "branch {index} of {function} at {at}"),
        }
    }
}

// ===== how failures in failures are dropped =====

/// What waits to be dropped.
type Queue = VecDeque<Box<dyn Any>>;

thread_local! {
    /// `Some` while a failure is being dropped. Without a destructor of its own, so that it is still there for what a
    /// thread drops as it ends.
    static QUEUE: Cell<Option<ManuallyDrop<Queue>>> = const { Cell::new(None) };
}

/// Drops a value now, and then all that was put into the queue meanwhile; or puts it there, if that is going on
/// already.
///
/// A destructor of the user's that panics keeps none of the others from being dropped. The first panic is resumed in
/// the code that drops the value, unless that unwinds already.
fn dispose<T: 'static>(value: T) {
    // If a platform has taken the queue away before its thread ended, the value is dropped right here.
    let Ok(Some(value)) = QUEUE.try_with(|queue| enqueue(queue, value)) else { return };
    let mut panic = catch(|| drop(value)).err();
    while let Some(next) = QUEUE.with(dequeue) {
        let panicked = catch(|| drop(next)).err();
        panic = panic.or(panicked);
    }
    resume(panic);
}

/// Gives the value back if nobody would drop it, and begins a queue for what is dropped in it.
fn enqueue<T: 'static>(queue: &Cell<Option<ManuallyDrop<Queue>>>, value: T) -> Option<T> {
    let Some(mut waiting) = queue.take() else {
        queue.set(Some(ManuallyDrop::default()));
        return Some(value);
    };
    waiting.push_back(Box::new(value));
    queue.set(Some(waiting));
    None
}

/// The next value. With none, the queue ends.
fn dequeue(queue: &Cell<Option<ManuallyDrop<Queue>>>) -> Option<Box<dyn Any>> {
    let mut waiting = ManuallyDrop::into_inner(queue.take()?);
    let next = waiting.pop_front()?;
    queue.set(Some(ManuallyDrop::new(waiting)));
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_known_by_its_index_and_its_function() {
        let at = Location::caller();
        let info = TaskInfo::branch("try_all", 2, at);
        assert_eq!(info.to_string(), format!("branch 2 of try_all at {at}"));
        assert!(info.name().is_none() && !info.is_body());
        assert_eq!(TaskInfo::branch("map", usize::MAX, at).to_string(), format!("branch {} of map at {at}", u32::MAX));
    }
}
