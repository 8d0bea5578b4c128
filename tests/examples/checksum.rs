//! `examples/checksum.rs` against coreutils' `sha256sum`, byte for byte.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::process::example;

const FILES: usize = 2_000;
const MIB: usize = 1 << 20;

/// The sizes at which a hash of 64-byte blocks, or a read in chunks, goes wrong first.
const EDGES: [usize; 14] = [0, 1, 55, 56, 63, 64, 65, 4_096, 65_535, 65_536, 65_537, 2 * 65_536, MIB - 1, MIB];

/// Names that a format of lines, a shell, an option parser or a string type could choke on.
const ODD: [&[u8]; 16] = [
    b"a space",
    b"  two in front",
    b"-n",
    b"--help",
    b"*binary",
    b"'single' \"double\"",
    b"$(true) `true`;#",
    "größe 大きさ 🦀".as_bytes(),
    b"back\\slash",
    b"\\",
    b"new\nline",
    b"\n",
    b"carriage\rreturn",
    b"all\\of\nthem\r\\n",
    b"tab\tbell\x07escape\x1b",
    // Other systems may refuse to store what is not UTF-8.
    if cfg!(target_os = "linux") { b"not\xFFutf-8\\" } else { b"utf-8" },
];

// ===== programs =====

fn checksum() -> Command {
    Command::new(example("checksum"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sorted<T: AsRef<OsStr>>(paths: impl IntoIterator<Item = T>) -> Vec<OsString> {
    let mut paths: Vec<_> = paths.into_iter().map(|path| path.as_ref().to_owned()).collect();
    paths.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    paths
}

/// The regular files below the roots, sorted. `-H` follows links among the roots, and no others.
fn find(cwd: &Path, roots: &[&str]) -> Vec<OsString> {
    let found = run(Command::new("find").current_dir(cwd).arg("-H").args(roots).args(["-type", "f", "-print0"]));
    assert!(found.status.success(), "{}", text(&found.stderr));
    sorted(found.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty()).map(OsStr::from_bytes))
}

fn sha256sum(cwd: &Path, paths: &[OsString]) -> Vec<u8> {
    run(Command::new("sha256sum").current_dir(cwd).arg("--").args(paths)).stdout
}

/// The first line that differs says more than the whole.
#[track_caller]
fn assert_same(ours: &[u8], theirs: &[u8]) {
    let lines = ours.split(|&byte| byte == b'\n').zip(theirs.split(|&byte| byte == b'\n'));
    for (ours, theirs) in lines {
        assert_eq!(text(ours), text(theirs));
    }
    assert!(ours == theirs, "{} bytes instead of {}", ours.len(), theirs.len());
}

/// Runs the example in the folder, and compares; gives the number of files.
#[track_caller]
fn assert_as_sha256sum(cwd: &Path, roots: &[&str]) -> usize {
    let ours = run(checksum().current_dir(cwd).args(roots));
    let files = find(cwd, roots);
    assert_same(&ours.stdout, &sha256sum(cwd, &files));
    assert_eq!((ours.status.code(), text(&ours.stderr)), (Some(0), String::new()));
    files.len()
}

// ===== the tree =====

/// The 64-bit generator of Knuth's MMIX, of which only the upper, better half is given out.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// Mostly small: up to each power of two below 1 MiB equally often. One in 64 is of any size.
    fn size(&mut self) -> usize {
        let bound = if self.below(64) == 0 { MIB } else { 1 << self.below(20) };
        self.below(bound + 1)
    }
}

/// An odd name, made unique by its number.
fn odd(n: usize) -> OsString {
    let mut name = ODD[n % ODD.len()].to_vec();
    if n >= ODD.len() {
        name.extend_from_slice(n.to_string().as_bytes());
    }
    OsString::from_vec(name)
}

/// 64 folders in each other, the links and the pipe in them that a walk passes by, and then the files.
fn grow_tree(root: &Path) {
    let mut random = Lcg(0x5EED);
    let mut folders = vec![root.to_owned()];
    for n in 0..64 {
        let name = if n % 2 == 0 { odd(n / 2) } else { OsString::from(n.to_string()) };
        let folder = folders[random.below(folders.len())].join(name);
        fs::create_dir(&folder).unwrap();
        folders.push(folder);
    }
    add_what_is_no_file(root);
    // Each file is a part of the noise: fresh noise for each would take longer than all the rest.
    let noise: Vec<u8> = (0..MIB / 2).flat_map(|_| random.next().to_le_bytes()).collect();
    for n in 0..FILES {
        let mut name = if n % 10 == 0 { odd(n / 10) } else { OsString::from(n.to_string()) };
        name.push(".file");
        let size = EDGES.get(n).copied().unwrap_or_else(|| random.size());
        let start = random.below(noise.len() - size);
        fs::write(folders[random.below(folders.len())].join(name), &noise[start..start + size]).unwrap();
    }
}

fn add_what_is_no_file(folder: &Path) {
    fs::create_dir(folder.join("empty folder")).unwrap();
    symlink("nowhere", folder.join("dangling link")).unwrap();
    symlink("/proc/version", folder.join("link to a file")).unwrap();
    symlink("..", folder.join("link to a folder")).unwrap();
    assert!(run(Command::new("mkfifo").arg(folder.join("pipe"))).status.success());
}

fn home_with(files: &[&str]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for file in files {
        let path = home.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    home
}

fn set_mode(home: &TempDir, path: &str, mode: u32) {
    fs::set_permissions(home.path().join(path), Permissions::from_mode(mode)).unwrap();
}

/// Why it cannot be read. An empty path is none, not even in a folder.
fn error_of(home: &TempDir, path: &str) -> io::Error {
    let path = if path.is_empty() { path.into() } else { home.path().join(path) };
    fs::read(path).unwrap_err()
}

/// The line on stderr.
fn failure(path: &str, error: impl Display) -> String {
    format!("checksum: {path:?}: {error}\n")
}

// ===== tests =====

#[test]
fn a_large_tree_is_hashed_as_by_sha256sum() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("tree")).unwrap();
    grow_tree(&home.path().join("tree"));
    assert_eq!(assert_as_sha256sum(home.path(), &["tree"]), FILES);
}

