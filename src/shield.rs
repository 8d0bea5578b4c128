//! Work that is finished even if nobody waits for it any more.
//!
//! The work is a task in a scope of its own, of which nobody asks it to stop. It holds that scope, and so the enclosing
//! pool, until its output has been sent or reported. The [`Shield`] holds neither: whoever keeps one for long keeps
//! nobody waiting.
//!
//! An output goes one of two ways, and never both: through the channel to whoever awaits the `Shield`, or, if that is
//! gone, to [`Orphaned::report`]. It may also have been sent and never taken; then the `Shield` reports it as it is
//! dropped. The exit handler of [`with_exit`](crate::with_exit()) runs by the same means.

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, catch};
use crate::scope::{Call, Scope, ScopeKind};
use crate::scope::{Completion, Scoped};

/// Runs a future as a task that goes on to its end even if the caller is cancelled.
///
/// Dropping the returned [`Shield`], because the task that awaits it was aborted or ran into a timeout, does not stop
/// the future: it runs on, and the enclosing pool waits for it. Use it for what must not be cut in half, such as the
/// commit of a transaction, and keep it short: a pool that closes cannot cut it off either.
///
/// The future is spawned when `shield` is called, on the runtime that it is called from.
///
/// Unlike a bare [`tokio::spawn`], it is known to the enclosing pool, which waits for it. If nobody awaits the `Shield`
/// any more, a panic is one of the pool's [cleanup failures](crate::PoolError::cleanup_failures), and the output is
/// dropped, even if it is an `Err`. Where such an error must be reported, spawn a task of the pool instead.
///
/// # Panics
///
/// - Outside of a tokio runtime.
/// - When polled, with the panic of the future.
/// - When polled, if the runtime of the future has shut down before it could finish.
///
/// # Cancel safety
///
/// Awaiting the returned [`Shield`] by reference is cancel safe. If another branch of a `tokio::select!` completes
/// first, it is guaranteed that the output has not been taken. Dropping it leaves the future running: that is what it
/// is for.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{LatchEvent, Pool, shield, timeout};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let committed = LatchEvent::new();
/// let commit = committed.clone();
///
/// Pool::open(async |_: Pool| {
///     let work = shield(async move {
///         tokio::time::sleep(Duration::from_secs(1)).await;
///         commit.set();
///     });
///     drop(work); // nobody waits for it any more …
///     Ok(())
/// })
/// .await?;
/// assert!(committed.is_set()); // … but the pool did
/// # Ok(())
/// # }
/// ```
///
/// A request with a time limit, whose last step is not cut in half:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{LatchEvent, shield, timeout};
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let written = LatchEvent::new();
/// let write = written.clone();
/// let request = async {
///     sleep(Duration::from_secs(4)).await; // can be cut off
///     shield(async move {
///         sleep(Duration::from_secs(2)).await; // cannot
///         write.set();
///     })
///     .await;
/// };
/// assert!(timeout(Duration::from_secs(5), request).await.is_err());
/// assert!(written.is_set()); // `timeout` has waited for it
/// # }
/// ```
#[track_caller]
pub fn shield<F>(future: F) -> Shield<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let Ok(runtime) = Handle::try_current() else { panic!("`shield` was called outside of a tokio runtime") };
    let called_at = Location::caller();
    let scope = Scope::enter(ScopeKind::Shield(Call::new("shield", called_at)));
    Shield::spawn(&runtime, scope, called_at, future, |_| None)
}

/// The future of [`shield`]: the output of the shielded work.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let work: aiodrive::Shield<u32> = aiodrive::shield(async { 42 });
/// assert_eq!(work.await, 42);
/// # }
/// ```
#[must_use = "the work goes on when this is dropped, but its output is lost"]
pub struct Shield<T> {
    /// Closed without an answer if the runtime of the work shuts down.
    output: oneshot::Receiver<Completion<T>>,
    /// What to do with an output that was sent and not taken.
    orphaned: Orphaned<T>,
    /// Not held: the work waits for nobody, and nobody but the work is to be waited for.
    enclosing: Weak<Scope>,
}

/// What a task has to report whose output nobody has taken.
struct Orphaned<T> {
    /// Where the work was made, by which its failure is known.
    spawned_at: &'static Location<'static>,
    /// The failure in an output that nobody takes. For `shield` that is none: an `Err` is but a value there.
    failure_of: fn(T) -> Option<Failure>,
}

