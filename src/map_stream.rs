//! A stream as the source of a [`map`](crate::map()).

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::error::BoxError;
use crate::map::{Map, Source};

/// Like [`map`](crate::map()), with items that come from a stream.
///
/// The stream is polled only while [`next`](Map::next) or [`collect`](Map::collect) is awaited, and only when there is
/// room for an item. It has to be `Unpin`: if it is not, pin it with [`pin!`](std::pin::pin) or `Box::pin`.
///
/// # Panics
///
/// If `limit` is 0.
///
/// # Examples
///
/// ```
/// use aiodrive::map_stream;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let numbers = tokio_stream::iter(1..=4);
/// let squares = map_stream(2, numbers, async |n: u32| Ok(n * n)).collect().await?;
/// assert_eq!(squares, [1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn map_stream<S, A, F, Fut, T, E>(limit: usize, items: S, f: F) -> Map<FromStream<S>, F, T, E>
where
    S: Stream<Item = A> + Unpin,
    F: FnMut(A) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    Map::new("map_stream", limit, FromStream(items), f)
}

/// The source of a [`map_stream`], for the type of a field.
///
/// # Examples
///
/// ```
/// use std::future::{Ready, ready};
/// use aiodrive::futures::FromStream;
/// use aiodrive::{BoxError, Map, map_stream};
/// use tokio_stream::{Empty, empty};
///
/// type Square = fn(u32) -> Ready<Result<u32, BoxError>>;
///
/// let square: Square = |n| ready(Ok(n * n));
/// let squares: Map<FromStream<Empty<u32>>, Square, u32> = map_stream(2, empty(), square);
/// # drop(squares);
/// ```
#[derive(Debug)]
pub struct FromStream<S>(S);

impl<S: Stream + Unpin> Source for FromStream<S> {
    type Item = S::Item;

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}
