//! Auto traits, sizes, and what the compiler infers.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::future::{Future, pending, ready};
use std::io;
use std::mem::size_of;
use std::pin::Pin;
use std::time::Duration;

use aiodrive::futures::{RaceFuture, TryAllFuture, WaitAllFuture};
use aiodrive::{
    BoxError, Exit, ExitError, Failure, LatchEvent, OnFailure, PanicPayload, Pool, PoolBuilder, PoolError, Primed,
    Shield, SpawnError, Started, TaskBuilder, TaskError, TaskHandle, TaskInfo, TaskStopped, cancel_task,
    cancellation_token, prime, race, shield, timeout, timeout_at, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::time::Instant;

use crate::support::{both, failures};

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}
fn is_unpin<T: Unpin>() {}
fn is_error<T: Error + Send + Sync + 'static>() {}
fn is_shared<T: Send + Sync + Unpin + Clone + Debug>() {}
fn is_value<T: Send + Sync + Unpin + Debug>() {}

/// Fails to compile if a future cannot move between threads; gives it back, unpolled.
fn sendable<F: Future + Send>(future: F) -> F {
    future
}

#[derive(Debug)]
enum Custom {
    Io(io::Error),
    Own,
}

impl Display for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "io: {error}"),
            Self::Own => f.write_str("own"),
        }
    }
}

impl Error for Custom {}

impl From<io::Error> for Custom {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An error that only one thread at a time may look at.
#[derive(Debug)]
struct Lonely(Cell<u8>);

impl std::fmt::Display for Lonely {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lonely")
    }
}

impl From<Lonely> for BoxError {
    fn from(lonely: Lonely) -> Self {
        format!("lonely: {}", lonely.0.get()).into()
    }
}

async fn job() -> io::Result<()> {
    Ok(())
}

async fn broken() -> io::Result<()> {
    Err(io::Error::other("broken"))
}

async fn forever() -> Infallible {
    pending().await
}

fn exits() -> ! {
    panic!("never returns")
}

// ===== auto traits =====

#[test]
fn public_types_can_be_shared_between_threads() {
    is_shared::<Pool>();
    is_shared::<Pool<Custom>>();
    is_shared::<LatchEvent>();
    is_shared::<TaskInfo>();
    is_shared::<TaskStopped>();
    is_shared::<Exit>();
    is_value::<PoolBuilder>();
    is_value::<TaskBuilder<'_, BoxError>>();
    is_value::<TaskHandle<u8>>();
    is_value::<PoolError>();
    is_value::<PoolError<Custom>>();
    is_value::<TaskError>();
    is_value::<Failure>();
    is_value::<PanicPayload>();
    is_value::<SpawnError<u8>>();
    is_value::<ExitError<BoxError>>();
    is_value::<Shield<u8>>();
    is_send::<Primed<std::future::Ready<u8>>>();
    is_sync::<Primed<std::future::Ready<u8>>>();
}

#[test]
fn errors_are_errors() {
    is_error::<PoolError>();
    is_error::<PoolError<Custom>>();
    is_error::<PoolError<String>>();
    is_error::<TaskError>();
    is_error::<TaskError<Custom>>();
    is_error::<TaskStopped>();
    is_error::<ExitError<Custom>>();
    is_error::<SpawnError<u8>>();
}

#[test]
fn handles_and_named_futures_are_unpin_and_move_between_threads() {
    // A value need not be `Sync`, nor `Unpin`.
    type NotSync = Cell<u8>;
    is_send::<TaskHandle<NotSync>>();
    is_sync::<TaskHandle<NotSync>>();
    is_send::<Shield<NotSync>>();
    is_send::<RaceFuture<NotSync>>();
    is_unpin::<TaskHandle<std::marker::PhantomPinned>>();
    is_unpin::<Shield<std::marker::PhantomPinned>>();
    is_unpin::<RaceFuture<std::marker::PhantomPinned>>();
    is_unpin::<TryAllFuture<Vec<u8>, BoxError>>();
    is_unpin::<WaitAllFuture<Vec<Result<u8, TaskError>>>>();
    is_unpin::<Primed<Pin<Box<dyn Future<Output = std::marker::PhantomPinned>>>>>();
    fn primed_is_unpin<F: Future>(_: &F) {
        is_unpin::<Primed<F>>();
    }
    primed_is_unpin(&async { pending::<()>().await });
}

