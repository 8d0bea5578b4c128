//! What a pool tells `tracing`, as a subscriber records it.

use std::fmt::{self, Write};
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aiodrive::{BoxError, Exit, OnFailure, Pool, PoolError, TaskInfo, shield, with_exit};
use tokio_test::{assert_pending, task};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const MINUTE: Duration = Duration::from_secs(60);

/// Writes every event down, after the spans that it is in.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}").unwrap(),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Record {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(attributes.metadata().name().to_owned());
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        assert_eq!(event.metadata().target(), "aiodrive");
        let mut fields = Fields(event.metadata().level().to_string());
        for span in context.event_scope(event).into_iter().flatten() {
            write!(fields.0, " [{}]", span.extensions().get::<Fields>().unwrap().0).unwrap();
        }
        event.record(&mut fields);
        // Somebody's code, which may look at the pool that it is told of.
        if let Some(pool) = Pool::<BoxError>::try_current() {
            drop(pool.tree());
        }
        self.0.lock().unwrap().push(fields.0);
    }
}

/// Runs a test on the paused clock, with a subscriber of its own.
fn subscribed(layer: impl Layer<Registry> + Send + Sync, test: impl AsyncFnOnce()) {
    tracing::subscriber::with_default(Registry::default().with(layer), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test());
    });
}

/// What was recorded while a test ran.
fn recorded(test: impl AsyncFnOnce()) -> Vec<String> {
    let record = Record::default();
    subscribed(record.clone(), test);
    let mut lines = record.0.lock().unwrap();
    std::mem::take(&mut *lines)
}

/// A daemon that ends some time after it was asked to, of a pool that has the time.
///
/// Gives the line that it is spawned in.
fn late(pool: &Pool, name: &'static str, after: Duration) -> u32 {
    pool.build_task().name(name).spawn(async move {
        aiodrive::cancellation_token().cancelled().await;
        tokio::time::sleep(after).await;
    });
    line!() - 4
}

#[test]
fn a_named_pool_has_a_span_with_what_happens_in_it() {
    let lines = recorded(async || {
        Pool::<BoxError>::builder().name("web").open(async |_| Ok(())).await.unwrap();
    });
    let expected = ["DEBUG [pool name=\"web\"] pool opened", "DEBUG [pool name=\"web\"] pool closing reason=completed"];
    assert_eq!(lines, expected);
}

#[test]
fn a_pool_without_a_name_has_none() {
    let lines = recorded(async || Pool::<BoxError>::new().run().await.unwrap());
    assert_eq!(lines, ["DEBUG pool opened", "DEBUG pool closing reason=completed"]);
}

#[test]
fn every_failure_is_told_with_its_task_and_its_place() {
    let mut line = 0;
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().name("web").build();
        pool.build_task().name("fetch").spawn(async { Err("no such host".into()) });
        line = line!() - 1;
        pool.spawn(async { std::panic::resume_unwind(Box::new("broken")) });
        pool.run().await.unwrap_err();
    });
    let fetch = format!(
        "ERROR [pool name=\"web\"] task failed task=\"fetch\" body=false spawned_at=tests/tracing.rs:{line}:41 \
         error=\"no such host\""
    );
    assert_eq!(lines[1], fetch);
    assert_eq!(lines[2], "DEBUG [pool name=\"web\"] pool closing reason=failed");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[3].contains(&format!("tests/tracing.rs:{}:14", line + 2))
            && lines[3].ends_with("error=\"panicked: broken\""),
        "{lines:?}"
    );
}

#[test]
fn the_text_of_an_error_is_made_only_if_somebody_listens() {
    #[derive(Debug)]
    struct Counts(Arc<AtomicUsize>);

    impl fmt::Display for Counts {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fetch_add(1, Ordering::SeqCst);
            f.write_str("counted")
        }
    }

    impl std::error::Error for Counts {}

    let made = |most: LevelFilter, decision: OnFailure| {
        let count = Arc::new(AtomicUsize::new(0));
        let error = Counts(Arc::clone(&count));
        tracing::subscriber::with_default(Registry::default().with(most), || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let pool = Pool::<Counts>::builder().on_failure(move |_| decision).build();
            pool.spawn(async { Err(error) });
            drop(runtime.block_on(pool.run()));
        });
        count.load(Ordering::SeqCst)
    };
    assert_eq!([LevelFilter::ERROR, LevelFilter::OFF].map(|most| made(most, OnFailure::Collect)), [1, 0]);
    assert_eq!([LevelFilter::DEBUG, LevelFilter::ERROR].map(|most| made(most, OnFailure::Discard)), [1, 0]);
}

