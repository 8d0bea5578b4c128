//! How futures get into a pool: as tasks, or as members that somebody else polls.
//!
//! Each method that spawns is that of a [`TaskBuilder`] without a name, at depth 0; how a task is taken in, or refused,
//! is in [`admission`](super::admission). A tracked future is listed as a task is, but tokio has no task for it: its
//! [`Member`] keeps it on the list, and a token ends it.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::options::Turn;
use super::shared::{Planned, Shared};
use super::{Pool, StartFuture, Started, TaskBuilder, TaskHandle, TaskOutput};
use crate::error::{SpawnError, TaskInfo, TaskStopped};
use crate::scope::{ChildKind, Completion, Current, Scoped, TaskClass};

/// To spawn tasks.
impl<E: Send + 'static> Pool<E> {
    /// Spawns a task in the pool.
    ///
    /// The task may return `()`, `!` or `Result<(), E>`. A failure closes the pool, unless
    /// [`on_failure`](super::PoolBuilder::on_failure) says otherwise; see [how a pool closes](Self#how-a-pool-closes).
    ///
    /// This can be called from any thread, and never waits. In a planned pool the task begins when the pool runs; under
    /// a [`limit`](super::PoolBuilder::limit), when it is its turn. If the pool is closed, the future is dropped
    /// without having been polled; [`try_spawn`](Self::try_spawn) gives it back.
    ///
    /// Unlike with [`tokio::spawn`], you need not keep a handle: the pool waits for the task, and returns its error.
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
    ///
    /// Several tasks that share something:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let hits = Arc::new(AtomicU32::new(0));
    /// Pool::open(async |pool: Pool| {
    ///     for _ in 0..3 {
    ///         let hits = Arc::clone(&hits); // one for each task
    ///         pool.spawn(async move {
    ///             hits.fetch_add(1, Ordering::Relaxed);
    ///         });
    ///     }
    ///     Ok(())
    /// })
    /// .await?;
    /// assert_eq!(hits.load(Ordering::Relaxed), 3); // all have ended
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.build_task().spawn(task);
    }

    /// Spawns a task, or gives its future back if the pool is closed.
    ///
    /// Use it where the future has something that must not be lost: a job that goes back into its queue, a connection
    /// that gets an answer. [`spawn`](Self::spawn) drops a future that the pool refuses, with a `WARN` event if the
    /// feature `tracing` is on.
    ///
    /// A task that the pool has accepted can still be dropped unpolled: if it is aborted before it begins.
    ///
    /// # Errors
    ///
    /// With the future, never polled, if the pool is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, PoolError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), PoolError> {
    /// let pool: Pool = Pool::new();
    /// pool.cancel();
    /// let refused = pool.try_spawn(async { println!("late") }).unwrap_err();
    /// assert_eq!(refused.to_string(), "the pool is closed");
    ///
    /// let other: Pool = Pool::new();
    /// other.spawn(refused.into_inner());
    /// other.run().await
    /// # }
    /// ```
    #[track_caller]
    pub fn try_spawn<F>(&self, task: F) -> Result<(), SpawnError<F>>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.build_task().try_spawn(task)
    }

    /// Spawns a task with a handle to the value that it returns.
    ///
    /// An error of the task closes the pool, as with [`spawn`](Self::spawn), whether or not anybody looks at the
    /// handle. The error itself is in the [`PoolError`](crate::PoolError); the handle only says that there was one. Its
    /// [`TaskStopped`] can be returned with `?`: the pool does not count it as another failure.
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
    ///
    /// The error is reported once, by the pool:
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let opened = Pool::open(async |pool: Pool| {
    ///     let rows = pool.spawn_with_handle(async { Err::<u32, _>("no such table".into()) });
    ///     Ok(rows.await? * 2)
    /// });
    /// let error = opened.await.unwrap_err();
    /// assert_eq!(error.failures().len(), 1);
    /// assert!(error.to_string().ends_with("failed: no such table"));
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_with_handle<T, F>(&self, task: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        self.build_task().spawn_with_handle(task)
    }

    /// Runs a closure on the runtime's threads for blocking work, as a task of the pool.
    ///
    /// A closure that has begun cannot be aborted, and the pool waits for it; one that runs long should look at
    /// [`is_closed`](Self::is_closed) now and then. A closure that has not begun when it is aborted is dropped.
    ///
    /// Unlike with [`tokio::task::spawn_blocking`], its panic is a failure of the pool, and [`Pool::current`] works in
    /// it.
    ///
    /// # Panics
    ///
    /// If the runtime has no thread for blocking work yet and the operating system gives it none: in the caller, as
    /// with tokio's function, or, if the closure had to wait, where it is begun.
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
    ///         let _ = sender.send(text.lines().count());
    ///         Ok(())
    ///     });
    ///     Ok(receiver.await?)
    /// })
    /// .await?;
    /// assert!(lines > 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A closure that ends when its pool closes:
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let pool: Pool = Pool::new();
    /// pool.spawn_blocking(|| {
    ///     let pool: Pool = Pool::current();
    ///     while !pool.is_closed() {
    ///         std::thread::yield_now(); // a step of the work
    ///     }
    /// });
    /// pool.cancel_on(tokio::task::yield_now());
    /// pool.run().await
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<O, C>(&self, task: C)
    where
        C: FnOnce() -> O + Send + 'static,
        O: TaskOutput<E> + 'static,
    {
        self.build_task().spawn_blocking(task);
    }

    /// Spawns a task that need not be `Send`, and stays on the thread that it is spawned from.
    ///
    /// It runs in the tokio `LocalSet` of the caller, or on its `LocalRuntime`, which tokio has since 1.51. Everything
    /// else is as with [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// - Outside of a tokio `LocalSet` and of a `LocalRuntime`. Under `cfg(tokio_unstable)`, where tokio shows the line of
    ///   each spawn, the panic is tokio's own.
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
        self.build_task().spawn_local(task);
    }

    /// Like [`spawn_blocking`](Self::spawn_blocking), with a handle for the value, as
    /// [`spawn_with_handle`](Self::spawn_with_handle) has one.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let sum = Pool::open(async |pool: Pool| {
    ///     let sum = pool.spawn_blocking_with_handle(|| Ok((1..=100).sum::<u32>()));
    ///     Ok(sum.await?)
    /// });
    /// assert_eq!(sum.await?, 5_050);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking_with_handle<T, C>(&self, task: C) -> TaskHandle<T>
    where
        C: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
    {
        self.build_task().spawn_blocking_with_handle(task)
    }

    /// Like [`spawn_local`](Self::spawn_local), with a handle for the value, as
    /// [`spawn_with_handle`](Self::spawn_with_handle) has one.
    ///
    /// # Panics
    ///
    /// As [`spawn_local`](Self::spawn_local) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::rc::Rc;
    /// use aiodrive::{BoxError, Pool};
    /// use tokio::task::LocalSet;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let opened = Pool::<BoxError>::open(async |pool| {
    ///     let shared = Rc::new(7); // not `Send`
    ///     let value = pool.spawn_local_with_handle(async move { Ok(*shared) });
    ///     Ok(value.await?)
    /// });
    /// assert_eq!(LocalSet::new().run_until(opened).await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_local_with_handle<T, F>(&self, task: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + 'static,
        T: Send + 'static,
    {
        self.build_task().spawn_local_with_handle(task)
    }

    /// Spawns a task, and waits until it says that it is ready.
    ///
    /// `task` gets a [`Started`], and calls [`ready`](Started::ready) on it when it has set up what others need, for
    /// example bound a port. This method yields the value that `task` passes to `ready`. The task is spawned at the
    /// call, before the returned future is polled, and belongs to the pool from then on. It may return what any task
    /// may.
    ///
    /// Unlike a task and a oneshot channel, it never leaves its caller waiting: if the task ends, or drops its
    /// `Started`, this method returns an error. The idea is that of trio's `nursery.start`.
    ///
    /// # Errors
    ///
    /// As soon as it is certain that the task will not be ready any more:
    ///
    /// - [`Cancelled`], [`Failed`] or [`Panicked`] if the task has ended in that way. The error itself is the pool's.
    /// - [`NotReady`] if it has ended well, or has dropped its `Started`, without saying that it is ready.
    ///
    /// [`Cancelled`]: crate::TaskStopped::Cancelled
    /// [`Failed`]: crate::TaskStopped::Failed
    /// [`Panicked`]: crate::TaskStopped::Panicked
    /// [`NotReady`]: crate::TaskStopped::NotReady
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
    pub fn start<V, S, F>(&self, task: S) -> StartFuture<V>
    where
        V: Send + 'static,
        S: FnOnce(Started<V>) -> F,
        F: Future + Send + 'static,
        F::Output: TaskOutput<E>,
    {
        self.build_task().start(task)
    }

    /// Sets up a task with a name, a depth, or as a daemon.
    ///
    /// The [`TaskBuilder`] spawns by the same methods as the pool: [`spawn`](TaskBuilder::spawn) and its family.
    ///
    /// Name the tasks that live long: then you can read the [tree](Self::tree) of a service that does not stop, and the
    /// error of one that did, without the source.
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

    /// Waits until there is room for another task under the pool's [`limit`](super::PoolBuilder::limit), or until the
    /// pool closes. Without a limit it is ready at once.
    ///
    /// Call it before [`spawn`](Self::spawn) where tasks come faster than they end. Unlike the permit of a `Semaphore`,
    /// it reserves nothing: a task that is spawned meanwhile may take the slot, and then this one waits for its turn.
    ///
    /// # Fairness
    ///
    /// Calls of this method are ready in the order in which they began to wait, each after the tasks that were queued
    /// before it.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no
    /// slot has been taken. After its first poll, a call keeps its place in the queue until it is dropped. If it is
    /// kept but no longer polled, those behind it wait, and a slot that was given to it stays unused.
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
}

