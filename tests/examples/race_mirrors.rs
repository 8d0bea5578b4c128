//! `examples/race_mirrors.rs`: mirrors that are dead, mute and well, those of the example and others.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::process::{Process, within};

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn its_own_mirrors_are_tried_in_order() {
    let end = Process::example("race_mirrors", &[]).end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(0), 3), "{end:#?}");
    assert!(end.stdout[0].contains(": Connection refused"), "{end:#?}");
    assert!(end.stdout[1].ends_with(": welcome"), "{end:#?}");
    assert!(end.stdout[2].ends_with(": the client has gone, after 0 bytes"), "{end:#?}");
}

/// The dead one is found out at once, and the mute ones are given up when there is a winner.
#[tokio::test]
async fn the_first_that_answers_wins_and_the_others_are_let_go() {
    let ((_, dead), (mute, second), (mute_too, third), (well, fourth)) =
        (listener().await, listener().await, listener().await, listener().await);
    let mut process = Process::example("race_mirrors", &[&dead, &second, &third, &fourth]);
    let (mut loser, _) = within(mute.accept()).await.unwrap();
    let (mut loser_too, _) = within(mute_too.accept()).await.unwrap();
    let (mut winner, _) = within(well.accept()).await.unwrap();
    winner.write_all(b"220 ready\r\n").await.unwrap();
    let end = process.end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(0), 2), "{end:#?}");
    assert!(end.stdout[0].starts_with(&format!("{dead}: Connection refused")), "{end:#?}");
    assert_eq!(end.stdout[1], format!("{fourth}: 220 ready"));
    for loser in [&mut loser, &mut loser_too] {
        assert_eq!(within(loser.read(&mut [0])).await.unwrap(), 0);
    }
}

/// The slow one is still in the race.
#[tokio::test]
async fn an_earlier_mirror_may_still_win_when_later_ones_have_begun() {
    let ((slow, first), (mute, second)) = (listener().await, listener().await);
    let mut process = Process::example("race_mirrors", &[&first, &second]);
    let (mut winner, _) = within(slow.accept()).await.unwrap();
    let _loser = within(mute.accept()).await.unwrap();
    winner.write_all(b"at last\n").await.unwrap();
    let end = process.end().await;
    assert_eq!((end.code, end.stdout), (Some(0), vec![format!("{first}: at last")]));
}

#[tokio::test]
async fn when_all_have_failed_it_says_so() {
    let (dead, (rude, second)) = (listener().await.1, listener().await);
    let mut process = Process::example("race_mirrors", &[&dead, &second]);
    drop(within(rude.accept()).await.unwrap());
    let end = process.end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(1), 3), "{end:#?}");
    assert!(end.stdout[1].starts_with(&format!("{second}: ")), "{end:#?}");
    assert_eq!(end.stdout[2], "no mirror answers");
}
