//! What fails in a `with_exit`.

/// What failed in [`with_exit`](crate::with_exit()): the body, the exit handler, or both.
///
/// # Examples
///
/// ```
/// use aiodrive::{ExitError, with_exit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = with_exit(
///     "session",
///     async |_| Err::<(), _>("query failed"),
///     async |_, _| Err("logout failed"),
/// );
/// let error = error.await.unwrap_err();
/// assert!(matches!(error, ExitError::Both { body: "query failed", exit: "logout failed" }));
/// assert_eq!(error.to_string(), "body failed: query failed; exit handler failed: logout failed");
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ExitError<E> {
    /// Only the body failed.
    #[error("body failed: {0}")]
    Body(E),
    /// Only the exit handler failed.
    #[error("exit handler failed: {0}")]
    Exit(E),
    /// Both failed.
    #[error("body failed: {body}; exit handler failed: {exit}")]
    Both {
        /// What the body returned.
        body: E,
        /// What the exit handler returned.
        exit: E,
    },
}
