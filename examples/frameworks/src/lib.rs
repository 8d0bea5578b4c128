//! What both servers ask: back ends that take their time.

use std::{env, time::Duration};

use aiodrive::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks a back end for its part of an answer. It takes two seconds; the one at the address in `BACKEND`, if that is
/// set, takes as long as it wants.
///
/// # Errors
///
/// Those of the connection to the back end.
pub async fn ask(part: &str) -> Result<String, BoxError> {
    let Ok(address) = env::var("BACKEND") else {
        tokio::time::sleep(Duration::from_secs(2)).await;
        return Ok(format!("{part}: 42\n"));
    };
    let mut backend = TcpStream::connect(address).await?;
    backend.write_all(format!("{part}\n").as_bytes()).await?;
    let mut answer = String::new();
    backend.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A number from the environment.
///
/// # Panics
///
/// If the variable is set to anything else.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
