//! The pool: an owner for tasks.
//!
//! | what happens | what becomes of the siblings and the body | which test of `tests/it` shows it |
//! | --- | --- | --- |
//! | a task returns `Err` | aborted, joined; all failures are returned | `closing::an_error_of_a_task_stops_the_body_and_the_siblings` |
//! | a task panics | aborted, joined; the panic is among the failures | `closing::a_panic_of_a_task_stops_the_body_and_the_siblings` |
//! | the body returns `Err` | aborted, joined; its error is among the failures | `closing::an_error_of_the_body_aborts_the_tasks` |
//! | the body panics | aborted, joined; then the panic is resumed | `closing::a_panic_of_the_body_is_resumed_when_all_tasks_have_ended` |
//! | `cancel` | aborted, joined; no failure | `closing::a_task_may_cancel_its_pool` |
//! | any of these, with a grace | cancelled first, aborted when the grace is over | `grace::tasks_and_body_are_asked_at_once_and_cut_off_when_the_grace_is_over` |
//! | any of these, with depths | one depth after the other, from the highest | `depths::the_order_does_not_depend_on_the_cause` |
//! | the future of `open` or `run` is dropped | the body is dropped; the runtime carries the closing on, and the enclosing pool waits | `nesting::nothing_is_left_after_a_nested_open_was_dropped_halfway` |
//! | a destructor panics | that is a failure like any other | `handles::a_destructor_that_panics_in_a_cancelled_task_is_a_failure` |
//!
//! # The parts
//!
//! A [`Pool`] is a handle to what is [`shared`]: the head of that file has the invariants of its lock, and of the
//! few atomics beside it. How a pool is made, opened, run, and found from inside is in [`open`]; its other methods are in
//! [`spawn`], [`cancel`] and [`queries`], its settings in [`builder`] and [`options`]. What happens in it [`trace`] tells
//! `tracing`.
//!
//! The way of a future: [`task_builder`] makes a [`task`] of it; [`admission`] finds its place, at a [depth](depths) and
//! under the limit, and spawns it into a `JoinSet` of those [`tasks`]; there tokio polls it. The way of an error: the
//! task makes a `TaskError` of it, [`policy`] records that and begins to close the pool, and the [`driver`] returns it.
//!
//! The driver polls the body in place, and then beside it [`closing`], which reads: signal, grace, abort, join. A
//! driver that is dropped hands that on to the runtime. [`handle`] and [`start`] give values back, and a [`tree`] shows
//! a pool from outside.
//!
//! # Panics
//!
//! A panic of a task is caught, recorded and returned, as an error is: it can be a bug of one request of many, and a
//! payload that unwinds through the pool could take only one of several failures along. A panic of the *body* is
//! resumed, once everything has been joined: the body is the caller's own code, and its caller expects to unwind.

// The methods of `Pool`, in the order in which its page shows them.
mod open;

mod spawn;

mod cancel;

mod queries;

mod admission;
mod builder;
mod closing;
mod depths;
mod driver;
mod handle;
mod options;
mod policy;
mod shared;
mod start;
mod task;
mod task_builder;
mod tasks;
mod trace;
mod tree;

use std::fmt;
use std::sync::Arc;

use self::shared::Shared;
use crate::error::BoxError;

pub use self::builder::PoolBuilder;
pub use self::handle::{TaskHandle, TaskOutput};
pub use self::options::OnFailure;
pub use self::start::{StartFuture, Started};
pub use self::task_builder::TaskBuilder;
pub use self::tree::{NodeKind, PoolTree, TreeNode};

