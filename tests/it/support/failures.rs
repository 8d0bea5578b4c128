//! Failures: how they are made, and how they read.

use std::error::Error;
use std::fmt;

use aiodrive::{BoxError, Pool, PoolError, TaskStopped};

use super::OnDrop;

/// The message that a closure panics with; fails if it returns.
pub fn panic_text<R>(code: impl FnOnce() -> R) -> String {
    let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)) else { panic!("it returned") };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().expect("a message").to_string(),
    }
}

/// How each of some tasks failed: `error: …`, `panic: …` or `cancelled`.
pub fn failures<E: fmt::Display>(of: &[aiodrive::TaskError<E>]) -> Vec<String> {
    let text = |failed: &aiodrive::TaskError<E>| match failed.failure() {
        aiodrive::Failure::Error(error) => format!("error: {error}"),
        aiodrive::Failure::Panic(payload) => format!("panic: {payload}"),
        aiodrive::Failure::Ended => "ended".to_owned(),
        _ => "cancelled".to_owned(),
    };
    of.iter().map(text).collect()
}

/// A panic that prints nothing.
pub fn quiet_panic(message: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(message))
}

pub type Outcome<T = ()> = Result<T, PoolError>;

/// Something whose destructor panics.
pub fn bomb(message: &'static str) -> OnDrop<impl FnOnce() + Send> {
    OnDrop::new(move || quiet_panic(message))
}

pub async fn fails(text: &'static str) -> Result<(), BoxError> {
    Err(text.into())
}

/// What was being done, and why that failed.
#[derive(Debug)]
pub struct While(pub &'static str, pub BoxError);

impl fmt::Display for While {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for While {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.1)
    }
}

/// Has a task of a running pool fail, and waits until it has.
pub async fn failed(pool: &Pool, text: &'static str) {
    let handle = pool.spawn_with_handle(fails(text));
    assert_eq!(handle.await, Err(TaskStopped::Failed), "{text}");
}

/// What is reported as cleanup failures of a pool with this body, in which nothing else fails.
pub async fn cleanup_of<F: Future<Output = ()>>(body: impl FnOnce() -> F) -> Vec<String> {
    let opened: Result<(), PoolError> = Pool::open(|_| async {
        body().await;
        Ok(())
    })
    .await;
    let Err(error) = opened else { return Vec::new() };
    assert!(error.failures().is_empty(), "{error}");
    failures(error.cleanup_failures())
}

pub type PanicsInDrop = OnDrop<fn()>;

/// An output that panics when it is dropped.
pub fn panics_in_drop() -> PanicsInDrop {
    OnDrop::new(|| panic!("in drop"))
}
