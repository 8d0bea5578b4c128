//! What a pool was built with: its settings, those of single tasks, the decision about failures, and the limit.
//!
//! The limit is a [`Semaphore`]: tokio's is fair, and a permit that comes back goes to the first waiter before
//! [`try_acquire`](Semaphore::try_acquire) can see it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{self, OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;

use super::trace::SpanSource;
use crate::error::{BoxError, IsCancellation, PanicPayload, TaskError, catch, resume};

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

/// What a builder was given to decide about failures.
type Policy<E> = Box<dyn Fn(&TaskError<E>) -> OnFailure + Send + Sync>;

/// The closures that a pool was given. They are dropped before the pool returns, so that it can report a destructor that
/// panics.
pub(super) struct Policies<E> {
    pub(super) on_failure: Option<Policy<E>>,
    /// The same for what fails in something nested that has lost its owner.
    pub(super) on_cleanup_failure: Option<Policy<BoxError>>,
    /// Which errors of a type of the user's only say that something has stopped.
    pub(super) is_cancellation: Option<Box<IsCancellation<E>>>,
}

impl<E> Policies<E> {
    /// Drops the closures one by one, and gives the panics: two in one drop would end the process.
    pub(super) fn drop_each(self) -> impl Iterator<Item = PanicPayload> {
        let Self { on_failure, on_cleanup_failure, is_cancellation } = self;
        let dropped = [catch(|| drop(on_failure)), catch(|| drop(on_cleanup_failure)), catch(|| drop(is_cancellation))];
        dropped.into_iter().filter_map(Result::err)
    }
}

impl<E> Default for Policies<E> {
    fn default() -> Self {
        Self { on_failure: None, on_cleanup_failure: None, is_cancellation: None }
    }
}

impl<E> Drop for Options<E> {
    /// Those of a builder, or of a pool that never ran, still have the closures.
    fn drop(&mut self) {
        let span = catch(|| self.spans.close()).err();
        let policies = self.take_policies().and_then(Arc::into_inner);
        let panics = span.into_iter().chain(policies.into_iter().flat_map(Policies::drop_each));
        resume(panics.reduce(|first, _| first));
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

// ===== the decision about a failure =====

/// What a pool does about a failure; decided by [`PoolBuilder::on_failure`](crate::PoolBuilder::on_failure), by
/// [`TaskBuilder::on_failure`](crate::TaskBuilder::on_failure) for one task, and by
/// [`PoolBuilder::on_cleanup_failure`](crate::PoolBuilder::on_cleanup_failure).
///
/// In each case the failing task has ended, and its handle says so. The decision is about the other tasks, and about
/// what the pool returns. Once the pool closes, `Cancel` and `Collect` do the same, with one exception: a pool that
/// closes on the time of the task around it loses that time by `Cancel`.
///
/// # Examples
///
/// ```
/// use aiodrive::{OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(OnFailure::default(), OnFailure::Cancel);
///
/// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Discard).build();
/// pool.spawn(async { Err("nobody minds".into()) });
/// pool.run().await.unwrap();
/// # }
/// ```
///
/// With `Collect`, the failures are returned in place of the body's value. A variable around the pool keeps both:
///
/// ```
/// use aiodrive::{OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut imported = 0;
/// let outcome = Pool::builder()
///     .on_failure(|_| OnFailure::Collect)
///     .open(async |pool: Pool| {
///         for row in 1..=5 {
///             let task = async move { if row == 3 { Err("bad row".into()) } else { Ok(()) } };
///             pool.spawn(task);
///         }
///         pool.idle().await;
///         imported = 4; // what the body has found out
///         Ok(imported)
///     })
///     .await;
/// assert_eq!(outcome.unwrap_err().failures().len(), 1);
/// assert_eq!(imported, 4);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// Close the pool, and return the failure with all others.
    #[default]
    Cancel,
    /// Keep the pool open, and return the failure when the pool has ended.
    ///
    /// One failure is enough: then `open` and `run` return `Err`, and the value of the body is dropped. To have the
    /// value as well, put it into a variable around the pool (the body can borrow), send it through a channel, or use
    /// it in the body. A [`TaskGroup`](crate::TaskGroup) gives values and failures one by one.
    Collect,
    /// Keep the pool open, and drop the failure.
    Discard,
}

// ===== the limit =====

/// What a pool with a limit has for it.
pub(super) struct Limit {
    pub(super) tasks: usize,
    permits: Arc<Semaphore>,
    /// Who waits for a free slot. One at a time waits at the semaphore, the others behind it: a permit that is only
    /// looked at would otherwise go through all their hands.
    producers: sync::Mutex<()>,
}

impl Limit {
    /// A limit beyond [`Semaphore::MAX_PERMITS`] is no limit on any machine, and is cut to that.
    pub(super) fn new(tasks: usize) -> Self {
        let permits = Arc::new(Semaphore::new(tasks.min(Semaphore::MAX_PERMITS)));
        Self { tasks, permits, producers: sync::Mutex::new(()) }
    }

    /// Takes a place in the queue, in the order of the calls.
    pub(super) fn turn(&self) -> Turn {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Turn::Come(permit);
        }
        let mut turn = Turn::Waiting(Box::new(PollSemaphore::new(Arc::clone(&self.permits))));
        // The queue is entered here, not at the task's first poll, which tasks may have in any order. Unconstrained,
        // since a spent coop budget would make it return before that.
        let entered = pin!(unconstrained(poll_fn(|cx| turn.poll(cx)))).poll(&mut Context::from_waker(Waker::noop()));
        debug_assert!(entered.is_pending() || matches!(turn, Turn::Come(_)));
        turn
    }

    /// Waits until a task that is spawned would run at once. It takes no permit along: this is back-pressure, and no
    /// reservation.
    pub(super) async fn ready(&self) {
        let _first = self.producers.lock().await;
        drop(self.permits.acquire().await);
    }
}

/// A task's place under its pool's limit.
pub(super) enum Turn {
    /// There is no limit, or the task does not count towards it.
    Free,
    /// The task may run, until this is dropped.
    #[expect(dead_code, reason = "a permit is held, and not looked at")]
    Come(OwnedSemaphorePermit),
    /// It is in the queue.
    Waiting(Box<PollSemaphore>),
}

impl Turn {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// Ready when the task may run.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self::Waiting(permits) = self else { return Poll::Ready(()) };
        permits.poll_acquire(cx).map(|permit| *self = permit.map_or(Self::Free, Self::Come))
    }
}
