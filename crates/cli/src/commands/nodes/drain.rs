//! `nodes drain`, `nodes undrain`, `nodes lift`, `nodes forget`, `nodes declare-dead`: what an admin does with nodes, by number or host name.

use crate::{
    client::{Client, LONG_TIMEOUT, Post, Repeat, escape},
    context::Context,
    duration::{self, Length},
    error::{CliError, Kind},
    model::{Drain, Node, shape},
    output::{self, Format, note},
};
use orion_domain::Timestamp;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Pause between two looks at a draining node.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while the API does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Nodes by number or host name.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// Numbers or host names
    #[arg(required = true, value_name = "NODE", value_parser = node_argument)]
    nodes: Vec<String>,
}

/// The arguments of `orion nodes drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    which: NodeArgs,
    /// Time after which the remaining leases lose the nodes by their own policy: 90m, 2h, 1d
    #[arg(long, value_name = "TIME")]
    deadline: Option<Length>,
    /// Take an earlier deadline back
    #[arg(long, conflicts_with = "deadline")]
    no_deadline: bool,
    /// Reason of the drain
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Show the progress until they are drained
    #[arg(long)]
    wait: bool,
}

/// The arguments of `orion nodes forget`.
#[derive(Debug, clap::Args)]
pub struct ForgetArgs {
    #[command(flatten)]
    which: NodeArgs,
    /// Forget also nodes that may hold an account, or are being worked on
    #[arg(long)]
    force: bool,
}

/// The arguments of `orion nodes declare-dead`.
#[derive(Debug, clap::Args)]
pub struct DeclareDeadArgs {
    #[command(flatten)]
    which: NodeArgs,
    /// Reason of the declaration, for later reference
    #[arg(long)]
    reason: String,
}

pub(super) fn node_argument(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 || text.contains(|c: char| c.is_control() || c == '/') {
        return Err("a node is given by its number or its host name".into());
    }
    Ok(text.to_owned())
}

/// Empties nodes.
pub async fn drain(context: &Context, args: DrainArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let nodes = find_all(&client, &args.which.nodes).await?;
    let body = body(&args);
    let mut outcomes = Vec::with_capacity(nodes.len());
    for node in &nodes {
        // The second time changes nothing, so it may be sent again.
        let path = format!("/api/admin/nodes/{}/drain", node.node_id);
        let post = Post { repeat: Repeat::Safe, ..Post::new(&path, body.clone()) };
        outcomes.push(client.post(post).await.map(|reply| reply.get("node").cloned().unwrap_or_default()));
    }
    let mut drained = done(&nodes, outcomes, |node| {
        let progress = node.drain.as_ref().map(|drain| progress(drain, context.now())).unwrap_or_default();
        format!("{} takes no new leases · {progress}", node.hostname)
    });
    if args.wait {
        let waited = wait(&client, &drained.views).await;
        drained.views = waited?;
    }
    drained.finish(context, "drained")
}

fn body(args: &DrainArgs) -> Value {
    let mut body = Map::new();
    body.extend(args.reason.as_ref().map(|reason| ("reason".to_owned(), Value::from(reason.as_str()))));
    body.extend(args.deadline.map(|length| ("deadline_hours".to_owned(), Value::from(length.hours()))));
    body.extend(args.no_deadline.then(|| ("deadline".to_owned(), Value::Null)));
    Value::Object(body)
}

/// `moving, 1 lease left, until 18:02 UTC (in 3 h 12 min)`
pub(super) fn progress(drain: &Drain, now: Timestamp) -> String {
    let left = match drain.leases_left {
        0 => String::new(),
        1 => ", 1 lease left".to_owned(),
        count => format!(", {count} leases left"),
    };
    // Once it is drained the deadline says nothing any more.
    let until = drain.deadline.filter(|_| drain.state != "drained");
    let until = until.map(|at| format!(", until {}", output::moment(now, at))).unwrap_or_default();
    format!("{}{left}{until}", drain.state)
}

/// Puts drained nodes back into use.
pub async fn undrain(context: &Context, args: NodeArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let nodes = find_all(&client, &args.nodes).await?;
    let mut outcomes = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let path = format!("/api/admin/nodes/{}/undrain", node.node_id);
        let reply = client.post(Post::new(&path, json!({}))).await;
        outcomes.push(reply.map(|reply| reply.get("node").cloned().unwrap_or_default()));
    }
    let undrained = done(&nodes, outcomes, |node| format!("{} takes leases again", node.hostname));
    undrained.finish(context, "undrained")
}

