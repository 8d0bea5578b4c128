//! The pool: an owner for tasks.
//!
//! | what happens | what becomes of the siblings and the body | where it is tested |
//! | --- | --- | --- |
//! | a task returns `Err` or panics | aborted, joined; all failures are returned | `tests/it/closing.rs`, `errors.rs` |
//! | the body returns `Err` | aborted, joined; its error is among the failures | `tests/it/closing.rs` |
//! | the body panics | aborted, joined; then the panic is resumed | `tests/it/closing.rs` |
//! | `cancel` | aborted, joined; no failure | `tests/it/closing.rs` |
//! | any of these, with a grace | asked to stop first | `tests/it/grace.rs` |
//! | any of these, with depths, daemons | one depth after the other; daemons with theirs | `tests/it/depths.rs`, `daemons.rs` |
//! | the future of `open` or `run` is dropped | the body is dropped; the rest is closed by the same steps, carried on by the runtime; the enclosing pool waits for it | `tests/it/nesting.rs` |
//! | a destructor, a payload or a waker misbehaves | as above | `tests/it/faults.rs` |
//!
//! # The parts
//!
//! [`state`] is what handles, tasks and driver share, under one lock; its head has the invariants. [`admission`] takes a
//! task in: it reserves a seat among those of its depth, in the [`stage`], and spawns the [`task`], which records its own
//! failure in [`failures`] and then leaves its seat. That begins the closing, one of the [`phases`]. The [`driver`] polls
//! the body until then, and has [`closing`] go through the stages: ask, wait for the grace, abort, wait. If it is
//! dropped itself, it hands that on. The [`gate`] holds back what exceeds a limit, and [`start`] tells when a task is
//! ready.
//!
//! # Panics
//!
//! A panic of a task is caught, recorded and returned, as an error is: it can be a bug of one request of many, and a
//! payload that unwinds through the pool could take only one of several failures along. A panic of the *body* is
//! resumed, once everything has been joined: the body is the caller's own code, and its caller expects to unwind.

mod admission;
mod builder;
mod closing;
mod driver;
mod failures;
mod gate;
mod handle;
mod on_failure;
mod output;
mod phases;
mod roster;
mod stage;
mod start;
mod state;
mod task;
mod task_builder;
mod trace;
mod tree;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use self::builder::shared_str;
use self::driver::{Body, Drive, Owner};
use self::state::Shared;
use crate::cancellation_token::cancellation_token;
use crate::closing_reason::ClosingReason;
use crate::error::{BoxError, PoolError, SpawnError, TaskStopped};
use crate::scope::{Place, PoolState, Scope};

pub use self::builder::PoolBuilder;
pub use self::handle::TaskHandle;
pub use self::on_failure::OnFailure;
pub use self::output::TaskOutput;
pub use self::start::Started;
pub use self::task_builder::TaskBuilder;
pub use self::tree::{NodeKind, PoolTree, TreeNode};

