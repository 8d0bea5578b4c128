//! Where code runs: in which scope, and in which task of it.
//!
//! Each future that belongs to a scope keeps its [`Current`], and changes places with [`CURRENT`] for as long as it is
//! polled or dropped. So entering costs a swap and no reference count, and a nested future puts back what it found.

use std::cell::Cell;
use std::sync::Arc;

use super::{Scope, TaskKey};

thread_local! {
    /// Set while a future of the scope is polled or dropped, as tokio's own task-locals are. It is none of them since
    /// a task needs its scope once more when its future has ended, and they do not give it back for nothing.
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Where code runs.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) scope: Arc<Scope>,
    /// That of the pool's task that it is part of; `None` in a body, and in a task of a function.
    pub(crate) key: Option<TaskKey>,
    /// The future is dropped by an abort, or within a future that is: what its destructors close has no time left.
    pub(crate) aborted: bool,
}

impl Current {
    /// A current in a scope, and in the task that this is called from if the scope is but a part of what that does.
    pub(crate) fn new(scope: Arc<Scope>) -> Self {
        let key = if scope.is_visible() { None } else { Self::get().and_then(|here| here.key) };
        Self { scope, key, aborted: Self::is_aborted() }
    }

    /// In a task of a pool.
    pub(crate) fn in_task(scope: Arc<Scope>, key: Option<TaskKey>) -> Self {
        Self { scope, key, aborted: false }
    }

    /// Whether this is called from a destructor that an abort runs.
    pub(crate) fn is_aborted() -> bool {
        Self::get().is_some_and(|here| here.aborted)
    }

    /// Where this is called from.
    pub(crate) fn get() -> Option<Self> {
        let current = CURRENT.try_with(|current| {
            let here = current.take();
            current.set(here.clone());
            here
        });
        current.ok().flatten()
    }

    /// Runs code with what is in `slot` as the current scope and task. It is back in the slot afterwards, also on a panic.
    #[inline]
    pub(crate) fn enter<R>(slot: &mut Option<Self>, code: impl FnOnce() -> R) -> R {
        let mut swapped = Swapped(slot);
        swapped.swap();
        code()
    }
}

/// Has changed places with what was current before.
struct Swapped<'a>(&'a mut Option<Current>);

impl Swapped<'_> {
    /// Changes places once more.
    #[inline]
    fn swap(&mut self) {
        // A thread that is ending has no thread-locals any more; its futures do without.
        let _ = CURRENT.try_with(|current| *self.0 = current.replace(self.0.take()));
    }
}

impl Drop for Swapped<'_> {
    #[inline]
    fn drop(&mut self) {
        self.swap();
    }
}