/// Puts quarantined nodes back into use.
pub async fn lift(context: &Context, args: NodeArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let nodes = find_all(&client, &args.nodes).await?;
    let mut outcomes = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let path = format!("/api/admin/nodes/{}/quarantine/lift", node.node_id);
        let post = Post { timeout: LONG_TIMEOUT, ..Post::new(&path, json!({})) };
        outcomes.push(match client.post(post).await {
            Ok(_) => client.get(&format!("/api/nodes/{}", node.node_id)).await,
            Err(error) => Err(error),
        });
    }
    let lifted = done(&nodes, outcomes, |node| {
        format!("{} is out of quarantine; it is cleaned before it is offered", node.hostname)
    });
    lifted.finish(context, "lifted")
}

/// Forgets nodes: their machines may register again as new ones.
pub async fn forget(context: &Context, args: ForgetArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let nodes = find_all(&client, &args.which.nodes).await?;
    let mut outcomes = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let path = format!("/api/admin/nodes/{}/forget", node.node_id);
        outcomes.push(client.post(Post::new(&path, json!({ "force": args.force }))).await);
    }
    let forgotten = done(&nodes, outcomes, |node| {
        format!("{} is forgotten; its name, address and host key are free", node.hostname)
    });
    forgotten.finish(context, "forgotten")
}