// ===== futures that somebody else polls =====

/// To make a future that somebody else polls a member of the pool.
impl<E: Send + 'static> Pool<E> {
    /// Makes a future that somebody else polls a member of the pool, such as a request handler of a web framework.
    ///
    /// From this call on, the pool waits for it, and counts it in [`len`](Self::len); in it, the
    /// [`cancellation_token`](crate::cancellation_token()) is the pool's, and [`Pool::current`] is this pool. Its
    /// output and its panics are the caller's, and no failures of the pool. It takes up no slot of a
    /// [limit](crate::PoolBuilder::limit).
    ///
    /// When the pool aborts its tasks, the returned future wakes whoever polls it, and drops `future` at the next poll.
    /// Nobody can drop it from outside: the pool waits until then, or until
    /// [`abandon_after`](crate::PoolBuilder::abandon_after) is over.
    ///
    /// In a planned pool the returned future is pending until the pool runs, and `future` becomes a member then. If the
    /// pool has nothing else, it may have ended by then; if it never runs, the future is pending for ever.
    ///
    /// Unlike with [`TaskTracker::track_future`], the pool can abort the future, and the future finds its pool.
    ///
    /// [`TaskTracker::track_future`]: https://docs.rs/tokio-util/latest/tokio_util/task/struct.TaskTracker.html
    ///
    /// # Errors
    ///
    /// [`TaskStopped::Cancelled`] if the pool has aborted the future, or was closed when this was called.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops `future`, and the pool no longer waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let server = Pool::builder().grace(Duration::from_secs(10)).open(async |pool: Pool| {
    ///     let request = pool.track_future(async {
    ///         cancellation_token().cancelled().await;
    ///         "503 going down"
    ///     });
    ///     let framework = tokio::spawn(request); // it knows nothing of the pool
    ///     pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    ///     assert_eq!(framework.await?, Ok("503 going down"));
    ///     Ok(())
    /// });
    /// server.await
    /// # }
    /// ```
    #[track_caller]
    pub fn track_future<F: Future>(
        &self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TaskStopped>> + use<F, E> {
        self.build_task().track_future(future)
    }
}

