//! How errors read when there are causes, many failures, or many levels, and that they can be shown, asked and dropped
//! however deep they are.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Debug, Display, Write};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use aiodrive::{
    BoxError, ExitError, Failure, OnFailure, Pool, PoolError, TaskError, cancellation_token, race, shield, wait_all,
};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::support::{Alive, Counted, While, both, current_thread, current_thread_runtime, poll_once, quiet_panic};

// ===== tools =====

fn block_on<T>(future: impl Future<Output = T>) -> T {
    current_thread_runtime().block_on(future)
}

/// The error of a pool whose tasks have failed so.
fn failed<E>(failures: impl IntoIterator<Item = E>) -> PoolError<E>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    let pool: Pool<E> = Pool::builder().on_failure(|_| OnFailure::Collect).build();
    for failure in failures {
        pool.build_task().name("load").spawn(async move { Err(failure) });
    }
    block_on(pool.run()).unwrap_err()
}

fn cannot_load() -> While {
    While("cannot load", io::Error::other("no such file").into())
}

/// Without the places in the code, which all tasks of a test share.
fn text_of(text: impl Display) -> String {
    let mut text = text.to_string();
    while let Some(start) = text.find(" (tests").or_else(|| text.find(" at tests")) {
        let length = text[start + 1..].find([')', ' ']).map_or(0, |length| length + 1);
        let length = if text[start..].starts_with(" at") {
            text[start + 4..].find([' ', '\n']).map_or(text.len() - start, |length| length + 4)
        } else {
            length + 1
        };
        text.replace_range(start..start + length, "");
    }
    text
}

fn report<E: Display + 'static>(error: &PoolError<E>) -> String {
    text_of(format!("{error:#}"))
}

fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    std::iter::successors(error.source(), |error| (*error).source()).map(ToString::to_string).collect()
}

// ===== causes =====

#[test]
fn the_report_has_the_causes_of_a_boxed_error() {
    let error = failed::<BoxError>([cannot_load().into()]);
    assert_eq!(report(&error), "task \"load\" failed: cannot load: no such file");
    assert_eq!(text_of(&error), "task \"load\" failed: cannot load");
    assert_eq!(causes(&error), ["no such file"]);
}

#[test]
fn the_report_has_the_causes_of_each_of_several_failures() {
    let error = failed::<BoxError>([cannot_load().into(), "no cause".into()]);
    let lines =
        ["2 tasks failed:", "  task \"load\" failed: cannot load: no such file", "  task \"load\" failed: no cause"];
    assert_eq!(report(&error), lines.join("\n"));
    assert!(error.source().is_none());
    assert_eq!(causes(&error.failures()[0]), ["no such file"]);
}

#[test]
fn the_report_has_the_causes_of_what_a_nested_pool_has_failed_with_once() {
    let error = failed::<BoxError>([failed::<BoxError>([cannot_load().into()]).into()]);
    assert_eq!(report(&error), "task \"load\" failed: task \"load\" failed: cannot load: no such file");
    assert_eq!(causes(&error), ["no such file"]);
}

#[test]
fn the_report_goes_on_through_an_error_around_a_nested_pool() {
    let inner = failed::<BoxError>([cannot_load().into(), "beside it".into()]);
    let error = failed::<BoxError>([While("a component has failed", inner.into()).into(), "last".into()]);
    let lines = [
        "2 tasks failed:",
        "  task \"load\" failed: a component has failed: 2 tasks failed:",
        "    task \"load\" failed: cannot load: no such file",
        "    task \"load\" failed: beside it",
        "  task \"load\" failed: last",
    ];
    assert_eq!(report(&error), lines.join("\n"));
}

