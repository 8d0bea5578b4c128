//! `examples/test_helper.rs`: what its helper does. Its own tests are run as well.

use crate::process::Process;

/// As a module, since an example whose tests are run with the others is not built as a program with them.
#[expect(dead_code, reason = "its `main` is run as a process")]
#[path = "../../examples/test_helper.rs"]
mod example;

#[tokio::test]
async fn the_server_lives_as_long_as_the_test_and_its_failure_is_reported() {
    let end = Process::example("test_helper", &[]).end().await;
    assert_eq!((end.code, end.stdout.len()), (Some(0), 3), "{end:#?}");
    assert_eq!(end.stdout[0], "during the test: HELLO");
    assert!(end.stdout[1].starts_with("after the test: Connection refused"), "{end:#?}");
    assert!(
        end.stdout[2].starts_with("when the server fails: task \"connection\" (examples/test_helper.rs:"),
        "{end:#?}"
    );
}
