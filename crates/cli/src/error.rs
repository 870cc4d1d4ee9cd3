//! What can go wrong for the user of the command line, and the exit status that says so.
//!
//! Lives here: [`CliError`], its exit codes, its two lines on stderr. Does not live here: how an HTTP reply
//! becomes one of these (see [`crate::client`]).

use crate::printable::printable;
use std::{fmt, io, path::Path};

/// The class of an error; its number is the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Error without a class of its own.
    Failed,
    /// The arguments or the input make no sense, here or for the API (400, 422).
    Usage,
    /// Session that is missing, or that the API does not accept any more (401).
    NotLoggedIn,
    /// Lease that does not exist (404).
    NotFound,
    /// Refused or not available now: too few free nodes, a conflict, no permission, the API is away.
    Unavailable,
    /// `orion doctor` could not look.
    NotChecked,
    /// Stopped by Ctrl-C; nothing is left behind.
    Interrupted,
    /// Exit status of a command in a container, which has said itself what is wrong.
    Command(u8),
    /// Whoever read our standard output closed it: nothing to say, nobody to say it to.
    ReaderGone,
}

impl Kind {
    /// The process's exit status.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage | Self::NotChecked => 2,
            Self::NotLoggedIn => 3,
            Self::NotFound => 4,
            Self::Unavailable => 5,
            // What a shell shows for a process that SIGINT ended.
            Self::Interrupted => 130,
            Self::Command(status) => status,
            // What a shell shows for a process that SIGPIPE ended.
            Self::ReaderGone => 141,
        }
    }
}

/// The parts of an API refusal that a command may act on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Number of free nodes found, where the refusal gives it.
    pub found: Option<u64>,
    /// Seconds until another attempt may succeed, where the refusal says so.
    pub retry_after_s: Option<u64>,
}

/// An error as the user sees it: what happened, and where possible what to do about it.
#[derive(Debug)]
pub struct CliError {
    kind: Kind,
    message: String,
    hint: Option<String>,
    problem: Option<Box<Problem>>,
}

impl CliError {
    /// An error of `kind` that says `message` (no full stop, no `error:` in front).
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, problem: None }
    }

    /// An error without a class of its own (exit status 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// A failed operation on a file: `what` is the verb ("cannot read").
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::failed(format!("{what} {}: {error}", path.display()))
    }

    /// The same error with a line that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with the API's refusal attached.
    #[must_use]
    pub fn with_problem(mut self, problem: Problem) -> Self {
        self.problem = Some(Box::new(problem));
        self
    }

    /// The class.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The API's refusal, if this error is one.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_deref()
    }
}

impl fmt::Display for CliError {
    /// `error: …` and, where there is one, `hint: …` on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", printable(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", printable(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_its_hint_on_a_line_of_its_own() {
        let error = CliError::new(Kind::NotFound, "no lease 'x'").hint("see them with: orion ls");
        assert_eq!(error.to_string(), "error: no lease 'x'\nhint: see them with: orion ls");
        assert_eq!(error.kind().exit_code(), 4);
    }

    #[test]
    fn control_characters_from_the_api_never_reach_the_terminal() {
        let error = CliError::failed("bad \u{1b}[2J name\nhint: run this");
        assert_eq!(error.to_string(), "error: bad \u{fffd}[2J name\u{fffd}hint: run this");
    }
}
