//! What a pool was built with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limit::Limit;
use super::on_failure::OnFailure;
use super::trace::SpanSource;
use crate::error::{BoxError, IsCancellation, TaskError};

const WARN_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Options<E> {
    pub(super) name: Option<Arc<str>>,
    /// None is not the same as no time: a pool without a grace has that of the task around it.
    pub(super) grace: Option<Duration>,
    pub(super) keep_open: bool,
    pub(super) limit: Option<Limit>,
    pub(super) abandon_after: Option<Duration>,
    policies: Mutex<Option<Arc<Policies<E>>>>,
    pub(super) spans: SpanSource,
    /// How often a pool that closes names the tasks for which it waits.
    pub(super) warn_every: Duration,
}

/// What `on_failure` was given.
pub(super) type Policy<E> = Box<dyn Fn(&TaskError<E>) -> OnFailure + Send + Sync>;

/// The closures that a pool was given. They are dropped before the pool returns, so that it can report a destructor that
/// panics.
pub(super) struct Policies<E> {
    pub(super) on_failure: Option<Policy<E>>,
    /// The same for what fails in something nested that has lost its owner.
    pub(super) on_cleanup_failure: Option<Policy<BoxError>>,
    /// Which errors of a type of the user's only say that something has stopped.
    pub(super) is_cancellation: Option<Box<IsCancellation<E>>>,
}

impl<E> Default for Policies<E> {
    fn default() -> Self {
        Self { on_failure: None, on_cleanup_failure: None, is_cancellation: None }
    }
}

impl<E> Default for Options<E> {
    fn default() -> Self {
        Self {
            name: None,
            grace: None,
            keep_open: false,
            limit: None,
            abandon_after: None,
            policies: Mutex::new(None),
            spans: SpanSource::default(),
            warn_every: WARN_EVERY,
        }
    }
}

/// How one task differs from the others of its pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskSettings {
    /// It counts towards no limit.
    pub(super) unlimited: bool,
    /// It must not end while the pool is open.
    pub(super) essential: bool,
    /// In place of the pool's policy.
    pub(super) on_failure: Option<OnFailure>,
}

impl<E> Options<E> {
    /// The closures, as long as the pool has not returned.
    pub(super) fn policies(&self) -> Option<Arc<Policies<E>>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes them out.
    pub(super) fn take_policies(&self) -> Option<Arc<Policies<E>>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// To set them while the pool is built.
    pub(super) fn policies_mut(&mut self) -> &mut Policies<E> {
        let policies = self.policies.get_mut().unwrap_or_else(PoisonError::into_inner);
        Arc::get_mut(policies.get_or_insert_default()).expect("a builder shares them with nobody")
    }

    /// The setting, if there is one, that takes a runtime with timers.
    pub(super) fn needs_timers(&self) -> Option<&'static str> {
        let is_timed = |limit: Duration| !limit.is_zero() && Instant::now().checked_add(limit).is_some();
        let grace = self.grace.is_some_and(is_timed).then_some("grace");
        grace.or_else(|| self.abandon_after.is_some_and(is_timed).then_some("abandon_after"))
    }
}
