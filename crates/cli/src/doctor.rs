//! `orion doctor`: looks whether what must hold does, in the database and on the nodes, and says what to do.
//!
//! Lives here: opening, asking, showing. Does not live here: the looking (`orion_store`, `orion_fleet`) and the words
//! ([`orion_domain::doctor`]). It changes nothing, and so does not look at a database of another version; it
//! works while everything runs, and while nothing does.

use crate::{
    error::{CliError, Kind},
    output::{self, Format, Progress, note, printable},
    up::{DatabaseArgs, OwnSettings},
};
use orion_domain::doctor::{Check, Finding};
use orion_fleet::{Fleet, NodesExamined};
use orion_service::assemble::assemble_as_it_is;
use orion_store::Scope;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The arguments of `orion doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Look at the database alone
    #[arg(long)]
    no_nodes: bool,
    /// Number of nodes to ask at once
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    side_by_side: u16,
    /// Location of the database.
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Findings, and the places that could not be examined.
struct Report {
    findings: Vec<Finding>,
    nodes: Option<NodesExamined>,
    names: HashMap<i64, String>,
}

/// Looks, shows, and fails if something is not as it must be.
///
/// # Errors
/// [`Kind::Failed`] (1) for a broken promise, [`Kind::NotChecked`] (2) where none is known to be broken but
/// something could not be looked at.
pub async fn run(format: Format, args: DoctorArgs) -> Result<(), CliError> {
    let own = args.database.own_settings_of_existing(Kind::NotChecked)?;
    note(&format!("the database is {}", own.database()));
    let mut progress = Progress::new();
    progress.show("looking at the database", "");
    let fleet = open(&own).await?;
    let not_checked = |error: orion_store::StoreError| {
        CliError::new(Kind::NotChecked, format!("could not look: {}", chain(&error)))
    };
    let mut findings = fleet.store.admin().audit(Scope::All, fleet.now()).await.map_err(not_checked)?;
    findings.extend(fleet.store.admin().clock_finding(|| fleet.now()).await.map_err(not_checked)?);
    let mut nodes = None;
    if !args.no_nodes {
        progress.show("asking the nodes", "");
        nodes = Some(fleet.examine_nodes(usize::from(args.side_by_side)).await.map_err(not_checked)?);
    }
    findings.extend(nodes.iter().flat_map(|nodes| nodes.findings.clone()));
    findings.sort();
    let all = fleet.store.nodes().all().await.map_err(not_checked)?;
    let names = all.into_iter().map(|node| (node.id.0, node.hostname.to_string())).collect();
    drop(progress);
    let report = Report { findings, nodes, names };
    match format {
        Format::Json => output::json(&report.json())?,
        Format::Table => output::data(&report.text())?,
    }
    report.outcome()
}

/// The database and the control plane's keys, as they are; what is not there is not made.
async fn open(own: &OwnSettings) -> Result<Fleet, CliError> {
    let assembled = assemble_as_it_is(&own.settings).await.map_err(|error| {
        CliError::new(Kind::NotChecked, format!("could not look: {error}"))
            .hint("the same settings as the services have: --config FILE")
    })?;
    Ok(assembled.fleet)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Report {
    fn count(&self, warnings: bool) -> usize {
        self.findings.iter().filter(|finding| finding.check.is_warning() == warnings).count()
    }

    fn not_reached(&self) -> usize {
        self.nodes.as_ref().map_or(0, |nodes| nodes.not_reached.len())
    }

    fn of(&self, check: Check) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.check == check)
    }

    fn outcome(&self) -> Result<(), CliError> {
        let several =
            |count: usize, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
        match (self.count(false), self.not_reached()) {
            (0, 0) => Ok(()),
            (0, away) => Err(CliError::new(
                Kind::NotChecked,
                format!("{} could not be looked at", several(away, "node", "nodes")),
            )
            .hint("why stands above; orion nodes show NODE says more")),
            (found, _) => Err(CliError::failed(format!(
                "{} found",
                several(found, "thing that must not be was", "things that must not be were")
            ))
            .hint("what to do stands with each")),
        }
    }

    fn json(&self) -> Value {
        let checks: Vec<Value> = Check::ALL
            .into_iter()
            .map(|check| {
                let findings: Vec<&Finding> = self.of(check).collect();
                let mut value = json!({
                    "check": check, "holds": check.holds(), "warning": check.is_warning(),
                    "ok": findings.is_empty(), "findings": findings,
                });
                if !findings.is_empty() {
                    value["why"] = check.why().into();
                    value["what_to_do"] = check.what_to_do().into();
                }
                value
            })
            .collect();
        let nodes = self.nodes.as_ref().map(|nodes| {
            let list = |nodes: &[(orion_domain::NodeId, String)]| -> Vec<Value> {
                nodes.iter().map(|(node, why)| json!({ "node": node, "why": why })).collect()
            };
            json!({
                "examined": nodes.examined,
                "passed_over": list(&nodes.passed_over),
                "not_reached": list(&nodes.not_reached),
            })
        });
        json!({
            "ok": self.count(false) == 0 && self.not_reached() == 0,
            "violations": self.count(false), "warnings": self.count(true),
            "checks": checks, "nodes": nodes,
        })
    }

    fn node(&self, id: i64) -> String {
        self.names.get(&id).map_or_else(|| format!("node {id}"), |name| format!("{name} (node {id})"))
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for check in Check::ALL {
            let mark = match (self.of(check).next(), check.is_warning()) {
                (None, _) => '✔',
                (Some(_), false) => '✘',
                (Some(_), true) => '!',
            };
            lines.push(format!("{mark} {:<10} {}", check.as_str(), check.holds()));
            for finding in self.of(check) {
                let mut about = Vec::new();
                about.extend(finding.lease.map(|lease| format!("lease {lease}")));
                about.extend(finding.node.map(|node| self.node(node.0)));
                let about =
                    if about.is_empty() { String::new() } else { format!("{}: ", about.join(" on ")) };
                lines.push(format!("    {}", printable(&format!("{about}{}", finding.what))));
            }
            if self.of(check).next().is_some() {
                lines.push(format!("    why it matters: {}", check.why()));
                lines.push(format!("    what to do: {}", check.what_to_do()));
            }
        }
        if let Some(nodes) = &self.nodes {
            lines.push(format!("nodes: {} looked at", nodes.examined));
            for (mark, list) in [("-", &nodes.passed_over), ("?", &nodes.not_reached)] {
                for (node, why) in list {
                    let verb = if mark == "?" { "could not be looked at" } else { "passed over" };
                    lines.push(format!("  {mark} {} {verb}: {}", self.node(node.0), printable(why)));
                }
            }
        } else {
            note("the nodes were not asked (--no-nodes)");
        }
        lines.join("\n")
    }
}