#[apply(both)]
async fn futures_move_between_threads() {
    let pool: Pool = Pool::new();
    drop(sendable(pool.clone().cancelled()));
    drop(sendable(pool.run()));
    drop(sendable(Pool::open(async |_: Pool| Ok(()))));
    drop(sendable(Pool::<Custom>::open(async |_| Err::<(), _>(Custom::Own))));
    drop(sendable(Pool::builder().name("named").open(async |_: Pool| Ok(()))));
    drop(sendable(race([ready(1)])));
    drop(sendable(try_all([ready(io::Result::Ok(1))])));
    drop(sendable(wait_all([ready(io::Result::Ok(1))])));
    drop(sendable(shield(ready(1))));
    drop(sendable(timeout(Duration::MAX, ready(1))));
    drop(sendable(timeout_at(Instant::now(), ready(1))));
    drop(sendable(prime(ready(1))));
    drop(sendable(cancel_task(tokio::spawn(ready(1)))));
    drop(sendable(with_exit(1, async |_| io::Result::Ok(()), |_, _| ready(Ok(())))));
    let latch = LatchEvent::new();
    drop(sendable(latch.wait_set()));
    drop(sendable(latch.wait_unset()));
    drop(sendable(latch.wait_change()));
}

#[apply(both)]
async fn what_waits_in_a_pool_moves_between_threads() {
    let pool: Pool = Pool::builder().keep_open(true).build();
    drop(sendable(pool.ready()));
    drop(sendable(pool.spawn_with_handle(async { Ok(Cell::new(1)) })));
    drop(sendable(pool.start(async |started: Started<Cell<u8>>| started.ready(Cell::new(1)))));
    drop(sendable(pool.build_task().name("named").start(async |started: Started<()>| started.ready(()))));
    drop(sendable(pool.build_task().depth(1).spawn_with_handle(async { Ok(()) })));
    drop(sendable(cancellation_token().cancelled_owned()));
}

/// An error or a value that only one thread at a time may look at.
#[apply(both)]
async fn futures_of_what_is_not_sync_move_between_threads() {
    type NotSync = Cell<u8>;
    fn fails() -> impl Future<Output = Result<NotSync, Lonely>> + Send {
        ready(Err(Lonely(Cell::new(1))))
    }
    drop(sendable(Pool::open(async |_: Pool| Ok(Cell::new(1)))));
    drop(sendable(Pool::<Lonely>::open(async |_| fails().await)));
    drop(sendable(Pool::<Lonely>::new().run()));
    drop(sendable(race([fails()])));
    drop(sendable(try_all([fails()])));
    drop(sendable(try_all((fails(), fails()))));
    drop(sendable(wait_all([fails()])));
    drop(sendable(wait_all((fails(), fails()))));
    drop(sendable(shield(fails())));
    drop(sendable(timeout(Duration::MAX, fails())));
    drop(sendable(with_exit(Cell::new(1), async |_| fails().await, |_, _| ready(Ok(())))));
}

#[test]
fn outcomes_can_be_held_while_something_is_awaited() {
    async fn later() {}
    let held = sendable(async {
        let pool = Pool::<Lonely>::builder().on_failure(|_| OnFailure::Collect).build();
        pool.spawn(ready(Err(Lonely(Cell::new(1)))));
        let handle = pool.spawn_with_handle(ready(Ok(Cell::new(2))));
        let outcome = pool.run().await;
        let value = handle.await;
        later().await;
        assert_eq!(value.unwrap().get(), 2);
        let error = outcome.unwrap_err();
        later().await;
        assert_eq!(error.failures().len(), 1);
        let all = wait_all([ready(Err::<(), _>(Lonely(Cell::new(3))))]).await;
        later().await;
        assert!(all[0].is_err());

        let error = Pool::open(async |_: Pool| Err::<(), _>("body".into())).await.unwrap_err();
        let (first, all) = (error.first(), &error);
        later().await;
        assert_eq!((first.is_some(), all.failures().len()), (true, 1));
    });
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(held);
}

#[apply(both)]
async fn waits_of_a_latch_outlive_the_borrow() {
    fn wait_set() -> impl Future<Output = ()> + Send + 'static {
        let latch = LatchEvent::from(true);
        latch.wait_set()
    }
    tokio::spawn(wait_set()).await.unwrap()
}

// ===== sizes =====

