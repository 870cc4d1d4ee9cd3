//! What ends a task early: one sentence, and what to do about it.

use std::fmt;

/// Reason for which a task cannot go on.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: Option<String>,
}

/// The result of everything here.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure; `what` may have several lines.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// A failure that the reader was told of already.
    pub const fn told() -> Self {
        Self { what: String::new(), hint: None }
    }

    /// Whether the reader was told of it already.
    pub const fn is_told(&self) -> bool {
        self.what.is_empty()
    }

    /// Adds what the reader can do about the failure.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(to, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Returns a function for `map_err` that names what was tried.
pub fn failed_to<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(format!("cannot {}: {error}", what.into()))
}
