//! Finds all failures that an error tells of.

use std::error::Error;
use std::fmt;

use aiodrive::{BoxError, ExitError, Failure, PoolError, TaskError};

use crate::world::{Fault, World, number_in};

/// How the panics begin, all of them documented, of what is polled while its runtime is dropped: a `race`, a `shield`,
/// an exit handler, and one of tokio's timers.
const AT_SHUTDOWN: [&str; 4] = [
    "no future of a `race` could finish",
    "the runtime of shielded work has shut down",
    "the runtime of an exit handler has shut down",
    "A Tokio 1.x context was found, but it is being shutdown",
];

/// The name of the tasks that may not end.
pub const ESSENTIAL: &str = "essential";

/// What failed in `wait_all`.
#[derive(Debug)]
pub struct Several(pub Vec<TaskError>);

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|failed| write!(f, "{failed:#}; "))
    }
}

impl Error for Several {}

/// The number of a failure, if it shows one.
pub fn number_of(failed: &TaskError) -> Option<usize> {
    match failed.failure() {
        Failure::Error(error) => error.downcast_ref::<Fault>().map(|fault| fault.number),
        Failure::Panic(payload) => payload.message().and_then(number_in),
        _ => None,
    }
}

pub fn in_task_error(world: &World, failed: &TaskError) {
    match failed.failure() {
        Failure::Error(error) => in_error(world, error),
        Failure::Panic(payload) => match (number_of(failed), payload.message()) {
            (None, Some(message)) => {
                let is_documented = world.is_gone() && AT_SHUTDOWN.iter().any(|start| message.starts_with(start));
                world.check(is_documented, || format!("a panic of nobody's: {message}"));
            }
            (number, _) => world.found(number),
        },
        Failure::Ended => {
            world.check(failed.task().name() == Some(ESSENTIAL), || format!("it may end: {failed}"));
        }
        _ => world.check(world.is_gone(), || format!("nobody shuts down: {failed}")),
    }
}

pub fn in_error(world: &World, error: &BoxError) {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        world.found(Some(fault.number));
        fault.cause.iter().for_each(|cause| in_error(world, cause));
    } else if let Some(error) = error.downcast_ref::<PoolError>() {
        in_pool_error(world, error);
    } else if let Some(Several(failures)) = error.downcast_ref() {
        failures.iter().for_each(|failed| in_task_error(world, failed));
    } else if let Some(error) = error.downcast_ref::<ExitError<BoxError>>() {
        match error {
            ExitError::Body(error) | ExitError::Exit(error) => in_error(world, error),
            ExitError::Both { body, exit } => [body, exit].into_iter().for_each(|error| in_error(world, error)),
        }
    } else {
        world.broken(format!("an error of nobody's: {error}"));
    }
}

pub fn in_pool_error(world: &World, error: &PoolError) {
    error.failures().iter().chain(error.cleanup_failures()).for_each(|failed| in_task_error(world, failed));
}
