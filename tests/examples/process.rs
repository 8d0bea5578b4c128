//! An example as a process, whose lines and end can be waited for.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// For everything that has to happen: long, since other tests may keep the machine busy.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// The example, which a plain `cargo test` has built next to the folder of this test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples").join(name);
    // `--test`, `--tests` and `--all-targets` do not build it.
    assert!(
        example.is_file(),
        "{example:?} is missing: run `cargo build --examples` with the same profile and features"
    );
    example
}

pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("it takes too long")
}

/// The lines of a pipe, as they come.
pub struct Lines(watch::Receiver<Vec<String>>);

impl Lines {
    fn of(pipe: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut pipe = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = pipe.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self(lines)
    }

    /// The first line with this text.
    pub async fn until(&self, text: &str) -> String {
        let with_text = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let mut lines = self.0.clone();
        let found = timeout(DEADLINE, lines.wait_for(|lines| with_text(lines).is_some())).await;
        let found = found.ok().and_then(|lines| with_text(&*lines.ok()?));
        found.unwrap_or_else(|| panic!("no line with {text:?}: {:#?}", *self.0.borrow()))
    }

    /// All lines, once the pipe is closed.
    async fn all(&self) -> Vec<String> {
        let mut lines = self.0.clone();
        within(async { while lines.changed().await.is_ok() {} }).await;
        lines.borrow().clone()
    }
}

/// It is killed when it is dropped: a failed test leaves nothing running.
pub struct Process {
    child: Child,
    id: u32,
    pub stdout: Lines,
    pub stderr: Lines,
}

/// How a process has ended, and what it had printed.
#[derive(Debug)]
pub struct End {
    /// `None` if it was killed.
    pub code: Option<i32>,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        Self { id: child.id().unwrap(), child, stdout, stderr }
    }

    pub fn example(name: &str, args: &[&str]) -> Self {
        Self::start(Command::new(example(name)).args(args))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: &str) {
        self.prepare_signal(signal)();
    }

    /// What sends the signal without having to start a program first.
    pub fn prepare_signal(&self, signal: &str) -> impl FnOnce() + use<> {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "read _; kill \"$@\"", "sh", signal, &self.id.to_string()]);
        let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
        move || {
            drop(shell.stdin.take());
            assert!(shell.wait().unwrap().success());
        }
    }

    pub async fn end(&mut self) -> End {
        let status = within(self.child.wait()).await.unwrap();
        End { code: status.code(), stdout: self.stdout.all().await, stderr: self.stderr.all().await }
    }

    /// Sends the signal, and waits for the end.
    pub async fn end_by(&mut self, signal: &str) -> End {
        self.signal(signal);
        self.end().await
    }
}
