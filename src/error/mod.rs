//! Every public error: what a task, a pool and the functions can report, and how it reads.
//!
//! A task that fails leaves a [`Failure`]: an error, or a panic as a [`PanicPayload`]. With the [`TaskInfo`] of the
//! task it is a [`TaskError`], and all of those together are a [`PoolError`]. The others say only that something has
//! happened: [`TaskStopped`] marks a failure that the pool has, [`SpawnError`] gives a refused future back, and
//! [`ExitError`] is what a call of `with_exit` returns.
//!
//! How they read is written with each of them; what the texts have in common is in [`text`]. Errors that would report
//! the same thing twice are told apart in [`echo`].

mod box_error;
mod echo;
mod exit_error;
mod failure;
mod panic_payload;
mod pool_error;
mod spawn_error;
mod task_error;
mod task_info;
mod task_stopped;
mod text;

pub use self::box_error::BoxError;
pub use self::exit_error::ExitError;
pub use self::failure::Failure;
pub use self::panic_payload::PanicPayload;
pub use self::pool_error::PoolError;
pub use self::spawn_error::SpawnError;
pub use self::task_error::TaskError;
pub use self::task_info::TaskInfo;
pub use self::task_stopped::TaskStopped;

pub(crate) use self::echo::is_cancellation;
pub(crate) use self::panic_payload::catch;
pub(crate) use self::pool_error::Report;
