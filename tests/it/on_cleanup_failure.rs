//! `on_cleanup_failure`: what it decides, and what it is asked.

use std::future::pending;

use aiodrive::{BoxError, ClosingReason, LatchEvent, OnFailure, Pool, PoolBuilder, TaskStopped};
use macro_rules_attribute::apply;
use tokio::task::yield_now;

use crate::support::{Alive, Log, bomb, both, endless, fails, failures, panic_of, poll_until, quiet_panic};

/// A pool that does the same about every cleanup failure.
fn always(what: OnFailure) -> PoolBuilder {
    Pool::builder().on_cleanup_failure(move |_| what)
}

/// Leaves the failure of a task to the pool around: its own pool does not return, since the body panics. It has arrived
/// when this is ready.
async fn lose(message: &'static str) {
    let inner = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |inner: Pool| {
        let task = inner.build_task().name(message).spawn_with_handle(fails(message));
        assert_eq!(task.await, Err(TaskStopped::Failed));
        quiet_panic("body") as Result<(), BoxError>
    });
    assert_eq!(panic_of(inner).await, "body");
}

/// Drops a pool whose only task fails when it is aborted, at some time after this is ready.
async fn leave_behind(message: &'static str) {
    let (pool, begun) = (Pool::<BoxError>::new(), LatchEvent::new());
    let begins = begun.clone();
    pool.build_task().name(message).spawn(async move {
        let _bomb = bomb(message);
        begins.set();
        pending::<()>().await;
    });
    let mut run = Box::pin(pool.run());
    poll_until(run.as_mut(), || begun.is_set()).await;
}

// ===== what it decides =====

#[apply(both)]
async fn cancel_closes_the_pool() {
    let (alive, mut closed) = (Alive::default(), None);
    let opened = always(OnFailure::Cancel).open(async |pool: Pool| {
        let _body = alive.one();
        pool.spawn(endless(&alive));
        assert!(!pool.is_closed());
        lose("lost").await;
        closed = Some((pool.is_closed(), pool.closing_reason()));
        pending::<Result<(), _>>().await
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["error: lost"]);
    assert!(error.failures().is_empty() && !error.is_cancelled(), "{error}");
    assert_eq!(alive.count(), 0, "a sibling or the body is left");
    assert_eq!(closed, Some((true, Some(ClosingReason::Failed))));
}

#[apply(both)]
async fn cancel_closes_a_pool_in_which_everybody_waits() {
    let alive = Alive::default();
    let pool: Pool = always(OnFailure::Cancel).build();
    pool.spawn(endless(&alive));
    pool.spawn(leave_behind("left"));
    let error = pool.clone().run().await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["panic: left"]);
    assert!(error.failures().is_empty(), "{error}");
    assert_eq!((pool.closing_reason(), alive.count()), (Some(ClosingReason::Failed), 0));
}

#[apply(both)]
async fn collect_keeps_the_pool_open_and_is_the_default() {
    for builder in [Pool::builder(), always(OnFailure::Collect)] {
        let log = Log::default();
        let opened = builder.open(async |pool: Pool| {
            let (go, said) = (LatchEvent::new(), log.clone());
            let goes = go.wait_set();
            let sibling = pool.spawn_with_handle(async move {
                goes.await;
                said.push("sibling");
                Ok(())
            });
            lose("one").await;
            lose("two").await;
            assert!(!pool.is_closed());
            go.set();
            sibling.await?;
            Ok("value")
        });
        let error = opened.await.unwrap_err();
        assert_eq!(failures(error.cleanup_failures()), ["error: one", "error: two"]);
        assert!(error.failures().is_empty(), "{error}");
        assert_eq!(log.events(), ["sibling"]);
    }
}

#[apply(both)]
async fn discard_forgets_the_failure_and_the_body_keeps_its_value() {
    let opened = always(OnFailure::Discard).open(async |pool: Pool| {
        lose("lost").await;
        leave_behind("left").await;
        assert!(!pool.is_closed());
        Ok("value")
    });
    assert_eq!(opened.await.unwrap(), "value");
}

#[apply(both)]
async fn each_cleanup_failure_is_decided_by_itself() {
    let builder = Pool::<BoxError>::builder().on_cleanup_failure(|failed| match failed.task().name() {
        Some("cancel") => OnFailure::Cancel,
        Some("collect") => OnFailure::Collect,
        _ => OnFailure::Discard,
    });
    let opened = builder.open(async |pool: Pool| {
        for (message, closed) in [("discard", false), ("collect", false), ("discard", false), ("cancel", true)] {
            lose(message).await;
            assert_eq!(pool.is_closed(), closed, "{message}");
        }
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["error: collect", "error: cancel"]);
}

// ===== what it is asked =====

#[apply(both)]
async fn it_is_asked_about_each_cleanup_failure_with_the_name_of_its_task() {
    for what in [OnFailure::Cancel, OnFailure::Collect, OnFailure::Discard] {
        let log = Log::default();
        let asked = log.clone();
        let builder = Pool::<BoxError>::builder().on_cleanup_failure(move |failed| {
            let task = failed.task();
            assert!(!task.is_body() && task.spawned_at().file() == file!());
            asked.push(format!("{:?} {}", task.name(), failures(std::slice::from_ref(failed))[0]));
            what
        });
        let opened = builder.open(async |_: Pool| {
            lose("lost").await;
            assert_eq!(log.events(), [r#"Some("lost") error: lost"#], "decided: {what:?}");
            yield_now().await;
            leave_behind("left").await;
            Ok(())
        });
        drop(opened.await);
        // A pool that is closed has dropped its body in between.
        let expected = [r#"Some("lost") error: lost"#, r#"Some("left") panic: left"#];
        let came = if what == OnFailure::Cancel { 1 } else { 2 };
        assert_eq!(log.events()[..], expected[..came], "decided: {what:?}");
    }
}

/// Those are for `on_failure`.
#[apply(both)]
async fn it_is_not_asked_about_what_has_an_owner() {
    let log = Log::default();
    let asked = log.clone();
    let builder = Pool::builder().on_failure(|_| OnFailure::Collect).on_cleanup_failure(move |failed| {
        asked.push(failed.to_string());
        OnFailure::Discard
    });
    let opened = builder.open(async |pool: Pool| {
        pool.spawn(fails("task"));
        pool.spawn(async {
            let inner = Pool::open(async |inner: Pool| {
                inner.spawn(fails("nested"));
                Ok(())
            });
            Ok(inner.await?)
        });
        pool.idle().await;
        Err::<(), _>("body".into())
    });
    let error = opened.await.unwrap_err();
    assert_eq!((error.failures().len(), error.cleanup_failures().len()), (3, 0), "{error}");
    assert_eq!(log.events(), [""; 0]);
}