#[test]
fn a_failure_of_an_exit_handler_is_told_by_the_pool_that_takes_it() {
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::new();
        pool.spawn(async {
            let body = async |_: &mut ()| Ok::<_, BoxError>(());
            with_exit((), body, async |(), _: Exit| Err("broken".into())).await?;
            Ok(())
        });
        pool.run().await.unwrap_err();
    });
    let told = lines.iter().filter(|line| line.starts_with("ERROR task failed"));
    assert_eq!(told.count(), 1, "{lines:?}");
}

#[test]
fn a_task_that_comes_too_late_is_told() {
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::new();
        pool.cancel();
        pool.build_task().name("late").spawn(async {});
        pool.build_task().name("blocking").spawn_blocking(|| {});
        pool.build_task().name("local").spawn_local(async {});
        drop(pool.build_task().name("local with a handle").spawn_local_with_handle(async { Ok(()) }));
    });
    for name in ["late", "blocking", "local", "local with a handle"] {
        let begin = format!("WARN the pool is closed: a task was dropped unpolled task=\"{name}\" spawned_at=tests/");
        assert_eq!(lines.iter().filter(|line| line.starts_with(&begin)).count(), 1, "{name}: {lines:?}");
    }
}

#[test]
fn a_planned_pool_that_is_dropped_is_told() {
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().name("web").build();
        pool.spawn(async {});
        pool.spawn(async {});
        drop(pool);
    });
    assert_eq!(lines, ["WARN planned tasks were dropped before they ran pool=\"web\" tasks=2"]);
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().name("web").build();
        pool.cancel_on(std::future::pending::<()>());
        drop(pool.track_future(async {}));
    });
    assert!(lines.is_empty(), "watchers and futures that are gone are no tasks: {lines:?}");
}

#[test]
fn a_failure_that_has_lost_its_owner_is_told_by_the_pool_that_takes_it_or_discards_it() {
    let kept = "ERROR [pool name=\"web\"] task failed body=false";
    let discarded = "DEBUG [pool name=\"web\"] task failed, which is discarded body=false";
    for (decision, expected) in [(OnFailure::Collect, kept), (OnFailure::Discard, discarded)] {
        let lines = recorded(async || {
            let builder = Pool::<BoxError>::builder().name("web").on_cleanup_failure(move |_| decision);
            let opened = builder.open(async |_: Pool| {
                let mut working = Box::pin(shield(async { std::panic::resume_unwind(Box::new("late")) }));
                assert!(tokio_test::task::spawn(&mut working).poll().is_pending());
                Ok(())
            });
            assert_eq!(opened.await.is_err(), decision == OnFailure::Collect);
        });
        let told = lines.iter().filter(|line| line.starts_with(expected) && line.ends_with("error=\"panicked: late\""));
        assert_eq!(told.count(), 1, "{lines:?}");
    }
}

#[test]
fn the_failure_of_a_body_and_the_text_of_a_typed_error_are_told() {
    let lines = recorded(async || {
        let opened = Pool::open(async |_: Pool<BoxError>| Err::<(), BoxError>("broken".into()));
        opened.await.unwrap_err();
        let pool = Pool::<std::io::Error>::new();
        pool.spawn(async { Err(std::io::ErrorKind::NotFound.into()) });
        pool.run().await.unwrap_err();
    });
    assert!(lines[1].contains("body=true") && lines[1].ends_with("error=\"broken\""), "{lines:?}");
    assert!(lines[4].ends_with("error=\"entity not found\""), "{lines:?}");
}

#[test]
fn a_closing_that_is_handed_over_is_told() {
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().name("web").keep_open(true).build();
        let run = tokio::time::timeout(MINUTE, pool.clone().run());
        run.await.unwrap_err();
    });
    let expected = ["opened", "closing reason=dropped", "handed over"]
        .map(|what| format!("DEBUG [pool name=\"web\"] pool {what}"));
    assert_eq!(lines, expected);
}

