//! Errors that say only what the pool knows already: that it asked for an end, or that another of its tasks has failed.
//!
//! A task or a body passes such an error on with `?`, from a nested pool or from a handle. To count it would turn each
//! cancellation into a failure, and each failure into two. It has to be told by its value, since the pool's error type
//! may be any.

use std::any::Any;

use super::{BoxError, ExitError, PoolError, TaskStopped, catch};

/// Whether an error says nothing that its pool does not know, if its type can be told, boxed or not: that a nested pool
/// was cancelled, or how a task has stopped. The body of a `with_exit` passes it on as it is.
///
/// An error that panics when it is asked for its cause says more than that.
pub(crate) fn is_cancellation<E: 'static>(error: &E) -> bool {
    let error = error as &dyn Any;
    let told = || match error.downcast_ref() {
        Some(error) => is_boxed_echo(error),
        None => {
            error.downcast_ref().is_some_and(PoolError::<BoxError>::is_cancelled)
                || error.downcast_ref().is_some_and(tells_only_that_it_stopped)
                || error.downcast_ref().is_some_and(has_only_an_echo)
        }
    };
    catch(told).unwrap_or(false)
}

/// The same, of an error in a box.
fn is_boxed_echo(error: &BoxError) -> bool {
    error.source().is_some_and(|cause| cause.is::<CancelledError>())
        || error.downcast_ref().is_some_and(tells_only_that_it_stopped)
        || error.downcast_ref().is_some_and(has_only_an_echo)
}

/// How a task has ended is known to its pool. That one was not ready is news.
fn tells_only_that_it_stopped(stopped: &TaskStopped) -> bool {
    *stopped != TaskStopped::NotReady
}

/// The handler's failure is never an echo: nobody asks a handler to stop.
fn has_only_an_echo(error: &ExitError<BoxError>) -> bool {
    matches!(error, ExitError::Body(body) if is_boxed_echo(body))
}

/// The cause of an error that says only that a pool was cancelled: by this it is known, whatever its type.
#[derive(Debug, thiserror::Error)]
#[error("it was asked to stop")]
pub(super) struct CancelledError;
