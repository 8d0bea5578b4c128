//! Stands for `tokio::runtime`: a `Handle` whose tasks are those of [`task`](crate::task), and that can be entered.
//!
//! There is one runtime, which everything is in, and which never shuts down.

use std::marker::PhantomData;

use crate::task::{JoinHandle, spawn, spawn_blocking};

pub use shuttle_tokio::runtime::TryCurrentError;

#[derive(Clone, Debug)]
pub struct Handle(());

/// Of a runtime that is entered, as everything always is.
#[derive(Debug)]
pub struct EnterGuard<'a>(PhantomData<&'a Handle>);

impl Handle {
    pub fn current() -> Self {
        Self(())
    }

    pub fn try_current() -> Result<Self, TryCurrentError> {
        Ok(Self(()))
    }

    pub fn enter(&self) -> EnterGuard<'_> {
        EnterGuard(PhantomData)
    }

    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(future)
    }

    pub fn spawn_blocking<F, T>(&self, closure: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        spawn_blocking(closure)
    }
}
