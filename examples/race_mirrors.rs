//! The first to answer wins, and nobody is left running: connects to mirrors as browsers do ("happy eyeballs").
//!
//! `cargo run --example race_mirrors -- ADDRESS…` tries addresses at which the server speaks first, as mail servers do.
//! Without one it has mirrors of its own: one that is dead, one that never answers, and one that is well.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io, mem};

use aiodrive::{BoxError, Pool, race, timeout};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, oneshot};

/// How long an attempt has before the next one begins beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// The mirror, its connection, and the line with which it has answered.
type Answer = (SocketAddr, BufReader<TcpStream>, String);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let given: Vec<SocketAddr> = env::args().skip(1).map(|address| address.parse()).collect::<Result<_, _>>()?;
    if !given.is_empty() {
        return Ok(report(connect(&given).await));
    }
    // Nobody listens any more; connections only pile up; and one gets an answer.
    let dead = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let (mute, well) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let mirrors = [dead, mute.local_addr()?, well.local_addr()?];
    let opened = Pool::open(async |pool: Pool| {
        pool.build_task().name("mirror").daemon().spawn(async move {
            let (mut client, _) = well.accept().await?;
            client.write_all(b"welcome\n").await?;
            Ok(())
        });
        let code = report(connect(&mirrors).await);
        // The race has waited for the end of its losers: from this one there is nothing but the end of its connection.
        let (mut loser, _) = mute.accept().await?;
        println!("{}: the client has gone, after {} bytes", mirrors[1], loser.read(&mut [0]).await?);
        Ok(code)
    });
    Ok(opened.await?)
}

fn report(outcome: Option<Answer>) -> ExitCode {
    let Some((mirror, _connection, greeting)) = outcome else {
        println!("no mirror answers");
        return ExitCode::FAILURE;
    };
    println!("{mirror}: {}", greeting.trim_end());
    ExitCode::SUCCESS
}

/// Tries one mirror after the other, and does not wait for those that take their time. `None` if all have failed.
async fn connect(mirrors: &[SocketAddr]) -> Option<Answer> {
    let all_failed = Arc::new(Barrier::new(mirrors.len()));
    let (_, mut turn) = oneshot::channel::<Infallible>(); // the first one's turn has come
    let mut attempts = Vec::new();
    for &mirror in mirrors {
        let (next, next_turn) = oneshot::channel();
        let (turn, all_failed) = (mem::replace(&mut turn, next_turn), Arc::clone(&all_failed));
        attempts.push(async move {
            let Err(_) = turn.await; // the attempt before has let go of its end
            match attempt(mirror, next).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    println!("{mirror}: {error}");
                    // To finish would be to win: only when none can win any more, `None` does.
                    all_failed.wait().await;
                    None
                }
            }
        });
    }
    race(attempts).await.1
}

/// Lets go of `next` when it fails, or has not got an answer in time.
async fn attempt(mirror: SocketAddr, next: oneshot::Sender<Infallible>) -> io::Result<Answer> {
    let mut answer = Box::pin(greeting(mirror));
    if let Ok(in_time) = timeout(STAGGER, &mut answer).await {
        return in_time;
    }
    drop(next);
    answer.await
}

async fn greeting(mirror: SocketAddr) -> io::Result<Answer> {
    let (mut connection, mut line) = (BufReader::new(TcpStream::connect(mirror).await?), String::new());
    match connection.read_line(&mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((mirror, connection, line)),
    }
}
