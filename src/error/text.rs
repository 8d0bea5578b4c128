//! Lists of failures, on one line or on many.
//!
//! On one line, items are parted by semicolons. With `{:#}` each has a line, and what is nested in it is indented by
//! two columns, at any depth: the indentation is put in behind each line break, whoever has written it.

use std::fmt::{self, Display, Write as _};

/// Puts something between the parts of a text.
pub(super) struct Parts {
    /// On one line, or between lines.
    between: &'static str,
    /// Whether none has begun.
    first: bool,
}

impl Parts {
    pub(super) fn new(f: &fmt::Formatter<'_>) -> Self {
        Self { between: if f.alternate() { "\n" } else { "; " }, first: true }
    }

    /// Begins the next part.
    pub(super) fn begin(&mut self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = std::mem::replace(&mut self.first, false);
        f.write_str(if first { "" } else { self.between })
    }
}

/// One failure as it is; several after their number, on one line or, in the alternate form, on a line each.
pub(super) fn write_list<T: Display>(f: &mut fmt::Formatter<'_>, what: &str, failures: &[T]) -> fmt::Result {
    if let [only] = failures {
        return Display::fmt(only, f);
    }
    write!(f, "{} {what}:", failures.len())?;
    for (nth, failed) in failures.iter().enumerate() {
        if f.alternate() {
            f.write_str("\n  ")?;
            write!(Indented(f), "{failed:#}")?;
        } else {
            write!(f, "{} {failed}", if nth == 0 { "" } else { ";" })?;
        }
    }
    Ok(())
}

/// Moves every line but the first two columns to the right.
struct Indented<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Indented<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            self.0.write_str(line)?;
            if line.ends_with('\n') {
                self.0.write_str("  ")?;
            }
        }
        Ok(())
    }
}
