//! A service in a pool: it starts in order, outlives the failures of its connections, and stops in order at a signal.
//!
//! `cargo run --example echo_server --features signal -- [ADDRESS]` prints the address that it listens on, and sends
//! back what it is sent. Ctrl-C or SIGTERM lets the connections finish; a second one ends the process at once.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aiodrive::{BoxError, OnFailure, Pool, PoolError, Started, TaskError};
use aiodrive::{cancellation_token, prime, shutdown_signal, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

/// The tasks besides the connections: listener, storage, metrics, and the one that waits for a signal.
const STAFF: usize = 4;
/// A client that sends nothing for so long has nothing on its way: acknowledgements take up to 200 ms.
const PAUSE: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> ExitCode {
    match serve(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into())).await {
        Err(error) if !error.is_cancelled() => {
            log(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

async fn serve(address: String) -> Result<(), PoolError> {
    let pool = Pool::builder()
        .name("echo")
        .limit(setting("ECHO_CONNECTIONS", 5_000) as usize + 2) // and the listener and the storage; daemons are free
        .grace(Duration::from_millis(setting("ECHO_GRACE_MS", 5_000)))
        .on_failure(only_end_the_connection);
    let opened = pool.open(async |pool: Pool| {
        pool.cancel_on(prime(first_signal())); // primed, it listens from here on
        let (storage, echoed) = mpsc::channel(1_000);
        let total = Arc::new(AtomicU64::new(0));
        pool.build_task().name("storage").depth(-1).spawn(store(echoed, Arc::clone(&total)));
        pool.build_task().name("metrics").daemon().spawn(report(total));
        let listener = pool.build_task().name("listener").depth(1).start(|started| listen(address, started, storage));
        // Without an address the listener has failed, and its error is the pool's.
        let Ok(address) = listener.await else { return Ok(()) };
        Ok(writeln!(io::stdout(), "listening on {address}")?) // flushes, as every line does
    });
    opened.await
}

/// Before the pool learns of the first signal, somebody waits for the second: not a task of the pool, which would be
/// stopped with it.
async fn first_signal() {
    shutdown_signal().await;
    tokio::spawn(prime(async {
        shutdown_signal().await;
        process::exit(130)
    }));
    log("stopping; a second signal ends it at once");
}

/// A failed connection is its client's trouble. Without the listener or the storage there is nothing to go on with.
fn only_end_the_connection(failed: &TaskError) -> OnFailure {
    let connection = failed.task().name().is_some_and(|name| name.starts_with("conn "));
    if !connection {
        return OnFailure::Cancel;
    }
    log(failed);
    OnFailure::Discard
}

/// Stops first: at depth 1.
async fn listen(address: String, started: Started<SocketAddr>, storage: mpsc::Sender<u64>) -> Result<(), BoxError> {
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("{address}: {error}"))?;
    started.ready(listener.local_addr()?);
    cancellation_token().run_until_cancelled(accept(&listener, &storage)).await;
    Ok(())
}

async fn accept(listener: &TcpListener, storage: &mpsc::Sender<u64>) {
    let pool: Pool = Pool::current();
    loop {
        // Clients above the limit wait in the queue of the operating system.
        pool.ready().await;
        match listener.accept().await {
            Ok((client, peer)) => pool.build_task().name(format!("conn {peer}")).spawn(echo(client, storage.clone())),
            Err(error) => {
                // A client that has given up already, or too many open files: neither is for ever.
                log(format_args!("cannot accept: {error}"));
                sleep(PAUSE).await;
            }
        }
    }
}

/// Stops next: at depth 0, with all that its client has sent by then. A client that does not pause is cut off when the
/// grace is over.
async fn echo(mut client: TcpStream, storage: mpsc::Sender<u64>) -> Result<(), BoxError> {
    let idle = Duration::from_millis(setting("ECHO_IDLE_MS", 60_000));
    let (stop, mut chunk) = (cancellation_token(), vec![0; 16 * 1024]);
    loop {
        let stopping = stop.is_cancelled();
        let read = timeout(if stopping { PAUSE } else { idle }, client.read(&mut chunk));
        let read = select! {
            read = read => read,
            () = stop.cancelled(), if !stopping => continue,
        };
        // The client has sent all, or nothing for too long.
        let length @ 1.. = read.unwrap_or(Ok(0))? else { break };
        let chunk = &chunk[..length];
        assert!(chunk != b"panic\n", "the client wanted it"); // to see that the others go on
        timeout(idle, client.write_all(chunk)).await??;
        storage.send(length as u64).await?;
    }
    client.shutdown().await?;
    // To close with bytes unread would reset the connection, and could overtake the echo.
    while let Ok(Ok(1..)) = timeout(PAUSE, client.read(&mut chunk)).await {}
    Ok(())
}

/// Stops last: at depth -1. When it is asked to, all that could send has ended, and the channel is closed.
async fn store(mut echoed: mpsc::Receiver<u64>, total: Arc<AtomicU64>) {
    while let Some(bytes) = echoed.recv().await {
        total.fetch_add(bytes, Ordering::Relaxed);
    }
    log(format_args!("storage closed: {} bytes", total.load(Ordering::Relaxed)));
}

/// A daemon holds nothing open, but has to stop when it is asked to: or the pool spends its grace on it.
async fn report(total: Arc<AtomicU64>) {
    let (pool, stop) = (Pool::<BoxError>::current(), cancellation_token());
    let mut second = interval(Duration::from_secs(1));
    while stop.run_until_cancelled(second.tick()).await.is_some() {
        let connections = pool.len().saturating_sub(STAFF);
        log(format_args!("{connections} connections, {} bytes", total.load(Ordering::Relaxed)));
    }
}

fn log(line: impl Display) {
    // `eprintln!` would panic if nobody reads stderr any more.
    drop(writeln!(io::stderr(), "{line}"));
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
