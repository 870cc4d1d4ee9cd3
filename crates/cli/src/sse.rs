//! Server-sent events, from bytes to fields.
//!
//! Lives here: the parser of the event stream format (WHATWG HTML, 9.2.6). Does not live here: connecting,
//! reconnecting, showing.

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's kind; empty where the stream names none.
    pub event: String,
    /// The data lines, joined by newlines.
    pub data: String,
}

/// Element of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Message(Message),
    /// A comment line: the server's sign of life.
    Comment,
}

/// The state between two pieces of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    last_event_id: Option<String>,
    retry_ms: Option<u64>,
}

impl Parser {
    /// A parser that resumes behind `last_event_id`.
    pub fn resuming(last_event_id: Option<String>) -> Self {
        Self { last_event_id, ..Self::default() }
    }

    /// The id of the last event that was complete: what `Last-Event-ID` should say at the next connection.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Returns the delay before a reconnection that the server asks for, in milliseconds.
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Forgets a half-received event: the next bytes come from a new connection.
    pub fn restart(&mut self) {
        *self = Self { last_event_id: self.last_event_id.take(), retry_ms: self.retry_ms, ..Self::default() };
    }

    /// Takes in the next bytes and gives what they completed.
    ///
    /// # Errors
    /// When a line is longer than a mebibyte.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        for &byte in bytes {
            let second_half_of_crlf = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if second_half_of_crlf {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                let line = std::mem::take(&mut self.line);
                items.extend(self.end_line(&String::from_utf8_lossy(&line)));
            } else {
                self.line.push(byte);
                if self.line.len() > LINE_BYTES_MAX {
                    return Err(format!("an event line of more than {LINE_BYTES_MAX} bytes"));
                }
            }
        }
        Ok(items)
    }

    fn end_line(&mut self, line: &str) -> Option<Item> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => return Some(Item::Comment),
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry_ms = value.parse().ok().or(self.retry_ms),
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Item> {
        if let Some(id) = self.id.take() {
            self.last_event_id = Some(id);
        }
        let message =
            Message { event: std::mem::take(&mut self.event), data: std::mem::take(&mut self.data) };
        std::mem::take(&mut self.has_data).then_some(Item::Message(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: &str) -> Item {
        Item::Message(Message { event: event.into(), data: data.into() })
    }

    #[test]
    fn an_event_comes_out_whole_however_its_bytes_are_cut() {
        let stream =
            "id: 7\r\nevent: lease.moved\r\ndata: {\"a\":\"ü\"}\r\n\r\n: beat\n\nid:8\ndata:x\ndata: y\n\n"
                .as_bytes();
        for size in [1, 2, 3, 7, stream.len()] {
            let mut parser = Parser::default();
            let items: Vec<Item> =
                stream.chunks(size).flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(
                items,
                [message("lease.moved", "{\"a\":\"ü\"}"), Item::Comment, message("", "x\ny")],
                "cut into pieces of {size}"
            );
            assert_eq!(parser.last_event_id(), Some("8"));
        }
    }

    #[test]
    fn an_event_that_was_cut_off_does_not_count_as_seen() {
        let mut parser = Parser::resuming(Some("3".into()));
        assert_eq!(parser.feed(b"id: 4\ndata: half").unwrap(), []);
        parser.restart();
        assert_eq!(parser.last_event_id(), Some("3"));
        assert_eq!(parser.feed(b"id: 4\ndata: whole\n\n").unwrap(), [message("", "whole")]);
        assert_eq!(parser.last_event_id(), Some("4"));
    }

    #[test]
    fn an_id_without_data_moves_the_position_and_shows_nothing() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"retry: 250\nid: 12\n\n").unwrap(), []);
        assert_eq!((parser.last_event_id(), parser.retry_ms()), (Some("12"), Some(250)));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; LINE_BYTES_MAX + 1]).is_err());
    }
}
