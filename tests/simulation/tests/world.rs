//! A server in a simulated world, in which time is virtual, and the network loses, delays and cuts. Each seed is another
//! world: with other clients, another limit, another grace, and other disasters.
//!
//! The server has a listener, a task for each visit, and in each of these a pool of two that ask a storage. Whatever
//! happens, its pool keeps to its limit and its grace, nothing outlives it, and it knows of each failure. The same seed
//! gives the same world again, to the millisecond.
//!
//! `SEEDS=1000` tries more of them, `SEED=17` only that one, of which it prints the log.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aiodrive::{BoxError, OnFailure, Pool, PoolError, cancellation_token, timeout, wait_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

const SERVER: &str = "server";
const STORAGE: &str = "storage";
const PORT: u16 = 80;
/// How finely the world runs. It divides all times that it decides.
const TICK: Duration = Duration::from_millis(10);

/// What a client may ask for.
const WORK: u8 = 0;
const WORK_THAT_WAITS_FOR_EVER: u8 = 1;
const ERROR: u8 = 2;
const PANIC: u8 = 3;

// ===== a world =====

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A multiple of 50 milliseconds.
    fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis((from + self.below(to - from)) / 50 * 50)
    }
}

/// What a seed has decided.
#[derive(Debug)]
struct Plan {
    limit: usize,
    grace: Duration,
    /// When the server is told to stop, after its start.
    stop_after: Duration,
    /// Whether the listener waits for a free slot, or lets the visits queue.
    back_pressure: bool,
    /// What each client asks for.
    clients: Vec<Vec<u8>>,
    disasters: Vec<(Duration, Disaster)>,
    /// How likely a message is to cut the link that it takes, until another one is let through.
    fail_rate: f64,
}

