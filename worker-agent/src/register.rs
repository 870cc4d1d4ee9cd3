//! Registers this machine, for as long as it takes: `POST /api/workers/register`.
//!
//! With a node token on disk the node proves that it is known; the join token only makes a new one. Returns
//! when the control plane has accepted it and the identity is on disk.

use crate::{
    config::Config,
    dial::{DialError, Reply},
    facts,
    pace::{Backoff, ThrottledWarning},
    sshd::Sshd,
    state::{Identity, StateDir},
};
use orion_domain::{
    NodeId, Secret,
    node::{Facts, Gpu},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

const PATH: &str = "/api/workers/register";
/// Header with the boot id of this machine's kernel: tells this machine from a copy of it.
pub(crate) const BOOT_ID: &str = "orion-boot-id";
/// Header with the SHA-256 of this machine's machine id.
const MACHINE_ID: &str = "orion-machine-id";
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a control plane can ask for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Body of the registration request.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    hostname: &'a str,
    ip: String,
    ssh_port: u16,
    host_keys: Vec<String>,
    #[serde(flatten)]
    facts: Facts,
    #[serde(skip)]
    given_gpus: &'a [Gpu],
    tags: Vec<&'a str>,
}

/// The authority, as one text of lines or as a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Authority {
    Text(String),
    List(Vec<String>),
}

impl Authority {
    fn lines(self) -> Vec<String> {
        let texts = match self {
            Self::Text(text) => vec![text],
            Self::List(list) => list,
        };
        texts
            .iter()
            .flat_map(|text| text.lines())
            .map(str::to_owned)
            .filter(|line| !line.is_empty())
            .collect()
    }
}

#[derive(Deserialize)]
struct Accepted {
    node_id: Option<NodeId>,
    node_token: Option<Secret>,
    ssh_ca: Option<Authority>,
}

#[derive(Default, Deserialize)]
struct Problem {
    detail: Option<String>,
    error: Option<String>,
    title: Option<String>,
    hint: Option<String>,
}

/// A registration that succeeded.
#[derive(Debug)]
pub struct Registered {
    /// Identity of this node from now on.
    pub identity: Identity,
    /// The address that was reported.
    pub ip: String,
    /// The inventory that was reported.
    pub facts: Facts,
    /// The GPUs of the agent's settings.
    pub gpus: Vec<Gpu>,
}

/// Reason for the failure of a try.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Machine(String),
    #[error("the state directory cannot be used: {0}")]
    State(#[from] io::Error),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control plane is not well ({status}): {detail}")]
    NotWell { status: u16, detail: String, retry_after: Option<Duration> },
    #[error("too many requests for the control plane (429): {detail}")]
    TooMany { detail: String, retry_after: Duration },
    #[error("the control plane refuses this node ({status}): {detail}")]
    Refused { status: u16, detail: String, retry_after: Option<Duration> },
    #[error("{0}")]
    Stuck(String),
}

/// The host keys that this machine's sshd shows.
fn own_host_keys(config: &Config) -> Result<Vec<String>, String> {
    Sshd::new(&config.sshd_config_dir, &config.sshd_pid_file, PathBuf::new()).usable_host_keys()
}

