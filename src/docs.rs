//! Chapters: what does not fit into the documentation of one item.
//!
//! In this order they are a book:
//!
//! 1. [How a pool closes](how_a_pool_closes): what begins it, the steps, how time nests, and what the caller gets.
//! 2. [Cancellation](cancellation): the signal, the grace and the abort, and what a task does about each.
//! 3. [Errors and panics](errors_and_panics): where each failure goes, how to get at it, and how it reads.
//! 4. [Recipes](recipes): programs to copy, from an accept loop to a hedged request.
//! 5. [Migrating](migrating): from `JoinSet`, `TaskTracker` and `tokio-graceful-shutdown`, and from other languages.
//! 6. [Tracing](tracing): the events of a pool, the spans of its tasks, and what tokio-console shows of them.
//! 7. [Speed](speed): what all this costs beside bare tokio, and how to measure it.
//!
//! # At a glance
//!
//! | for | use |
//! | --- | --- |
//! | tasks of a piece of code: a request, a test, `main` | [`Pool::open`] |
//! | tasks that are spawned before there is a runtime | [`Pool::new`] and [`run`] |
//! | a pool with settings | [`Pool::builder`]: [`grace`], [`limit`], [`on_failure`], [`keep_open`], [`abandon_after`] |
//! | a task, or one with a value | [`spawn`], [`spawn_with_handle`], [`spawn_blocking`] |
//! | a task with settings | [`build_task`]: [`name`], [`depth`], [`daemon`], [`essential`], [`no_grace`], [`unlimited`] |
//! | a task that others wait for until it is ready | [`start`] |
//! | a future that a framework polls | [`track_future`] |
//! | stopping, with the time that the grace gives | [`cancel`], [`cancel_on`], [`cancel_at`], `cancel_on_signals` |
//! | stopping at once | [`abort`], [`abort_on`] |
//! | a task that wants to know that it should stop | [`cancellation_token`] |
//! | back-pressure, and the end of a batch | [`ready`], [`idle`] |
//! | what is still running, and what overran its grace | [`tree`], [`overrun`] |
//! | the first of several futures | [`race`] |
//! | all values, or all errors | [`try_all`] |
//! | the outcome of each | [`wait_all`] |
//! | a time limit that leaves nothing running | [`timeout`], [`timeout_at`] |
//! | work that must not be cut in half | [`shield`] |
//! | a resource that is given back asynchronously | [`with_exit`] |
//! | a future that begins now and is awaited later | [`prime`] |
//! | the end of a bare tokio task | [`cancel_task`] |
//! | a flag to wait on in both directions | [`LatchEvent`] |
//!
//! For results as they come:
//!
//! | for | use |
//! | --- | --- |
//! | children whose results come as they complete | [`TaskGroup`] |
//! | items, at most so many at a time, in order or not | [`map`] |
//!
//! # What each waits for
//!
//! Each of these returns only when everything nested in it has ended, at any depth. If its future is dropped, the
//! enclosing pool waits for that instead.
//!
//! | | waits for | when dropped |
//! | --- | --- | --- |
//! | [`Pool`] | all tasks | closes, within its grace |
//! | [`try_all`] | all branches | aborts all |
//! | [`wait_all`] | all branches | aborts all |
//! | [`race`] | the first branch | aborts all |
//! | [`timeout`] | the future, or the limit | drops the future |
//! | [`shield`] | the future | the future runs on |
//! | [`with_exit`] | the body, then the handler | runs the handler |
//! | [`TaskGroup`] | all children | aborts all |
//! | [`map`] | all items that were begun | aborts all |
//!
//! | | on an error | on a panic |
//! | --- | --- | --- |
//! | [`Pool`] | aborts the others, returns all errors | returns it with the errors |
//! | [`try_all`] | aborts the others, returns all errors | returns it with the errors |
//! | [`wait_all`] | goes on; the error is an outcome | goes on; the panic is an outcome |
//! | [`race`] | an error can win | the winner's panic is resumed |
//! | [`timeout`] | returns it | resumes it |
//! | [`shield`] | returns it | resumes it |
//! | [`with_exit`] | returns one error, or both | resumes it after the handler |
//! | [`TaskGroup`] | goes on; the error is an item | goes on; the panic is an item |
//! | [`map`] | `collect` aborts the others, returns all errors | returns it with the errors |
//!
//! # A scope
//!
//! A pool and each of these functions opens a *scope*. Scopes nest as calls do, and each is left only when it is empty:
//!
//! ```text
//! main
//! └─ Pool::open "web"            returns last
//!    ├─ task "accept"
//!    ├─ task "conn 1"
//!    │  └─ timeout of 5 s        returns when the pool in it is closed
//!    │     └─ Pool::open         returns when its tasks have ended
//!    │        ├─ task
//!    │        └─ task
//!    └─ task "conn 2"
//! ```
//!
//! Whatever ends a scope, its own return, an error, an abort or a drop, the scopes inside it end first.
//!
//! [`abandon_after`]: crate::PoolBuilder::abandon_after
//! [`abort`]: crate::Pool::abort
//! [`abort_on`]: crate::Pool::abort_on
//! [`build_task`]: crate::Pool::build_task
//! [`cancel`]: crate::Pool::cancel
//! [`cancel_at`]: crate::Pool::cancel_at
//! [`cancel_on`]: crate::Pool::cancel_on
//! [`cancel_task`]: crate::cancel_task()
//! [`cancellation_token`]: crate::cancellation_token()
//! [`daemon`]: crate::TaskBuilder::daemon
//! [`depth`]: crate::TaskBuilder::depth
//! [`essential`]: crate::TaskBuilder::essential
//! [`grace`]: crate::PoolBuilder::grace
//! [`idle`]: crate::Pool::idle
//! [`keep_open`]: crate::PoolBuilder::keep_open
//! [`LatchEvent`]: crate::LatchEvent
//! [`limit`]: crate::PoolBuilder::limit
//! [`map`]: crate::map()
//! [`name`]: crate::TaskBuilder::name
//! [`no_grace`]: crate::TaskBuilder::no_grace
//! [`on_failure`]: crate::PoolBuilder::on_failure
//! [`overrun`]: crate::Pool::overrun
//! [`Pool`]: crate::Pool
//! [`Pool::builder`]: crate::Pool::builder
//! [`Pool::new`]: crate::Pool::new
//! [`Pool::open`]: crate::Pool::open
//! [`prime`]: crate::prime()
//! [`race`]: crate::race()
//! [`ready`]: crate::Pool::ready
//! [`run`]: crate::Pool::run
//! [`shield`]: crate::shield()
//! [`spawn`]: crate::Pool::spawn
//! [`spawn_blocking`]: crate::Pool::spawn_blocking
//! [`spawn_with_handle`]: crate::Pool::spawn_with_handle
//! [`start`]: crate::Pool::start
//! [`TaskGroup`]: crate::TaskGroup
//! [`timeout`]: crate::timeout()
//! [`timeout_at`]: crate::timeout_at()
//! [`track_future`]: crate::Pool::track_future
//! [`tree`]: crate::Pool::tree
//! [`try_all`]: crate::try_all()
//! [`unlimited`]: crate::TaskBuilder::unlimited
//! [`wait_all`]: crate::wait_all()
//! [`with_exit`]: crate::with_exit()

#[doc = include_str!("docs/how_a_pool_closes.md")]
pub mod how_a_pool_closes {}

#[doc = include_str!("docs/cancellation.md")]
pub mod cancellation {}

#[doc = include_str!("docs/errors_and_panics.md")]
pub mod errors_and_panics {}

#[doc = include_str!("docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("docs/migrating.md")]
pub mod migrating {}

#[doc = include_str!("docs/tracing.md")]
pub mod tracing {}

#[doc = include_str!("docs/speed.md")]
pub mod speed {}
