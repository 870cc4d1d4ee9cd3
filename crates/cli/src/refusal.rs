//! What the API's refusals (problem+json, RFC 9457) mean to the user: class, words, hint.
//!
//! Lives here: a pure mapping. Does not live here: sending, retrying ([`crate::client`]).

use crate::{
    duration,
    error::{CliError, Kind, Problem},
};
use reqwest::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// The error that a reply with a status other than success is. `retry_after_s` is the header's; `user` is who
/// asked, if anybody.
pub fn error(
    status: StatusCode,
    body: &[u8],
    retry_after_s: Option<u64>,
    api: &str,
    user: Option<&str>,
) -> CliError {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| problem.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| problem.get(key).and_then(Value::as_f64).map(|number| number.ceil() as u64);
    let found = number("found");
    let mut message = text("detail")
        .or_else(|| text("error"))
        .or_else(|| text("title"))
        .unwrap_or_else(|| format!("{api} answered {status}"));
    let says =
        |number: u64| message.split(|c: char| !c.is_ascii_digit()).any(|word| word == number.to_string());
    if let Some(found) = found
        && !says(found)
    {
        message.push_str(&format!(" (found {found})"));
    }
    let retry_after_s = number("retry_after_s").or(retry_after_s);
    let status = status.as_u16();
    let error = CliError::new(kind(status), message).with_problem(Problem { status, found, retry_after_s });
    match text("hint").or_else(|| hint(status, found.is_some(), retry_after_s, api, user)) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

const fn kind(status: u16) -> Kind {
    match status {
        400 | 405 | 413 | 415 | 422 => Kind::Usage,
        401 => Kind::NotLoggedIn,
        404 => Kind::NotFound,
        402 | 403 | 409 | 423 | 429 | 502..=504 => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

/// Returns the remedy for a refusal, where the API does not give one itself.
fn hint(
    status: u16,
    too_few: bool,
    retry_after_s: Option<u64>,
    api: &str,
    user: Option<&str>,
) -> Option<String> {
    let soon = |seconds| duration::show(Duration::from_secs(seconds));
    match (status, retry_after_s) {
        (401, _) => Some(format!("log in again: orion login {}", user.unwrap_or("NAME"))),
        (300..=399, _) => {
            Some("the API's address has changed, it seems; give the new one with --api URL".into())
        }
        (503, Some(seconds)) if too_few => {
            Some(format!("the next lease ends in {}; orion rent … --wait waits for it", soon(seconds)))
        }
        (503, None) if too_few => Some("orion rent … --wait waits for free nodes".into()),
        (_, Some(seconds)) => Some(format!("try again in {}", soon(seconds))),
        (500..=599, None) => Some(format!("the API's health: {api}/api/health")),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> CliError {
        error(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None, "http://h:1", Some("alice"))
    }

    #[test]
    fn each_status_has_its_exit_code() {
        for (status, code) in [
            (400, 2),
            (422, 2),
            (401, 3),
            (404, 4),
            (403, 5),
            (409, 5),
            (429, 5),
            (503, 5),
            (500, 1),
            (302, 1),
        ] {
            assert_eq!(refused(status, "{}").kind().exit_code(), code, "{status}");
        }
    }

    #[test]
    fn the_apis_own_words_and_hint_come_first() {
        let error = refused(409, r#"{"detail":"name is taken","error":"x","hint":"take another"}"#);
        assert_eq!(error.to_string(), "error: name is taken\nhint: take another");
        assert_eq!(refused(409, r#"{"error":"old style"}"#).to_string(), "error: old style");
        assert_eq!(
            refused(502, "<html>").to_string(),
            "error: http://h:1 answered 502 Bad Gateway\nhint: the API's health: http://h:1/api/health"
        );
    }

    #[test]
    fn too_few_free_nodes_say_how_many_and_when() {
        let error = refused(503, r#"{"detail":"too few free nodes","found":1,"retry_after_s":720.2}"#);
        assert_eq!(
            error.to_string(),
            "error: too few free nodes (found 1)\n\
             hint: the next lease ends in 12 min; orion rent … --wait waits for it"
        );
        assert_eq!(error.problem().and_then(|p| p.retry_after_s), Some(721));
    }

    #[test]
    fn a_number_that_the_message_says_already_is_not_repeated() {
        let error = refused(503, r#"{"detail":"2 wanted, 1 free, and no lease is due to end","found":1}"#);
        assert_eq!(
            error.to_string(),
            "error: 2 wanted, 1 free, and no lease is due to end\nhint: orion rent … --wait waits for free nodes"
        );
    }

    #[test]
    fn a_throttled_login_says_when_to_come_back() {
        let error = error(StatusCode::TOO_MANY_REQUESTS, b"{}", Some(30), "http://h:1", None);
        assert!(error.to_string().ends_with("hint: try again in 30 s"), "{error}");
    }
}
