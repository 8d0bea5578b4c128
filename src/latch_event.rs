//! A flag that can be waited on in both directions.
//!
//! It is a `watch` channel that sends changes only, and never a state that is there already. So the states alternate,
//! and the channel's version counts the changes: whoever has seen one state need not look at the next, but waits for
//! the first change, and cannot miss a pulse.

use std::fmt;

use tokio::sync::watch;

/// A flag that is set or unset, and that can be waited on in both directions.
///
/// A clone is another handle to the same flag. It needs no runtime: it can be made, set and asked anywhere, and waited
/// on in any executor.
///
/// No pulse is lost: a waiter that is there when the flag is set completes, even if the flag is unset again before the
/// waiter runs. A waiter is there from the *call* of [`wait_set`](Self::wait_set), not from its first poll. In
/// contrast, `wait_for(|set| *set)` of a plain [`watch`] channel looks only at the flag as it is when the waiter runs,
/// and so misses a pulse.
///
/// Unlike [`Notify`](tokio::sync::Notify), it has a state, which those who come late see. Unlike a
/// [`CancellationToken`](tokio_util::sync::CancellationToken), it can be unset. If you need neither, use those. It is
/// the `Event` of Python's asyncio, with a second direction.
///
/// # Examples
///
/// ```
/// use aiodrive::LatchEvent;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let online = LatchEvent::new();
/// let waiting = online.wait_set();
///
/// online.set();
/// online.unset(); // a pulse
/// waiting.await; // the waiter has seen it
///
/// assert!(!online.is_set());
/// online.wait_unset().await; // it is unset already
/// # }
/// ```
///
/// Work that rests while the connection is down:
///
/// ```
/// use aiodrive::{LatchEvent, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let online = LatchEvent::new();
/// Pool::open(async |pool: Pool| {
///     let connection = online.clone();
///     let sent = pool.spawn_with_handle(async move {
///         for _message in 0..3 {
///             connection.wait_set().await;
///             // … send it
///         }
///         Ok(3)
///     });
///     tokio::task::yield_now().await;
///     assert!(!sent.is_finished());
///
///     online.set();
///     assert_eq!(sent.await?, 3);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone, Default)]
pub struct LatchEvent {
    /// Its version counts the changes, since only changes are sent.
    state: watch::Sender<bool>,
}

impl LatchEvent {
    /// Makes a flag that is unset. For one that is set, use `LatchEvent::from(true)`.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(!aiodrive::LatchEvent::new().is_set());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag; does nothing if it is set.
    ///
    /// # Examples
    ///
    /// ```
    /// let ready = aiodrive::LatchEvent::new();
    /// ready.set();
    /// assert!(ready.is_set());
    /// ```
    pub fn set(&self) {
        self.set_to(true);
    }

    /// Unsets the flag; does nothing if it is unset.
    ///
    /// # Examples
    ///
    /// ```
    /// let ready = aiodrive::LatchEvent::from(true);
    /// ready.unset();
    /// assert!(!ready.is_set());
    /// ```
    pub fn unset(&self) {
        self.set_to(false);
    }

    /// Sets the flag if `state` is true, and unsets it otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// let online = aiodrive::LatchEvent::new();
    /// for connections in [0, 1, 2] {
    ///     online.set_to(connections > 0);
    /// }
    /// assert!(online.is_set());
    /// ```
    pub fn set_to(&self, state: bool) {
        // Not `send`, which forgets the value when nobody listens.
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    /// Whether the flag is set.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(aiodrive::LatchEvent::from(true).is_set());
    /// ```
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.state.borrow()
    }

    /// Waits until the flag is set: ready if it was set when this was called, or at any time since.
    ///
    /// The returned future borrows nothing, and can be spawned. If all handles to the flag are dropped, nobody can
    /// change it any more, and a waiter waits for ever.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that the
    /// flag and its other waiters are as they were. What was seen so far is forgotten with the dropped future, so await
    /// it by reference in a loop.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let ready = aiodrive::LatchEvent::new();
    /// let waiting = tokio::spawn(ready.wait_set());
    /// ready.set();
    /// waiting.await.unwrap();
    /// # }
    /// ```
    #[inline]
    pub fn wait_set(&self) -> impl Future<Output = ()> + Send + use<> {
        self.wait_for(true)
    }

    /// Waits until the flag is unset: ready if it was unset when this was called, or at any time since.
    ///
    /// If all handles to the flag are dropped, nobody can change it any more, and a waiter waits for ever.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe in the same way as [`wait_set`](Self::wait_set).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let busy = aiodrive::LatchEvent::from(true);
    /// let idle = tokio::spawn(busy.wait_unset());
    /// busy.unset();
    /// idle.await.unwrap();
    /// # }
    /// ```
    #[inline]
    pub fn wait_unset(&self) -> impl Future<Output = ()> + Send + use<> {
        self.wait_for(false)
    }

    /// Waits until the flag has changed since this was called, and yields what it is by then.
    ///
    /// After a pulse, that is what it was before. Neither this nor [`subscribe`](Self::subscribe) shows every state,
    /// since several changes may look like one: to follow them all, send them through a channel.
    ///
    /// If all handles to the flag are dropped, nobody can change it any more, and a waiter waits for ever.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe in the same way as [`wait_set`](Self::wait_set).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let online = aiodrive::LatchEvent::new();
    /// let change = online.wait_change();
    /// online.set();
    /// assert_eq!(change.await, true);
    /// # }
    /// ```
    pub fn wait_change(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut state = self.state.subscribe();
        async move {
            changed(&mut state).await;
            *state.borrow()
        }
    }

    /// A receiver of the flag's states, for what the waiters here do not offer: `changed()`, `wait_for()`, a stream.
    ///
    /// It sees the newest state, and may skip others. It does not keep the flag alive. While you keep a `borrow()` of
    /// it, a call that sets or unsets the flag blocks its thread: copy the `bool` out of it at once.
    ///
    /// # Examples
    ///
    /// ```
    /// let online = aiodrive::LatchEvent::new();
    /// let states = online.subscribe();
    /// online.set();
    /// assert!(*states.borrow());
    /// ```
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// Ready if the flag is as wanted now, or at any time from now on.
    ///
    /// This and its callers are inlined since the copy of a future, on its way to where it is awaited, is a tenth of
    /// the time that a wait takes.
    #[inline]
    fn wait_for(&self, wanted: bool) -> impl Future<Output = ()> + Send + use<> {
        // States alternate. So whoever found the other state when it subscribed waits for the first change, and a
        // change between the two lines counts, too.
        let mut state = self.state.subscribe();
        if *state.borrow() == wanted {
            state.mark_changed();
        }
        async move { changed(&mut state).await }
    }
}

async fn changed(state: &mut watch::Receiver<bool>) {
    if state.changed().await.is_err() {
        std::future::pending().await
    }
}

impl From<bool> for LatchEvent {
    fn from(set: bool) -> Self {
        Self { state: watch::Sender::new(set) }
    }
}

impl fmt::Debug for LatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_set() { "set" } else { "unset" };
        f.debug_struct("LatchEvent").field("state", &state).field("waiters", &self.state.receiver_count()).finish()
    }
}
