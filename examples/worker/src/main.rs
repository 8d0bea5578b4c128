//! A pool as the worker of a queue: jobs from a Redis stream, shared by as many workers as one likes, and none lost.
//!
//! `cargo run -p aiodrive-worker -- [URL [NAME]]`; each worker has a name of its own. For a job, run the
//! example `echo_server` too: `redis-cli XADD jobs '*' address 127.0.0.1:PORT text hello`, then `HGETALL answers`.

use std::{env, process, time::Duration};

use aiodrive::{BoxError, OnFailure, Pool, PoolError, timeout};
use redis::streams::{StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection, cmd, pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JOBS: &str = "jobs";
const GROUP: &str = "workers";
const BATCH: &str = "16"; // jobs that are taken at once
const LIMIT: usize = 16; // jobs that are done at a time

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1/".into());
    let name = env::args().nth(2).unwrap_or_else(|| process::id().to_string());
    let idle = env::var("WORKER_IDLE_MS").map_or(Ok(60_000), |idle| idle.parse())?;
    let client = redis::Client::open(&*url)?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let connect = || client.get_multiplexed_async_connection_with_config(&config);
    // Waiting for new jobs keeps a connection busy: it takes a second one to acknowledge the others.
    let (Ok(waiting), Ok(redis)) = (connect().await, connect().await) else {
        Err(format!("no Redis at {url}: `apt-get install redis-server`, then `redis-server --save ''` starts one"))?
    };
    let worker = Worker { redis, name, idle: Duration::from_millis(idle) };
    let worked = worker.work(waiting).await;
    // Here, no job runs any more.
    println!("{} stops, and gives back {:?}", worker.name, worker.give_back().await?);
    worked.or_else(|error| if error.is_cancelled() { Ok(()) } else { Err(error.into()) })
}

#[derive(Clone)]
struct Worker {
    redis: MultiplexedConnection,
    name: String,
    idle: Duration, // how long a job may take: after that, others take it over
}

impl Worker {
    async fn work(&self, mut redis: MultiplexedConnection) -> Result<(), PoolError> {
        let pool = Pool::builder().limit(LIMIT).grace(self.idle / 2).on_failure(|failed| {
            eprintln!("{failed}"); // of a job: whoever takes it over tries again
            OnFailure::Discard
        });
        let opened = pool.open(async |pool: Pool| {
            pool.cancel_on_signals();
            // It may be there already.
            drop(cmd("XGROUP").arg(&["CREATE", JOBS, GROUP, "0", "MKSTREAM"]).exec_async(&mut redis).await);
            println!("{} takes jobs", self.name);
            let (me, idle, mut position) = (&*self.name, &*self.idle.as_millis().to_string(), "0-0".to_owned());
            while !pool.is_closed() {
                pool.ready().await;
                // What is new, and what others have failed to do or have died of.
                let mut ask = pipe();
                ask.cmd("XREADGROUP").arg(&["GROUP", GROUP, me, "COUNT", BATCH, "BLOCK", "500", "STREAMS", JOBS, ">"]);
                ask.cmd("XAUTOCLAIM").arg(&[JOBS, GROUP, me, idle, &position, "COUNT", BATCH]);
                let (new, old): (Option<StreamReadReply>, StreamAutoClaimReply) = ask.query_async(&mut redis).await?;
                let new = new.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids);
                for job in new.chain(old.claimed) {
                    pool.build_task().name(format!("job {}", job.id)).spawn(self.clone().answer(job));
                }
                position = old.next_stream_id;
            }
            Ok(())
        });
        opened.await
    }

    /// The answer and the acknowledgement arrive together, or not at all. A job that fails or is aborted stays pending.
    async fn answer(mut self, job: StreamId) -> Result<(), BoxError> {
        let (address, text): (String, String) = job.get("address").zip(job.get("text")).ok_or("a field is missing")?;
        let call = async {
            let (mut service, mut answer) = (TcpStream::connect(address).await?, String::new());
            service.write_all(text.as_bytes()).await?;
            service.shutdown().await?;
            service.read_to_string(&mut answer).await.map(|_| answer)
        };
        let answer = timeout(self.idle, call).await??;
        let mut done = pipe();
        done.atomic().hset("answers", &job.id, answer).xack(JOBS, GROUP, &[&job.id]).xdel(JOBS, &[&job.id]);
        Ok(done.exec_async(&mut self.redis).await?)
    }

    /// Lets the jobs that it has not done look as if they had been idle for long enough.
    async fn give_back(&self) -> RedisResult<Vec<String>> {
        let (mut pending, mut claim, mut redis) = (cmd("XPENDING"), cmd("XCLAIM"), self.redis.clone());
        pending.arg(&[JOBS, GROUP, "-", "+", "1000", &self.name]);
        let pending: StreamPendingCountReply = pending.query_async(&mut redis).await?;
        claim.arg(&[JOBS, GROUP, &self.name, "0"]).arg(pending.ids.iter().map(|job| &job.id).collect::<Vec<_>>());
        claim.arg("IDLE").arg(self.idle.as_millis() as u64).arg("JUSTID").query_async(&mut redis).await
    }
}
