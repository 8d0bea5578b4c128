//! What fails in a `with_exit`.

/// What failed in [`with_exit`](crate::with_exit()): the body, the exit handler, or both.
///
/// An error of the body reads as if it had been returned without a `with_exit` around it, and only what the handler
/// adds is named: so the text stays short if several are nested. `{:#}` is the report, with the causes, and has the two
/// on a line each. So does `{:?}`; `{:#?}` shows the structure.
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
/// assert_eq!(error.to_string(), "query failed; exit handler failed: logout failed");
/// # }
/// ```
pub enum ExitError<E> {
    /// Only the body failed.
    Body(E),
    /// Only the exit handler failed.
    Exit(E),
    /// Both failed.
    Both {
        /// What the body returned.
        body: E,
        /// What the exit handler returned.
        exit: E,
    },
}