#[test]
fn a_typed_error_has_its_own_long_form_and_its_causes_in_a_box() {
    #[derive(Debug)]
    struct Long;
    impl Display for Long {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if f.alternate() { "long" } else { "short" })
        }
    }
    impl Error for Long {}
    let error = failed([Long]);
    assert_eq!(
        (report(&error), text_of(&error)),
        ("task \"load\" failed: long".into(), "task \"load\" failed: short".into())
    );

    let error = failed([cannot_load()]);
    assert_eq!((report(&error), causes(&error)), ("task \"load\" failed: cannot load".into(), vec![]));
    let error = error.boxed();
    assert_eq!(report(&error), "task \"load\" failed: cannot load: no such file");
    assert_eq!(causes(&error), ["no such file"]);
}

#[test]
fn an_error_that_writes_its_causes_itself_has_them_once() {
    #[derive(Debug)]
    struct Wordy(While);
    impl Display for Wordy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wordy")?;
            if f.alternate() { write!(f, ": {}", self.0) } else { Ok(()) }
        }
    }
    impl Error for Wordy {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = failed::<BoxError>([Wordy(cannot_load()).into()]);
    assert_eq!(report(&error), "task \"load\" failed: wordy: cannot load: no such file");
}

#[test]
fn all_failures_of_a_nested_typed_pool_are_in_the_report() {
    let inner = failed((0..5).map(|nth| io::Error::other(nth.to_string())));
    let error = failed::<BoxError>([inner.into()]);
    let lines = (0..5).map(|nth| format!("\n  task \"load\" failed: {nth}")).collect::<String>();
    assert_eq!(report(&error), format!("task \"load\" failed: 5 tasks failed:{lines}"));
}

#[test]
fn a_typed_error_in_anyhow_keeps_its_causes_by_a_box() {
    let error = anyhow::Error::new(failed([cannot_load()]).boxed()).context("at the start");
    assert_eq!(text_of(format!("{error:#}")), "at the start: task \"load\" failed: cannot load: no such file");
}

#[test]
fn a_box_keeps_everything_and_a_conversion_that_panics_is_the_failure() {
    struct Picky(Option<&'static str>);

    impl std::fmt::Display for Picky {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("picky")
        }
    }
    impl From<Picky> for BoxError {
        fn from(error: Picky) -> Self {
            error.0.expect("no text").into()
        }
    }
    let pool: Pool<Picky> = Pool::builder().name("web").on_failure(|_| OnFailure::Collect).build();
    pool.spawn(async { Err(Picky(Some("text"))) });
    pool.spawn(async { Err(Picky(None)) });
    pool.cancel_on(async { tokio::task::yield_now().await });
    let error = block_on(pool.run()).map_err(PoolError::boxed).unwrap_err();
    assert_eq!(text_of(&error), "pool \"web\": 2 tasks failed: task failed: text; task panicked: no text");
}

#[cfg(feature = "anyhow")]
#[test]
fn the_report_has_the_causes_of_anyhow_errors_once_boxed_or_not() {
    let three_lines = || anyhow::Error::msg("the root").context("the middle").context("the top");
    let expected = "task \"load\" failed: the top: the middle: the root";
    let error = failed([three_lines()]);
    assert_eq!((report(&error), causes(&error)), (expected.into(), vec!["the middle".into(), "the root".into()]));
    assert_eq!(report(&failed::<BoxError>([three_lines().into()])), expected);
    assert_eq!(report(&failed([three_lines()]).boxed()), expected);
    let error = anyhow::Error::new(failed([three_lines()])).context("at the start");
    assert_eq!(text_of(format!("{error:#}")), format!("at the start: {expected}"));
    let nested = failed::<BoxError>([failed([three_lines(), three_lines()]).into()]);
    assert_eq!(report(&nested).lines().nth(1).unwrap().trim(), expected);
}

#[test]
fn an_exit_error_has_the_causes_of_both() {
    let both = ExitError::Both::<BoxError> { body: cannot_load().into(), exit: cannot_load().into() };
    assert_eq!(both.to_string(), "cannot load; exit handler failed: cannot load");
    let lines = "cannot load: no such file\nexit handler failed: cannot load: no such file";
    assert_eq!((format!("{both:#}"), format!("{both:?}")), (lines.into(), lines.into()));
    let error = failed::<BoxError>([both.into(), "last".into()]);
    let lines = [
        "2 tasks failed:",
        "  task \"load\" failed:",
        "    cannot load: no such file",
        "    exit handler failed: cannot load: no such file",
        "  task \"load\" failed: last",
    ];
    assert_eq!(report(&error), lines.join("\n"));
}