impl<E: Send + 'static> TaskBuilder<'_, E> {
    /// Makes a future that somebody else polls a member of the pool; see [`Pool::track_future`]. Of the settings, the
    /// name, the depth, `daemon` and `no_grace` hold for it: its end is nobody's failure, so
    /// [`essential`](Self::essential) and [`on_failure`](Self::on_failure) do nothing. A tracked daemon has its grace
    /// also if it cannot hear the signal.
    ///
    /// # Errors
    ///
    /// As [`Pool::track_future`].
    ///
    /// # Cancel safety
    ///
    /// As [`Pool::track_future`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let server = Pool::open(async |pool: Pool| {
    ///     let request = pool.build_task().name("request 7").track_future(async { 200 });
    ///     assert_eq!(tokio::spawn(request).await?, Ok(200));
    ///     Ok(())
    /// });
    /// server.await
    /// # }
    /// ```
    #[track_caller]
    pub fn track_future<F: Future>(
        self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TaskStopped>> + use<F, E> {
        let member = Member::new(&self.pool.shared, self.class, TaskInfo::of_task(self.name));
        run_tracked(Tracked { future: Scoped::outside(future), member })
    }
}

/// A future, and its membership of the pool; dropped in this order.
struct Tracked<F, E: Send + 'static> {
    future: Scoped<F>,
    member: Arc<Member<E>>,
}

