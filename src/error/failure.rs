//! How a task failed.

use super::{BoxError, PanicPayload, catch};

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
///         _ => unreachable!("the runtime goes on"),
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
    /// Its runtime shut down before it had ended. A task that the pool or its own handle aborted is no failure.
    Cancelled,
}

impl<E: Into<BoxError>> Failure<E> {
    /// Forgets the error's type. The conversion is the user's, and if it panics, that is what there is to tell.
    pub(crate) fn boxed(self) -> Failure {
        match self {
            Self::Error(error) => catch(|| error.into()).map_or_else(Failure::Panic, Failure::Error),
            Self::Panic(payload) => Failure::Panic(payload),
            Self::Cancelled => Failure::Cancelled,
        }
    }
}
