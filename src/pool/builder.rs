//! How a pool is set up before it runs.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::driver::{Body, Drive, DriverState};
use super::options::{Limit, OnFailure, Options};
use super::shared::Shared;
#[cfg(feature = "tracing")]
use super::trace::SpanSource;
#[cfg(feature = "tracing")]
use crate::error::TaskInfo;
use crate::error::{BoxError, PoolError, TaskError};
use crate::scope::Then;

/// Sets up a [`Pool`]; made by [`Pool::builder`].
///
/// A pool that is built without a setting has no name and no [`limit`](Self::limit), gives its tasks no
/// [`grace`](Self::grace), closes at the first [failure](Self::on_failure) or when its body and its tasks have ended,
/// and waits for them for [as long as it takes](Self::abandon_after). A setting costs only the pools that have it.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Pool::builder()
///     .name("web")
///     .open(async |_: Pool| Err::<(), _>("no port left".into()))
///     .await
///     .unwrap_err();
/// assert_eq!(error.to_string(), r#"pool "web": body failed: no port left"#);
/// # }
/// ```
///
/// The settings of a service:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{Failure, OnFailure, Pool};
///
/// let connections: Pool = Pool::builder()
///     .name("connections")
///     .limit(10_000)
///     .grace(Duration::from_secs(10)) // to finish their requests
///     .abandon_after(Duration::from_secs(5)) // then the error names what cannot be stopped
///     .on_failure(|failed| match failed.failure() {
///         Failure::Error(error) => {
///             eprintln!("{}: {error}", failed.task());
///             OnFailure::Discard // one bad connection is no reason to stop
///         }
///         _ => OnFailure::Cancel, // a bug is
///     })
///     .build();
/// assert!(connections.is_empty());
/// ```
#[must_use = "a builder does nothing until `build` or `open` is called"]
pub struct PoolBuilder<E = BoxError> {
    options: Options<E>,
}

