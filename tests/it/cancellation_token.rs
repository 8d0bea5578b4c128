//! `cancellation_token`: who hears that a pool closes.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, Exit, LatchEvent, Pool, cancellation_token, race, shield, timeout, try_all, try_cancellation_token,
    wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Log, OnDrop, Outcome, Witness, asked, both, cancelled_once, poll_once, secs, until, with_and_without_grace,
    with_grace,
};

/// Spins until the token is cancelled; `false` if it never is.
fn hears(token: &CancellationToken) -> bool {
    let begin = std::time::Instant::now();
    while !token.is_cancelled() && begin.elapsed() < secs(30) {
        thread::yield_now();
    }
    token.is_cancelled()
}

#[apply(both)]
async fn a_body_and_its_tasks_have_the_token_of_the_pool() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let token = cancellation_token();
            let handle = pool.spawn_with_handle(async { Ok(cancellation_token()) });
            let of_task = handle.await?;
            assert!(!token.is_cancelled() && !of_task.is_cancelled());
            pool.cancel();
            token.cancelled().await;
            Ok(of_task.is_cancelled() && cancellation_token().is_cancelled())
        })
        .await;
    assert!(outcome.unwrap());
}

#[apply(both)]
async fn there_is_a_token_in_everything_that_belongs_to_a_pool() {
    assert!(try_cancellation_token().is_none());
    let opened: Outcome = Pool::open(async |pool: Pool| {
        assert!(try_cancellation_token().is_some());
        pool.spawn(async { assert!(try_cancellation_token().is_some()) });
        let (_, inside) = race([async { try_cancellation_token().is_some() }]).await;
        assert!(inside);
        assert!(shield(async { try_cancellation_token().is_some_and(|token| !token.is_cancelled()) }).await);
        Ok(())
    })
    .await;
    opened.unwrap();
}

#[apply(both)]
async fn branches_of_functions_hear_the_enclosing_pool() {
    let (pool, log) = (with_grace(Duration::MAX).build(), Log::default());
    let branch = |log: &Log| {
        let log = log.clone();
        async move {
            let token = cancellation_token();
            log.push(if token.is_cancelled() { "too late" } else { "began" });
            token.cancelled().await;
            Ok::<_, BoxError>(7)
        }
    };
    let said = log.clone();
    let raced = pool.spawn_with_handle(async move { race([branch(&said), branch(&said)]).await.1 });
    let said = log.clone();
    let tried = pool.spawn_with_handle(async move { Ok(try_all([branch(&said), branch(&said)]).await?) });
    let said = log.clone();
    let waited = pool.spawn_with_handle(async move { Ok(wait_all([branch(&said), branch(&said)]).await.len()) });
    let said = log.clone();
    let timed = pool.spawn_with_handle(async move { timeout(Duration::MAX, branch(&said)).await? });
    let said = log.clone();
    let stayed = pool.spawn_with_handle(async move {
        let body = async |_: &mut ()| branch(&said).await;
        let handler = |(), exit| async move {
            assert_eq!(exit, Exit::Finished);
            Ok(())
        };
        Ok(with_exit((), body, handler).await?)
    });
    cancelled_once(&pool, until(|| log.events().len() == 8)).await.unwrap();
    assert_eq!(log.events(), ["began"; 8]);
    assert_eq!((raced.await, tried.await, waited.await), (Ok(7), Ok([7, 7]), Ok(2)));
    assert_eq!((timed.await, stayed.await), (Ok(7), Ok(7)));
}

#[apply(both)]
async fn shielded_work_is_never_asked() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let heard = LatchEvent::new();
            let waits = heard.wait_set();
            let work = shield(async move {
                let token = cancellation_token();
                waits.await;
                [token.is_cancelled(), cancellation_token().is_cancelled()]
            });
            pool.cancel();
            asked().await;
            heard.set();
            Ok(work.await)
        })
        .await;
    assert_eq!(outcome.unwrap(), [false, false]);
}

#[apply(both)]
async fn an_exit_handler_is_never_asked() {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            let body = async |_: &mut ()| {
                let _: () = assert!(cancellation_token().is_cancelled());
                Ok::<_, BoxError>(())
            };
            let seen = Arc::clone(&seen);
            let handler = |(), _| async move {
                *seen.lock().unwrap() = Some(cancellation_token().is_cancelled());
                Ok(())
            };
            Ok(with_exit((), body, handler).await?)
        })
        .await;
    outcome.unwrap();
    assert_eq!(*seen.lock().unwrap(), Some(false));
}

#[apply(both)]
async fn outside_of_a_pool_the_token_is_nobodys() {
    assert!(!cancellation_token().is_cancelled());
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            pool.cancel();
            asked().await;
            // A bare task is outside of the pool that it is spawned from.
            Ok(tokio::spawn(async { cancellation_token().is_cancelled() }).await?)
        })
        .await;
    assert!(!outcome.unwrap());
    let (mine, other) = (cancellation_token(), cancellation_token());
    mine.cancel();
    assert!(!other.is_cancelled() && !cancellation_token().is_cancelled());
}