/// Registers, again and again, until it is accepted.
pub async fn until_accepted(config: &Config, state: &StateDir, known: Option<&Identity>) -> Registered {
    let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut complaint = ThrottledWarning::new("the registration");
    loop {
        let failure = match attempt(config, state, known).await {
            Ok(registered) => {
                complaint.works(Instant::now());
                return registered;
            }
            Err(failure) => failure,
        };
        complaint.failed(&failure, Instant::now());
        let pause = match failure {
            Failure::Machine(_) | Failure::State(_) | Failure::Dial(_) => pauses.next_pause(),
            Failure::NotWell { retry_after, .. } => {
                let pause = pauses.next_pause();
                retry_after.map_or(pause, |wish| wish.clamp(pause.min(LONGEST_PAUSE), LONGEST_PAUSE))
            }
            Failure::TooMany { retry_after, .. } => pauses.next_pause().max(retry_after),
            Failure::Refused { retry_after, .. } => match retry_after {
                Some(wish) => wish.clamp(Duration::from_secs(1), config.refused_retry),
                None => config.refused_retry,
            },
            Failure::Stuck(_) => config.refused_retry,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(config: &Config, state: &StateDir, known: Option<&Identity>) -> Result<Registered, Failure> {
    let body = body(config).await?;
    let text = serde_json::to_string(&body).map_err(io::Error::from)?;
    let mut refused = None;
    if let Some(known) = known {
        let reply = post(config, &known.node_token, None, &text).await?;
        match accepted(&reply) {
            Ok(accepted) => return keep(state, body, accepted, Some(known)),
            // The control plane forgot this node; perhaps the join token makes it known again.
            Err(failure @ Failure::Refused { status: 401 | 403, .. }) => refused = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    let join_token = config.join_token().map_err(|problem| match &refused {
        Some(refused) => Failure::Stuck(format!("{refused}; to join anew: {problem}")),
        None => Failure::Stuck(problem),
    })?;
    let key = state.idempotency_key(&text)?;
    let reply = post(config, &join_token, Some(&key), &text).await?;
    // A node token that was refused a moment ago is not kept for want of another.
    keep(state, body, accepted(&reply)?, known.filter(|_| refused.is_none()))
}

async fn post(config: &Config, token: &Secret, key: Option<&str>, body: &str) -> Result<Reply, DialError> {
    let bearer = format!("Bearer {}", token.expose());
    let boot_id = facts::boot_id();
    let mut headers = vec![("authorization", bearer.as_str()), (BOOT_ID, boot_id.as_str())];
    let machine_id = facts::machine_id_sha256();
    headers.extend(machine_id.as_deref().map(|sha256| (MACHINE_ID, sha256)));
    headers.extend(key.map(|key| ("idempotency-key", key)));
    config.api.post_json(PATH, &headers, body.to_owned()).await
}

fn accepted(reply: &Reply) -> Result<Accepted, Failure> {
    let (status, retry_after) = (reply.status, reply.retry_after);
    match status {
        200 | 201 => serde_json::from_slice(&reply.body)
            .map_err(|error| Failure::Stuck(format!("the control plane's reply is not understood: {error}"))),
        408 | 425 | 500..=599 => Err(Failure::NotWell { status, detail: detail(&reply.body), retry_after }),
        429 => {
            let retry_after = least_pause(retry_after);
            Err(Failure::TooMany { detail: detail(&reply.body), retry_after })
        }
        300..=399 => Err(Failure::Stuck(format!(
            "the control plane sends this node elsewhere ({status}); set API_ENDPOINT to where it really answers"
        ))),
        _ => Err(Failure::Refused { status, detail: detail(&reply.body), retry_after }),
    }
}

/// The least pause after a 429: what it asks for.
pub(crate) fn least_pause(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(ASKED_PAUSE_MAX)
}

/// Returns the text of a problem reply, cut to what fits into a line of a log.
fn detail(body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let mut text = problem
        .detail
        .or(problem.error)
        .or(problem.title)
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    if let Some(hint) = problem.hint {
        text = format!("{text}; {hint}");
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if line.trim().is_empty() { "no reason given".into() } else { line }
}

fn keep(
    state: &StateDir,
    body: Body<'_>,
    accepted: Accepted,
    known: Option<&Identity>,
) -> Result<Registered, Failure> {
    let known_token = || known.map(|known| known.node_token.clone());
    let Some(node_token) = accepted.node_token.or_else(known_token) else {
        return Err(Failure::Stuck(
            "the control plane knows this node already and gives its token only once; let an admin forget the \
             node (orion nodes forget NODE), or restore node.json, then it joins anew"
                .into(),
        ));
    };
    let Some(node_id) = accepted.node_id.or(known.map(|known| known.node_id)) else {
        return Err(Failure::Stuck("the control plane's reply has no node_id".into()));
    };
    let mut ssh_ca = accepted.ssh_ca.map(Authority::lines).unwrap_or_default();
    if let (true, Some(known)) = (ssh_ca.is_empty(), known) {
        ssh_ca.clone_from(&known.ssh_ca);
    }
    let identity = Identity { node_id, node_token, ssh_ca };
    state.keep(&identity)?;
    tracing::info!("registered as node {node_id} ({} at {} port {})", body.hostname, body.ip, body.ssh_port);
    Ok(Registered { identity, ip: body.ip, facts: body.facts, gpus: body.given_gpus.to_vec() })
}

/// Returns this node's address as the control plane should dial it now.
pub async fn address(config: &Config) -> Result<String, DialError> {
    match &config.ip {
        Some(ip) => Ok(ip.to_string()),
        None => Ok(config.api.source_address().await?.to_string()),
    }
}

async fn body(config: &Config) -> Result<Body<'_>, Failure> {
    let ip = address(config).await?;
    Ok(Body {
        hostname: config.hostname.as_str(),
        ssh_port: config.ssh_port,
        host_keys: own_host_keys(config).map_err(Failure::Machine)?,
        facts: gather(&ip, &config.gpus).await,
        given_gpus: &config.gpus,
        tags: config.tags.iter().map(|tag| tag.as_str()).collect(),
        ip,
    })
}

/// [`facts::gather`] without holding up anything else.
pub async fn gather(ip: &str, given: &[Gpu]) -> Facts {
    let (towards, given) = (ip.parse::<IpAddr>().ok(), given.to_vec());
    tokio::task::spawn_blocking(move || facts::gather(towards, given)).await.unwrap_or_default()
}

/// Prints what would be sent.
///
/// # Errors
/// The machine or the route lacks something that a registration needs.
pub async fn print_body(config: &Config) -> Result<(), String> {
    let body = body(config).await.map_err(|failure| failure.to_string())?;
    let text = serde_json::to_string_pretty(&body).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_is_one_short_line() {
        assert_eq!(detail(br#"{"title":"Conflict","detail":"name\ntaken"}"#), "name taken");
        assert_eq!(detail(br#"{"error":"old style"}"#), "old style");
        assert_eq!(detail(br#"{"detail":"known","hint":"forget it"}"#), "known; forget it");
        assert_eq!(detail(b"<html>"), "<html>");
        assert_eq!(detail(b""), "no reason given");
        assert_eq!(detail("x".repeat(5000).as_bytes()).len(), 300);
    }

    #[test]
    fn the_authority_comes_as_text_or_as_a_list() {
        let lines = |json: &str| serde_json::from_str::<Accepted>(json).unwrap().ssh_ca.unwrap().lines();
        assert_eq!(lines(r#"{"ssh_ca":"a\nb\n"}"#), ["a", "b"]);
        assert_eq!(lines(r#"{"ssh_ca":["a","b"]}"#), ["a", "b"]);
    }
}
