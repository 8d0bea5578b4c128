//! What the benches measure: each case is written once, and is known by a name. `aiodrive`'s own stand in one module,
//! the bare tokio code that does the same in another, under the same name.

pub mod bare;
pub mod compare;
pub mod ours;
pub mod peers;

use std::future::pending;
use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aiodrive::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};

/// The two kinds of runtime, with what the benches call them.
pub const FLAVOURS: [(&str, usize); 2] = [("current-thread", 0), ("2 workers", 2)];

/// How many tasks the jobs "limit", "group" and "map" let run at a time.
pub const LIMIT: usize = 64;

/// A runtime with so many workers, as services have it; none stands for the current-thread runtime.
pub fn runtime(workers: usize) -> Runtime {
    let mut builder = match workers {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(workers.max(1)).enable_all().build().expect("a runtime")
}

/// Does a job so many rounds, and says how long that took.
pub struct Case(Box<dyn Fn(usize, u64) -> Rounds>);

type Rounds = Pin<Box<dyn Future<Output = Duration> + Send>>;

impl Case {
    /// A job of which everything is measured. It is given its size, and returns what it is to be checked by: the same.
    pub fn whole<F>(job: fn(usize) -> F) -> Self
    where
        F: Future<Output = usize> + Send + 'static,
    {
        Self(Box::new(move |size, rounds| {
            Box::pin(async move {
                let begin = Instant::now();
                for _ in 0..rounds {
                    assert_eq!(job(size).await, size);
                }
                begin.elapsed()
            })
        }))
    }

    /// The same for a job whose tasks have requests, with a server that is there before and after.
    pub fn served<F>(job: fn(usize, Client) -> F) -> Self
    where
        F: Future<Output = usize> + Send + 'static,
    {
        Self(Box::new(move |size, rounds| {
            Box::pin(async move {
                let client = serve();
                assert_eq!(client.request(1).await, Ok(1));
                let begin = Instant::now();
                for _ in 0..rounds {
                    assert_eq!(job(size, client.clone()).await, size);
                }
                begin.elapsed()
            })
        }))
    }

    /// A job of which a part is measured; it says how long that took, and does its own checks.
    pub fn part<F>(job: fn(usize) -> F) -> Self
    where
        F: Future<Output = Duration> + Send + 'static,
    {
        Self(Box::new(move |size, rounds| {
            Box::pin(async move {
                let mut sum = Duration::ZERO;
                for _ in 0..rounds {
                    sum += job(size).await;
                }
                sum
            })
        }))
    }

    /// Runs in a task, where services do their work, all rounds in one: to wake a sleeping worker takes longer than
    /// most.
    pub fn run(&self, runtime: &Runtime, size: usize, rounds: u64) -> Duration {
        let rounds = (self.0)(size, rounds);
        runtime.block_on(async { tokio::spawn(rounds).await }).expect("it does not panic")
    }
}

/// A job, done by both.
pub struct Pair {
    pub name: &'static str,
    pub ours: Case,
    pub bare: Case,
}

/// All jobs that the bare tokio code can do as well.
pub fn pairs() -> Vec<Pair> {
    fn pair(name: &'static str, ours: Case, bare: Case) -> Pair {
        Pair { name, ours, bare }
    }
    vec![
        pair("pool", Case::whole(ours::pool), Case::whole(bare::pool)),
        pair("pool_waits", Case::whole(ours::pool_waits), Case::whole(bare::pool_waits)),
        pair("pool_round_trip", Case::served(ours::pool_round_trip), Case::served(bare::pool_round_trip)),
        pair("limit", Case::whole(ours::limit), Case::whole(bare::limit)),
        pair("group", Case::whole(ours::group), Case::whole(bare::group)),
        pair("map", Case::whole(ours::map), Case::whole(bare::map)),
        pair("map_unordered", Case::whole(ours::map_unordered), Case::whole(bare::group)),
        pair("map_buffered", Case::whole(ours::map), Case::whole(bare::buffered)),
        pair("threads", Case::whole(ours::threads), Case::whole(bare::threads)),
        pair("first_failure", Case::part(ours::first_failure), Case::part(bare::first_failure)),
        pair("echo", Case::part(ours::echo), Case::part(bare::echo)),
        pair("close", Case::part(ours::close), Case::part(bare::close)),
        pair("depths", Case::part(ours::depths), Case::part(bare::close)),
        pair("small_pools", Case::part(ours::small_pools), Case::part(bare::small_pools)),
        pair("tree", Case::part(ours::tree), Case::part(bare::tree)),
        pair("race", Case::whole(ours::race), Case::whole(bare::race)),
        pair("race_ready", Case::whole(ours::race_ready), Case::whole(bare::race_ready)),
        pair("try_all", Case::whole(ours::try_all), Case::whole(bare::try_all)),
        pair("try_all_fails", Case::whole(ours::try_all_fails), Case::whole(bare::try_all_fails)),
        pair("wait_all", Case::whole(ours::wait_all), Case::whole(bare::wait_all)),
        pair("latch", Case::part(ours::latch), Case::part(bare::latch)),
        pair("latch_loops", Case::part(ours::latch_loops), Case::part(bare::latch_loops)),
    ]
}

/// What others than tokio have for the job "pool", and whether it needs a multi-thread runtime.
pub fn peers() -> Vec<(&'static str, Case, bool)> {
    vec![
        ("`TaskTracker`", Case::whole(peers::task_tracker), false),
        ("`try_join_all` of `JoinHandle`s", Case::whole(peers::try_join_all_handles), false),
        ("`FuturesUnordered` of `JoinHandle`s", Case::whole(peers::futures_unordered), false),
        ("`futures-concurrency`, `JoinHandle`s", Case::whole(peers::futures_concurrency), false),
        ("`async-scoped`", Case::whole(peers::async_scoped), true),
        ("`tokio-graceful-shutdown`", Case::whole(peers::graceful_shutdown), false),
    ]
}

/// One of the jobs.
pub fn find(name: &str) -> Option<Pair> {
    pairs().into_iter().find(|pair| pair.name == name)
}

/// Yields until something holds.
pub async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        yield_now().await;
    }
}

