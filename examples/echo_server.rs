//! A service in a pool: it starts in order, outlives the failures of its connections, and stops in order at a signal.
//!
//! `cargo run --example echo_server --features signal -- [ADDRESS]` prints the address that it listens on, and sends
//! back what it is sent. Ctrl-C or SIGTERM lets the connections finish; a second signal aborts what is left.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, net::SocketAddr, process::ExitCode, time::Duration};

use aiodrive::{BoxError, OnFailure, Pool, Started, cancellation_token, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A client that sends nothing for so long has nothing on its way: acknowledgements take up to 200 ms.
const PAUSE: Duration = Duration::from_millis(250);

static ECHOED_BYTES: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> ExitCode {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let limit = setting("ECHO_CONNECTIONS", 5_000) as usize;
    let pool = Pool::builder().limit(limit).grace(Duration::from_millis(setting("ECHO_GRACE_MS", 5_000)));
    let pool = pool.on_failure(|failed| {
        eprintln!("{failed}"); // of a connection: the others go on
        OnFailure::Discard
    });
    let served = pool.open(async |pool: Pool| {
        pool.cancel_on_signals();
        // Without these two there is nothing to go on with. The listener stops first, the storage last.
        let storage = pool.build_task().name("storage").on_failure(OnFailure::Cancel).essential().daemon().depth(-1);
        storage.spawn(store());
        let listener =
            pool.build_task().name("listener").on_failure(OnFailure::Cancel).essential().unlimited().depth(1);
        let address = listener.start(|started| listen(address, started)).await?; // if it fails, the pool has its error
        println!("listening on {address}");
        pool.cancelled().await;
        eprintln!("stopping; a second signal aborts what is left");
        pool.idle().await;
        Ok(()) // not if connections are aborted, since the body is then aborted with them
    });
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
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
            // The client has gone already, or too many files are open: neither is for ever.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}

/// When the server stops, it echoes what its client has sent by then. A client that does not pause is cut off after the
/// grace.
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

/// Stops when all connections have ended. A daemon that did not listen would cost the pool its grace.
async fn store() {
    let (pool, stop) = (Pool::<BoxError>::current(), cancellation_token());
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
        // The connections, the listener and the storage.
        eprintln!("{} tasks, {} bytes", pool.len(), ECHOED_BYTES.load(Relaxed));
    }
    eprintln!("storage closed: {} bytes", ECHOED_BYTES.load(Relaxed));
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
