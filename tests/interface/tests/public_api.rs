//! The public interface with all features, line by line, so that who reviews a change sees what it does to it.
//!
//! After a change: `UPDATE_SNAPSHOTS=yes cargo test -p aiodrive-interface`, and read what has changed. The auto traits are
//! not in the listing, but in `tests/it/properties.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The compiler whose `rustdoc` has told the listing. Others may use another format, or another order.
const COMPILER: &str = "rustc 1.95.";

const LISTING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/public-api.txt");

fn rustdoc_json() -> PathBuf {
    // A target directory of its own: who runs this test may hold the lock of the usual one.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public_api");
    let status = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--lib", "--all-features"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")])
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Zunstable-options", "--output-format=json"])
        // The listing needs an unstable option, the library does not.
        .env("RUSTC_BOOTSTRAP", "1")
        // It would be written elsewhere, or differ.
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTDOCFLAGS")
        .status()
        .expect("cargo starts");
    assert!(status.success(), "cargo rustdoc: {status}");
    target.join("doc/aiodrive.json")
}

/// The lines of `of` that `other` does not have.
fn only_in(of: &str, other: &str, mark: char) -> String {
    let only = of.lines().filter(|line| !other.lines().any(|known| known == *line));
    only.map(|line| format!("{mark} {line}\n")).collect()
}

#[test]
fn the_public_interface_is_the_listed_one() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().expect("the compiler tells its version").stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(COMPILER) {
        let needed = format!("the listing is that of {COMPILER}x, and this is {version}");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{needed}");
        println!("skipped: {needed}");
        return;
    }
    let found = public_api::Builder::from_rustdoc_json(rustdoc_json())
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()
        .expect("rustdoc writes the format that is read")
        .to_string();
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(LISTING, found).expect("the listing can be written");
        return;
    }
    let listed = fs::read_to_string(LISTING).expect("there is a listing");
    assert!(
        found == listed,
        "this differs from public-api.txt; if it is meant, `UPDATE_SNAPSHOTS=yes cargo test -p aiodrive-interface`:\n{}{}",
        only_in(&listed, &found, '-'),
        only_in(&found, &listed, '+'),
    );
}
