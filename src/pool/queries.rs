//! A pool from outside: what users can ask of it, from anywhere and at any time; and the pool as an [`ErasedPool`], by
//! which scopes and trees look at it, report to it and abort it without knowing its error type.

use std::any::{Any, type_name};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use tokio_util::sync::CancellationToken;

use super::options::{OnFailure, Policies};
use super::shared::{Phase, Shared};
use super::{Pool, PoolTree};
use crate::error::{ClosingReason, TaskError, TaskInfo, catch};
use crate::scope::{ErasedPool, NodeState, Snapshot, TaskClass, TaskSnapshot};

/// To look at the pool.
impl<E: Send + 'static> Pool<E> {
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
        self.shared.options.name.as_deref()
    }

    /// Whether the pool has begun to close, or has closed.
    ///
    /// From then on it accepts tasks only while the [`grace`](super::PoolBuilder::grace) lasts, and at depths that are
    /// not closing yet. [`try_spawn`](Self::try_spawn) gives a task back that the pool refuses.
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

    /// Why the pool closes, or has closed; `None` while it does not.
    ///
    /// A task can read it in its grace, for example to tell a deployment from a failure.
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
    ///     let pool: Pool = Pool::current();
    ///     assert_eq!(pool.closing_reason(), Some(ClosingReason::Failed));
    /// });
    /// pool.spawn(async { Err("disk full".into()) });
    /// assert_eq!(pool.run().await.unwrap_err().failures().len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn closing_reason(&self) -> Option<ClosingReason> {
        self.shared.reason.get().cloned()
    }

    /// How many tasks the pool has: planned, waiting for their turn, or running.
    ///
    /// Daemons count. The body does not, nor does anything nested in the tasks.
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

    /// Waits until no task is left but daemons, or the pool has closed. Queued and
    /// [tracked](Self::track_future) tasks count, and so do planned ones; the body does not.
    ///
    /// That holds at the poll at which this is ready; a task may be spawned right after. Do not await it in a task of
    /// the pool that is no daemon, which would wait for itself.
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
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     for batch in 0..3 {
    ///         for job in 0..10 {
    ///             pool.spawn(async move { println!("{batch}.{job}") });
    ///         }
    ///         pool.idle().await; // one batch after the other
    ///     }
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub async fn idle(&self) {
        self.shared.wait_idle().await;
    }

    /// The tasks that the pool aborted in their [grace](crate::PoolBuilder::grace), or at its end, in the order in which
    /// their depths were closed. If an [`abort`](Self::abort), such as that of a second signal, ends the grace, the tasks
    /// of lower depths are listed too: they had none. With them are the tasks of nested pools without their own grace. For
    /// a function such as `try_all`, the list has the task that waits for it, and not its branches.
    ///
    /// An overrun is no failure: [`run`](Self::run) returns `Ok` all the same. The list is empty for a pool without a
    /// grace, and for one that was aborted before anything else closed it. With the feature `tracing`, a `WARN` event
    /// has the same tasks. The list is kept until the last handle of the pool is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(1)).build();
    /// pool.build_task().name("upload").spawn(std::future::pending::<()>());
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    /// pool.clone().run().await.unwrap();
    /// assert_eq!(pool.overrun()[0].name(), Some("upload"));
    /// # }
    /// ```
    #[must_use]
    pub fn overrun(&self) -> Vec<TaskInfo> {
        self.shared.lock().overrun.clone()
    }

    /// Who is alive in the pool, at any level: tasks, with the line that spawned each, nested pools, and the functions
    /// that run tasks of their own. It answers the question which task keeps a service from stopping.
    ///
    /// It can be called at any time and from anywhere: in a task, in a destructor, from another thread, on a pool that
    /// was not run yet or has ended. It waits for no task, and runs no user code under a lock. Its cost is linear in
    /// what is alive.
    ///
    /// A nested pool is listed under the task in which it was first polled, or directly under the outer pool if that
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
        let pool: Arc<dyn ErasedPool> = self.shared.clone();
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
    ///     let nested = Pool::builder().name("request");
    ///     let nested = nested.open(async |pool: Pool| Ok(pool.root_tree()));
    ///     let tree = nested.await?;
    ///     assert_eq!(tree.root().name(), Some("service"));
    ///     assert_eq!(tree.origin().name(), Some("request"));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn root_tree(&self) -> PoolTree {
        let pool: Arc<dyn ErasedPool> = self.shared.clone();
        PoolTree::new(self.shared.outermost().unwrap_or_else(|| Arc::clone(&pool)), &pool)
    }
}