#[derive(Clone, Debug)]
enum Disaster {
    /// Messages are lost.
    Partition(String, &'static str),
    Repair(String, &'static str),
    /// Messages wait.
    Hold(String, &'static str),
    Release(String, &'static str),
    /// All that runs on the server is dropped, and it starts anew. What had failed before is then on stderr.
    Crash,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let clients: Vec<Vec<u8>> = (0..2 + random.below(3))
            .map(|_| (0..4 + random.below(8)).map(|_| Self::request(&mut random)).collect())
            .collect();
        let mut disasters = Vec::new();
        for _ in 0..random.below(6) {
            let client = random.below(clients.len() as u64);
            let (one, other) =
                if random.one_in(2) { (format!("client-{client}"), SERVER) } else { (SERVER.to_owned(), STORAGE) };
            let begin = random.time(0, 4_000);
            let end = begin + random.time(50, 2_000);
            let again = one.clone();
            if random.one_in(2) {
                disasters.push((begin, Disaster::Partition(one, other)));
                disasters.push((end, Disaster::Repair(again, other)));
            } else {
                disasters.push((begin, Disaster::Hold(one, other)));
                disasters.push((end, Disaster::Release(again, other)));
            }
        }
        if random.one_in(4) {
            disasters.push((random.time(500, 3_000), Disaster::Crash));
        }
        disasters.sort_by_key(|(at, _)| *at);
        Self {
            limit: 1 + random.below(3) as usize,
            grace: random.time(0, 1_500),
            stop_after: random.time(1_000, 4_000),
            back_pressure: random.one_in(2),
            clients,
            disasters,
            fail_rate: if random.one_in(3) { 0.02 } else { 0.0 },
        }
    }

    fn request(random: &mut Random) -> u8 {
        match random.below(16) {
            0 => ERROR,
            1 => PANIC,
            2..5 => WORK_THAT_WAITS_FOR_EVER,
            _ => WORK,
        }
    }
}

/// What happens in a world.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Display) {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        lock(&self.0).push(format!("{:>6} {what}", now.as_millis()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a world to its end. Gives its log, and what its servers have come to.
fn run(seed: u64) -> (Vec<String>, Vec<Account>) {
    let plan = Arc::new(Plan::new(seed));
    let log = Log::default();
    log.note(format_args!("{plan:?}"));
    let books = Arc::new(Mutex::new(Vec::<Book>::new()));
    let mut world = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(120))
        .max_message_latency(Duration::from_millis(50))
        .fail_rate(plan.fail_rate)
        .repair_rate(0.2)
        .build();
    world.host(STORAGE, storage);
    world.host(SERVER, {
        let (plan, log, books) = (Arc::clone(&plan), log.clone(), Arc::clone(&books));
        move || {
            let book = Book { log: log.clone(), account: Arc::default() };
            lock(&books).push(book.clone());
            serve(Arc::clone(&plan), book)
        }
    });
    let mut peers = vec![STORAGE.to_owned()];
    for (number, requests) in plan.clients.iter().enumerate() {
        peers.push(format!("client-{number}"));
        world.client(&*peers[number + 1], visit(number, requests.clone(), log.clone()));
    }
    let last = |books: &Mutex<Vec<Book>>| lock(books).last().map(|book| lock(&book.account).returned);
    let mut disasters = plan.disasters.iter().peekable();
    while !world.step().expect("the world goes on") || last(&books) == Some(false) {
        while let Some((_, disaster)) = disasters.next_if(|(at, _)| *at <= world.elapsed()) {
            strike(&mut world, disaster, &peers, &log, &books);
        }
    }
    drop(world);
    let books = lock(&books);
    let accounts = books.iter().map(|book| lock(&book.account).clone()).collect();
    let log = lock(&log.0).clone();
    (log, accounts)
}

fn strike(world: &mut Sim<'_>, disaster: &Disaster, peers: &[String], log: &Log, books: &Mutex<Vec<Book>>) {
    lock(&log.0).push(format!("{:>6} {disaster:?}", world.elapsed().as_millis()));
    match disaster {
        Disaster::Partition(one, other) => world.partition(one.as_str(), *other),
        Disaster::Repair(one, other) => world.repair(one.as_str(), *other),
        Disaster::Hold(one, other) => world.hold(one.as_str(), *other),
        Disaster::Release(one, other) => world.release(one.as_str(), *other),
        Disaster::Crash => {
            // Its runtime drops the sockets in no certain order, and so none of them has a last word.
            peers.iter().for_each(|peer| world.partition(SERVER, peer.as_str()));
            let books = lock(books).clone();
            books.iter().for_each(|book| lock(&book.account).crashes = true);
            world.crash(SERVER);
            for book in &books {
                let account = lock(&book.account);
                assert_eq!(account.alive, 0, "what has crashed is gone");
                lock(&log.0).push(format!("the crash has cut off {:?}", account.cut_off));
            }
            world.bounce(SERVER);
            peers.iter().for_each(|peer| world.repair(SERVER, peer.as_str()));
        }
    }
}

// ===== the storage, and the clients =====

/// Answers after a while, until the end of the world.
async fn storage() -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let opened = Pool::builder().on_failure(|_| OnFailure::Discard).open(async |pool: Pool| {
        loop {
            let (mut asker, _) = listener.accept().await?;
            pool.spawn(async move {
                let millis = asker.read_u8().await?;
                sleep(Duration::from_millis(millis.into())).await;
                asker.write_u8(millis).await?;
                Ok(())
            });
        }
        #[expect(unreachable_code, reason = "it names the type")]
        Ok(())
    });
    Ok(opened.await?)
}

/// Asks for one thing after the other, by two connections each, with patience and without hope.
async fn visit(client: usize, requests: Vec<u8>, log: Log) -> turmoil::Result {
    for (number, request) in requests.into_iter().enumerate() {
        let asked = |server: &'static str| async move {
            let asked = async {
                let mut server = TcpStream::connect((server, PORT)).await?;
                server.write_u8(request).await?;
                Ok::<u8, BoxError>(server.read_u8().await?)
            };
            timeout(Duration::from_millis(700), asked).await?
        };
        let answers = wait_all((asked(SERVER), asked(SERVER))).await;
        for answer in [answers.0, answers.1] {
            match answer {
                Ok(answer) => log.note(format_args!("client {client}: {number} has got {answer}")),
                Err(error) => log.note(format_args!("client {client}: {number} has got nothing: {error:#}")),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

// ===== the server =====

/// What a server that was started has come to.
#[derive(Clone, Debug, Default)]
struct Account {
    /// How many visits and questions are not dropped yet.
    alive: usize,
    running: usize,
    most_running: usize,
    accepted: BTreeSet<usize>,
    finished: BTreeSet<usize>,
    failed: BTreeSet<usize>,
    /// Dropped before they had ended, some of them before they had begun.
    cut_off: BTreeSet<usize>,
    unbegun: usize,
    last_end: Option<Instant>,
    /// Its runtime drops what there is, in no certain order.
    crashes: bool,
    /// Whether its pool has returned, and all was well.
    returned: bool,
}

#[derive(Clone)]
struct Book {
    log: Log,
    account: Arc<Mutex<Account>>,
}

/// Is held by a visit, or by a question to the storage.
struct Entry {
    book: Book,
    visit: Option<usize>,
    begun: bool,
    how: Option<&'static str>,
}

impl Book {
    fn entry(&self, visit: Option<usize>) -> Entry {
        let mut account = lock(&self.account);
        account.alive += 1;
        account.accepted.extend(visit);
        Entry { book: self.clone(), visit, begun: false, how: None }
    }
}

impl Entry {
    fn begin(&mut self) {
        self.begun = true;
        let mut account = lock(&self.book.account);
        account.running += 1;
        account.most_running = account.most_running.max(account.running);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut account = lock(&self.book.account);
        account.alive -= 1;
        let Some(visit) = self.visit else { return };
        account.running -= usize::from(self.begun);
        account.unbegun += usize::from(!self.begun);
        account.last_end = Some(Instant::now());
        let ended = match self.how {
            Some("finished") => &mut account.finished,
            Some(_) => &mut account.failed,
            None => &mut account.cut_off,
        };
        assert!(ended.insert(visit), "a visit ends once");
        if account.crashes {
            return;
        }
        drop(account);
        self.book.log.note(format_args!("visit {visit} {}", self.how.unwrap_or("cut off")));
    }
}

async fn serve(plan: Arc<Plan>, book: Book) -> turmoil::Result {
    let builder = Pool::builder().name(SERVER).limit(plan.limit).grace(plan.grace);
    let pool: Pool = builder.on_failure(|_| OnFailure::Collect).build();
    let stop_at = Instant::now() + plan.stop_after;
    pool.cancel_at(Some(stop_at));
    let listener = pool.build_task().name("listener").depth(1).unlimited().essential();
    listener.spawn(listen(Arc::clone(&plan), book.clone()));
    let outcome = pool.clone().run().await;
    book.log.note(format_args!("the server has stopped: {outcome:?}"));
    check(&plan, &pool, &book, stop_at, outcome);
    Ok(())
}

async fn listen(plan: Arc<Plan>, book: Book) -> Result<(), BoxError> {
    let pool: Pool = Pool::current();
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let stop = cancellation_token();
    for number in 0.. {
        let accepted = stop.run_until_cancelled(async {
            if plan.back_pressure {
                pool.ready().await;
            }
            listener.accept().await
        });
        let Some(accepted) = accepted.await else { break };
        let (client, _) = accepted?;
        book.log.note(format_args!("visit {number} from {}", client.peer_addr()?));
        let entry = book.entry(Some(number));
        pool.build_task().name(format!("visit {number}")).spawn(answer(client, entry));
    }
    Ok(())
}

/// One visit.
async fn answer(mut client: TcpStream, mut entry: Entry) -> Result<(), BoxError> {
    entry.begin();
    let stop = cancellation_token();
    // A client that has lost patience, or cannot be heard, is waited for until somebody else does.
    let request = match stop.run_until_cancelled(client.read_u8()).await {
        Some(Ok(request)) => request,
        _ => {
            entry.how = Some("finished");
            return Ok(());
        }
    };
    let asked = ask_twice(entry.book.clone());
    let asked = match request {
        ERROR => Err("a request that cannot be met".into()),
        PANIC => {
            entry.how = Some("panicked");
            std::panic::resume_unwind(Box::new("a request with a bug"))
        }
        WORK_THAT_WAITS_FOR_EVER => asked.await,
        _ => timeout(Duration::from_millis(500), asked).await.unwrap_or_else(|late| Err(late.into())),
    };
    entry.how = Some(if asked.is_ok() { "finished" } else { "failed" });
    let answer = asked?;
    // Whether the client still listens is its matter.
    drop(client.write_u8(answer).await);
    Ok(())
}

/// Asks the storage for two parts at once.
async fn ask_twice(book: Book) -> Result<u8, BoxError> {
    let opened = Pool::<BoxError>::open(async |pool| {
        let task = || pool.build_task().name("question");
        let parts = [40, 80].map(|millis| task().spawn_with_handle(ask(millis, book.entry(None))));
        let [one, other] = parts;
        Ok(one.await? + other.await?)
    });
    Ok(opened.await?)
}

async fn ask(millis: u8, entry: Entry) -> Result<u8, BoxError> {
    let mut storage = TcpStream::connect((STORAGE, PORT)).await?;
    storage.write_u8(millis).await?;
    let answer = storage.read_u8().await?;
    drop(entry);
    Ok(answer)
}

/// Whether the pool has kept what it promises, at the moment at which it returns.
fn check(plan: &Plan, pool: &Pool, book: &Book, stop_at: Instant, outcome: Result<(), PoolError>) {
    let now = Instant::now();
    let mut account = lock(&book.account);
    // Nothing outlives it.
    assert_eq!((account.alive, account.running, pool.len()), (0, 0, 0));
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    // The limit.
    assert!(account.most_running <= plan.limit, "{account:?}");
    // The grace: no longer than that, and no longer than needed. Tokio's clock ticks once in a millisecond.
    let rounding = Duration::from_millis(1);
    assert!(now >= stop_at && now <= stop_at + plan.grace + rounding, "it took {:?}", now - stop_at);
    let needed = account.last_end.unwrap_or(stop_at).max(stop_at);
    assert!(now <= needed + rounding, "it went on for {:?} after the last visit", now - needed);
    // Each visit has ended in one way.
    let mut all = &(&account.finished | &account.failed) | &account.cut_off;
    assert_eq!(all, account.accepted);
    assert_eq!(all.len(), account.finished.len() + account.failed.len() + account.cut_off.len());
    // What was cut off had its time, and is named.
    if account.cut_off.len() > account.unbegun {
        assert!(now >= stop_at + plan.grace, "cut off after {:?}", now - stop_at);
    }
    let overrun = pool.overrun();
    let names: BTreeSet<_> = overrun.iter().filter_map(|task| task.name()).collect();
    if !plan.grace.is_zero() {
        for visit in &account.cut_off {
            assert!(names.contains(&*format!("visit {visit}")), "{visit} is not in {names:?}");
        }
    }
    // And no failure is lost, nor invented.
    all.clear();
    if let Err(error) = &outcome {
        // It had failed when its visit lost patience: nobody else has heard of it.
        assert!(error.cleanup_failures().iter().all(|failure| failure.task().name() == Some("question")), "{error:#}");
        for failure in error.failures() {
            let name = failure.task().name().expect("the visits have names");
            let visit = name.strip_prefix("visit ").and_then(|number| number.parse().ok());
            assert!(all.insert(visit.expect("nothing else has failed")), "{error:#}");
        }
    }
    assert_eq!(all, account.failed);
    account.returned = true;
}

// ===== the seeds =====

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn in_each_world_a_server_keeps_its_promises_and_each_seed_its_world() {
    let seeds = match variable("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SEEDS").unwrap_or(50),
    };
    let (mut crashes, mut finished, mut failed, mut cut_off, mut unbegun) = (0, 0, 0, 0, 0);
    for seed in seeds.clone() {
        println!("seed {seed}");
        let (log, accounts) = run(seed);
        if variable("SEED").is_some() {
            println!("{}", log.join("\n"));
        }
        let (again, _) = run(seed);
        let difference = log.iter().zip(&again).position(|(one, other)| one != other);
        let difference = difference.map(|line| (&log[..=line], &again[line]));
        assert!(log == again, "the same seed has given another world: {difference:#?}");
        assert!(accounts.iter().all(|account| account.alive == 0));
        let (last, crashed) = accounts.split_last().expect("a server has started");
        assert!(last.returned);
        crashes += crashed.len();
        finished += last.finished.len();
        failed += last.failed.len();
        cut_off += last.cut_off.len() - last.unbegun;
        unbegun += last.unbegun;
    }
    println!("{crashes} servers crashed; of the visits of the others, {finished} finished, {failed} failed");
    println!("{cut_off} were cut off when the grace was over, and {unbegun} still waited for their turn then");
    if seeds.end - seeds.start >= 50 {
        // Otherwise the worlds are too friendly.
        assert!([crashes, finished, failed, cut_off, unbegun].iter().all(|count| *count >= 5));
    }
}