// ===== the four forms =====

#[test]
fn debug_is_the_report_and_long_debug_the_structure() {
    let error = failed::<BoxError>([cannot_load().into(), "no cause".into()]);
    assert_eq!(format!("{error:?}"), format!("{error:#}"));
    let failed = &error.failures()[0];
    assert_eq!(format!("{failed:?}"), format!("{failed:#}"));
    let text = format!("{error:#?}");
    for part in ["PoolError {\n    pool: None,\n    failures: [\n        TaskError {", "Error(\n", "While("] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let body = ExitError::Body(cannot_load());
    assert_eq!(format!("{body:?}"), "cannot load");
    assert!(format!("{body:#?}").starts_with("Body(\n    While("));
}

#[test]
fn many_failures_are_a_short_line_and_a_long_report() {
    let error = failed((0..500).map(|nth| BoxError::from(format!("[{nth}]"))));
    let [a, b, c] = [0, 1, 2].map(|nth| format!("task \"load\" failed: [{nth}]"));
    assert_eq!(text_of(&error), format!("500 tasks failed: {a}; {b}; {c}; and 497 more"));
    assert_eq!(report(&error).lines().count(), 501);
    assert!(report(&error).ends_with("\n  task \"load\" failed: [499]"));
}

#[test]
fn a_line_has_three_failures_in_all_also_of_nested_pools() {
    let nested = || BoxError::from(failed((0..5).map(|nth| BoxError::from(format!("[{nth}]")))));
    let line = text_of(failed((0..4).map(|_| nested())));
    let each = "task \"load\" failed: 5 tasks failed: task \"load\" failed: [0]; and 4 more";
    assert_eq!(line, format!("4 tasks failed: {each}; {each}; {each}; and 1 more"));
}

#[test]
fn a_long_chain_is_shortened_in_the_middle() {
    let deep = |levels| (0..levels).fold(BoxError::from("the root"), |error, _| While("level", error).into());
    let error = failed([deep(22)]);
    assert_eq!(report(&error), format!("task \"load\" failed: {}the root", "level: ".repeat(22)));
    let error = failed([deep(1_000)]);
    let (first, last) = ("level: ".repeat(15), "level: ".repeat(7));
    assert_eq!(report(&error), format!("task \"load\" failed: {first}... 978 more ...: {last}the root"));
}

#[test]
fn a_chain_of_causes_without_an_end_does_not_hang() {
    #[derive(Debug, thiserror::Error)]
    #[error("again")]
    struct Cycle;
    struct Endless;
    impl Debug for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Endless")
        }
    }
    impl Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            Display::fmt(&Cycle, f)
        }
    }
    impl Error for Endless {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self)
        }
    }
    let error = failed::<BoxError>([Endless.into()]);
    assert!(report(&error).starts_with("task \"load\" failed: again: again: "));
    assert!(report(&error).len() < 1_000);
}

#[test]
fn an_error_whose_text_panics_harms_no_other_text() {
    struct Hostile;
    impl Debug for Hostile {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            Display::fmt(self, f)
        }
    }
    impl Display for Hostile {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            std::panic::resume_unwind(Box::new("hostile"))
        }
    }
    impl Error for Hostile {}
    let error = failed::<BoxError>([Hostile.into()]);
    for _ in 0..1_000 {
        assert!(catch_unwind(AssertUnwindSafe(|| error.to_string())).is_err());
    }
    assert_eq!(report(&failed(["well"])), "task \"load\" failed: well");
}

// ===== deep =====

/// On a thread with the stack of a worker of tokio.
fn on_a_small_stack<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    thread::Builder::new().stack_size(2 << 20).spawn(code).unwrap().join().unwrap()
}

