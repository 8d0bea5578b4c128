//! How a task is set up before it is spawned, and the one way in which every task is.
//!
//! The methods of [`Pool`] that spawn are those of a builder without a setting: so each task goes through the private
//! methods at the end of this file.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::Pool;
use super::admission::{OnBlockingThread, OnRuntime, Spawn};
use super::handle::{NoHandle, OutputSink, TaskHandle, TaskOutput};
use super::options::{OnFailure, TaskSettings};
use super::shared::Shared;
use super::start::{StartFuture, Started};
use super::task::Task;
use crate::error::{BoxError, SpawnError, TaskInfo};
use crate::scope::{TaskClass, TaskKind, boxed_in_debug};

/// Sets up a task of a [`Pool`]; made by [`Pool::build_task`].
///
/// The settings come first, then a method that spawns. Each of these does what the [`Pool`] method of that name does.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Pool::open(async |pool: Pool| {
///     for part in 0..3 {
///         pool.build_task().name(format!("part {part}")).spawn(async move {
///             if part == 1 { Err("checksum differs".into()) } else { Ok(()) }
///         });
///     }
///     Ok(())
/// })
/// .await
/// .unwrap_err();
/// assert_eq!(error.first().unwrap().task().name(), Some("part 1"));
/// # }
/// ```
#[must_use = "a builder does nothing until one of its spawning methods is called"]
pub struct TaskBuilder<'a, E = BoxError> {
    pub(super) pool: &'a Pool<E>,
    pub(super) name: Option<Arc<str>>,
    /// Its depth, and whether it is a daemon.
    pub(super) class: TaskClass,
    settings: TaskSettings,
}

