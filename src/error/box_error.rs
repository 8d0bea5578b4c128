//! The error type that a pool has if none is named.

use std::error::Error;

/// The error type of a [`Pool`](crate::Pool) that names no other: any error that can cross threads.
///
/// `?` converts every error into it, and `.into()` a text. It is the usual boxed error; `anyhow::Error` converts into
/// it, too.
///
/// # Examples
///
/// ```
/// use aiodrive::BoxError;
///
/// fn parse(text: &str) -> Result<u32, BoxError> {
///     let number: u32 = text.parse()?;
///     if number == 0 { Err("zero is not allowed".into()) } else { Ok(number) }
/// }
///
/// assert!(parse("one").unwrap_err().is::<std::num::ParseIntError>());
/// assert_eq!(parse("0").unwrap_err().to_string(), "zero is not allowed");
/// ```
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;
