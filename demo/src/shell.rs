//! Runs the story's commands in a shell, exactly as they are shown, and shows what they answer.

use super::{interrupt, place::Place};
use orion_console::{Failure, Outcome, failed_to, repo, terminal};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The widest line of output that is shown, in characters.
const WIDTH: usize = 110;
/// The most lines of one command's output that are shown.
const LINES: usize = 16;

/// A shell with its variables.
pub struct Shell {
    variables: Vec<(String, String)>,
}

/// A command that has ended.
pub struct Ran {
    /// Exit status of the command; none if a signal ended it.
    pub status: Option<i32>,
    /// Standard output of the command.
    pub out: String,
    /// Standard error of the command.
    pub err: String,
    /// Time that the command took.
    pub time: Duration,
}

/// Reply of the API, or of a page.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; `Null` when it is no JSON.
    pub body: Value,
    /// The body as it came.
    pub page: String,
    /// Time from the first byte sent to the last one received, as curl measured it.
    pub time: Duration,
    line: String,
}

impl Shell {
    /// A shell in the root of the repository. What curl is told besides what is shown: not to draw progress,
    /// to go round proxies, and to append the status and the time, which are read from there.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(place: &Place) -> Outcome<Self> {
        let settings = "silent\nshow-error\nnoproxy = \"*\"\nmax-time = 100\n\
                        write-out = \"\\n%{http_code} %{time_total}\"\n";
        place.write(".curlrc", settings, 0o600)?;
        let mut shell = Self { variables: Vec::new() };
        shell.set("CURL_HOME", &place.file("").to_string_lossy());
        Ok(shell)
    }

    /// Sets a variable for the commands to come.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Sets a variable and shows that, with the beginning of its value.
    pub fn set_shown(&mut self, name: &str, value: &str, remark: &str) {
        terminal::command(&format!("{name}={}   # {remark}", terminal::cut(value, 48)));
        self.set(name, value);
    }

    /// Runs a line, shows it and what it writes.
    ///
    /// # Errors
    /// When the shell cannot start, or we were told to end.
    pub fn run(&self, line: &str) -> Outcome<Ran> {
        terminal::command(line);
        let ran = self.quietly(line)?;
        show(&ran.out);
        show(&ran.err);
        Ok(ran)
    }

    /// Runs a line, shows it and what it writes; it must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn must(&self, line: &str) -> Outcome<Ran> {
        let ran = self.run(line)?;
        match ran.status {
            Some(0) => Ok(ran),
            _ => Err(ran.failure(line, "it should have succeeded")),
        }
    }

    /// Runs a line that must succeed, shows it, and what it writes as it comes. On a terminal the line's own
    /// messages go there, so that what moves can be seen.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn live(&self, line: &str) -> Outcome<Ran> {
        interrupt::check()?;
        terminal::command(line);
        let begun = Instant::now();
        // Elsewhere both come by one pipe, in their order.
        let script = if terminal::is_terminal() { line.to_owned() } else { format!("exec 2>&1\n{line}") };
        let mut command = self.command(&script);
        command.stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed_to("run bash"))?;
        let out = child.stdout.take().map(shown_as_it_comes).unwrap_or_default();
        let status = child.wait().map_err(failed_to("run bash"))?.code();
        interrupt::check()?;
        let ran = Ran { status, out, err: String::new(), time: begun.elapsed() };
        match ran.status {
            Some(0) => Ok(ran),
            _ => Err(ran.failure(line, "it should have succeeded")),
        }
    }

    /// Runs a line, shows it and what it writes; it must fail, and say this.
    ///
    /// # Errors
    /// When it succeeds, or says something else.
    pub fn refused(&self, line: &str, says: &str) -> Outcome<Ran> {
        let ran = self.run(line)?;
        match ran.status == Some(0) || !ran.err.contains(says) {
            true => Err(ran.failure(line, &format!("it should have been refused with '{says}'"))),
            false => Ok(ran),
        }
    }

    /// Returns the JSON that a line writes, without a word.
    ///
    /// # Errors
    /// When the line fails, or what it writes is no JSON.
    pub fn json(&self, line: &str) -> Outcome<Value> {
        let ran = self.quietly(line)?;
        match (ran.status, serde_json::from_str(&ran.out)) {
            (Some(0), Ok(value)) => Ok(value),
            (_, _) => Err(ran.failure(line, "it should have written JSON")),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(repo::root()).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a line without a word.
    ///
    /// # Errors
    /// When the shell cannot start, or we were told to end.
    pub fn quietly(&self, line: &str) -> Outcome<Ran> {
        interrupt::check()?;
        let begun = Instant::now();
        let mut command = self.command(line);
        let Output { status, stdout, stderr } = command.output().map_err(failed_to("run bash"))?;
        interrupt::check()?;
        Ok(Ran {
            status: status.code(),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
            time: begun.elapsed(),
        })
    }

    /// Asks the API; shows the command and the answer, which must have this status.
    ///
    /// # Errors
    /// When it has another, or there is none.
    pub fn curl(&self, line: &str, status: u16) -> Outcome<Reply> {
        self.curl_part(line, status, &[])
    }

    /// The same; of the answer, if it has that status, only these entries are shown, in this order.
    ///
    /// # Errors
    /// When it has another, or there is none.
    pub fn curl_part(&self, line: &str, status: u16, keys: &[&str]) -> Outcome<Reply> {
        terminal::command(line);
        let reply = self.ask(line)?;
        match keys.is_empty() || reply.status != status {
            true if reply.body.is_null() => show(&reply.page),
            true => show(&fitted(&reply.body)),
            false => show(&part(&reply.body, keys)),
        }
        terminal::note(&format!("  → {} in {}", reply.status, terminal::seconds(reply.time)));
        match reply.status == status {
            true => Ok(reply),
            false => Err(reply.failure(&format!("its status should have been {status}"))),
        }
    }

    /// Asks the API without a word.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, line: &str) -> Outcome<Reply> {
        let ran = self.quietly(line)?;
        match (ran.status, reply_of(&ran.out)) {
            (Some(0), Some((page, status, time))) => Ok(Reply {
                status,
                body: serde_json::from_str(&page).unwrap_or_default(),
                page,
                time,
                line: line.to_owned(),
            }),
            (_, _) => Err(ran.failure(line, "the API did not answer")),
        }
    }
}

