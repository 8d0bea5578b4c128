//! A server on hyper whose connections are tasks of a pool, and so are the streams of HTTP/2.
//!
//! `cargo run -p aiodrive-frameworks --bin hyper -- [ADDRESS]` prints the address that it listens on. Press Ctrl-C
//! while `curl ADDRESS/report` waits, or `curl --http2-prior-knowledge ADDRESS/report`: the request has ten seconds to
//! finish. A second Ctrl-C aborts what is left.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, net::SocketAddr, pin::pin, process::ExitCode, time::Duration};

use aiodrive::{BoxError, OnFailure, Pool, cancellation_token};
use aiodrive_frameworks::{ask, setting};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("{address}: {error}"))?;
    let limit = setting("CONNECTIONS", 1_000) as usize;
    let pool = Pool::builder().name("web").limit(limit).grace(Duration::from_millis(setting("GRACE_MS", 10_000)));
    let pool = pool.on_failure(|failed| {
        eprintln!("{failed}"); // of a connection: the others go on
        OnFailure::Discard
    });
    let pool: Pool = pool.build();
    pool.cancel_on_signals();
    println!("listening on {}", listener.local_addr()?);
    // The listener stops first, the log last: after all connections.
    let listening = pool.build_task().name("listener").depth(1).unlimited().essential().on_failure(OnFailure::Cancel);
    listening.spawn(listen(listener));
    pool.build_task().name("log").depth(-1).unlimited().spawn(log());
    pool.clone().run().await?;
    // When the grace is over, or at the second signal.
    let cut_off = pool.overrun();
    cut_off.iter().for_each(|task| eprintln!("cut off: {task}"));
    Ok(if cut_off.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn listen(listener: TcpListener) {
    let (pool, stop): (Pool, _) = (Pool::current(), cancellation_token());
    while stop.run_until_cancelled(pool.ready()).await.is_some() {
        // clients above the limit wait in the system's queue
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        match accepted.inspect_err(|error| eprintln!("cannot accept: {error}")) {
            Ok((client, peer)) => pool.build_task().name(format!("conn {peer}")).spawn(connection(client, peer)),
            // The client has gone already, or too many files are open: neither is for ever.
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    }
}

/// Speaks HTTP/1 or HTTP/2, whichever the client begins with.
///
/// When the server stops, `graceful_shutdown` takes no further request, and closes the connection after the last
/// response. What is left after the grace is aborted.
async fn connection(client: TcpStream, peer: SocketAddr) -> Result<(), BoxError> {
    let (stop, streams) = (cancellation_token(), Streams { pool: Pool::current(), peer });
    let builder = auto::Builder::new(streams);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(client), service_fn(answer)));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Makes each stream of HTTP/2 a task of the pool. A request of HTTP/1 runs in the task of its connection.
#[derive(Clone)]
struct Streams {
    pool: Pool,
    peer: SocketAddr,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // Not limited: it would wait for connections to end, and they for it.
        self.pool.build_task().name(format!("stream of {}", self.peer)).unlimited().spawn(stream);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    eprintln!("{} {}", request.method(), request.uri().path());
    REQUESTS.fetch_add(1, Relaxed);
    let answer = match request.uri().path() {
        "/" => Ok(Pool::<BoxError>::current().tree().to_string()), // at once, all that is going on
        "/part" => ask("part").await,
        "/report" => report().await,
        "/slow" => slow().await,
        _ => return Ok(response(StatusCode::NOT_FOUND, String::new())),
    };
    Ok(answer.map_or_else(
        |error| response(StatusCode::BAD_GATEWAY, error.to_string()),
        |text| response(StatusCode::OK, text),
    ))
}

fn response(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
}

/// Asks three back ends at once. If one fails, it aborts the others.
///
/// This pool has no grace of its own. At a shutdown it has the time of the task around it, which is the server's.
async fn report() -> Result<String, BoxError> {
    let report = Pool::open(async |pool: Pool| {
        let parts = ["users", "orders", "stock"];
        let asked = parts.map(|part| pool.build_task().name(part).spawn_with_handle(ask(part)));
        let mut report = String::new();
        for answer in asked {
            report += &answer.await?;
        }
        Ok(report)
    });
    Ok(report.await?)
}

/// Takes longer than any grace.
async fn slow() -> Result<String, BoxError> {
    sleep(Duration::from_secs(3_600)).await;
    Ok("at last".into())
}

/// Says at the very end how much there was to do. A second signal leaves no time for that.
async fn log() -> Result<(), BoxError> {
    cancellation_token().cancelled().await;
    eprintln!("requests: {}", REQUESTS.load(Relaxed));
    Ok(())
}
