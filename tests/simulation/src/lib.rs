//! A server and its clients in a simulated world: see `tests/world.rs`.
