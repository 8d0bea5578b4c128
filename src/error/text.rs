//! How the errors of this crate read, and what they give as their cause.
//!
//! An error and its causes are a chain, of which each link is written after a colon. Where several have failed, a chain
//! ends in lists of further chains. They are written with a stack of what is left to write, so that no call is nested
//! in another for each level, and no piece of text passes more than one writer.
//!
//! On one line only the errors are written, without their causes, and the first few of many failures. The report has
//! all failures, on a line each.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt::{self, Debug, Display, Write};

use super::ExitError;
use super::chain::{Item, LONGEST_CHAIN, Link, List, as_link, cancellation_in};
use super::pool_error::{PoolError, Report};
use super::stopped::CancelledError;
use super::task_error::TaskError;

/// How many failures one line has.
const FAILURES_OF_A_LINE: usize = 3;
/// How many links of a chain are written from its beginning and from its end, if it has more than both.
const FIRST_LINKS: usize = 16;
const LAST_LINKS: usize = 8;
/// How many levels are indented, and by how many columns.
const LEVELS: usize = 8;
const COLUMNS: usize = 2;
/// How often an error of this crate may be shown, or asked for its cause, inside of another one: that happens if an
/// error type of a user's does so in its own `Display` or `source`. The calls are nested then, on one stack.
const NESTED_CALLS: usize = 64;

// ===== impls =====

impl<E: Display + 'static> Display for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(f, self, f.alternate())
    }
}

impl<E: Display + 'static> Display for TaskError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(f, self, f.alternate())
    }
}

impl<E: Display + 'static> Display for ExitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(f, self, f.alternate())
    }
}

impl<E: Debug + Display + 'static> Debug for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug(f, self, |f| {
            let Report { pool, failures, cleanup_failures, stuck, reason } = self.report();
            f.debug_struct("PoolError")
                .field("pool", pool)
                .field("failures", failures)
                .field("cleanup_failures", cleanup_failures)
                .field("stuck", stuck)
                .field("closing_reason", reason)
                .finish()
        })
    }
}

impl<E: Debug + Display + 'static> Debug for TaskError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug(f, self, |f| {
            f.debug_struct("TaskError").field("task", self.task()).field("failure", self.failure()).finish()
        })
    }
}

impl<E: Debug + Display + 'static> Debug for ExitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug(f, self, |f| match self {
            Self::Body(body) => f.debug_tuple("Body").field(body).finish(),
            Self::Exit(exit) => f.debug_tuple("Exit").field(exit).finish(),
            Self::Both { body, exit } => f.debug_struct("Both").field("body", body).field("exit", exit).finish(),
        })
    }
}

impl<E: Debug + Display + 'static> Error for PoolError<E> {
    /// The cause of the only failure, if its error can be asked for one: if it is a [`BoxError`](crate::BoxError) or,
    /// with the feature `anyhow`, an `anyhow::Error`. The error's own text is part of the text of this one already. An
    /// error of another type can be asked after [`boxed`](Self::boxed).
    ///
    /// Of several failures each has its own: ask the [`failures`](Self::failures). If nothing failed, or nothing but what
    /// says only that something was stopped, it is an error of a private type, by which a pool of any type knows that.
    /// Otherwise it is `None`.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        source_of(self)
    }
}

impl<E: Debug + Display + 'static> Error for TaskError<E> {
    /// The cause of the error that the task returned, if that can be asked for one: if it is a
    /// [`BoxError`](crate::BoxError) or, with the feature `anyhow`, an `anyhow::Error`. The error's own text is part of
    /// the text of this one already. Others are reached through [`failure`](Self::failure), or after
    /// [`boxed`](Self::boxed).
    ///
    /// For a task that was [cut off](crate::Failure::Cancelled), it is an error of a private type, which tells any pool that
    /// the task was only stopped.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        source_of(self)
    }
}

impl<E: Debug + Display + 'static> Error for ExitError<E> {
    /// The cause of the only error, if that can be asked for one: if it is a [`BoxError`](crate::BoxError) or, with the
    /// feature `anyhow`, an `anyhow::Error`. The error's own text is part of the text of this one already. With both,
    /// each has its own.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        source_of(self)
    }
}

