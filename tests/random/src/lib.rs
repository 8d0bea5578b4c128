//! Random programs, against a model of what they must come to: see the tests.