// ===== the pool without its error type =====

impl<E: Send + 'static> ErasedPool for Shared<E> {
    fn report(&self, mut failure: TaskError) -> Option<TaskError> {
        // Nothing that panics here is a failure of its own: the policy, as its documentation says, the destructor of a
        // failure that is discarded, and a waker as the pool closes.
        let policy = |policies: Option<&Policies<E>>| Some(policies?.on_cleanup_failure.as_ref()?(&failure));
        let asked = self.ask(|policies| catch(|| policy(policies)).ok().flatten());
        let decision = asked.unwrap_or(OnFailure::Collect);
        self.trace.cleanup_failed(&mut failure, decision);
        if decision == OnFailure::Discard {
            drop(catch(|| drop(failure)));
            return None;
        }
        let refused = self.lock().failures.get_or_insert_default().push_cleanup(failure);
        if refused.is_none() && decision == OnFailure::Cancel {
            drop(catch(|| self.close(ClosingReason::Failed)));
        }
        refused
    }

    fn has_time(&self) -> bool {
        match self.options.grace {
            Some(grace) => !grace.is_zero(),
            None => self.lock().has_outer_time,
        }
    }

    fn abort(&self) {
        self.aborted_around.store(true, Ordering::Release);
        // Under the lock: a clone would hold the enclosing scope.
        let around = self.lock().enclosing.as_ref().and_then(|scope| scope.pool_reason());
        drop(catch(|| self.abort_for(ClosingReason::parent_closing(around.as_ref()))));
    }

    fn closing_reason(&self) -> Option<ClosingReason> {
        self.reason.get().cloned()
    }

    fn is_over(&self) -> bool {
        let inner = self.lock();
        inner.phase == Phase::Closed && !inner.depths.has_stuck()
    }

    fn child_ended(&self) {
        if self.is_closed() {
            self.look_again(self.lock());
        }
    }

    fn token(&self, depth: i32, for_task: bool) -> CancellationToken {
        let (token, cancelled) = match self.lock().depths.get_mut(depth) {
            Some(depth) => (depth.token(for_task), depth.is_cancelled()),
            // It has closed.
            None => (CancellationToken::new(), true),
        };
        if cancelled {
            token.cancel();
        }
        token
    }

    /// Invariant 5.
    fn on_empty(&self, class: TaskClass) {
        let mut inner = self.lock();
        let unused = inner.depths.scope_ended(class);
        let driver = inner.driver.take();
        drop(inner);
        drop(unused);
        self.report_waker(catch(|| driver.into_iter().for_each(Waker::wake)).err());
    }

    fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let mut snapshot = Snapshot {
            name: self.options.name.clone(),
            reason: self.reason.get().cloned(),
            handed_over: inner.handed_over,
            has_grace: self.options.grace.is_some(),
            body: self.has_body.load(Ordering::Acquire).then(|| inner.body_info()),
            ..Snapshot::new(inner.phase.into())
        };
        snapshot.tasks.extend(inner.plans.iter().filter(|plan| plan.is_alive()).map(|plan| TaskSnapshot {
            info: plan.info().clone(),
            class: plan.class(),
            key: None,
            state: NodeState::Planned,
            limit: None,
        }));
        inner.depths.snapshot(&mut snapshot);
        let limit = self.options.limit.as_ref().map(|limit| limit.tasks);
        let queued = snapshot.tasks.iter_mut().filter(|task| task.state == NodeState::Queued);
        queued.for_each(|task| task.limit = limit);
        snapshot
    }

    fn error_type(&self) -> &'static str {
        type_name::<E>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
