//! Commands in a running container, with a terminal or without.

use super::{Engine, LogChunk, LogSource, Pace, logs::Frames};
use crate::{
    EngineError,
    http::{Call, error_of, escaped, read_whole},
};
use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    time::{Instant, sleep, timeout_at},
};

/// Largest number of bytes that are read of a command's output at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// Time that an engine may take from the start of a command to the number of its process.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest that the ending of a command on its node may take.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtySize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// Pseudo-terminal in which a command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Its size.
    pub size: TtySize,
    /// Its kind, `xterm-256color`.
    pub term: String,
}

/// A command to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command's words.
    pub command: Vec<String>,
    /// Its terminal; without one its two outputs stay apart.
    pub terminal: Option<Terminal>,
    /// Whether it gets input; without, it reads the end at once.
    pub stdin: bool,
    /// Variables beside those of the container.
    pub env: Vec<(String, String)>,
}

/// A command in a container: its size, its end.
pub struct Exec {
    engine: Engine,
    id: String,
    /// The engine's id of the container.
    container: String,
    /// Number of its process on the node; 0 while it is not known.
    pid: AtomicU32,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Input of a command.
pub struct ExecInput(WriteHalf<TokioIo<Upgraded>>);

/// Output of a command. It may be read slowly: the engine waits for its reader, and the command for the engine.
pub struct ExecOutput {
    io: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
    /// None with a terminal, whose output is one stream.
    frames: Option<Frames>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    running: bool,
    exit_code: Option<i64>,
    pid: Option<u32>,
    #[serde(rename = "ContainerID")]
    container: String,
}

impl Engine {
    /// Makes a command in a running container. It does not run yet.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where the container does not run.
    pub async fn exec(&self, container: &str, request: &ExecRequest) -> Result<Exec, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let term = request.terminal.iter().map(|terminal| format!("TERM={}", terminal.term));
        let env = request.env.iter().map(|(name, value)| format!("{name}={value}"));
        let body = json!({
            "AttachStdin": request.stdin,
            "AttachStdout": true,
            "AttachStderr": true,
            "Tty": request.terminal.is_some(),
            "Env": term.chain(env).collect::<Vec<_>>(),
            "Cmd": request.command,
        });
        let path = format!("/containers/{}/exec", escaped(container));
        let created: Created = self.ask(Call::post(path, "exec").json(body)).await?;
        Ok(Exec {
            engine: self.clone(),
            id: created.id,
            container: container.to_owned(),
            pid: AtomicU32::new(0),
        })
    }

    /// Takes a command that was made earlier, by its id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn exec_of(&self, id: &str) -> Result<Exec, EngineError> {
        let found = self.inspect_exec(id).await?;
        let pid = AtomicU32::new(found.pid.unwrap_or(0));
        Ok(Exec { engine: self.clone(), id: id.to_owned(), container: found.container, pid })
    }

    async fn inspect_exec(&self, id: &str) -> Result<Inspected, EngineError> {
        self.ask(Call::get(format!("/exec/{}/json", escaped(id)), "inspect exec")).await
    }
}

