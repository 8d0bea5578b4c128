//! Both servers as built processes: what becomes of requests in flight at a signal, by real clients.
//!
//! The test is the back end that the servers ask, so it knows when a request is in flight, and decides when it ends.
#![cfg(unix)]

#[path = "../../../tests/examples/process.rs"]
#[expect(dead_code, reason = "it also finds examples of the crate")]
mod process;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::process::Stdio;
use std::time::{Duration, Instant};

use aiodrive::BoxError;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use self::process::{End, Process, within};

const AXUM: &str = env!("CARGO_BIN_EXE_axum");
const HYPER: &str = env!("CARGO_BIN_EXE_hyper");

const HOUR_MS: u64 = 3_600_000;

// ===== the server and its clients =====

#[derive(Clone, Copy)]
enum Protocol {
    /// A connection for each request.
    Http1,
    /// One connection, and a stream for each request.
    Http2,
}

use Protocol::{Http1, Http2};

struct Server {
    process: Process,
    address: SocketAddr,
    protocol: Protocol,
    multiplexed: Option<http2::SendRequest<Empty<Bytes>>>,
}

/// The status and the text, or how the connection has ended.
type Answer = Result<(u16, String), BoxError>;

impl Server {
    async fn start(program: &str, protocol: Protocol, settings: &[(&str, u64)], backend: SocketAddr) -> Self {
        let settings = settings.iter().map(|(name, value)| (name, value.to_string()));
        let process = Process::start(Command::new(program).env("BACKEND", backend.to_string()).envs(settings));
        let line = process.stdout.until("listening on ").await;
        let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { process, address, protocol, multiplexed: None }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Sends a request, whose answer may take its time.
    async fn request(&mut self, path: &str) -> JoinHandle<Answer> {
        match self.protocol {
            Http1 => {
                let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
                tokio::spawn(connection);
                let request = Request::get(path).header("host", self.address.to_string());
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                tokio::spawn(async move { text(sender.send_request(request).await?).await })
            }
            Http2 => {
                if self.multiplexed.is_none() {
                    let stream = TokioIo::new(self.connect().await);
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    tokio::spawn(connection);
                    self.multiplexed = Some(sender);
                }
                let mut sender = self.multiplexed.clone().unwrap();
                let request = Request::get(format!("http://{}{path}", self.address)).body(Empty::new()).unwrap();
                tokio::spawn(async move { text(sender.send_request(request).await?).await })
            }
        }
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        answer(self.request(path).await).await.unwrap()
    }

    /// Its tasks have heard the signal, since it has closed a connection that was silent, and it takes no new ones.
    async fn until_stopping(&self, silent: TcpStream) {
        assert_closed(silent).await;
        let refused = async {
            while !TcpStream::connect(self.address)
                .await
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            {}
        };
        within(refused).await;
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

async fn text(response: Response<Incoming>) -> Answer {
    let status = response.status().as_u16();
    Ok((status, String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?))
}

async fn answer(request: JoinHandle<Answer>) -> Answer {
    within(request).await.unwrap()
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

async fn assert_closed(mut connection: impl AsyncRead + Unpin) {
    let read = within(connection.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

impl End {
    /// Nothing was cut off.
    #[track_caller]
    fn assert_in_order(&self) {
        let cut_off = self.stderr.iter().any(|line| line.contains("cut off"));
        assert!(self.code == Some(0) && !cut_off, "{self:#?}");
    }

    #[track_caller]
    fn assert_said(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.iter().any(|line| line.contains(text)), "no line with {text:?}: {self:#?}");
        }
    }
}

// ===== the back end =====

struct Backend(TcpListener);

/// A part that a server has asked for, and waits for.
struct Question {
    part: String,
    server: BufReader<TcpStream>,
}

impl Backend {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    async fn questions(&self, number: usize) -> Vec<Question> {
        let mut questions = Vec::new();
        while questions.len() < number {
            let mut server = BufReader::new(within(self.0.accept()).await.unwrap().0);
            let mut part = String::new();
            within(server.read_line(&mut part)).await.unwrap();
            questions.push(Question { part: part.trim_end().to_owned(), server });
        }
        questions
    }
}

impl Question {
    async fn answer(mut self) {
        within(self.server.write_all(format!("{}: 42\n", self.part).as_bytes())).await.unwrap();
    }

    /// Nobody waits for the answer any more.
    async fn assert_taken_back(self) {
        assert_closed(self.server).await;
    }
}

// ===== both servers, by both protocols =====

macro_rules! by_every_server {
    ($($test:ident)*) => {
        by_every_server!(axum_http1(AXUM, Http1) $($test)*);
        by_every_server!(axum_http2(AXUM, Http2) $($test)*);
        by_every_server!(hyper_http1(HYPER, Http1) $($test)*);
        by_every_server!(hyper_http2(HYPER, Http2) $($test)*);
    };
    ($server:ident($program:expr, $protocol:expr) $($test:ident)*) => {
        mod $server {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($program, $protocol).await;
                }
            )*
        }
    };
}

by_every_server! {
    requests_in_flight_at_sigterm_are_answered
    curl_is_answered_after_sigterm
    idle_connections_do_not_hold_the_server_open
    what_overruns_the_grace_is_cut_off_and_named
    a_second_signal_ends_it_at_once
    a_client_that_goes_takes_the_tasks_of_its_request_along
    a_back_end_that_fails_costs_one_request
    an_address_in_use_is_named_and_ends_it
}

async fn requests_in_flight_at_sigterm_are_answered(program: &str, protocol: Protocol) {
    let backend = Backend::start().await;
    let mut server = Server::start(program, protocol, &[("GRACE_MS", HOUR_MS)], backend.address()).await;
    let silent = server.connect().await;
    let (part, report) = (server.request("/part").await, server.request("/report").await);
    let questions = backend.questions(4).await;

    server.signal("-TERM");
    server.until_stopping(silent).await;
    assert!(server.is_running() && !part.is_finished() && !report.is_finished());

    for question in questions {
        question.answer().await;
    }
    assert_eq!(answer(part).await.unwrap(), ok("part: 42\n"));
    assert_eq!(answer(report).await.unwrap(), ok("users: 42\norders: 42\nstock: 42\n"));
    server.end().await.assert_in_order();
}

/// A client that shares no line of code with the servers.
async fn curl_is_answered_after_sigterm(program: &str, protocol: Protocol) {
    let backend = Backend::start().await;
    let mut server = Server::start(program, protocol, &[("GRACE_MS", HOUR_MS)], backend.address()).await;
    let silent = server.connect().await;
    let version = match protocol {
        Http1 => "--http1.1",
        Http2 => "--http2-prior-knowledge",
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", version])
        .arg(format!("http://{}/report", server.address));
    let Ok(curl) = curl.stdout(Stdio::piped()).kill_on_drop(true).spawn() else {
        println!("skipped: `curl` is not installed");
        return;
    };
    let questions = backend.questions(3).await;
    server.signal("-TERM");
    server.until_stopping(silent).await;
    for question in questions {
        question.answer().await;
    }
    let answer = within(curl.wait_with_output()).await.unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "users: 42\norders: 42\nstock: 42\n");
    server.end().await.assert_in_order();
}

async fn idle_connections_do_not_hold_the_server_open(program: &str, protocol: Protocol) {
    let backend = Backend::start().await;
    let mut server = Server::start(program, protocol, &[("GRACE_MS", HOUR_MS)], backend.address()).await;
    let silent = server.connect().await;
    // It takes connections in their order, so it has the silent one too. The other stays open after the answer.
    assert_eq!(server.get("/").await.0, 200);
    server.end_by("-TERM").await.assert_in_order();
    assert_closed(silent).await;
}

async fn what_overruns_the_grace_is_cut_off_and_named(program: &str, protocol: Protocol) {
    let (backend, grace) = (Backend::start().await, Duration::from_millis(300));
    let mut server = Server::start(program, protocol, &[("GRACE_MS", 300)], backend.address()).await;
    let (slow, report) = (server.request("/slow").await, server.request("/report").await);
    server.stderr.until("GET /slow").await;
    let questions = backend.questions(3).await;

    let begin = Instant::now();
    let end = server.end_by("-TERM").await;
    assert!(begin.elapsed() >= grace, "{end:#?}");
    assert_eq!(end.code, Some(1), "{end:#?}");
    assert_names_requests(&end, program, protocol);
    end.assert_said(&["task \"users\"", "task \"orders\"", "task \"stock\""]);
    for request in [slow, report] {
        assert!(!answer(request).await.is_ok_and(|(status, _)| status == 200));
    }
    for question in questions {
        question.assert_taken_back().await;
    }
}

/// Both requests were cut off, and are named.
fn assert_names_requests(end: &End, program: &str, protocol: Protocol) {
    match (program, protocol) {
        (AXUM, _) => end.assert_said(&["cut off: task \"GET /slow\"", "task \"GET /report\""]),
        (_, Http1) => end.assert_said(&["cut off: task \"conn 127.0.0.1:"]),
        (_, Http2) => end.assert_said(&["cut off: task \"stream of 127.0.0.1:"]),
    }
}

async fn a_second_signal_ends_it_at_once(program: &str, protocol: Protocol) {
    let backend = Backend::start().await;
    let mut server = Server::start(program, protocol, &[("GRACE_MS", HOUR_MS)], backend.address()).await;
    let silent = server.connect().await;
    let (slow, report) = (server.request("/slow").await, server.request("/report").await);
    server.stderr.until("GET /slow").await;
    let questions = backend.questions(3).await;

    server.signal("-TERM");
    server.until_stopping(silent).await;
    assert!(server.is_running());
    let end = server.end_by("-TERM").await;
    assert_eq!(end.code, Some(1), "{end:#?}");
    assert_names_requests(&end, program, protocol);
    for request in [slow, report] {
        assert!(!answer(request).await.is_ok_and(|(status, _)| status == 200));
    }
    for question in questions {
        question.assert_taken_back().await;
    }
}

async fn a_client_that_goes_takes_the_tasks_of_its_request_along(program: &str, protocol: Protocol) {
    let backend = Backend::start().await;
    let mut server = Server::start(program, protocol, &[("GRACE_MS", HOUR_MS)], backend.address()).await;
    let report = server.request("/report").await;
    let questions = backend.questions(3).await;
    let (status, tree) = server.get("/").await;
    assert!(status == 200 && ["users", "orders", "stock"].iter().all(|part| tree.contains(part)), "{tree}");

    report.abort(); // the end of the connection, or of the stream
    for question in questions {
        question.assert_taken_back().await;
    }
    server.end_by("-TERM").await.assert_in_order();
}

async fn a_back_end_that_fails_costs_one_request(program: &str, protocol: Protocol) {
    // Refuses, and keeps the port from everybody else.
    let backend = TcpSocket::new_v4().unwrap();
    backend.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut server = Server::start(program, protocol, &[], backend.local_addr().unwrap()).await;
    let (status, text) = server.get("/report").await;
    assert!(status == 502 && text.contains("task \"") && text.contains("refused"), "{status} {text}");
    assert_eq!(server.get("/").await.0, 200);
    server.end_by("-TERM").await.assert_in_order();
}

async fn an_address_in_use_is_named_and_ends_it(program: &str, _: Protocol) {
    let taken = Backend::start().await;
    let address = taken.address().to_string();
    let end = Process::start(Command::new(program).arg(&address)).end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(1), 0), "{end:#?}");
    end.assert_said(&[&format!("{address}: Address ")]);
}

// ===== what only the server on hyper does =====

#[tokio::test]
async fn a_connection_that_fails_does_not_end_the_server() {
    let backend = Backend::start().await;
    let mut server = Server::start(HYPER, Http1, &[], backend.address()).await;
    let mut other = server.connect().await;
    other.write_all(b"this is not HTTP\r\n\r\n").await.unwrap();
    let line = server.stderr.until(&format!("\"conn {}\"", other.local_addr().unwrap())).await;
    assert!(line.contains(" failed: "), "{line}");
    assert_eq!(server.get("/").await.0, 200);
    server.end_by("-TERM").await.assert_in_order();
}

/// A stream that took one would wait for the end of its own connection.
#[tokio::test]
async fn streams_take_up_no_slot_of_the_limit() {
    let backend = Backend::start().await;
    let mut server = Server::start(HYPER, Http2, &[("CONNECTIONS", 1)], backend.address()).await;
    let report = server.request("/report").await;
    for question in backend.questions(3).await {
        question.answer().await;
    }
    assert_eq!(answer(report).await.unwrap().0, 200);
    let end = server.end_by("-TERM").await;
    end.assert_in_order();
    assert_eq!(end.stderr.last().unwrap(), "requests: 1");
}