#[test]
fn handles_and_errors_are_small() {
    let pointer = size_of::<usize>();
    assert_eq!(size_of::<Pool>(), pointer);
    assert_eq!(size_of::<PoolError>(), pointer);
    assert_eq!(size_of::<PoolError<[u8; 1000]>>(), pointer);
    assert_eq!(size_of::<Result<(), PoolError>>(), pointer);
    assert_eq!(size_of::<PanicPayload>(), pointer);
    assert_eq!(size_of::<LatchEvent>(), pointer);
    assert_eq!(size_of::<SpawnError<u8>>(), 1);
    assert!(size_of::<TaskHandle<[u8; 1000]>>() <= 2 * pointer);
    // With the feature, an error knows whether `tracing` was told of it.
    let told = if cfg!(feature = "tracing") { pointer } else { 0 };
    assert!(size_of::<TaskError>() <= 8 * pointer + told);
}

// ===== inference =====

#[apply(both)]
async fn a_pool_of_boxed_errors_takes_tasks_without_annotations() {
    let error = Pool::open(async |pool: Pool| {
        pool.spawn(async {});
        pool.spawn(ready(()));
        pool.spawn(async { Ok(()) });
        pool.spawn(async {
            job().await?;
            Ok(())
        });
        pool.spawn(forever());
        pool.spawn(async { forever().await });
        if false {
            pool.spawn(async { exits() });
        }
        let value = pool.spawn_with_handle(async {
            job().await?;
            Ok("value")
        });
        assert_eq!(value.await?, "value");
        pool.spawn(async { Err("failed".into()) });
        Ok(())
    })
    .await
    .unwrap_err();
    assert_eq!(failures(error.failures()), ["error: failed"]);
}

#[apply(both)]
async fn a_task_may_be_of_type_never() {
    /// Calls what never returns, so that the output of the future is `!`.
    async fn call<T>(never: fn() -> T) -> T {
        never()
    }
    let error = Pool::open(async |pool: Pool| {
        pool.spawn(call(exits));
        Ok(())
    })
    .await
    .unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: never returns"]);
}

#[apply(both)]
async fn the_error_type_of_a_pool_comes_from_its_tasks() {
    let error = Pool::open(async |pool| {
        pool.spawn(broken());
        Ok(())
    })
    .await
    .unwrap_err();
    let first: io::Error = error.into_first_error().unwrap();
    assert_eq!(first.to_string(), "broken");
}

#[apply(both)]
async fn a_pool_may_have_an_error_type_of_its_own() {
    let error = Pool::open(async |pool: Pool<Custom>| {
        let begun = LatchEvent::new();
        let begin = begun.clone();
        pool.spawn(async move {
            begin.set();
            broken().await?;
            Ok(())
        });
        begun.wait_set().await;
        pool.cancelled().await;
        Err::<(), _>(Custom::Own)
    })
    .await
    .unwrap_err();
    assert!(matches!(error.first().unwrap().failure(), Failure::Error(Custom::Io(_))));
    let boxed: BoxError = error.into();
    assert!(boxed.to_string().contains("io: broken"), "{boxed}");
}

#[apply(both)]
async fn a_pool_in_a_spawned_task_borrows_from_it() {
    let task = tokio::spawn(async {
        let (names, mut seen) = (vec![String::from("a"), String::from("b")], 0);
        let total = Pool::open(async |pool: Pool| {
            let lengths: Vec<_> =
                names.iter().cloned().map(|name| pool.spawn_with_handle(async move { Ok(name.len()) })).collect();
            let mut total = 0;
            for length in lengths {
                total += length.await?;
                seen += 1;
            }
            Ok(total)
        })
        .await?;
        Ok::<_, PoolError>((total, seen, names.len()))
    });
    assert_eq!(task.await.unwrap().unwrap(), (2, 2, 2));
}

#[apply(both)]
async fn pool_errors_pass_through_pools_with_a_question_mark() {
    let error = Pool::open(async |outer: Pool| {
        outer.spawn(async {
            Pool::open(async |inner: Pool| {
                inner.spawn(async {
                    broken().await?;
                    Ok(())
                });
                Ok(())
            })
            .await?;
            Ok(())
        });
        Ok(())
    })
    .await
    .unwrap_err();
    let error = error.into_first_error().unwrap();
    let nested = error.downcast_ref::<PoolError>().expect("the inner pool's error, as it was");
    assert_eq!(failures(nested.failures()), ["error: broken"]);
}

#[apply(both)]
async fn functions_infer_their_errors_in_a_pool() {
    let (sum, answer) = Pool::open(async |_: Pool| {
        let (left, right) = try_all((async { Ok::<_, BoxError>(1) }, async { Ok(2) })).await?;
        let answer = with_exit((), async |_| Ok::<_, BoxError>(42), |(), _| async { Ok(()) }).await?;
        Ok((left + right, answer))
    })
    .await
    .unwrap();
    assert_eq!((sum, answer), (3, 42));
}