impl<E: Send + 'static> PoolBuilder<E> {
    /// With the defaults.
    pub(super) fn new() -> Self {
        Self { options: Options::default() }
    }

    /// Names the pool: in its errors, in its [tree](Pool::tree), in `Debug`, and as its span with the feature
    /// `tracing`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().name(format!("shard {}", 3)).build();
    /// pool.spawn(async { Err("disk full".into()) });
    /// let text = pool.run().await.unwrap_err().to_string();
    /// assert!(text.starts_with(r#"pool "shard 3": task at "#));
    /// # }
    /// ```
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.options.name = Some(Arc::from(name.into()));
        self
    }

    /// Sets how long the tasks and the body have to end by themselves when the pool closes, before the pool aborts
    /// them.
    ///
    /// When the pool closes, for whatever reason, it cancels the [`cancellation_token`](crate::cancellation_token()) of
    /// its tasks, and nested pools close. The tasks and the body run on, and can still spawn. A task that does not
    /// listen to its token, and does not end by itself, is aborted when the time is over; [`Pool::overrun`] lists it.
    ///
    /// Each [depth](crate::TaskBuilder::depth) has `grace` for itself, and takes only as much of it as it needs: three
    /// depths with a grace of 3 s may take 9 s. A recipe sets a [limit for the whole
    /// shutdown](crate::docs::recipes#limit-for-the-whole-shutdown). `Duration::MAX` is for ever. [`Pool::abort`] ends
    /// a grace that has begun.
    ///
    /// Without this setting there is no grace, with one exception: when the task around the pool is cancelled, the pool
    /// has the time of that task. A grace can be shorter than that time, but not longer. See [time
    /// nests](crate::docs::how_a_pool_closes#time-nests).
    ///
    /// # Panics
    ///
    /// This method does not panic, but the future of a pool with a grace does, when it is first polled, in a runtime
    /// without timers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
    /// pool.spawn(async {
    ///     cancellation_token().cancelled().await;
    ///     sleep(Duration::from_secs(2)).await; // to finish its work
    /// });
    /// pool.cancel_on(sleep(Duration::from_secs(60)));
    ///
    /// let begin = Instant::now();
    /// pool.run().await.unwrap();
    /// assert_eq!(begin.elapsed(), Duration::from_secs(62));
    /// # }
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = Some(grace);
        self
    }

    /// Lets at most `tasks` run at a time. The others wait for their turn.
    ///
    /// [`spawn`](Pool::spawn) never waits; [`ready`](Pool::ready) does, for back-pressure. Tasks that wait are members
    /// of the pool and hold it open. They are dropped unpolled when their depth is aborted. Daemons, the body, and
    /// tasks that are [`unlimited`](crate::TaskBuilder::unlimited) do not count.
    ///
    /// A task may spawn into its own full pool. If it also *waits* for what it has spawned, it keeps its slot
    /// meanwhile: as many such tasks as the limit allows wait for each other for ever. Open a nested pool instead.
    ///
    /// Unlike a `Semaphore` whose permit each task takes, it needs nothing in the tasks, and the slot is free again
    /// also after a panic or an abort.
    ///
    /// # Fairness
    ///
    /// First come, first served.
    ///
    /// # Panics
    ///
    /// If `tasks` is 0, since nothing would ever run.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let begin = Instant::now();
    /// let pool: Pool = Pool::builder().limit(2).build();
    /// for _ in 0..6 {
    ///     pool.spawn(async { sleep(Duration::from_secs(1)).await });
    /// }
    /// pool.run().await.unwrap();
    /// assert_eq!(begin.elapsed(), Duration::from_secs(3));
    /// # }
    /// ```
    #[track_caller]
    pub fn limit(mut self, tasks: usize) -> Self {
        assert!(tasks > 0, "a pool with a limit of 0 would never run a task");
        self.options.limit = Some(Limit::new(tasks));
        self
    }

    /// Keeps the pool open when it has no task left and its body has returned: until it is cancelled, something fails,
    /// or nothing is left that could spawn or cancel. The default is `false`.
    ///
    /// It is for a pool that gets its work from elsewhere, through clones of its handle. So a handle outside of the
    /// pool's planned tasks keeps it open, and so do a daemon and a watcher, such as [`cancel_on`](Pool::cancel_on).
    /// See [a pool that stays open](crate::docs::how_a_pool_closes#a-pool-that-stays-open).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().keep_open(true).build();
    /// let running = tokio::spawn(pool.clone().run());
    /// tokio::task::yield_now().await;
    /// assert!(!running.is_finished()); // though it has no task
    /// let answer = pool.spawn_with_handle(async { Ok(42) });
    /// assert_eq!(answer.await, Ok(42));
    /// pool.cancel();
    /// running.await.unwrap().unwrap();
    /// # }
    /// ```
    pub fn keep_open(mut self, keep_open: bool) -> Self {
        self.options.keep_open = keep_open;
        self
    }

    /// Decides whether a cleanup failure closes the pool: a failure of something nested whose owner is gone. The
    /// default is [`Collect`](OnFailure::Collect): the pool keeps it, and goes on.
    ///
    /// A pool that lives long, such as that of a server, keeps all of them until it ends. If they are logged elsewhere,
    /// [`Discard`](OnFailure::Discard) them.
    ///
    /// The pool calls `policy` where the failure arrives, which may be in no task: [`Pool::try_current`] may be `None`
    /// there. A panic of it counts as `Collect`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{OnFailure, Pool};
    ///
    /// let server: Pool = Pool::builder().on_cleanup_failure(|_| OnFailure::Discard).build();
    /// ```
    pub fn on_cleanup_failure(mut self, policy: impl Fn(&TaskError) -> OnFailure + Send + Sync + 'static) -> Self {
        self.options.policies_mut().on_cleanup_failure = Some(Box::new(policy));
        self
    }

    /// Says which errors of your own type only report that something has stopped.
    ///
    /// Such an error is no failure once the pool closes. The pool looks into a [`BoxError`] by itself, with all its
    /// sources, and into an `anyhow::Error` with the feature `anyhow`; any other type is opaque to it. If the hook
    /// panics, that counts as `false`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, TaskStopped};
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// enum AppError {
    ///     #[error("the worker has stopped")]
    ///     Worker(#[from] TaskStopped),
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool = Pool::builder()
    ///     .is_cancellation(|error: &AppError| matches!(error, AppError::Worker(_)))
    ///     .build();
    /// let worker = pool.spawn_with_handle(std::future::pending::<Result<(), _>>());
    /// let canceller = pool.clone();
    /// pool.spawn(async move {
    ///     canceller.cancel();
    ///     Ok(worker.await?) // `Cancelled`, which is no failure of this task
    /// });
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    pub fn is_cancellation(mut self, is_cancellation: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.options.policies_mut().is_cancellation = Some(Box::new(is_cancellation));
        self
    }

    /// Decides whether a failed task closes the pool, which is the default.
    ///
    /// The pool calls `policy` in the failing task, before anybody can see that the task has ended. It does not call it
    /// for the body, whose failures always close the pool, nor for a task with a [decision of its
    /// own](crate::TaskBuilder::on_failure). See [to go on after a
    /// failure](crate::docs::errors_and_panics#to-go-on-after-a-failure). If `policy` panics, the failure closes the
    /// pool, and the panic is reported after it.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, OnFailure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder()
    ///     .on_failure(|failed| match failed.failure() {
    ///         Failure::Error(_) => OnFailure::Collect,
    ///         _ => OnFailure::Cancel,
    ///     })
    ///     .build();
    /// for n in 0..3 {
    ///     pool.spawn(async move { if n == 2 { Ok(()) } else { Err("no such host".into()) } });
    /// }
    /// assert_eq!(pool.run().await.unwrap_err().failures().len(), 2);
    /// # }
    /// ```
    pub fn on_failure(mut self, policy: impl Fn(&TaskError<E>) -> OnFailure + Send + Sync + 'static) -> Self {
        self.options.policies_mut().on_failure = Some(Box::new(policy));
        self
    }

    /// Sets how long the pool waits for the tasks that it has aborted. Then it stops waiting, and returns an error that
    /// [names](PoolError::stuck) every task that has not ended. The default is to wait as long as it takes.
    ///
    /// It is for work that cannot be aborted: a blocking closure that never ends, a future that reaches no `.await`.
    /// Such a task runs on, and an enclosing pool waits for it, unless that stops waiting too. This is the one way in
    /// which something outlives its pool. A runtime that is dropped waits for such a closure as well;
    /// [`shutdown_timeout`](tokio::runtime::Runtime::shutdown_timeout) limits that.
    ///
    /// The time counts from the abort, after the [`grace`](Self::grace), and each [depth](crate::TaskBuilder::depth)
    /// has it for itself. A task needs a moment to end after its abort: with a time of zero, most of them would be
    /// named.
    ///
    /// If the future of `open` or `run` was dropped, nobody gets that error. The enclosing pool waits on for these
    /// tasks, and names them itself if it stops waiting in its turn.
    ///
    /// # Panics
    ///
    /// This method does not panic, but the future of such a pool does, when it is first polled, in a runtime without
    /// timers.
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
    /// pool.build_task().name("culprit").spawn_blocking(move || {
    ///     let _ = started.send(());
    ///     let _ = blocked.recv();
    /// });
    /// pool.cancel_on(running); // a closure that has not begun would be dropped
    ///
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.stuck()[0].name(), Some("culprit"));
    /// # drop(release);
    /// # }
    /// ```
    pub fn abandon_after(mut self, wait: Duration) -> Self {
        self.options.abandon_after = Some(wait);
        self
    }

    /// Sets how often a closing pool that waits for tasks warns: with an event of the level `WARN` that names them. The
    /// default is 5 seconds, counted from the first time that it has to wait; zero counts as a millisecond. See
    /// [tracing](crate::docs::tracing).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::builder().name("web").warn_every(Duration::from_secs(30)).build();
    /// assert_eq!(pool.name(), Some("web"));
    /// ```
    #[cfg(feature = "tracing")]
    pub fn warn_every(mut self, interval: Duration) -> Self {
        self.options.warn_every = interval.max(Duration::from_millis(1));
        self
    }

    /// Gives each task of the pool a span: the one that `span` returns for it. See
    /// [the span of a task](crate::docs::tracing#the-span-of-a-task).
    ///
    /// `span` is called when a task is spawned, where it is spawned: so `|_| Span::current()` has the pool's tasks inherit
    /// the span of their spawner. The task's future is polled and dropped in the span, as with `Instrument`, and its
    /// failure is recorded in it. The span closes when the task has ended, before the pool returns.
    ///
    /// Every task of the pool gets a span, and so does a watcher such as that of [`cancel_on`](Pool::cancel_on). The
    /// body, which is polled in place, and a [tracked](Pool::track_future) future get none.
    ///
    /// A task for which `span` panics runs without a span; the panic is a failure of this task, when that has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, TaskInfo};
    /// use tracing::{Span, info_span};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// # let _guard = tracing::subscriber::set_default(tracing_subscriber::registry());
    /// let by_name = |task: &TaskInfo| {
    ///     info_span!("task", name = task.name(), at = %task.spawned_at())
    /// };
    /// let opened = Pool::builder().span(by_name).open(async |pool: Pool| {
    ///     pool.build_task().name("fetch").spawn(async {
    ///         assert_eq!(Span::current().metadata().unwrap().name(), "task");
    ///     });
    ///     Ok(())
    /// });
    /// opened.await
    /// # }
    /// ```
    #[cfg(feature = "tracing")]
    pub fn span(mut self, span: impl Fn(&TaskInfo) -> tracing::Span + Send + Sync + 'static) -> Self {
        self.options.spans = SpanSource::new(span);
        self
    }

    /// Makes a pool that is planned: tasks can be spawned in it, and begin with [`Pool::run`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().name("import").build();
    /// pool.spawn(async {});
    /// assert_eq!(pool.len(), 1);
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn build(self) -> Pool<E> {
        Pool::of(Shared::new(self.options, false))
    }

    /// Opens the pool around a body, as [`Pool::open`] does.
    ///
    /// # Errors
    ///
    /// See [`Pool::open`].
    ///
    /// # Panics
    ///
    /// See [`Pool::open`]. With a [`grace`](Self::grace) or [`abandon_after`](Self::abandon_after), also when first polled
    /// in a runtime without timers.
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe; see [`Pool::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let value = Pool::builder()
    ///     .limit(2)
    ///     .open(async |pool: Pool| {
    ///         (0..10).for_each(|_| pool.spawn(async {}));
    ///         Ok(pool.len())
    ///     })
    ///     .await;
    /// assert_eq!(value.unwrap(), 10);
    /// # }
    /// ```
    #[track_caller]
    pub fn open<T, B, F>(self, body: B) -> impl Future<Output = Result<T, PoolError<E>>>
    where
        B: FnOnce(Pool<E>) -> F,
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError> + Display,
    {
        let pool = Pool::of(Shared::new(self.options, true));
        let state = DriverState::new(Arc::clone(&pool.shared), "Pool::open");
        Drive { body: Body::new(Then::new(std::future::ready(()), move || body(pool))), state }
    }
}

impl<E> fmt::Debug for PoolBuilder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { name, grace, keep_open, limit, abandon_after, .. } = &self.options;
        let has_on_failure = self.options.policies().is_some_and(|policies| policies.on_failure.is_some());
        f.debug_struct("PoolBuilder")
            .field("name", name)
            .field("grace", grace)
            .field("keep_open", keep_open)
            .field("limit", &limit.as_ref().map(|limit| limit.tasks))
            .field("abandon_after", abandon_after)
            .field("has_on_failure", &has_on_failure)
            .finish()
    }
}
