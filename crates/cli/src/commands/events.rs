//! `events`: what happened, and with `-f` what happens, across lost connections without a gap.

use crate::{
    client::Client,
    context::Context,
    error::{CliError, Kind},
    model::{Event, shape},
    output::{self, Format, note, printable},
    sse::{Item, Message, Parser},
};
use serde_json::Value;
use std::{collections::VecDeque, time::Duration};

/// Time without data after which a stream counts as complete (without `-f`).
const QUIET: Duration = Duration::from_secs(2);
/// Time without data after which a connection counts as lost (with `-f`; the API sends a comment more
/// often).
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// The pause before the first reconnection; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The arguments of `orion events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Go on showing what happens
    #[arg(short, long)]
    follow: bool,
    /// Begin behind the event with this number
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// Number of latest events to show (without -f)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, conflicts_with = "follow")]
    last: usize,
}

/// Shows events.
pub async fn run(context: &Context, args: EventsArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let since = args.since.map(|id| id.to_string());
    if args.follow {
        follow(context, &client, since).await
    } else {
        past(context, &client, since.unwrap_or_else(|| "0".to_owned()), args.last).await
    }
}

async fn past(context: &Context, client: &Client, since: String, last: usize) -> Result<(), CliError> {
    let mut response = client.stream("/api/events?follow=false", Some(&since)).await?;
    let mut parser = Parser::resuming(Some(since));
    let mut latest: VecDeque<Message> = VecDeque::new();
    // The end of the stream, its first sign of life without news, or silence: whichever comes first.
    'stream: while let Ok(chunk) = tokio::time::timeout(QUIET, response.chunk()).await {
        let chunk = chunk.map_err(|_| lost(client))?;
        let Some(chunk) = chunk else { break };
        for item in parser.feed(&chunk).map_err(CliError::failed)? {
            match item {
                Item::Message(message) => {
                    latest.push_back(message);
                    if latest.len() > last {
                        latest.pop_front();
                    }
                }
                Item::Comment => break 'stream,
            }
        }
    }
    latest.iter().try_for_each(|message| show(context, message))
}

fn lost(client: &Client) -> CliError {
    CliError::new(Kind::Unavailable, format!("the connection to {} was lost", client.api()))
        .hint("try again in a moment")
}

async fn follow(context: &Context, client: &Client, since: Option<String>) -> Result<(), CliError> {
    let mut parser = Parser::resuming(since);
    let mut pause = PAUSE_MIN;
    let mut connected_before = false;
    loop {
        let last_event_id = parser.last_event_id().map(str::to_owned);
        let why = match client.stream("/api/events", last_event_id.as_deref()).await {
            Ok(mut response) => {
                if connected_before {
                    note("connected again");
                }
                connected_before = true;
                loop {
                    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                        Ok(Ok(Some(chunk))) => {
                            pause = PAUSE_MIN;
                            for item in parser.feed(&chunk).map_err(CliError::failed)? {
                                match item {
                                    Item::Message(message) => show(context, &message)?,
                                    Item::Comment => {}
                                }
                            }
                        }
                        Ok(Ok(None) | Err(_)) => break "connection lost",
                        Err(_) => break "connection silent for too long",
                    }
                }
            }
            Err(error) if connected_before && passes(&error) => "no connection",
            Err(error) => return Err(error),
        };
        parser.restart();
        pause =
            parser.retry_ms().map_or(pause, |asked| pause.max(Duration::from_millis(asked))).min(PAUSE_MAX);
        note(&format!("{why}; again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a refusal may be over at the next attempt: the API is away, restarts, or asks for patience.
fn passes(error: &CliError) -> bool {
    error
        .problem()
        .map_or(error.kind() == Kind::Unavailable, |problem| problem.status >= 500 || problem.status == 429)
}

fn show(context: &Context, message: &Message) -> Result<(), CliError> {
    let Ok(value) = serde_json::from_str::<Value>(&message.data) else {
        return Err(CliError::failed(format!("an event that is no JSON: {}", message.data)));
    };
    match context.format {
        // One object a line, so that a program can read along.
        Format::Json => output::data(&value.to_string()),
        Format::Table => output::data(&line(&shape(&value, "event")?, &message.event)),
    }
}

/// `9  2026-11-21 14:48:00 UTC  lease.migrating  lease 42  node 3  why=dead`
fn line(event: &Event, kind: &str) -> String {
    let at = event.at.map(|at| at.to_string()).unwrap_or_default();
    let at = match (at.get(..10), at.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        (_, _) => at,
    };
    let kind = if event.kind.is_empty() { kind } else { &event.kind };
    let numbered = |what: &str, id: Option<i64>| id.map(|id| format!("{what} {id}"));
    let mut parts =
        vec![event.id.map_or_else(|| "?".to_owned(), |id| id.to_string()), at, format!("{kind:<20}")];
    parts.extend(numbered("lease", event.lease_id));
    parts.extend(numbered("node", event.node_id));
    parts.extend(numbered("user", event.user_id));
    parts.push(pairs(&event.data));
    printable(parts.join("  ").trim_end())
}

/// An event's details as `key=value` pairs.
pub fn pairs(data: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match data {
        Value::Null => String::new(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(" ")
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => plain(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let value = json!({"id": 9, "at": "2026-11-21T14:48:00.5Z", "kind": "lease.migrating", "lease_id": 42,
            "node_id": 3, "user_id": null, "data": {"why": "dead\nforged line", "n": 2}});
        assert_eq!(
            line(&shape(&value, "event").unwrap(), "x"),
            "9  2026-11-21 14:48:00 UTC  lease.migrating       lease 42  node 3  n=2 why=dead\u{fffd}forged line"
        );
    }
}
