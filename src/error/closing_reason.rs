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
/// assert!(matches!(reason, ClosingReason::Cancelled(_)));
/// assert_eq!(reason.cancel_reason(), Some("no longer needed"));
/// assert_eq!(reason.to_string(), "cancelled: no longer needed");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ClosingReason {
    /// The body has returned `Ok`, and no task is left but daemons.
    Completed,
    /// A task or the body has failed.
    Failed,
    /// Somebody called [`cancel`](crate::Pool::cancel), or [`cancel_with`](crate::Pool::cancel_with) with a
    /// [reason](Self::cancel_reason).
    Cancelled(CancelReason),
    /// The time of [`cancel_at`](crate::Pool::cancel_at) had come.
    Deadline,
    /// Somebody called [`abort`](crate::Pool::abort), or the signal of [`abort_on`](crate::Pool::abort_on) came.
    Aborted,
    /// The future of `open` or `run` was dropped.
    Dropped,
    /// The pool in which it is nested cancels its tasks: [`parent`](Self::parent) says why. Or the task in which it is
    /// nested was aborted by its handle, or by a function such as [`race`](crate::race()).
    ParentClosing(ParentReason),
}

/// The text given to [`cancel_with`](crate::Pool::cancel_with), if there was one. Read it with
/// [`ClosingReason::cancel_reason`].
///
/// # Examples
///
/// ```
/// use aiodrive::{ClosingReason, Pool};
///
/// let pool: Pool = Pool::new();
/// pool.cancel();
/// assert!(matches!(pool.closing_reason(), Some(ClosingReason::Cancelled(_))));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CancelReason(Option<Arc<str>>);

/// Why the enclosing pool closes, as far as that is known. Read it with [`ClosingReason::parent`].
///
/// # Examples
///
/// ```
/// use aiodrive::{ClosingReason, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let outer: Pool = Pool::builder().grace(std::time::Duration::from_secs(1)).build();
/// outer.spawn(async {
///     let inner = Pool::open(async |_: Pool| Ok(std::future::pending::<()>().await));
///     let error = inner.await.unwrap_err();
///     assert!(matches!(error.closing_reason(), ClosingReason::ParentClosing(_)));
///     Ok(())
/// });
/// outer.cancel_on(async { tokio::task::yield_now().await });
/// outer.run().await.unwrap();
/// # }
/// ```
// Of several pools around each other, it is the reason of the first that began to close. So no chain of reasons grows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParentReason(Option<Arc<ClosingReason>>);

impl ClosingReason {
    /// By a cancel.
    pub(crate) fn cancelled(reason: Option<Arc<str>>) -> Self {
        Self::Cancelled(CancelReason(reason))
    }

    /// By the enclosing pool, which closes for this reason.
    pub(crate) fn parent_closing(parent: Option<&Self>) -> Self {
        match parent {
            Some(known @ Self::ParentClosing(_)) => known.clone(),
            _ => Self::ParentClosing(ParentReason(parent.cloned().map(Arc::new))),
        }
    }

    /// What was given to [`cancel_with`](crate::Pool::cancel_with), of this pool or of the one in which it is nested.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.cancel_with("deployment");
    /// assert_eq!(pool.closing_reason().unwrap().cancel_reason(), Some("deployment"));
    /// ```
    #[must_use]
    pub fn cancel_reason(&self) -> Option<&str> {
        match self {
            Self::Cancelled(CancelReason(reason)) => reason.as_deref(),
            // There is one level only.
            _ => self.parent()?.cancel_reason(),
        }
    }

    /// Why the enclosing pool closes, if that is what closes this one. If several pools around it close, it is the
    /// reason of the one that began first.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.cancel();
    /// assert_eq!(pool.closing_reason().unwrap().parent(), None);
    /// ```
    #[must_use]
    pub fn parent(&self) -> Option<&Self> {
        match self {
            Self::ParentClosing(ParentReason(parent)) => parent.as_deref(),
            _ => None,
        }
    }

    /// Whether somebody has stopped the pool, and not what was in it.
    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self, Self::Cancelled(_) | Self::Deadline | Self::Aborted | Self::ParentClosing(_))
    }
}

impl fmt::Display for ClosingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled(_) => "cancelled",
            Self::Deadline => "its time was over",
            Self::Aborted => "aborted",
            Self::Dropped => "dropped",
            Self::ParentClosing(ParentReason(Some(_))) => "the enclosing pool closes",
            Self::ParentClosing(ParentReason(None)) => "the task around it was aborted",
        })?;
        match self {
            Self::Cancelled(CancelReason(Some(reason))) => write!(f, ": {reason}"),
            Self::ParentClosing(ParentReason(Some(parent))) => write!(f, ": {parent}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_pool_knows_the_first_reason_of_those_around_it() {
        let mut reason = ClosingReason::cancelled(Some("deployment".into()));
        for _ in 0..3 {
            reason = ClosingReason::parent_closing(Some(&reason));
        }
        assert_eq!(reason.to_string(), "the enclosing pool closes: cancelled: deployment");
        assert_eq!(reason.cancel_reason(), Some("deployment"));
        assert!(reason.is_from_outside() && matches!(reason.parent(), Some(ClosingReason::Cancelled(_))));

        let unknown = ClosingReason::parent_closing(None);
        assert_eq!((unknown.cancel_reason(), unknown.parent()), (None, None));
        assert_eq!(unknown.to_string(), "the task around it was aborted");
    }
}
