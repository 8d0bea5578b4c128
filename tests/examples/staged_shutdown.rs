//! `examples/staged_shutdown.rs`: what has come in by the time of the signal is kept.

use std::fs;

use tokio::net::UdpSocket;

use crate::process::{End, Process};

/// As many as the operating system keeps for a process that does not run, and more than fit into a batch.
const READINGS: usize = 100;

/// Stops the collector when it has received everything, but has not looked at any of it.
async fn collected(signal: &str, path: &str, datagrams: &[String]) -> End {
    let mut process = Process::example("staged_shutdown", &[path]);
    let address = process.stdout.until("listening on ").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    process.signal("-STOP");
    for datagram in datagrams {
        socket.send_to(datagram.as_bytes(), address.trim_start_matches("listening on ")).await.unwrap();
    }
    process.signal(signal);
    process.end_by("-CONT").await
}

#[tokio::test]
async fn each_stage_closes_after_the_one_before_and_nothing_is_lost() {
    for signal in ["-TERM", "-INT"] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("readings").to_str().unwrap().to_owned();
        let mut datagrams: Vec<_> = (0..READINGS).map(|n| format!("living room {n}.5\n")).collect();
        datagrams.extend(["cellar", "cellar cold", ""].map(String::from));
        let end = collected(signal, &path, &datagrams).await;
        assert_eq!((end.code, end.stderr.len()), (Some(0), 0), "{end:#?}");
        let stages = [
            format!("intake closed: {} datagrams", READINGS + 3),
            format!("parser closed: {READINGS} readings, and 3 datagrams that are none"),
            format!("storage closed: {READINGS} readings are on the disk"),
        ];
        assert_eq!(end.stdout[1..], stages);
        let kept: String = (0..READINGS).map(|n| format!("living room\t{n}.5\n")).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
    }
}

#[tokio::test]
async fn what_was_kept_before_stays() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("readings").to_str().unwrap().to_owned();
    for degrees in ["20", "21"] {
        collected("-TERM", &path, &[format!("hall {degrees}")]).await;
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "hall\t20\nhall\t21\n");
}

#[tokio::test]
async fn a_storage_that_cannot_be_opened_ends_it() {
    let end = Process::example("staged_shutdown", &["/nowhere/readings"]).end().await;
    assert_eq!(end.code, Some(1), "{end:#?}");
    assert!(end.stderr.concat().contains("storage"), "{end:#?}");
}
