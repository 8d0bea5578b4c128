//! Bounded parallel work with `map`: hashes files as `sha256sum` does, and loses no file's error to another's.
//!
//! `cargo run --release --example checksum -- PATH…` prints what `sha256sum` prints for all files in these paths,
//! sorted by the bytes of their names. Without a path it hashes this project's `src`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, thread};

use aiodrive::{BoxError, TaskError, map};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use tokio::task::block_in_place;
use walkdir::{DirEntry, WalkDir};

/// A path and what came of it. An unreadable file is a result like any other: it knows its path.
type Outcome<T> = (PathBuf, io::Result<T>);
type Hash = [u8; 32];

#[tokio::main]
async fn main() -> Result<ExitCode, TaskError> {
    let roots: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    let roots = if roots.is_empty() { vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")] } else { roots };
    // The walk may block: nothing else runs yet, and the progress bar needs to know how much there is.
    let mut files: Vec<_> = roots.into_iter().flat_map(walk).collect();
    files.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str())); // by bytes, and not by component
    let are_all_well = hash_all(files).await?;
    Ok(if are_all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// 2. Hashes the files, as many at a time as there are processors, and prints each line as soon as it is its turn.
async fn hash_all(files: Vec<Outcome<()>>) -> Result<bool, TaskError> {
    let bar = ProgressBar::new(files.len() as u64); // on stderr, and only if that is a terminal
    let at_a_time = thread::available_parallelism().map_or(1, usize::from);
    let mut hashes = map(at_a_time, files, async |(path, found): Outcome<()>| {
        let hash = block_in_place(|| found.and_then(|()| hash(&path)));
        Ok::<Outcome<Hash>, BoxError>((path, hash))
    });
    let (mut printed, mut failures) = (Ok(()), 0);
    while let Some(hashed) = hashes.next().await {
        bar.inc(1);
        match hashed? {
            (path, Ok(hash)) => printed = printed.and_then(|()| bar.suspend(|| print(&path, &hash))),
            (path, Err(error)) => failures += fail(&format!("{path:?}: {error}")),
        }
    }
    match printed {
        // That nobody reads them to the end, as in `| head`, is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => failures += fail(&format!("stdout: {error}")),
        _ => {}
    }
    Ok(failures == 0)
}

/// `eprintln!` would panic if nobody reads stderr any more.
fn fail(text: &str) -> usize {
    drop(writeln!(io::stderr(), "checksum: {text}"));
    1
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

/// 3. Prints a line.
fn print(path: &Path, hash: &Hash) -> io::Result<()> {
    io::stdout().write_all(&line(path, hash))
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
