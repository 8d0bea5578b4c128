//! A flag that is waited on in both directions: uploads pause while the link is down, and none is lost.
//!
//! `cargo run --example latch` has three tasks upload readings to a server that goes down after every ten.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, OnFailure, Pool, PoolError, TaskError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::time::sleep;

const READINGS: u8 = 30;

type Shared = Arc<Mutex<Store>>;

/// What the server has.
#[derive(Default)]
struct Store {
    arrived: BTreeSet<u8>,
    /// From every tenth reading on, until it is up again, nothing gets in.
    is_down: bool,
}

impl Store {
    /// Takes a reading in, and says whether it may be confirmed.
    fn keep(&mut self, reading: u8) -> bool {
        self.is_down = self.is_down || self.arrived.insert(reading) && self.arrived.len() % 10 == 0;
        !self.is_down
    }
}

#[tokio::main]
async fn main() -> Result<(), PoolError> {
    let (online, store) = (LatchEvent::new(), Shared::default());
    Pool::open(async |pool: Pool| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        pool.build_task().name("server").daemon().spawn(serve(listener, Arc::clone(&store), online.clone()));
        // At a depth that closes first: the end of the program is no outage.
        pool.build_task().name("link").daemon().depth(1).spawn(watch_link(address, online.clone()));
        for first in 0..3 {
            pool.build_task().name(format!("uploader {first}")).spawn(upload_all(first, address, online.clone()));
        }
        Ok(())
    })
    .await?;
    println!("{} of {READINGS} readings have arrived", store.lock().unwrap().arrived.len());
    Ok(())
}

/// Keeps a connection, and says whether there is one.
async fn watch_link(address: SocketAddr, online: LatchEvent) {
    loop {
        if let Ok(mut link) = TcpStream::connect(address).await {
            online.set();
            println!("online");
            drop(link.read(&mut [0]).await); // nothing ever comes but the end of it
            online.unset();
            println!("offline");
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn upload_all(first: u8, address: SocketAddr, online: LatchEvent) {
    for reading in (first..READINGS).step_by(3) {
        loop {
            online.wait_set().await;
            // From this call on no outage is missed, however short. An upload that fails waits for the one it has met.
            let offline = online.wait_unset();
            select! {
                Ok(()) = upload(reading, address) => break,
                () = offline => {}
            }
        }
    }
}

async fn upload(reading: u8, address: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(address).await?;
    server.write_u8(reading).await?;
    server.read_u8().await.map(drop)
}

/// The other side. To go down is to close a pool: then nothing of it is left, not even a connection.
async fn serve(mut listener: TcpListener, store: Shared, online: LatchEvent) -> Result<(), BoxError> {
    let address = listener.local_addr()?;
    loop {
        let pool = Pool::builder().on_failure(|_: &TaskError| OnFailure::Discard); // of clients that have gone
        let up = pool.open(async |pool: Pool| {
            // At a depth that closes first: nobody gets through to a server that goes down.
            pool.build_task().depth(1).spawn(accept(listener, Arc::clone(&store)));
            Ok(())
        });
        drop(up.await);
        online.wait_unset().await; // it stays down until that has been noticed
        store.lock().unwrap().is_down = false;
        listener = TcpListener::bind(address).await?;
    }
}

async fn accept(listener: TcpListener, store: Shared) {
    let pool = Pool::<BoxError>::current();
    while let Ok((client, _)) = listener.accept().await {
        pool.spawn(answer(client, Arc::clone(&store)));
    }
    pool.cancel();
}

async fn answer(mut client: TcpStream, store: Shared) -> Result<(), BoxError> {
    let reading = client.read_u8().await?;
    if !store.lock().unwrap().keep(reading) {
        Pool::<BoxError>::current().cancel();
        return pending().await; // its client gets no answer, and will upload it again
    }
    Ok(client.write_u8(reading).await?)
}