/// Owns the tasks that are spawned in it: runs them, aborts the others at the first failure, joins them all, and
/// returns every error.
///
/// A pool is opened around a body with [`open`](Self::open), or built first and [`run`](Self::run) later. Either way:
///
/// - **Nothing outlives its pool.** When `open` or `run` returns, every task spawned in the pool has ended and its
///   future has been dropped. So has everything below it, at any depth: the tasks of nested pools, and those that
///   [`race`](crate::race()), [`try_all`](crate::try_all()), [`wait_all`](crate::wait_all()),
///   [`shield`](crate::shield()) and [`with_exit`](crate::with_exit()) have spawned, also if their owner was aborted or
///   dropped halfway.
/// - **Nothing is lost.** Every error and every panic of every task is in the returned [`PoolError`], in order of
///   occurrence, with the task's name, the place where it was spawned and, for a panic, its payload.
///
/// `Pool` itself is a handle, cheap to clone and to send. Tasks spawn further tasks with it, from any thread. It never
/// holds the pool open. Inside a task, [`Pool::current`] gets one.
///
/// # How a pool closes
///
/// A pool begins to close when its body has returned and no task is left but [daemons](TaskBuilder::daemon); when a
/// task or the body fails; when it is [cancelled](Self::cancel), or the task around it is asked to stop; or when the
/// future of `open` or `run` is dropped. What still runs is then *cut off*, in four steps:
///
/// 1. The [`cancellation_token`](crate::cancellation_token()) of the tasks is cancelled, and nested pools begin to
///    close.
/// 2. For as long as the [`grace`](PoolBuilder::grace) lasts, the tasks and the body have time to end by themselves.
///    They can still spawn. Without a grace, which is the default, this step takes no time.
/// 3. What is left is aborted: its future is dropped at the `.await` where it waits. From here on no task is taken.
/// 4. Everything is joined, with all that is below it.
///
/// With several [depths](TaskBuilder::depth), each goes through all four steps before the next one begins, from the
/// highest to the lowest. The chapter [how a pool closes](crate::docs::how_a_pool_closes) has the table of causes, and
/// of what each makes `open` and `run` return.
///
/// A task that never gets to an `.await`, and a blocking closure that has begun, cannot be aborted. The pool waits for
/// them, unless [`abandon_after`](PoolBuilder::abandon_after) sets an end to that.
///
/// Being cancelled is no failure. If a task returns an error in the moment when it is aborted, that counts only if the
/// error came first. A task or a body that was asked to stop may also return an error which says only that; it is not
/// counted either. See [errors and panics](crate::docs::errors_and_panics#what-is-no-failure).
///
/// Rust has no async destructors. Dropping the *outermost* `open` or `run` therefore cannot wait: its tasks are told to
/// stop, and the runtime carries the closing on by itself.
///
/// # Comparison with `JoinSet`
///
/// A [`JoinSet`](tokio::task::JoinSet) is the right thing if you want each result as it comes. Unlike a `JoinSet`, a
/// pool
///
/// 1. ends by itself when all tasks have, and cannot be forgotten: the tasks live inside a call;
/// 2. takes tasks from other tasks, and from any thread, without a lock around it;
/// 3. returns *all* failures, and knows which task each is from;
/// 4. waits for what is below it. `JoinSet::shutdown` returns when its own tasks have ended, while the tasks of a set
///    that one of *them* owned may still be running.
///
/// The idea is that of trio's nursery; the name comes from the Python package `aiodrive`.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, PoolError};
///
/// async fn fetch(page: u32) -> std::io::Result<u32> {
///     Ok(page * 10)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), PoolError> {
/// let sum = Pool::open(async |pool: Pool| {
///     let pages: Vec<_> = (1..=3).map(|n| pool.spawn_with_handle(async move { Ok(fetch(n).await?) })).collect();
///     let mut sum = 0;
///     for page in pages {
///         sum += page.await?;
///     }
///     Ok(sum)
/// })
/// .await?;
/// assert_eq!(sum, 60);
/// # Ok(())
/// # }
/// ```
///
/// The first failure ends the others, and names itself:
///
/// ```
/// use aiodrive::Pool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let outcome = Pool::open(async |pool: Pool| {
///     pool.spawn(std::future::pending::<()>());
///     pool.build_task().name("lookup").spawn(async { Err("no such host".into()) });
///     Ok(())
/// })
/// .await;
/// let text = outcome.unwrap_err().to_string(); // task "lookup" (src/main.rs:6:42) failed: no such host
/// assert!(text.starts_with(r#"task "lookup" ("#) && text.ends_with(") failed: no such host"));
/// # }
/// ```
///
/// A task cannot borrow from the body, since it may run on another thread and be dropped later:
///
/// ```compile_fail,E0597
/// # async fn example() -> Result<(), aiodrive::PoolError> {
/// aiodrive::Pool::open(async |pool: aiodrive::Pool| {
///     let name = String::from("local");
///     let borrowed = &name;
///     pool.spawn(async move { println!("{borrowed}") });
///     Ok(())
/// })
/// .await
/// # }
/// ```
pub struct Pool<E = BoxError> {
    shared: Arc<Shared<E>>,
}

