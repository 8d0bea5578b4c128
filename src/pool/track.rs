//! Futures that are members of a pool and are polled by somebody else.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use super::limit::Turn;
use super::members::Admission;
use super::shared::{Planned, Shared};
use super::{Pool, TaskBuilder};
use crate::error::{TaskInfo, TaskStopped};
use crate::scope::{ChildKind, Completion, Current, Scoped, TaskClass};

/// To make a future that somebody else polls a member of the pool.
impl<E: Send + 'static> Pool<E> {
    /// Makes a future that somebody else polls a member of the pool, such as a request handler of a web framework.
    ///
    /// From this call on, the pool waits for it, and counts it in [`len`](Self::len); in it, the
    /// [`cancellation_token`](crate::cancellation_token()) is the pool's, and [`Pool::current`] is this pool. Its
    /// output and its panics are the caller's, and no failures of the pool. It takes up no slot of a
    /// [limit](crate::PoolBuilder::limit).
    ///
    /// When the pool aborts its tasks, the returned future wakes whoever polls it, and drops `future` at the next poll.
    /// Nobody can drop it from outside: the pool waits until then, or until
    /// [`abandon_after`](crate::PoolBuilder::abandon_after) is over.
    ///
    /// In a planned pool the returned future is pending until the pool runs, and `future` becomes a member then. If the
    /// pool has nothing else, it may have ended by then; if it never runs, the future is pending for ever.
    ///
    /// Unlike with [`TaskTracker::track_future`], the pool can abort the future, and the future finds its pool.
    ///
    /// [`TaskTracker::track_future`]: https://docs.rs/tokio-util/latest/tokio_util/task/struct.TaskTracker.html
    ///
    /// # Errors
    ///
    /// [`TaskStopped::Cancelled`] if the pool has aborted the future, or was closed when this was called.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops `future`, and the pool no longer waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, cancellation_token};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let server = Pool::builder().grace(Duration::from_secs(10)).open(async |pool: Pool| {
    ///     let request = pool.track_future(async {
    ///         cancellation_token().cancelled().await;
    ///         "503 going down"
    ///     });
    ///     let framework = tokio::spawn(request); // it knows nothing of the pool
    ///     pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    ///     assert_eq!(framework.await?, Ok("503 going down"));
    ///     Ok(())
    /// });
    /// server.await
    /// # }
    /// ```
    #[track_caller]
    pub fn track_future<F: Future>(
        &self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TaskStopped>> + use<F, E> {
        self.build_task().track_future(future)
    }
}

impl<E: Send + 'static> TaskBuilder<'_, E> {
    /// Makes a future that somebody else polls a member of the pool; see [`Pool::track_future`].
    ///
    /// # Errors
    ///
    /// As [`Pool::track_future`].
    ///
    /// # Cancel safety
    ///
    /// As [`Pool::track_future`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// let server = Pool::open(async |pool: Pool| {
    ///     let request = pool.build_task().name("request 7").track_future(async { 200 });
    ///     assert_eq!(tokio::spawn(request).await?, Ok(200));
    ///     Ok(())
    /// });
    /// server.await
    /// # }
    /// ```
    #[track_caller]
    pub fn track_future<F: Future>(
        self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TaskStopped>> + use<F, E> {
        let (pool, class, info) = self.member();
        let tracked = Tracked { future: Scoped::outside(future), member: Member::of(pool, class, info) };
        run(tracked)
    }
}

/// A future, and what makes it a member; dropped in this order.
struct Tracked<F, E: Send + 'static> {
    future: Scoped<F>,
    member: Member<E>,
}

/// A place on the list of a pool.
struct Member<E: Send + 'static>(Arc<Place<E>>);

struct Place<E> {
    pool: Arc<Shared<E>>,
    class: TaskClass,
    info: TaskInfo,
    /// Set when the pool runs, if it does.
    current: OnceLock<Current>,
    /// What ends the future when the pool is aborted. The scope knows it weakly.
    aborted: Arc<CancellationToken>,
}

impl<E: Send + 'static> Member<E> {
    fn of(pool: &Arc<Shared<E>>, class: TaskClass, info: TaskInfo) -> Self {
        let (pool, current) = (Arc::clone(pool), OnceLock::new());
        let place = Arc::new(Place { pool, class, info, current, aborted: Arc::default() });
        if !place.enter() {
            let plan = Box::new(PlannedMember { class, info: place.info.clone(), place: Arc::downgrade(&place) });
            place.pool.plan(plan).into_iter().for_each(|plan| plan.admit(&place.pool));
        }
        Self(place)
    }
}

impl<E: Send + 'static> Place<E> {
    /// Takes the place. False if the pool is planned.
    fn enter(&self) -> bool {
        match self.pool.place(self.class, &self.info, None) {
            Admission::Planned => return false,
            Admission::Refused => self.aborted.cancel(),
            Admission::Placed(current, place) => {
                // Nothing is spawned into the set.
                self.pool.return_set(place);
                let signal = ChildKind::Tracked(Arc::downgrade(&self.aborted));
                if current.scope.add_child_of(signal, current.key) {
                    self.aborted.cancel();
                }
                drop(self.current.set(current));
            }
        }
        true
    }
}

impl<E: Send + 'static> Drop for Member<E> {
    fn drop(&mut self) {
        if let Some(current) = self.0.current.get() {
            self.0.pool.task_ended(current);
            current.scope.child_ended();
        }
    }
}

/// A member of a pool that does not run yet.
struct PlannedMember<E> {
    class: TaskClass,
    info: TaskInfo,
    place: Weak<Place<E>>,
}

impl<E: Send + 'static> Planned<E> for PlannedMember<E> {
    fn class(&self) -> TaskClass {
        self.class
    }

    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn set_turn(&mut self, _: Turn) {}

    fn admit(self: Box<Self>, _: &Arc<Shared<E>>) {
        if let Some(place) = self.place.upgrade() {
            place.enter();
        }
    }
}

/// Polls a tracked future until it ends or is aborted.
async fn run<F: Future, E: Send + 'static>(tracked: Tracked<F, E>) -> Result<F::Output, TaskStopped> {
    // In the order in which they are dropped, the last first.
    let Tracked { future, member } = tracked;
    let mut future = pin!(future);
    let place = &member.0;
    if place.current.get().is_none() {
        place.pool.started().await;
    }
    let Some(current) = place.current.get() else { return Err(TaskStopped::Cancelled) };
    future.as_mut().place_pinned(current.clone());
    let mut aborted = pin!(place.aborted.cancelled());
    let ended = poll_fn(|cx| match aborted.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    });
    let Some(Completion { output, dropped }) = ended.await else {
        if let Some(payload) = future.as_mut().abort() {
            payload.resume();
        }
        return Err(TaskStopped::Cancelled);
    };
    match (output, dropped) {
        (Ok(output), None) => Ok(output),
        (Err(payload), _) | (_, Some(payload)) => payload.resume(),
    }
}
