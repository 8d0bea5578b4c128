//! A function over many items, at most so many of them at a time.
//!
//! A [`Map`] is a [`TaskGroup`], whose children have the positions of their items, and a [`Source`] from which it pulls.
//! In order, there is a slot for each item from the first that was not given to the last that was pulled.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::poll_fn;
use std::panic::Location;
#[cfg(feature = "stream")]
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

#[cfg(feature = "stream")]
use futures_core::Stream;
use tokio::task::coop::consume_budget;

use crate::error::{BoxError, Failure, PoolError, TaskError, TaskInfo, catch};
use crate::group::error_of_call;
use crate::scope::{GroupEnd, Reporter};
use crate::task_group::TaskGroup;

/// Runs a function over items, at most `limit` of them at a time, each in a task of its own.
///
/// The results come by [`next`](Map::next), in the order of the items or, with [`unordered`](Map::unordered), as they
/// complete; or all at once by [`collect`](Map::collect).
///
/// An item is in flight from the moment it is pulled until `next` gives its result. One is pulled only while fewer than
/// `limit` are in flight. So a slow consumer slows the source down, an endless source takes no more
/// memory than `limit` items, and nothing is pulled except while `next` is awaited.
///
/// In order, `next` gives no result before those of earlier items, and results that wait are in flight, too. So **one
/// slow item holds up the results behind it**: while `limit - 1` results wait behind it, it runs alone, and no item is
/// pulled. If items take different times and you do not need their order, call [`unordered`](Map::unordered). `collect`
/// takes results as they complete, and puts the values in order at the end: a slow item holds up nothing there.
///
/// `items` and `f` are used in place and may borrow; the futures that `f` makes are tasks, and own what they need. They
/// belong to the [scope](crate::docs#a-scope) in which `map` is called, as the children of a [`TaskGroup`] do. So over
/// borrowed items, `f` is a closure that copies what its future needs, as in `|url: &String| fetch(url.clone())`, and
/// no `async` closure, whose future would hold the reference.
///
/// Unlike [`buffered`](https://docs.rs/futures/latest/futures/stream/trait.StreamExt.html#method.buffered) of `futures`,
/// it runs the futures as tasks: they go on while nobody awaits `next`, may use several processors, and a panic is a
/// result. Nothing is left behind when it is dropped: the tasks are aborted, and the enclosing pool waits for them.
///
/// # Panics
///
/// If `limit` is 0.
///
/// # Examples
///
/// ```
/// use aiodrive::{BoxError, map};
///
/// async fn title(page: u32) -> Result<String, BoxError> {
///     Ok(format!("page {page}"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let titles = map(8, 0..3, title).collect().await?;
/// assert_eq!(titles, ["page 0", "page 1", "page 2"]);
/// # Ok(())
/// # }
/// ```
///
/// One after the other, from a source that has no end:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{TaskError, map};
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), TaskError> {
/// let mut numbers = map(4, 1.., async |n: u64| {
///     sleep(Duration::from_secs(1)).await;
///     Ok(n * n)
/// })
/// .name(|index| format!("number {index}"));
/// while let Some(square) = numbers.next().await {
///     if square? > 100 {
///         break; // the rest is aborted when `numbers` is dropped
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn map<I, A, F, Fut, T, E>(limit: usize, items: I, f: F) -> Map<I::IntoIter, F, T, E>
where
    I: IntoIterator<Item = A>,
    F: FnMut(A) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    Map::new("map", limit, items.into_iter(), f)
}

/// What items are pulled from: an iterator, or a stream.
///
/// It is implemented for all iterators, and by `map_stream` for streams. This trait is sealed.
///
/// # Examples
///
/// ```
/// use aiodrive::futures::Source;
/// use aiodrive::{BoxError, Map};
///
/// async fn last<I>(mut squares: Map<I, fn(u32) -> Square, u32>) -> Option<u32>
/// where
///     I: Source<Item = u32>,
/// {
///     let mut last = None;
///     while let Some(square) = squares.next().await {
///         last = square.ok();
///     }
///     last
/// }
///
/// type Square = std::future::Ready<Result<u32, BoxError>>;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let square: fn(u32) -> Square = |n| std::future::ready(Ok(n * n));
/// assert_eq!(last(aiodrive::map(2, 1..=4, square)).await, Some(16));
/// # }
/// ```
pub trait Source {
    /// An item.
    type Item;

    /// The next item; `None` at the end, after which it is not asked again.
    #[doc(hidden)]
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::Item>>;
}

impl<I: Iterator> Source for I {
    type Item = I::Item;

    fn poll_item(&mut self, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.next())
    }
}

