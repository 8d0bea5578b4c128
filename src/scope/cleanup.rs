//! Cleanup failures: what fails when its owner has been dropped or has returned, so that it is in nobody's result.
//!
//! Such a failure goes outwards, to the nearest scope that will return an error: see
//! [`Scope::report_to`](super::Scope::report_to). A pool takes it under the lock of its state; the error of a call,
//! `try_all`, takes it here. If there is none, stderr has it, as it has the panics of tasks that nobody joins.

use std::io::{Write, stderr};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::error::{Failure, TaskError, catch};

/// Cleanup failures on their way into the error of a call; `None` once that was made. The lock is held to push or take
/// only.
#[derive(Clone)]
pub(crate) struct Cleanup(Arc<Mutex<Option<Vec<TaskError>>>>);

impl Cleanup {
    /// With nothing in it.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }

    /// Takes a failure, or gives it back if there will be no error to put it into.
    pub(crate) fn push(&self, failure: TaskError) -> Option<TaskError> {
        match &mut *lock(&self.0) {
            Some(failures) => failures.push(failure),
            None => return Some(failure),
        }
        None
    }

    /// Gives the failures away, for the last time.
    pub(crate) fn close(&self) -> Vec<TaskError> {
        lock(&self.0).take().unwrap_or_default()
    }
}

/// Tells of a failure that nobody will return, unless it is that a runtime has shut down, which is known to who did that.
/// The text and a subscriber are somebody's code.
pub(super) fn tell(failure: &mut TaskError) {
    if matches!(failure.failure(), Failure::Cancelled) {
        return;
    }
    let text = catch(|| failure.to_string());
    let text = text.unwrap_or_else(|panic| format!("{} failed, and its text panicked: {panic}", failure.task()));
    // A closed stderr is no reason to fail.
    let _ = writeln!(stderr(), "nobody is left to return this to: {text}");
    #[cfg(feature = "tracing")]
    if !failure.tell() {
        drop(catch(|| tracing::error!(target: "aiodrive", "nobody is left to return this to: {text}")));
    }
}
