//! Code of the user's that panics, or calls back.

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use aiodrive::{BoxError, Pool};
use tokio::task::yield_now;

use super::quiet_panic;

/// A future that is ready at once, and then carries what it holds until it is dropped.
pub struct ReadyWith<T, O>(pub T, pub Option<O>);

impl<T: Unpin, O: Unpin> Future for ReadyWith<T, O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<O> {
        Poll::Ready(self.1.take().unwrap())
    }
}

/// Calls everything that a handle offers, cancelling last.
pub fn meddle<E: Into<BoxError> + std::fmt::Display + Send + 'static>(pool: &Pool<E>) {
    pool.spawn(async {});
    pool.spawn(pending::<()>());
    drop(pool.try_spawn(async {}));
    drop(pool.spawn_with_handle(async { Ok(()) }));
    pool.build_task().name("meddling").spawn(async {});
    pool.spawn_blocking(|| {});
    assert!(pool.len() < 100_000 && format!("{pool:?}").starts_with("Pool"));
    assert!(pool.tree().to_string().starts_with("<pool>") && !pool.root_tree().to_string().is_empty());
    drop(Pool::<E>::try_current());
    pool.cancel();
    assert!(pool.is_closed(), "it is open although it was cancelled");
}

/// An error whose destructor panics.
#[derive(Debug)]
pub struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        quiet_panic("error");
    }
}

impl fmt::Display for Explosive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("explosive")
    }
}

impl Error for Explosive {}

/// A waker that meddles with a pool when it is woken and when it is dropped.
pub struct Meddler(pub Pool);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        meddle(&self.0);
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        meddle(&self.0);
    }
}

/// Polls to the end, with a waker that meddles and another one each time.
pub async fn meddling<F: Future>(pool: &Pool, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let waker = Waker::from(Arc::new(Meddler(pool.clone())));
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        drop(waker);
        yield_now().await;
    }
}

/// Awaits something in a pool of its own, with wakers that meddle with that pool, until it closes for that.
pub async fn meddled<T>(wait: impl AsyncFnOnce(&Pool) -> T) {
    let outcome = Pool::<BoxError>::builder().limit(1).open(async |pool: Pool| {
        meddling(&pool, wait(&pool)).await;
        pending::<Result<(), _>>().await
    });
    assert!(outcome.await.unwrap_err().is_cancelled());
}

/// A waker that panics each time it is woken.
pub struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        quiet_panic("in a waker");
    }
}

/// Polls once, with a waker that panics.
pub fn poll_with_bomb<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::new(PanicsWhenWoken))))
}
