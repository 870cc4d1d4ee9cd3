//! Connections to the ports of containers.

use super::Engine;
use crate::{
    EngineError,
    http::{Call, escaped},
    route::of_open,
};
use orion_ssh::{Endpoint, NodeStream};
use serde::Deserialize;
use std::{collections::HashMap, net::IpAddr, time::Duration};
use tokio::{io::AsyncReadExt as _, time::timeout};

/// Longest that a connection may take.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: Option<HashMap<String, Network>>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(default, rename = "IPAddress")]
    address: String,
}

/// Connects the standard input and output of a command of the node to a port, where sshd does not: it says `+` when it is
/// connected and `-` when it is refused, and nothing where the node has no program for it.
///
/// One process carries each direction. The one that carries to the client alone holds the output open, so that the client
/// learns the container's end; it sees by `poll` that sshd has closed the output, and ends both.
fn dial_command(address: IpAddr, port: u16) -> String {
    let perl = format!(
        "use IO::Handle; use IO::Socket::INET; use Socket; \
         $s = IO::Socket::INET->new(PeerAddr => \"{address}\", PeerPort => {port}, Timeout => 5); \
         sub all {{ my $o = shift; my $n = 0; while ($n < length $_[0]) {{ \
         my $w = syswrite($o, $_[0], length($_[0]) - $n, $n); exit unless $w; $n += $w }} }} \
         unless ($s) {{ all(*STDOUT, \"-\"); exit }} setsockopt($s, SOL_SOCKET, SO_KEEPALIVE, 1); all(*STDOUT, \"+\"); \
         $p = $$; $c = fork; exit unless defined $c; \
         if ($c) {{ close STDOUT; close STDERR; while (sysread(STDIN, $b, 32768)) {{ all($s, $b) }} \
         shutdown($s, 1); waitpid($c, 0); exit }} \
         close STDIN; close STDERR; \
         sub gone {{ kill(9, $p) if getppid == $p; exit }} $SIG{{PIPE}} = sub {{ gone() }}; \
         for (;;) {{ @f = (fileno($s), 1, fileno(STDOUT), 0); IO::Poll::_poll(-1, @f); gone() if $f[3]; \
         sysread($s, $b, 32768) or last; all(*STDOUT, $b) }} shutdown(STDOUT, 1)"
    );
    format!("exec sh -c 'command -v perl >/dev/null || exit 0; exec perl -e \"$0\"' '{perl}'")
}

impl Engine {
    /// Returns the address of a container that runs, in the network that its node reaches.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where it does not run, or has no network.
    pub async fn address(&self, id: &str) -> Result<IpAddr, EngineError> {
        let call = Call::get(format!("/containers/{}/json", escaped(id)), "inspect container");
        let found: Inspected = self.ask(call).await?;
        if !found.state.running {
            return Err(EngineError::Conflict("the container does not run".into()));
        }
        let mut networks = found.network_settings.networks.unwrap_or_default().into_values();
        let address = networks.find_map(|network| network.address.parse().ok());
        address.ok_or_else(|| EngineError::Conflict("the container has no network".into()))
    }

    /// Connects to a port of a container, on a session of its own: through sshd, or by a program of the node where sshd
    /// forwards no connections.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where nobody listens at it, or the container does not run.
    pub async fn dial(&self, id: &str, port: u16) -> Result<NodeStream, EngineError> {
        let address = self.address(id).await?;
        let target = &self.known.target;
        let endpoint = Endpoint::Tcp(address, port);
        let stream = match self.pool.open_own_stream(target, &endpoint, DIAL_LIMIT).await {
            Ok(stream) => stream,
            Err(error) if error.is_forwarding_shut() => {
                let endpoint = Endpoint::Command(dial_command(address, port));
                let opened = self.pool.open_own_stream(target, &endpoint, DIAL_LIMIT).await;
                connected(opened.map_err(of_open)?, port).await?
            }
            Err(error) if error.is_channel_refused() => return Err(refused(port)),
            Err(error) => return Err(of_open(error)),
        };
        // It may have ended meanwhile, and its address be another's.
        if self.address(id).await? != address {
            return Err(EngineError::Conflict("the container was started anew meanwhile".into()));
        }
        Ok(stream)
    }
}

fn refused(port: u16) -> EngineError {
    EngineError::Conflict(format!("nobody listens at port {port} of the container"))
}

/// Reads what the program on the node says of the connection.
async fn connected(mut stream: NodeStream, port: u16) -> Result<NodeStream, EngineError> {
    match timeout(DIAL_LIMIT, stream.read_u8()).await {
        Err(_elapsed) => Err(EngineError::TimedOut("dial")),
        Ok(Ok(b'+')) => Ok(stream),
        Ok(Ok(b'-')) => Err(refused(port)),
        Ok(Ok(_) | Err(_)) => Err(EngineError::Local(
            "the node's sshd forwards no connections (AllowTcpForwarding, PermitOpen), and it has no perl to do it".into(),
        )),
    }
}
