//! Branches of the functions, and work that is left behind.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aiodrive::{LatchEvent, shield};
use tokio::runtime::Handle;
use tokio::sync::Barrier;

use super::{Alive, Log, OnDrop, busy, cleanup_of, poll_once, stays_pending, until};

/// Work that ends with the gate, and writes that down.
pub fn gated(gate: &LatchEvent, log: &Log) -> impl Future<Output = ()> + Send + use<> {
    let (gate, log) = (gate.clone(), log.clone());
    async move {
        gate.wait_set().await;
        log.push("finished");
    }
}

/// Fails if the future is ready before the gate is open, or if the work has not been finished when it is.
pub async fn waits_for<F: Future>(future: F, gate: LatchEvent, log: Log) -> F::Output {
    let mut future = pin!(future);
    stays_pending(future.as_mut()).await;
    assert!(log.events().is_empty(), "something has ended before the gate is open");
    gate.set();
    let output = future.await;
    assert_eq!(log.events(), ["finished"], "the work has not been finished");
    output
}

/// A branch that blocks its thread, once it has begun, until its neighbour has been aborted, and then has an output.
pub fn blocked_until_abort<T: Send>(
    output: T,
) -> (impl Future<Output = T> + Send, Arc<AtomicBool>, impl Future<Output = T> + Send) {
    let (guard, gone) = std::sync::mpsc::channel::<()>();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let blocked = async move {
        begins.store(true, Ordering::SeqCst);
        assert!(gone.recv().is_err(), "nothing is sent");
        output
    };
    let aborted = async move {
        let _guard = guard;
        pending().await
    };
    (blocked, begun, aborted)
}

/// A branch that leaves something behind that ends only with the gate.
pub fn leaves_behind(gate: &LatchEvent, log: &Log) {
    let (opened, log) = (gate.wait_set(), log.clone());
    drop(shield(async move {
        opened.await;
        log.push("left behind");
    }));
}

type Branch<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Drops a group of endless branches, polled or not, in a pool: nothing of it is left when that returns, and nothing has
/// failed.
pub async fn a_group_that_is_dropped_is_waited_for<T: 'static, F: Future>(group: impl Fn([Branch<T>; 2]) -> F) {
    for polled in [false, true] {
        let alive = Alive::default();
        let cleanup = cleanup_of(async || {
            let begun = Arc::new(Barrier::new(3));
            let branches = [(); 2].map(|()| Box::pin(endless_branch(alive.clone(), begun.clone())) as Branch<T>);
            let mut group = Box::pin(group(branches));
            if polled {
                assert!(poll_once(group.as_mut()).await.is_pending(), "it is ready too early");
            }
            begun.wait().await;
            drop(group);
        })
        .await;
        assert!(cleanup.is_empty(), "to be aborted is no failure: {cleanup:?}, polled: {polled}");
        assert_eq!(alive.count(), 0, "something is left; polled: {polled}");
    }
}

/// Makes a group that fails, and drops it after polling it or not.
pub async fn drop_group<F: Future>(polled: bool, group: impl FnOnce(LatchEvent) -> F) {
    let gate = LatchEvent::new();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    // Those of a group before this one are counted for a moment longer than they live.
    until(|| tasks() == 0).await;
    let mut group = Box::pin(group(gate.clone()));
    if polled {
        stays_pending(group.as_mut()).await;
    }
    // What fails has ended then, and what remains is the branch that waits for the gate.
    until(|| tasks() <= 1).await;
    drop(group);
    gate.set();
}

/// What is reported by a pool in which that is done.
pub async fn cleanup_of_dropped<F: Future>(polled: bool, group: impl FnOnce(LatchEvent) -> F) -> Vec<String> {
    cleanup_of(async || drop_group(polled, group).await).await
}

/// A branch that ends well when the gate opens.
pub async fn opened(gate: LatchEvent) -> Result<(), &'static str> {
    gate.wait_set().await;
    Ok(())
}

/// A branch that panics in its destructor, and ends only when it is aborted.
pub async fn panicking_in_drop<T>(begun: Arc<Barrier>) -> T {
    let _bomb = OnDrop::new(|| panic!("in drop"));
    begun.wait().await;
    pending().await
}

/// A branch that says when it has begun, and ends only when it is aborted.
pub async fn endless_branch<T>(alive: Alive, begun: Arc<Barrier>) -> T {
    let _slow = alive.slow();
    begun.wait().await;
    busy().await;
    unreachable!("it yields for ever")
}
