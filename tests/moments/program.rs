//! What a program is made of, and how it is made up from a number.

use std::ops::Range;

/// Work, in a stack of calls.
#[derive(Clone, Debug)]
pub enum Program {
    Work(Work),
    /// A call with a program in it, and work beside that.
    Call(Call, Box<Program>, Work),
}

/// What ends by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    Returns,
    Waits,
    /// It waits for a timer.
    Sleeps,
    Fails,
    WaitsAndFails,
    Panics,
    WaitsAndPanics,
    /// Its destructor panics.
    Bomb,
    /// It waits to be cancelled, and fails then.
    Listens,
    /// It never ends by itself.
    Stays,
}

/// A call that waits for what is in it.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// `Pool::open` with the program as its body, and the work as a task.
    Body,
    /// The same the other way round.
    Task,
    /// `Pool::open` with a grace.
    Grace,
    /// A planned pool.
    Run,
    /// A planned pool with a limit of one.
    Limit,
    /// A pool with the program at a higher depth than the work.
    Depths,
    /// A pool that goes on after failures.
    Collect,
    /// A pool that its work cancels.
    CancelOn,
    /// `Pool::idle`.
    Idle,
    /// `spawn_with_handle`.
    Handle,
    /// The same, where the handle cancels its task after the work.
    HandleCancels,
    /// `spawn_local_with_handle`, where there is a `LocalSet`; otherwise as `Handle`.
    Local,
    /// `spawn_blocking_with_handle` for the work, beside the program.
    Blocking,
    Start,
    Track,
    Race,
    TryAll,
    WaitAll,
    /// `TaskGroup::next`.
    Group,
    /// `Map::next`.
    Map,
    /// `Map::collect`.
    Collected,
    Shield,
    /// `shield`, whose future is dropped.
    Shielded,
    /// `timeout`, which does not elapse before the program has ended, if that ends.
    Timeout,
    /// `timeout`, which elapses soon.
    Short,
    /// `with_exit`, with the program as the body, and the work as the handler.
    WithExit,
    /// The same the other way round.
    Handler,
}

impl Work {
    const ALL: [Self; 10] = [
        Self::Returns,
        Self::Waits,
        Self::Sleeps,
        Self::Fails,
        Self::WaitsAndFails,
        Self::Panics,
        Self::WaitsAndPanics,
        Self::Bomb,
        Self::Listens,
        Self::Stays,
    ];
}

impl Call {
    const ALL: [Self; 27] = [
        Self::Body,
        Self::Task,
        Self::Grace,
        Self::Run,
        Self::Limit,
        Self::Depths,
        Self::Collect,
        Self::CancelOn,
        Self::Idle,
        Self::Handle,
        Self::HandleCancels,
        Self::Local,
        Self::Blocking,
        Self::Start,
        Self::Track,
        Self::Race,
        Self::TryAll,
        Self::WaitAll,
        Self::Group,
        Self::Map,
        Self::Collected,
        Self::Shield,
        Self::Shielded,
        Self::Timeout,
        Self::Short,
        Self::WithExit,
        Self::Handler,
    ];
}

impl Call {
    /// Whether it returns only when nothing is left in it. A group and a `map` that are dropped leave that to what is
    /// around them, and so does shielded work.
    pub fn leaves_nothing(self) -> bool {
        !matches!(self, Self::Group | Self::Map | Self::Shield | Self::Shielded | Self::WithExit | Self::Handler)
    }
}

impl Program {
    /// The numbers of those that are two calls deep: each call in each call, with one choice of work each.
    pub const PAIRS: Range<u64> = 0..(Call::ALL.len() * Call::ALL.len()) as u64;

    /// The program with this number. Those that are no pairs are one to four calls deep, most of them three or four.
    pub fn of(number: u64) -> Self {
        let mut random = Random(number);
        let calls = match usize::try_from(number) {
            Ok(pair) if Self::PAIRS.contains(&number) => {
                vec![Call::ALL[pair % Call::ALL.len()], Call::ALL[pair / Call::ALL.len()]]
            }
            _ => {
                let calls = random.of(&[1, 2, 3, 3, 3, 4, 4, 4]);
                (0..calls).map(|_| random.of(&Call::ALL)).collect()
            }
        };
        let bottom = Self::Work(random.of(&Work::ALL));
        calls.into_iter().fold(bottom, |program, call| Self::Call(call, Box::new(program), random.of(&Work::ALL)))
    }
}

/// SplitMix64, so that a number stands for the same program everywhere.
struct Random(u64);

impl Random {
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        choices[((mixed ^ (mixed >> 31)) % choices.len() as u64) as usize]
    }
}
