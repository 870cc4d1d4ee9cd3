//! Where passwords come from: a terminal without echo, standard input, or `ORION_PASSWORD`. Never an
//! argument, for every user of a machine can read those.

use crate::error::{CliError, Kind};
use std::io::Read;

/// The most that is read from standard input, in bytes.
const BYTES_MAX: u64 = 4096;

/// Way in which a terminal asks for the password of an Orion account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A terminal asks once: the password exists.
    Once,
    /// A terminal asks twice: the password is new.
    Twice,
}

/// The password of an Orion account: from standard input if `stdin` says so, else from `ORION_PASSWORD`,
/// else from the terminal.
///
/// # Errors
/// When there is none, or the two typed ones differ.
pub fn account_password(stdin: bool, ask: Ask) -> Result<String, CliError> {
    if stdin {
        return from_stdin();
    }
    match std::env::var("ORION_PASSWORD") {
        Ok(password) if !password.is_empty() => Ok(password),
        Ok(_) | Err(_) => from_terminal(ask),
    }
}

/// A password from standard input: all of it, but for one newline at its end.
///
/// # Errors
/// When it is empty, too long, or not UTF-8.
pub fn from_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin().lock().take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| {
        CliError::new(Kind::Usage, format!("cannot read the password from standard input: {error}"))
    })?;
    if text.len() as u64 > BYTES_MAX {
        return Err(CliError::new(Kind::Usage, format!("the password has more than {BYTES_MAX} bytes")));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    not_empty(text)
}

/// The present password of an account and a new one: two lines of standard input if `stdin` says so, else from the
/// terminal.
///
/// # Errors
/// When one is missing, or the new one was typed differently the second time.
pub fn present_and_new(stdin: bool) -> Result<(String, String), CliError> {
    if stdin {
        let both = from_stdin()?;
        let mut lines = both.lines();
        return match (lines.next(), lines.next(), lines.next()) {
            (Some(old), Some(new), None) => Ok((not_empty(old.to_owned())?, not_empty(new.to_owned())?)),
            (_, _, _) => Err(CliError::new(
                Kind::Usage,
                "standard input must hold two lines: the present password and the new one",
            )),
        };
    }
    let old = not_empty(prompt("Present password: ")?)?;
    let new = not_empty(prompt("New password: ")?)?;
    if prompt("The same again: ")? != new {
        return Err(CliError::new(Kind::Usage, "the two passwords differ"));
    }
    Ok((old, new))
}

/// A password from the terminal, without echo.
///
/// # Errors
/// When there is no terminal, or it is empty.
pub fn typed(text: &str) -> Result<String, CliError> {
    not_empty(prompt(text)?)
}

fn prompt(text: &str) -> Result<String, CliError> {
    rpassword::prompt_password(text).map_err(|error| {
        CliError::new(Kind::Usage, format!("no terminal to ask for the password ({error})"))
            .hint("give it with --password-stdin or in ORION_PASSWORD")
    })
}

fn from_terminal(ask: Ask) -> Result<String, CliError> {
    let password = not_empty(prompt("Password: ")?)?;
    match ask {
        Ask::Once => Ok(password),
        Ask::Twice if prompt("The same again: ")? == password => Ok(password),
        Ask::Twice => Err(CliError::new(Kind::Usage, "the two passwords differ")),
    }
}

fn not_empty(password: String) -> Result<String, CliError> {
    if password.is_empty() { Err(CliError::new(Kind::Usage, "the password is empty")) } else { Ok(password) }
}
