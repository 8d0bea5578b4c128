//! Stands for `tokio_util::sync`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub use shuttle_tokio_util::sync::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As in tokio-util, it is in the semaphore's queue from the first poll that had to wait until it has the permit or is
/// dropped.
pub struct PollSemaphore {
    permits: Arc<Semaphore>,
    waiting: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send + Sync>>>,
}

impl PollSemaphore {
    pub fn new(permits: Arc<Semaphore>) -> Self {
        Self { permits, waiting: None }
    }

    pub fn poll_acquire(&mut self, cx: &mut Context<'_>) -> Poll<Option<OwnedSemaphorePermit>> {
        let permits = &self.permits;
        let waiting = self.waiting.get_or_insert_with(|| {
            let permit = Arc::clone(permits).acquire_owned();
            Box::pin(async { permit.await.ok() })
        });
        let permit = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(permit)
    }
}

impl fmt::Debug for PollSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollSemaphore").finish_non_exhaustive()
    }
}