impl<'a, E: Send + 'static> TaskBuilder<'a, E> {
    pub(super) fn new(pool: &'a Pool<E>) -> Self {
        Self { pool, name: None, class: TaskClass::default(), settings: TaskSettings::default() }
    }

    /// For something that the pool itself waits for, at no depth.
    pub(super) fn watcher(pool: &'a Pool<E>, name: &'static str, kind: TaskKind) -> Self {
        let class = TaskClass { depth: 0, kind };
        Self { name: Some(Arc::from(name)), class, ..Self::new(pool) }
    }

    /// Names the task: in the errors of its pool and in the [tree](Pool::tree).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("accept").spawn(async {});
    /// pool.build_task().name(format!("conn {}", 7)).spawn(async {});
    /// let tree = pool.tree();
    /// let names: Vec<_> = tree.root().children().map(|task| task.name()).collect();
    /// assert_eq!(names, [Some("accept"), Some("conn 7")]);
    /// ```
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(Arc::from(name.into()));
        self
    }

    /// Puts the task at a depth. A pool closes its depths from the highest to the lowest, and joins each, with
    /// everything nested in it, before it touches the next one. The default is 0, to which the body belongs too.
    ///
    /// Give what others rely on a lower depth: an accept loop 1, the connections 0, their storage -1.
    ///
    /// While a depth closes, lower depths are as before: their tasks run on, their tokens are not cancelled, and they
    /// accept tasks. So it is for each cause, also after a failure and after an [abort](Pool::abort).
    ///
    /// A task that is cut off, because it failed, because its grace was over or by an abort, closes its channels like
    /// one that is done. A receiver at a lower depth still runs then, and must not take that for the end of the data:
    /// it commits only after an explicit last message, as in the recipe [staged
    /// shutdown](crate::docs::recipes#staged-shutdown).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let ended = Arc::new(Mutex::new(Vec::new()));
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(1)).build();
    /// for depth in [-1, 1, 0] {
    ///     let ended = Arc::clone(&ended);
    ///     pool.build_task().depth(depth).spawn(async move {
    ///         cancellation_token().cancelled().await;
    ///         ended.lock().unwrap().push(depth);
    ///     });
    /// }
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    /// pool.run().await.unwrap();
    /// assert_eq!(*ended.lock().unwrap(), [1, 0, -1]);
    /// # }
    /// ```
    pub fn depth(mut self, depth: i32) -> Self {
        self.class.depth = depth;
        self
    }

    /// Makes the task a daemon: it does not hold the pool open, and does not count towards its
    /// [`limit`](crate::PoolBuilder::limit).
    ///
    /// When the body and all other tasks have ended, the pool cancels its daemons, and aborts them after the
    /// [`grace`](crate::PoolBuilder::grace). So a pool that has nothing but daemons ends at once, with `Ok`.
    ///
    /// Daemons that cannot hear the signal are aborted without a grace. A daemon can hear it if somebody at its depth
    /// has taken a [`cancellation_token`](crate::cancellation_token()), if somebody awaits [`Pool::cancelled`], or if a
    /// pool is nested in a daemon of that depth. To look at [`Pool::is_closed`] now and then does not count.
    ///
    /// A daemon's failure is a failure like any other.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     pool.build_task().daemon().spawn(async {
    ///         loop {
    ///             tokio::time::sleep(Duration::from_secs(1)).await;
    ///             println!("still working");
    ///         }
    ///     });
    ///     pool.spawn(tokio::time::sleep(Duration::from_secs(3)));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn daemon(mut self) -> Self {
        self.class.kind = self.class.kind.daemon();
        self
    }

    /// Gives the task no [`grace`](crate::PoolBuilder::grace): it is aborted at the signal, as in a pool without one.
    ///
    /// It is for a task that has nothing to finish, such as a loop that refreshes a cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let begin = tokio::time::Instant::now();
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
    /// pool.build_task().no_grace().spawn(std::future::pending::<()>());
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    /// pool.run().await.unwrap(); // after one second, not eleven
    /// # assert_eq!(begin.elapsed(), Duration::from_secs(1));
    /// # }
    /// ```
    pub fn no_grace(mut self) -> Self {
        self.class.kind = self.class.kind.without_grace();
        self
    }

    /// Exempts the task from the [`limit`](crate::PoolBuilder::limit): it begins at once, and takes no slot.
    ///
    /// Daemons never count; this is for a task that holds the pool open, such as the one that feeds the others.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().limit(1).build();
    /// let feeder = pool.clone();
    /// pool.build_task().unlimited().spawn(async move {
    ///     for n in 0..3 {
    ///         feeder.ready().await; // would wait for itself, if it had the only slot
    ///         feeder.spawn(async move { println!("{n}") });
    ///     }
    /// });
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    pub fn unlimited(mut self) -> Self {
        self.settings.unlimited = true;
        self
    }

    /// Makes the task essential: it must not end while the pool is open. If it does, the pool closes, whatever
    /// [`on_failure`](Self::on_failure) says, and fails: with the task's error or panic, or, if it ended well, with
    /// [`Failure::Ended`](crate::Failure::Ended).
    ///
    /// An essential task that is no daemon holds the pool open until the pool is cancelled or something fails. That is
    /// right for the accept loop of a server. Make it a [`daemon`](Self::daemon) as well only beside tasks that the
    /// pool is there for: a connection to a broker, beside the jobs that use it. A pool that has nothing but daemons
    /// ends at once, with `Ok`.
    ///
    /// An essential task that is aborted through its own handle has not failed.
    ///
    /// # Examples
    ///
    /// A server: its pool is open until it is cancelled, or until the accept loop ends too early.
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let begin = tokio::time::Instant::now();
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
    /// let accept = pool.build_task().name("accept").essential();
    /// accept.spawn(async { cancellation_token().cancelled().await }); // takes connections
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(3_600)));
    /// pool.run().await.unwrap(); // after an hour
    /// # assert_eq!(begin.elapsed(), Duration::from_secs(3_600));
    /// # }
    /// ```
    ///
    /// A daemon that the jobs need:
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("job").spawn(std::future::pending::<()>());
    /// let broker = pool.build_task().name("broker").daemon().essential();
    /// broker.spawn(async { /* the broker has closed the connection */ });
    /// let error = pool.run().await.unwrap_err();
    /// assert!(matches!(error.first().unwrap().failure(), Failure::Ended));
    /// # }
    /// ```
    pub fn essential(mut self) -> Self {
        self.settings.essential = true;
        self
    }

    /// Decides what a failure of this task does, in place of the [policy of the pool](crate::PoolBuilder::on_failure).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{OnFailure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// let statistics = pool.build_task().on_failure(OnFailure::Discard);
    /// statistics.spawn(async { Err("no statistics today".into()) });
    /// pool.spawn(async { Ok(()) });
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    pub fn on_failure(mut self, decision: OnFailure) -> Self {
        self.settings.on_failure = Some(decision);
        self
    }

    /// Spawns the task; see [`Pool::spawn`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("lookup").spawn(async { Err("no such host".into()) });
    /// assert_eq!(pool.run().await.unwrap_err().first().unwrap().task().name(), Some("lookup"));
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.admit::<OnRuntime, _, _>(boxed_in_debug(task), NoHandle);
    }

    /// Spawns the task, or gives its future back; see [`Pool::try_spawn`].
    ///
    /// # Errors
    ///
    /// With the future, never polled, if the pool is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.cancel();
    /// assert!(pool.build_task().name("late").try_spawn(async {}).is_err());
    /// ```
    #[track_caller]
    pub fn try_spawn<F>(self, task: F) -> Result<(), SpawnError<F>>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        let (pool, class, task) = self.task(task, NoHandle);
        let Err(refused) = pool.admit::<OnRuntime, _, _>(class, task) else { return Ok(()) };
        Err(SpawnError(refused.into_future()))
    }

    /// Spawns the task with a handle to its value; see [`Pool::spawn_with_handle`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// let answer = pool.build_task().name("answer").spawn_with_handle(async { Ok(42) });
    /// pool.run().await.unwrap();
    /// assert_eq!(answer.await, Ok(42));
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_with_handle<T, F>(self, task: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let (handle, sender) = TaskHandle::new();
        // A refused task is dropped, and with it what the handle waits for.
        self.admit::<OnRuntime, _, _>(boxed_in_debug(task), sender);
        handle
    }

    /// Runs a closure on the runtime's threads for blocking work; see [`Pool::spawn_blocking`].
    ///
    /// # Panics
    ///
    /// See [`Pool::spawn_blocking`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.build_task().name("hash").spawn_blocking(|| assert_eq!(b"abc".len(), 3));
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<O, C>(self, task: C)
    where
        C: FnOnce() -> O + Send + 'static,
        O: TaskOutput<E> + 'static,
    {
        self.admit::<OnBlockingThread, _, _>(boxed_in_debug(async { task() }), NoHandle);
    }

    /// Spawns a task that cannot leave its thread; see [`Pool::spawn_local`].
    ///
    /// # Panics
    ///
    /// See [`Pool::spawn_local`].
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
    ///     pool.build_task().name("local").spawn_local(async move { assert_eq!(*shared, 42) });
    ///     Ok(())
    /// }));
    /// opened.await
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_local<F>(self, task: F)
    where
        F: Future + 'static,
        F::Output: TaskOutput<E>,
    {
        self.admit_local(task, NoHandle);
    }

    /// Runs a closure on the runtime's threads for blocking work, and returns a handle for its value; see
    /// [`Pool::spawn_blocking_with_handle`].
    ///
    /// # Examples
    ///
    /// See [`Pool::spawn_blocking_with_handle`].
    #[track_caller]
    pub fn spawn_blocking_with_handle<T, C>(self, task: C) -> TaskHandle<T>
    where
        C: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
    {
        let (handle, sender) = TaskHandle::new();
        self.admit::<OnBlockingThread, _, _>(boxed_in_debug(async { task() }), sender);
        handle
    }

    /// Spawns a task that stays on this thread, and returns a handle for its value; see
    /// [`Pool::spawn_local_with_handle`].
    ///
    /// # Panics
    ///
    /// As [`Pool::spawn_local`] does.
    ///
    /// # Examples
    ///
    /// See [`Pool::spawn_local_with_handle`].
    #[track_caller]
    pub fn spawn_local_with_handle<T, F>(self, task: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + 'static,
        T: Send + 'static,
    {
        let (handle, sender) = TaskHandle::new();
        self.admit_local(task, sender);
        handle
    }

    /// Spawns a task and waits until it is ready; see [`Pool::start`].
    ///
    /// # Errors
    ///
    /// See [`Pool::start`].
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe; see [`Pool::start`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let storage = pool.build_task().name("storage").depth(-1).start(|started| async {
    ///         started.ready("open");
    ///     });
    ///     assert_eq!(storage.await?, "open");
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[track_caller]
    pub fn start<V, S, F>(self, task: S) -> StartFuture<V>
    where
        V: Send + 'static,
        S: FnOnce(Started<V>) -> F,
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        let (started, sender, future) = Started::new();
        self.admit::<OnRuntime, _, _>(boxed_in_debug(task(started)), sender);
        future
    }

    /// Spawns a task, or drops it with a warning, if the pool is closed.
    #[track_caller]
    fn admit<K, F, S>(self, future: F, sink: S)
    where
        K: Spawn<Task<F, S, E>> + 'static,
        F: Future + Send + 'static,
        S: OutputSink<F::Output, E>,
    {
        let (pool, class, task) = self.task(future, sink);
        if let Err(refused) = pool.admit::<K, _, _>(class, task) {
            pool.trace.refused(refused.info());
        }
    }

    /// The same for a task that stays on this thread.
    #[track_caller]
    fn admit_local<F, S>(self, future: F, sink: S)
    where
        F: Future + 'static,
        S: OutputSink<F::Output, E>,
    {
        let (pool, class, task) = self.task(future, sink);
        if let Err(refused) = pool.admit_local(class, task) {
            pool.trace.refused(refused.info());
        }
    }

    /// The task that was set up, and where it goes.
    #[track_caller]
    fn task<F: Future, S: OutputSink<F::Output, E>>(
        self,
        future: F,
        sink: S,
    ) -> (&'a Arc<Shared<E>>, TaskClass, Task<F, S, E>) {
        let (pool, info) = (&self.pool.shared, TaskInfo::of_task(self.name));
        let span = pool.options.spans.span_of(&info);
        (pool, self.class, Task::new(future, sink, info, self.settings, span))
    }
}

impl<E> fmt::Debug for TaskBuilder<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBuilder")
            .field("name", &self.name)
            .field("depth", &self.class.depth)
            .field("daemon", &self.class.kind.is_daemon())
            .finish()
    }
}
