//! What background tasks ask of the store, again and again: the schedulers' and the control planes'.

use super::{Case, side::Side};
use crate::{broken::Context as _, ground::place};
use futures_util::future::BoxFuture;
use orion_domain::{Timestamp, lease::EndReason};
use orion_store::{EventTail, Kept, Prunable, Scope, Sighting, StoreError};
use std::time::{Duration, Instant};

/// Number of rows that a look reads, as in the scheduler's tasks.
const AT_ONCE: u32 = 256;

fn task(
    name: impl Into<String>,
    ask: impl for<'a> Fn(&'a Side, usize) -> BoxFuture<'a, Result<(), StoreError>> + Copy + Send + Sync + 'static,
) -> Case {
    let name = name.into();
    let doing = name.clone();
    Case::new(name, move |side, n| {
        let (doing, began) = (doing.clone(), Instant::now());
        let asked = ask(side, n);
        Box::pin(async move {
            asked.await.context(&doing)?;
            Ok(began.elapsed())
        })
    })
}

/// A case whose result nobody needs.
macro_rules! asks {
    ($cases:ident, $($name:literal => |$side:ident, $n:ident| $ask:expr;)*) => {
        $($cases.push(task($name, |$side, $n| Box::pin(async move {
            let _ = $n;
            std::hint::black_box($ask.await?);
            Ok(())
        })));)*
    };
}

/// Every case, by the name of the store's function.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    asks! { cases,
        "now" => |side, n| side.store().now();
        "cluster.heartbeat" => |side, n| side.store().cluster().heartbeat("benchmark", "scheduler", side.now());
        "cluster.replicas" => |side, n| side.store().cluster().replicas();
        "cluster.brake" => |side, n| side.store().cluster().brake();
        "nodes.machines_to_compare" => |side, n| side.store().nodes().machines_to_compare(AT_ONCE);
        "nodes.silent_since" => |side, n| side.store().nodes().silent_since(recently(side));
        "nodes.versions" => |side, n| side.store().nodes().versions(Some(recently(side)));
        "nodes.versions of all" => |side, n| side.store().nodes().versions(None);
        "nodes.by_ids" => |side, n| side.store().nodes().by_ids(&side.nodes);
        "nodes.all" => |side, n| side.store().nodes().all();
        "nodes.addresses" => |side, n| side.store().nodes().addresses();
        "nodes.get" => |side, n| side.store().nodes().get(side.first_node());
        "leases.get" => |side, n| side.store().leases().get(side.ended);
        "leases.due" => |side, n| side.store().leases().due(side.now(), AT_ONCE);
        "leases.next_due" => |side, n| side.store().leases().next_due(side.now());
        "nodes.dirty" => |side, n| side.store().nodes().dirty(side.now(), AT_ONCE);
        "leases.orphaned" => |side, n| side.store().leases().orphaned(side.now(), AT_ONCE);
        "nodes.leases_on_dead_nodes" => |side, n| side.store().nodes().leases_on_dead_nodes(AT_ONCE);
        "leases.to_migrate" => |side, n| side.store().leases().to_migrate("", None, AT_ONCE);
        "containers.waiting" => |side, n| side.store().containers().waiting(side.now(), AT_ONCE);
        "containers.sweep_ports" => |side, n| side.store().containers().sweep_ports(recently(side), side.now());
        "containers.engines_to_ask" => |side, n| side.store().containers().engines_to_ask(side.now(), AT_ONCE);
        "containers.published_apps" => |side, n| side.store().containers().published_apps();
        "images.disks_due" => |side, n| side.store().images().disks_due(recently(side), recently(side), AT_ONCE);
        "images.sweep_rights" => |side, n| side.store().images().sweep_rights(side.now());
        "containers.nodes_with_running" => |side, n| side.store().containers().nodes_with_running();
        "containers.nodes_left" => |side, n| side.store().containers().nodes_left(recently(side));
        "containers.silent_engines" => |side, n| side.store().containers().silent_engines();
        "nodes.is_draining" => |side, n| side.store().nodes().is_draining();
        "nodes.leases_to_move_off" => |side, n| side.store().nodes().leases_to_move_off(side.now(), AT_ONCE);
        "nodes.has_free" => |side, n| side.store().nodes().has_free(&[], orion_domain::lease::Holding::WholeNode);
        "nodes.due_drains" => |side, n| side.store().nodes().due_drains(side.now());
        "nodes.emptied" => |side, n| side.store().nodes().emptied(side.now());
        "nodes.leases_leaving" => |side, n| side.store().nodes().leases_leaving(&side.nodes);
        "cluster.peer_probes_for" => |side, n| side.store().cluster().peer_probes_for("benchmark", AT_ONCE);
        "cluster.sweep_peer_probes" => |side, n| side.store().cluster().sweep_peer_probes(recently(side));
        "nodes.touch_seen" => |side, n| {
            let seen = Sighting { last_seen: side.now(), open_at: None };
            async move { side.store().nodes().touch_seen(&[(side.first_node(), seen)]).await }
        };
        "admin.audit" => |side, n| side.store().admin().audit(Scope::Recent, side.now());
        "admin.audit_node" => |side, n| side.store().admin().audit_node(side.first_node());
        "leases.end_request" => |side, n| {
            async move { side.store().leases().end_request("no such", &EndReason::Expired, side.now()).await }
        };
        "webhooks.sweep_deliveries" => |side, n| side.store().webhooks().sweep_deliveries(side.now());
        "webhooks.list" => |side, n| side.store().webhooks().list();
        "webhooks.with_due" => |side, n| side.store().webhooks().with_due(side.now());
        "webhooks.due_deliveries" => |side, n| side.store().webhooks().due_deliveries(side.webhook, side.now(), 8);
        "webhooks.fan_out" => |side, n| side.store().webhooks().fan_out(&[], side.now());
        "webhooks.settle" => |side, n| async move {
            let last = EventTail::from_now(side.store()).await?.position();
            side.store().webhooks().settle(&[side.webhook], last).await
        };
        "admin.lease_counts" => |side, n| side.store().admin().lease_counts();
        "admin.container_counts" => |side, n| side.store().admin().container_counts();
        "admin.full_disks" => |side, n| side.store().admin().full_disks();
        "admin.node_counts" => |side, n| side.store().admin().node_counts();
        "accounts.standings" => |side, n| side.store().accounts().standings(&[side.tenant, side.admin]);
        "nodes.gone" => |side, n| side.store().nodes().gone(&side.nodes);
        "leases.on_nodes" => |side, n| side.store().leases().on_nodes(&side.nodes);
        "idempotency.sweep" => |side, n| side.store().idempotency().sweep(side.now());
        "events.append" => |side, n| side.tell();
        "EventTail of a stream that begins" => |side, n| EventTail::from_now(side.store());
        "EventTail of a stream that goes on" => |side, n| async move {
            let last = EventTail::from_now(side.store()).await?.position();
            EventTail::resume(side.store(), last).await
        };
        "EventTail that gives what is new" => |side, n| async move {
            let mut tail = EventTail::from_now(side.store()).await?;
            side.tell().await?;
            tail.poll(side.store()).await
        };
    }
    for what in Prunable::ALL {
        cases.push(task(format!("admin.prune {}", what.table()), move |side, _| {
            Box::pin(async move {
                let begin = Timestamp::from_micros(0);
                side.store().admin().prune(what, &Kept::default(), begin, side.now()).await.map(drop)
            })
        }));
    }
    cases.push(placing());
    cases
}

