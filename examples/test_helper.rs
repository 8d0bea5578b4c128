//! How to test with a pool: the server runs as a daemon, ends with the test, and fails the test if it fails itself.
//!
//! `cargo test --example test_helper` runs the tests at the end; `cargo run --example test_helper` shows what the
//! helper does.

use std::net::SocketAddr;

use aiodrive::{BoxError, Pool, PoolError, Started};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The helper. When it returns, the server and all that belongs to it has ended, also if the test has panicked.
async fn with_server<T>(test: impl AsyncFnOnce(SocketAddr) -> Result<T, BoxError>) -> Result<T, PoolError> {
    let opened = Pool::open(async |pool: Pool| {
        // A daemon does not hold the pool open. The address comes when the port is bound: no test waits for a time.
        let address = pool.build_task().name("server").daemon().start(serve).await?;
        test(address).await
    });
    opened.await
}

/// What is to be tested: it answers each line in capitals.
async fn serve(started: Started<SocketAddr>) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    started.ready(listener.local_addr()?);
    let pool = Pool::current();
    loop {
        let (client, _) = listener.accept().await?;
        pool.build_task().name("connection").daemon().spawn(answer(client));
    }
}

async fn answer(client: TcpStream) -> Result<(), BoxError> {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    while client.read_line(&mut line).await? > 0 {
        client.write_all(line.to_uppercase().as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// A client that sends bytes, and gives the line that comes back, if one does.
async fn ask(address: SocketAddr, bytes: &'static [u8]) -> Result<String, BoxError> {
    let (mut server, mut line) = (BufReader::new(TcpStream::connect(address).await?), String::new());
    server.write_all(bytes).await?;
    server.read_line(&mut line).await?;
    Ok(line)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let (address, answer) = with_server(async |address| Ok((address, ask(address, b"hello\n").await?))).await?;
    println!("during the test: {}", answer.trim_end());
    println!("after the test: {}", TcpStream::connect(address).await.unwrap_err());
    let failed = with_server(async |address| ask(address, b"\xFF\n").await).await;
    println!("when the server fails: {}", failed.unwrap_err());
    Ok(())
}

#[cfg(test)]
mod tests {
    use aiodrive::try_all;

    use super::*;

    #[tokio::test]
    async fn it_answers_in_capitals() -> Result<(), PoolError> {
        let test = with_server(async |address| {
            assert_eq!(ask(address, b"hello\n").await?, "HELLO\n");
            let both = try_all([ask(address, b"one\n"), ask(address, b"two\n")]).await?;
            assert_eq!(both, ["ONE\n", "TWO\n"]);
            Ok(())
        });
        test.await
    }

    #[tokio::test]
    async fn its_failures_are_those_of_the_test() {
        let error = with_server(async |address| ask(address, b"\xFF\n").await).await.unwrap_err();
        assert_eq!(error.failures().len(), 1);
        assert_eq!(error.first().unwrap().task().name(), Some("connection"));
    }

    #[tokio::test]
    async fn it_ends_with_the_test() -> Result<(), PoolError> {
        let address = with_server(async |address| Ok(address)).await?;
        assert!(TcpListener::bind(address).await.is_ok(), "somebody still listens");
        Ok(())
    }
}
