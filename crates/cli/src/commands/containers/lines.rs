//! Replies that are streams of JSON lines.

use crate::{client::Client, error::CliError};
use reqwest::Response;
use serde_json::Value;

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A stream of JSON lines that is read.
pub struct Lines {
    reply: Response,
    rest: Vec<u8>,
    what: &'static str,
}

impl Lines {
    /// Opens the stream at `path`; `what` names it in errors.
    ///
    /// # Errors
    /// Those of the API.
    pub async fn open(client: &Client, path: &str, what: &'static str) -> Result<Self, CliError> {
        Ok(Self { reply: client.stream(path, None).await?, rest: Vec::new(), what })
    }

    /// Returns the next line; none at the end.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is not JSON.
    pub async fn next(&mut self) -> Result<Option<Value>, CliError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = serde_json::from_slice(&line).map_err(|error| self.strange(&error))?;
                return Ok(Some(line));
            }
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(self.strange(&"a line without an end"));
            }
            let piece = self.reply.chunk().await;
            match piece.map_err(|error| CliError::failed(format!("the {} broke off: {error}", self.what)))? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    fn strange(&self, why: &dyn std::fmt::Display) -> CliError {
        CliError::failed(format!("the {} is not as the API says: {why}", self.what))
    }
}
