//! What a task of a pool may return.
//!
//! A trait says so, and not a bound on `Into`, for the sake of inference: with one `impl` for a `Result`, an async
//! block that ends with `Ok(())` or with an error that has to be converted has the pool's error type, and needs no
//! annotation. It is also what tells the pool of a task's end if nobody else wants to know, in [`NoHandle`].

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::gate::Slot;
use super::task::OutputSink;
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

/// Nobody but the pool wants to know.
pub(super) struct NoHandle;

impl<O: TaskOutput<E>, E> OutputSink<O, E> for NoHandle {
    fn output(&mut self, output: O) -> Result<(), E> {
        output.into_result()
    }

    fn ended(self, _: Result<(), TaskStopped>) {}
}

/// The same, for a task that cannot leave its thread. It holds its slot itself until its end has been recorded, if it
/// needs one and has got it.
pub(super) struct LocalSink(Arc<Local>);

/// What is known of such a task where it is spawned, and in it.
#[derive(Default)]
pub(super) struct Local {
    /// Given back when the task has dropped it.
    slot: OnceLock<Slot>,
    /// Tells a task that was refused from one that is dropped while its thread unwinds.
    spawned: AtomicBool,
}

impl Local {
    /// It was spawned, and not refused.
    pub(super) fn spawned(&self) {
        self.spawned.store(true, Ordering::Relaxed);
    }

    /// Keeps its slot.
    pub(super) fn keep(&self, slot: Slot) {
        drop(self.slot.set(slot));
    }
}

impl LocalSink {
    /// For a task that was not spawned yet.
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The task's side.
    pub(super) fn local(&self) -> Arc<Local> {
        Arc::clone(&self.0)
    }
}

impl<O: TaskOutput<E>, E: 'static> OutputSink<O, E> for LocalSink {
    const COUNTED: bool = false;

    fn output(&mut self, output: O) -> Result<(), E> {
        output.into_result()
    }

    fn ended(self, _: Result<(), TaskStopped>) {
        // The future, which had the slot as well, is gone: it goes free here.
        drop(self.0);
    }

    /// Outside of a `LocalSet`, tokio panics and drops the task.
    fn is_refused(&self) -> bool {
        !self.0.spawned.load(Ordering::Relaxed) && thread::panicking()
    }
}
