//! What tokio drops *inside* a call that is made under a pool's lock, kept until the lock is free.
//!
//! A runtime that is shutting down drops a future while it is being spawned. Its destructor is the user's and may
//! call the pool again, or wait for someone who does.

use std::any::Any;
use std::cell::{Cell, RefCell};

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Loud) };
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// No call under a lock is going on in this thread.
    Loud,
    /// One is.
    Quiet,
    /// One is, and it has dropped tasks.
    Kept,
    /// Tasks are dropped that tokio did not take.
    Refusing,
}

/// Puts the mode back, also when a call panics.
struct Restore(Mode);

impl Restore {
    #[inline]
    fn after(mode: Mode) -> Self {
        Self(MODE.replace(mode))
    }
}

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        MODE.set(self.0);
    }
}

/// What a quiet call has dropped.
#[must_use = "drop it once the lock is free"]
pub(super) struct Dropped(bool);

impl Drop for Dropped {
    #[inline]
    fn drop(&mut self) {
        if self.0 {
            drop_kept();
        }
    }
}

fn drop_kept() {
    drop(KEPT.take());
}

/// Drops what was kept in a call that has panicked: tasks that were never spawned, and so have not failed.
pub(super) fn refuse_kept() {
    let _restore = Restore::after(Mode::Refusing);
    drop_kept();
}

/// Whether the task that is being dropped was never spawned.
pub(super) fn is_refusing() -> bool {
    MODE.get() == Mode::Refusing
}

/// Makes a call under a lock, and keeps the tasks that are dropped in it until the second part of the result is.
#[inline]
pub(super) fn quietly<R>(call: impl FnOnce() -> R) -> (R, Dropped) {
    let _restore = Restore::after(Mode::Quiet);
    let result = call();
    (result, Dropped(MODE.get() == Mode::Kept))
}

/// Whether the thread is in a quiet call.
#[inline]
pub(super) fn is_quiet() -> bool {
    matches!(MODE.get(), Mode::Quiet | Mode::Kept)
}

/// Keeps a task that is dropped in a quiet call.
pub(super) fn keep(task: Box<dyn Any>) {
    MODE.set(Mode::Kept);
    KEPT.with_borrow_mut(|kept| kept.push(task));
}
