//! A server on axum whose requests are members of a pool.
//!
//! `cargo run -p aiodrive-frameworks --bin axum -- [ADDRESS]` prints the address that it listens on. Press Ctrl-C while
//! `curl ADDRESS/report` waits: the request has ten seconds to finish. A second Ctrl-C aborts what is left.
//!
//! `axum::serve` spawns a task for each connection with `tokio::spawn`. Those tasks are axum's own: no pool can wait
//! for them. So the middleware puts each *request* into the pool, and `axum::serve`, which waits for its connections,
//! is a task of the pool.

use std::{env, process::ExitCode, time::Duration};

use aiodrive::{BoxError, Pool, cancellation_token};
use aiodrive_frameworks::{ask, setting};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use tokio::{net::TcpListener, time::sleep};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("{address}: {error}"))?;
    let pool: Pool = Pool::builder().name("web").grace(Duration::from_millis(setting("GRACE_MS", 10_000))).build();
    pool.cancel_on_signals();
    println!("listening on {}", listener.local_addr()?);
    pool.build_task().name("axum").essential().spawn(serve(listener));
    pool.clone().run().await?;
    // When the grace is over, or at the second signal.
    let cut_off = pool.overrun();
    cut_off.iter().for_each(|task| eprintln!("cut off: {task}"));
    Ok(if cut_off.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(listener: TcpListener) -> Result<(), BoxError> {
    let routes = Router::new()
        .route("/", get(tree))
        .route("/part", get(part))
        .route("/report", get(report))
        .route("/slow", get(slow))
        .layer(middleware::from_fn_with_state(Pool::current(), in_pool));
    // Stops accepting connections, then waits until those that are open have sent their last response.
    let stop = cancellation_token().cancelled_owned();
    Ok(axum::serve(listener, routes).with_graceful_shutdown(stop).await?)
}

/// Makes each request a member of the pool, which waits for it, and can abort it. A task of axum's polls it.
async fn in_pool(State(pool): State<Pool>, request: Request, next: Next) -> Response {
    let name = format!("{} {}", request.method(), request.uri().path());
    eprintln!("{name}");
    let request = pool.build_task().name(name).track_future(next.run(request));
    // If the request is aborted, the process is about to end: the client sees the end of the connection, if not this.
    request.await.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

/// Answers at once, with all that is going on.
async fn tree() -> String {
    Pool::<BoxError>::current().tree().to_string()
}

async fn part() -> Result<String, (StatusCode, String)> {
    ask("part").await.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
}

/// Asks three back ends at once. If one fails, it aborts the others.
///
/// This pool has no grace of its own. At a shutdown it has the time of the request around it, which is the server's.
async fn report() -> Result<String, (StatusCode, String)> {
    let report = Pool::open(async |pool: Pool| {
        let parts = ["users", "orders", "stock"];
        let asked = parts.map(|part| pool.build_task().name(part).spawn_with_handle(ask(part)));
        let mut report = String::new();
        for answer in asked {
            report += &answer.await?;
        }
        Ok(report)
    });
    report.await.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
}

/// Takes longer than any grace.
async fn slow() -> &'static str {
    sleep(Duration::from_secs(3_600)).await;
    "at last"
}
