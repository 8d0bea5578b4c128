//! Chapters on what goes beyond a single item.
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
//! | tasks of a request, a test, `main` | [`Pool::open`] |
//! | tasks before there is a runtime | [`Pool::new`] and [`run`] |
//! | a pool with settings | [`Pool::builder`]: [`grace`], [`limit`], [`on_failure`], [`keep_open`], [`abandon_after`] |
//! | a task, or one with a value | [`spawn`], [`spawn_with_handle`], [`spawn_blocking`] |
//! | a task with settings | [`build_task`]: [`name`], [`depth`], [`daemon`], [`essential`], [`no_grace`], [`unlimited`] |
//! | a task that says when it is ready | [`start`] |
//! | a future that a framework polls | [`track_future`] |
//! | stopping, with a grace | [`cancel`], [`cancel_on`], [`cancel_at`], `cancel_on_signals` |
//! | stopping at once | [`abort`], [`abort_on`] |
//! | a task that listens for the stop | [`cancellation_token`] |
//! | back-pressure, the end of a batch | [`ready`], [`idle`] |
//! | what still runs, what overran | [`tree`], [`overrun`] |
//! | the first of several futures | [`race`] |
//! | all values, or all errors | [`try_all`] |
//! | the outcome of each | [`wait_all`] |
//! | results as they complete | [`TaskGroup`] |
//! | items, at most so many at a time | [`map`] |
//! | a time limit that leaks nothing | [`timeout`], [`timeout_at`] |
//! | work that no abort cuts short | [`shield`] |
//! | a resource whose release waits | [`with_exit`] |
//! | a future that begins now | [`prime`] |
//! | the end of a bare tokio task | [`cancel_task`] |
//! | a flag to wait for, set or unset | [`LatchEvent`] |
//!
//! # What each waits for
//!
//! Each of these returns only when everything nested in it has ended, at any depth. If its future is dropped, the
//! enclosing pool waits for that instead.
//!
//! | | waits for | if dropped |
//! | --- | --- | --- |
//! | [`Pool`] | all tasks | closes |
//! | [`try_all`] | all branches | aborts all |
//! | [`wait_all`] | all branches | aborts all |
//! | [`race`] | first branch | aborts all |
//! | [`timeout`] | future or limit | drops it |
//! | [`shield`] | the future | lets it run |
//! | [`with_exit`] | body, handler | runs handler |
//! | [`TaskGroup`] | all children | aborts all |
//! | [`map`] | all begun items | aborts all |
//!
//! On an error or a panic:
//!
//! - [`Pool`], [`try_all`] and the [`collect`] of a `map` abort the others, and return all errors and panics.
//! - [`wait_all`], [`TaskGroup`] and [`map`] go on: the error or the panic is one of their results.
//! - [`race`] ends with the branch that is first, whether that returns or panics. An `Err` can win; a panic is resumed.
//! - [`timeout`] and [`shield`] return the error, and resume the panic.
//! - [`with_exit`] runs the handler. Then it returns the errors of the body and of the handler, or resumes the panic.
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
//! However a scope ends (it returns, fails, is aborted or is dropped), the scopes inside it end first.
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
//! [`collect`]: crate::Map::collect
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
