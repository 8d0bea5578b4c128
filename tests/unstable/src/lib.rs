//! Writes down what tokio learns of each task that is spawned: by its hook, and by its spans, which are what tokio-console
//! shows.

use std::fmt::{self, Write};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A task as tokio has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Task {
    /// Its name, which may be empty.
    pub name: String,
    /// `task`, `local` or `blocking`.
    pub kind: String,
    /// The file that has spawned it.
    pub file: String,
    /// The line in that.
    pub line: u32,
}

/// The tasks that were spawned while a test ran, in a `LocalSet` of a runtime with a paused clock.
///
/// # Panics
///
/// If the hook of the runtime has learned other lines than the subscriber.
pub fn spawned(test: impl AsyncFnOnce()) -> Vec<Task> {
    let (spans, hooked) = (Spans::default(), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&hooked);
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.on_task_spawn(move |task| lock(&told).push(task.spawned_at()));
    #[cfg(not(tokio_unstable))]
    drop::<Arc<Mutex<Vec<&'static std::panic::Location<'static>>>>>(told);
    tracing::subscriber::with_default(spans.clone(), || {
        let runtime = builder.build().expect("a runtime can be built");
        LocalSet::new().block_on(&runtime, test());
    });
    let mut tasks = lock(&spans.0).clone();
    tasks.retain(|task| task.kind != "block_on");
    // Closures and the tasks of a `LocalSet` have no hook.
    let futures = tasks.iter().filter(|task| task.kind == "task");
    let hooked: Vec<_> = lock(&hooked).iter().map(|at| (at.file().to_owned(), at.line())).collect();
    assert_eq!(hooked, futures.map(|task| (task.file.clone(), task.line)).collect::<Vec<_>>());
    tasks
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what the spans of tasks say.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Task>>>);

impl Subscriber for Spans {
    fn enabled(&self, span: &Metadata<'_>) -> bool {
        span.name() == "runtime.spawn"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut task = Task::default();
        span.record(&mut Fields(&mut task));
        let mut tasks = lock(&self.0);
        tasks.push(task);
        Id::from_non_zero_u64(NonZeroU64::new(tasks.len() as u64).expect("one was pushed"))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a mut Task);

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "loc.line" {
            self.0.line = u32::try_from(value).expect("files are shorter");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "task.name" => &mut self.0.name,
            "kind" => &mut self.0.kind,
            "loc.file" => &mut self.0.file,
            _ => return,
        };
        write!(text, "{value:?}").expect("a string takes everything");
    }
}
