//! Logs of a container, standard output and standard error apart.

use super::{Engine, Pace};
use crate::{
    EngineError,
    http::{ByteBody, Call, escaped},
};
use bytes::{Buf, Bytes, BytesMut};

/// Header of a frame: which stream, three zeros, and the length.
const HEADER_BYTES: usize = 8;
/// Largest number of lines that [`Engine::last_lines`] reads.
const LINES_MAX: u32 = 1_000;
/// Largest number of bytes that [`Engine::last_lines`] keeps.
const LAST_BYTES_MAX: usize = 1024 * 1024;

/// Stream that a piece of a log is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a log; not always whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Its stream.
    pub source: LogSource,
    /// Output as the container wrote it.
    pub bytes: Bytes,
}

/// What is read of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on with what is written later.
    pub follow: bool,
    /// So many of the last lines; all where none is given.
    pub tail: Option<u32>,
    /// Only what was written at or after this time: seconds since 1970, with a fraction, in the node's time.
    pub since: Option<String>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
}

impl LogOptions {
    fn query(&self) -> String {
        let flag = |on: bool| if on { "1" } else { "0" };
        let mut query =
            format!("stdout=1&stderr=1&follow={}&timestamps={}", flag(self.follow), flag(self.timestamps));
        if let Some(tail) = self.tail {
            query = format!("{query}&tail={tail}");
        }
        if let Some(since) = &self.since {
            query = format!("{query}&since={}", escaped(since));
        }
        query
    }
}

/// A log that is read. Its reader may be slow: the engine waits for it.
pub struct LogStream {
    body: ByteBody,
    frames: Frames,
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream").finish_non_exhaustive()
    }
}

impl LogStream {
    /// Returns the next piece; none at the end.
    pub async fn next(&mut self) -> Option<Result<LogChunk, EngineError>> {
        loop {
            match self.frames.next() {
                Ok(Some(chunk)) => return Some(Ok(chunk)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            match self.body.next().await? {
                Ok(data) => self.frames.add(data),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Takes the frames of two streams in one apart. Pieces are handed on as they come, so that a frame of any length needs
/// no more room than what has come of it.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    /// Source of the frame that is being read, and the bytes of it that are still to come.
    current: Option<(LogSource, usize)>,
}

impl Frames {
    pub(super) fn add(&mut self, data: Bytes) {
        self.buffer.extend_from_slice(&data);
    }

    pub(super) fn next(&mut self) -> Result<Option<LogChunk>, EngineError> {
        loop {
            if let Some((source, left)) = self.current {
                let taken = left.min(self.buffer.len());
                self.current = (taken < left).then_some((source, left - taken));
                if taken > 0 {
                    return Ok(Some(LogChunk { source, bytes: self.buffer.split_to(taken).freeze() }));
                }
                if left > 0 {
                    return Ok(None);
                }
                continue;
            }
            let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
            let [stream, 0, 0, 0, length @ ..] = header else {
                return Err(EngineError::Nonsense("to 'logs': no header of a frame".into()));
            };
            let source = match stream {
                0 | 1 => LogSource::Stdout,
                2 => LogSource::Stderr,
                _ => return Err(EngineError::Nonsense(format!("to 'logs': the stream {stream}"))),
            };
            self.buffer.advance(HEADER_BYTES);
            self.current = Some((source, usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)));
        }
    }
}

impl Engine {
    /// Opens the log of a container, on a session of its own.
    ///
    /// # Errors
    /// [`EngineError::Local`] where too many streams of the node are open.
    pub async fn logs(&self, id: &str, options: &LogOptions) -> Result<LogStream, EngineError> {
        let call = Call::get(format!("/containers/{}/logs?{}", escaped(id), options.query()), "logs");
        let body = self.stream(&call, Pace::Readers).await?;
        Ok(LogStream { body, frames: Frames::default() })
    }

    /// Reads the last lines of a log, both streams in one, over a kept connection; at most 1,000 lines and 1 MiB.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn last_lines(&self, id: &str, lines: u32) -> Result<Vec<LogChunk>, EngineError> {
        let options = LogOptions { tail: Some(lines.min(LINES_MAX)), ..LogOptions::default() };
        let call = Call::get(format!("/containers/{}/logs?{}", escaped(id), options.query()), "logs");
        let mut frames = Frames::default();
        frames.add(self.call(call).await?);
        let mut chunks: Vec<LogChunk> = Vec::new();
        while let Some(chunk) = frames.next()? {
            chunks.push(chunk);
        }
        let mut bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let mut first = 0;
        while let Some(chunk) = chunks.get(first).filter(|_| bytes > LAST_BYTES_MAX) {
            bytes -= chunk.bytes.len();
            first += 1;
        }
        chunks.drain(..first);
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], text].concat()
    }

    #[test]
    fn two_streams_in_one_are_taken_apart_however_they_are_cut() {
        let whole = [frame(1, b"out\n"), frame(2, b""), frame(2, b"err\n"), frame(1, b"more")].concat();
        for cut in 1..whole.len() {
            let mut frames = Frames::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in whole.chunks(cut) {
                frames.add(Bytes::copy_from_slice(piece));
                while let Some(chunk) = frames.next().unwrap() {
                    match chunk.source {
                        LogSource::Stdout => out.extend_from_slice(&chunk.bytes),
                        LogSource::Stderr => err.extend_from_slice(&chunk.bytes),
                    }
                }
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"out\nmore"[..], &b"err\n"[..]), "{cut}");
        }
    }

    #[test]
    fn what_is_no_frame_is_nonsense() {
        for wrong in [&b"plain text of a tty"[..], &[3, 0, 0, 0, 0, 0, 0, 1, b'x']] {
            let mut frames = Frames::default();
            frames.add(Bytes::copy_from_slice(wrong));
            assert!(matches!(frames.next(), Err(EngineError::Nonsense(_))));
        }
    }
}
