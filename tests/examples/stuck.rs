//! `examples/stuck.rs`: a service that does not end, and everything that says who keeps it.

use crate::process::Process;

#[tokio::test]
async fn it_names_the_culprit_in_the_tree_in_the_error_and_in_the_warning() {
    let end = Process::example("stuck", &[]).end().await;
    assert_eq!(end.code, Some(0), "{end:#?}");
    let [service, pool, culprit, error] = &end.stdout[..] else { panic!("{end:#?}") };
    assert_eq!(service, "service (closing: cancelled: shutdown, 0 tasks)");
    assert_eq!(pool, "└── <pool> (closing: the enclosing pool closes: cancelled: shutdown, 1 task, handed over)");
    assert!(culprit.starts_with("    └── old printer  examples/stuck.rs:"), "{culprit}");
    assert!(error.starts_with("pool \"service\": gave up on task \"old printer\" (examples/stuck.rs:"), "{error}");
    let warned = end.stderr.concat();
    assert!(warned.contains("closing pool still waits for tasks") && warned.contains("old printer"), "{warned}");
}
