//! Why a pool closes.

use std::fmt;
use std::sync::Arc;

/// Why a pool closes. The first cause counts.
///
/// Given by [`Pool::closing_reason`](crate::Pool::closing_reason),
/// [`PoolError::closing_reason`](crate::PoolError::closing_reason) and
/// [`TreeNode::closing_reason`](crate::TreeNode::closing_reason).
///
/// # Examples
///
/// ```
/// use aiodrive::{ClosingReason, Pool};
///
/// let pool: Pool = Pool::new();
/// assert_eq!(pool.closing_reason(), None);
/// pool.cancel_with("no longer needed");
/// let reason = pool.closing_reason().unwrap();
/// assert!(matches!(&reason, ClosingReason::Cancelled(Some(why)) if &**why == "no longer needed"));
/// assert_eq!(reason.to_string(), "cancelled: no longer needed");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ClosingReason {
    /// The body has returned `Ok`, and no task is left but daemons.
    Completed,
    /// A task or the body has failed.
    Failed,
    /// Somebody called [`cancel`](crate::Pool::cancel), or [`cancel_with`](crate::Pool::cancel_with) with this reason.
    Cancelled(Option<Arc<str>>),
    /// The future of `open` or `run` was dropped.
    Dropped,
    /// The task in which the pool is nested was asked to stop.
    ParentClosing,
}

impl fmt::Display for ClosingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed => f.write_str("failed"),
            Self::Cancelled(None) => f.write_str("cancelled"),
            Self::Cancelled(Some(reason)) => write!(f, "cancelled: {reason}"),
            Self::Dropped => f.write_str("dropped"),
            Self::ParentClosing => f.write_str("the enclosing task is to stop"),
        }
    }
}
