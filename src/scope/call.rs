//! A call of a function that spawns tasks: `race`, `try_all`, `wait_all`, `shield` or `with_exit`.

use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

use super::lock;

/// A call of a function that spawns tasks, as those who look for them see it.
pub(crate) struct Call {
    /// The name of the function.
    pub(crate) function: &'static str,
    pub(crate) called_at: &'static Location<'static>,
    /// Whether its future is gone, and the runtime sees to the tasks.
    handed_over: AtomicBool,
    /// All that it has spawned, in order.
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Call {
    /// A call that has no tasks yet.
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Box<Self> {
        Box::new(Self { function, called_at, handed_over: AtomicBool::new(false), tasks: Mutex::default() })
    }

    /// Notes a task of the call.
    pub(crate) fn spawned(&self, task: AbortHandle) {
        lock(&self.tasks).push(task);
    }

    /// How many of its tasks have not ended.
    pub(crate) fn alive(&self) -> usize {
        lock(&self.tasks).iter().filter(|task| !task.is_finished()).count()
    }

    /// Notes that the future of the call is gone.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// Whether the future of the call is gone.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }
}
