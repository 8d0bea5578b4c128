//! How to find out what keeps a service from stopping: the tree, the warning, and the error that names the culprit.
//!
//! ```sh
//! cargo run --features tracing --example stuck
//! ```

use std::sync::mpsc;
use std::time::Duration;

use aiodrive::{Pool, cancellation_token};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() {
    // Warnings of the crate go to stderr.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let (release, released) = mpsc::channel();
    let (started, running) = oneshot::channel();

    let service: Pool = Pool::builder()
        .name("service")
        .grace(Duration::from_millis(100))
        .warn_every(Duration::from_millis(500))
        .abandon_after(Duration::from_secs(3))
        .build();

    // This one stops at the signal.
    service.build_task().name("requests").spawn(async {
        cancellation_token().cancelled().await;
    });
    // This one does not: a blocking call cannot be aborted.
    service.build_task().name("reports").spawn(async {
        Pool::open(async |pool: Pool| {
            pool.build_task().name("old printer").spawn_blocking(move || {
                let _ = started.send(());
                let _: Result<(), _> = released.recv();
            });
            Ok(())
        })
        .await?;
        Ok(())
    });

    // What an operator sees, some time after the shutdown has begun.
    let asked = service.clone();
    let operator = tokio::spawn(async move {
        drop(running.await);
        asked.cancel_with("shutdown");
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("{:#}", asked.tree());
    });

    let error = service.run().await.unwrap_err();
    operator.await.unwrap();
    println!("{error}");
    assert_eq!(error.stuck().last().unwrap().name(), Some("old printer"));
    // A runtime waits for its blocking threads.
    drop(release);
}
