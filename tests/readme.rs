//! The test that README.md shows, which a documentation test would leave out.

use aiodrive::{BoxError, Pool, PoolError, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn serve(started: Started<std::net::SocketAddr>) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    started.ready(listener.local_addr()?);
    loop {
        listener.accept().await?.0.write_all(b"hello").await?;
    }
}

#[tokio::test]
async fn the_server_says_hello() -> Result<(), PoolError> {
    Pool::open(async |pool: Pool| {
        let address = pool.build_task().name("server").daemon().start(serve).await?;
        let mut answer = String::new();
        TcpStream::connect(address).await?.read_to_string(&mut answer).await?;
        assert_eq!(answer, "hello");
        Ok(())
    })
    .await
}

#[test]
fn the_readme_shows_this_test() {
    let (_, below) = include_str!("readme.rs").split_once("\n\n").unwrap();
    let (shown, _) = below.split_once("\n#[test]\n").unwrap();
    assert!(include_str!("../README.md").contains(&format!("```rust\n{shown}```\n")), "README.md shows another test");
}
