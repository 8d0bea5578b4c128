//! Std's `OnceLock`, with points at which another task may go on.

use shuttle::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// Looked at for the sake of that.
    point: AtomicBool,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> Self {
        Self { value: std::sync::OnceLock::new(), point: AtomicBool::new(false) }
    }

    fn point(&self) {
        self.point.load(Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.point();
        self.value.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.point();
        self.value.set(value)
    }

    /// Unlike std's, two may come with a value; one of these is dropped.
    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if self.get().is_none() {
            drop(self.set(init()));
        }
        self.value.get().expect("it has been set")
    }
}