/// Gives nodes up that do not answer.
pub async fn declare_dead(context: &Context, args: DeclareDeadArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let nodes = find_all(&client, &args.which.nodes).await?;
    let mut failed = None;
    let mut views = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let path = format!("/api/admin/nodes/{}/declare-dead", node.node_id);
        match client.post(Post::new(&path, json!({ "reason": args.reason }))).await {
            Ok(reply) => {
                let list = |key: &str| {
                    let ids = reply.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                let what = match (list("moving"), list("ended")) {
                    (moving, _) if !moving.is_empty() => format!("lease {moving} moves, or waits for a node"),
                    (_, ended) if !ended.is_empty() => format!("lease {ended} is over"),
                    (_, _) => "no lease was on it".to_owned(),
                };
                note(&format!("✔ {} counts as dead; {what}", node.hostname));
                views.push(reply);
            }
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    if context.format == Format::Json {
        output::json(&Value::Array(views))?;
    }
    failed.map_or(Ok(()), Err)
}

/// Outcome of a command for several nodes.
struct Done {
    asked: usize,
    /// The nodes as the API shows them afterwards; of those that are gone its reply.
    views: Vec<Value>,
    failures: Vec<(String, CliError)>,
}

/// Says of each node what became of it; one that fails does not keep the others.
fn done(nodes: &[Node], outcomes: Vec<Result<Value, CliError>>, line: impl Fn(&Node) -> String) -> Done {
    let mut done = Done { asked: nodes.len(), views: Vec::new(), failures: Vec::new() };
    for (node, outcome) in nodes.iter().zip(outcomes) {
        let outcome = outcome.and_then(|view| Ok((shape::<Node>(&view, "node")?, view)));
        match outcome {
            Ok((after, view)) => {
                note(&format!("✔ {}", line(&after)));
                done.views.push(view);
            }
            Err(error) => done.failures.push((node.hostname.clone(), error)),
        }
    }
    done
}

impl Done {
    fn finish(self, context: &Context, what: &str) -> Result<(), CliError> {
        if context.format == Format::Json {
            output::json(&Value::Array(self.views))?;
        }
        let count = self.failures.len();
        let mut failures = self.failures.into_iter();
        let Some((name, first)) = failures.next() else { return Ok(()) };
        if self.asked == 1 {
            return Err(first);
        }
        let kind = first.kind();
        for (name, error) in std::iter::once((name, first)).chain(failures) {
            note(&format!("{name}: {}", error.to_string().replace('\n', " · ")));
        }
        Err(CliError::new(kind, format!("{count} of {} nodes were not {what}", self.asked)))
    }
}

/// Shows what changes until every one of these nodes is drained; gives them as they are then.
async fn wait(client: &Client, views: &[Value]) -> Result<Vec<Value>, CliError> {
    let begun = Instant::now();
    let nodes = views.iter().map(|view| shape(view, "node")).collect::<Result<Vec<Node>, _>>()?;
    let mut said: Vec<String> = vec![String::new(); nodes.len()];
    let mut drained: Vec<Option<Value>> = vec![None; nodes.len()];
    let mut away = false;
    loop {
        let mut pause = LOOK_EVERY;
        for ((node, said), drained) in nodes.iter().zip(&mut said).zip(&mut drained) {
            if drained.is_some() {
                continue;
            }
            let view = match client.get(&format!("/api/nodes/{}", node.node_id)).await {
                Ok(view) => view,
                // The drain goes on without us, and without this API.
                Err(error) if error.kind() == Kind::Unavailable => {
                    if !std::mem::replace(&mut away, true) {
                        note(&format!("{}; the drain goes on", error.to_string().replace('\n', " · ")));
                    }
                    pause = LOOK_AGAIN;
                    break;
                }
                Err(error) => return Err(error),
            };
            away = false;
            let Some(drain) = shape::<Node>(&view, "node")?.drain else {
                let what = format!("somebody ended the drain of {}", node.hostname);
                return Err(CliError::new(Kind::Unavailable, what)
                    .hint(format!("begin again: orion nodes drain {}", node.hostname)));
            };
            let now = progress(&Drain { deadline: None, ..drain.clone() }, Timestamp::from_micros(0));
            if *said != now {
                note(&format!("  {}: {now} ({})", node.hostname, duration::show(begun.elapsed())));
                *said = now;
            }
            if drain.state == "drained" {
                *drained = Some(view);
            }
        }
        if drained.iter().all(Option::is_some) {
            return Ok(drained.into_iter().flatten().collect());
        }
        tokio::time::sleep(pause).await;
    }
}

/// The nodes that these words mean, each once. One that is not known is told before anything is done.
pub(super) async fn find_all(client: &Client, wanted: &[String]) -> Result<Vec<Node>, CliError> {
    let mut nodes: Vec<Node> = Vec::with_capacity(wanted.len());
    let mut all: Option<Vec<Node>> = None;
    for word in wanted {
        let missing = |error: CliError| match error.kind() {
            Kind::NotFound => error.hint("see the nodes: orion nodes"),
            Kind::Failed
            | Kind::Usage
            | Kind::NotLoggedIn
            | Kind::Unavailable
            | Kind::NotChecked
            | Kind::Interrupted
            | Kind::Command(_)
            | Kind::ReaderGone => error,
        };
        let node = if word.bytes().all(|byte| byte.is_ascii_digit()) {
            let view = client.get(&format!("/api/nodes/{}", escape(word))).await.map_err(missing)?;
            shape(&view, "node")?
        } else {
            let known = match &mut all {
                Some(known) => known,
                none => {
                    let list = client.list("/api/nodes?limit=1000").await?;
                    none.insert(list.iter().map(|view| shape(view, "node")).collect::<Result<_, _>>()?)
                }
            };
            let found = known.iter().find(|node| node.hostname.eq_ignore_ascii_case(word)).cloned();
            found.ok_or_else(|| {
                let names: Vec<&str> = known.iter().map(|node| node.hostname.as_str()).collect();
                let error = CliError::new(Kind::NotFound, format!("there is no node '{word}'"));
                error.hint(crate::commands::near_miss(word, &names, "see the nodes: orion nodes"))
            })?
        };
        if nodes.iter().all(|known| known.node_id != node.node_id) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: DrainArgs,
    }

    fn parsed(line: &str) -> Result<DrainArgs, clap::Error> {
        <Line as clap::Parser>::try_parse_from(line.split_whitespace()).map(|line| line.args)
    }

    #[test]
    fn the_body_of_a_drain_holds_what_was_asked_for_and_nothing_else() {
        assert_eq!(body(&parsed("drain node-1").unwrap()), json!({}));
        let all = parsed("drain 3 node-1 --deadline 90m --reason fans --wait").unwrap();
        assert_eq!(body(&all), json!({"deadline_hours": 1.5, "reason": "fans"}));
        assert_eq!(body(&parsed("drain 3 --no-deadline").unwrap()), json!({"deadline": null}));
    }

    #[test]
    fn a_drain_that_makes_no_sense_is_refused_before_anything_is_sent() {
        for wrong in ["drain", "drain a/b", "drain 3 --deadline 0", "drain 3 --deadline 2h --no-deadline"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn progress_says_what_is_waited_for_and_until_when() {
        let now = "2026-11-21T14:50:00Z".parse().unwrap();
        let drain = |state: &str, leases_left, deadline: Option<&str>| Drain {
            state: state.into(),
            leases_left,
            deadline: deadline.map(|at| at.parse().unwrap()),
        };
        assert_eq!(
            progress(&drain("waiting for its deadline", 1, Some("2026-11-21T18:02:00Z")), now),
            "waiting for its deadline, 1 lease left, until 18:02 UTC (in 3 h 12 min)"
        );
        assert_eq!(progress(&drain("cleaning", 0, None), now), "cleaning");
        assert_eq!(progress(&drain("drained", 0, Some("2026-11-21T18:02:00Z")), now), "drained");
    }
}