#[test]
fn paths_are_printed_as_given_and_sorted_by_bytes() {
    // `-` and `.` sort before `/`, and so before what is in the folder `a`.
    let home = home_with(&["a/b", "a/c/d", "a-b", "a.b", "a0", "B", "ä"]);
    symlink("a/b", home.path().join("to-file")).unwrap();
    symlink("a", home.path().join("to-folder")).unwrap();
    for (roots, files) in [
        (&["."][..], 7),
        (&["./"], 7),
        (&["a/"], 2),
        (&[".//a//"], 2),
        (&["a/../a"], 2),
        (&["ä", "a0", "a", "a-b", "a.b", "B"], 7),
        (&["a", "a/b", "a0", "a", "a0"], 7),
        (&["to-file", "to-folder", "to-folder/"], 5),
        (&[home.path().to_str().unwrap()], 7),
    ] {
        assert_eq!(assert_as_sha256sum(home.path(), roots), files, "{roots:?}");
    }
}

#[test]
fn without_arguments_the_sources_of_the_project_are_hashed() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let elsewhere = tempfile::tempdir().unwrap();
    let ours = run(checksum().current_dir(&elsewhere));
    assert_same(&ours.stdout, &sha256sum(elsewhere.path(), &find(elsewhere.path(), &[source])));
    assert!(ours.status.success() && !ours.stdout.is_empty());
}

#[test]
fn every_file_that_fails_is_named_and_the_others_are_hashed() {
    let home = home_with(&["good", "zzz"]);
    symlink("nowhere", home.path().join("dangling")).unwrap();
    symlink("round", home.path().join("round")).unwrap();
    let long = "long".repeat(100);
    let mut bad = vec!["gone 1", "", "dangling", "round", "gone\n2", "good/below", &long];
    // Nothing is mapped at its beginning: it can be opened, but not read, and not by root either.
    bad.extend(Path::new("/proc/self/mem").exists().then_some("/proc/self/mem"));

    let roots: Vec<_> = ["zzz"].iter().chain(&bad).chain(&["good"]).collect();
    let ours = run(checksum().current_dir(&home).args(&roots));
    assert_same(&ours.stdout, &sha256sum(home.path(), &sorted(["good", "zzz"])));
    bad.sort_unstable();
    let failures = bad.iter().map(|&path| failure(path, error_of(&home, path)));
    assert_eq!(text(&ours.stderr), failures.collect::<String>());
    assert_eq!(ours.status.code(), Some(1));
}

/// Root may read everything, and so it is compared with what `sha256sum` can read.
#[test]
fn locked_files_and_folders_below_a_root_are_named() {
    let home = home_with(&["tree/file", "tree/folder/file", "tree/good"]);
    let locked = ["tree/file", "tree/folder"];
    locked.iter().for_each(|path| set_mode(&home, path, 0o000));
    let ours = run(checksum().current_dir(&home).arg("tree"));
    let theirs = sha256sum(home.path(), &sorted(["tree/file", "tree/folder/file", "tree/good"]));
    let denied = File::open(home.path().join("tree/file")).err();
    locked.iter().for_each(|path| set_mode(&home, path, 0o700));

    assert_same(&ours.stdout, &theirs);
    let failures = denied.iter().flat_map(|error| locked.map(|path| failure(path, error)));
    assert_eq!(text(&ours.stderr), failures.collect::<String>());
    assert_eq!(ours.status.success(), denied.is_none());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = home_with(&["file"]);
    // More than a pipe holds: the example cannot be through before its reader is gone.
    let lines = ["file"; 4_096];
    let mut ours = checksum();
    ours.current_dir(&home).args(lines).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ours = ours.spawn().unwrap();
    drop(ours.stdout.take());
    let ours = ours.wait_with_output().unwrap();
    assert_eq!((ours.status.code(), text(&ours.stderr)), (Some(0), String::new()));
}

#[test]
fn failures_that_nobody_reads_are_still_in_the_exit_code() {
    let mut ours = checksum().args(["gone"; 4_096]).stderr(Stdio::piped()).spawn().unwrap();
    drop(ours.stderr.take());
    assert_eq!(ours.wait().unwrap().code(), Some(1));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let home = home_with(&["file"]);
    let ours = run(checksum().current_dir(&home).args(["file", "gone"]).stdout(full));
    let stderr = text(&ours.stderr);
    assert!(stderr.contains("\"gone\"") && stderr.contains("stdout: "), "{stderr}");
    assert_eq!(ours.status.code(), Some(1));
}
