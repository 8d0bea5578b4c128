//! What can be seen from outside: who is alive, and which failures came up and arrived.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use aiodrive::{BoxError, ExitError, Failure, PoolError, TaskError};

/// Which time there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clock {
    /// It stands still, and goes on to the next timer when all wait.
    Paused,
    /// There is none to wait for: turns are taken in its place.
    Turns,
}

/// Counts what lives and what fails in one moment of a program.
#[derive(Clone)]
pub struct World(Arc<State>);

struct State {
    clock: Clock,
    /// How many errors have not been dropped.
    errors: AtomicUsize,
    /// How often each failure has arrived.
    failures: Mutex<Vec<usize>>,
    /// What must not be.
    broken: Mutex<Vec<String>>,
}

/// Counts what lives in a call, and in those around it.
#[derive(Clone, Default)]
pub struct Living(Vec<Arc<AtomicUsize>>);

/// Is counted until it is dropped.
pub struct Alive(Living);

/// An error with a number, counted until it is dropped.
pub struct Fault {
    number: usize,
    world: World,
}

/// What failed in `wait_all`.
#[derive(Debug)]
pub struct Several(pub Vec<TaskError>);

/// An output of which a call does not know that it may be a failure. If nobody takes it, that is as good as taken.
pub struct Output(Option<Result<(), BoxError>>, World);

impl World {
    pub fn new(clock: Clock) -> Self {
        let (errors, failures, broken) = Default::default();
        Self(Arc::new(State { clock, errors, failures, broken }))
    }

    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// How many errors have not been dropped.
    pub fn errors(&self) -> usize {
        self.0.errors.load(SeqCst)
    }

    /// Something must not be.
    pub fn broken(&self, what: String) {
        self.0.broken.lock().expect("it is not poisoned").push(what);
    }

    fn failures(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.failures.lock().expect("it is not poisoned")
    }

    /// A failure comes up.
    fn number(&self) -> usize {
        let mut failures = self.failures();
        failures.push(0);
        failures.len() - 1
    }

    pub fn error(&self) -> BoxError {
        self.0.errors.fetch_add(1, SeqCst);
        Box::new(Fault { number: self.number(), world: self.clone() })
    }

    pub fn panic(&self) -> ! {
        resume_unwind(Box::new(format!("panic {}", self.number())))
    }

    /// What is wrong, at the end.
    pub fn verdict(&self) -> Vec<String> {
        let failures = self.failures();
        let wrong = failures.iter().enumerate().filter(|(_, arrived)| **arrived != 1);
        let wrong = wrong.map(|(number, arrived)| format!("failure {number} has arrived {arrived} times"));
        wrong.chain(self.0.broken.lock().expect("it is not poisoned").drain(..)).collect()
    }

    // ----- failures that arrive -----

    fn arrived(&self, number: usize) {
        self.failures()[number] += 1;
    }

    fn arrived_in_message(&self, message: Option<&str>) {
        let number = message.and_then(|message| message.strip_prefix("panic ")?.parse().ok());
        match number {
            Some(number) => self.arrived(number),
            None => self.broken(format!("a panic of nobody's: {message:?}")),
        }
    }

    pub fn arrived_in_panic(&self, payload: &(dyn Any + Send)) {
        let message = payload.downcast_ref::<String>().map(String::as_str);
        self.arrived_in_message(message.or(payload.downcast_ref::<&str>().copied()));
    }

    pub fn arrived_in_result(&self, result: &Result<(), BoxError>) {
        if let Err(error) = result {
            self.arrived_in_error(error);
        }
    }

    /// Others than these only say that something was stopped.
    fn arrived_in_error(&self, error: &BoxError) {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            self.arrived(fault.number);
        } else if let Some(error) = error.downcast_ref::<PoolError>() {
            self.arrived_in_pool_error(error);
        } else if let Some(failed) = error.downcast_ref::<TaskError>() {
            self.arrived_in_task_error(failed);
        } else if let Some(Several(failures)) = error.downcast_ref() {
            failures.iter().for_each(|failed| self.arrived_in_task_error(failed));
        } else if let Some(error) = error.downcast_ref::<ExitError<BoxError>>() {
            match error {
                ExitError::Body(error) | ExitError::Exit(error) => self.arrived_in_error(error),
                ExitError::Both { body, exit } => {
                    [body, exit].into_iter().for_each(|error| self.arrived_in_error(error))
                }
            }
        }
    }

    fn arrived_in_task_error(&self, failed: &TaskError) {
        match failed.failure() {
            Failure::Error(error) => self.arrived_in_error(error),
            Failure::Panic(payload) => self.arrived_in_message(payload.message()),
            _ => {}
        }
    }

    pub fn arrived_in_pool_error(&self, error: &PoolError) {
        error.failures().iter().chain(error.cleanup_failures()).for_each(|failed| self.arrived_in_task_error(failed));
    }
}

impl Living {
    /// In a further call.
    pub fn within(&self) -> Self {
        Self(self.0.iter().cloned().chain([Arc::default()]).collect())
    }

    pub fn one_more(&self) -> Alive {
        self.0.iter().for_each(|count| _ = count.fetch_add(1, SeqCst));
        Alive(self.clone())
    }

    /// How many are alive in the innermost call.
    pub fn count(&self) -> usize {
        self.0.last().map_or(0, |count| count.load(SeqCst))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.iter().for_each(|count| _ = count.fetch_sub(1, SeqCst));
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.world.0.errors.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failure {}", self.number)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Error for Fault {}

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} branches failed", self.0.len())
    }
}

impl Error for Several {}

impl Output {
    pub async fn of(world: World, future: impl Future<Output = Result<(), BoxError>>) -> Self {
        Self(Some(future.await), world)
    }

    pub fn take(mut self) -> Result<(), BoxError> {
        self.0.take().expect("it is taken once")
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.0.iter().for_each(|result| self.1.arrived_in_result(result));
    }
}
