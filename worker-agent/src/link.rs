//! The link to the control plane: one WebSocket that this node dials and beats on.
//!
//! Brings orders to [`crate::deadline`] and news of this machine to the control plane. Holds no state: a link
//! that ends is dialled anew by [`crate::service`].

use crate::{
    banner,
    config::Config,
    deadline::{Deadlines, Order},
    dial::{AGENT, DialError, Io, asked_pause},
    facts,
    register::{self, Registered, least_pause},
    state::Identity,
    watcher::Watcher,
    way_in::{Found, Proven},
};
use futures_util::{SinkExt as _, StreamExt as _};
use orion_domain::{
    agent::{BEAT_EVERY, BEATS_MISSED_MAX, FromAgent, ToAgent},
    node::{Facts, Gpu},
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::header, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

const PATH: &str = "/api/workers/link";
/// Longest wait for the control plane to take the link.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks at sshd's configuration.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause between those looks while no sshd has been told yet to trust the control plane.
const LOOK_UNTIL_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Number of those looks between two inventories of the machine; each new link begins with an inventory,
/// too.
const LOOKS_PER_INVENTORY: u32 = 10;
/// Largest message, in bytes: 10,000 leases would fit.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Reason for the end of a link.
#[derive(Debug)]
pub enum Ended {
    /// The agent is to stop.
    Stopped,
    /// The control plane does not know this node.
    RegisterAgain,
    /// Loss of the link, or failure to make one; the next is dialled after that pause at the earliest.
    Lost(String, Duration),
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the link broke: {0}")]
    Socket(#[from] Box<tungstenite::Error>),
    #[error("the control plane does not take the link: {0}")]
    NotTaken(String),
    #[error("too many requests for the control plane")]
    TooMany(Duration),
    #[error("the control plane does not know this node")]
    Unknown,
    #[error("the control plane closed the link")]
    Closed,
    #[error("no beat was acknowledged for {} s", (BEAT_EVERY * BEATS_MISSED_MAX).as_secs())]
    Silence,
    #[error("nothing can be sent")]
    Stalled,
}

impl From<tungstenite::Error> for LinkError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// Dials and holds the link until it ends. The second value says whether a beat was ever acknowledged.
pub async fn hold(
    config: &Config,
    registered: &mut Registered,
    deadlines: &Deadlines,
    watcher: &mut Watcher,
    way_in: &Found,
    stop: &CancellationToken,
) -> (Ended, bool) {
    let (socket, sshd_up) = tokio::select! {
        () = stop.cancelled() => return (Ended::Stopped, false),
        both = async { tokio::join!(dial(config, registered), watcher.sshd_answers()) } => both,
    };
    let mut link = match socket {
        Ok(socket) => Link {
            socket,
            seq: 0,
            acked: false,
            unacked_since: None,
            newest: i64::MIN,
            sshd_up_at: None,
            way_in: way_in.clone(),
        },
        Err(error) => return (ended(error), false),
    };
    let outcome = link.run(registered, deadlines, watcher, sshd_up, stop).await;
    let acked = link.acked;
    match outcome {
        Ok(()) => {
            let _ = timeout(Duration::from_secs(1), link.socket.close(None)).await;
            (Ended::Stopped, acked)
        }
        Err(error) => (ended(error), acked),
    }
}

fn ended(error: LinkError) -> Ended {
    match error {
        LinkError::Unknown => Ended::RegisterAgain,
        LinkError::TooMany(pause) => Ended::Lost(error.to_string(), pause),
        LinkError::Dial(_)
        | LinkError::Socket(_)
        | LinkError::NotTaken(_)
        | LinkError::Closed
        | LinkError::Silence
        | LinkError::Stalled => Ended::Lost(error.to_string(), Duration::ZERO),
    }
}

type Socket = WebSocketStream<Box<dyn Io>>;

async fn dial(config: &Config, registered: &Registered) -> Result<Socket, LinkError> {
    let mut request = config.api.websocket_url(PATH).into_client_request()?;
    let bearer = format!("Bearer {}", registered.identity.node_token.expose());
    let bearer =
        bearer.parse().map_err(|_| LinkError::NotTaken("the node token is no header value".into()))?;
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static(AGENT));
    if let Ok(boot_id) = facts::boot_id().parse() {
        request.headers_mut().insert(register::BOOT_ID, boot_id);
    }
    let limits = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = config.api.connect().await?;
    match timeout(DIAL_MAX, client_async_with_config(request, stream, Some(limits))).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(reply))) => match reply.status().as_u16() {
            401 | 403 | 410 => Err(LinkError::Unknown),
            429 => Err(LinkError::TooMany(least_pause(asked_pause(reply.headers())))),
            status => Err(LinkError::NotTaken(format!("it answers {status}"))),
        },
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(LinkError::NotTaken(format!("no answer within {} s", DIAL_MAX.as_secs()))),
    }
}

struct Link {
    socket: Socket,
    seq: u64,
    /// Whether any beat was acknowledged.
    acked: bool,
    unacked_since: Option<Instant>,
    /// Highest desired version that was taken over on this link.
    newest: i64,
    /// The last beat that said that sshd answers.
    sshd_up_at: Option<u64>,
    /// Result of the last probe of the way in.
    way_in: Found,
}

