//! Three workers on a real Redis server, of which one is killed and one is stopped.
#![cfg(unix)]

#[path = "../../../tests/examples/process.rs"]
#[expect(dead_code, reason = "it also finds examples of the crate")]
mod process;

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener};
use std::process::{Child, Command as BlockingCommand, Stdio};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, Started};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamPendingCountReply, StreamPendingReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::sleep;

use self::process::{DEADLINE, Process, within};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

const JOBS: usize = 10_000;

/// For how long a worker may have a job. The others wait as long before they do what it has left behind.
const IDLE_MS: &str = "2000";

// ===== the queue =====

/// A server of its own, on a port of its own, that keeps nothing.
struct Redis {
    /// The parent of the server, which kills it when its stdin is closed: also if this process is killed.
    guard: Child,
    folder: TempDir,
    url: String,
}

impl Redis {
    /// `None` if there is no such program. In CI there has to be.
    async fn start() -> Option<(Self, MultiplexedConnection)> {
        if BlockingCommand::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "`redis-server` is not installed");
            // The test harness would keep the lines of `eprintln!` to itself.
            drop(writeln!(std::io::stderr(), "skipped: `redis-server` is not installed"));
            return None;
        }
        let started = async {
            loop {
                // Somebody else may take a free port first.
                let mut redis = Self::start_on(free_port());
                if let Some(connection) = redis.connect().await {
                    return (redis, connection);
                }
            }
        };
        Some(within(started).await)
    }

    fn start_on(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"exec 3<&0; "$@" & server=$!; { cat; kill -9 $server; } <&3 >/dev/null 2>&1 & wait $server"#;
        let mut guard = BlockingCommand::new("sh");
        guard.args(["-c", script, "sh", "redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
        guard.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder.path());
        let guard = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { guard, folder, url: format!("redis://127.0.0.1:{port}/") }
    }

    /// `None` if the server has ended.
    async fn connect(&mut self) -> Option<MultiplexedConnection> {
        let client = Client::open(&*self.url).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        while self.guard.try_wait().unwrap().is_none() {
            if let Ok(mut connection) = client.get_multiplexed_async_connection_with_config(&config).await {
                let mut folder = redis::cmd("CONFIG");
                let folder: Vec<String> = folder.arg(&["GET", "dir"]).query_async(&mut connection).await.ok()?;
                // Or it is somebody else's.
                if folder.last().is_some_and(|folder| *folder == *self.folder.path().to_str().unwrap()) {
                    return Some(connection);
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        None
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

fn free_port() -> u16 {
    BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Adds the jobs, and notes what their answers have to be.
async fn add(redis: &mut MultiplexedConnection, address: SocketAddr, texts: &[String]) -> HashMap<String, String> {
    let mut add = redis::pipe();
    for text in texts {
        add.xadd("jobs", "*", &[("address", &address.to_string()), ("text", text)]);
    }
    let ids: Vec<String> = add.query_async(redis).await.unwrap();
    ids.into_iter().zip(texts.iter().map(|text| answer_to(text))).collect()
}

/// Which worker has the job with this answer.
async fn owner(redis: &mut MultiplexedConnection, jobs: &HashMap<String, String>, text: &str) -> String {
    let (id, _) = jobs.iter().find(|(_, answer)| **answer == answer_to(text)).unwrap();
    let pending: StreamPendingCountReply = redis.xpending_count("jobs", "workers", id, id, 1).await.unwrap();
    pending.ids.into_iter().next().expect("it cannot be done yet").consumer
}

// ===== what the jobs call =====

#[derive(Clone)]
struct Service {
    /// How often each text came.
    calls: watch::Sender<HashMap<String, usize>>,
    /// Texts that get no answer before they are released.
    held: HashMap<&'static str, LatchEvent>,
}

fn answer_to(text: &str) -> String {
    format!("done: {text}")
}

impl Service {
    fn new() -> Self {
        let held = HashMap::from(["hold 1", "hold 2"].map(|text| (text, LatchEvent::new())));
        Self { calls: watch::Sender::default(), held }
    }

    async fn serve(self, started: Started<SocketAddr>) -> Result<(), BoxError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        started.ready(listener.local_addr()?);
        let pool: Pool = Pool::current();
        loop {
            let (client, _) = listener.accept().await?;
            let service = self.clone();
            // A worker that was killed does not take its answer.
            pool.build_task().daemon().spawn(async move { drop(service.answer(client).await) });
        }
    }

    async fn answer(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut text = String::new();
        client.read_to_string(&mut text).await?;
        self.calls.send_modify(|calls| *calls.entry(text.clone()).or_default() += 1);
        if let Some(released) = self.held.get(&*text) {
            released.wait_set().await;
        }
        if text == "garble" && self.calls(&text) == 1 {
            return client.write_all(b"not \xFFutf-8").await;
        }
        client.write_all(answer_to(&text).as_bytes()).await
    }

    fn calls(&self, text: &str) -> usize {
        self.calls.borrow()[text]
    }

    async fn until_called(&self, text: &str) {
        let mut calls = self.calls.subscribe();
        drop(within(calls.wait_for(|calls| calls.contains_key(text))).await.unwrap());
    }
}

// ===== tests =====

#[tokio::test]
async fn without_a_server_it_says_how_to_start_one() {
    // A port that only root could listen on, and does not.
    let end = Process::start(Command::new(WORKER).arg("redis://127.0.0.1:1/")).end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(1), 0), "{end:#?}");
    let said = end.stderr.last().unwrap();
    assert!(said.contains("redis://127.0.0.1:1/") && said.contains("redis-server"), "{end:#?}");
}

#[tokio::test]
async fn every_job_is_done_while_one_worker_is_killed_and_one_is_stopped() -> Result<(), PoolError> {
    let Some((redis, connection)) = Redis::start().await else { return Ok(()) };
    let service = Service::new();
    Pool::open(async |pool: Pool| {
        let address =
            pool.build_task().name("service").daemon().start(|started| service.clone().serve(started)).await?;
        all_jobs_are_done(&redis, connection, &service, address).await;
        Ok(())
    })
    .await
}

async fn all_jobs_are_done(
    redis: &Redis,
    mut connection: MultiplexedConnection,
    service: &Service,
    address: SocketAddr,
) {
    // The second half is added when one worker is gone.
    let mut texts: Vec<_> = (0..JOBS).map(|n| format!("job {n}")).collect();
    texts[100] = "garble".into();
    texts[JOBS / 10] = "hold 1".into();
    texts[JOBS / 2 + JOBS / 10] = "hold 2".into();
    let (first, second) = texts.split_at(JOBS / 2);
    let mut jobs = add(&mut connection, address, first).await;
    let mut workers = HashMap::new();
    for name in ["ada", "bob", "cyd"] {
        let mut worker = Command::new(WORKER);
        let worker = Process::start(worker.args([&redis.url, name]).env("WORKER_IDLE_MS", IDLE_MS));
        workers.insert(name.to_owned(), worker);
    }
    for (name, worker) in &workers {
        worker.stdout.until(&format!("{name} takes jobs")).await;
    }

    // One is killed in the middle of a job.
    service.until_called("hold 1").await;
    let killed = owner(&mut connection, &jobs, "hold 1").await;
    let end = workers.remove(&killed).unwrap().end_by("-KILL").await;
    assert_eq!(end.code, None, "{end:#?}");
    service.held["hold 1"].set();

    // One is stopped while it has a job that it cannot finish.
    jobs.extend(add(&mut connection, address, second).await);
    service.until_called("hold 2").await;
    let stopped = owner(&mut connection, &jobs, "hold 2").await;
    let end = workers.remove(&stopped).unwrap().end_by("-TERM").await;
    assert_eq!(end.code, Some(0), "{end:#?}");
    assert!(end.stdout.last().unwrap().starts_with(&format!("{stopped} stops, and gives back [")), "{end:#?}");
    service.held["hold 2"].set();

    // The last one does all that is left, and stops when it has nothing to do.
    let all_done = async {
        while connection.hlen::<_, usize>("answers").await.unwrap() < JOBS {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(all_done).await;
    let (last, mut worker) = workers.drain().next().unwrap();
    let end = worker.end_by("-TERM").await;
    assert_eq!((end.code, &*end.stdout[1]), (Some(0), &*format!("{last} stops, and gives back []")), "{end:#?}");

    let answers: HashMap<String, String> = connection.hgetall("answers").await.unwrap();
    assert!(answers == jobs);
    let pending: StreamPendingReply = connection.xpending("jobs", "workers").await.unwrap();
    assert_eq!((pending.count(), connection.xlen::<_, usize>("jobs").await.unwrap()), (0, 0));
    for again in ["garble", "hold 1", "hold 2"] {
        assert!(service.calls(again) > 1, "{again}");
    }
}