#[test]
fn a_pool_that_has_to_wait_warns_every_five_seconds() {
    let mut line = 0;
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().name("web").grace(MINUTE).build();
        line = late(&pool, "slow", Duration::from_secs(7));
        late(&pool, "slower", Duration::from_secs(12));
        pool.build_task().name("stopper").spawn({
            let pool = pool.clone();
            async move { pool.cancel_with("shutdown") }
        });
        pool.run().await.unwrap();
    });
    let place = format!("(tests/tracing.rs:{line}:34)");
    let waits = |tasks: &str| format!("WARN [pool name=\"web\"] closing pool still waits for tasks tasks={tasks}");
    let both = waits(&format!("task \"slow\" {place}, task \"slower\" {place}"));
    assert_eq!(lines[1], "DEBUG [pool name=\"web\"] pool closing reason=cancelled: shutdown");
    assert_eq!(lines[2..], [both, waits(&format!("task \"slower\" {place}"))]);
}

#[test]
fn how_often_it_warns_can_be_set() {
    for (interval, warnings) in [(3, 3), (10, 0)] {
        let lines = recorded(async || {
            let pool = Pool::<BoxError>::builder().grace(MINUTE).warn_every(Duration::from_secs(interval)).build();
            late(&pool, "slow", Duration::from_millis(9_500));
            pool.cancel_on(std::future::ready(()));
            pool.run().await.unwrap();
        });
        assert_eq!(lines.iter().filter(|line| line.starts_with("WARN")).count(), warnings, "{lines:?}");
    }
}

/// The thread that polls the pool has not entered the runtime, in which there are timers.
#[test]
fn a_pool_that_is_polled_outside_of_its_runtime_warns_too() {
    let record = Record::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    tracing::subscriber::with_default(Registry::default().with(record.clone()), || {
        let pool = Pool::<BoxError>::builder().warn_every(Duration::ZERO).build();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (begun, wait) = std::sync::mpsc::channel();
        pool.build_task().name("slow").spawn_blocking(move || {
            begun.send(()).unwrap();
            blocked.recv().ok();
        });
        let mut run = task::spawn(pool.clone().run());
        {
            let _entered = runtime.enter();
            assert_pending!(run.poll());
        }
        wait.recv().unwrap();
        pool.cancel();
        let warned = || record.0.lock().unwrap().iter().any(|line| line.contains("still waits for tasks"));
        while !warned() {
            assert_pending!(run.poll());
            std::thread::yield_now();
        }
        drop(release);
        while run.poll().is_pending() {
            std::thread::yield_now();
        }
    });
}

#[test]
fn to_warn_without_an_interval_is_to_warn_each_millisecond() {
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().grace(MINUTE).warn_every(Duration::ZERO).build();
        late(&pool, "slow", Duration::from_millis(100));
        pool.cancel_on(std::future::ready(()));
        pool.run().await.unwrap();
    });
    let warnings = lines.iter().filter(|line| line.starts_with("WARN")).count();
    // The last may come as the task ends.
    assert!((99..=100).contains(&warnings), "{warnings}: {lines:?}");
}

