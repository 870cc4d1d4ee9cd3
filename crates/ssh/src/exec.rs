//! One command on one channel: its input, its output up to a bound, its exit status, in a limited time.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Kind, SshError, Stage};

/// A command to run. `Debug` shows neither the command's input nor its length in secrets, only a byte count.
#[derive(Clone)]
pub struct ExecRequest {
    /// Command for the login shell of root. Visible to every user of the node: no secrets.
    pub command: String,
    /// The command's standard input, then end of file. Zeroized on drop.
    pub stdin: Vec<u8>,
    /// Limit for the place on the node, the channel and the command together; a dial that is needed first has
    /// its own limits. A command that still runs on the node after that continues: wrap it in `timeout -k`.
    pub timeout: Duration,
    /// Bound on each of stdout and stderr, in bytes; what comes after it is read and thrown away.
    pub output_max_bytes: usize,
}

impl ExecRequest {
    /// A command without input; 30 s; at most 64 KiB of each output.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(30),
            output_max_bytes: 64 * 1024,
        }
    }
}

impl Drop for ExecRequest {
    fn drop(&mut self) {
        self.stdin.zeroize();
    }
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRequest")
            .field("command", &self.command)
            .field("stdin", &format_args!("<{} bytes>", self.stdin.len()))
            .field("timeout", &self.timeout)
            .field("output_max_bytes", &self.output_max_bytes)
            .finish()
    }
}

/// Result of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// The exit status; 128 + number where a signal ended it (255 for one without a number here).
    pub status: u32,
    /// Standard output, at most `output_max_bytes`.
    pub stdout: Vec<u8>,
    /// Standard error, at most `output_max_bytes`.
    pub stderr: Vec<u8>,
    /// Whether more came on stdout than was kept.
    pub stdout_truncated: bool,
    /// Whether more came on stderr than was kept.
    pub stderr_truncated: bool,
    /// The command ended but something it left in the background holds its output open; what that writes is lost.
    pub output_left_open: bool,
}

impl ExecOutput {
    /// Exit status 0.
    pub fn is_success(&self) -> bool {
        self.status == 0
    }
}

/// Time limit of closing the channel, which only queues a message.
const CLOSE_LIMIT: Duration = Duration::from_millis(100);

/// Input is sent in pieces of this size: russh keeps buffers as large as what it ever had to send at once, for as long as
/// the session lives.
const PIECE_BYTES: usize = 4 * 1024;

/// Sends the input and reads to the end. The command was already sent on `channel`.
pub(crate) async fn follow(
    channel: Channel<Msg>,
    stdin: Zeroizing<Vec<u8>>,
    output_max_bytes: usize,
    limit: Duration,
    output_grace: Duration,
) -> Result<ExecOutput, SshError> {
    let deadline = Instant::now() + limit;
    let (mut read, write) = channel.split();
    // Input and output at once: a command that writes before it has read all would block both sides.
    let writing = async {
        let mut rest = Bytes::from_owner(stdin);
        while !rest.is_empty() {
            write.data_bytes(rest.split_to(rest.len().min(PIECE_BYTES))).await?;
            if !rest.is_empty() {
                // So that the session's task sends the piece before it takes the next one.
                tokio::task::yield_now().await;
            }
        }
        write.eof().await
    };
    tokio::pin!(writing);
    let mut written = false;
    let mut output = ExecOutput::default();
    let mut status = None;
    loop {
        let until = if status.is_some() { deadline.min(Instant::now() + output_grace) } else { deadline };
        let message = tokio::select! {
            // A failure to write shows on the reading side too, with more to say.
            _ = &mut writing, if !written => { written = true; continue; }
            message = timeout_at(until, read.wait()) => message,
        };
        match message {
            Ok(Some(message)) => match take(message, &mut output, output_max_bytes) {
                Step::More => {}
                Step::Status(code) => status = Some(code),
                Step::End => break,
                Step::Refused => {
                    close(&write).await;
                    let kind = Kind::Protocol("the server refused to start the command".into());
                    return Err(SshError::new(Stage::Exec, kind));
                }
            },
            Ok(None) => break,
            Err(_elapsed) => {
                close(&write).await;
                if status.is_none() {
                    return Err(SshError::new(Stage::Exec, Kind::TimedOut));
                }
                output.output_left_open = true;
                break;
            }
        }
    }
    output.status = status.ok_or_else(|| SshError::new(Stage::Exec, Kind::OutcomeUnknown))?;
    Ok(output)
}

async fn close(write: &ChannelWriteHalf<Msg>) {
    // The session may be gone or stuck; it is retired by the caller where that matters.
    let _ = timeout(CLOSE_LIMIT, write.close()).await;
}

enum Step {
    More,
    Status(u32),
    End,
    Refused,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is non-exhaustive and shared with the server side; the rest says nothing to a command"
)]
fn take(message: ChannelMsg, output: &mut ExecOutput, max: usize) -> Step {
    match message {
        ChannelMsg::Data { data } => keep(&mut output.stdout, &mut output.stdout_truncated, &data, max),
        ChannelMsg::ExtendedData { data, ext: 1 } => {
            keep(&mut output.stderr, &mut output.stderr_truncated, &data, max);
        }
        ChannelMsg::ExitStatus { exit_status } => return Step::Status(exit_status),
        ChannelMsg::ExitSignal { signal_name, .. } => return Step::Status(signal_status(&signal_name)),
        ChannelMsg::Close => return Step::End,
        ChannelMsg::Failure => return Step::Refused,
        _ => {}
    }
    Step::More
}

fn keep(kept: &mut Vec<u8>, truncated: &mut bool, data: &[u8], max: usize) {
    let room = max.saturating_sub(kept.len());
    *truncated |= data.len() > room;
    kept.extend_from_slice(data.get(..room).unwrap_or(data));
}

/// Returns the exit status that a shell reports for the signal.
fn signal_status(signal: &Sig) -> u32 {
    let number = match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => 127,
    };
    128 + number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_input() {
        let mut request = ExecRequest::new("cat");
        request.stdin = b"hunter2".to_vec();
        let shown = format!("{request:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        assert!(shown.contains("<7 bytes>"), "{shown}");
    }

    #[test]
    fn output_is_kept_up_to_the_bound_and_not_a_byte_more() {
        let (mut kept, mut truncated) = (Vec::new(), false);
        keep(&mut kept, &mut truncated, b"abc", 5);
        assert!(!truncated);
        keep(&mut kept, &mut truncated, b"de", 5);
        assert!(!truncated, "exactly the bound is not too much");
        keep(&mut kept, &mut truncated, b"f", 5);
        assert!(truncated);
        assert_eq!(kept, b"abcde");
    }
}
