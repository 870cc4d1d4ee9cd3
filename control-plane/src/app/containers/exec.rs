//! Commands in containers over a WebSocket.

use super::{
    Containers, engine_error,
    socket::{End, FromPeer, Pulse, Said, ToPeer, split},
    streams::{OpenStream, StreamKind},
};
use crate::{App, auth::Caller, error::ApiError};
use axum::{
    body::Bytes,
    extract::ws::{Message, WebSocket},
};
use orion_containers::{
    Engine, EngineError, Exec, ExecInput, ExecOutput, ExecRequest, LogChunk, LogSource, Terminal, TtySize,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for the first message.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Largest number of words of a command, and of variables.
const WORDS_MAX: usize = 1000;
/// Time for which an exit code is looked for although the node, or its engine, does not answer.
const CODE_LIMIT: Duration = Duration::from_secs(30);
/// Longest pause between two looks for an exit code.
const CODE_EVERY: Duration = Duration::from_secs(1);
/// Pauses before the tries to end a command whose client is gone: its node, or the engine, may be away for a moment.
const END_TRIES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Word of a client.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Word {
    Start(Start),
    Resize { rows: u16, cols: u16 },
    Eof {},
}

/// The first word: what to run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    command: Vec<String>,
    #[serde(default)]
    tty: bool,
    #[serde(default = "yes")]
    stdin: bool,
    #[serde(default = "rows")]
    rows: u16,
    #[serde(default = "cols")]
    cols: u16,
    #[serde(default = "term")]
    term: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

const fn yes() -> bool {
    true
}

const fn rows() -> u16 {
    24
}

const fn cols() -> u16 {
    80
}

fn term() -> String {
    "xterm".into()
}

impl Start {
    fn check(self) -> Result<ExecRequest, String> {
        let is_in = |size: usize| (1..=WORDS_MAX).contains(&size);
        if !is_in(self.command.len()) || self.command.first().is_some_and(String::is_empty) {
            return Err(format!("command: must have 1 to {WORDS_MAX} words"));
        }
        let has_nul = |text: &String| text.contains('\0');
        if self.command.iter().any(has_nul) || self.env.values().any(has_nul) || has_nul(&self.term) {
            return Err("command, env and term: must not hold the character of code 0".into());
        }
        let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        if self.env.len() > WORDS_MAX || !self.env.keys().all(is_name) {
            return Err(format!("env: must have at most {WORDS_MAX} names, without '='"));
        }
        let size = TtySize { columns: self.cols, rows: self.rows };
        Ok(ExecRequest {
            command: self.command,
            terminal: self.tty.then_some(Terminal { size, term: self.term }),
            stdin: self.stdin,
            env: self.env.into_iter().collect(),
        })
    }
}

/// A place for a command in a container that runs.
pub struct Ready {
    app: App,
    engine: Engine,
    /// The engine's id of the container.
    container: String,
    open: OpenStream,
}

impl Containers<'_> {
    /// Takes a place for a command in a container.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 for one that does not run, 429 for more commands than there may be at once.
    pub async fn ready_to_exec(self, who: &Caller, which: &str, name: &str) -> Result<Ready, ApiError> {
        let (row, engine, container) = self.running(who, which, name).await?;
        let open = self.open_stream(who, &row, StreamKind::Exec)?;
        Ok(Ready { app: self.app.clone(), engine, container, open })
    }
}

fn failed(detail: impl Into<String>) -> Value {
    json!({ "type": "error", "detail": detail.into() })
}

impl Ready {
    /// Runs the command that the client names, to its end or the client's.
    pub async fn serve(self, mut socket: WebSocket) {
        let app = self.app.clone();
        // Counted among the work that a stop waits for: what was begun on the node is ended.
        let serving = app.tasks.spawn(async move {
            let read = tokio::select! {
                read = first_word(&mut socket) => read,
                end = self.ended() => Err(end.text().into()),
            };
            let request = match read {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(why) => return refuse(socket, &why).await,
            };
            if self.open.lost.is_cancelled() {
                return refuse(socket, End::Lost.text()).await;
            }
            match self.engine.exec(&self.container, &request).await {
                Ok(exec) => self.run(socket, Arc::new(exec), &request).await,
                Err(error) => refuse(socket, &engine_error(&error).to_string()).await,
            }
        });
        // A panic was reported where it happened.
        let _ = serving.await;
    }

