//! A pool, as everything else sees it: without its error type.
//!
//! A scope knows the pool that owns it by this trait only, since pools with different errors are in one tree. What is
//! shown of a pool is its [`Snapshot`]; which of its tasks is meant is said by a [`TaskClass`] and a [`TaskKey`] in it.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Scope;
use crate::error::{ClosingReason, TaskError, TaskInfo};

/// The state of a pool, whatever its error type.
pub(crate) trait ErasedPool: Any + Send + Sync {
    /// Takes a cleanup failure, or gives it back if the pool has returned already.
    fn report(&self, failure: TaskError) -> Option<TaskError>;

    /// Whether tasks have time to end by themselves before they are aborted: that of the pool, or of a pool around it.
    fn has_time(&self) -> bool;

    /// Closes the pool without any time, since a task around it is aborted. A waker that panics meanwhile is caught.
    fn abort(&self);

    /// Why the pool closes, if it does.
    fn closing_reason(&self) -> Option<ClosingReason>;

    /// Whether nothing is left of it.
    fn is_over(&self) -> bool;

    /// Something that is nested in it has ended.
    fn child_ended(&self);

    /// The token that asks the tasks of a depth to stop; for one of them, or for a pool nested in one.
    fn token(&self, depth: i32, for_task: bool) -> CancellationToken;

    /// A scope of these tasks has ended, and let go of the enclosing one.
    fn on_empty(&self, class: TaskClass);

    /// The name of its error type.
    fn error_type(&self) -> &'static str;

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
    pub(crate) kind: TaskKind,
}

/// How a pool treats a task.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum TaskKind {
    #[default]
    Task,
    /// Aborted at the signal.
    WithoutGrace,
    /// Does not hold the pool open.
    Daemon,
    /// Both of these.
    DaemonWithoutGrace,
    /// Belongs to the pool itself, and can only cancel it: aborted when the pool begins to close.
    Canceller,
    /// Belongs to the pool itself, and can abort it: aborted when everything else has ended.
    Aborter,
}

impl TaskKind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Task, Self::WithoutGrace, Self::Daemon, Self::DaemonWithoutGrace, Self::Canceller, Self::Aborter];
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// Whether it does not hold its pool open.
    pub(crate) fn is_daemon(self) -> bool {
        self >= Self::Daemon
    }

    pub(crate) fn is_watcher(self) -> bool {
        self >= Self::Canceller
    }

    pub(crate) fn has_no_grace(self) -> bool {
        matches!(self, Self::WithoutGrace | Self::DaemonWithoutGrace)
    }

    /// Where it is counted: 0 if it holds the pool open, else 1.
    pub(crate) fn nth(self) -> usize {
        usize::from(self.is_daemon())
    }

    pub(crate) fn daemon(self) -> Self {
        if self.has_no_grace() { Self::DaemonWithoutGrace } else { Self::Daemon }
    }

    pub(crate) fn without_grace(self) -> Self {
        if self.is_daemon() { Self::DaemonWithoutGrace } else { Self::WithoutGrace }
    }
}

/// Which of the tasks of one class.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct TaskKey {
    pub(crate) index: u32,
    /// Counts those who have taken a key, so that a task is not mistaken for one that had the index before.
    pub(crate) generation: NonZeroU32,
}

/// What a pool has to show.
pub(crate) struct Snapshot {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<ClosingReason>,
    /// Whether its future is gone, and the runtime closes it.
    pub(crate) handed_over: bool,
    pub(crate) has_grace: bool,
    /// If it runs.
    pub(crate) body: Option<TaskInfo>,
    pub(crate) tasks: Vec<TaskSnapshot>,
    /// Held for the moment, to look at what is nested in them. They are dropped when no lock is held.
    pub(crate) scopes: Vec<(TaskClass, Arc<Scope>)>,
}

impl Snapshot {
    /// Nothing seen yet, of a pool that stands like this.
    pub(crate) fn new(state: NodeState) -> Self {
        Self {
            name: None,
            state,
            reason: None,
            handed_over: false,
            has_grace: false,
            body: None,
            tasks: Vec::new(),
            scopes: Vec::new(),
        }
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
    /// How many tasks of its pool run at a time, if it waits for its turn.
    pub(crate) limit: Option<usize>,
}

/// The state of a pool, a task or a function in a [`PoolTree`](crate::PoolTree).
///
/// # Examples
///
/// ```
/// use aiodrive::{NodeState, Pool};
///
/// let pool: Pool = Pool::new();
/// let state = pool.tree().root().state();
/// assert_eq!(state, NodeState::Planned);
/// assert_eq!(state.to_string(), "planned");
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NodeState {
    /// Not running yet: a pool that was not run, or a task of one.
    Planned,
    /// A task that waits for its turn under a [`limit`](crate::PoolBuilder::limit).
    Queued,
    /// It runs.
    Running,
    /// A pool that closes, or a function whose future is gone and whose tasks are still ending.
    Closing,
    /// A pool of which nothing is left, except tasks for which it has
    /// [stopped waiting](crate::PoolBuilder::abandon_after).
    Closed,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planned => "planned",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Closing => "closing",
            Self::Closed => "closed",
        })
    }
}
