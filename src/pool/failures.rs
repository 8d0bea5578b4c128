//! What has gone wrong in a pool: the lists from which its error is made.

use crate::error::{BoxError, ClosingReason, Report, TaskError, TaskInfo};

/// Everything that has gone wrong.
pub(super) struct Failures<E> {
    /// Of tasks and body, in order of occurrence.
    tasks: Vec<TaskError<E>>,
    /// Of something nested whose owner was gone.
    cleanup: Vec<TaskError>,
    /// The tasks that the pool has stopped waiting for.
    stuck: Vec<TaskInfo>,
    /// How to pass on what fails after the pool has returned, in what it has stopped waiting for.
    returned: Option<fn(TaskError<E>) -> TaskError>,
}

impl<E> Default for Failures<E> {
    fn default() -> Self {
        Self { tasks: Vec::new(), cleanup: Vec::new(), stuck: Vec::new(), returned: None }
    }
}

impl<E> Failures<E> {
    /// Adds a failure. If the pool has returned, it comes back, with what makes it fit for the enclosing scope.
    #[expect(clippy::type_complexity, reason = "the function that goes with the failure")]
    pub(super) fn push(&mut self, failure: TaskError<E>) -> Option<(TaskError<E>, fn(TaskError<E>) -> TaskError)> {
        if let Some(boxed) = self.returned {
            return Some((failure, boxed));
        }
        self.tasks.push(failure);
        None
    }

    /// Adds a failure of something nested. If the pool has returned, it comes back.
    pub(super) fn push_cleanup(&mut self, failure: TaskError) -> Option<TaskError> {
        if self.returned.is_some() {
            return Some(failure);
        }
        self.cleanup.push(failure);
        None
    }

    pub(super) fn push_stuck(&mut self, tasks: impl IntoIterator<Item = TaskInfo>) {
        self.stuck.extend(tasks);
    }

    /// Whether no task has been named that the pool has stopped waiting for.
    pub(super) fn has_no_stuck(&self) -> bool {
        self.stuck.is_empty()
    }

    /// Takes the lists, of which the error is made. From here on, failures come back.
    pub(super) fn report(&mut self, pool: Option<std::sync::Arc<str>>, reason: ClosingReason) -> Report<E>
    where
        E: Into<BoxError>,
    {
        let Self { tasks, cleanup, stuck, .. } = std::mem::take(self);
        self.returned = Some(TaskError::boxed);
        Report { pool, failures: tasks, cleanup_failures: cleanup, stuck, reason }
    }
}
