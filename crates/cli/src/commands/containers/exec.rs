//! `exec`: a command in a container, with the user's terminal or in a pipe.

use super::{
    container_argument, path_of,
    terminal::{Raw, size},
    variable,
};
use crate::{
    client::WebSocket,
    commands::leases::{find_id, lease_argument},
    context::Context,
    error::{CliError, Kind},
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Map, Value, json};
use std::{
    io::{Read as _, Write, stderr, stdin, stdout},
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::spawn_blocking,
    time::interval,
};
use tokio_tungstenite::tungstenite::Message;

/// Largest number of bytes of input that are sent at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// Interval of the signs of life to the API: while output is not taken, its pings are not answered.
const LIFE_EVERY: Duration = Duration::from_secs(15);

/// The arguments of `orion exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// An environment variable; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
    /// The container's name
    #[arg(value_parser = container_argument)]
    container: String,
    /// The command
    #[arg(last = true, value_name = "COMMAND", default_value = "sh")]
    command: Vec<String>,
}

type Sink = SplitSink<WebSocket, Message>;

/// Runs a command in a container; its exit status becomes this process's.
///
/// # Errors
/// Those of the API; [`Kind::Command`] with the exit status of the command, if that is not 0.
pub async fn run(context: &Context, args: ExecArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let id = find_id(&client, &args.lease).await?;
    let socket = client.websocket(&format!("{}/exec", path_of(id, &args.container))).await?;
    let (mut sink, stream) = socket.split();
    let signals = Signals::listen()?;
    let raw = if args.tty { Raw::enter(args.interactive)? } else { None };
    let (rows, cols) = size();
    let env: Map<String, Value> =
        args.env.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    let start = json!({
        "type": "start", "command": args.command, "tty": args.tty, "stdin": args.interactive,
        "rows": rows, "cols": cols, "term": term.unwrap_or_else(|| "xterm".into()), "env": env,
    });
    sink.send(text(&start)).await.map_err(|_| lost())?;
    let ended = tokio::select! {
        ended = down(stream, args.tty) => ended,
        ended = up(&mut sink, args.interactive, args.tty) => ended,
        ended = signals.stopped() => ended,
    };
    drop(raw);
    match ended? {
        0 => Ok(()),
        code => Err(CliError::new(Kind::Command(code), "")),
    }
}

fn lost() -> CliError {
    CliError::failed("the connection was lost; the command was ended")
}

fn text(word: &Value) -> Message {
    Message::Text(word.to_string().into())
}

fn listen_for(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|error| CliError::failed(format!("cannot wait for signals: {error}")))
}

/// The signals that end a process: the terminal is given back as it was before.
struct Signals {
    term: Signal,
    hup: Signal,
    int: Signal,
    quit: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        Ok(Self {
            term: listen_for(SignalKind::terminate())?,
            hup: listen_for(SignalKind::hangup())?,
            int: listen_for(SignalKind::interrupt())?,
            quit: listen_for(SignalKind::quit())?,
        })
    }

    /// Waits for the first of them.
    async fn stopped(mut self) -> Result<u8, CliError> {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.hup.recv() => {}
            _ = self.int.recv() => {}
            _ = self.quit.recv() => {}
        }
        Err(CliError::new(Kind::Interrupted, "stopped by a signal"))
    }
}

/// Writes what the command writes, to its end; its exit status.
async fn down(mut stream: SplitStream<WebSocket>, tty: bool) -> Result<u8, CliError> {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) if tty => write(stdout(), bytes.to_vec()).await?,
            Message::Binary(bytes) => match bytes.split_first() {
                Some((1, bytes)) => write(stdout(), bytes.to_vec()).await?,
                Some((_, bytes)) => write(stderr(), bytes.to_vec()).await?,
                None => {}
            },
            Message::Text(text) => {
                let word: Value = serde_json::from_str(&text).unwrap_or_default();
                if word["type"] == "exit" {
                    return Ok(exit_status(&word));
                }
                let detail = word["detail"].as_str().unwrap_or("the command ended");
                return Err(CliError::failed(detail.to_owned()));
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    Err(lost())
}

fn exit_status(word: &Value) -> u8 {
    let code = word["exit_code"].as_i64().unwrap_or(1);
    // What a shell keeps of it.
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// Writes; while that waits for its reader, signs of life are sent.
async fn write(mut to: impl Write + Send + 'static, bytes: Vec<u8>) -> Result<(), CliError> {
    let written = spawn_blocking(move || to.write_all(&bytes).and_then(|()| to.flush())).await;
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(CliError::new(Kind::ReaderGone, "nobody reads the output any more")),
    }
}

/// Standard input in pieces, read by a thread of its own: a read that waits cannot be given up.
fn input() -> mpsc::Receiver<Vec<u8>> {
    let (pieces, received) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = stdin().read(&mut buffer) {
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            if pieces.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    received
}

/// Sends input, sizes of the terminal and signs of life. It does not end but by an error: when nothing can be sent any more,
/// the last word may still be read.
async fn up(sink: &mut Sink, interactive: bool, tty: bool) -> Result<u8, CliError> {
    send_all(sink, interactive, tty).await?;
    std::future::pending().await
}

/// Returns when nothing can be sent any more.
async fn send_all(sink: &mut Sink, interactive: bool, tty: bool) -> Result<(), CliError> {
    let mut sizes = listen_for(SignalKind::window_change())?;
    let mut life = interval(LIFE_EVERY);
    let mut input = interactive.then(input);
    loop {
        let message = tokio::select! {
            _ = sizes.recv(), if tty => {
                let (rows, cols) = size();
                text(&json!({ "type": "resize", "rows": rows, "cols": cols }))
            }
            _ = life.tick() => Message::Pong(Vec::new().into()),
            piece = next_of(&mut input) => match piece {
                Some(bytes) => Message::Binary(bytes.into()),
                None => {
                    input = None;
                    text(&json!({ "type": "eof" }))
                }
            },
        };
        if sink.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// Returns the next piece of input; never where there is none.
async fn next_of(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_status_is_what_a_shell_would_see() {
        for (code, status) in [(0, 0), (6, 6), (137, 137), (256, 0), (-1, 255)] {
            assert_eq!(exit_status(&json!({ "type": "exit", "exit_code": code })), status);
        }
        assert_eq!(exit_status(&json!({ "type": "exit" })), 1);
    }
}
