//! What only says that something was stopped is no failure of a pool that closes, whatever is around it.

use std::error::Error;
use std::panic::resume_unwind;
use std::time::Duration;

use aiodrive::{
    BoxError, ExitError, Failure, OnFailure, Pool, PoolBuilder, PoolError, TaskError, TaskGroup, TaskStopped,
    cancellation_token, try_all, with_exit,
};
use macro_rules_attribute::apply;

use crate::support::{While, both};

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
    #[error("a child has failed")]
    Child(#[source] TaskError),
    #[error("an exit has failed")]
    Exit(#[source] ExitError<BoxError>),
}

/// An error type that is made of any error.
trait Any:
    From<While>
    + From<AppError>
    + From<TaskStopped>
    + From<TaskError>
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

/// What a group gives of a child that it has aborted.
async fn aborted() -> TaskError {
    let mut group: TaskGroup<()> = TaskGroup::new();
    group.spawn(std::future::pending());
    group.abort_all();
    let aborted = group.next().await.expect("the child has ended").unwrap_err();
    assert!(matches!(aborted.failure(), Failure::Cancelled));
    aborted
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
        ("an aborted child", aborted().await.into()),
        ("a variant of an aborted child", AppError::Child(aborted().await).into()),
        ("a line of context", While("reading", cancelled::<BoxError>().await.into()).into()),
        ("two lines", While("serving", While("reading", TaskStopped::Cancelled.into()).into()).into()),
        ("anyhow in a box", anyhow::Error::new(cancelled::<BoxError>().await).context("reading").into()),
        ("a body", exits.into()),
        ("a variant of a body", AppError::Exit(ExitError::Body(TaskStopped::Cancelled.into())).into()),
        ("branches", branches.into()),
        ("a pool that failed with an aborted child", failed_with(aborted().await.into()).await.into()),
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

/// Where an error arrives at a pool that closes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Task,
    /// A task whose failures would close no pool.
    Collected,
    /// A task that passes on what the body of `with_exit` has returned.
    Visit,
    Body,
}

const PLACES: [Place; 4] = [Place::Task, Place::Collected, Place::Visit, Place::Body];

/// What a pool with time that closes makes of an error.
async fn closing<E>(place: Place, builder: PoolBuilder<E>, error: E) -> Result<(), PoolError<E>>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    let builder = builder.grace(Duration::from_secs(1_000));
    if matches!(place, Place::Body) {
        let opened = builder.open(async |pool| {
            pool.cancel();
            cancellation_token().cancelled().await;
            Err::<(), E>(error)
        });
        return opened.await.or_else(|error| if error.is_cancelled() { Ok(()) } else { Err(error) });
    }
    let pool = match place {
        Place::Collected => builder.on_failure(|_| OnFailure::Collect).build(),
        _ => builder.build(),
    };
    pool.spawn(async move {
        cancellation_token().cancelled().await;
        if !matches!(place, Place::Visit) {
            return Err(error);
        }
        match with_exit((), async |_| Err::<(), E>(error), async |(), _| Ok(())).await {
            Err(ExitError::Body(error)) => Err(error),
            _ => Ok(()),
        }
    });
    pool.cancel_on(async { tokio::task::yield_now().await });
    pool.run().await
}

async fn assert_no_failures<E: Any>() {
    for place in PLACES {
        for (what, error) in stops::<E>().await {
            assert!(closing(place, Pool::builder(), error).await.is_ok(), "{what}, in {place:?}");
        }
    }
}

async fn assert_failures<E: Any>() {
    for place in PLACES {
        for (what, error) in failures::<E>().await {
            let failed = closing(place, Pool::builder(), error).await.unwrap_err();
            assert_eq!(failed.failures().len(), 1, "{what}, in {place:?}");
        }
    }
}

#[apply(both)]
async fn what_only_says_stopped_is_no_failure_through_any_wrapping() {
    assert_no_failures::<BoxError>().await;
}

#[apply(both)]
async fn what_says_more_than_stopped_is_a_failure() {
    assert_failures::<BoxError>().await;
}

#[cfg(feature = "anyhow")]
#[apply(both)]
async fn what_only_says_stopped_is_no_failure_in_an_anyhow_error() {
    assert_no_failures::<anyhow::Error>().await;
    let nested = anyhow::Error::new(cancelled::<anyhow::Error>().await).context("serving");
    assert!(closing(Place::Task, Pool::builder(), nested).await.is_ok());
    let boxed = |stopped: TaskStopped| anyhow::Error::from_boxed(stopped.into()).context("reading");
    assert!(closing(Place::Task, Pool::builder(), boxed(TaskStopped::Cancelled)).await.is_ok());
    assert!(closing(Place::Task, Pool::builder(), boxed(TaskStopped::NotReady)).await.is_err());
}

#[cfg(feature = "anyhow")]
#[apply(both)]
async fn what_says_more_than_stopped_is_a_failure_in_an_anyhow_error() {
    assert_failures::<anyhow::Error>().await;
}

/// An error type into which a pool cannot look: its hook does.
trait Hooked: Into<BoxError> + std::fmt::Display + Send + 'static {
    fn component(failed: PoolError) -> Self;

    fn task(stopped: TaskStopped) -> Self;

    fn only_says_stopped(&self) -> bool;
}

