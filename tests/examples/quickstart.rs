//! `examples/quickstart.rs`: the lines of files, and the first file that cannot be read.

use std::fs;

use crate::process::Process;

#[tokio::test]
async fn it_counts_lines() {
    let home = tempfile::tempdir().unwrap();
    let paths = ["none", "two", "many"].map(|name| home.path().join(name).to_str().unwrap().to_owned());
    for (path, text) in paths.iter().zip(["", "1\n2\nnot ended by a newline", &"\n".repeat(100_000)]) {
        fs::write(path, text).unwrap();
    }
    let end = Process::example("quickstart", &[&paths[0], &paths[1], &paths[2]]).end().await;
    let counts = [format!("0 {}", paths[0]), format!("2 {}", paths[1]), format!("100000 {}", paths[2])];
    assert_eq!(end.stdout, [&counts[..], &["100002 total".into()]].concat());
    assert_eq!((end.code, end.stderr.len()), (Some(0), 0), "{end:#?}");
}

#[tokio::test]
async fn without_arguments_it_counts_its_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.rs");
    let lines = fs::read_to_string(path).unwrap().lines().count();
    let end = Process::example("quickstart", &[]).end().await;
    assert_eq!(end.stdout, [format!("{lines} {path}"), format!("{lines} total")]);
    assert_eq!(end.code, Some(0), "{end:#?}");
}

#[tokio::test]
async fn it_says_which_file_cannot_be_read() {
    let end = Process::example("quickstart", &["/nowhere"]).end().await;
    assert_eq!((end.code, end.stdout.len(), end.stderr.len()), (Some(1), 0, 1), "{end:#?}");
    let said = &end.stderr[0];
    assert!(said.starts_with("task \"/nowhere\" (examples/quickstart.rs:"), "{said}");
    assert!(said.contains(" failed: No such file or directory"), "{said}");
}
