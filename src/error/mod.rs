//! Every public error: what a task, a pool and the functions can report, and how it reads.
//!
//! A task that fails leaves a [`Failure`]: an error, or a panic as a [`PanicPayload`]. With the [`TaskInfo`] of the
//! task it is a [`TaskError`], and all of those together are a [`PoolError`], which knows the [`ClosingReason`] of its
//! pool. [`ExitError`] is what a call of `with_exit` returns. [`TaskStopped`] marks a failure that the pool has, and
//! [`SpawnError`] gives a refused future back.
//!
//! The types are here and in [`task_error`], [`pool_error`], [`closing_reason`] and [`stopped`]. How they hang together,
//! whatever the type of the error in them, is in [`chain`], which also recognises an error that says only that something
//! was stopped. [`text`] has all texts.

mod chain;
mod closing_reason;
mod pool_error;
mod stopped;
mod task_error;
mod text;

use std::error::Error;

pub use self::closing_reason::{CancelReason, ClosingReason, ParentReason};
pub use self::pool_error::PoolError;
pub use self::stopped::{SpawnError, TaskStopped};
pub use self::task_error::{Failure, PanicPayload, TaskError, TaskInfo};

pub(crate) use self::chain::cancellation;
pub(crate) use self::pool_error::{Failures, Report};
pub(crate) use self::stopped::{CancelledError, IsCancellation};
pub(crate) use self::task_error::{catch, resume};

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

/// What failed in [`with_exit`](crate::with_exit()): the body, the exit handler, or both.
///
/// An error of the body reads as if it had been returned without a `with_exit` around it, and only what the handler
/// adds is named: so the text stays short if several are nested. `{:#}` is the report, with the causes, and has the two
/// on a line each. So does `{:?}`; `{:#?}` shows the structure.
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
/// assert_eq!(error.to_string(), "query failed; exit handler failed: logout failed");
/// # }
/// ```
pub enum ExitError<E> {
    /// Only the body failed.
    Body(E),
    /// Only the exit handler failed.
    Exit(E),
    /// Both failed.
    Both {
        /// What the body returned.
        body: E,
        /// What the exit handler returned.
        exit: E,
    },
}
