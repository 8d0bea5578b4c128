//! What only says that something was stopped is no failure of a pool that closes, whatever is around it.

use std::error::Error;
use std::panic::resume_unwind;
use std::time::Duration;

use aiodrive::{BoxError, ExitError, OnFailure, Pool, PoolError, TaskError, TaskStopped, cancellation_token, try_all};

use crate::support::on_both;

/// What was being done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct While(&'static str, #[source] BoxError);

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("a component has failed")]
    Component(#[from] PoolError),
    #[error("a typed component has failed")]
    Typed(#[source] PoolError<std::io::Error>),
    #[error(transparent)]
    Through(PoolError),
    #[error("a task has failed")]
    Task(#[from] TaskStopped),
    #[error("an exit has failed")]
    Exit(#[source] ExitError<BoxError>),
}

/// An error type that is made of any error.
trait Any:
    From<While>
    + From<AppError>
    + From<TaskStopped>
    + From<PoolError>
    + From<PoolError<std::io::Error>>
    + From<ExitError<BoxError>>
    + From<anyhow::Error>
    + Into<BoxError>
    + std::fmt::Display
    + Send
    + 'static
{
}

impl Any for BoxError {}
impl Any for anyhow::Error {}

async fn cancelled<E: Into<BoxError> + std::fmt::Display + Send + 'static>() -> PoolError<E> {
    let opened = Pool::<E>::open(async |pool| {
        pool.cancel();
        std::future::pending::<Result<(), E>>().await
    });
    opened.await.unwrap_err()
}

/// A pool that has failed with this while it was running.
async fn failed_with(error: BoxError) -> PoolError {
    Pool::open(async |_: Pool| Err::<(), _>(error)).await.unwrap_err()
}

/// What says no more than that something was stopped.
async fn stops<E: Any>() -> Vec<(&'static str, E)> {
    let exits = ExitError::Body(BoxError::from(While("leaving", cancelled::<BoxError>().await.into())));
    let branches = try_all([async { Err::<(), BoxError>(cancelled::<BoxError>().await.into()) }]).await.unwrap_err();
    vec![
        ("a pool", cancelled::<BoxError>().await.into()),
        ("a typed pool", cancelled::<std::io::Error>().await.into()),
        ("a task", TaskStopped::Cancelled.into()),
        ("a failed task", TaskStopped::Failed.into()),
        ("a variant", AppError::from(cancelled().await).into()),
        ("a typed variant", AppError::Typed(cancelled().await).into()),
        ("a variant that shows nothing of its own", AppError::Through(cancelled().await).into()),
        ("a variant of a task", AppError::from(TaskStopped::Panicked).into()),
        ("a line of context", While("reading", cancelled::<BoxError>().await.into()).into()),
        ("two lines", While("serving", While("reading", TaskStopped::Cancelled.into()).into()).into()),
        ("anyhow in a box", anyhow::Error::new(cancelled::<BoxError>().await).context("reading").into()),
        ("a body", exits.into()),
        ("a variant of a body", AppError::Exit(ExitError::Body(TaskStopped::Cancelled.into())).into()),
        ("branches", branches.into()),
        ("a pool that failed with nothing else", failed_with(TaskStopped::Cancelled.into()).await.into()),
        (
            "a wrapper of that",
            AppError::Through(failed_with(While("reading", TaskStopped::Cancelled.into()).into()).await).into(),
        ),
    ]
}

/// What says more.
async fn failures<E: Any>() -> Vec<(&'static str, E)> {
    let exit = || ExitError::Exit(BoxError::from(While("logging out", TaskStopped::Cancelled.into())));
    let both = ExitError::Both::<BoxError> { body: TaskStopped::Cancelled.into(), exit: "broken".into() };
    let cleaned = Pool::open(async |_: Pool| {
        drop(aiodrive::shield(async { resume_unwind(Box::new("cleanup")) }));
        Err::<(), _>(While("reading", TaskStopped::Cancelled.into()).into())
    });
    let cleaned = cleaned.await.unwrap_err();
    assert_eq!((cleaned.failures().len(), cleaned.cleanup_failures().len()), (1, 1));
    let one_of_two = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect).build();
    one_of_two.spawn(async { Err(TaskStopped::Cancelled.into()) });
    one_of_two.spawn(async { Err("broken".into()) });
    vec![
        ("an error", While("reading", "broken".into()).into()),
        ("one that was not ready", TaskStopped::NotReady.into()),
        ("that in a variant", AppError::from(TaskStopped::NotReady).into()),
        ("a pool that has failed", failed_with("broken".into()).await.into()),
        ("a handler", exit().into()),
        ("a handler in a variant", AppError::Exit(exit()).into()),
        ("a handler and a body", both.into()),
        ("a handler in a pool", AppError::Through(failed_with(exit().into()).await).into()),
        ("a cleanup failure beside it", AppError::Through(cleaned).into()),
        ("one of two", one_of_two.run().await.unwrap_err().into()),
        ("a panic", failed_panic().await.into()),
    ]
}

async fn failed_panic() -> PoolError {
    let pool: Pool = Pool::new();
    pool.spawn(async { resume_unwind(Box::new("a panic")) });
    pool.run().await.unwrap_err()
}

/// What a closing pool makes of an error of its body, or of a task.
async fn closing<E>(in_task: bool, error: E) -> Result<(), PoolError<E>>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    let pool: Pool<E> = Pool::builder().grace(Duration::from_secs(1_000)).build();
    if in_task {
        pool.spawn(async {
            cancellation_token().cancelled().await;
            Err(error)
        });
        pool.cancel_on(async { tokio::task::yield_now().await });
        return pool.run().await;
    }
    drop(pool);
    let opened = Pool::<E>::builder().grace(Duration::from_secs(1_000)).open(async |pool| {
        pool.cancel();
        cancellation_token().cancelled().await;
        Err::<(), E>(error)
    });
    opened.await.or_else(|error| if error.is_cancelled() { Ok(()) } else { Err(error) })
}