impl Ran {
    /// Returns the failure that ends the story after this command.
    pub fn failure(&self, line: &str, why: &str) -> Failure {
        let status = self.status.map_or("a signal".to_owned(), |status| format!("status {status}"));
        Failure::new(format!("$ {line}\n{}{}{why}; it ended with {status}", self.out, self.err))
    }
}

impl Reply {
    /// Returns the failure that ends the story after this reply.
    pub fn failure(&self, why: &str) -> Failure {
        let body = if self.body.is_null() { self.page.clone() } else { format!("{:#}", self.body) };
        Failure::new(format!("$ {}\n{body}\n{why}; the status was {}", self.line, self.status))
    }

    /// A text in the body, at a JSON pointer such as `/0/host_ip`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn text(&self, pointer: &str) -> Outcome<String> {
        let text = self.body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| self.failure(&format!("it should have a text at {pointer}")))
    }

    /// A whole number in the body.
    ///
    /// # Errors
    /// When it is not there.
    pub fn number(&self, pointer: &str) -> Outcome<u64> {
        let number = self.body.pointer(pointer).and_then(Value::as_u64);
        number.ok_or_else(|| self.failure(&format!("it should have a number at {pointer}")))
    }

    /// The body as a list.
    ///
    /// # Errors
    /// When it is none.
    pub fn list(&self) -> Outcome<&Vec<Value>> {
        self.body.as_array().ok_or_else(|| self.failure("it should be a list"))
    }
}

