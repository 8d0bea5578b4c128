//! Bounded parallel work in a pool: hashes files as `sha256sum` does, and loses no file's error to another's.
//!
//! `cargo run --release --example checksum -- PATH…` prints what `sha256sum` prints for all files in these paths,
//! sorted by the bytes of their names. Without a path it hashes this project's `src`.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::{env, slice, thread, vec};

use aiodrive::{Pool, PoolError};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

/// A path and what came of it. An unreadable file is a result: as the error of its task it would stop all others.
type Outcome<T> = (PathBuf, io::Result<T>);
type Hash = [u8; 32];

#[tokio::main]
async fn main() -> ExitCode {
    let failures = run(roots()).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
    // `eprintln!` would panic if nobody reads stderr any more.
    failures.iter().for_each(|failure| drop(writeln!(io::stderr(), "checksum: {failure}")));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn roots() -> Vec<PathBuf> {
    let given: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    if given.is_empty() { vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")] } else { given }
}

/// Gives the failures, one for each file that has no hash.
async fn run(roots: Vec<PathBuf>) -> Result<Vec<String>, PoolError> {
    // The walk may block: nothing else runs yet, and the progress bar needs to know how much there is.
    let found = roots.into_iter().flat_map(walk).collect();
    let mut files = hash_all(found).await?;
    // By bytes: `Path` itself compares component by component.
    files.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
    let unprinted = print(&files).err().map(|error| format!("stdout: {error}"));
    let unread = files.iter().filter_map(|(path, hash)| Some(format!("{path:?}: {}", hash.as_ref().err()?)));
    Ok(unread.chain(unprinted).collect())
}

/// 1. Finds the files below a path, and the folders that cannot be entered.
fn walk(root: PathBuf) -> impl Iterator<Item = Outcome<()>> {
    let entries = WalkDir::new(&root).into_iter();
    entries.filter(|entry| entry.as_ref().map_or(true, is_wanted)).map(move |entry| match entry {
        Ok(entry) => (entry.into_path(), Ok(())),
        Err(error) => (error.path().unwrap_or(&root).to_owned(), Err(cause(error))),
    })
}

/// What was asked for by its name is read whatever it is, through links; below that only regular files are.
fn is_wanted(entry: &DirEntry) -> bool {
    entry.file_type().is_file() || entry.depth() == 0 && !entry.path().is_dir()
}

/// The plain error, without the path that walkdir puts into the text.
fn cause(error: walkdir::Error) -> io::Error {
    error.into_io_error().unwrap_or_else(|| io::Error::other("a folder that contains itself"))
}

/// 2. Hashes the files in as many tasks as there are processors. For a task each, tokio would start 512 threads.
async fn hash_all(found: Vec<Outcome<()>>) -> Result<Vec<Outcome<Hash>>, PoolError> {
    Pool::open(async |pool: Pool| {
        let bar = ProgressBar::new(found.len() as u64); // on stderr, and only if that is a terminal
        let queue = Arc::new(Mutex::new(found.into_iter()));
        let (done, mut outcomes) = mpsc::unbounded_channel();
        for n in 1..=thread::available_parallelism()?.get() {
            let (queue, done) = (Arc::clone(&queue), done.clone());
            pool.build_task().name(format!("hasher {n}")).spawn_blocking(move || hash_queued(&queue, &done));
        }
        drop(done); // the tasks have the other senders: the last one to end closes the channel
        let mut files = Vec::new();
        while outcomes.recv_many(&mut files, 1_000).await > 0 {
            bar.set_position(files.len() as u64);
        }
        Ok(files)
    })
    .await
}

/// A blocking closure that runs cannot be aborted. If the pool closes, this one ends as nobody receives any more.
fn hash_queued(queue: &Mutex<vec::IntoIter<Outcome<()>>>, done: &mpsc::UnboundedSender<Outcome<Hash>>) {
    while let Some((path, reached)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
        let hash = reached.and_then(|()| hash(&path));
        let Ok(()) = done.send((path, hash)) else { return };
    }
}

fn hash(path: &Path) -> io::Result<Hash> {
    let (mut file, mut hasher, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(&chunk[..length]),
        }
    }
}

/// 3. Prints the hashes. That nobody reads them to the end, as in `| head`, is no failure.
fn print(files: &[Outcome<Hash>]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut lines = files.iter().filter_map(|(path, hash)| Some(line(path, hash.as_ref().ok()?)));
    let written = lines.try_for_each(|line| out.write_all(&line)).and_then(|()| out.flush());
    written.or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// A line begins with a backslash if the name in it is escaped.
fn line(path: &Path, hash: &Hash) -> Vec<u8> {
    let name = path.as_os_str().as_encoded_bytes();
    let escaped: Vec<u8> = name.iter().flat_map(escape).copied().collect();
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mark = if escaped.len() > name.len() { "\\" } else { "" };
    [mark.as_bytes(), hex.as_bytes(), b"  ", &escaped, b"\n"].concat()
}

fn escape(byte: &u8) -> &[u8] {
    match byte {
        b'\\' => b"\\\\",
        b'\n' => b"\\n",
        b'\r' => b"\\r",
        other => slice::from_ref(other),
    }
}
