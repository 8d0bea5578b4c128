//! Bounded parallel work in a pool: hashes files as `sha256sum` does, and loses no file's error to another's.
//!
//! `cargo run --release --example checksum -- PATH…` prints what `sha256sum` prints for all files in these paths,
//! sorted by the bytes of their names. Without a path it hashes this project's `src`.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::{env, thread};

use aiodrive::{Pool, PoolError};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use walkdir::{DirEntry, WalkDir};

/// A path and what came of it. An unreadable file is a result: as the error of its task it would stop all others.
type Outcome<T> = (PathBuf, io::Result<T>);
type Hash = [u8; 32];

#[tokio::main]
async fn main() -> Result<ExitCode, PoolError> {
    let roots: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    let roots = if roots.is_empty() { vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")] } else { roots };
    // The walk may block: nothing else runs yet, and the progress bar needs to know how much there is.
    let mut files = hash_all(roots.into_iter().flat_map(walk).collect()).await?;
    files.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str())); // by bytes, and not by component
    let unprinted = print(&files).err().map(|error| format!("stdout: {error}"));
    let unread = files.iter().filter_map(|(path, hash)| Some(format!("{path:?}: {}", hash.as_ref().err()?)));
    let failures: Vec<_> = unread.chain(unprinted).collect();
    // `eprintln!` would panic if nobody reads stderr any more.
    failures.iter().for_each(|failure| drop(writeln!(io::stderr(), "checksum: {failure}")));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// 1. Finds the files below a path, and the folders that cannot be entered.
fn walk(root: PathBuf) -> impl Iterator<Item = Outcome<()>> {
    // What was asked for by its name is read whatever it is, through links; below that only regular files are.
    let wanted = |entry: &DirEntry| entry.file_type().is_file() || entry.depth() == 0 && !entry.path().is_dir();
    let entries = WalkDir::new(&root).into_iter().filter(move |entry| entry.as_ref().map_or(true, wanted));
    entries.map(move |entry| match entry {
        Ok(entry) => (entry.into_path(), Ok(())),
        Err(error) => (error.path().unwrap_or(&root).to_owned(), Err(cause(error))),
    })
}

/// The plain error, without the path that walkdir puts into the text.
fn cause(error: walkdir::Error) -> io::Error {
    error.into_io_error().unwrap_or_else(|| io::Error::other("a folder that contains itself"))
}

/// 2. Hashes the files, as many at a time as there are processors: without a limit, tokio would start 512 threads.
async fn hash_all(found: Vec<Outcome<()>>) -> Result<Vec<Outcome<Hash>>, PoolError> {
    let bar = ProgressBar::new(found.len() as u64); // on stderr, and only if that is a terminal
    let (done, outcomes) = mpsc::channel();
    let pool = Pool::builder().limit(thread::available_parallelism().map_or(1, usize::from));
    let hashed = pool.open(async move |pool: Pool| {
        for (path, reached) in found {
            let (bar, done) = (bar.clone(), done.clone());
            pool.spawn_blocking(move || {
                let hash = reached.and_then(|()| hash(&path));
                bar.inc(1);
                done.send((path, hash)).expect("the receiver outlives the pool");
            });
        }
        Ok(())
    });
    hashed.await?; // now no task is left that could send
    Ok(outcomes.into_iter().collect())
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
    let escape = |byte: &u8| if b"\\\n\r".contains(byte) { byte.escape_ascii().collect() } else { vec![*byte] };
    let escaped: Vec<u8> = name.iter().flat_map(escape).collect();
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mark = if escaped.len() > name.len() { "\\" } else { "" };
    [mark.as_bytes(), hex.as_bytes(), b"  ", &escaped, b"\n"].concat()
}
