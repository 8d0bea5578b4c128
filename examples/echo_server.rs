//! A service in a pool: it starts in order, outlives the failures of its connections, and stops in order at a signal.
//!
//! `cargo run --example echo_server --features signal -- [ADDRESS]` prints the address that it listens on, and sends
//! back what it is sent. Ctrl-C or SIGTERM lets the connections finish; a second one ends the process at once.

use std::io::{self, Write};
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, fmt::Display, net::SocketAddr, sync::Arc, time::Duration};

use aiodrive::{BoxError, OnFailure, Pool, Started, cancellation_token, prime, shutdown_signal, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::{select, sync::mpsc, time};

/// A client that sends nothing for so long has nothing on its way: acknowledgements take up to 200 ms.
const PAUSE: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> ExitCode {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let limit = setting("ECHO_CONNECTIONS", 5_000) as usize + 2; // and the listener and the storage; daemons are free
    let pool = Pool::builder().limit(limit).grace(Duration::from_millis(setting("ECHO_GRACE_MS", 5_000)));
    let pool = pool.on_failure(|failed| {
        // A connection's is its client's trouble. Without the listener or the storage there is nothing to go on with.
        if !failed.task().name().is_some_and(|name| name.starts_with("conn ")) {
            return OnFailure::Cancel;
        }
        log(failed);
        OnFailure::Discard
    });
    let served = pool.open(async |pool: Pool| {
        pool.cancel_on(prime(first_signal())); // primed, it listens from here on
        let ((storage, echoed), total) = (mpsc::channel(1_000), Arc::new(AtomicU64::new(0)));
        pool.build_task().name("storage").depth(-1).spawn(store(echoed, Arc::clone(&total))); // stops last
        pool.build_task().name("metrics").daemon().spawn(report(total));
        let listener = pool.build_task().name("listener").depth(1); // stops first
        // Without an address the listener has failed, and its error is the pool's.
        let Ok(address) = listener.start(|started| listen(address, started, storage)).await else { return Ok(()) };
        Ok(writeln!(io::stdout(), "listening on {address}")?)
    });
    let failure = served.await.err().filter(|error| !error.is_cancelled());
    failure.map_or(ExitCode::SUCCESS, |error| {
        log(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Before it says so, somebody waits for a second one: not a task of the pool, which would be stopped with it.
async fn first_signal() {
    shutdown_signal().await;
    tokio::spawn(prime(async {
        shutdown_signal().await;
        process::exit(130)
    }));
    log("stopping; a second signal ends it at once");
}

async fn listen(address: String, started: Started<SocketAddr>, storage: mpsc::Sender<u64>) -> Result<(), BoxError> {
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("{address}: {error}"))?;
    started.ready(listener.local_addr()?);
    let (pool, stop) = (Pool::current(), cancellation_token());
    let accept = async || {
        pool.ready().await; // clients above the limit wait in the queue of the operating system
        listener.accept().await
    };
    while let Some(accepted) = stop.run_until_cancelled(accept()).await {
        match accepted {
            Ok((client, peer)) => pool.build_task().name(format!("conn {peer}")).spawn(echo(client, storage.clone())),
            // It has given up already, or too many files are open: neither is for ever.
            Err(error) => {
                log(format_args!("cannot accept: {error}"));
                time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// When asked to stop, it echoes what its client has sent by then. One that does not pause is cut off after the grace.
async fn echo(mut client: TcpStream, storage: mpsc::Sender<u64>) -> Result<(), BoxError> {
    let idle = Duration::from_millis(setting("ECHO_IDLE_MS", 60_000));
    let (stop, mut chunk) = (cancellation_token(), vec![0; 16 * 1024]);
    loop {
        let stopping = stop.is_cancelled();
        let read = select! {
            read = timeout(if stopping { PAUSE } else { idle }, client.read(&mut chunk)) => read,
            () = stop.cancelled(), if !stopping => continue,
        };
        let length @ 1.. = read.unwrap_or(Ok(0))? else { break }; // it has sent all, or nothing for too long
        assert!(&chunk[..length] != b"panic\n", "the client wanted it"); // to see that the others go on
        timeout(idle, client.write_all(&chunk[..length])).await??;
        storage.send(length as u64).await?;
    }
    client.shutdown().await?;
    // To close with bytes unread would reset the connection, and could overtake the echo.
    while let Ok(Ok(1..)) = timeout(PAUSE, client.read(&mut chunk)).await {}
    Ok(())
}

async fn store(mut echoed: mpsc::Receiver<u64>, total: Arc<AtomicU64>) {
    while let Some(bytes) = echoed.recv().await {
        total.fetch_add(bytes, Relaxed);
    }
    log(format_args!("storage closed: {} bytes", total.load(Relaxed)));
}

/// A daemon holds nothing open, but has to stop when it is asked to: or the pool spends its grace on it.
async fn report(total: Arc<AtomicU64>) {
    let (pool, stop, mut second) =
        (Pool::<BoxError>::current(), cancellation_token(), time::interval(Duration::from_secs(1)));
    while stop.run_until_cancelled(second.tick()).await.is_some() {
        let connections = pool.len().saturating_sub(4); // without listener, storage, metrics, and who waits for a signal
        log(format_args!("{connections} connections, {} bytes", total.load(Relaxed)));
    }
}

fn log(line: impl Display) {
    drop(writeln!(io::stderr(), "{line}")); // `eprintln!` would panic if nobody reads stderr any more
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