    /// Waits until the right, the lease or the container has ended, or this process stops.
    async fn ended(&self) -> End {
        tokio::select! {
            () = self.open.lost.cancelled() => End::Lost,
            () = self.app.shutdown.cancelled() => End::Stopping,
        }
    }

    async fn run(&self, socket: WebSocket, exec: Arc<Exec>, request: &ExecRequest) {
        if self.open.lost.is_cancelled() {
            return refuse(socket, End::Lost.text()).await;
        }
        let (input, output) = match exec.start(request.terminal.as_ref()).await {
            Ok(streams) => streams,
            Err(error) => {
                self.end(exec).await;
                return refuse(socket, &engine_error(&error).to_string()).await;
            }
        };
        let pulse = Pulse::new();
        let (mut to_peer, mut from_peer) = split(socket, &pulse);
        let has_terminal = request.terminal.is_some();
        let ended = tokio::select! {
            ended = down(&mut to_peer, &exec, output, has_terminal) => ended,
            end = up(&mut from_peer, &exec, input, &pulse) => Err(end),
            end = self.ended() => Err(end),
        };
        let last = match ended {
            Ok(Ok(code)) => json!({ "type": "exit", "exit_code": code }),
            Ok(Err(error)) => {
                self.end(exec).await;
                failed(error.to_string())
            }
            Err(end) => {
                self.end(exec).await;
                failed(end.text())
            }
        };
        to_peer.farewell(from_peer, Some(&last)).await;
    }

    /// Ends the command, at once where its node answers, else as soon as it does.
    async fn end(&self, exec: Arc<Exec>) {
        if matches!(exec.end().await, Ok(true)) {
            return;
        }
        let app = self.app.clone();
        self.app.tasks.spawn(async move {
            for pause in END_TRIES {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = app.shutdown.cancelled() => {}
                }
                if matches!(exec.end().await, Ok(true)) || app.shutdown.is_cancelled() {
                    return;
                }
            }
            tracing::warn!(exec = exec.id(), "a command whose client is gone could not be ended");
        });
    }
}

/// Reads the first word. None: the client is gone.
async fn first_word(socket: &mut WebSocket) -> Result<Option<ExecRequest>, String> {
    let reading = async {
        loop {
            match socket.recv().await {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_))) => {
                    return Err("the first message has to be a text, `start`".into());
                }
                Some(Ok(Message::Text(text))) => {
                    return match serde_json::from_str(&text) {
                        Ok(Word::Start(start)) => start.check().map(Some),
                        Ok(Word::Resize { .. } | Word::Eof {}) => {
                            Err("the first message has to be `start`".into())
                        }
                        Err(error) => Err(format!("start: {error}")),
                    };
                }
            }
        }
    };
    let late = || Err(format!("no first message within {} s", START_LIMIT.as_secs()));
    timeout(START_LIMIT, reading).await.unwrap_or_else(|_| late())
}

async fn refuse(socket: WebSocket, why: &str) {
    let pulse = Pulse::new();
    let (to_peer, from_peer) = split(socket, &pulse);
    to_peer.farewell(from_peer, Some(&failed(why))).await;
}

