//! What users see of the crate: see the tests.