#[test]
fn a_warning_names_the_body_if_only_that_is_waited_for() {
    let lines = recorded(async || {
        let opened = Pool::<BoxError>::builder().grace(MINUTE).open(async |pool| {
            pool.cancel();
            tokio::time::sleep(Duration::from_secs(7)).await;
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines[2..], ["WARN closing pool still waits for tasks tasks=body"]);
}

#[test]
fn what_it_gives_up_on_is_told() {
    let lines = recorded(async || {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let pool = Pool::<BoxError>::builder().name("web").abandon_after(Duration::ZERO).build();
        let begun = aiodrive::LatchEvent::new();
        let (begins, stop) = (begun.clone(), pool.clone());
        pool.build_task().name("culprit").spawn_blocking(move || {
            begins.set();
            let _ = released.recv();
        });
        pool.spawn(async move {
            begun.wait_set().await;
            stop.cancel();
            pending::<()>().await;
        });
        pool.run().await.unwrap_err();
        drop(release);
    });
    let gave_up = lines.iter().find(|line| line.contains("gave up")).unwrap();
    assert!(gave_up.starts_with("WARN [pool name=\"web\"] pool gave up on tasks tasks=task \"culprit\""), "{lines:?}");
}

#[test]
fn what_overruns_the_grace_is_told_with_its_line() {
    let mut lines_of_tasks = Vec::new();
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().grace(Duration::from_secs(1)).build();
        lines_of_tasks = vec![late(&pool, "slow", MINUTE), late(&pool, "slower", 2 * MINUTE)];
        late(&pool, "in time", Duration::from_millis(500));
        pool.cancel_on(std::future::ready(()));
        pool.run().await.unwrap();
    });
    let told: Vec<_> = lines.iter().filter(|line| line.contains("the grace was over")).collect();
    let task = |name, line| format!("task \"{name}\" ({}:{line}:", file!());
    assert_eq!(told.len(), 1, "{lines:?}");
    assert!(told[0].starts_with("WARN the grace was over before these tasks were tasks="), "{told:?}");
    assert!(told[0].contains(&task("slow", lines_of_tasks[0])), "{told:?}");
    assert!(told[0].contains(&task("slower", lines_of_tasks[1])), "{told:?}");
    assert!(!told[0].contains("in time"), "{told:?}");
}

#[test]
fn an_abort_in_the_grace_tells_of_the_depths_that_have_tasks_left() {
    let mut line = 0;
    let lines = recorded(async || {
        let pool = Pool::<BoxError>::builder().grace(MINUTE).build();
        line = line!() + 1;
        pool.build_task().name("slow").depth(1).spawn(async {
            aiodrive::cancellation_token().cancelled().await;
            pending::<()>().await
        });
        // It has ended long before the abort.
        pool.spawn(async {});
        pool.cancel_on(std::future::ready(()));
        pool.abort_on(tokio::time::sleep(Duration::from_secs(1)));
        pool.run().await.unwrap();
    });
    let told: Vec<_> = lines.iter().filter(|line| line.contains("the grace was over")).collect();
    assert!(matches!(told[..], [told] if told.contains(&format!("task \"slow\" ({}:{line}:", file!()))), "{lines:?}");
}

#[test]
fn a_body_that_overruns_the_grace_is_told() {
    let lines = recorded(async || {
        let opened = Pool::<BoxError>::builder().grace(Duration::from_secs(1)).open(async |pool| {
            pool.cancel();
            pending::<Result<(), _>>().await
        });
        opened.await.unwrap_err();
    });
    assert_eq!(lines[2..], ["WARN the grace was over before these tasks were tasks=body"]);
}

#[test]
fn without_timers_a_pool_that_has_to_wait_does_not_warn() {
    let record = Record::default();
    tracing::subscriber::with_default(Registry::default().with(record.clone()), || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::<BoxError>::new();
            let stop = pool.clone();
            pool.spawn_blocking(move || stop.cancel());
            pool.spawn(pending::<()>());
            pool.run().await.unwrap();
        });
    });
    assert!(record.0.lock().unwrap().iter().all(|line| line.starts_with(&Level::DEBUG.to_string())));
}

/// Panics at some of the calls of a subscriber.
#[derive(Clone, Copy)]
struct PanicsAt(&'static [&'static str]);

impl PanicsAt {
    fn call(self, call: &'static str) {
        if self.0.contains(&call) {
            std::panic::resume_unwind(Box::new(call));
        }
    }
}

impl<S: Subscriber> Layer<S> for PanicsAt {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.call("new span");
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.call("enter");
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.call("event");
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.call("exit");
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        self.call("close");
    }
}

/// A subscriber is somebody's code. Its panic once took the failure along, and the slot of the task. Also at two calls
/// of which the second comes while the first unwinds.
#[test]
fn a_subscriber_that_panics_at_any_call_loses_nothing() {
    let calls: [&[&str]; 7] =
        [&["new span"], &["enter"], &["event"], &["exit"], &["close"], &["event", "exit"], &["enter", "event", "exit"]];
    for calls in calls {
        subscribed(PanicsAt(calls), async || {
            let unnamed = Pool::<BoxError>::builder().limit(1).on_failure(|_| OnFailure::Collect).build();
            unnamed.spawn(async { Err("broken".into()) });
            unnamed.spawn(async { Err("broken too".into()) });
            assert_eq!(unnamed.run().await.unwrap_err().failures().len(), 2, "{calls:?}");
            let pool = Pool::<BoxError>::builder().name("web").limit(1).grace(MINUTE).build();
            pool.spawn(async { Err("broken".into()) });
            pool.spawn(async { Err("discarded".into()) });
            pool.spawn(pending::<()>());
            let error = pool.run().await.unwrap_err();
            assert_eq!(error.failures()[0].to_string().rsplit(": ").next(), Some("broken"), "{calls:?}");
            for builder in [Pool::<BoxError>::builder(), Pool::builder().name("web")] {
                let dropped = builder.keep_open(true).build();
                tokio::time::timeout(MINUTE, dropped.clone().run()).await.unwrap_err();
                dropped.cancelled().await;
            }
            let late = Pool::<BoxError>::builder().name("web").build();
            late.cancel();
            late.spawn(async {});
            drop(late);
            let planned = Pool::<BoxError>::builder().name("web").build();
            planned.spawn(async {});
            drop(planned);
        });
    }
}

