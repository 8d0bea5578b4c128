//! How a task failed.

use super::box_error::BoxError;
use super::panic_payload::{PanicPayload, catch};

/// How a task failed.
///
/// A task that was cancelled by its pool or its handle has not failed, and has none of these.
///
/// # Examples
///
/// ```
/// use aiodrive::{Failure, OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Collect).build();
/// pool.spawn(async { Err("disk full".into()) });
/// pool.spawn(async { panic!("a bug") });
///
/// for failed in pool.run().await.unwrap_err().failures() {
///     match failed.failure() {
///         Failure::Error(error) => assert_eq!(error.to_string(), "disk full"),
///         Failure::Panic(payload) => assert_eq!(payload.message(), Some("a bug")),
///         _ => unreachable!("nobody shuts the runtime down"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure<E = BoxError> {
    /// It returned an error.
    Error(E),
    /// It panicked: while it ran, or in a destructor while it was aborted.
    Panic(PanicPayload),
    /// It was aborted before it had ended. In a [`PoolError`](crate::PoolError), its runtime has shut down: a task that
    /// its pool or its handle aborts is no failure. In the results of [`TaskGroup`](crate::TaskGroup),
    /// [`map`](crate::map()) and [`wait_all`](crate::wait_all()), it may be any abort.
    Cancelled,
    /// It was essential, and ended well while its pool was open.
    Ended,
}

impl<E: Into<BoxError>> Failure<E> {
    /// Forgets the error's type. The conversion is the user's, and if it panics, that is what there is to tell.
    pub(crate) fn boxed(self) -> Failure {
        match self {
            Self::Error(error) => catch(|| error.into()).map_or_else(Failure::Panic, Failure::Error),
            Self::Panic(payload) => Failure::Panic(payload),
            Self::Cancelled => Failure::Cancelled,
            Self::Ended => Failure::Ended,
        }
    }
}
