//! Stands for `tokio::sync`: its `Semaphore`, without the methods that close it or take several permits.
//!
//! As in tokio, the queue is entered at the first poll of an acquire, and is fair: a permit that comes back belongs to
//! whoever is first in it, before anybody else can see it, and goes on to the next one if that is dropped with it. Who is
//! woken is the waker of the last poll. That of shuttle also wakes the thread of the first poll, which need not be the
//! one that waits.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use shuttle::sync as shuttle_sync;
pub use shuttle_tokio::sync::*;

#[derive(Debug)]
pub struct Semaphore(shuttle_sync::Mutex<State>);

#[derive(Debug)]
struct State {
    /// Without anybody in the queue, or none.
    free: usize,
    queue: VecDeque<Arc<Waiter>>,
}

/// Who is in the queue, or has left it with a permit. The lock of the state is held to look at it.
#[derive(Debug)]
struct Waiter(std::sync::Mutex<Turn>);

#[derive(Debug)]
enum Turn {
    Waits(Waker),
    Came,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Permit<S: Deref<Target = Semaphore>>(S);

pub type SemaphorePermit<'a> = Permit<&'a Semaphore>;
pub type OwnedSemaphorePermit = Permit<Arc<Semaphore>>;

/// None is free, or somebody waits for the next one.
#[derive(Debug)]
pub struct TryAcquireError(());

/// The semaphore is closed, which none is here.
#[derive(Debug)]
pub struct AcquireError(());

impl Semaphore {
    pub const MAX_PERMITS: usize = usize::MAX >> 3;

    pub fn new(permits: usize) -> Self {
        Self(shuttle_sync::Mutex::new(State { free: permits, queue: VecDeque::new() }))
    }

    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        if self.lock().take() { Ok(Permit(self)) } else { Err(TryAcquireError(())) }
    }

    pub async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        Acquire { permits: Some(self), waiter: None }.await
    }

    pub async fn acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        Acquire { permits: Some(self), waiter: None }.await
    }

    fn lock(&self) -> shuttle_sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let mut state = self.lock();
        let first = state.queue.pop_front().map(|first| first.replace(Turn::Came));
        state.free += usize::from(first.is_none());
        drop(state);
        if let Some(Turn::Waits(waker)) = first {
            waker.wake();
        }
    }
}

impl State {
    fn take(&mut self) -> bool {
        let is_free = self.free > 0;
        self.free -= usize::from(is_free);
        is_free
    }
}

impl Waiter {
    fn replace(&self, turn: Turn) -> Turn {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), turn)
    }

    fn has_come(&self) -> bool {
        matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), Turn::Came)
    }
}

impl<S: Deref<Target = Semaphore>> Drop for Permit<S> {
    fn drop(&mut self) {
        self.0.release();
    }
}

struct Acquire<S: Deref<Target = Semaphore>> {
    /// Until the permit is there.
    permits: Option<S>,
    /// Since the first poll that had to wait.
    waiter: Option<Arc<Waiter>>,
}

impl<S: Deref<Target = Semaphore> + Unpin> Future for Acquire<S> {
    type Output = Result<Permit<S>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { permits, waiter } = &mut *self;
        let mut state = permits.as_ref().expect("it is not polled after it was ready").lock();
        let turn = || Turn::Waits(cx.waker().clone());
        match waiter {
            None if state.take() => {}
            None => {
                let last = Arc::new(Waiter(std::sync::Mutex::new(turn())));
                state.queue.push_back(Arc::clone(waiter.insert(last)));
                return Poll::Pending;
            }
            Some(waiter) if waiter.has_come() => {}
            Some(waiter) => {
                waiter.replace(turn());
                return Poll::Pending;
            }
        }
        drop(state);
        *waiter = None;
        Poll::Ready(Ok(Permit(permits.take().expect("it was there a moment ago"))))
    }
}

impl<S: Deref<Target = Semaphore>> Drop for Acquire<S> {
    fn drop(&mut self) {
        let (Some(permits), Some(waiter)) = (&self.permits, &self.waiter) else { return };
        let mut state = permits.lock();
        let has_come = waiter.has_come();
        state.queue.retain(|other| !Arc::ptr_eq(other, waiter));
        drop(state);
        if has_come {
            permits.release();
        }
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("semaphore closed")
    }
}

impl std::error::Error for AcquireError {}
