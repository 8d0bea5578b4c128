//! Stands for `tokio::time`: timers, which in shuttle are over only when a test says so.
//!
//! Here a deadline passes at any point after the first poll that waits for it: the clock is one more task, which the
//! schedule lets run sooner or later. So timers are in no order, and a test can say nothing about which of two deadlines
//! comes first. One that is more than a year away never passes. As in tokio, what is ready when it is polled wins.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
pub use shuttle_tokio::time::{Duration, Instant, error, sleep};

use self::error::Elapsed;

const YEAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);

#[derive(Debug)]
#[pin_project]
pub struct Timeout<F> {
    #[pin]
    future: F,
    clock: Clock,
}

#[derive(Debug)]
pub struct Sleep(Clock);

#[derive(Debug)]
enum Clock {
    NotStarted,
    Running(shuttle::future::JoinHandle<()>),
    Never,
}

pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, clock: Clock::new(deadline) }
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep(Clock::new(deadline))
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        ready!(this.clock.poll(cx));
        Poll::Ready(Err(Elapsed::new()))
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}

impl Clock {
    fn new(deadline: Instant) -> Self {
        let is_far = deadline.saturating_duration_since(Instant::now()) > YEAR;
        if is_far { Self::Never } else { Self::NotStarted }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self, Self::NotStarted) {
            *self = Self::Running(shuttle::future::spawn(async {}));
        }
        match self {
            Self::Running(clock) => Pin::new(clock).poll(cx).map(drop),
            _ => Poll::Pending,
        }
    }
}
