//! What README.md shows and a documentation test would leave out: a test, and a program that needs a feature.

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
    let test = Pool::open(async |pool: Pool| {
        let address = pool.build_task().name("server").daemon().start(serve).await?;
        let mut answer = String::new();
        TcpStream::connect(address).await?.read_to_string(&mut answer).await?;
        assert_eq!(answer, "hello");
        Ok(())
    });
    test.await
}

#[cfg(feature = "signal")]
use self::service::{Duration, accept_connections, store};

#[cfg(feature = "signal")]
mod service {
    pub use std::time::Duration;

    use aiodrive::cancellation_token;

    pub async fn accept_connections() {
        cancellation_token().cancelled().await;
    }

    pub async fn store() {
        cancellation_token().cancelled().await;
    }
}

#[cfg(feature = "signal")]
#[tokio::main]
async fn main() -> Result<(), PoolError> {
    let pool: Pool = Pool::builder().name("web").grace(Duration::from_secs(10)).build();
    pool.cancel_on_signals(); // with the feature `signal`
    pool.build_task().name("listener").depth(1).spawn(accept_connections());
    pool.build_task().name("storage").depth(-1).spawn(store());
    pool.run().await
}

/// README.md has the item that begins with this attribute, in a block of this language.
#[track_caller]
fn assert_shown(language: &str, attribute: &str) {
    let (_, below) = include_str!("readme.rs").split_once(&format!("\n{attribute}\n")).unwrap();
    let (body, _) = below.split_once("\n}\n").unwrap();
    let block = format!("```{language}\n{attribute}\n{body}\n}}\n```\n");
    assert!(include_str!("../README.md").contains(&block), "README.md does not show:\n{block}");
}

#[test]
fn the_readme_shows_this_test() {
    assert_shown("rust", "#[tokio::test]");
}

#[test]
fn the_readme_shows_this_program() {
    assert_shown("rs", "#[tokio::main]");
}

#[test]
fn the_readme_is_short() {
    assert!(include_str!("../README.md").lines().count() <= 170);
}