/// A failure that has passed so many pools, with what each makes of its error.
fn wrapped<E>(levels: usize, first: E, wrap: impl Fn(PoolError<E>) -> E) -> PoolError<E>
where
    E: Into<BoxError> + std::fmt::Display + Send + 'static,
{
    block_on(async {
        let mut error = first;
        for level in 0.. {
            let pool: Pool<E> = Pool::new();
            pool.spawn(async move { Err(error) });
            let failed = pool.run().await.unwrap_err();
            if level == levels {
                return failed;
            }
            error = wrap(failed);
        }
        unreachable!("the loop has no other end");
    })
}

/// Two hundred bytes a level would be enough to overflow, and so is each that recurses.
const DEEP: usize = 10_000;

#[test]
fn an_error_that_has_passed_many_pools_can_be_shown_asked_and_dropped() {
    on_a_small_stack(|| {
        let error = wrapped(DEEP, cannot_load().into(), BoxError::from);
        assert!(error.to_string().ends_with(" failed: cannot load"));
        assert!(format!("{error:#}").ends_with(" failed: cannot load: no such file"));
        assert!(format!("{error:?}").len() < 3_000 && error.to_string().len() < 3_000);
        assert!(format!("{error:#?}").contains("PoolError {"));
        assert_eq!(causes(&error), ["no such file"]);
        assert_eq!(causes(error.first().unwrap()), ["no such file"]);
    });
}

#[test]
fn an_error_with_context_at_each_of_many_levels_can_be_shown_asked_and_dropped() {
    on_a_small_stack(|| {
        let error = wrapped::<BoxError>(DEEP, cannot_load().into(), |error| While("context", error.into()).into());
        assert!(error.to_string().ends_with(" failed: context"));
        assert!(format!("{error:#}").ends_with(" failed: cannot load: no such file"));
        assert!(causes(&error).len() > DEEP);
        drop(error);
    });
}

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("the root")]
    Root,
    #[error("a component has failed")]
    Component(#[source] Box<PoolError<AppError>>),
    #[error(transparent)]
    Through(Box<PoolError<AppError>>),
    #[error("a component has failed: {0}")]
    Shown(Box<PoolError<AppError>>),
}

#[test]
fn an_error_enum_around_a_pool_at_each_of_many_levels_can_be_shown_asked_and_dropped() {
    for wrap in [AppError::Component, AppError::Through, AppError::Shown] {
        on_a_small_stack(move || {
            let error = wrapped(DEEP, AppError::Root, |error| wrap(Box::new(error)));
            assert!(error.to_string().len() < 10_000 && format!("{error:#}").len() < 10_000);
            let error = error.boxed();
            assert!(error.to_string().len() < 10_000 && format!("{error:#}").len() < 10_000);
            causes(&error);
            drop(error);
        });
    }
}

/// Without a pool in between.
#[test]
fn a_branch_that_fails_as_deep_can_be_dropped() {
    on_a_small_stack(|| {
        let mut error = BoxError::from("the root");
        error = block_on(async {
            for _ in 0..DEEP {
                let [failed] = wait_all([async { Err::<(), _>(error) }]).await;
                error = failed.unwrap_err().into();
            }
            error
        });
        assert!(format!("{:#}", error.downcast_ref::<TaskError>().unwrap()).ends_with("the root"));
    });
}

#[test]
fn a_deep_error_can_be_dropped_as_its_thread_ends() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<BoxError>> = const { std::cell::RefCell::new(None) };
    }
    on_a_small_stack(|| {
        KEPT.with(|kept| *kept.borrow_mut() = Some(wrapped(DEEP, "the root".into(), BoxError::from).into()));
    });
}

/// Counted, and panics as it is dropped.
struct Heavy {
    _counted: Counted,
    _inner: Option<BoxError>,
}

impl Debug for Heavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heavy")
    }
}

impl Display for Heavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("heavy")
    }
}

impl Error for Heavy {}

impl Drop for Heavy {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("heavy"));
    }
}

