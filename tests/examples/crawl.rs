//! `examples/crawl.rs` against its own site, and against one that fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::{Process, within};

#[tokio::test]
async fn each_page_is_found_once() {
    let end = Process::example("crawl", &[]).end().await;
    assert_eq!((end.code, &end.stderr[..]), (Some(0), &[][..]));
    let (last, pages) = end.stdout.split_last().unwrap();
    assert_eq!(last, "100 pages, 0 failures");
    let found: BTreeSet<_> = pages.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    let all = (2..=100).map(|page| format!("/{page}")).chain(["/".to_owned()]);
    assert_eq!(found, all.collect());
    assert!(pages[0].starts_with("/: "), "{}", pages[0]);
}

/// Pages without an end, of which each has three links; those above 20 are not there.
async fn answer(mut client: TcpStream) -> std::io::Result<()> {
    let mut request = vec![0; 1024];
    let length = client.read(&mut request).await?;
    let path = String::from_utf8_lossy(&request[..length]).split(' ').nth(1).unwrap_or("/").to_owned();
    let number: u32 = path.trim_start_matches('/').parse().unwrap_or(0);
    let page = match number {
        0..=20 => {
            let links = (1..=3).map(|n| format!("<a href=\"/{}\">", 3 * number + n));
            format!("HTTP/1.0 200 OK\r\n\r\n{}", links.collect::<String>())
        }
        _ => "HTTP/1.0 404 Not Found\r\n\r\n".to_owned(),
    };
    client.write_all(page.as_bytes()).await?;
    client.shutdown().await
}

#[tokio::test]
async fn the_first_five_failures_end_it_and_no_more_than_ten_requests_are_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let server = tokio::spawn({
        let counts = Arc::clone(&counts);
        async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let counts = Arc::clone(&counts);
                tokio::spawn(async move {
                    let open = counts[0].fetch_add(1, Ordering::SeqCst) + 1;
                    counts[1].fetch_max(open, Ordering::SeqCst);
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    counts[0].fetch_sub(1, Ordering::SeqCst);
                    drop(answer(client).await);
                });
            }
        }
    });
    let end = within(Process::example("crawl", &[&host]).end()).await;
    server.abort();
    assert_eq!(end.code, Some(1));
    let (last, failures) = end.stderr.split_last().unwrap();
    assert!(last.starts_with("crawl: given up after ") && last.ends_with(" failures"), "{last}");
    assert_eq!(failures.len(), 5);
    for failure in failures {
        assert!(failure.starts_with("crawl: task \"/") && failure.ends_with(" failed: status 404"), "{failure}");
    }
    let most = counts[1].load(Ordering::SeqCst);
    assert!((2..=10).contains(&most), "{most} at a time");
}
