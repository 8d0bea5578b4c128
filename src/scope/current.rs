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

thread_local! {
    /// Set while an abort drops a future, with all that is dropped within it. A `Drop` alone cannot tell an abort from a
    /// `select!`.
    static ABORTING: Cell<bool> = const { Cell::new(false) };
}

/// Where code runs.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) scope: Arc<Scope>,
    /// That of the pool's task that it is part of; `None` in a body, and in a task of a function.
    pub(crate) key: Option<TaskKey>,
}

impl Current {
    /// A current in a scope, and in the task that this is called from if the scope is but a part of what that does.
    pub(crate) fn new(scope: Arc<Scope>) -> Self {
        let key = if scope.is_visible() { None } else { Self::get().and_then(|here| here.key) };
        Self { scope, key }
    }

    /// Whether this is called from a destructor that an abort runs, so that what closes or begins here has no time.
    pub(crate) fn is_aborted() -> bool {
        ABORTING.try_with(Cell::get).unwrap_or(false)
    }

    /// Until the guard is dropped, whatever is dropped counts as aborted.
    pub(crate) fn aborting() -> Aborting {
        Aborting { before: ABORTING.try_with(|aborting| aborting.replace(true)).unwrap_or(false) }
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

    /// Makes what is in `slot` the current scope and task, until the guard is dropped. Then it is back in the slot.
    #[inline]
    pub(crate) fn enter(slot: &mut Option<Self>) -> Entered<'_> {
        let mut entered = Entered(slot);
        entered.swap();
        entered
    }
}

/// An abort is under way.
#[must_use = "it is over at once"]
pub(crate) struct Aborting {
    before: bool,
}

impl Drop for Aborting {
    fn drop(&mut self) {
        let _ = ABORTING.try_with(|aborting| aborting.set(self.before));
    }
}

/// Has changed places with what was current before.
#[must_use = "it is left at once"]
pub(crate) struct Entered<'a>(&'a mut Option<Current>);

impl Entered<'_> {
    /// Changes places once more.
    #[inline]
    fn swap(&mut self) {
        // A thread that is ending has no thread-locals any more; its futures do without.
        let _ = CURRENT.try_with(|current| *self.0 = current.replace(self.0.take()));
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.swap();
    }
}
