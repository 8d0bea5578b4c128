//! How a pool is made, opened or run, and found from inside.
//!
//! To open a pool and to run a planned one is the same: both yield a [`Drive`], the one with the body that it was
//! given, the other with a body that has returned already.

use std::any::type_name;
use std::fmt::Display;
use std::sync::Arc;

use super::driver::{Body, Drive, DriverState};
use super::{Pool, PoolBuilder};
use crate::error::{BoxError, PoolError};
use crate::scope::Scope;

const OUTSIDE: &str = "`Pool::current` was called outside of a pool. What `tokio::spawn` runs is in no pool, even if \
    it was spawned in one: spawn it with `Pool::spawn`, or give it a handle of the pool";

/// To make a pool, to open or run it, and to find it from inside.
impl<E: Send + 'static> Pool<E> {
    /// Plans a pool: tasks that are spawned in it wait until it [runs](Self::run).
    ///
    /// It needs no runtime. A pool that never runs drops its tasks unpolled, with its last handle.
    ///
    /// A planned task that holds a handle of its own pool keeps the pool, which keeps the task. If you may never run
    /// such a pool, [`cancel`](Self::cancel) it, which drops its tasks; or let the task call
    /// [`Pool::current`](Self::current).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { println!("running") });
    ///
    /// let runtime = tokio::runtime::Runtime::new().unwrap();
    /// runtime.block_on(pool.run()).unwrap();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a pool: with a name, a grace, a limit or another of the settings of [`PoolBuilder`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// let grace = Duration::from_secs(10);
    /// let pool: Pool = Pool::builder().name("web").grace(grace).limit(1_000).build();
    /// assert_eq!(pool.name(), Some("web"));
    /// ```
    pub fn builder() -> PoolBuilder<E> {
        PoolBuilder::new()
    }

    /// Opens a pool around a body, and returns the body's value when both the body and all tasks have ended.
    ///
    /// The body runs in the calling task and can borrow from it. The tasks run on the runtime, and cannot: what they
    /// need is moved into them. See [how a pool closes](Self#how-a-pool-closes).
    ///
    /// Unlike a `JoinSet` or a `TaskTracker`, the pool lives inside this call: there is no way to return without having
    /// joined its tasks.
    ///
    /// # If it does not compile
    ///
    /// - *type annotations needed*: write the type of the body's argument, `pool: Pool` for errors of every kind, or
    ///   `pool: Pool<MyError>` for one.
    /// - *expected `Result<_, _>`, found `()`*, and *no two async blocks have the same type*: the body returns a
    ///   `Result`. End it with `Ok(())`. So does the closure of [`map`](crate::map()).
    /// - *does not live long enough*, *must outlive `'static`*: a task owns what it uses; see [`spawn`](Self::spawn).
    ///   So does the future of an item of [`map`](crate::map()): an `async` closure over `&items` holds the reference,
    ///   while `|item: &String| job(item.clone())` does not.
    /// - *implementation of `AsyncFnOnce` is not general enough*: [`with_exit`](crate::with_exit()) owns its resource,
    ///   and in a task the type of that must not name a lifetime.
    /// - For the errors of single tasks, see [`spawn`](Self::spawn).
    ///
    /// # Errors
    ///
    /// - If a task or the body failed: with all failures.
    /// - If something nested failed whose owner was gone: with [cleanup failures](PoolError::cleanup_failures).
    /// - If the pool was [cancelled](Self::cancel) before the body had returned: with
    ///   [`is_cancelled`](PoolError::is_cancelled).
    /// - If the pool stopped waiting, under [`abandon_after`](PoolBuilder::abandon_after): with the tasks that are
    ///   [stuck](PoolError::stuck).
    ///
    /// # Panics
    ///
    /// - When polled outside of a tokio runtime. The message names the line of this call.
    /// - With the panic of the body, after all tasks have ended. What had failed until then is a
    ///   [cleanup failure](PoolError::cleanup_failures) of the enclosing pool.
    ///
    /// # Cancel safety
    ///
    /// This function is not cancel safe: what the body and the tasks had returned is lost. Nothing is left running:
    /// dropping the returned future drops the body and closes the pool, and the enclosing pool waits for that. What
    /// fails meanwhile is in *its* error.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let greeting = String::from("hello");
    /// let length = Pool::open(async |pool: Pool| {
    ///     pool.spawn(async { println!("from a task") });
    ///     Ok(greeting.len())
    /// })
    /// .await;
    /// assert_eq!(length.unwrap(), 5);
    /// # }
    /// ```
    #[track_caller]
    pub fn open<T, B, F>(body: B) -> impl Future<Output = Result<T, PoolError<E>>>
    where
        B: FnOnce(Pool<E>) -> F,
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError> + Display,
    {
        Self::builder().open(body)
    }

    /// Runs a planned pool until all its tasks have ended.
    ///
    /// The tasks start when the returned future is first polled, in the order in which they were spawned. While the
    /// pool runs, clones of its handle can spawn more. See [how a pool closes](Self#how-a-pool-closes).
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), except that being [cancelled](Self::cancel) is no error: there is no body that it could
    /// cut short.
    ///
    /// # Panics
    ///
    /// - If the pool is running or has run, even through another handle.
    /// - When polled outside of a tokio runtime, or, with a [`grace`](crate::PoolBuilder::grace) or
    ///   [`abandon_after`](crate::PoolBuilder::abandon_after), in one without timers. The message names the line of this
    ///   call.
    ///
    /// # Cancel safety
    ///
    /// This function is not cancel safe: what the tasks had returned is lost. Nothing is left running: dropping the
    /// returned future closes the pool, or drops its tasks unpolled if it was not polled itself, and the enclosing pool
    /// waits for that.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// let answer = pool.spawn_with_handle(async { Ok(42) });
    /// pool.run().await.unwrap();
    /// assert_eq!(answer.await, Ok(42));
    /// # }
    /// ```
    #[track_caller]
    pub fn run(self) -> impl Future<Output = Result<(), PoolError<E>>> + Send
    where
        E: Into<BoxError> + Display,
    {
        assert!(self.shared.claim(), "`Pool::run` was called on a pool that already ran");
        let state = DriverState::new(Arc::clone(&self.shared), "Pool::run");
        Drive { body: Body::<(), std::future::Pending<Result<(), E>>>::returned(()), state }
    }

    /// The innermost pool with this error type that the calling task, body or destructor is in.
    ///
    /// With this, a function can spawn without an argument for the pool. Unlike with [`tokio::spawn`], the task has an
    /// owner that waits for it. A library should rather take a `&Pool`, or open a pool of its own: so its callers see
    /// that it leaves tasks behind.
    ///
    /// Inside of [`race`](crate::race()), [`shield`](crate::shield()) and the other functions it is the pool around the
    /// call.
    ///
    /// # Panics
    ///
    /// Outside of such a pool. What a bare [`tokio::spawn`] runs is outside, too: spawn it with [`Pool::spawn`], or
    /// give it a handle of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// async fn log(line: &'static str) {
    ///     let pool: Pool = Pool::current();
    ///     pool.spawn(async move { println!("{line}") });
    /// }
    ///
    /// Pool::open(async |_: Pool| {
    ///     log("written by a task of this pool").await;
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn current() -> Self {
        let Some(scope) = Scope::current() else { panic!("{OUTSIDE}") };
        match (scope.nearest_pool(), scope.innermost_error_type()) {
            (Some(shared), _) => Self::of(shared),
            (None, None) => panic!("{OUTSIDE}"),
            (None, Some(found)) => panic!(
                "`Pool::<{}>::current` was called in a pool with another error type, `Pool<{found}>`",
                type_name::<E>()
            ),
        }
    }

    /// The innermost pool with this error type that the calling task, body or destructor is in, if there is one.
    ///
    /// Unlike [`current`](Self::current), it does not panic: for code that runs in a pool or without one.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// assert!(Pool::<aiodrive::BoxError>::try_current().is_none());
    ///
    /// Pool::builder().name("web").open(async |_: Pool| {
    ///     let current = Pool::<aiodrive::BoxError>::try_current().unwrap();
    ///     assert_eq!(current.name(), Some("web"));
    ///     assert!(Pool::<std::io::Error>::try_current().is_none()); // of another type
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn try_current() -> Option<Self> {
        Scope::current()?.nearest_pool().map(Self::of)
    }
}
