//! An HTTP server that answers by a script, remembers what it was asked, and can lose connections.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// `POST /api/rent`
    pub line: String,
    headers: Vec<(String, String)>,
    /// Body as text.
    pub body: String,
}

impl Request {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// Reply of the script to a request.
pub enum Answer {
    /// A status and a JSON body.
    Json(u16, Value),
    /// The same with one more header.
    JsonWith(u16, Value, &'static str, String),
    /// A piece of an event stream; then the connection ends.
    Events(&'static str),
    /// No reply: the connection ends as if the network had failed.
    Lost,
}

/// See the module.
pub struct FakeApi {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl FakeApi {
    /// A server that gives each request, with the number of those before it, to `script`.
    pub fn start(script: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(request) = read(&stream) {
                    let before = {
                        let mut log = log.lock().expect("the log");
                        log.push(request.clone());
                        log.len() - 1
                    };
                    answer(&stream, script(&request, before));
                }
            }
        });
        Self { address, seen }
    }

    /// A server that answers all requests alike.
    pub fn always(status: u16, body: Value) -> Self {
        Self::start(move |_, _| Answer::Json(status, body.clone()))
    }

    /// Returns the server's address, as a user writes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests received so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("the log").clone()
    }

    /// The request lines of [`FakeApi::seen`].
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|request| request.line).collect()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let line = format!("{} {}", words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(Some(0), |(_, v)| v.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, headers, body: String::from_utf8(body).ok()? })
}

fn answer(mut stream: &TcpStream, answer: Answer) {
    let (status, kind, more, body) = match answer {
        Answer::Json(status, body) => (status, "application/json", String::new(), body.to_string()),
        Answer::JsonWith(status, body, name, value) => {
            (status, "application/json", format!("{name}: {value}\r\n"), body.to_string())
        }
        Answer::Events(text) => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
            return;
        }
        Answer::Lost => return,
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n",
        body.len()
    );
    // A client that is gone is what some tests are about.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