/// The results of [`map`], which come one by one, or all at once.
///
/// # Examples
///
/// As a field, with a function pointer:
///
/// ```
/// use std::future::{Ready, ready};
/// use std::ops::Range;
/// use aiodrive::{BoxError, Map, map};
///
/// type Square = fn(u32) -> Ready<Result<u32, BoxError>>;
///
/// struct Squares {
///     results: Map<Range<u32>, Square, u32>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let square: Square = |n| ready(Ok(n * n));
/// let mut squares = Squares { results: map(2, 7..9, square) };
/// assert_eq!(squares.results.next().await.unwrap().unwrap(), 49);
/// # }
/// ```
#[must_use = "nothing runs until `next` or `collect` is awaited, and the tasks are aborted when this is dropped"]
pub struct Map<I, F, T, E = BoxError> {
    /// Dropped before the slots, whose failures it has reported.
    group: TaskGroup<T, E>,
    /// From the first item that was not given to the last that was pulled. Without an order, only `collect` uses it.
    slots: VecDeque<Option<Slot<T, E>>>,
    source: I,
    /// Whether it has ended, one of the user's functions has panicked, or the map was aborted.
    is_exhausted: bool,
    /// Whether it was that.
    is_cut_short: bool,
    f: F,
    name: Option<Box<dyn Fn(usize) -> Arc<str> + Send + Sync>>,
    limit: usize,
    is_ordered: bool,
    /// How many items were pulled.
    pulled: usize,
    /// How many results were given.
    given: usize,
    /// How many were put into a slot.
    arrived: usize,
}

/// A result that waits for those of earlier items, or for the others of a `collect`.
struct Slot<T, E> {
    ended: GroupEnd<T, E>,
    /// Its place in the order in which results were put into slots.
    arrival: usize,
}

/// How a `collect` came to its end.
enum Collected<E> {
    All,
    /// There is a failure, or the map was aborted.
    Part,
    /// A task was cut off, which is no failure if there is another one.
    CutOff(TaskError<E>),
}

/// Nothing of the user's is pinned in it.
impl<I, F, T, E> Unpin for Map<I, F, T, E> {}

impl<I, F, T, E> Map<I, F, T, E>
where
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    /// A call of this function.
    #[track_caller]
    fn new(function: &'static str, limit: usize, source: I, f: F) -> Self {
        let called_at = Location::caller();
        assert!(limit > 0, "`{function}` at {called_at} was called with a limit of 0, under which nothing can run");
        Self {
            group: TaskGroup::named(function),
            slots: VecDeque::new(),
            source,
            is_exhausted: false,
            is_cut_short: false,
            f,
            name: None,
            limit,
            is_ordered: true,
            pulled: 0,
            given: 0,
            arrived: 0,
        }
    }

    /// Has [`next`](Self::next) and [`collect`](Self::collect) give the results as they complete.
    ///
    /// With `next`, use it wherever the order does not matter: then a slow item takes one place of the limit. In order
    /// it takes all of them, once the results behind it wait. With `collect`, only the order of the values is
    /// different.
    ///
    /// It is to be called before the first `next`.
    ///
    /// # Examples
    ///
    /// The first item takes ten seconds, the others one. Two at a time:
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{BoxError, map};
    /// use tokio::time::{Instant, sleep};
    ///
    /// async fn work(seconds: u64) -> Result<(), BoxError> {
    ///     Ok(sleep(Duration::from_secs(seconds)).await)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let begin = Instant::now();
    /// let mut ordered = map(2, [10, 1, 1, 1, 1, 1], work);
    /// while ordered.next().await.is_some() {}
    /// assert_eq!(begin.elapsed().as_secs(), 12); // after ten, four items are left
    ///
    /// let begin = Instant::now();
    /// let mut unordered = map(2, [10, 1, 1, 1, 1, 1], work).unordered();
    /// while unordered.next().await.is_some() {}
    /// assert_eq!(begin.elapsed().as_secs(), 10);
    /// # }
    /// ```
    ///
    /// With `collect`:
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{PoolError, map};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), PoolError> {
    /// let slept = map(3, [3, 1, 2], async |seconds| {
    ///     tokio::time::sleep(Duration::from_secs(seconds)).await;
    ///     Ok(seconds)
    /// });
    /// assert_eq!(slept.unordered().collect().await?, [1, 2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn unordered(mut self) -> Self {
        self.forget_order();
        self
    }

    /// Gives a name to each task, made of the position of its item. Without one it is known as `branch 3 of map at …`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::map;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pages = map(2, ["/", "/about"], async |_| Err::<(), _>("not found"));
    /// let error = pages.name(|index| format!("page {index}")).collect().await.unwrap_err();
    /// assert_eq!(error.first().unwrap().task().name(), Some("page 0"));
    /// # }
    /// ```
    pub fn name<N>(mut self, name: impl Fn(usize) -> N + Send + Sync + 'static) -> Self
    where
        N: Into<Cow<'static, str>>,
    {
        self.name = Some(Box::new(move |index| Arc::from(name(index).into())));
        self
    }

    /// What was put into a slot before is given first.
    fn forget_order(&mut self) {
        self.is_ordered = false;
        let mut slots: Vec<_> = std::mem::take(&mut self.slots).into_iter().flatten().collect();
        slots.sort_by_key(|slot| slot.arrival);
        slots.into_iter().for_each(|slot| self.group.keep(slot.ended));
    }

    /// The task of the item that was pulled last.
    fn info(&self) -> TaskInfo {
        match &self.name {
            Some(name) => TaskInfo::new(Some(name(self.pulled)), self.group.reporter().called_at),
            None => self.branch(self.pulled),
        }
    }

    /// A task without a name.
    fn branch(&self, index: usize) -> TaskInfo {
        let Reporter { function, called_at, .. } = self.group.reporter();
        TaskInfo::branch(function, index, called_at)
    }
}