/// Ends at once.
pub async fn trivial(n: usize) -> Result<(), BoxError> {
    black_box(n);
    Ok(())
}

/// Waits once.
pub async fn waits(n: usize) -> Result<(), BoxError> {
    yield_now().await;
    trivial(n).await
}

/// Has a request for a server, and waits for the answer.
pub async fn round_trip(n: usize, client: Client) -> Result<(), BoxError> {
    assert_eq!(client.request(n).await?, n);
    Ok(())
}

/// Sends requests to a server, which ends with the last of its clients.
#[derive(Clone, Debug)]
pub struct Client(mpsc::UnboundedSender<Request>);

#[derive(Debug)]
struct Request {
    n: usize,
    answer: oneshot::Sender<usize>,
}

/// Spawns a server, which answers each request with what came with it.
fn serve() -> Client {
    // Unbounded, so that a task waits for its answer and for nothing else.
    let (client, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Request { n, answer }) = requests.recv().await {
            answer.send(n).expect("the client waits");
        }
    });
    Client(client)
}

impl Client {
    async fn request(&self, n: usize) -> Result<usize, oneshot::error::RecvError> {
        let (answer, answered) = oneshot::channel();
        // Without a server, `answer` is dropped with the request, which is what `answered` then says.
        drop(self.0.send(Request { n, answer }));
        answered.await
    }
}

/// How long `size` connections take, each with 100 requests in a row, when `serve` is the server.
pub async fn connections<F>(size: usize, serve: impl FnOnce(TcpListener) -> F) -> Duration
where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    let server = tokio::spawn(serve(listener));
    let begin = Instant::now();
    let connections: JoinSet<_> = (0..size).map(|_| connection(address)).collect();
    let ended = connections.join_all().await;
    let time = begin.elapsed();
    ended.into_iter().for_each(|ended| ended.expect("the server answers"));
    server.abort();
    assert!(server.await.is_err_and(|error| error.is_cancelled()));
    time
}

