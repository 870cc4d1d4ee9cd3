//! `forward`: local ports that lead to a container.

use super::{container_argument, path_of};
use crate::{
    client::{Client, WebSocket},
    commands::leases::{find_id, lease_argument},
    context::Context,
    error::{CliError, Kind},
    model::{Container, shape},
    output::note,
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::sleep,
};
use tokio_tungstenite::tungstenite::Message;

/// Largest number of bytes that are sent at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// Pause after a connection that could not be accepted, for instance because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The arguments of `orion forward`.
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    /// Local address to listen at
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
    /// The container's name
    #[arg(value_parser = container_argument)]
    container: String,
    /// Local port (0: any) and port in the container, or one for both
    #[arg(required = true, value_name = "PORT[:PORT]", value_parser = ports)]
    ports: Vec<(u16, u16)>,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    match (local.parse(), remote.parse()) {
        (Ok(local), Ok(remote)) if remote > 0 => Ok((local, remote)),
        (_, _) => Err("is given as PORT or LOCALPORT:PORT, such as 8080:80".into()),
    }
}

/// Listens at local ports, and carries each connection to the container, until Ctrl-C.
///
/// # Errors
/// Those of the API; when a port is in use.
pub async fn run(context: &Context, args: ForwardArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let path = path_of(find_id(&client, &args.lease).await?, &args.container);
    let container: Container = shape(&client.get(&path).await?, "container")?;
    if container.state != "running" {
        let state = container.state;
        return Err(CliError::new(Kind::Unavailable, format!("{} is {state}", args.container)));
    }
    let client = Arc::new(client);
    let mut listeners = JoinSet::new();
    for (local, remote) in args.ports {
        let bound = TcpListener::bind((args.address, local)).await;
        let listener = bound.map_err(|error| {
            CliError::failed(format!("cannot listen at {}:{local}: {error}", args.address))
        })?;
        if let Ok(at) = listener.local_addr() {
            note(&format!("{at} leads to port {remote} of {}; Ctrl-C ends it", args.container));
        }
        listeners.spawn(accept(listener, Arc::clone(&client), format!("{path}/forward?port={remote}")));
    }
    match listeners.join_next().await {
        Some(Ok(never)) => match never {},
        Some(Err(_)) | None => Err(CliError::failed("the listener failed")),
    }
}

async fn accept(listener: TcpListener, client: Arc<Client>, path: String) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (client, path) = (Arc::clone(&client), path.clone());
                    connections.spawn(async move {
                        if let Err(error) = carry(&client, &path, stream).await {
                            note(&error.to_string());
                        }
                    });
                }
                Err(error) => {
                    note(&format!("a connection cannot be accepted: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end.
async fn carry(client: &Client, path: &str, stream: TcpStream) -> Result<(), CliError> {
    // A socket that refuses this is still a socket.
    let _ = stream.set_nodelay(true);
    let socket = client.websocket(path).await?;
    let (sink, from_api) = socket.split();
    let (read, write) = stream.into_split();
    tokio::select! {
        ended = down(from_api, write) => ended,
        () = up(sink, read) => Ok(()),
    }
}

async fn down(mut from_api: SplitStream<WebSocket>, mut write: OwnedWriteHalf) -> Result<(), CliError> {
    while let Some(Ok(message)) = from_api.next().await {
        match message {
            Message::Binary(bytes) => {
                // A program that is gone hears nothing, and what it sent is known to be over.
                if write.write_all(&bytes).await.is_err() {
                    return Ok(());
                }
            }
            Message::Text(text) => {
                let word: Value = serde_json::from_str(&text).unwrap_or_default();
                if let Some(detail) = word["detail"].as_str() {
                    return Err(CliError::failed(detail.to_owned()));
                }
                if word["type"] == "eof" {
                    // As above.
                    let _ = write.shutdown().await;
                }
            }
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    // The API says with a close that all was carried.
    Err(CliError::failed("a connection to the container was lost"))
}

/// Returns when the program broke its connection; after its last byte it may still read.
async fn up(mut sink: SplitSink<WebSocket, Message>, mut read: OwnedReadHalf) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let message = match read.read(&mut buffer).await {
            Ok(count @ 1..) => Message::Binary(buffer.get(..count).unwrap_or_default().to_vec().into()),
            Ok(0) => Message::Text(json!({ "type": "eof" }).to_string().into()),
            Err(_) => return,
        };
        let is_last = message.is_text();
        if sink.send(message).await.is_err() || is_last {
            // The other direction says when all is over.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_another_one_here() {
        assert_eq!(ports("80"), Ok((80, 80)));
        assert_eq!(ports("0:80"), Ok((0, 80)));
        for wrong in ["", "0", "x", "80:", "1:2:3", "8080:0", "70000"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
