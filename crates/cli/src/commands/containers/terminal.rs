//! The user's terminal: raw while a command in a container has it.

use crate::error::CliError;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal as _, Stdin, stdin};

/// A terminal in raw mode; as it was when dropped.
pub struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Gives every key on, Ctrl-C too; none where nobody reads them, so that Ctrl-C is this program's.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter(is_read: bool) -> Result<Option<Self>, CliError> {
        let stdin = stdin();
        if !stdin.is_terminal() {
            return Err(CliError::failed("standard input is no terminal").hint("leave -t out"));
        }
        if !is_read {
            return Ok(None);
        }
        let refused = |error| CliError::failed(format!("cannot change the terminal: {error}"));
        let before = tcgetattr(&stdin).map_err(refused)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(refused)?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}

/// Returns rows and columns of the terminal; 24 and 80 where it does not say.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        Ok(_) | Err(_) => (24, 80),
    }
}
