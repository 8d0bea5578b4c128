//! What the types forbid, and what the compiler says of it.
//!
//! After a change: `TRYBUILD=overwrite cargo test -p aiodrive-interface --test ui`, and read what has changed.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The compiler whose words are in `tests/ui/*.stderr`. Others forbid the same with other words.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn what_is_forbidden_does_not_compile() {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().expect("the compiler tells its version").stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(COMPILER) {
        let needed = format!("the messages are those of {COMPILER}x, and this is {version}");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{needed}");
        println!("skipped: {needed}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

/// The chapter about migrating shows a program of a crate that `aiodrive` itself does not need for its tests.
#[test]
fn what_the_chapters_show_of_other_crates_compiles() {
    const CHAPTER: &str = include_str!("../../../src/docs/migrating.md");
    let (_, rest) = CHAPTER.split_once("```ignore\n").expect("a program that the chapter's own tests pass over");
    let (program, rest) = rest.split_once("```\n").expect("the end of the program");
    assert!(!rest.contains("```ignore"), "there is another such program");
    let program: String =
        program.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("migrating.rs");
    fs::write(&file, program).unwrap();
    trybuild::TestCases::new().pass(file);
}