#[apply(both)]
async fn a_blocking_closure_hears_the_request_in_the_grace() {
    let pool = with_grace(Duration::MAX).build();
    let (begun, running) = oneshot::channel();
    pool.spawn_blocking(move || {
        let token = cancellation_token();
        begun.send(token.is_cancelled()).unwrap();
        Handle::current().block_on(token.cancelled());
    });
    cancelled_once(&pool, async { assert_eq!(running.await, Ok(false)) }).await.unwrap();
}

#[apply(both)]
async fn a_blocking_closure_hears_the_request_also_without_a_grace() {
    let (log, pool) = (Log::default(), Pool::<BoxError>::new());
    let (begun, running) = oneshot::channel();
    let said = log.clone();
    pool.spawn_blocking(move || {
        let token = cancellation_token();
        begun.send(()).unwrap();
        said.push(format!("old token {}", hears(&token)));
        said.push(format!("new token {}", hears(&cancellation_token())));
    });
    cancelled_once(&pool, async { running.await.unwrap() }).await.unwrap();
    assert_eq!(log.events(), ["old token true", "new token true"]);
}

#[apply(both)]
async fn a_token_that_was_given_away_is_cancelled_also_without_a_grace() {
    let pool: Pool = Pool::new();
    let (give, given) = oneshot::channel();
    pool.spawn(async move {
        drop(give.send(cancellation_token()));
        pending::<()>().await
    });
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let token = given.await.unwrap();
    assert!(!token.is_cancelled());
    pool.cancel();
    run.await.unwrap();
    assert!(token.is_cancelled());
}

#[apply(both)]
async fn a_token_that_was_given_away_is_cancelled_when_the_pool_has_ended_by_itself() {
    with_and_without_grace(async |w: Witness| {
        let outcome: Outcome<_> = w.builder().open(async |_| Ok(cancellation_token())).await;
        assert!(outcome.unwrap().is_cancelled());
    })
    .await;
}

#[apply(both)]
async fn destructors_of_what_is_aborted_see_a_token_that_is_cancelled() {
    with_and_without_grace(async |w: Witness| {
        let log = w.log.clone();
        let pool = with_grace(if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO }).build();
        let at_abort = OnDrop::new(move || log.push(cancellation_token().is_cancelled().to_string()));
        pool.spawn(async move {
            let _at_abort = at_abort;
            pending::<()>().await
        });
        pool.cancel_on(async {
            for _ in 0..5 {
                yield_now().await;
            }
        });
        pool.run().await.unwrap();
        assert_eq!(w.log.events(), ["true"]);
    })
    .await;
}

#[apply(both)]
async fn destructors_of_a_body_that_is_cut_short_see_a_token_that_is_cancelled() {
    with_and_without_grace(async |w: Witness| {
        let grace = if w.has_grace() { Duration::from_millis(1) } else { Duration::ZERO };
        let outcome: Outcome = with_grace(grace)
            .open(async |pool| {
                let log = w.log.clone();
                let _at_abort = OnDrop::new(move || log.push(cancellation_token().is_cancelled().to_string()));
                pool.cancel();
                pending().await
            })
            .await;
        assert!(outcome.unwrap_err().is_cancelled());
        assert_eq!(w.log.events(), ["true"]);
    })
    .await;
}

#[apply(both)]
async fn a_token_can_be_given_away_to_tasks_outside_of_the_pool() {
    let outcome: Outcome<_> = with_grace(Duration::MAX)
        .open(async |pool| {
            let (token, (begun, running)) = (cancellation_token(), oneshot::channel());
            let outside = tokio::spawn(async move {
                begun.send(token.is_cancelled()).unwrap();
                token.cancelled_owned().await;
                7
            });
            assert!(!running.await?);
            assert!(!outside.is_finished());
            pool.cancel();
            Ok(outside.await?)
        })
        .await;
    assert_eq!(outcome.unwrap(), 7);
}

#[apply(both)]
async fn child_tokens_are_asked_with_their_parents_and_not_the_other_way_round() {
    let outcome: Outcome = with_grace(Duration::MAX)
        .open(async |pool| {
            let token = cancellation_token();
            let (child, other) = (token.child_token(), token.child_token());
            other.cancel();
            assert!(!token.is_cancelled() && !child.is_cancelled() && !pool.is_closed());
            pool.cancel();
            child.cancelled().await;
            assert!(token.is_cancelled() && token.child_token().is_cancelled());
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_user_who_cancels_the_token_does_not_close_the_pool() {
    with_and_without_grace(async |w: Witness| {
        let outcome: Outcome<_> = w
            .builder()
            .open(async |pool| {
                let sibling = pool.spawn_with_handle(async {
                    asked().await;
                    Ok(1)
                });
                cancellation_token().cancel();
                let heard = sibling.await?;
                assert!(!pool.is_closed() && poll_once(pin!(pool.cancelled())).await.is_pending());
                let later = pool.spawn_with_handle(async { Ok(2) });
                Ok((heard, later.await?))
            })
            .await;
        assert_eq!(outcome.unwrap(), (1, 2));
    })
    .await;
}