#[test]
fn an_essential_task_that_has_ended_is_told() {
    let lines = recorded(async || {
        let pool: Pool = Pool::new();
        pool.build_task().name("accept").essential().spawn(async {});
        pool.spawn(pending::<()>());
        pool.run().await.unwrap_err();
    });
    let told: Vec<_> = lines.iter().filter(|line| line.starts_with("ERROR")).collect();
    assert!(
        matches!(told[..], [line] if line.contains("accept") && line.contains("ended although it is essential")),
        "{lines:?}"
    );
}

/// Uses a pool at each event.
struct Meddler(Arc<OnceLock<Pool>>);

impl<S: Subscriber> Layer<S> for Meddler {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(pool) = self.0.get() else { return };
        pool.spawn(async {});
        drop(pool.spawn_with_handle(async { Ok(()) }));
        assert!(pool.len() < 1_000 && !pool.root_tree().to_string().is_empty() && !format!("{pool:?}").is_empty());
        if *event.metadata().level() == Level::ERROR {
            pool.cancel();
        }
    }
}

#[test]
fn a_subscriber_may_use_the_pool_that_it_is_told_of() {
    let known = Arc::new(OnceLock::new());
    subscribed(Meddler(Arc::clone(&known)), async || {
        let pool = Pool::<BoxError>::builder().name("web").limit(1).grace(MINUTE).build();
        known.set(pool.clone()).unwrap();
        pool.spawn(async { Err("broken".into()) });
        late(&pool, "late", 2 * MINUTE);
        assert_eq!(pool.clone().run().await.unwrap_err().failures().len(), 1);
        assert!(pool.overrun().iter().any(|task| task.name() == Some("late")));
    });
}

#[test]
fn the_events_of_a_pool_without_a_name_are_in_the_span_around() {
    let lines = recorded(async || {
        let request = tracing::info_span!("request");
        request.in_scope(|| drop(tokio_test::task::spawn(Pool::<BoxError>::new().run()).poll()));
    });
    assert_eq!(lines, ["DEBUG [request] pool opened", "DEBUG [request] pool closing reason=completed"]);
}

#[test]
fn a_failure_without_anybody_to_return_it_is_told() {
    let lines = recorded(async || {
        let mut working = Box::pin(shield(async { panic!("late") }));
        assert!(tokio_test::task::spawn(&mut working).poll().is_pending());
        drop(working);
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("ERROR nobody is left to return this to: ") && line.ends_with("panicked: late"), "{line}");
}

/// A type of a user's around an error.
#[derive(Debug)]
struct Loading(BoxError);

impl fmt::Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot load")
    }
}