/// What keeps a future on the list of a pool.
struct Member<E: Send + 'static> {
    pool: Arc<Shared<E>>,
    class: TaskClass,
    info: TaskInfo,
    /// Set when the pool runs, if it does.
    current: OnceLock<Current>,
    /// What ends the future when the pool is aborted. The scope knows it weakly.
    aborted: Arc<CancellationToken>,
}

impl<E: Send + 'static> Member<E> {
    fn new(pool: &Arc<Shared<E>>, class: TaskClass, info: TaskInfo) -> Arc<Self> {
        let (pool, current) = (Arc::clone(pool), OnceLock::new());
        let member = Arc::new(Self { pool, class, info, current, aborted: Arc::default() });
        if !member.enter() {
            let plan = PlannedMember { class, info: member.info.clone(), member: Arc::downgrade(&member) };
            // The pool is not planned any more.
            if member.pool.plan(plan).is_err() {
                member.enter();
            }
        }
        member
    }

    /// Takes its place on the list. False if the pool is planned.
    fn enter(&self) -> bool {
        match self.pool.place(self.class, &self.info, None) {
            Admission::Planned => return false,
            Admission::Refused => self.aborted.cancel(),
            Admission::Placed(current, lent) => {
                // Nothing is spawned into the set.
                self.pool.return_set(lent);
                let signal = ChildKind::Tracked(Arc::downgrade(&self.aborted));
                if current.scope.add_child_of(signal, current.key) {
                    self.aborted.cancel();
                }
                drop(self.current.set(current));
            }
        }
        true
    }
}

impl<E: Send + 'static> Drop for Member<E> {
    fn drop(&mut self) {
        match self.current.get() {
            Some(current) => {
                self.pool.task_ended(current);
                // The scope knows by this that it is gone, and the driver looks when it is told.
                drop(mem::take(&mut self.aborted));
                current.scope.child_ended();
            }
            // It is still planned, or was refused.
            None => self.pool.plan_gone(self.class),
        }
    }
}

/// A member of a pool that does not run yet.
struct PlannedMember<E: Send + 'static> {
    class: TaskClass,
    info: TaskInfo,
    member: Weak<Member<E>>,
}

impl<E: Send + 'static> Planned<E> for PlannedMember<E> {
    fn class(&self) -> TaskClass {
        self.class
    }

    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn turn(&mut self) -> Option<&mut Turn> {
        None
    }

    fn is_alive(&self) -> bool {
        self.member.strong_count() > 0
    }

    fn admit(self: Box<Self>, _: &Arc<Shared<E>>) {
        if let Some(member) = self.member.upgrade() {
            member.enter();
        }
    }
}

/// Polls a tracked future until it ends or is aborted.
async fn run_tracked<F: Future, E: Send + 'static>(tracked: Tracked<F, E>) -> Result<F::Output, TaskStopped> {
    // `pin!` declares the future after the member, so it is dropped first.
    let Tracked { future, member } = tracked;
    let mut future = pin!(future);
    if member.current.get().is_none() {
        member.pool.wait_started().await;
    }
    let Some(current) = member.current.get() else { return Err(TaskStopped::Cancelled) };
    future.as_mut().place_pinned(current.clone());
    let mut aborted = pin!(member.aborted.cancelled());
    let ended = poll_fn(|cx| match aborted.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    });
    let Some(Completion { output, dropped }) = ended.await else {
        if let Some(payload) = future.as_mut().abort() {
            payload.resume();
        }
        return Err(TaskStopped::Cancelled);
    };
    match (output, dropped) {
        (Ok(output), None) => Ok(output),
        (Err(payload), _) | (_, Some(payload)) => payload.resume(),
    }
}
