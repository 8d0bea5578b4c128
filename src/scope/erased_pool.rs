//! A pool, as everything else sees it: without its error type.
//!
//! A scope knows the pool that owns it by this trait only, since pools with different errors are in one tree. What is
//! shown of a pool is its [`Snapshot`]; which of its tasks is meant is said by a [`TaskClass`] and a [`TaskKey`] in it.

use std::any::Any;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Scope;
use crate::error::ClosingReason;
use crate::error::{TaskError, TaskInfo};
use crate::scope::NodeState;

/// The state of a pool, whatever its error type.
pub(crate) trait ErasedPool: Any + Send + Sync {
    /// Takes a cleanup failure, or gives it back if the pool has returned already.
    fn report(&self, failure: TaskError) -> Option<TaskError>;

    /// Whether tasks have time to end by themselves before they are aborted.
    fn has_grace(&self) -> bool;

    /// The token that asks the tasks of a depth to stop.
    fn token(&self, depth: i32) -> CancellationToken;

    /// A scope of these tasks has ended, and let go of the enclosing one.
    fn on_empty(&self, class: TaskClass);

    /// What there is to be seen of it.
    fn snapshot(&self) -> Snapshot;

    /// To ask whether it is a pool with a certain error type.
    fn as_any(&self) -> &dyn Any;

    /// The same, to keep it.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Which of a pool's tasks.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct TaskClass {
    /// Closed from the highest to the lowest.
    pub(crate) depth: i32,
    /// Does not hold the pool open.
    pub(crate) daemon: bool,
}

/// Which of the tasks of one class.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct TaskKey {
    pub(crate) index: u32,
    /// Counts all who have taken a key, so that a task is not mistaken for one that had the key before.
    pub(crate) generation: NonZeroU32,
}

/// What a pool has to show.
pub(crate) struct Snapshot {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<ClosingReason>,
    /// Whether its future is gone, and the runtime closes it.
    pub(crate) handed_over: bool,
    pub(crate) tasks: Vec<TaskSnapshot>,
    /// Held for the moment, to look at what is below them. They are let go of when no lock is held.
    pub(crate) scopes: Vec<(TaskClass, Arc<Scope>)>,
}

impl Snapshot {
    /// Nothing seen yet, of a pool that stands like this.
    pub(crate) fn new(state: NodeState) -> Self {
        Self { name: None, state, reason: None, handed_over: false, tasks: Vec::new(), scopes: Vec::new() }
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&self) -> bool {
        self.state == NodeState::Closed && self.tasks.is_empty() && self.scopes.is_empty()
    }
}

/// A task of a pool.
pub(crate) struct TaskSnapshot {
    pub(crate) info: TaskInfo,
    pub(crate) class: TaskClass,
    /// `None` if it was not spawned yet.
    pub(crate) key: Option<TaskKey>,
    pub(crate) state: NodeState,
}
