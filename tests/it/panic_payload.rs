//! `PanicPayload`: what was panicked with, whose own destructor may panic.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};
use std::task::Poll;

use aiodrive::{BoxError, Failure, OnFailure, Pool, PoolError, TaskStopped};
use macro_rules_attribute::apply;

use crate::support::{Alive, Explosive, both, panic_of, panic_text, quiet_panic};

struct ExplosivePayload;

impl Drop for ExplosivePayload {
    fn drop(&mut self) {
        quiet_panic("payload");
    }
}

/// What a pool returns whose three tasks have met, and panic then with a payload that panics when it is dropped.
async fn three_explosive_payloads() -> PoolError {
    let (pool, meeting) = (Pool::<BoxError>::new(), Arc::new(Barrier::new(3)));
    for _ in 0..3 {
        let meeting = Arc::clone(&meeting);
        pool.spawn_blocking(move || {
            meeting.wait();
            resume_unwind(Box::new(ExplosivePayload));
        });
    }
    pool.run().await.unwrap_err()
}

#[apply(both)]
async fn payloads_that_panic_in_their_destructors_are_all_kept() {
    let error = three_explosive_payloads().await;
    assert!(error.is_panic());
    let mut kept = 0;
    for failed in error.into_failures() {
        let Failure::Panic(payload) = failed.into_failure() else { panic!("no panic") };
        assert_eq!(payload.message(), None);
        let payload = payload.into_inner();
        assert!(payload.is::<ExplosivePayload>(), "it is another payload");
        std::mem::forget(payload);
        kept += 1;
    }
    assert_eq!(kept, 3);
}

#[apply(both)]
async fn payloads_that_panic_in_their_destructors_can_be_dropped() {
    let error = three_explosive_payloads().await;
    assert_eq!(error.failures().len(), 3);
    drop(error);
}

#[apply(both)]
async fn a_payload_is_resumed_although_the_others_panic_as_they_are_dropped() {
    let error = three_explosive_payloads().await;
    let payload = catch_unwind(AssertUnwindSafe(|| error.resume_panic())).unwrap_err();
    assert!(payload.is::<ExplosivePayload>());
    std::mem::forget(payload);
}

#[apply(both)]
async fn the_panic_of_the_body_is_resumed_although_the_payloads_of_tasks_panic_as_they_are_dropped() {
    let alive = Alive::default();
    let builder = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect);
    let open = builder.open(async |pool| -> Result<(), BoxError> {
        for _ in 0..3 {
            let counted = alive.one();
            let task = pool.spawn_with_handle::<(), _>(async move {
                let _counted = counted;
                resume_unwind(Box::new(ExplosivePayload))
            });
            assert_eq!(task.await, Err(TaskStopped::Panicked));
        }
        quiet_panic("body")
    });
    assert_eq!(panic_of(open).await, "body");
    assert_eq!(alive.count(), 0);
}

/// The error used to be dropped while the panic went on already, which ended the process.
#[apply(both)]
async fn the_panic_of_the_body_is_resumed_although_the_errors_of_tasks_panic_as_they_are_dropped() {
    let builder = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect);
    let open = builder.open(async |pool: Pool<Explosive>| -> Result<(), Explosive> {
        for _ in 0..3 {
            let task = pool.spawn_with_handle::<(), _>(async { Err(Explosive) });
            assert_eq!(task.await, Err(TaskStopped::Failed));
        }
        quiet_panic("body")
    });
    // Within a task, which unwinds through the future that it awaits.
    let unwound = tokio::spawn(async { open.await.is_ok() }).await.unwrap_err();
    assert_eq!(unwound.into_panic().downcast_ref(), Some(&"body"));
}

/// `resume_panic` used to drop the error while the panic went on already, which ended the process.
#[apply(both)]
async fn a_panic_is_resumed_although_an_error_beside_it_panics_as_it_is_dropped() {
    let builder = Pool::<Explosive>::builder().on_failure(|_| OnFailure::Collect);
    let open = builder.open(async |pool: Pool<Explosive>| {
        pool.spawn(async { Err(Explosive) });
        pool.spawn(async { quiet_panic("task") });
        Ok(())
    });
    let error = open.await.unwrap_err();
    assert_eq!(error.failures().len(), 2);
    assert_eq!(panic_text(|| error.resume_panic()), "task");
}

#[apply(both)]
async fn the_body_may_panic_with_a_payload_that_panics_in_its_destructor() {
    let alive = Alive::default();
    let one = alive.one();
    let mut open = Box::pin(Pool::<BoxError>::open(async |pool| -> Result<(), BoxError> {
        pool.spawn(async {
            let _one = one;
            pending::<()>().await;
        });
        resume_unwind(Box::new(ExplosivePayload))
    }));
    let payload = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| open.as_mut().poll(cx))) {
        Ok(poll) => poll.map(|_| None),
        Err(payload) => Poll::Ready(Some(payload)),
    });
    let payload = payload.await.expect("it panics");
    assert!(payload.is::<ExplosivePayload>());
    assert_eq!(alive.count(), 0);
    std::mem::forget(payload);
}