impl Link {
    /// Runs the link until the agent is to stop, or an error.
    async fn run(
        &mut self,
        registered: &mut Registered,
        deadlines: &Deadlines,
        watcher: &mut Watcher,
        mut sshd_up: bool,
        stop: &CancellationToken,
    ) -> Result<(), LinkError> {
        let hello =
            FromAgent::Hello { agent_version: env!("CARGO_PKG_VERSION").into(), boot_id: facts::boot_id() };
        self.send(&hello).await?;
        let mut kept = deadlines.kept.clone();
        kept.mark_changed();

        let mut beat = interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (sshd_tx, mut sshd_rx) = watch::channel(sshd_up);
        let addresses = watcher.sshd_addresses().to_vec();
        let probing = probe_forever(&addresses, &sshd_tx);
        let (facts_tx, mut facts_rx) = watch::channel(registered.facts.clone());
        let (identity, ip) = (registered.identity.clone(), registered.ip.clone());
        let gpus = registered.gpus.clone();
        let looking = look_forever(watcher, &identity, (&ip, &gpus), &facts_tx);
        tokio::pin!(probing, looking);

        loop {
            let silence_at = self.unacked_since.map(|since| since + BEAT_EVERY * BEATS_MISSED_MAX);
            tokio::select! {
                // In this order: an acknowledgement that waits to be read comes before the verdict of silence.
                biased;
                () = stop.cancelled() => return Ok(()),
                message = self.socket.next() => match message {
                    Some(message) => self.take(message?, deadlines)?,
                    None => return Err(LinkError::Closed),
                },
                () = sleep_until(silence_at.unwrap_or_else(Instant::now)), if silence_at.is_some() => {
                    return Err(LinkError::Silence);
                }
                _ = beat.tick() => self.beat(sshd_up).await?,
                Ok(()) = sshd_rx.changed() => {
                    sshd_up = *sshd_rx.borrow_and_update();
                    tracing::info!("this node's sshd {}", if sshd_up { "answers" } else { "does not answer" });
                    self.beat(sshd_up).await?;
                }
                Ok(()) = self.way_in.changed() => self.beat(sshd_up).await?,
                Ok(()) = kept.changed() => {
                    let now = kept.borrow_and_update().iter().map(|one| one.on_the_wire()).collect();
                    self.send(&FromAgent::Deadlines { kept: now }).await?;
                }
                Ok(()) = facts_rx.changed() => {
                    registered.facts = facts_rx.borrow_and_update().clone();
                    self.send(&FromAgent::Inventory { facts: registered.facts.clone() }).await?;
                }
                () = &mut probing => {}
                () = &mut looking => {}
            }
        }
    }

    async fn beat(&mut self, sshd: bool) -> Result<(), LinkError> {
        self.seq += 1;
        if sshd {
            self.sshd_up_at = Some(self.seq);
        }
        self.unacked_since.get_or_insert_with(Instant::now);
        let found = self.way_in.borrow_and_update().clone();
        let beat = FromAgent::Beat {
            seq: self.seq,
            load_percent: facts::load_percent(),
            sshd,
            way_in_age_s: found.as_ref().map(Proven::age_s),
            way_in: found.map(|found| found.report),
            clock_ms: Some(facts::clock_ms()),
        };
        self.send(&beat).await
    }

    async fn send(&mut self, message: &FromAgent) -> Result<(), LinkError> {
        let text = serde_json::to_string(message)
            .map_err(|error| LinkError::NotTaken(format!("a message cannot be written: {error}")))?;
        match timeout(BEAT_EVERY, self.socket.send(Message::text(text))).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(LinkError::Stalled),
        }
    }

    fn take(&mut self, message: Message, deadlines: &Deadlines) -> Result<(), LinkError> {
        let text = match &message {
            Message::Text(text) => text.as_str(),
            Message::Close(_) => return Err(LinkError::Closed),
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        let order = match serde_json::from_str::<ToAgent>(text) {
            Ok(order) => order,
            Err(error) => {
                tracing::debug!("a message is not understood and ignored: {error}");
                return Ok(());
            }
        };
        match order {
            ToAgent::Ack { seq } => {
                if !self.acked {
                    tracing::info!("the link is up");
                }
                self.acked = true;
                // Later beats are still on their way: they have their own time.
                self.unacked_since = (seq < self.seq).then(Instant::now);
            }
            ToAgent::Leases { desired_version, leases } => {
                if desired_version >= self.newest {
                    self.newest = desired_version;
                    deadlines.order(Order::Leases(leases));
                }
            }
            ToAgent::RegisterAgain => return Err(LinkError::Unknown),
            ToAgent::LockAccounts { rests_on_beat } => {
                if rests_on_beat.is_some_and(|beat| self.sshd_up_at.is_some_and(|up_at| up_at > beat)) {
                    tracing::warn!("an order to lock the accounts is not obeyed: sshd has answered since");
                } else {
                    deadlines.order(Order::LockAll);
                }
            }
        }
        Ok(())
    }
}

async fn probe_forever(addresses: &[std::net::SocketAddr], state: &watch::Sender<bool>) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        let up = !banner::is_down(addresses).await;
        state.send_if_modified(|before| std::mem::replace(before, up) != up);
    }
}

/// Looks at sshd's configuration now and then, and more rarely at the machine: nvidia-smi may take seconds.
async fn look_forever(
    watcher: &mut Watcher,
    identity: &Identity,
    (ip, gpus): (&str, &[Gpu]),
    known: &watch::Sender<Facts>,
) {
    loop {
        let facts = register::gather(ip, gpus).await;
        known.send_if_modified(|before| {
            let changed = *before != facts;
            *before = facts;
            changed
        });
        for _ in 0..LOOKS_PER_INVENTORY {
            let pause = if watcher.sshd_has_been_told() { LOOK_EVERY } else { LOOK_UNTIL_TOLD_EVERY };
            tokio::time::sleep(pause).await;
            watcher.look(identity).await;
        }
    }
}