#[test]
fn a_destructor_that_panics_keeps_no_other_from_being_dropped() {
    let alive = Alive::default();
    let mut error = BoxError::from("the root");
    for _ in 0..100 {
        let heavy = Heavy { _counted: alive.one(), _inner: Some(error) };
        error = failed::<BoxError>([heavy.into(), "beside it".into()]).into();
    }
    assert_eq!(alive.count(), 100);
    let payload = catch_unwind(AssertUnwindSafe(|| drop(error))).unwrap_err();
    assert_eq!((payload.downcast_ref(), alive.count()), (Some(&"heavy"), 0));

    // While the thread unwinds, which a second panic would abort.
    let error = failed::<BoxError>([Heavy { _counted: alive.one(), _inner: None }.into()]);
    let payload = catch_unwind(AssertUnwindSafe(move || {
        let _dropped = error;
        std::panic::resume_unwind(Box::new("first"));
    }));
    assert_eq!((payload.unwrap_err().downcast_ref(), alive.count()), (Some(&"first"), 0));
    drop(failed(["well"]));
}

// ===== growth =====

thread_local! {
    /// How often errors were asked, and pieces of text were written.
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

fn step() {
    STEPS.set(STEPS.get() + 1);
}

fn steps_of(code: impl FnOnce()) -> usize {
    let before = STEPS.get();
    code();
    STEPS.get() - before
}

/// Counts how often it is asked for its text or its cause.
struct Asked(Option<BoxError>);

impl Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        step();
        f.write_str("asked")
    }
}

impl Error for Asked {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        step();
        self.0.as_deref().map(|error| error as _)
    }
}

/// Counts the pieces that are written, and their bytes.
struct Written(usize);

impl Write for Written {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        step();
        self.0 += text.len();
        Ok(())
    }
}

/// What is sixteen times as much takes about sixteen times as many steps: the first lines of a report are shorter.
#[track_caller]
fn assert_linear(n: usize, steps: impl Fn(usize) -> usize) {
    let (small, large) = (steps(n), steps(16 * n));
    assert!(small > 0 && large <= 18 * small, "{small} steps, and {large} for sixteen times as much");
}

#[test]
fn a_failure_passes_each_pool_at_the_same_cost() {
    // It is asked where it comes from, and never again.
    let steps = |levels| steps_of(|| drop(wrapped(levels, Asked(None).into(), BoxError::from)));
    let few = steps(100);
    assert!(few > 0 && few == steps(1_600), "{few} steps, and {} for more levels", steps(1_600));
    let context = |error: PoolError| Asked(Some(error.into())).into();
    assert_linear(100, |levels| steps_of(|| drop(wrapped(levels, Asked(None).into(), context))));
}

#[test]
fn a_report_takes_no_longer_than_it_is_long() {
    let written = |error: &PoolError| {
        let mut written = Written(0);
        let steps = steps_of(|| write!(written, "{error:#}").unwrap());
        (written.0, steps)
    };
    assert_linear(100, |levels| {
        let mut error = failed::<BoxError>([Asked(None).into()]);
        for _ in 0..levels {
            error = failed::<BoxError>([Asked(None).into(), Asked(Some(error.into())).into()]);
        }
        let (length, steps) = written(&error);
        assert!(length < 200 * levels + 200, "{length} characters for {levels} levels");
        steps
    });
    assert_linear(100, |count| written(&failed::<BoxError>((0..count).map(|_| Asked(None).into()))).1);
}

// ===== values =====

#[apply(both)]
async fn the_error_of_a_task_is_taken_by_value_and_a_panic_is_none() {
    let pool: Pool<&str> = Pool::builder().on_failure(|_| OnFailure::Collect).build();
    pool.spawn(async { Err("an error") });
    pool.spawn(async { std::panic::resume_unwind(Box::new("a panic")) });
    let error = pool.run().await.unwrap_err();
    let mut errors: Vec<_> = error.into_failures().into_iter().map(TaskError::into_error).collect();
    errors.sort();
    assert_eq!(errors, [None, Some("an error")]);
}