impl<I, A, F, Fut, T, E> Map<I, F, T, E>
where
    I: Source<Item = A>,
    F: FnMut(A) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    /// The result of the next item; `None` after the last one, when everything below the tasks has ended, too. An abort
    /// that is heard in a blocking call makes the item in flight the last one.
    ///
    /// In order, it waits for the earliest item in flight, also if results of later items are there; meanwhile these keep
    /// their places of the limit. [`unordered`](Self::unordered) gives whichever result is there.
    ///
    /// A failure stops nothing: whoever gets it decides. After `None`, it is `None` for ever.
    ///
    /// # Errors
    ///
    /// An item is an error if its task has returned one, has panicked, or was cut off: by its runtime or, in a blocking
    /// call, by an abort of the task around it.
    ///
    /// # Panics
    ///
    /// - Outside of a tokio runtime.
    /// - With the panic of the source, of `f` or of `name`. Then all tasks are aborted, the enclosing pool reports what
    ///   they fail with, and the next call gives `None`.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no
    /// result was taken, and no item is lost: the tasks go on.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::map;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut words = map(2, ["1", "two", "3"], async |word: &str| word.parse::<u32>());
    /// assert_eq!(words.next().await.unwrap().unwrap(), 1);
    /// assert!(words.next().await.unwrap().is_err());
    /// assert_eq!(words.next().await.unwrap().unwrap(), 3);
    /// assert!(words.next().await.is_none());
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<T, TaskError<E>>> {
        poll_fn(|cx| self.poll_result(cx)).await.map(GroupEnd::take)
    }

    /// All values, in the order of the items or, if it is [`unordered`](Self::unordered), as they completed.
    ///
    /// The first failure aborts the other tasks, and no more items are pulled. What [`next`](Self::next) has given
    /// before is not among the values.
    ///
    /// # Errors
    ///
    /// With all failures in the order in which they came. In a blocking call, if the task around it was aborted, with
    /// an error that [is cancelled](PoolError::is_cancelled). It hears of that only while an item is in flight, and not
    /// while it waits for a source.
    ///
    /// # Panics
    ///
    /// As [`next`](Self::next) does.
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe: the values so far are lost. Use [`next`](Self::next) instead. Its tasks are
    /// aborted, the enclosing pool waits for their end, and reports the failures.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{BoxError, map};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let parsed = map(2, ["1", "two", "3"], async |word: &str| word.parse::<u32>());
    /// let error = parsed.collect().await.unwrap_err();
    /// assert_eq!(error.failures().len(), 1);
    /// assert!(error.to_string().contains("invalid digit"));
    /// # }
    /// ```
    pub async fn collect(mut self) -> Result<Vec<T>, PoolError<E>> {
        let cleanup = self.group.collect_cleanup();
        let is_ordered = self.is_ordered;
        let end = self.collect_values().await;
        let failures = self.group.shutdown().await;
        let mut below = cleanup.close();
        let mut values: Vec<_> = std::mem::take(&mut self.slots).into_iter().flatten().collect();
        if !matches!(end, Collected::All) || !below.is_empty() {
            // They are nobody's.
            below.extend(values.into_iter().filter_map(|slot| slot.ended.discard()));
            let cut_off = if let Collected::CutOff(cut_off) = end { Some(cut_off) } else { None };
            return Err(error_of_call(failures, cut_off, below, self.group.is_aborted()));
        }
        if is_ordered {
            values.sort_by_key(|slot| slot.ended.index());
        }
        Ok(values.into_iter().filter_map(|slot| slot.ended.take().ok()).collect())
    }

    /// Puts the values into the slots, which have no other use without order, until the first failure. That is kept in
    /// the group.
    async fn collect_values(&mut self) -> Collected<E> {
        self.forget_order();
        while let Some(ended) = poll_fn(|cx| self.poll_any(cx)).await {
            if ended.is_failure() {
                self.group.put_back(ended);
                return Collected::Part;
            }
            if let GroupEnd::CutOff(_, info) = ended {
                return Collected::CutOff(TaskError::new(info, Failure::Cancelled));
            }
            let slot = self.slot(ended);
            self.slots.push_back(Some(slot));
        }
        if self.is_cut_short { Collected::Part } else { Collected::All }
    }

    fn slot(&mut self, ended: GroupEnd<T, E>) -> Slot<T, E> {
        self.arrived += 1;
        Slot { ended, arrival: self.arrived }
    }

    /// The next result, in order or not.
    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<Option<GroupEnd<T, E>>> {
        if !self.is_ordered {
            return self.poll_any(cx);
        }
        self.pull(cx);
        while self.slots.front().is_none_or(Option::is_none) {
            let Some(ended) = ready!(self.poll_ended(cx)) else { return Poll::Ready(None) };
            match ended.index() - self.given {
                0 => return Poll::Ready(self.give(Some(ended))),
                slot => self.slots[slot] = Some(self.slot(ended)),
            }
        }
        ready!(poll_budget(cx));
        Poll::Ready(self.give(None))
    }

    /// Gives the result of the first slot, or this one, which has never been in it.
    fn give(&mut self, ended: Option<GroupEnd<T, E>>) -> Option<GroupEnd<T, E>> {
        self.given += 1;
        let first = self.slots.pop_front().flatten();
        ended.or(first.map(|slot| slot.ended))
    }

    /// The next result that there is.
    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<GroupEnd<T, E>>> {
        self.pull(cx);
        let ended = ready!(self.poll_ended(cx));
        self.given += usize::from(ended.is_some());
        Poll::Ready(ended)
    }

    /// The next task that has ended; `None` at the end of the source.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<GroupEnd<T, E>>> {
        match ready!(self.group.poll_ended(cx)) {
            None if !self.is_exhausted => {
                if !self.group.is_aborted() {
                    // The source will wake this task.
                    return Poll::Pending;
                }
                (self.is_exhausted, self.is_cut_short) = (true, true);
                Poll::Ready(None)
            }
            ended => Poll::Ready(ended),
        }
    }

    /// Pulls what there is room for, and spawns its tasks. The first costs no budget, since the result that has made room
    /// for it has.
    fn pull(&mut self, cx: &mut Context<'_>) {
        let mut is_first = true;
        while !self.is_exhausted && !self.group.is_aborted() && self.pulled - self.given < self.limit {
            if !is_first && poll_budget(cx).is_pending() {
                return;
            }
            is_first = false;
            let pulled = catch(|| {
                let item = ready!(self.source.poll_item(cx));
                // First the name, whose closure may panic: the future, too, may do so when it is dropped.
                Poll::Ready(item.map(|item| (self.info(), (self.f)(item))))
            });
            match pulled {
                Ok(Poll::Pending) => return,
                Ok(Poll::Ready(Some((info, future)))) => {
                    self.group.add(self.pulled, info, future);
                    self.pulled += 1;
                    if self.is_ordered {
                        self.slots.push_back(None);
                    }
                }
                Ok(Poll::Ready(None)) => self.is_exhausted = true,
                Err(payload) => {
                    self.is_exhausted = true;
                    self.group.start_over();
                    self.slots.clear();
                    payload.resume();
                }
            }
        }
    }
}

/// Spends the task's budget, for what would be ready at once for ever.
fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    pin!(consume_budget()).poll(cx)
}

/// Gives what [`next`](Map::next) does.
#[cfg(feature = "stream")]
impl<I, A, F, Fut, T, E> Stream for Map<I, F, T, E>
where
    I: Source<Item = A>,
    F: FnMut(A) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    type Item = Result<T, TaskError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_result(cx).map(|ended| ended.map(GroupEnd::take))
    }
}

impl<I, F, T, E> fmt::Debug for Map<I, F, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, pulled, given, .. } = self;
        f.debug_struct("Map")
            .field("limit", limit)
            .field("pulled", pulled)
            .field("given", given)
            .finish_non_exhaustive()
    }
}

// ===== items from a stream =====

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
#[cfg(feature = "stream")]
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
#[cfg(feature = "stream")]
#[derive(Debug)]
pub struct FromStream<S>(S);

#[cfg(feature = "stream")]
impl<S: Stream + Unpin> Source for FromStream<S> {
    type Item = S::Item;

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}
