//! What does nothing, or stops something, when it is dropped unused.

#![deny(unused_must_use)]

use aiodrive::{
    BoxError, Pool, Started, cancel_task, prime, race, shield, timeout, timeout_at, try_all, wait_all, with_exit,
};
use std::future::{pending, ready};
use std::time::Duration;

async fn futures(pool: Pool) {
    Pool::open(async |_: Pool| Ok(()));
    Pool::builder().open(async |_: Pool| Ok(()));
    pool.ready();
    pool.cancelled();
    pool.start(async |started| started.ready(()));
    pool.build_task().start(async |started| started.ready(()));
    pool.clone().run();
    race([ready(1)]);
    try_all([ready(std::io::Result::Ok(1))]);
    wait_all([ready(std::io::Result::Ok(1))]);
    shield(ready(1));
    prime(ready(1));
    timeout(Duration::ZERO, ready(1));
    timeout_at(tokio::time::Instant::now(), ready(1));
    cancel_task(tokio::spawn(ready(1)));
    with_exit((), async |_| std::io::Result::Ok(()), |_, _| ready(Ok(())));
}

fn builders(pool: Pool) {
    Pool::<BoxError>::builder().name("unused");
    Pool::<BoxError>::builder().build();
    pool.build_task().name("unused");
    Pool::<BoxError>::new();
    Pool::<BoxError>::current();
}

fn handles(pool: Pool) {
    pool.spawn_with_handle(async { Ok(1) });
    pool.build_task().spawn_with_handle(async { Ok(1) });
    let handle = pool.spawn_with_handle(async { Ok(1) });
    handle.is_finished();
    handle.id();
}

fn given_back(started: Started<u8>) -> Started<u8> {
    started
}

fn starts(started: Started<u8>) {
    given_back(started);
}

fn answers(pool: Pool) {
    pool.try_spawn(pending::<()>());
    pool.build_task().try_spawn(pending::<()>());
    pool.root_tree();
    pool.closing_reason();
    pool.is_empty();
    pool.is_closed();
    pool.len();
    pool.tree();
}

async fn results(pool: Pool) {
    pool.run().await;
}

fn main() {}