fn recently(side: &Side) -> Timestamp {
    side.now().minus(Duration::from_secs(10))
}

/// A rental, as far as it is the database's: the last node is free for it, and only for it.
fn placing() -> Case {
    Case::new("place".into(), |side, _| {
        Box::pin(async move {
            side.free_a_node().await?;
            let began = Instant::now();
            place(side.store(), side.spare, 1).await?;
            Ok(began.elapsed())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// Reads and writes a row, or those of one node, by its number, when something happens: what has gathered in the
    /// tables does not matter.
    const BY_NUMBER: [&str; 34] = [
        "nodes.admit",
        "cluster.answer_peer_probe",
        "cluster.ask_peer_probe",
        "webhooks.claim_delivery",
        "nodes.claim",
        "nodes.compare_machine",
        "nodes.reconcile_high_water",
        "nodes.end_drain",
        "cluster.end_peer_probe",
        "nodes.fail_reconcile",
        "webhooks.finish_delivery",
        "nodes.finish_drain",
        "nodes.finish_reconcile",
        "is_for_one_process",
        "nodes.leave_refusing_node",
        "cluster.release_brake",
        "leases.migrate",
        "nodes.order_lock",
        "nodes.proved_host_keys",
        "cluster.engage_brake",
        "nodes.quarantine_as_seen",
        "nodes.release_claim",
        "cluster.put_task_statuses",
        "cluster.remove_replica",
        "retries",
        "nodes.record_host_key",
        "cluster.peer_probe_answer",
        "agents.set_clock_off",
        "nodes.set_health",
        "leases.set_waiting",
        "agents.set_way_in",
        "agents.sightings",
        "nodes.take_off_dead_node",
        "agents.way_in_not_seen",
    ];

    /// Names of functions that are called on a store in these sources; not in their tests.
    fn asked_in(path: &Path, found: &mut BTreeSet<String>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                asked_in(&entry.unwrap().path(), found);
            }
            return;
        }
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code.chars().filter(|character| !character.is_whitespace()).collect();
        for (at, _) in code.match_indices("store.") {
            let rest = &code[at + "store.".len()..];
            let name: String = rest
                .chars()
                .take_while(|character| character.is_alphanumeric() || *character == '_')
                .collect();
            // Of a subject's handle: `store.leases().due(`.
            if let Some(of_handle) = rest[name.len()..].strip_prefix("().") {
                let end = of_handle.find('(').unwrap_or_default();
                found.insert(format!("{name}.{}", &of_handle[..end]));
            } else if rest[name.len()..].starts_with('(') {
                found.insert(name);
            }
        }
    }

    #[test]
    fn whatever_a_background_task_asks_is_measured_or_is_done_by_number() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut asked = BTreeSet::new();
        asked_in(&root.join("scheduler/src/tasks"), &mut asked);
        asked_in(&root.join("crates/fleet/src/metrics.rs"), &mut asked);
        assert!(asked.len() > 40, "{asked:?}");
        let measured: BTreeSet<String> =
            cases().iter().filter_map(|case| case.name.split(' ').next().map(str::to_owned)).collect();
        let forgotten: Vec<&String> = asked
            .iter()
            .filter(|name| !measured.contains(*name) && !BY_NUMBER.contains(&name.as_str()))
            .collect();
        assert!(forgotten.is_empty(), "neither measured nor done by number: {forgotten:?}");
    }
}