impl Exec {
    /// Returns the engine's id of the command.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts the command, on a session of its own. After an error it may run, or begin later: [`Exec::end`] it.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn start(&self, terminal: Option<&Terminal>) -> Result<(ExecInput, ExecOutput), EngineError> {
        let call = Call::post(format!("/exec/{}/start", escaped(&self.id)), "start exec")
            .json(json!({ "Detach": false, "Tty": terminal.is_some() }));
        let until = Instant::now() + call.limit;
        let (connection, response) = self.engine.respond(&call, Pace::Readers, true, until).await?;
        if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
            let (status, body) = read_whole(response, until, call.what).await?;
            return Err(match status {
                200 => EngineError::Nonsense("to 'start exec': no upgrade of the connection".into()),
                _ => error_of(status, &body),
            });
        }
        connection.upgrade();
        let upgraded = match timeout_at(until, hyper::upgrade::on(response)).await {
            Err(_elapsed) => return Err(EngineError::TimedOut(call.what)),
            Ok(Err(error)) => return Err(crate::connection::broken(&error)),
            Ok(Ok(upgraded)) => upgraded,
        };
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        self.learn_pid().await?;
        if let Some(terminal) = terminal {
            self.resize(terminal.size).await?;
        }
        let frames = terminal.is_none().then(Frames::default);
        Ok((ExecInput(write), ExecOutput { io: read, buffer: BytesMut::new(), frames }))
    }

    /// Its process can be ended by its number while the engine hangs.
    async fn learn_pid(&self) -> Result<(), EngineError> {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            let found = self.engine.inspect_exec(&self.id).await?;
            if let Some(pid) = found.pid.filter(|pid| *pid > 1) {
                self.pid.store(pid, Ordering::Relaxed);
                return Ok(());
            }
            let has_ended = !found.running && found.exit_code.is_some();
            if has_ended || Instant::now() > until {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Gives the terminal another size.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn resize(&self, size: TtySize) -> Result<(), EngineError> {
        let path = format!("/exec/{}/resize?w={}&h={}", escaped(&self.id), size.columns, size.rows);
        match self.engine.call(Call::post(path, "resize exec")).await {
            // It has ended already.
            Ok(_) | Err(EngineError::NotFound(_) | EngineError::Conflict(_) | EngineError::Failed(_)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the command's exit code; none while it runs.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn exit_code(&self) -> Result<Option<i64>, EngineError> {
        let found = self.engine.inspect_exec(&self.id).await?;
        Ok(found.exit_code.filter(|_| !found.running))
    }

    /// Ends the command and what it began in its session, as when a terminal is closed: an engine leaves them running.
    /// Returns false where it has not begun yet, and may still.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn end(&self) -> Result<bool, EngineError> {
        let mut pid = self.pid.load(Ordering::Relaxed);
        if pid <= 1 {
            let found = match self.engine.inspect_exec(&self.id).await {
                Ok(found) => found,
                Err(EngineError::NotFound(_)) => return Ok(true),
                Err(error) => return Err(error),
            };
            pid = found.pid.unwrap_or(0);
            if pid <= 1 {
                return Ok(!found.running && found.exit_code.is_some());
            }
        }
        let mut request = orion_ssh::ExecRequest::new(end_command(pid, &self.container));
        request.timeout = END_LIMIT;
        let ended = self.engine.pool.exec(&self.engine.known.target, request).await;
        ended.map(|_| true).map_err(EngineError::Node)
    }
}

/// Returns a command that sends SIGHUP, and to what is left two seconds later SIGKILL, to a process and its session, where
/// they are in this container: the number may be another's by now. It begins no program for a process, of which a container
/// may have thousands.
fn end_command(pid: u32, container: &str) -> String {
    let container: String = container.chars().filter(char::is_ascii_alphanumeric).collect();
    // In /proc/PID/stat a name in parentheses, which may hold anything, is followed by state, parent, group and session.
    // Signal 0 asks whether any is left: the first that is found says so.
    format!(
        "exec sh -c 'each() {{ n=0; for d in /proc/[0-9]*; do p=${{d#/proc/}}; read -r l 2>/dev/null <$d/stat || continue; \
         set -- $1 ${{l##*) }}; [ \"$5\" = {pid} ] || [ $p = {pid} ] || continue; [ \"$2\" != Z ] || continue; \
         while read -r l; do case $l in *{container}*) n=1; kill -$1 $p 2>/dev/null; break;; esac; done \
         2>/dev/null <$d/cgroup; [ $1$n != 01 ] || break; done; }}; \
         clock() {{ read -r t l </proc/uptime; t=${{t%.*}}; }}; \
         each HUP; clock; until=$((t + 2)); while [ $n = 1 ]; do each 0; clock; [ $n = 1 ] && [ $t -lt $until ] || break; \
         sleep 0.1 || sleep 1; done; \
         [ $n = 0 ] || each KILL; :'"
    )
}

impl ExecInput {
    /// Writes to the command; returns when the engine has taken it.
    ///
    /// # Errors
    /// When the command reads no more.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Tells the command that nothing more comes. A terminal has no such end.
    ///
    /// # Errors
    /// When the command reads no more.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }
}

impl ExecOutput {
    /// Returns the next piece; none at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<LogChunk, EngineError>> {
        loop {
            match &mut self.frames {
                Some(frames) => match frames.next() {
                    Ok(Some(chunk)) => return Some(Ok(chunk)),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                },
                None if !self.buffer.is_empty() => {
                    let bytes = self.buffer.split().freeze();
                    return Some(Ok(LogChunk { source: LogSource::Stdout, bytes }));
                }
                None => {}
            }
            self.buffer.reserve(CHUNK_BYTES);
            match self.io.read_buf(&mut self.buffer).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(EngineError::Down(error.to_string()))),
            }
            if let Some(frames) = &mut self.frames {
                frames.add(self.buffer.split().freeze());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read as _,
        process::{Command, Stdio},
    };

    #[test]
    fn nothing_but_the_letters_of_an_id_gets_into_the_command() {
        let command = end_command(77, "ab12'; rm -rf /; *");
        assert!(command.contains("*ab12rmrf*") && command.contains("= 77 ]"), "{command}");
        assert_eq!(command.matches('\'').count(), 2, "{command}");
    }

    #[test]
    fn many_processes_that_ignore_a_hangup_are_ended_in_time() {
        const COUNT: usize = 500;
        let script = format!(
            "trap '' HUP; i=0; while [ $i -lt {COUNT} ]; do sleep 600 & i=$((i + 1)); done; echo up; wait"
        );
        let mut many = Command::new("setsid")
            .args(["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("setsid starts");
        let mut up = [0; 3];
        many.stdout.take().expect("a pipe").read_exact(&mut up).expect("it is up");
        let began = std::time::Instant::now();
        // No name of a container: every cgroup has it in its path.
        let ended = Command::new("sh").args(["-c", &end_command(many.id(), "")]).status().expect("sh starts");
        let took = began.elapsed();
        many.wait().expect("it is ours");
        assert!(ended.success() && took < END_LIMIT, "{ended}, {took:?}");
        let left = Command::new("ps").args(["-o", "stat=", "-s", &many.id().to_string()]).output();
        let left = String::from_utf8_lossy(&left.expect("ps starts").stdout).into_owned();
        // One that nobody has waited for yet has ended, too.
        assert!(left.lines().all(|state| state.trim().is_empty() || state.starts_with('Z')), "{left}");
    }
}