// ===== causes =====

/// The cause of what a text ends with.
///
/// A wrapper that hides an error of this crate and passes its cause on must not make a failure look as if it said only
/// that something was stopped. So a cause that says that is given only by an error that says it, too.
fn source_of(link: &dyn Link) -> Option<&(dyn Error + 'static)> {
    let _nested = Nested::enter()?;
    let mut end = link;
    let cause = loop {
        let Some(inner) = end.inner() else { break None };
        match as_link(inner) {
            Some(link) => end = link,
            None => break inner.source(),
        }
    };
    let cause = cause.or_else(|| end.stop().filter(|stop| stop.is::<CancelledError>()))?;
    let says_stopped = || link.stop().is_some_and(|error| cancellation_in(error).is_some());
    (cancellation_in(cause).is_none() || says_stopped()).then_some(cause)
}

// ===== text =====

/// Counts calls that are nested in each other on this thread.
struct Nested;

thread_local! {
    static NESTED: Cell<usize> = const { Cell::new(0) };
}

impl Nested {
    /// `None` if there are too many.
    fn enter() -> Option<Self> {
        (NESTED.get() < NESTED_CALLS).then(|| {
            NESTED.set(NESTED.get() + 1);
            Self
        })
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        NESTED.set(NESTED.get() - 1);
    }
}

/// `{:?}` is the report, `{:#?}` the structure.
fn write_debug(
    f: &mut fmt::Formatter<'_>,
    error: &dyn Link,
    structure: impl FnOnce(&mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    if !f.alternate() {
        return write_text(f, error, true);
    }
    match Nested::enter() {
        Some(_nested) => structure(f),
        None => f.write_str(".."),
    }
}

/// Writes an error as a report, or on one line.
fn write_text(f: &mut fmt::Formatter<'_>, error: &dyn Link, is_report: bool) -> fmt::Result {
    let Some(_nested) = Nested::enter() else { return f.write_str("...") };
    let mut writer = Writer { out: Indented { f, columns: 0 }, is_report, rest: Vec::new() };
    writer.rest.push(Work::Chain(Item::Link(error), 0));
    while let Some(work) = writer.rest.pop() {
        match work {
            Work::Text(text) => writer.out.write_str(&text)?,
            Work::Line(level) => writer.out.begin_line(level)?,
            Work::Chain(item, level) => writer.chain(item, level)?,
        }
    }
    Ok(())
}

struct Writer<'a, 'f, 'e> {
    out: Indented<'a, 'f>,
    is_report: bool,
    /// What is left to write, the next one last.
    rest: Vec<Work<'e>>,
}

