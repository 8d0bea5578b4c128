//! `examples/latch.rs`: three outages, and no reading lost.

use crate::process::Process;

#[tokio::test]
async fn what_meets_an_outage_is_uploaded_after_it() {
    let end = Process::example("latch", &[]).end().await;
    assert_eq!((end.code, end.stderr.len()), (Some(0), 0), "{end:#?}");
    let outages = ["online", "offline"].repeat(3);
    assert_eq!(end.stdout, [&outages[..], &["online", "30 of 30 readings have arrived"]].concat());
}