impl<E: Send + 'static> Pool<E> {
    /// Plans a pool: tasks that are spawned in it wait until it [runs](Self::run).
    ///
    /// It needs no runtime. A pool that never runs drops its tasks unpolled, with its last handle.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { println!("running") });
    ///
    /// let runtime = tokio::runtime::Runtime::new().unwrap();
    /// runtime.block_on(pool.run()).unwrap();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a pool: with a name, a grace, a limit or another of the settings of [`PoolBuilder`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::builder().name("web").grace(Duration::from_secs(10)).limit(1_000).build();
    /// assert_eq!(pool.name(), Some("web"));
    /// ```
    pub fn builder() -> PoolBuilder<E> {
        PoolBuilder::new()
    }

    /// Opens a pool around a body, and returns the body's value when both the body and all tasks have ended.
    ///
    /// The body runs in the calling task and can borrow from it. The tasks run on the runtime, and cannot: what they
    /// need is moved into them. See [how a pool closes](Self#how-a-pool-closes).
    ///
    /// Write the type of the body's argument: `pool: Pool` for errors of every kind, `pool: Pool<MyError>` for one.
    /// Without it, the compiler often cannot tell the error type.
    ///
    /// Unlike a `JoinSet` or a `TaskTracker`, the pool lives inside this call: there is no way to return without having
    /// joined its tasks.
    ///
    /// # Errors
    ///
    /// - If a task or the body failed: with all failures.
    /// - If something failed below that had lost its owner: with [cleanup failures](PoolError::cleanup_failures).
    /// - If the pool was [cancelled](Self::cancel) before the body had returned: with
    ///   [`is_cancelled`](PoolError::is_cancelled).
    /// - If it gave up on tasks, under [`abandon_after`](PoolBuilder::abandon_after): with those that are
    ///   [stuck](PoolError::stuck).
    ///
    /// # Panics
    ///
    /// - When polled outside of a tokio runtime. The message names the line of this call.
    /// - With the panic of the body, after all tasks have ended. Failures of tasks are lost then, as in
    ///   [`std::thread::scope`].
    ///
    /// # Cancel safety
    ///
    /// This function is not cancel safe: the body and the tasks are cut off where they are, and what they had returned
    /// is lost. Nothing is left running: dropping the returned future drops the body and cuts off the tasks, and the
    /// enclosing pool waits for their end. What fails meanwhile is in *its* error.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let greeting = String::from("hello");
    /// let length = Pool::open(async |pool: Pool| {
    ///     pool.spawn(async { println!("from a task") });
    ///     Ok(greeting.len())
    /// })
    /// .await;
    /// assert_eq!(length.unwrap(), 5);
    /// # }
    /// ```
    #[track_caller]
    pub fn open<T, B, F>(body: B) -> impl Future<Output = Result<T, PoolError<E>>>
    where
        B: FnOnce(Pool<E>) -> F,
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        Self::builder().open(body)
    }

    /// Runs a planned pool until all its tasks have ended.
    ///
    /// The tasks start when the returned future is first polled, in the order in which they were spawned. While the
    /// pool runs, clones of its handle can spawn more. See [how a pool closes](Self#how-a-pool-closes).
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), except that being [cancelled](Self::cancel) is no error: there is no body that it could
    /// cut short.
    ///
    /// # Panics
    ///
    /// - If the pool is running or has run, also through another handle.
    /// - When polled outside of a tokio runtime. The message names the line of this call.
    ///
    /// # Cancel safety
    ///
    /// This function is not cancel safe: the tasks are cut off where they are. Nothing is left running: dropping the
    /// returned future aborts the tasks, or drops them unpolled if it was not polled itself, and the enclosing pool
    /// waits for their end.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// let answer = pool.spawn_with_handle(async { Ok(42) });
    /// pool.run().await.unwrap();
    /// assert_eq!(answer.await, Ok(42));
    /// # }
    /// ```
    #[track_caller]
    pub fn run(self) -> impl Future<Output = Result<(), PoolError<E>>> + Send
    where
        E: Into<BoxError>,
    {
        let owner = Owner::claim(self.shared, "Pool::run");
        Drive::new(owner, Body::<(), std::future::Pending<Result<(), E>>>::returned(()))
    }

    /// The innermost pool with this error type that the calling task, body or destructor is in.
    ///
    /// # Panics
    ///
    /// Outside of such a pool. What a bare [`tokio::spawn`] runs is outside, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// async fn log(line: &'static str) {
    ///     let pool: Pool = Pool::current();
    ///     pool.spawn(async move { println!("{line}") });
    /// }
    ///
    /// Pool::open(async |_: Pool| {
    ///     log("written by a task of this pool").await;
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn current() -> Self {
        Self::try_current().expect("`Pool::current` was called outside of a pool with this error type")
    }

    /// The innermost pool with this error type that the calling task, body or destructor is in, if there is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// assert!(Pool::<aiodrive::BoxError>::try_current().is_none());
    ///
    /// Pool::builder().name("web").open(async |_: Pool| {
    ///     let current = Pool::<aiodrive::BoxError>::try_current().unwrap();
    ///     assert_eq!(current.name(), Some("web"));
    ///     assert!(Pool::<std::io::Error>::try_current().is_none()); // of another type
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn try_current() -> Option<Self> {
        Scope::current()?.nearest_pool().map(|shared| Self { shared })
    }

    /// Spawns a task in the pool.
    ///
    /// The task may return `()`, `!` or `Result<(), E>`. A failure closes the pool, unless
    /// [`on_failure`](PoolBuilder::on_failure) says otherwise; see [how a pool closes](Self#how-a-pool-closes).
    ///
    /// This can be called from any thread, and never waits. In a planned pool the task begins when the pool runs; under
    /// a [`limit`](PoolBuilder::limit), when it is its turn. If the pool is closed, the future is dropped without
    /// having been polled; [`try_spawn`](Self::try_spawn) gives it back.
    ///
    /// Unlike with [`tokio::spawn`], there is no handle to be kept: the pool waits for the task, and returns its error.
    ///
    /// Three things that the compiler may complain about:
    ///
    /// - A function with another error type than the pool's is wrapped, so that `?` can convert the error:
    ///   `pool.spawn(async { job().await?; Ok(()) })`.
    /// - Values from around the pool are moved into the task with `async move`. For several tasks they are cloned
    ///   first, outside of the block.
    /// - An async block that is an endless loop has the type `!`, in which `?` cannot be used. Make it an `async fn`
    ///   that returns a `Result`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// async fn job() -> std::io::Result<()> {
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     pool.spawn(async {
    ///         job().await?; // any error: the pool's own type is `BoxError`
    ///         Ok(())
    ///     });
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        drop(self.spawn_as(Place::default(), (), task));
    }

    /// Spawns a task, or gives its future back if the pool is closed.
    ///
    /// # Errors
    ///
    /// With the future, never polled, if the pool is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.cancel();
    /// let refused = pool.try_spawn(async { println!("late") }).unwrap_err();
    /// assert_eq!(refused.to_string(), "the pool is closed");
    /// let future = refused.into_inner(); // to be run elsewhere
    /// # drop(future);
    /// ```
    #[track_caller]
    pub fn try_spawn<F>(&self, task: F) -> Result<(), SpawnError<F>>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.spawn_as(Place::default(), (), task)
    }

    /// Spawns a task with a handle to the value that it returns.
    ///
    /// An error of the task closes the pool, as with [`spawn`](Self::spawn), whether or not anybody looks at the
    /// handle. The error itself is in the [`PoolError`]; the handle only says that there was one. Its [`TaskStopped`]
    /// can be returned with `?`: the pool does not count it as another failure.
    ///
    /// Unlike tokio's `JoinHandle`, the handle can be dropped: nothing is lost but the value.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let answer = pool.spawn_with_handle(async { Ok(42) });
    ///     assert_eq!(answer.await?, 42);
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_with_handle<T, F>(&self, task: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        self.spawn_with_handle_as(Place::default(), (), task)
    }

    /// Runs a closure on the runtime's threads for blocking work, as a task of the pool.
    ///
    /// A closure that has begun cannot be aborted, and the pool waits for it; one that runs long should look at
    /// [`is_closed`](Self::is_closed) now and then. A closure that has not begun when it is aborted is dropped.
    ///
    /// Unlike with [`tokio::task::spawn_blocking`], its panic is a failure of the pool, and [`Pool::current`] works in
    /// it.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let (sender, receiver) = tokio::sync::oneshot::channel();
    /// let lines = Pool::open(async |pool: Pool| {
    ///     pool.spawn_blocking(|| {
    ///         let text = std::fs::read_to_string("Cargo.toml")?;
    ///         drop(sender.send(text.lines().count()));
    ///         Ok(())
    ///     });
    ///     Ok(receiver.await?)
    /// })
    /// .await?;
    /// assert!(lines > 0);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<O, C>(&self, task: C)
    where
        C: FnOnce() -> O + Send + 'static,
        O: TaskOutput<E> + 'static,
    {
        self.spawn_blocking_as(Place::default(), (), task);
    }

    /// Spawns a task that need not be `Send`, and stays on the thread that it is spawned from.
    ///
    /// It runs in the tokio `LocalSet` that this is called from. Everything else is as with [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// - Outside of a tokio `LocalSet`.
    /// - If the pool does not run yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::rc::Rc;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let local = tokio::task::LocalSet::new();
    /// let opened = local.run_until(Pool::open(async |pool: Pool| {
    ///     let shared = Rc::new(42);
    ///     pool.spawn_local(async move { assert_eq!(*shared, 42) });
    ///     Ok(())
    /// }));
    /// opened.await
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_local<F>(&self, task: F)
    where
        F: Future + 'static,
        F::Output: TaskOutput<E>,
    {
        self.spawn_local_as(Place::default(), (), task);
    }

    /// Spawns a task, and waits until it says that it is ready.
    ///
    /// `task` gets a [`Started`], and calls [`ready`](Started::ready) on it when it has set up what others need, for
    /// example bound a port. What it gives to `ready` is what this yields. The task is spawned at the call, before the
    /// returned future is polled, and belongs to the pool from then on. It may return what any task may.
    ///
    /// Unlike a task and a oneshot channel, it never leaves its caller waiting: a task that ends, or forgets about its
    /// `Started`, is an error here. The idea is that of trio's `nursery.start`.
    ///
    /// # Errors
    ///
    /// As soon as it is certain that the task will not be ready any more:
    ///
    /// - [`Cancelled`](TaskStopped::Cancelled), [`Failed`](TaskStopped::Failed) or [`Panicked`](TaskStopped::Panicked)
    ///   if the task has ended in that way. The error itself is the pool's.
    /// - [`NotReady`](TaskStopped::NotReady) if it has ended well, or has dropped its `Started`, without saying that it
    ///   is ready.
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe: the value that the task is ready with is lost. Dropping the returned future
    /// leaves the task as it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    /// use tokio::net::TcpListener;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let address = pool
    ///         .start(|started| async move {
    ///             let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///             started.ready(listener.local_addr()?);
    ///             listener.accept().await?;
    ///             Ok(())
    ///         })
    ///         .await?;
    ///     tokio::net::TcpStream::connect(address).await?;
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[track_caller]
    pub fn start<V, S, F>(&self, task: S) -> impl Future<Output = Result<V, TaskStopped>> + Send + use<V, S, F, E>
    where
        V: Send + 'static,
        S: FnOnce(Started<V>) -> F,
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.start_as(Place::default(), (), task)
    }

    /// Sets up a task with a name, a depth, or as a daemon.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("heartbeat").daemon().spawn(std::future::pending::<()>());
    /// pool.run().await.unwrap(); // at once: a daemon does not hold it open
    /// # }
    /// ```
    pub fn build_task(&self) -> TaskBuilder<'_, E> {
        TaskBuilder::new(self)
    }

    /// Begins to close the pool: all tasks and the body are [cut off and joined](Self#how-a-pool-closes). That is no
    /// failure.
    ///
    /// This does not wait: `open` or `run` returns when all has ended. Cancelling twice is cancelling once. Cancelling
    /// a planned pool drops its tasks unpolled, and it ends as soon as it is run.
    ///
    /// Unlike cancelling a bare `CancellationToken`, it ends tasks that do not listen.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(std::future::pending::<()>());
    /// let stop = pool.clone();
    /// pool.spawn(async move { stop.cancel() });
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    pub fn cancel(&self) {
        self.shared.close(ClosingReason::Cancelled(None));
    }

    /// Like [`cancel`](Self::cancel), with a reason: for [`closing_reason`](Self::closing_reason), and for the error
    /// that [`open`](Self::open) may return.
    ///
    /// The first reason stays.
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
    /// })
    /// .await
    /// .unwrap_err();
    /// assert_eq!(error.to_string(), "pool cancelled: deployment");
    /// # }
    /// ```
    pub fn cancel_with(&self, reason: impl Into<Cow<'static, str>>) {
        self.shared.close(ClosingReason::Cancelled(Some(shared_str(reason.into()))));
    }

    /// Cancels the pool when `signal` is ready. Its output is dropped.
    ///
    /// The signal is awaited in a [daemon](TaskBuilder::daemon), until the pool closes. That is a task of the pool,
    /// which [`len`](Self::len) counts and [`tree`](Self::tree) shows, with the line of this call. It is first polled
    /// when the daemon first runs; if it must not miss anything from this call on, pass a [`prime`](crate::prime())d
    /// future. It can be anything that is awaited: `shutdown_signal()` of the feature `signal`, a `CancellationToken`,
    /// a timer, a [`LatchEvent`](crate::LatchEvent).
    ///
    /// If the signal panics, that is a failure of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(std::future::pending::<()>());
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(60))); // or `shutdown_signal()`
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    #[track_caller]
    pub fn cancel_on<F: Future + Send + 'static>(&self, signal: F) {
        // No handle of the pool is kept in the task, which in a planned pool would be kept in the pool.
        self.build_task().daemon().spawn(async {
            let asked = cancellation_token();
            if asked.run_until_cancelled(signal).await.is_some() {
                Self::current().cancel();
            }
        });
    }

    /// Waits until there is room for another task under the pool's [`limit`](PoolBuilder::limit), or until the pool
    /// closes. Without a limit it is ready at once.
    ///
    /// Call it before [`spawn`](Self::spawn) where tasks come faster than they end. Unlike the permit of a `Semaphore`,
    /// it reserves nothing: what others spawn meanwhile may take the place, and then the task waits for its turn.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no
    /// place has been taken.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let opened = Pool::builder().limit(8).open(async |pool: Pool| {
    ///     for job in 0..100 { // more than fit into memory, say
    ///         pool.ready().await;
    ///         assert!(pool.len() < 8);
    ///         pool.spawn(async move { println!("{job}") });
    ///     }
    ///     Ok(())
    /// });
    /// opened.await
    /// # }
    /// ```
    pub async fn ready(&self) {
        self.shared.ready().await;
    }

    /// Waits until the pool has begun to close, for whatever reason.
    ///
    /// This follows the pool as a whole. A task that is to hear when *it* should stop, at its own depth, asks for its
    /// [`cancellation_token`](crate::cancellation_token()).
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that the
    /// pool is as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// let observer = tokio::spawn({
    ///     let pool = pool.clone();
    ///     async move { pool.cancelled().await }
    /// });
    /// pool.spawn(async { Err("no such host".into()) });
    /// pool.run().await.unwrap_err();
    /// observer.await.unwrap();
    /// # }
    /// ```
    pub async fn cancelled(&self) {
        self.shared.closing().await;
    }

    /// Whether the pool has begun to close, or has closed.
    ///
    /// From then on it takes tasks only while the [`grace`](PoolBuilder::grace) lasts, and at depths whose turn is
    /// still to come; [`try_spawn`](Self::try_spawn) tells.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// assert!(!pool.is_closed());
    /// pool.cancel();
    /// assert!(pool.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// How many tasks the pool has: planned, waiting for their turn, or running.
    ///
    /// The body is not counted, nor what is below the tasks; daemons are.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.spawn(async {});
    /// assert_eq!(pool.len(), 1);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether the pool has no task: see [`len`](Self::len).
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// assert!(pool.is_empty());
    /// pool.spawn(async {});
    /// assert!(!pool.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the pool closes, or has closed; `None` while it does not.
    ///
    /// A task can ask for it in its grace, for example to tell a deployment from a failure.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{ClosingReason, Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(5)).build();
    /// assert_eq!(pool.closing_reason(), None);
    /// pool.spawn(async {
    ///     cancellation_token().cancelled().await;
    ///     assert_eq!(Pool::<aiodrive::BoxError>::current().closing_reason(), Some(ClosingReason::Failed));
    /// });
    /// pool.spawn(async { Err("disk full".into()) });
    /// assert_eq!(pool.run().await.unwrap_err().failures().len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn closing_reason(&self) -> Option<ClosingReason> {
        self.shared.closing_reason()
    }

    /// Who is alive in the pool and below it, at any level: tasks, with the place where each was spawned, nested pools,
    /// and the functions that run tasks of their own. It answers the question who keeps a service from stopping.
    ///
    /// It can be called at any time and from anywhere: in a task, in a destructor, from another thread, on a pool that
    /// was not run yet or has ended. It waits for no task, and runs no user code under a lock. It takes the time of a
    /// walk along all that is alive.
    ///
    /// A nested pool is found below the task in which it was first polled, or directly below the outer pool if that
    /// task is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::builder().name("web").open(async |pool: Pool| {
    ///     pool.build_task().name("accept").spawn(std::future::pending::<()>());
    ///     pool.build_task().name("metrics").daemon().spawn(std::future::pending::<()>());
    ///
    ///     // web (running, 2 tasks)
    ///     // ├── accept  src/main.rs:4:38
    ///     // └── metrics  src/main.rs:5:48  daemon
    ///     let drawing = pool.tree().to_string();
    ///     let lines: Vec<_> = drawing.lines().collect();
    ///     assert_eq!(lines[0], "web (running, 2 tasks)");
    ///     assert!(lines[1].starts_with("├── accept  ") && lines[2].ends_with("  daemon"));
    ///
    ///     pool.cancel();
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn tree(&self) -> PoolTree {
        let pool: Arc<dyn PoolState> = self.shared.clone();
        PoolTree::new(Arc::clone(&pool), &pool)
    }

    /// Like [`tree`](Self::tree), but from the outermost pool around this one, in which this one is marked.
    ///
    /// It is the same as `tree` if there is none, or if this pool does not run.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::builder().name("service").open(async |_: Pool| {
    ///     let nested = Pool::builder().name("request").open(async |pool: Pool| Ok(pool.root_tree()));
    ///     let tree = nested.await?;
    ///     assert_eq!(tree.root().name(), Some("service"));
    ///     assert_eq!(tree.asked().name(), Some("request"));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn root_tree(&self) -> PoolTree {
        let pool: Arc<dyn PoolState> = self.shared.clone();
        PoolTree::new(self.shared.outermost().unwrap_or_else(|| Arc::clone(&pool)), &pool)
    }

    /// The name that the pool was built with.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let (named, unnamed): (Pool, Pool) = (Pool::builder().name("web").build(), Pool::new());
    /// assert_eq!(named.name(), Some("web"));
    /// assert_eq!(unnamed.name(), None);
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.shared.name.as_deref()
    }
}

impl<E: Send + 'static> Default for Pool<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Clone for Pool<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E: Send + 'static> fmt::Debug for Pool<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name())
            .field("state", &format_args!("{}", self.shared.phase()))
            .field("len", &self.len())
            .finish()
    }
}