impl std::error::Error for Loading {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// Which error passes the failure of a pool on.
#[derive(Clone, Copy, Debug)]
enum Passed {
    AsItIs,
    WithContext,
}

/// Pools in pools, of which the innermost has two tasks that fail.
fn nested(levels: usize, passed: Passed) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> {
    Box::pin(async move {
        let error = if levels == 0 {
            let pool = Pool::<BoxError>::builder().on_failure(|_| OnFailure::Collect).build();
            pool.spawn(async { Err("no such host".into()) });
            pool.spawn(async { panic!("a bug") });
            pool.run().await.unwrap_err()
        } else {
            let pool: Pool = Pool::new();
            pool.spawn(nested(levels - 1, passed));
            pool.run().await.unwrap_err()
        };
        match passed {
            Passed::AsItIs => Err(error.into()),
            Passed::WithContext => Err(Loading(error.into()).into()),
        }
    })
}

#[test]
fn a_failure_that_passes_many_pools_is_told_once() {
    for passed in [Passed::AsItIs, Passed::WithContext] {
        let lines = recorded(async || drop(nested(3, passed).await.unwrap_err()));
        let told = |level: &str| lines.iter().filter(|line| line.starts_with(&format!("{level} task failed"))).count();
        assert_eq!((told("ERROR"), told("DEBUG")), (2, 3), "{passed:?}: {lines:#?}");
    }
}

#[test]
fn a_failure_of_a_typed_pool_that_is_boxed_is_told_once() {
    let lines = recorded(async || {
        let opened = Pool::open(async |_: Pool| {
            let typed: Pool<Loading> = Pool::new();
            typed.spawn(async { Err(Loading("broken".into())) });
            Ok(typed.run().await.map_err(PoolError::boxed)?)
        });
        drop(opened.await.unwrap_err());
    });
    let told: Vec<_> = lines.iter().filter(|line| line.starts_with("ERROR task failed")).collect();
    assert!(matches!(&told[..], [line] if line.ends_with("error=\"cannot load\"")), "{lines:#?}");
}

/// The functions tell nobody: what they return is told by the pool in which it arrives.
#[test]
fn what_a_function_returns_is_told_by_the_pool_around() {
    let lines = recorded(async || {
        let opened = Pool::open(async |_: Pool| {
            aiodrive::try_all([async { Err::<(), BoxError>("no such host".into()) }]).await?;
            Ok(())
        });
        drop(opened.await.unwrap_err());
    });
    let told: Vec<_> = lines.iter().filter(|line| line.starts_with("ERROR task failed")).collect();
    assert!(matches!(&told[..], [line] if line.contains("no such host")), "{lines:#?}");
}

/// Its failures go to the pool around it, which has nothing new to tell.
#[test]
fn a_failure_of_a_pool_that_was_dropped_is_told_once() {
    let lines = recorded(async || {
        let opened = Pool::<BoxError>::open(async |_| {
            let dropped = Pool::<BoxError>::builder().grace(MINUTE).build();
            late(&dropped, "late", Duration::from_secs(1));
            dropped.spawn(async { Err("no such host".into()) });
            tokio::time::timeout(Duration::from_millis(1), dropped.run()).await.unwrap_err();
            Ok(())
        });
        assert_eq!(opened.await.unwrap_err().cleanup_failures().len(), 1);
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("ERROR")).count(), 1, "{lines:#?}");
}

/// Lists in which span each thing happens that a task of a user's does.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<String>>>);

impl Places {
    fn note(&self, what: &str) {
        let span = tracing::Span::current();
        let place = span.metadata().map_or("nowhere", |metadata| metadata.name());
        self.0.lock().unwrap().push(format!("{what} in {place}"));
    }