/// Parses the output of curl: the body, then a line with the status and the seconds.
fn reply_of(out: &str) -> Option<(String, u16, Duration)> {
    let (body, figures) = out.trim_end().rsplit_once('\n')?;
    let (status, seconds) = figures.split_once(' ')?;
    let time = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    let status = status.parse().ok().filter(|status| *status != 0)?;
    Some((body.to_owned(), status, time))
}

/// JSON for people: on one line where it fits, else one line an entry, each cut to the width.
pub fn fitted(value: &Value) -> String {
    let whole = value.to_string();
    if whole.chars().count() + 2 <= WIDTH {
        return whole;
    }
    match value {
        Value::Object(map) => {
            let lines = map.iter().map(|(key, value)| format!("  {}: {value}", Value::from(key.as_str())));
            format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n"))
        }
        Value::Array(list) if list.len() == 1 => format!("[{}]", fitted(&list[0])),
        Value::Array(list) => {
            let lines = list.iter().map(|value| format!("  {value}"));
            format!("[\n{}\n]", lines.collect::<Vec<_>>().join(",\n"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => whole,
    }
}

/// Some entries of an object, or of each object of a list, in this order.
fn part(value: &Value, keys: &[&str]) -> String {
    let entries = |value: &Value| -> Vec<String> {
        let known = keys.iter().filter_map(|key| value.get(key).map(|value| format!("\"{key}\": {value}")));
        known.chain(["…".to_owned()]).collect()
    };
    match value.as_array() {
        Some(list) => {
            let lines: Vec<String> =
                list.iter().map(|value| format!("  {{{}}}", entries(value).join(", "))).collect();
            format!("[\n{}\n]", lines.join(",\n"))
        }
        None => format!("{{\n  {}\n}}", entries(value).join(",\n  ")),
    }
}

/// Shows the lines of a stream as they come; all of them.
fn shown_as_it_comes(stream: impl Read) -> String {
    let mut all = String::new();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        terminal::line(&format!("  {}", terminal::cut(&line, WIDTH)));
        all.push_str(&line);
        all.push('\n');
    }
    all
}

fn show(text: &str) {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let kept = if lines.len() > LINES { LINES - 1 } else { lines.len() };
    for line in &lines[..kept] {
        terminal::line(&format!("  {}", terminal::cut(line, WIDTH)));
    }
    if kept < lines.len() {
        terminal::note(&format!("  … {} more lines", lines.len() - kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reply_is_divided_into_body_status_and_time() {
        let (body, status, time) = reply_of("{\"a\":\n1}\n201 0.25").unwrap();
        assert_eq!((body.as_str(), status, time), ("{\"a\":\n1}", 201, Duration::from_millis(250)));
        let (body, status, _) = reply_of("<html>\n404 0.001").unwrap();
        assert_eq!((body.as_str(), status), ("<html>", 404));
        assert!(reply_of("\n000 0.0").is_none(), "curl got no answer");
        assert!(reply_of("").is_none());
    }

    #[test]
    fn short_json_stays_on_one_line_and_long_json_gets_a_line_for_each_entry() {
        assert_eq!(fitted(&json!({"token": "x"})), r#"{"token":"x"}"#);
        let long = "x".repeat(WIDTH);
        assert_eq!(fitted(&json!([{"a": 1, "b": long}])).lines().count(), 4);
        assert_eq!(fitted(&json!([{"a": long}, {"b": 1}])).lines().count(), 4);
    }

    #[test]
    fn a_part_keeps_the_order_that_was_asked_for_and_says_that_it_is_a_part() {
        assert_eq!(
            part(&json!({"a": 1, "b": "x", "c": 3}), &["b", "a", "d"]),
            "{\n  \"b\": \"x\",\n  \"a\": 1,\n  …\n}"
        );
        assert_eq!(part(&json!([{"a": 1}]), &["a"]), "[\n  {\"a\": 1, …}\n]");
    }
}
