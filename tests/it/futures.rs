//! The futures of the functions: what they have in common.

use std::future::{Future, pending, ready};
use std::io;
use std::marker::PhantomPinned;
use std::pin::{Pin, pin};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, map, race, shield, timeout, try_all, wait_all};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::task::yield_now;

use crate::support::{
    Log, OnDrop, both, busy, current_thread, failures, panic_of, poll_once, quiet_panic, stays_pending, until,
};

// ===== functions that are dropped, and their Debug forms =====

#[apply(current_thread)]
async fn the_futures_of_functions_say_how_far_they_are() {
    let mut racing = race((async {}, busy()));
    assert_eq!(format!("{racing:?}"), "RaceFuture { decided: false }");
    yield_now().await;
    assert!(poll_once(Pin::new(&mut racing)).await.is_pending());
    assert_eq!(format!("{racing:?}"), "RaceFuture { decided: true }");
    assert_eq!(racing.await, (0, ()));

    let never = async {
        busy().await;
        Ok(())
    };
    let mut trying = try_all((async { Err::<(), BoxError>("broken".into()) }, never));
    assert_eq!(format!("{trying:?}"), "TryAllFuture { failed: false }");
    yield_now().await;
    assert!(poll_once(Pin::new(&mut trying)).await.is_pending());
    assert_eq!(format!("{trying:?}"), "TryAllFuture { failed: true }");
    assert_eq!(failures(trying.await.unwrap_err().failures()), ["error: broken"]);

    let waiting = wait_all([async { Ok::<_, BoxError>(()) }]);
    assert_eq!(format!("{waiting:?}"), "WaitAllFuture { .. }");
}

// ===== functions that are dropped with what they have =====

/// The caller holds these outputs, not a task, whose runtime would swallow the panic.
#[apply(both)]
async fn outputs_that_panic_as_a_function_is_dropped_go_no_further_outside_of_a_pool() {
    let (gate, log) = (LatchEvent::new(), Log::default());
    let panics = |event| {
        let gone = log.on_drop(event);
        OnDrop::new(move || {
            drop(gone);
            quiet_panic("in drop")
        })
    };
    let mut output = Some(panics("of timeout"));
    let mut limited = Box::pin(timeout(Duration::MAX, async {
        drop(shield(gate.wait_set()));
        output.take()
    }));
    stays_pending(limited.as_mut()).await;
    drop(limited);
    assert_eq!(log.events(), ["of timeout"]);
    gate.set();

    let tasks = || Handle::current().metrics().num_alive_tasks();
    until(|| tasks() == 0).await;
    let mut mapped = map(2, 0..2, |n| {
        let output = (n == 1).then(|| panics("of map"));
        async move {
            match output {
                Some(output) => Ok::<_, BoxError>(output),
                None => pending().await,
            }
        }
    });
    stays_pending(pin!(mapped.next())).await;
    until(|| tasks() == 1).await;
    // It takes the second, which waits for the first.
    stays_pending(pin!(mapped.next())).await;
    drop(mapped);
    assert_eq!(log.events(), ["of timeout", "of map"]);
}

// ===== wait_all =====

/// `Unpin` was a bound on the values, and on the errors of `wait_all`.
#[apply(both)]
async fn values_and_errors_need_not_be_unpin() {
    #[derive(Debug)]
    struct Fixed(PhantomPinned);

    impl From<Fixed> for BoxError {
        fn from(_: Fixed) -> Self {
            "fixed".into()
        }
    }

    fn fixed(fails: bool) -> Result<Fixed, Fixed> {
        let fixed = Fixed(PhantomPinned);
        if fails { Err(fixed) } else { Ok(fixed) }
    }

    assert!(race([async { Fixed(PhantomPinned) }]).await.0 == 0);
    assert!(try_all([async { fixed(false) }]).await.is_ok());
    assert!(try_all((async { fixed(false) }, async { fixed(true) })).await.is_err());
    let (value, error) = wait_all((async { fixed(false) }, async { fixed(true) })).await;
    assert!(value.is_ok() && error.is_err());
}

#[apply(both)]
async fn functions_polled_after_they_were_ready_say_so() {
    async fn poll_again<F: Future + Unpin>(mut future: F) -> String {
        drop((&mut future).await);
        panic_of(async move { drop(future.await) }).await
    }
    let value = || ready(io::Result::Ok(1));
    for (function, message) in [
        ("race", poll_again(race([value()])).await),
        ("try_all", poll_again(try_all([value()])).await),
        ("wait_all", poll_again(wait_all([value()])).await),
        ("shield", poll_again(shield(value())).await),
    ] {
        assert!(message.starts_with(&format!("`{function}`")), "{message}");
        assert!(message.ends_with("was polled after it was ready"), "{message}");
    }
}