    /// Notes its drop.
    fn guard(&self, what: &'static str) -> Guard {
        Guard(self.clone(), what)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Guard(Places, &'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

#[test]
fn a_task_is_polled_and_dropped_in_the_span_that_its_pool_gives_it() {
    let places = Places::default();
    recorded(async || {
        let by_name = |task: &TaskInfo| match task.name() {
            Some(_) => tracing::info_span!("named"),
            None => tracing::info_span!("unnamed"),
        };
        let opened = Pool::<BoxError>::builder().span(by_name).open(async |pool| {
            let ended = places.guard("end");
            pool.build_task().name("first").spawn(async move {
                ended.0.note("begin");
                tokio::time::sleep(MINUTE).await;
                ended.0.note("middle");
            });
            let cut_off = places.guard("cut off");
            pool.spawn(async move {
                let _cut_off = cut_off;
                pending::<()>().await;
            });
            tokio::time::sleep(2 * MINUTE).await;
            places.note("body");
            pool.cancel();
            Ok(())
        });
        opened.await.unwrap();
        places.note("after");
    });
    let expected = [
        "begin in named",
        "middle in named",
        "end in named",
        "body in nowhere",
        "cut off in unnamed",
        "after in nowhere",
    ];
    assert_eq!(places.take(), expected);
}

#[test]
fn a_pool_without_a_span_for_its_tasks_gives_them_none() {
    let places = Places::default();
    recorded(async || {
        let request = tracing::info_span!("request");
        let pool: Pool = Pool::new();
        let note = places.guard("end");
        request.in_scope(|| pool.spawn(async move { note.0.note("begin") }));
        pool.run().await.unwrap();
    });
    assert_eq!(places.take(), ["begin in nowhere", "end in nowhere"]);
}

/// Each way to spawn, in a pool that runs, and under a limit.
#[test]
fn the_span_is_made_where_the_task_is_spawned() {
    for builder in [Pool::<BoxError>::builder(), Pool::builder().limit(1)] {
        let places = Places::default();
        recorded(async || {
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            let note = || {
                let guard = places.guard("end");
                async move { guard.0.note("begin") }
            };
            let note_value = || {
                let noted = note();
                async move {
                    noted.await;
                    Ok(())
                }
            };
            let closure = || {
                // A thread of its own has another subscriber.
                let (guard, dispatch) = (places.guard("end"), dispatch.clone());
                move || tracing::dispatcher::with_default(&dispatch, || drop(guard))
            };
            let closure_with_value = || {
                let closure = closure();
                move || {
                    closure();
                    Ok(())
                }
            };
            let opened = builder.span(|_| tracing::Span::current()).open(async |pool| {
                tracing::info_span!("request").in_scope(|| {
                    pool.spawn(note());
                    pool.try_spawn(note()).unwrap();
                    drop(pool.spawn_with_handle(note_value()));
                    pool.spawn_blocking(closure());
                    drop(pool.spawn_blocking_with_handle(closure_with_value()));
                    pool.spawn_local(note());
                    drop(pool.spawn_local_with_handle(note_value()));
                    drop(pool.start(|_: aiodrive::Started<()>| note()));
                    let noted = note();
                    pool.cancel_on(async move {
                        noted.await;
                        pending::<()>().await;
                    });
                });
                Ok(())
            });
            tokio::task::LocalSet::new().run_until(opened).await.unwrap();
        });
        let noted = places.take();
        assert_eq!(noted.len(), 16, "{noted:#?}");
        assert!(noted.iter().all(|noted| noted.ends_with(" in request")), "{noted:#?}");
    }
}

#[test]
fn the_span_of_a_planned_task_is_that_of_its_spawn() {
    let places = Places::default();
    recorded(async || {
        for run in [true, false] {
            let pool = Pool::<BoxError>::builder().span(|_| tracing::Span::current()).build();
            let guard = places.guard("end");
            tracing::info_span!("plan").in_scope(|| pool.spawn(async move { guard.0.note("begin") }));
            match run {
                true => pool.run().await.unwrap(),
                false => drop(pool),
            }
        }
    });
    assert_eq!(places.take(), ["begin in plan", "end in plan", "end in plan"]);
}

#[test]
fn a_task_that_comes_too_late_is_dropped_in_its_span() {
    let places = Places::default();
    recorded(async || {
        let opened = Pool::<BoxError>::builder().span(|_| tracing::info_span!("task")).open(async |pool| {
            pool.cancel();
            let (refused, returned) = (places.guard("refused"), places.guard("returned"));
            pool.spawn(async move { drop(refused) });
            drop(pool.try_spawn(async move { drop(returned) }).unwrap_err()); // the future is the caller's again
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(places.take(), ["refused in task", "returned in nowhere"]);
}

/// With the span of the pool, if that has one.
#[test]
fn a_failure_is_told_in_the_span_of_its_task() {
    for named in [false, true] {
        let lines = recorded(async || {
            let builder = Pool::<BoxError>::builder().span(|_| tracing::info_span!("request", id = 7));
            let pool = if named { builder.name("web") } else { builder }.build();
            pool.spawn(async { Err("no such host".into()) });
            pool.run().await.unwrap_err();
        });
        let begin = if named { "ERROR [pool name=\"web\"] task failed" } else { "ERROR [request id=7] task failed" };
        assert!(lines[1].starts_with(begin), "{lines:?}");
    }
}

/// Notes which spans have closed.
#[derive(Clone, Default)]
struct Closes(Arc<Mutex<Vec<&'static str>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Closes {
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.0.lock().unwrap().push(context.span(&id).unwrap().name());
    }
}

#[test]
fn the_spans_of_the_tasks_are_closed_when_the_pool_returns() {
    let closes = Closes::default();
    subscribed(closes.clone(), async || {
        let pool = Pool::<BoxError>::builder().span(|_| tracing::info_span!("task")).limit(1).build();
        let value = pool.spawn_with_handle(async { Ok(42) });
        pool.spawn(async { Err("broken".into()) });
        pool.spawn(pending::<()>());
        pool.run().await.unwrap_err();
        assert_eq!(*closes.0.lock().unwrap(), ["task"; 3]);
        assert_eq!(value.await, Ok(42));
    });
}

#[test]
fn a_closure_that_panics_instead_of_giving_a_span_fails_its_task_which_runs() {
    recorded(async || {
        let ran = Places::default();
        let opened = Pool::<BoxError>::builder()
            .on_failure(|_| OnFailure::Collect)
            .span(|_| std::panic::resume_unwind(Box::new("no span")))
            .open(async |pool| {
                let (note, wait) = (ran.clone(), ran.guard("waits"));
                let value = pool.build_task().name("value").spawn_with_handle(async move {
                    note.note("runs");
                    Ok(42)
                });
                pool.build_task().name("fails").spawn(async { Err("broken".into()) });
                pool.build_task().name("cut off").no_grace().spawn(async move {
                    let _wait = wait;
                    pending::<()>().await;
                });
                assert_eq!(value.await, Ok(42));
                assert!(!pool.is_closed());
                pool.cancel();
                assert!(pool.try_spawn(async {}).is_err());
                Ok(())
            });
        let error = opened.await.unwrap_err();
        let mut failures: Vec<_> = error.failures().iter().map(ToString::to_string).collect();
        failures.iter_mut().for_each(|failure| *failure = failure.replace(|c: char| c.is_ascii_digit(), ""));
        let said = |name: &str, what: &str| {
            let found = failures.iter().filter(|failure| failure.contains(name) && failure.contains(what));
            assert_eq!(found.count(), 1, "{failures:#?}");
        };
        ["value", "fails", "cut off"].iter().for_each(|name| said(name, "no span"));
        said("fails", "broken");
        assert_eq!((failures.len(), ran.take().len()), (4, 2));
    });
}

/// At each call of it, by itself.
#[test]
fn a_subscriber_that_panics_over_the_span_of_a_task_loses_nothing() {
    for at in [&["new span"], &["enter"], &["exit"], &["close"]] {
        subscribed(PanicsAt(at), async || {
            let builder = Pool::<BoxError>::builder().limit(1).on_failure(|_| OnFailure::Collect);
            let pool = builder.span(|_| tracing::info_span!("task")).build();
            let value = pool.spawn_with_handle(async { Ok(42) });
            pool.spawn(async { Err("broken".into()) });
            pool.spawn(async { std::panic::resume_unwind(Box::new("bug")) });
            pool.build_task().daemon().spawn(pending::<()>());
            let error = pool.run().await.unwrap_err();
            assert_eq!(value.await, Ok(42), "{at:?}");
            // What the closure had to do with it, it has failed by itself.
            let without_span = if at == &["new span"] { 4 } else { 0 };
            assert_eq!(error.failures().len(), 2 + without_span, "{at:?}: {error:#}");
            // Nor does a task that never runs.
            let closed = Pool::<BoxError>::builder().span(|_| tracing::info_span!("task"));
            let opened = closed.open(async |pool: Pool| {
                pool.cancel();
                pool.spawn(async {});
                Ok(())
            });
            opened.await.unwrap();
        });
    }
}

#[test]
fn a_pool_lets_go_of_the_closure_for_the_spans_before_it_returns() {
    recorded(async || {
        let held = Arc::new(());
        for run in [true, false] {
            let (kept, handle) = (Arc::clone(&held), Arc::new(Mutex::new(None::<Pool>)));
            let own = Arc::clone(&handle);
            let pool = Pool::<BoxError>::builder().span(move |_| {
                let _kept = (&kept, &own);
                tracing::Span::current()
            });
            let pool = pool.build();
            pool.spawn(async {});
            if run {
                *handle.lock().unwrap() = Some(pool.clone()); // which would keep itself alive
                pool.run().await.unwrap();
            } else {
                drop(pool);
            }
            assert_eq!(Arc::strong_count(&held), 1);
        }
    });
}

#[test]
fn the_destructor_of_the_closure_for_the_spans_may_panic() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("bomb"));
        }
    }

    recorded(async || {
        let bomb = Bomb;
        let pool = Pool::<BoxError>::builder().span(move |_| {
            let _bomb = &bomb;
            tracing::Span::none()
        });
        let pool = pool.build();
        let value = pool.spawn_with_handle(async { Ok(42) });
        let error = pool.run().await.unwrap_err();
        assert_eq!(value.await, Ok(42));
        assert!(matches!(error.failures(), [bomb] if bomb.to_string().contains("bomb")), "{error:#}");
    });
}
