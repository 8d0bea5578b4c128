//! What a [`TaskHandle`](super::TaskHandle) and its task share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::task::{self, AbortHandle};

use crate::scope::{Scope, TaskKey};

#[derive(Default)]
pub(super) struct HandleInner {
    /// The handle has cancelled the task.
    cancelled: AtomicBool,
    /// The task has ended, or will never begin.
    ended: AtomicBool,
    /// Set when the task is spawned; until then it is planned, or was refused.
    task: OnceLock<AbortHandle>,
    /// A closure that had to wait for its turn is spawned a second time, on a thread.
    closure: OnceLock<AbortHandle>,
    /// Where the task is, for what is nested in it.
    place: OnceLock<(Weak<Scope>, TaskKey)>,
}

impl HandleInner {
    /// The task has been spawned, maybe after it was cancelled.
    pub(super) fn spawned(&self, abort: AbortHandle) {
        if let Err(abort) = self.task.set(abort) {
            drop(self.closure.set(abort));
        }
        if self.is_cancelled() {
            self.abort();
        }
    }

    /// The task is about to be spawned in this scope.
    pub(super) fn placed(&self, scope: &Arc<Scope>, key: Option<TaskKey>) {
        if let Some(key) = key {
            self.place.get_or_init(|| (Arc::downgrade(scope), key));
        }
    }

    pub(super) fn cancel(&self) {
        // Stored before the look at what is spawned, as `spawned` does it the other way round: one sees the other.
        self.cancelled.store(true, Ordering::SeqCst);
        self.abort();
    }

    fn abort(&self) {
        // What is nested in the task hears of it after tokio has. If that is to come yet, so is `spawned`.
        let Some(task) = self.task.get() else { return };
        task.abort();
        self.closure.get().into_iter().for_each(AbortHandle::abort);
        if let Some((scope, key)) = self.place.get() {
            scope.upgrade().iter().for_each(|scope| scope.abort_nested_in(*key));
            self.forget_ended();
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if self.is_cancelled() {
            self.forget_ended();
        }
    }

    /// Takes the mark off a task that has ended. Who comes second, of its end and an abort, sees the other.
    fn forget_ended(&self) {
        if let (true, Some((scope, key))) = (self.has_ended(), self.place.get()) {
            scope.upgrade().iter().for_each(|scope| scope.forget_task(*key));
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn id(&self) -> Option<task::Id> {
        self.task.get().map(AbortHandle::id)
    }
}