#[apply(both)]
async fn a_failed_shutdown_was_cancelled_and_a_failure_was_not() {
    let grace = || Pool::builder().grace(Duration::from_secs(1_000));
    let stopped = grace().open(async |pool: Pool| {
        pool.cancel_with("deployment");
        cancellation_token().cancelled().await;
        Err::<(), _>("cannot save".into())
    });
    let error = stopped.await.unwrap_err();
    assert!(error.was_cancelled() && !error.is_cancelled());
    assert_eq!(error.cancel_reason(), Some("deployment"));

    let nested = grace().open(async |outer: Pool| {
        outer.cancel();
        cancellation_token().cancelled().await;
        tokio::task::yield_now().await;
        Ok(())
    });
    nested.await.unwrap();

    let error = Pool::open(async |_: Pool| Err::<(), _>("broken".into())).await.unwrap_err();
    assert!(!error.was_cancelled() && matches!(error.first().unwrap().failure(), Failure::Error(_)));
}

/// Has room for some bytes, and fails when they are used up.
struct Room(usize);

impl Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// A writer that fails is told of at once, wherever it fails.
#[track_caller]
fn assert_passes_on_that_there_is_no_room(shown: impl Display) {
    for room in 0..shown.to_string().len() {
        assert!(write!(Room(room), "{shown}").is_err(), "with room for {room} bytes of\n{shown}");
    }
    let alternate = format!("{shown:#}");
    for room in 0..alternate.len() {
        assert!(write!(Room(room), "{shown:#}").is_err(), "with room for {room} bytes of\n{alternate}");
    }
    assert!(write!(Room(alternate.len()), "{shown:#}").is_ok());
}

#[apply(current_thread)]
async fn an_error_that_cannot_be_written_says_so() {
    let ((begin, begun), (end, ended)) = (oneshot::channel(), mpsc::channel::<()>());
    let opened: Result<(), PoolError> = Pool::builder()
        .name("web")
        .abandon_after(Duration::ZERO)
        .open(async move |pool: Pool| {
            drop(shield(async { quiet_panic("in shielded work") }));
            pool.build_task().name("stuck").spawn_blocking(move || {
                begin.send(()).unwrap();
                let _ = ended.recv();
            });
            begun.await?;
            pool.spawn(async { Err("first".into()) });
            pool.build_task().name("second").spawn(async { Err("one line\nand another".into()) });
            pending().await
        })
        .await;
    let error = opened.unwrap_err();
    assert_eq!((error.failures().len(), error.stuck().len(), error.cleanup_failures().len()), (2, 1, 1), "{error}");
    assert_passes_on_that_there_is_no_room(error);
    drop(end);

    let cancelled: Result<(), PoolError> = Pool::open(async |pool: Pool| {
        pool.cancel_with("deployment");
        pending().await
    })
    .await;
    assert_passes_on_that_there_is_no_room(cancelled.unwrap_err());
}

#[apply(current_thread)]
async fn a_tree_that_cannot_be_written_says_so() {
    let opened = Pool::builder().name("web").limit(1).grace(Duration::from_secs(1)).open(async |pool: Pool| {
        pool.spawn(async {
            let nested: Pool = Pool::new();
            nested.spawn(pending::<()>());
            Ok(nested.run().await?)
        });
        pool.build_task().name("queued").depth(-1).spawn(pending::<()>());
        pool.build_task().daemon().spawn(pending::<()>());
        let mut racing = race([pending::<()>()]);
        assert!(poll_once(Pin::new(&mut racing)).await.is_pending());
        yield_now().await;
        pool.cancel_with("deployment");
        let tree = pool.tree();
        let drawn = format!("{tree:#}");
        for part in ["web (closing: ", "<pool>", "<task>", "<race>", "queued", "daemon", "depth -1"] {
            assert!(drawn.contains(part), "{drawn}");
        }
        assert_passes_on_that_there_is_no_room(tree);
        Ok(())
    });
    opened.await.unwrap();
}
