//! The tools of the tests, which all of them find here.
//!
//! | module | what |
//! | --- | --- |
//! | `runtimes` | `#[apply(both)]`: a test on both kinds of runtime, with a limit for what must not hang |
//! | `witnesses` | which values are alive, and what happened in which order |
//! | `polling` | futures that are polled by hand, and waits without a clock |
//! | `failures` | how failures are made, and how they read |
//! | `pools` | pools and their tasks, as many tests have them |
//! | `branches` | branches of the functions, and work that is left behind |
//! | `hostile` | code of the user's that panics, or calls back |

mod branches;
mod failures;
mod hostile;
mod polling;
mod pools;
mod runtimes;
mod witnesses;

pub use self::branches::*;
pub use self::failures::*;
pub use self::hostile::*;
pub use self::polling::*;
pub use self::pools::*;
pub use self::runtimes::*;
pub use self::witnesses::*;
