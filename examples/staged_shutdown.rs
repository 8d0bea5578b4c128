//! How to stop in order: the intake closes first, then what has come in is finished, and the storage closes last.
//!
//! `cargo run --example staged_shutdown --features signal -- FILE` prints the address at which it takes readings by
//! UDP, such as `hall 21.5`, and appends them to the file. Ctrl-C or SIGTERM stops it, and loses none; a second signal
//! aborts it.

use std::env;
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolError, cancellation_token};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

struct Reading {
    place: String,
    degrees: f64,
}

#[tokio::main]
async fn main() -> Result<(), PoolError> {
    let file = env::args().nth(1).unwrap_or_else(|| "readings.txt".into());
    let (datagrams, received) = mpsc::channel(1_000);
    let (readings, parsed) = mpsc::channel(1_000);

    // Each depth has the time of a grace to end, and the next one is cancelled when the one above has ended. Without
    // depths, the storage would be cancelled together with the intake, and lose what is still on its way.
    let pool: Pool = Pool::builder().name("readings").grace(Duration::from_secs(5)).build();
    pool.cancel_on_signals();
    pool.build_task().name("intake").depth(1).spawn(take_in(datagrams));
    pool.build_task().name("parser").depth(0).spawn(parse(received, readings));
    pool.build_task().name("storage").depth(-1).spawn(store(file, parsed));
    pool.run().await
}

async fn take_in(datagrams: mpsc::Sender<Vec<u8>>) -> Result<(), BoxError> {
    let (socket, mut chunk, mut count) = (UdpSocket::bind("127.0.0.1:0").await?, [0; 1_500], 0);
    println!("listening on {}", socket.local_addr()?);
    let stop = cancellation_token();
    loop {
        let received = match stop.run_until_cancelled(socket.recv(&mut chunk)).await {
            Some(received) => received,
            None => socket.try_recv(&mut chunk), // what the operating system has taken by now
        };
        let Ok(length) = received else { break };
        datagrams.send(chunk[..length].to_vec()).await?;
        count += 1;
    }
    println!("intake closed: {count} datagrams");
    Ok(())
}

async fn parse(mut datagrams: mpsc::Receiver<Vec<u8>>, readings: mpsc::Sender<Reading>) -> Result<(), BoxError> {
    let (mut good, mut bad) = (0, 0);
    while let Some(datagram) = next(&mut datagrams).await {
        let text = String::from_utf8_lossy(&datagram);
        let reading = text.trim().rsplit_once(' ').and_then(|(place, degrees)| Some((place, degrees.parse().ok()?)));
        if let Some((place, degrees)) = reading {
            readings.send(Reading { place: place.into(), degrees }).await?;
            good += 1;
        } else {
            bad += 1;
        }
    }
    println!("parser closed: {good} readings, and {bad} datagrams that are none");
    Ok(())
}

async fn store(path: String, mut readings: mpsc::Receiver<Reading>) -> Result<(), BoxError> {
    let (mut file, mut count) = (BufWriter::new(File::options().append(true).create(true).open(path).await?), 0);
    while let Some(Reading { place, degrees }) = next(&mut readings).await {
        file.write_all(format!("{place}\t{degrees}\n").as_bytes()).await?;
        count += 1;
    }
    file.flush().await?;
    file.get_ref().sync_all().await?;
    println!("storage closed: {count} readings are on the disk");
    Ok(())
}

/// The next item, until this depth is cancelled. Then nobody sends any more, and only what has been sent is left.
async fn next<T>(items: &mut mpsc::Receiver<T>) -> Option<T> {
    cancellation_token().run_until_cancelled(items.recv()).await.unwrap_or_else(|| items.try_recv().ok())
}