/// Carries the command's output to the client, and returns the exit code.
async fn down(
    to_peer: &mut ToPeer<'_>,
    exec: &Exec,
    mut output: ExecOutput,
    has_terminal: bool,
) -> Result<Result<i64, EngineError>, End> {
    loop {
        tokio::select! {
            pinged = to_peer.ping() => pinged?,
            chunk = output.next() => match chunk {
                None => break,
                Some(Ok(chunk)) => to_peer.bytes(framed(chunk, has_terminal)).await?,
                Some(Err(error)) => return Ok(Err(error)),
            },
        }
    }
    // The code comes a moment after the last byte; a command that has closed its outputs may go on for long.
    let mut pause = Duration::from_millis(10);
    let mut answered = Instant::now();
    loop {
        match exec.exit_code().await {
            Ok(None) => answered = Instant::now(),
            Ok(Some(code)) => return Ok(Ok(code)),
            // A node or an engine that is away for a moment still has the code afterwards.
            Err(error) if may_know_later(&error) && answered.elapsed() < CODE_LIMIT => {}
            Err(error) => return Ok(Err(error)),
        }
        tokio::select! {
            pinged = to_peer.ping() => pinged?,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(CODE_EVERY);
    }
}

/// Returns whether an exit code may be learned although this look for it failed.
const fn may_know_later(error: &EngineError) -> bool {
    !matches!(error, EngineError::NotFound(_))
}

/// Without a terminal the first byte of a message says which output it is from, as the engine numbers them.
fn framed(chunk: LogChunk, has_terminal: bool) -> Bytes {
    if has_terminal {
        return chunk.bytes;
    }
    let source = match chunk.source {
        LogSource::Stdout => 1,
        LogSource::Stderr => 2,
    };
    [&[source], &chunk.bytes[..]].concat().into()
}

/// Carries the client's input to the command until the client is gone.
async fn up(from_peer: &mut FromPeer<'_>, exec: &Exec, input: ExecInput, pulse: &Pulse) -> End {
    // None when the command reads no more: what comes then is dropped.
    let mut input = Some(input);
    while let Some(said) = from_peer.next().await {
        match said {
            Said::Bytes(bytes) => {
                if let Some(open) = &mut input
                    && pulse.not_listening(open.write(&bytes)).await.is_err()
                {
                    input = None;
                }
            }
            Said::Text(text) => match serde_json::from_str(&text) {
                Ok(Word::Resize { rows, cols }) => resize(exec, TtySize { columns: cols, rows }).await,
                Ok(Word::Eof {}) => {
                    if let Some(open) = &mut input {
                        // One that reads no more needs no end.
                        let _ = open.finish().await;
                    }
                }
                Ok(Word::Start(_)) | Err(_) => {
                    tracing::debug!("an unknown word on a command's socket");
                }
            },
        }
    }
    End::PeerGone
}

async fn resize(exec: &Exec, size: TtySize) {
    if let Err(error) = exec.resize(size).await {
        tracing::debug!(%error, "a terminal did not get its new size");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<ExecRequest, String> {
        match serde_json::from_str(text) {
            Ok(Word::Start(start)) => start.check(),
            Ok(Word::Resize { .. } | Word::Eof {}) => Err("another word".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn an_exit_code_is_given_up_only_where_the_engine_does_not_know_the_command() {
        assert!(!may_know_later(&EngineError::NotFound("no such exec instance".into())));
        assert!(may_know_later(&EngineError::Down("reset".into())));
        assert!(may_know_later(&EngineError::TimedOut("inspect exec")));
    }

    #[test]
    fn the_first_word_says_what_to_run() {
        let plain = checked(r#"{"type":"start","command":["id"]}"#).unwrap();
        assert_eq!((plain.command, plain.terminal, plain.stdin), (vec!["id".to_owned()], None, true));
        let full = r#"{"type":"start","command":["sh"],"tty":true,"rows":50,"cols":100,"term":"vt100","env":{"A":"b"}}"#;
        let full = checked(full).unwrap();
        let size = TtySize { columns: 100, rows: 50 };
        assert_eq!(full.terminal, Some(Terminal { size, term: "vt100".into() }));
        for wrong in [
            r#"{"type":"start"}"#,
            r#"{"type":"start","command":[]}"#,
            r#"{"type":"start","command":[""]}"#,
            r#"{"type":"start","command":["a\u0000"]}"#,
            r#"{"type":"start","command":["a"],"env":{"A=B":"c"}}"#,
            r#"{"type":"start","command":["a"],"user":"root"}"#,
            r#"{"type":"begin","command":["a"]}"#,
            r#"{"type":"resize","rows":70000,"cols":1}"#,
        ] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
    }
}
