//! Work that is finished even if nobody waits for it any more.
//!
//! The work is a task in a scope of its own, of which nobody asks it to stop; so the enclosing pool waits for it. Its
//! output is an [`Unreported`]. A [`Shield`] holds no scope: whoever keeps one for long keeps nobody waiting. Only when
//! it is dropped does it leave the enclosing scope to the output, which holds that until its failure has been reported.
//! The exit handler of [`with_exit`](crate::with_exit()) runs by the same means.

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::Failure;
use crate::scope::{Reporter, Rules, Scope, ScopeKind, Spawner, Unreported};

/// Runs a future as a task that goes on to its end even if the caller is cancelled.
///
/// Dropping the returned [`Shield`], because the task that awaits it was aborted or ran into a timeout, does not stop
/// the future: it runs on, and the enclosing pool waits for it. Use it for what must not be cut in half, such as the
/// commit of a transaction, and keep it short: no pool can cut it off, not even by an abort.
///
/// The future is spawned when `shield` is called, on the runtime and in the [scope](crate::docs#a-scope) that it is
/// called from. So call it inside the task, as in `pool.spawn(async { shield(work).await })`: in
/// `pool.spawn(shield(work))` it is called by whoever spawns, and the pool that waits for it is the one around *that*,
/// if there is one. In the same way, `shield(try_all(..))` calls [`try_all`](crate::try_all()) outside of the shielded
/// work, and an abort reaches its branches: write `shield(async { try_all(..).await })`.
///
/// Unlike with a bare [`tokio::spawn`], the enclosing pool waits for it. If nobody awaits the `Shield`
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
    let reporter = Reporter::new("shield", Location::caller());
    let runtime = reporter.runtime("called");
    Shield::spawn(&runtime, Scope::current(), reporter, future, |_| None)
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
    /// `None` once its output was taken.
    work: Option<JoinHandle<Unreported<T>>>,
    reporter: Arc<Reporter>,
    /// Not held: the work waits for nobody, and nobody but the work is to be waited for. `None` outside of everything.
    enclosing: Option<Weak<Scope>>,
}

impl<T: Send + 'static> Shield<T> {
    /// Spawns a future in a scope of its own. `failure_of` is the failure in an output that nobody takes.
    #[track_caller]
    pub(crate) fn spawn<F>(
        runtime: &Handle,
        enclosing: Option<Arc<Scope>>,
        reporter: Reporter,
        future: F,
        failure_of: fn(T) -> Option<Failure>,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let weak = enclosing.as_ref().map(Arc::downgrade);
        let spawner = Spawner::new(reporter, enclosing, ScopeKind::Shield);
        let work = spawner.spawn(runtime, 0, Rules { decides: |_| false, failure_of }, future);
        Self { work: Some(work), reporter: spawner.reporter, enclosing: weak }
    }

    /// What the work has come to, which is still reported if it is not taken; `None` if its runtime has shut down.
    pub(crate) async fn wait_ended(mut self) -> Option<Unreported<T>> {
        let ended = self.work.as_mut()?.await;
        self.hand_over();
        ended.ok()
    }
}

impl<T> Shield<T> {
    /// Lets the enclosing scope wait until the output has been reported: nobody will take it any more. If that scope
    /// has ended, so has the work, and the scope that this is called from takes the report.
    fn hand_over(&self) {
        let enclosing = self.enclosing.as_ref().and_then(Scope::or_current);
        self.reporter.hand_over(enclosing);
    }
}

impl<T: Send + 'static> Future for Shield<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.work.as_mut().expect("`shield` was polled after it was ready");
        let ended = ready!(Pin::new(work).poll(cx));
        self.work = None;
        match ended.map(Unreported::take) {
            Ok(Ok(output)) => Poll::Ready(output),
            Ok(Err(payload)) => payload.resume(),
            Err(cut_off) => {
                // There may be the panic of a destructor in it.
                self.hand_over();
                drop(cut_off);
                let called_at = self.reporter.called_at;
                panic!("the runtime of shielded work has shut down before the work had ended (`shield` at {called_at})")
            }
        }
    }
}

impl<T> Drop for Shield<T> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl<T> fmt::Debug for Shield<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finished = self.work.as_ref().is_none_or(JoinHandle::is_finished);
        f.debug_struct("Shield").field("is_finished", &finished).finish()
    }
}
