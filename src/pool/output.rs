//! What a task of a pool may return.
//!
//! A trait says so, and not a bound on `Into`, for the sake of inference: with one `impl` for a `Result`, an async
//! block that ends with `Ok(())` or with an error that has to be converted has the pool's error type, and needs no
//! annotation. It is also what tells the pool of a task's end if nobody else wants to know, in [`NoHandle`].

use std::convert::Infallible;
use std::sync::Arc;

use super::handle_inner::HandleInner;
use crate::error::TaskStopped;

/// What a task of a `Pool<E>` may return: `()`, `!`, [`Infallible`], or `Result<(), E>`.
///
/// There is no other `Result` among them, and that is what lets the compiler infer the error type of an async block.
/// This trait is sealed.
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
/// # async fn main() {
/// let outcome: Result<(), aiodrive::PoolError> = Pool::open(async |pool| {
///     pool.spawn(async {});
///     pool.spawn(async {
///         job().await?;
///         Ok(())
///     });
///     Ok(())
/// })
/// .await;
/// outcome.unwrap();
/// # }
/// ```
///
/// A value has nowhere to go:
///
/// ```compile_fail,E0277
/// let pool: aiodrive::Pool = aiodrive::Pool::new();
/// pool.spawn(async { 42 });
/// ```
#[diagnostic::on_unimplemented(
    message = "a task of a `Pool<{E}>` cannot return `{Self}`",
    label = "returns `{Self}`",
    note = "a task returns `()`, `!` or `Result<(), {E}>`; to get a value out of it, use `spawn_with_handle`",
    note = "if it returns a `Result` with another error or with a value, wrap it: `async {{ task.await?; Ok(()) }}`"
)]
pub trait TaskOutput<E>: sealed::Sealed<E> {}

impl<E> TaskOutput<E> for () {}
#[doc(hidden)]
impl<E> TaskOutput<E> for Never {}
impl<E> TaskOutput<E> for Infallible {}
impl<E> TaskOutput<E> for Result<(), E> {}

mod sealed {
    /// Not part of the interface.
    pub trait Sealed<E> {
        /// Whether the task has failed.
        fn into_result(self) -> Result<(), E>;
    }

    /// What a function pointer returns.
    pub trait Returns {
        /// `!`, for `fn() -> !`.
        type Type;
    }
}

impl<E> sealed::Sealed<E> for () {
    fn into_result(self) -> Result<(), E> {
        Ok(self)
    }
}

impl<E> sealed::Sealed<E> for Never {
    fn into_result(self) -> Result<(), E> {
        self
    }
}

impl<E> sealed::Sealed<E> for Infallible {
    fn into_result(self) -> Result<(), E> {
        match self {}
    }
}

impl<E> sealed::Sealed<E> for Result<(), E> {
    fn into_result(self) -> Result<(), E> {
        self
    }
}

/// `!`, which stable Rust can name only as what a function pointer returns.
type Never = <fn() -> ! as sealed::Returns>::Type;

impl<T> sealed::Returns for fn() -> T {
    type Type = T;
}

/// Who, besides the pool, wants to know how a task ends.
pub(super) trait OutputSink<O, E>: Send + 'static {
    /// The task is about to be polled, or to be dropped.
    fn before_poll(&mut self) {}

    /// The poll is over, and the task is not.
    fn after_poll(&mut self) {}

    /// Takes the output: keeps a value, gives an error on to the pool.
    fn accept(&mut self, output: O) -> Result<(), E>;

    /// Drops a value that nobody will get, since the task has failed after it was there.
    fn discard(&mut self) {}

    /// The task has ended, and a failure of it has been recorded.
    fn complete(self, how: Result<(), TaskStopped>);

    /// What the sink aborts the task by, if it can.
    fn handle(&self) -> Option<&Arc<HandleInner>> {
        None
    }
}

/// Nobody but the pool.
pub(super) struct NoHandle;

impl<O: TaskOutput<E>, E> OutputSink<O, E> for NoHandle {
    fn accept(&mut self, output: O) -> Result<(), E> {
        output.into_result()
    }

    fn complete(self, _: Result<(), TaskStopped>) {}
}