async fn assert_no_failures<E: Any>() {
    for in_task in [false, true] {
        for (what, error) in stops::<E>().await {
            assert!(closing(in_task, error).await.is_ok(), "{what}, in a task: {in_task}");
        }
    }
}

async fn assert_failures<E: Any>() {
    for in_task in [false, true] {
        for (what, error) in failures::<E>().await {
            assert!(closing(in_task, error).await.is_err(), "{what}, in a task: {in_task}");
        }
    }
}

#[test]
fn what_only_says_stopped_is_no_failure_through_any_wrapping() {
    on_both(assert_no_failures::<BoxError>);
}

#[test]
fn what_says_more_than_stopped_is_a_failure() {
    on_both(assert_failures::<BoxError>);
}

#[cfg(feature = "anyhow")]
#[test]
fn what_only_says_stopped_is_no_failure_in_an_anyhow_error() {
    on_both(assert_no_failures::<anyhow::Error>);
    on_both(|| async {
        let nested = anyhow::Error::new(cancelled::<anyhow::Error>().await).context("serving");
        assert!(closing(true, nested).await.is_ok());
    });
}

#[cfg(feature = "anyhow")]
#[test]
fn what_says_more_than_stopped_is_a_failure_in_an_anyhow_error() {
    on_both(assert_failures::<anyhow::Error>);
}

#[test]
fn what_only_says_stopped_is_no_failure_as_the_error_type_itself() {
    on_both(|| async {
        assert!(closing(true, TaskStopped::Cancelled).await.is_ok());
        assert!(closing(true, TaskStopped::NotReady).await.is_err());
        assert!(closing::<PoolError>(true, cancelled().await).await.is_ok());
        let failed = try_all([async { Err::<(), BoxError>(TaskStopped::Cancelled.into()) }]).await;
        let failed: TaskError = failed.unwrap_err().into_failures().remove(0);
        assert!(closing(true, failed).await.is_ok());
        let exit = ExitError::Body(BoxError::from(TaskStopped::Cancelled));
        assert!(closing(true, exit).await.is_ok());
    });
}

#[test]
fn what_only_says_stopped_is_a_failure_of_a_pool_that_runs() {
    on_both(|| async {
        for (what, error) in stops::<BoxError>().await {
            let pool: Pool = Pool::new();
            pool.spawn(async move { Err(error) });
            assert_eq!(pool.run().await.unwrap_err().failures().len(), 1, "{what}");
        }
    });
}

#[test]
fn an_error_that_panics_as_it_is_asked_or_never_ends_is_a_failure() {
    #[derive(Debug, thiserror::Error)]
    #[error("hostile")]
    struct Hostile(bool);
    #[derive(Debug)]
    struct Asked(Hostile);
    impl std::fmt::Display for Asked {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(f)
        }
    }
    impl Error for Asked {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            if self.0.0 { Some(self) } else { resume_unwind(Box::new("asked")) }
        }
    }
    on_both(|| async {
        for is_endless in [false, true] {
            assert!(closing(true, BoxError::from(Asked(Hostile(is_endless)))).await.is_err());
        }
    });
}
