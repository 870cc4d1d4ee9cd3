//! The simulated fleet as a process of its own, so that its CPU and memory are not the scheduler's: orders come a
//! line each on standard input, each is answered by a line of JSON, and the process ends with its input.

use super::{
    gaps::Summary,
    server::{Fleet, Mode, listen, serve},
};
use crate::{
    broken::{Broken, Context as _},
    child::dies_with_us,
};
use clap::Args;
use serde_json::{Value, json};
use std::{process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

/// Arguments of the process that plays the fleet.
#[derive(Args, Debug)]
pub struct Play {
    /// Number of nodes
    #[arg(long)]
    nodes: usize,
    /// Public key of the control CA
    #[arg(long)]
    authority: String,
    /// Container engines on all nodes
    #[arg(long)]
    engines: bool,
}

/// Plays the fleet until standard input ends.
///
/// # Errors
/// When it cannot listen, or an order makes no sense.
pub async fn play(options: &Play) -> Result<(), Broken> {
    let fleet = Fleet::new(options.nodes, &options.authority).map_err(Broken::new)?;
    let fleet = Arc::new(fleet.with_engines(options.engines));
    let listener = listen(0).context("listening on 127/8")?;
    let port = listener.local_addr().context("the port")?.port();
    tokio::spawn(serve(fleet.clone(), listener));
    println!("{}", json!({ "port": port }));
    // Blocks this thread alone: the nodes are played by the runtime's own.
    for order in std::io::stdin().lines() {
        println!("{}", obey(&fleet, &order.context("standard input")?)?);
    }
    Ok(())
}

fn obey(fleet: &Fleet, order: &str) -> Result<Value, Broken> {
    let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
    let indices = || rest.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<usize>, _>>();
    let mode = match word {
        "status" => {
            let (open, logins, accounts) = (fleet.open(), fleet.logins(), fleet.accounts());
            let (followers, told, running) = (fleet.followers(), fleet.told(), fleet.running());
            return Ok(json!({
                "open": open, "logins": logins, "accounts": accounts,
                "followers": followers, "told": told, "running": running,
            }));
        }
        "end-containers" => {
            let without = fleet.end_containers(&indices().context("numbers of nodes")?);
            return Ok(json!({ "without": without }));
        }
        "gaps" => {
            let Summary { count, p50_ms, p99_ms, max_ms } = fleet.gaps();
            return Ok(json!({ "count": count, "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max_ms }));
        }
        "clear-gaps" => {
            fleet.clear_gaps();
            return Ok(json!({}));
        }
        "answer" => Mode::Answers,
        "hang" => Mode::Hangs,
        "die" => Mode::Dead,
        _ => return Err(Broken::new(format!("the simulated fleet knows no order '{word}'"))),
    };
    fleet.set_mode(&indices().context("numbers of nodes")?, mode);
    Ok(json!({}))
}

/// The process, as the one that started it sees it. It ends when this is dropped.
pub struct FakeFleet {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    port: u16,
}

/// State of a simulated fleet.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Nodes that have a session.
    pub open: u64,
    /// Logins since the start.
    pub logins: u64,
    /// Accounts of leases on nodes that are not dead.
    pub accounts: u64,
    /// Clients that follow the events of an engine.
    pub followers: u64,
    /// Times that a node was told until when it keeps the containers of a lease that it had already.
    pub told: u64,
    /// Containers that run.
    pub running: u64,
}

impl FakeFleet {
    /// Starts `nodes` nodes that take certificates of `authority`.
    ///
    /// # Errors
    /// When the process does not come up.
    pub async fn start(nodes: usize, authority: &str) -> Result<Self, Broken> {
        Self::start_as(nodes, authority, &[]).await
    }

    /// The same with a container engine on each node.
    ///
    /// # Errors
    /// When the process does not come up.
    pub async fn start_with_engines(nodes: usize, authority: &str) -> Result<Self, Broken> {
        Self::start_as(nodes, authority, &["--engines"]).await
    }

    async fn start_as(nodes: usize, authority: &str, more: &[&str]) -> Result<Self, Broken> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = dies_with_us(program.as_os_str());
        command.args(["fake-fleet", "--nodes", &nodes.to_string(), "--authority", authority]).args(more);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the simulated fleet")?;
        let gone = || Broken::new("the simulated fleet has no pipes");
        let orders = child.stdin.take().ok_or_else(gone)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        let mut fleet = Self { child, orders, answers, port: 0 };
        let port = fleet.answer().await?["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        fleet.port = port.ok_or_else(|| Broken::new("the simulated fleet has no port"))?;
        Ok(fleet)
    }

    /// The port on which every node's sshd answers.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the id of the fleet's process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32, Broken> {
        self.child.id().ok_or_else(|| Broken::new("the simulated fleet has ended"))
    }

    /// Returns the present state of the fleet.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn status(&mut self) -> Result<Status, Broken> {
        let answer = self.order("status").await?;
        Ok(Status {
            open: number(&answer, "open")?,
            logins: number(&answer, "logins")?,
            accounts: number(&answer, "accounts")?,
            followers: number(&answer, "followers")?,
            told: number(&answer, "told")?,
            running: number(&answer, "running")?,
        })
    }

    /// Returns a summary of the gaps between looks at nodes that answer, since [`FakeFleet::clear_gaps`].
    ///
    /// # Errors
    /// When it has ended.
    pub async fn gaps(&mut self) -> Result<Summary, Broken> {
        let answer = self.order("gaps").await?;
        Ok(Summary {
            count: number(&answer, "count")?,
            p50_ms: number(&answer, "p50_ms")?,
            p99_ms: number(&answer, "p99_ms")?,
            max_ms: number(&answer, "max_ms")?,
        })
    }

    /// Gaps count from here on.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn clear_gaps(&mut self) -> Result<(), Broken> {
        self.order("clear-gaps").await.map(drop)
    }

    /// Changes how nodes behave.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn set_mode(&mut self, nodes: &[usize], mode: Mode) -> Result<(), Broken> {
        let word = match mode {
            Mode::Answers => "answer",
            Mode::Hangs => "hang",
            Mode::Dead => "die",
        };
        let numbers: String = nodes.iter().map(|node| format!(" {node}")).collect();
        self.order(&format!("{word}{numbers}")).await.map(drop)
    }

    /// Ends one container on each of these nodes.
    ///
    /// # Errors
    /// When one has none that runs.
    pub async fn end_containers(&mut self, nodes: &[usize]) -> Result<(), Broken> {
        let numbers: String = nodes.iter().map(|node| format!(" {node}")).collect();
        match number(&self.order(&format!("end-containers{numbers}")).await?, "without")? {
            0 => Ok(()),
            without => Err(Broken::new(format!("{without} nodes have no container that runs"))),
        }
    }

    async fn order(&mut self, order: &str) -> Result<Value, Broken> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.context("the simulated fleet")?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Value, Broken> {
        let line = self.answers.next_line().await.context("the simulated fleet")?;
        let line = line.ok_or_else(|| Broken::new("the simulated fleet has ended"))?;
        serde_json::from_str(&line).context("the simulated fleet's answer")
    }
}

fn number(answer: &Value, key: &str) -> Result<u64, Broken> {
    answer[key].as_u64().ok_or_else(|| Broken::new(format!("the simulated fleet's answer lacks {key}")))
}
