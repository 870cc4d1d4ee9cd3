//! Why a measurement could not run: for people, with what helps.

use std::fmt;

/// A sentence, perhaps with a `hint:` line and the end of a log.
#[derive(Debug)]
pub struct Broken {
    what: String,
    hint: Option<String>,
    log: Option<String>,
}

impl Broken {
    /// Creates an error that says what could not be done, and why.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None, log: None }
    }

    /// Adds advice on what to do about the error.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The end of the log of what is measured.
    #[must_use]
    pub fn with_log(self, log: &str) -> Self {
        Self { log: Some(log.to_owned()), ..self }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        if let Some(log) = &self.log {
            write!(f, "\nthe last lines of its log:\n{log}")?;
        }
        Ok(())
    }
}

/// Says what was being done when an error came.
pub trait Context<T> {
    /// `doing` and the error become a [`Broken`].
    ///
    /// # Errors
    /// When `self` is one.
    fn context(self, doing: &str) -> Result<T, Broken>;
}

impl<T, E: std::error::Error> Context<T> for Result<T, E> {
    fn context(self, doing: &str) -> Result<T, Broken> {
        self.map_err(|error| {
            let sources = std::iter::successors(error.source(), |source| source.source());
            let chain = sources.fold(error.to_string(), |text, source| format!("{text}: {source}"));
            Broken::new(format!("{doing}: {chain}"))
        })
    }
}
