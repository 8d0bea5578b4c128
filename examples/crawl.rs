//! Results as they complete: reads a web site from its first page on, ten pages at a time, and prints each as it comes.
//!
//! `cargo run --example crawl -- 127.0.0.1:8080` crawls the site there; with nothing, one of its own on loopback. Links
//! that are found on the way are added to the group. The first five failures end it.

use std::collections::{HashSet, VecDeque};
use std::env;
use std::process::ExitCode;

use aiodrive::{BoxError, Pool, PoolError, TaskGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const AT_A_TIME: usize = 10;
const FAILURES: usize = 5;

#[tokio::main]
async fn main() -> Result<ExitCode, PoolError> {
    Pool::open(async |pool: Pool| {
        let host = match env::args().nth(1) {
            Some(host) => host,
            None => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let host = listener.local_addr()?.to_string();
                pool.build_task().name("site").daemon().spawn(serve(listener));
                host
            }
        };
        Ok(crawl(&host).await)
    })
    .await
}

/// 1. The crawler: as many requests as there is room for, then the next answer, whichever that is.
async fn crawl(host: &str) -> ExitCode {
    let (mut waiting, mut seen) = (VecDeque::from(["/".to_owned()]), HashSet::from(["/".to_owned()]));
    let (mut group, mut pages, mut failures) = (TaskGroup::new(), 0, 0);
    while failures < FAILURES {
        while group.len() < AT_A_TIME {
            let Some(path) = waiting.pop_front() else { break };
            group.build_task().name(path.clone()).spawn(fetch(host.to_owned(), path));
        }
        let Some(page) = group.next().await else {
            println!("{pages} pages, {failures} failures");
            return if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        };
        match page {
            Ok((path, links)) => {
                pages += 1;
                println!("{path}: {} links", links.len());
                waiting.extend(links.into_iter().filter(|link| seen.insert(link.clone())));
            }
            Err(failed) => {
                failures += 1;
                eprintln!("crawl: {failed}");
            }
        }
    }
    // The other requests are aborted. Some may have failed meanwhile.
    failures += group.shutdown().await.len();
    eprintln!("crawl: given up after {pages} pages and {failures} failures");
    ExitCode::FAILURE
}

/// 2. A page, and the links in it.
async fn fetch(host: String, path: String) -> Result<(String, Vec<String>), BoxError> {
    let mut server = TcpStream::connect(&host).await?;
    server.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    server.read_to_string(&mut answer).await?;
    let (head, page) = answer.split_once("\r\n\r\n").ok_or("no answer of HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("status {status}").into());
    }
    let links = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    Ok((path, links.filter(|link| link.starts_with('/')).map(str::to_owned).collect()))
}

/// 3. A site of 100 pages, each with links to two others, and back to the first.
async fn serve(listener: TcpListener) -> Result<(), BoxError> {
    loop {
        let (client, _) = listener.accept().await?;
        Pool::<BoxError>::current().build_task().daemon().spawn(answer(client));
    }
}

async fn answer(mut client: TcpStream) -> Result<(), BoxError> {
    let mut request = vec![0; 1024];
    let length = client.read(&mut request).await?;
    let path = String::from_utf8_lossy(&request[..length]).split(' ').nth(1).unwrap_or("/").to_owned();
    let number: u32 = path.trim_start_matches('/').parse().unwrap_or(1);
    let links = [2 * number, 2 * number + 1].into_iter().filter(|page| *page <= 100);
    let links: String = links.map(|page| format!("<a href=\"/{page}\">{page}</a>\n")).collect();
    let page = format!("HTTP/1.0 200 OK\r\n\r\n<a href=\"/\">first</a>\n{links}");
    client.write_all(page.as_bytes()).await?;
    Ok(client.shutdown().await?)
}
