//! The examples as built processes: what they print, what they do to real files, sockets and servers, and how they end.
#![cfg(unix)]

mod checksum;
mod crawl;
mod latch;
#[cfg_attr(not(feature = "signal"), expect(dead_code, reason = "the services need the feature"))]
mod process;
mod quickstart;
mod race_mirrors;
mod test_helper;

#[cfg(feature = "signal")]
mod echo_server;
#[cfg(feature = "signal")]
mod staged_shutdown;

#[cfg(feature = "tracing")]
mod stuck;
