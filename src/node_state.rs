//! How a pool, a task or a function stands.

use std::fmt;

/// How something in a [`PoolTree`](crate::PoolTree) stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NodeState {
    /// Not running yet: a pool that was not run, or a task of one.
    Planned,
    /// A task that waits for its turn under a [`limit`](crate::PoolBuilder::limit). Those of `spawn_local` are spawned while
    /// they wait, and shown as running.
    Queued,
    /// It runs.
    Running,
    /// A pool that closes, or a function whose future is gone and whose tasks are still ending.
    Closing,
    /// A pool of which nothing is left, except what it has [given up](crate::PoolBuilder::abandon_after) on.
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