/// Owns the tasks that are spawned in it: runs them, aborts the others at the first failure, joins them all, and
/// returns every error.
///
/// A pool is opened around a body with [`open`](Self::open), or built first and [`run`](Self::run) later. Either way:
///
/// - **Nothing outlives its pool.** When `open` or `run` returns, every task spawned in the pool has ended and its
///   future has been dropped. So has everything nested in it, at any depth: the tasks of nested pools, and those that
///   [`race`](crate::race()), [`try_all`](crate::try_all()), [`wait_all`](crate::wait_all()),
///   [`shield`](crate::shield()), [`with_exit`](crate::with_exit()), [`TaskGroup`](crate::TaskGroup) and
///   [`map`](crate::map()) have spawned, even if their owner was aborted or dropped halfway.
/// - **Nothing is lost.** Every error and every panic of every task is in the returned [`PoolError`](crate::PoolError),
///   with the task's name, the line that spawned it and, for a panic, its payload; unless a
///   [policy](PoolBuilder::on_failure) discards it. A panic of the body is resumed.
///
/// `Pool` itself is a handle, cheap to clone and to send. Tasks spawn further tasks with it, from any thread. A handle
/// does not hold the pool open, unless the pool is [kept open](PoolBuilder::keep_open). Inside a task,
/// [`Pool::current`] gets one.
///
/// # How a pool closes
///
/// A pool begins to close when its body has returned and no task is left but [daemons](TaskBuilder::daemon); when a
/// task or the body fails; when it is [cancelled](Self::cancel) or [aborted](Self::abort), or the task around it is; or
/// when the future of `open` or `run` is dropped. There are four steps:
///
/// 1. **Signal.** The pool cancels the [`cancellation_token`](crate::cancellation_token()) of its tasks. Nested pools
///    begin to close.
/// 2. **Grace.** For as long as the [`grace`](PoolBuilder::grace) lasts, the tasks and the body can end by themselves,
///    and can still spawn. Without a grace, which is the default, this step is skipped.
/// 3. **Abort.** The pool aborts what is left: each future is dropped at the `.await` where it waits. From here on the
///    pool refuses tasks.
/// 4. **Join.** The pool waits until every task has ended, with everything nested in it.
///
/// With several [depths](TaskBuilder::depth), each goes through all four steps before the next one begins, from the
/// highest to the lowest, also after a failure or an abort; until then the lower ones run on. The chapter [how a pool
/// closes](crate::docs::how_a_pool_closes) has the table of causes, what each makes `open` and `run` return, and how
/// the graces of nested pools relate.
///
/// A task that reaches no `.await`, and a blocking closure that has begun, cannot be aborted. The pool waits for them,
/// unless [`abandon_after`](PoolBuilder::abandon_after) limits that.
///
/// Being cancelled is no failure. What a task returns from the poll during which the abort comes still counts; it is
/// not polled again. If a task returns an error that only says it was cancelled (the `PoolError` of a cancelled nested
/// pool, a `TaskStopped`, or the `TaskError` of an aborted task) while the pool closes, that is not counted as a
/// failure. See [errors and panics](crate::docs::errors_and_panics#what-is-no-failure).
///
/// Rust has no async destructors. Dropping the *outermost* `open` or `run` therefore cannot wait: the pool begins to
/// close, and the runtime carries the closing on.
///
/// # Comparison with `JoinSet`
///
/// If you want each result as it comes, a [`TaskGroup`](crate::TaskGroup) is a [`JoinSet`](tokio::task::JoinSet) that
/// keeps the promises above. Unlike a `JoinSet`, a pool
///
/// 1. ends by itself when all its tasks have ended, and cannot be forgotten: the tasks live inside a call;
/// 2. takes tasks from other tasks, and from any thread, and needs no lock around it;
/// 3. returns *all* failures, and knows which task each is from;
/// 4. waits for everything nested in it. `JoinSet::shutdown` returns when its own tasks have ended, while the tasks of
///    a set that one of *them* owned may still be running.
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
///     let spawn = |n| pool.spawn_with_handle(async move { Ok(fetch(n).await?) });
///     let pages: Vec<_> = (1..=3).map(spawn).collect();
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
/// // task "lookup" (src/main.rs:6:42) failed: no such host
/// let text = outcome.unwrap_err().to_string();
/// assert!(text.starts_with(r#"task "lookup" ("#));
/// assert!(text.ends_with(") failed: no such host"));
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

impl<E> Pool<E> {
    /// Another handle.
    fn of(shared: Arc<Shared<E>>) -> Self {
        shared.handle_made();
        Self { shared }
    }
}

impl<E> Drop for Pool<E> {
    /// A pool that is kept open ends when nothing can come any more.
    fn drop(&mut self) {
        self.shared.handle_dropped();
    }
}

impl<E: Send + 'static> Default for Pool<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Clone for Pool<E> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.shared))
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
