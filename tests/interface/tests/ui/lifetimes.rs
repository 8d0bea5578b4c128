//! What does not live long enough, or is used up.

use aiodrive::{BoxError, Pool, PoolError, Started, TaskHandle, prime};

/// It may run on another thread, and be dropped after the body.
async fn a_task_does_not_borrow_from_the_body() -> Result<(), PoolError> {
    Pool::open(async |pool: Pool| {
        let name = String::from("local");
        let borrowed = &name;
        pool.spawn(async move { println!("{borrowed}") });
        Ok(())
    })
    .await
}

async fn a_task_does_not_borrow_from_around_the_pool(name: String) -> Result<(), PoolError> {
    Pool::open(async |pool: Pool| {
        pool.spawn(async { println!("{name}") });
        Ok(())
    })
    .await
}

fn a_task_is_ready_once(started: Started<u8>) {
    started.ready(1);
    started.ready(2);
}

async fn a_pool_is_run_once(pool: Pool) {
    pool.run().await.unwrap();
    pool.run().await.unwrap();
}

async fn a_handle_is_awaited_once(handle: TaskHandle<u8>) {
    handle.await.unwrap();
    handle.await.unwrap();
}

async fn a_primed_future_is_awaited_once() {
    let primed = prime(std::future::ready(1));
    primed.await;
    primed.await;
}

async fn a_refused_future_is_given_back_once(pool: Pool) {
    let refused = pool.try_spawn(std::future::pending::<()>()).unwrap_err();
    drop((refused.into_inner(), refused.into_inner()));
}

fn an_error_is_taken_out_once(error: PoolError) -> [Option<BoxError>; 2] {
    [error.into_first_error(), error.into_first_error()]
}

fn main() {}
