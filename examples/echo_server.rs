//! A service in a pool: it starts in order, outlives the failures of its connections, and stops in order at a signal.
//!
//! `cargo run --example echo_server --features signal -- [ADDRESS]` prints the address that it listens on, and sends
//! back what it is sent. Ctrl-C or SIGTERM lets the connections finish; a second one ends the process at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, net::SocketAddr, process, time::Duration};

use aiodrive::{BoxError, OnFailure, Pool, Started, cancellation_token, prime, shutdown_signal, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A client that sends nothing for so long has nothing on its way: acknowledgements take up to 200 ms.
const PAUSE: Duration = Duration::from_millis(250);

static ECHOED_BYTES: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> process::ExitCode {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let limit = setting("ECHO_CONNECTIONS", 5_000) as usize + 1; // and the listener; daemons are free
    let pool = Pool::builder().limit(limit).grace(Duration::from_millis(setting("ECHO_GRACE_MS", 5_000)));
    let pool = pool.on_failure(|failed| {
        eprintln!("{failed}");
        // A connection's is its client's trouble. Without the others there is nothing to go on with.
        let is_connection = failed.task().name().is_some_and(|name| name.starts_with("conn "));
        if is_connection { OnFailure::Discard } else { OnFailure::Cancel }
    });
    let served = pool.open(async |pool: Pool| {
        pool.cancel_on(prime(first_signal())); // primed, it listens from here on
        pool.build_task().name("storage").depth(-1).daemon().spawn(store()); // stops last
        let listener = pool.build_task().name("listener").depth(1); // stops first
        let address = listener.start(|started| listen(address, started)).await?; // if it fails, the pool has its error
        println!("listening on {address}");
        Ok(())
    });
    process::ExitCode::from(u8::from(served.await.is_err_and(|error| !error.is_cancelled())))
}

/// Before it says so, somebody waits for a second one: not a task of the pool, which would be stopped with it.
async fn first_signal() {
    shutdown_signal().await;
    tokio::spawn(prime(async {
        shutdown_signal().await;
        process::exit(130)
    }));
    eprintln!("stopping; a second signal ends it at once");
}

async fn listen(address: String, started: Started<SocketAddr>) -> Result<(), BoxError> {
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("{address}: {error}"))?;
    started.ready(listener.local_addr()?);
    let (pool, stop) = (Pool::current(), cancellation_token());
    while stop.run_until_cancelled(pool.ready()).await.is_some() {
        // clients above the limit wait in the system's queue
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        match accepted.inspect_err(|error| eprintln!("cannot accept: {error}")) {
            Ok((client, peer)) => pool.build_task().name(format!("conn {peer}")).spawn(echo(client)),
            // It has given up already, or too many files are open: neither is for ever.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}

/// When asked to stop, it echoes what its client has sent by then. One that does not pause is cut off after the grace.
async fn echo(mut client: TcpStream) -> Result<(), BoxError> {
    let idle = Duration::from_millis(setting("ECHO_IDLE_MS", 60_000));
    let (stop, mut chunk) = (cancellation_token(), vec![0; 16 * 1024]);
    loop {
        let stopping = stop.is_cancelled();
        let read = tokio::select! {
            read = timeout(if stopping { PAUSE } else { idle }, client.read(&mut chunk)) => read,
            () = stop.cancelled(), if !stopping => continue,
        };
        let length @ 1.. = read.unwrap_or(Ok(0))? else { break }; // it has sent all, or nothing for too long
        assert!(&chunk[..length] != b"panic\n", "the client wanted it"); // to see that the others go on
        timeout(idle, client.write_all(&chunk[..length])).await??;
        ECHOED_BYTES.fetch_add(length as u64, Relaxed);
    }
    client.shutdown().await?;
    // To close with bytes unread would reset the connection, and could overtake the echo.
    while let Ok(Ok(1..)) = timeout(PAUSE, client.read(&mut chunk)).await {}
    Ok(())
}

/// Is asked to stop when all connections have ended. A daemon that did not would cost the pool its grace.
async fn store() {
    let (pool, stop) = (Pool::<BoxError>::current(), cancellation_token());
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
        eprintln!("{} tasks, {} bytes", pool.len(), ECHOED_BYTES.load(Relaxed)); // connections, and up to three others
    }
    eprintln!("storage closed: {} bytes", ECHOED_BYTES.load(Relaxed));
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
