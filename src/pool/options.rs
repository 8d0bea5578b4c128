//! What a pool was built with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::limit::Limit;
use super::on_failure::OnFailure;
use crate::error::{IsCancellation, TaskError};

const WARN_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Options<E> {
    pub(super) name: Option<Arc<str>>,
    pub(super) grace: Duration,
    pub(super) keep_open: bool,
    pub(super) limit: Option<Limit>,
    pub(super) abandon_after: Option<Duration>,
    pub(super) on_failure: Option<Policy<E>>,
    /// Which errors of a type of the user's only say that something has stopped.
    pub(super) is_cancellation: Option<Box<IsCancellation<E>>>,
    /// How often a pool that closes names the tasks for which it waits.
    pub(super) warn_every: Duration,
}

/// What `on_failure` was given.
pub(super) type Policy<E> = Box<dyn Fn(&TaskError<E>) -> OnFailure + Send + Sync>;

impl<E> Default for Options<E> {
    fn default() -> Self {
        Self {
            name: None,
            grace: Duration::ZERO,
            keep_open: false,
            limit: None,
            abandon_after: None,
            on_failure: None,
            is_cancellation: None,
            warn_every: WARN_EVERY,
        }
    }
}

impl<E> Options<E> {
    /// The setting, if there is one, that takes a runtime with timers.
    pub(super) fn needs_timers(&self) -> Option<&'static str> {
        let is_timed = |limit: Duration| !limit.is_zero() && Instant::now().checked_add(limit).is_some();
        let grace = is_timed(self.grace).then_some("grace");
        grace.or_else(|| self.abandon_after.is_some_and(is_timed).then_some("abandon_after"))
    }
}
