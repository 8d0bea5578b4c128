//! What a failure does to its pool.

/// What a pool does about the failure of a task; decided by
/// [`PoolBuilder::on_failure`](crate::PoolBuilder::on_failure).
///
/// In each case the failing task has ended, and its handle says so. The decision is about the other tasks only. While
/// the pool closes, a failure changes nothing for them: then `Cancel` and `Collect` do the same.
///
/// # Examples
///
/// ```
/// use aiodrive::{OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(OnFailure::default(), OnFailure::Cancel);
///
/// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Discard).build();
/// pool.spawn(async { Err("nobody minds".into()) });
/// pool.run().await.unwrap();
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// Close the pool, and return the failure with all others.
    #[default]
    Cancel,
    /// Keep the pool open, and return the failure when the pool has ended.
    Collect,
    /// Keep the pool open, and drop the failure.
    Discard,
}