#[derive(Debug, thiserror::Error)]
enum ByFrom {
    #[error("a component has failed")]
    Component(#[from] PoolError),
    #[error("a task has failed")]
    Task(#[from] TaskStopped),
}

#[derive(Debug, thiserror::Error)]
enum BySource {
    #[error("the component of {shard} has failed")]
    Component { shard: u32, source: PoolError },
    #[error("the task of {shard} has failed")]
    Task {
        shard: u32,
        #[source]
        stopped: TaskStopped,
    },
}

impl Hooked for ByFrom {
    fn component(failed: PoolError) -> Self {
        failed.into()
    }

    fn task(stopped: TaskStopped) -> Self {
        stopped.into()
    }

    fn only_says_stopped(&self) -> bool {
        match self {
            Self::Component(failed) => failed.is_cancelled(),
            Self::Task(stopped) => *stopped == TaskStopped::Cancelled,
        }
    }
}

impl Hooked for BySource {
    fn component(source: PoolError) -> Self {
        Self::Component { shard: 1, source }
    }

    fn task(stopped: TaskStopped) -> Self {
        Self::Task { shard: 2, stopped }
    }

    fn only_says_stopped(&self) -> bool {
        match self {
            Self::Component { source, .. } => source.is_cancelled(),
            Self::Task { stopped, .. } => *stopped == TaskStopped::Cancelled,
        }
    }
}

impl Hooked for eyre::Report {
    fn component(failed: PoolError) -> Self {
        Self::new(failed).wrap_err("a component has failed")
    }

    fn task(stopped: TaskStopped) -> Self {
        Self::new(stopped).wrap_err("a task has failed")
    }

    fn only_says_stopped(&self) -> bool {
        self.downcast_ref().is_some_and(PoolError::<BoxError>::is_cancelled)
            || self.downcast_ref() == Some(&TaskStopped::Cancelled)
    }
}

/// What the hook knows is no failure, what it does not is one; without it, each is one.
async fn assert_as_the_hook_says<E: Hooked>() {
    let hooked = || Pool::builder().is_cancellation(E::only_says_stopped);
    for place in PLACES {
        let stops = [E::component(cancelled().await), E::task(TaskStopped::Cancelled)];
        for (nth, error) in stops.into_iter().enumerate() {
            assert!(closing(place, hooked(), error).await.is_ok(), "{nth}, in {place:?}");
        }
        let failures = [E::component(failed_with("broken".into()).await), E::task(TaskStopped::NotReady)];
        for (nth, error) in failures.into_iter().enumerate() {
            assert!(closing(place, hooked(), error).await.is_err(), "{nth}, in {place:?}");
        }
        assert!(closing(place, Pool::builder(), E::task(TaskStopped::Cancelled)).await.is_err(), "in {place:?}");
    }
}

#[apply(both)]
async fn the_hook_tells_what_only_says_stopped_in_an_enum_that_is_made_of_it() {
    assert_as_the_hook_says::<ByFrom>().await;
}

#[apply(both)]
async fn the_hook_tells_what_only_says_stopped_in_an_enum_that_has_it_as_its_source() {
    assert_as_the_hook_says::<BySource>().await;
}

#[apply(both)]
async fn the_hook_tells_what_only_says_stopped_in_an_opaque_error() {
    assert_as_the_hook_says::<eyre::Report>().await;
}

/// A task at depth 0, not asked to stop itself yet, awaits one of depth 1 that is.
async fn awaits_higher_depth<E: Hooked>() {
    let pool: Pool<E> = Pool::builder().grace(Duration::from_secs(1_000)).is_cancellation(E::only_says_stopped).build();
    let above = pool.build_task().depth(1).no_grace().spawn_with_handle(std::future::pending::<Result<(), E>>());
    pool.spawn(async { above.await.map_err(E::task) });
    pool.cancel_on(async { tokio::task::yield_now().await });
    assert!(pool.run().await.is_ok(), "that the task above was stopped is a failure");
}

#[apply(both)]
async fn who_awaits_a_task_of_a_higher_depth_that_is_stopped_has_not_failed() {
    awaits_higher_depth::<ByFrom>().await;
    awaits_higher_depth::<BySource>().await;
    awaits_higher_depth::<eyre::Report>().await;
}

#[apply(both)]
async fn what_only_says_stopped_is_no_failure_as_the_error_type_itself() {
    assert!(closing(Place::Task, Pool::builder(), TaskStopped::Cancelled).await.is_ok());
    assert!(closing(Place::Task, Pool::builder(), TaskStopped::NotReady).await.is_err());
    assert!(closing::<PoolError>(Place::Task, Pool::builder(), cancelled().await).await.is_ok());
    let failed = try_all([async { Err::<(), BoxError>(TaskStopped::Cancelled.into()) }]).await;
    let failed: TaskError = failed.unwrap_err().into_failures().remove(0);
    assert!(closing(Place::Task, Pool::builder(), failed).await.is_ok());
    let exit = ExitError::Body(BoxError::from(TaskStopped::Cancelled));
    assert!(closing(Place::Task, Pool::builder(), exit).await.is_ok());
}

#[apply(both)]
async fn what_only_says_stopped_is_a_failure_of_a_pool_that_runs() {
    for (what, error) in stops::<BoxError>().await {
        let pool: Pool = Pool::new();
        pool.spawn(async move { Err(error) });
        assert_eq!(pool.run().await.unwrap_err().failures().len(), 1, "{what}");
    }
}

#[apply(both)]
async fn an_error_that_panics_as_it_is_asked_or_never_ends_is_a_failure() {
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
    for is_endless in [false, true] {
        assert!(closing(Place::Task, Pool::builder(), BoxError::from(Asked(Hostile(is_endless)))).await.is_err());
    }
}
