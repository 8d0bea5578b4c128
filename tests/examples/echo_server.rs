//! `examples/echo_server.rs`: real clients, real signals, and no byte lost.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::process::Command as BlockingCommand;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::process::{DEADLINE, End, Process, example, within};

const CLIENTS: usize = 1_000;

// ===== the server =====

struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    async fn start(settings: &[(&str, u64)]) -> Self {
        Self::start_by(&mut Command::new(example("echo_server")), settings).await
    }

    async fn start_by(command: &mut Command, settings: &[(&str, u64)]) -> Self {
        let process = Process::start(command.envs(settings.iter().map(|(name, value)| (name, value.to_string()))));
        let line = process.stdout.until("listening on ").await;
        let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { process, address }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// A client that the server has accepted.
    async fn client(&self) -> TcpStream {
        let mut client = self.connect().await;
        assert_echoed(&mut client, b"hello").await;
        client
    }

    /// A client that sends for ever and takes nothing back, whose connection does not come to an end by itself.
    async fn stuck_client(&self) -> JoinHandle<()> {
        let socket = TcpSocket::new_v4().unwrap();
        // Or the system would keep more of it.
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.set_send_buffer_size(4_096).unwrap();
        let mut client = within(socket.connect(self.address)).await.unwrap();
        assert_echoed(&mut client, b"hello").await;
        tokio::spawn(async move { while client.write_all(&[0; 4_096]).await.is_ok() {} })
    }

    async fn until_refusing(&self) {
        loop {
            match within(TcpStream::connect(self.address)).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl End {
    #[track_caller]
    fn assert_in_order(&self) {
        assert_eq!(self.code, Some(0), "{:#?}", self.stderr);
        // The storage knows the bytes of every connection only if it is the last to end.
        assert!(self.stderr.last().unwrap().starts_with("storage closed: "), "{:#?}", self.stderr);
    }

    #[track_caller]
    fn stored(&self) -> usize {
        let closed = self.stderr.iter().find_map(|line| line.strip_prefix("storage closed: ")?.strip_suffix(" bytes"));
        closed.unwrap_or_else(|| panic!("{:#?}", self.stderr)).parse().unwrap()
    }

    fn said(&self, text: &str) -> bool {
        self.stderr.iter().any(|line| line.contains(text))
    }
}

// ===== waiting =====

async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < DEADLINE, "still waiting for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn assert_echoed(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).await.unwrap();
    let mut echo = vec![0; bytes.len()];
    within(client.read_exact(&mut echo)).await.unwrap();
    assert!(echo == bytes);
}

/// The connection has ended, in whatever way.
async fn assert_closed(client: &mut TcpStream) {
    let read = within(client.read(&mut [0; 64])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

// ===== many clients =====

/// What a client sends, over and over: no two begin in the same way, and nothing in it repeats soon.
struct Noise(Vec<u8>);

impl Noise {
    fn new() -> Self {
        // The 64-bit generator of Knuth's MMIX, of which the upper bits are the better ones.
        let next =
            |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        let states = std::iter::successors(Some(0x5EED), next);
        Self(states.map(|state| (state >> 56) as u8).take(1 << 20).collect())
    }

    /// The part from `position` on, up to `length` bytes.
    fn part(&self, client: usize, position: usize, length: usize) -> &[u8] {
        let start = (client * 1_021 + position) % self.0.len();
        &self.0[start..self.0.len().min(start + length)]
    }

    fn assert_has(&self, client: usize, mut position: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let part = self.part(client, position, bytes.len());
            assert!(bytes.starts_with(part), "client {client}: wrong bytes after {position}");
            (position, bytes) = (position + part.len(), &bytes[part.len()..]);
        }
    }
}

/// Sends without a pause, with up to `window` bytes under way, until it is told to stop or the server ends. Then takes
/// what still comes, up to the server's end-of-file, and gives the number of bytes received.
async fn transfer(
    mut stream: TcpStream,
    client: usize,
    window: usize,
    noise: Arc<Noise>,
    written: Arc<AtomicUsize>,
    mut stop: watch::Receiver<bool>,
) -> usize {
    let (mut sent, mut received, mut chunk) = (0, 0, vec![0; 16 * 1024]);
    let sending = async {
        loop {
            let part = noise.part(client, sent, 1 + (client * 7 + sent) % 6_000);
            let Ok(()) = stream.write_all(part).await else { return };
            sent += part.len();
            written.store(sent, Ordering::Release);
            while sent - received > window {
                let Ok(length @ 1..) = stream.read(&mut chunk).await else { return };
                noise.assert_has(client, received, &chunk[..length]);
                received += length;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        stopped = stop.wait_for(|&stop| stop) => drop(stopped.unwrap()),
    }
    while let Ok(length @ 1..) = within(stream.read(&mut chunk)).await {
        noise.assert_has(client, received, &chunk[..length]);
        received += length;
    }
    received
}

/// As many clients as the test may open files for, with some to spare for itself and the other tests. The server, which
/// needs as many, has the same limit.
fn affordable_clients() -> usize {
    let limit = BlockingCommand::new("sh").args(["-c", "ulimit -n"]).output().unwrap().stdout;
    let limit = String::from_utf8(limit).unwrap().trim().parse().unwrap_or(usize::MAX);
    CLIENTS.min(limit.saturating_sub(150))
}

// ===== tests =====

/// What a client had written before the signal comes back, however much of it was still on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_a_thousand_transfers_are_finished_without_loss() {
    let grace = Duration::from_secs(20);
    let mut server = Server::start(&[("ECHO_GRACE_MS", grace.as_millis() as u64)]).await;
    let (noise, (stop, stopped)) = (Arc::new(Noise::new()), watch::channel(false));
    let (mut written, mut transfers) = (Vec::new(), JoinSet::new());
    let mut streams = Vec::new();
    for _ in 0..affordable_clients() {
        streams.push(server.connect().await);
    }
    for (client, stream) in streams.into_iter().enumerate() {
        written.push(Arc::new(AtomicUsize::new(0)));
        // One in a hundred takes nothing back before it is told to stop: its connection is stuck in the middle.
        let window = if client % 100 == 0 { usize::MAX } else { 64 * 1024 };
        let (noise, written) = (Arc::clone(&noise), Arc::clone(&written[client]));
        let received = transfer(stream, client, window, noise, written, stopped.clone());
        transfers.spawn(async move { (client, received.await) });
    }
    let written_by_all = || written.iter().map(|written| written.load(Ordering::Acquire)).collect::<Vec<_>>();
    let terminate = server.prepare_signal("-TERM");
    // More than fits into the window: it has been accepted, and much of what it sent has come back.
    until("all to be in the middle", || written_by_all().iter().all(|&sent| sent > 100_000).then_some(())).await;

    let (acknowledged, begin) = (written_by_all(), Instant::now());
    terminate();
    stop.send(true).unwrap();
    server.until_refusing().await;
    let mut all = 0;
    while let Some(transfer) = transfers.join_next().await {
        let (client, received) = transfer.unwrap();
        let due = acknowledged[client];
        assert!(received >= due, "client {client} got {received} bytes back of {due}");
        all += received;
    }
    let end = server.end().await;
    assert!(begin.elapsed() < grace);
    end.assert_in_order();
    assert_eq!(end.stored(), all);
    assert!(!end.said("conn "), "{:#?}", end.stderr);
}

/// The server wakes up with the signal and the bytes before it.
#[tokio::test]
async fn at_sigterm_what_has_not_been_read_yet_is_echoed_too() {
    let mut server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(server.client().await);
    }
    server.signal("-STOP");
    let noise = &Noise::new().0[..20_000];
    for client in &mut clients {
        within(client.write_all(noise)).await.unwrap();
    }
    server.signal("-TERM");
    server.signal("-CONT");
    for mut client in clients {
        let mut echo = Vec::new();
        within(client.read_to_end(&mut echo)).await.unwrap();
        assert!(echo == noise);
    }
    let end = server.end().await;
    end.assert_in_order();
    assert_eq!(end.stored(), 50 * (5 + noise.len()));
}

#[tokio::test]
async fn a_client_that_has_sent_all_gets_all_back() {
    let mut server = Server::start(&[]).await;
    let noise = Noise::new().0;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let sent = noise.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut echo = Vec::new();
    within(reader.read_to_end(&mut echo)).await.unwrap();
    assert!(echo == noise);
    drop((reader, sending.await.unwrap()));
    let end = server.end_by("-TERM").await;
    end.assert_in_order();
    assert_eq!(end.stored(), noise.len());
}

/// A daemon or a client that does not care to close could make it wait for the whole grace.
#[tokio::test]
async fn sigint_ends_it_as_sigterm_does_and_long_before_the_grace_is_over() {
    for signal in ["-INT", "-TERM"] {
        let mut server = Server::start(&[("ECHO_GRACE_MS", 3_600_000)]).await;
        let mut client = server.client().await;
        let end = server.end_by(signal).await;
        end.assert_in_order();
        assert_eq!(end.stored(), 5);
        assert_closed(&mut client).await;
        server.until_refusing().await;
    }
}

#[tokio::test]
async fn a_connection_that_panics_does_not_end_the_server() {
    let mut server = Server::start(&[]).await;
    let (mut other, mut panicking) = (server.client().await, server.client().await);
    panicking.write_all(b"panic\n").await.unwrap();
    assert_closed(&mut panicking).await;
    let name = format!("\"conn {}\"", panicking.local_addr().unwrap());
    let line = server.stderr.until(&name).await;
    assert!(line.ends_with("panicked: the client wanted it"), "{line}");

    assert_echoed(&mut other, b"still here").await;
    drop(server.client().await);
    server.end_by("-TERM").await.assert_in_order();
}

#[tokio::test]
async fn a_connection_that_fails_does_not_end_the_server() {
    let mut server = Server::start(&[]).await;
    let (mut other, mut failing) = (server.client().await, server.client().await);
    failing.write_all(b"unread").await.unwrap();
    within(failing.peek(&mut [0])).await.unwrap();
    let name = format!("\"conn {}\"", failing.local_addr().unwrap());
    drop(failing); // with bytes unread, which is a reset
    let line = server.stderr.until(&name).await;
    assert!(line.contains(" failed: "), "{line}");

    assert_echoed(&mut other, b"still here").await;
    server.end_by("-TERM").await.assert_in_order();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (first, second) in [("-TERM", "-INT"), ("-INT", "-TERM"), ("-TERM", "-TERM")] {
        let mut server = Server::start(&[("ECHO_GRACE_MS", 3_600_000), ("ECHO_IDLE_MS", 3_600_000)]).await;
        let stuck = server.stuck_client().await;
        server.signal(first);
        server.until_refusing().await;
        assert!(server.is_running());
        let end = server.end_by(second).await;
        assert_eq!((end.code, end.stderr.last().unwrap().as_str()), (Some(1), "pool cancelled"), "{:#?}", end.stderr);
        within(stuck).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_off_after_the_grace() {
    let grace = Duration::from_millis(700);
    let mut server = Server::start(&[("ECHO_GRACE_MS", 700), ("ECHO_IDLE_MS", 3_600_000)]).await;
    let stuck = server.stuck_client().await;
    let begin = Instant::now();
    let end = server.end_by("-TERM").await;
    assert!(begin.elapsed() >= grace, "{:#?}", end.stderr);
    assert_eq!((end.code, end.stderr.last().unwrap().as_str()), (Some(1), "pool cancelled"), "{:#?}", end.stderr);
    assert!(end.stored() > 5);
    within(stuck).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut server = Server::start(&[("ECHO_IDLE_MS", 300)]).await;
    let begin = Instant::now();
    let mut idle = server.connect().await;
    assert_closed(&mut idle).await;
    assert!(begin.elapsed() >= Duration::from_millis(300));
    drop(server.client().await);
    let end = server.end_by("-TERM").await;
    end.assert_in_order();
    assert!(!end.said("conn "), "{:#?}", end.stderr);
}

#[tokio::test]
async fn clients_above_the_limit_wait_for_their_turn() {
    let mut server = Server::start(&[("ECHO_CONNECTIONS", 2)]).await;
    let (first, mut second) = (server.client().await, server.client().await);
    let mut third = server.connect().await;
    third.write_all(b"me too").await.unwrap();
    let mut echo = [0; 6];
    // Long enough for metrics to be printed.
    assert!(timeout(Duration::from_millis(1_100), third.read_exact(&mut echo)).await.is_err());
    drop(first);
    within(third.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, *b"me too");
    assert_echoed(&mut second, b"still here").await;
    let end = server.end_by("-TERM").await;
    end.assert_in_order();
    assert!(!end.said("5 tasks"), "{:#?}", end.stderr);
}

#[tokio::test]
async fn it_goes_on_after_it_has_run_out_of_open_files() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 32; exec \"$0\""]).arg(example("echo_server"));
    let mut server = Server::start_by(&mut shell, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(server.connect().await);
    }
    server.stderr.until("cannot accept: ").await;
    drop(clients);
    drop(server.client().await);
    server.end_by("-TERM").await.assert_in_order();
}

#[tokio::test]
async fn an_address_in_use_is_named_and_ends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let end = Process::example("echo_server", &[&address]).end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(1), 0), "{end:#?}");
    // The storage says that it has closed, if it had begun.
    let failures: Vec<_> = end.stderr.iter().filter(|line| !line.starts_with("storage closed: ")).collect();
    let [failure] = failures[..] else { panic!("{end:#?}") };
    assert!(failure.contains("task \"listener\" (examples/echo_server.rs:"), "{failure}");
    assert!(failure.contains(&format!("failed: {address}: Address ")), "{failure}");
}

#[tokio::test]
async fn metrics_are_printed() {
    let mut server = Server::start(&[]).await;
    let clients = (server.client().await, server.client().await);
    server.stderr.until("4 tasks, 10 bytes").await;
    drop(clients);
    server.stderr.until("2 tasks, 10 bytes").await;
    server.end_by("-TERM").await.assert_in_order();
}
