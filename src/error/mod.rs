//! Every public error: what a task, a pool and the functions can report, and how it reads.
//!
//! A task that fails leaves a [`Failure`]: an error, or a panic as a [`PanicPayload`]. With the [`TaskInfo`] of the
//! task it is a [`TaskError`], and all of those together are a [`PoolError`], which knows the [`ClosingReason`] of its
//! pool. [`ExitError`] is what a call of `with_exit` returns. [`TaskStopped`] marks a failure that the pool has, and
//! [`SpawnError`] gives a refused future back.
//!
//! Each of these files has the values. How they hang together, whatever the types, is in [`chain`]. Above that stand
//! [`stopped`], which knows an error that says only that something was stopped, `told`, which knows one that `tracing` has
//! been told of, and [`text`], which has all texts.

mod box_error;
mod chain;
mod closing_reason;
mod dispose;
mod exit_error;
mod failure;
mod panic_payload;
mod pool_error;
mod stopped;
mod task_error;
mod task_info;
mod text;
#[cfg(feature = "tracing")]
mod told;

pub use self::box_error::BoxError;
pub use self::closing_reason::{CancelReason, ClosingReason, ParentReason};
pub use self::exit_error::ExitError;
pub use self::failure::Failure;
pub use self::panic_payload::PanicPayload;
pub use self::pool_error::PoolError;
pub use self::stopped::{SpawnError, TaskStopped};
pub use self::task_error::TaskError;
pub use self::task_info::TaskInfo;

pub(crate) use self::panic_payload::catch;
pub(crate) use self::pool_error::Report;
pub(crate) use self::stopped::{CancelledError, IsCancellation, cancellation};