impl<T> Clone for Orphaned<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Orphaned<T> {}

impl<T> Orphaned<T> {
    /// Tells the scope what has failed, the panics of destructors included: of the future, and of the output.
    fn report(self, scope: Option<&Scope>, ended: Completion<T>) {
        let failure = ended.output.and_then(|output| catch(|| (self.failure_of)(output)));
        let failure = failure.unwrap_or_else(|payload| Some(Failure::Panic(payload)));
        for failure in failure.into_iter().chain(ended.dropped.map(Failure::Panic)) {
            Scope::report_to(scope, TaskError::new(TaskInfo::unnamed(self.spawned_at), failure));
        }
    }
}

impl<T: Send + 'static> Shield<T> {
    /// Spawns a future in a scope of its own, which it holds until its output has been sent or reported.
    pub(crate) fn spawn<F>(
        runtime: &Handle,
        scope: Arc<Scope>,
        spawned_at: &'static Location<'static>,
        future: F,
        failure_of: fn(T) -> Option<Failure>,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, output) = oneshot::channel();
        let orphaned = Orphaned { spawned_at, failure_of };
        let enclosing = scope.parent().map(Arc::downgrade).unwrap_or_default();
        let shown = scope.parent().map(|_| Arc::clone(&scope));
        let work = Work { future: Scoped::new(Arc::clone(&scope), future), sender: Some(sender), orphaned, scope };
        let task = runtime.spawn(work).abort_handle();
        if let Some(call) = shown.as_ref().and_then(|scope| scope.call()) {
            call.spawned(task);
        }
        Self { output, orphaned, enclosing }
    }

    /// What the work has come to; `None` if its runtime has shut down.
    pub(crate) async fn ended(mut self) -> Option<Result<T, PanicPayload>> {
        let ended = (&mut self.output).await.ok()?;
        Some(self.unwrap_ended(ended))
    }

    /// The output; a panic of the destructor goes to the enclosing pool.
    fn unwrap_ended(&self, ended: Completion<T>) -> Result<T, PanicPayload> {
        if let (Some(payload), Some(scope)) = (ended.dropped, self.enclosing.upgrade()) {
            scope.report(TaskError::new(TaskInfo::unnamed(self.orphaned.spawned_at), Failure::Panic(payload)));
        }
        ended.output
    }
}

/// Shielded work as tokio runs it.
#[pin_project(PinnedDrop)]
struct Work<F: Future> {
    #[pin]
    future: Scoped<F>,
    /// `None` once it has ended.
    sender: Option<oneshot::Sender<Completion<F::Output>>>,
    orphaned: Orphaned<F::Output>,
    /// Held until the output has been sent or reported.
    scope: Arc<Scope>,
}

impl<F: Future> Future for Work<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let ended = ready!(this.future.poll(cx));
        if let Some(Err(ended)) = this.sender.take().map(|sender| sender.send(ended)) {
            this.orphaned.report(Some(this.scope), ended);
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<F: Future> PinnedDrop for Work<F> {
    /// Work that has not ended is cut off by its runtime, which is shutting down. Whoever awaits it is told that; a
    /// panic of its destructor is reported.
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if this.sender.is_none() {
            return;
        }
        if let Some(payload) = this.future.end() {
            let info = TaskInfo::unnamed(this.orphaned.spawned_at);
            this.scope.report(TaskError::new(info, Failure::Panic(payload)));
        }
    }
}

impl<T: Send + 'static> Future for Shield<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.output).poll(cx)) {
            Ok(ended) => match self.unwrap_ended(ended) {
                Ok(output) => Poll::Ready(output),
                Err(payload) => payload.resume(),
            },
            Err(_) => {
                panic!("the runtime of shielded work has shut down, or its `Shield` was polled after it was ready")
            }
        }
    }
}

impl<T> Drop for Shield<T> {
    /// The output may have been sent without having been taken.
    fn drop(&mut self) {
        self.output.close();
        if let Ok(ended) = self.output.try_recv() {
            self.orphaned.report(self.enclosing.upgrade().as_deref(), ended);
        }
    }
}

impl<T> fmt::Debug for Shield<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finished = self.output.is_terminated() || !self.output.is_empty();
        f.debug_struct("Shield").field("is_finished", &finished).finish()
    }
}
