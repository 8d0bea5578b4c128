//! What a failure does to its pool.

/// What a pool does about the failure of a task; decided by
/// [`PoolBuilder::on_failure`](crate::PoolBuilder::on_failure).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// Close the pool, and return the failure with all others.
    #[default]
    Cancel,
    /// Go on, and return the failure when the pool has ended.
    Collect,
    /// Go on, and forget the failure.
    Discard,
}
