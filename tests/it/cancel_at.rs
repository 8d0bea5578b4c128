//! `cancel_at`: a deadline for a pool.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use aiodrive::{ClosingReason, Pool};
use macro_rules_attribute::apply;
use tokio::time::{Instant, sleep};

use crate::support::{current_thread, elapsed, poll_once, secs};

#[apply(current_thread)]
async fn a_deadline_can_be_moved_and_taken_back() {
    let pool: Pool = Pool::new();
    let mover = pool.clone();
    pool.spawn(async move {
        let in_seconds = |seconds| mover.cancel_at(Some(Instant::now() + secs(seconds)));
        in_seconds(2);
        sleep(secs(1)).await;
        in_seconds(5);
        sleep(secs(1)).await;
        mover.cancel_at(None);
        sleep(secs(10)).await;
        in_seconds(1);
        in_seconds(3);
        pending::<()>().await
    });
    assert_eq!(elapsed(pool.clone().run()).await.0, 15);
    assert!(matches!(pool.closing_reason(), Some(ClosingReason::Deadline)));
    pool.cancel_at(Some(Instant::now()));
}

#[apply(current_thread)]
async fn a_deadline_may_be_over_or_beyond_all_clocks() {
    let pool: Pool = Pool::new();
    pool.spawn(pending::<()>());
    pool.cancel_at(Some(Instant::now() + Duration::from_secs(60 * 60 * 24 * 365 * 100)));
    let mut run = pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    sleep(secs(1_000)).await;
    assert!(poll_once(run.as_mut()).await.is_pending());
    pool.cancel_at(Some(Instant::now() - secs(1)));
    let error = run.await;
    assert!(error.is_ok());
}