/// A connection to a server that sends back what it gets.
async fn connection(address: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(address).await?;
    for n in 0..100 {
        let (request, mut answer) = ([n; 64], [0; 64]);
        server.write_all(&request).await?;
        server.read_exact(&mut answer).await?;
        assert_eq!(request, answer);
    }
    Ok(())
}

/// Sends back what it gets, until there is no more.
pub async fn echo(mut client: TcpStream) -> Result<(), BoxError> {
    let mut chunk = [0; 64];
    while let length @ 1.. = client.read(&mut chunk).await? {
        client.write_all(&chunk[..length]).await?;
    }
    Ok(())
}

/// A value that takes a turn.
pub async fn slow_value(n: usize) -> Result<usize, BoxError> {
    yield_now().await;
    Ok(black_box(n))
}

pub async fn value(n: usize) -> Result<usize, BoxError> {
    Ok(black_box(n))
}

/// Even numbers are values, odd ones are errors.
pub async fn outcome(n: usize) -> Result<usize, &'static str> {
    if n % 2 == 0 { Ok(black_box(n)) } else { Err("odd") }
}

/// The last of `size` such futures finishes, the others never do.
pub async fn last_finishes(n: usize, size: usize) -> usize {
    if n + 1 == size { n } else { pending().await }
}

/// The last of `size` such futures fails, the others never end.
pub async fn last_fails(n: usize, size: usize) -> Result<usize, BoxError> {
    if n + 1 == size { Err("broken".into()) } else { pending().await }
}

/// Counts those who have come as far as a certain point.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_away(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub async fn reaches(&self, count: usize) {
        until(|| self.0.load(Ordering::Acquire) == count).await;
    }

    /// Counts, and stays for ever. Is taken away again when dropped.
    pub async fn park(self) {
        self.add();
        let _guard = Parked(self);
        pending().await
    }

    pub fn is(&self, count: usize) -> bool {
        self.0.load(Ordering::Acquire) == count
    }
}

struct Parked(Counter);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.take_away();
    }
}

/// From a flip to the end of the tasks that wait for it, once they do.
pub async fn flip(size: usize, parked: Counter, tasks: JoinSet<()>, flip: impl FnOnce()) -> Duration {
    parked.reaches(size).await;
    let begin = Instant::now();
    flip();
    assert_eq!(tasks.join_all().await.len(), size);
    begin.elapsed()
}

/// How long ten flips to and ten back take, each of which all tasks have to see before the next.
pub async fn flips(size: usize, seen: Counter, tasks: JoinSet<()>, flip: impl Fn(bool)) -> Duration {
    seen.reaches(size).await;
    let begin = Instant::now();
    for n in 1..=20 {
        flip(n % 2 == 1);
        seen.reaches((n + 1) * size).await;
    }
    let time = begin.elapsed();
    drop(tasks);
    time
}

/// How many nested owners, or tasks, there are below each owner, the outermost first.
pub type Shape = &'static [usize];

/// How many tasks a tree has at its leaves.
pub fn leaves(shape: Shape) -> usize {
    shape.iter().product()
}

/// The shape of a tree with three levels and so many tasks in each place.
pub fn cube(width: usize) -> Shape {
    match width {
        1 => &[1, 1, 1],
        10 => &[10, 10, 10],
        100 => &[100, 100, 100],
        _ => panic!("a tree of 1, 10 or 100 in each place"),
    }
}

/// Gives a macro a hundred names.
#[macro_export]
macro_rules! hundred {
    ($make:ident) => {
        $make! {
            f00 f01 f02 f03 f04 f05 f06 f07 f08 f09 f10 f11 f12 f13 f14 f15 f16 f17 f18 f19 f20 f21 f22 f23 f24 f25 f26
            f27 f28 f29 f30 f31 f32 f33 f34 f35 f36 f37 f38 f39 f40 f41 f42 f43 f44 f45 f46 f47 f48 f49 f50 f51 f52 f53
            f54 f55 f56 f57 f58 f59 f60 f61 f62 f63 f64 f65 f66 f67 f68 f69 f70 f71 f72 f73 f74 f75 f76 f77 f78 f79 f80
            f81 f82 f83 f84 f85 f86 f87 f88 f89 f90 f91 f92 f93 f94 f95 f96 f97 f98 f99
        }
    };
}
