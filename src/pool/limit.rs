//! A limit is a [`Semaphore`]: tokio's is fair, and a permit that comes back goes to the first waiter before
//! [`try_acquire`](Semaphore::try_acquire) can see it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio_util::sync::PollSemaphore;

/// What a pool with a limit has for it.
pub(super) struct Limit {
    pub(super) tasks: usize,
    permits: Arc<Semaphore>,
    /// Who waits for a free slot. One at a time waits at the semaphore, the others behind it: a permit that is only
    /// looked at would otherwise go through all their hands.
    producers: Mutex<()>,
}

impl Limit {
    /// A limit beyond [`Semaphore::MAX_PERMITS`] is no limit on any machine, and is cut to that.
    pub(super) fn new(tasks: usize) -> Self {
        let permits = Arc::new(Semaphore::new(tasks.min(Semaphore::MAX_PERMITS)));
        Self { tasks, permits, producers: Mutex::new(()) }
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