enum Work<'e> {
    Text(Cow<'static, str>),
    /// A line break, and the indentation of a level.
    Line(usize),
    /// An error and what caused it, at this level.
    Chain(Item<'e>, usize),
}

impl<'e> Writer<'_, '_, 'e> {
    /// Writes one chain, shortened in the middle, and leaves the lists in which it ends to be written.
    fn chain(&mut self, item: Item<'e>, level: usize) -> fmt::Result {
        let mut chain = Chain { next: Some(item), lists: Vec::new(), is_report: self.is_report };
        let (mut written, mut left_out, mut last) = (0, 0, VecDeque::new());
        for piece in chain.by_ref().take(LONGEST_CHAIN) {
            if written < FIRST_LINKS {
                self.piece(written > 0, &piece)?;
                written += 1;
                continue;
            }
            last.push_back(piece);
            if last.len() > LAST_LINKS {
                last.pop_front();
                left_out += 1;
            }
        }
        if left_out > 0 {
            write!(self.out, ": ... {left_out} more ...")?;
        }
        last.iter().try_for_each(|piece| self.piece(true, piece))?;
        let begin = self.rest.len();
        self.lists(chain.lists, written > 0, level);
        self.rest[begin..].reverse();
        Ok(())
    }

    fn piece(&mut self, has_begun: bool, piece: &Piece<'_>) -> fmt::Result {
        self.out.write_str(if has_begun { ": " } else { "" })?;
        let Piece { text, is_long } = piece;
        if *is_long { write!(self.out, "{text:#}") } else { write!(self.out, "{text}") }
    }

    /// Adds what is to be written for lists, in its order. In a report several begin on a line of their own.
    fn lists(&mut self, lists: Vec<List<'e>>, has_begun: bool, level: usize) {
        let is_apart = self.is_report && has_begun && lists.len() > 1;
        let level = level + usize::from(is_apart);
        if has_begun && !lists.is_empty() {
            self.text(if is_apart { ":" } else { ": " });
        }
        for (nth, list) in lists.into_iter().enumerate() {
            match nth {
                0 if !is_apart => {}
                _ if self.is_report => self.rest.push(Work::Line(level)),
                _ => self.text("; "),
            }
            self.list(list, level);
        }
    }

    /// Adds what is to be written for one list. One line has few failures in all: of a list in a list only the first.
    fn list(&mut self, list: List<'e>, level: usize) {
        let List { title, mut items } = list;
        self.text(title);
        if items.len() < 2 {
            return self.rest.extend(items.pop().map(|item| Work::Chain(item, level)));
        }
        self.text(if self.is_report { ":" } else { ": " });
        let of_a_line = if level == 0 { FAILURES_OF_A_LINE } else { 1 };
        let left_out = if self.is_report { 0 } else { items.len().saturating_sub(of_a_line) };
        items.truncate(items.len() - left_out);
        for (nth, item) in items.into_iter().enumerate() {
            match nth {
                _ if self.is_report => self.rest.push(Work::Line(level + 1)),
                0 => {}
                _ => self.text("; "),
            }
            self.rest.push(Work::Chain(item, level + 1));
        }
        if left_out > 0 {
            self.text(format!("; and {left_out} more"));
        }
    }

    fn text(&mut self, text: impl Into<Cow<'static, str>>) {
        self.rest.push(Work::Text(text.into()));
    }
}

/// The pieces of a chain, and the lists in which it ends.
struct Chain<'e> {
    next: Option<Item<'e>>,
    lists: Vec<List<'e>>,
    /// Whether the causes belong to it.
    is_report: bool,
}

/// The text of one link of a chain.
struct Piece<'e> {
    text: Box<dyn Display + 'e>,
    /// Whether its long form is wanted. It is not of an error that has a cause: some write that in it, and it would be
    /// there twice.
    is_long: bool,
}

impl<'e> Iterator for Chain<'e> {
    type Item = Piece<'e>;

    fn next(&mut self) -> Option<Piece<'e>> {
        loop {
            let link = match self.next.take()? {
                Item::Link(link) => link,
                Item::Text(text) => return Some(Piece { text: Box::new(text), is_long: self.is_report }),
                Item::Error(error) => match as_link(error) {
                    Some(link) => link,
                    None => return Some(self.error(error)),
                },
            };
            let (head, mut lists) = link.text();
            match &mut lists[..] {
                [List { title, items }] if items.len() == 1 && title.is_empty() => self.next = items.pop(),
                _ => self.lists = lists,
            }
            if !head.is_empty() {
                return Some(Piece { text: Box::new(head), is_long: false });
            }
        }
    }
}

impl<'e> Chain<'e> {
    /// An error of a type that nothing is known of, and on to its cause.
    fn error(&mut self, error: &'e (dyn Error + 'static)) -> Piece<'e> {
        let cause = if self.is_report { error.source() } else { None };
        let cause = cause.filter(|cause| !cause.is::<CancelledError>());
        self.next = cause.map(Item::Error);
        Piece { text: Box::new(error), is_long: self.is_report && cause.is_none() }
    }
}

/// Moves every line but the first to the right.
struct Indented<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    columns: usize,
}

impl Indented<'_, '_> {
    /// Begins a line. Those of the deepest levels are not moved any further: else the text would be as long as the
    /// square of its levels.
    fn begin_line(&mut self, level: usize) -> fmt::Result {
        self.columns = COLUMNS * level.min(LEVELS);
        self.write_str("\n")
    }
}

impl Write for Indented<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            self.f.write_str(line)?;
            if line.ends_with('\n') {
                write!(self.f, "{:1$}", "", self.columns)?;
            }
        }
        Ok(())
    }
}
