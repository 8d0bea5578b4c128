//! How a pool, a task or a function stands.

use std::fmt;

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
    /// A task that waits for its turn under a [`limit`](crate::PoolBuilder::limit). A task of `spawn_local` is shown as
    /// running while it waits.
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
