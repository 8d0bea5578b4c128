//! `cancel_task`: the abort of a tokio task, and its end.

use std::sync::Arc;

use aiodrive::{LatchEvent, cancel_task};
use macro_rules_attribute::apply;
use tokio::sync::{Barrier, oneshot};

use crate::support::{Alive, Log, both, endless_branch, panicking_in_drop, poll_once, stays_pending, until};

#[apply(both)]
async fn cancel_task_returns_when_the_destructors_have_run() {
    let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
    let task = tokio::spawn(endless_branch::<()>(alive.clone(), begun.clone()));
    begun.wait().await;
    assert_eq!(cancel_task(task).await.unwrap(), None);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn cancel_task_yields_the_output_of_a_task_that_had_returned() {
    let value = tokio::spawn(async { 42 });
    until(|| value.is_finished()).await;
    assert_eq!(cancel_task(value).await.unwrap(), Some(42));
    let error = tokio::spawn(async { Err::<(), _>("failed") });
    until(|| error.is_finished()).await;
    assert_eq!(cancel_task(error).await.unwrap(), Some(Err("failed")));
}

#[apply(both)]
async fn cancel_task_fails_if_the_task_had_panicked() {
    let task = tokio::spawn(async { panic!("before") });
    until(|| task.is_finished()).await;
    let error = cancel_task::<()>(task).await.unwrap_err();
    assert_eq!(error.into_panic().downcast_ref(), Some(&"before"));
}

#[apply(both)]
async fn cancel_task_fails_if_a_destructor_panics() {
    let begun = Arc::new(Barrier::new(2));
    let task = tokio::spawn(panicking_in_drop::<()>(begun.clone()));
    begun.wait().await;
    let error = cancel_task(task).await.unwrap_err();
    assert_eq!(error.into_panic().downcast_ref(), Some(&"in drop"));
}

#[apply(both)]
async fn cancel_task_requests_the_abort_when_it_is_called() {
    for polled in [false, true] {
        let (alive, begun) = (Alive::default(), Arc::new(Barrier::new(2)));
        let task = tokio::spawn(endless_branch::<()>(alive.clone(), begun.clone()));
        begun.wait().await;
        let mut cancelling = Box::pin(cancel_task(task));
        if polled {
            drop(poll_once(cancelling.as_mut()).await);
        }
        drop(cancelling);
        until(|| alive.count() == 0).await;
    }
}

#[apply(both)]
async fn cancel_task_does_not_keep_its_caller_from_being_aborted() {
    let (alive, waits, (begun, wait)) = (Alive::default(), LatchEvent::new(), oneshot::channel());
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    // It cannot be aborted any more, so that the caller has to wait.
    let target = tokio::task::spawn_blocking(move || {
        begun.send(()).unwrap();
        let _ = blocked.recv();
    });
    wait.await.unwrap();
    let (one, waiting) = (alive.one(), waits.clone());
    let caller = tokio::spawn(async move {
        let _one = one;
        let mut cancelling = Box::pin(cancel_task(target));
        stays_pending(cancelling.as_mut()).await;
        waiting.set();
        cancelling.await
    });
    waits.wait_set().await;
    assert!(cancel_task(caller).await.unwrap().is_none());
    assert_eq!(alive.count(), 0);
    drop(release);
}

#[apply(both)]
async fn cancel_task_of_the_task_that_calls_it_ends_it_at_that_await() {
    let (log, (sender, receiver)) = (Log::default(), oneshot::channel());
    let events = log.clone();
    let task = tokio::spawn(async move {
        let own = receiver.await.unwrap();
        events.push("calls");
        drop(cancel_task::<()>(own).await);
        events.push("goes on");
    });
    let abort = task.abort_handle();
    sender.send(task).unwrap();
    until(|| abort.is_finished()).await;
    assert_eq!(log.events(), ["calls"]);
}
