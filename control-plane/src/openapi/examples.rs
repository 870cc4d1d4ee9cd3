//! Examples of bodies. Requests are read by the real handlers in a test, replies are checked against their
//! schemas; errors are made by the code that makes the real ones.

use crate::error::ApiError;
use orion_domain::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q";
const FINGERPRINT: &str = "SHA256:4p6bDXQyNvQyCVQ0m6Xv9e0sJw4n1yQkM7c2Xm0o6yE";
const BEGIN: &str = "2026-03-02T09:00:00Z";
const END: &str = "2026-03-02T11:00:00Z";

/// The body of a request.
pub fn request(operation: &str) -> Option<Value> {
    Some(match operation {
        "signUp" | "logIn" => json!({ "username": "alice", "password": "correct horse battery" }),
        "rent" => json!({
            "duration_hours": 2, "count": 1, "tags": ["gpu"], "on_node_loss": "migrate", "name": "training",
        }),
        "extend" => json!({ "additional_hours": 1.5 }),
        "registerWorker" => json!({
            "hostname": "node-3", "ip": "10.0.0.13", "ssh_port": 22, "host_keys": [KEY], "tags": ["gpu"],
            "cpu_cores": 16, "memory_mb": 65536, "gpus": ["NVIDIA L4"], "mac": "52:54:00:12:34:56",
            "agent_version": env!("CARGO_PKG_VERSION"),
        }),
        "createJoinToken" => json!({ "note": "rack 4", "expires_hours": 24, "uses": 20 }),
        "acceptHostKey" => json!({ "fingerprint": FINGERPRINT }),
        "drainNode" => json!({ "reason": "new disks", "deadline_hours": 2 }),
        "forgetNode" => json!({ "force": false }),
        "createWebhook" => json!({ "url": "https://hooks.example/orion", "kinds": ["lease.*", "node.dead"] }),
        "liftBrake" => json!({ "reason": "the switch is back" }),
        _ => return None,
    })
}

/// The body of a reply, where the one of its schema does not do.
pub fn reply(operation: &str, status: u16) -> Option<Value> {
    Some(match (operation, status) {
        ("signUp", 201) => json!({ "message": "Account created" }),
        ("logOut", 200) => json!({ "message": "Logged out" }),
        ("showRental", 200) => rental_with_history(),
        ("acceptHostKey", 200) => json!({ "message": "Host key accepted", "node_id": 3 }),
        ("liftQuarantine", 200) => json!({ "message": "Quarantine lifted", "node_id": 3 }),
        ("registerWorker", 200) => {
            json!({ "message": "Worker already registered", "node_id": 3, "ssh_ca": KEY })
        }
        ("undrainNode", 200) => json!({ "message": "The node takes leases again", "node": node() }),
        ("health", 503) => health("unhealthy", "down"),
        ("followEvents", 200) => json!(format!(
            "id: 41\n\nid: 42\nevent: lease.active\ndata: {}\n\n",
            event(42, "lease.active", json!({}))
        )),
        ("deleteWebhook", 200) => json!({ "message": "Webhook deleted" }),
        ("openapi", 200) => json!({ "openapi": "3.1.0", "info": { "title": "Orion" }, "paths": {} }),
        ("metrics", 200) => json!(
            "# HELP orion_leases Leases that are not over, by state.\n# TYPE orion_leases gauge\n\
             orion_leases{state=\"active\"} 12\n# EOF\n"
        ),
        _ => return None,
    })
}

/// A body of a schema.
pub fn of_schema(name: &str) -> Option<Value> {
    Some(match name {
        "AccessToken" => json!({ "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl" }),
        "Account" => json!({ "user_id": 7, "username": "alice", "role": "user" }),
        "RentalTicket" => json!({
            "rental_id": 17, "name": "training", "host_ip": "10.0.0.13", "ssh_port": 22,
            "client_user": "alice", "client_pass": "Vb3sKq9ZtR2mXw7LpN4c", "leased_until": END,
            "node_id": 3, "node_name": "node-3", "ssh_command": "ssh -p 22 alice@10.0.0.13",
            "known_hosts": format!("10.0.0.13 {KEY}\n"),
        }),
        "Released" => json!({ "message": "Lease released", "rental_id": 17, "state": "ended" }),
        "Extension" => {
            json!({ "lease_id": 17, "new_end_at": "2026-03-02T12:30:00Z", "applied": true })
        }
        "Rental" => rental(),
        "Event" => event(42, "lease.active", json!({})),
        "Node" => node(),
        "DrainReply" => draining(),
        "NodeForgotten" => json!({ "message": "Node forgotten", "node_id": 3, "hostname": "node-3" }),
        "Registration" => json!({
            "message": "Worker registered", "node_id": 3, "ssh_ca": KEY,
            "node_token": "orion-node_9fX2bq7Jw0sYd3LkTzVn5A",
        }),
        "JoinToken" => json!({
            "id": 5, "token": "orion-join_Qm4T1c8ZrE6xHs0uKpWv2g", "expires_at": "2026-03-03T09:00:00Z",
            "uses": 20,
        }),
        "BrakeView" => json!({
            "engaged": true, "since": BEGIN, "by": "scheduler-1",
            "reason": "5 of 12 nodes went silent within 30 s",
        }),
        "BrakeLifted" => {
            json!({ "message": "Brake lifted", "brake": { "engaged": false, "since": BEGIN } })
        }
        "NewWebhookView" => json!({
            "id": 2, "url": "https://hooks.example/orion", "kinds": ["lease.*", "node.dead"],
            "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        }),
        "WebhookView" => json!({
            "id": 2, "url": "https://hooks.example/orion", "kinds": ["lease.*", "node.dead"],
            "created_by": 1, "created_at": BEGIN, "pending": 1, "failing": 1, "given_up": 0,
            "last_delivery": delivery("lease.active", "pending"),
        }),
        "WebhookTested" => json!({
            "message": "The receiver took it", "delivery": delivery("webhook.test", "delivered"),
        }),
        "ResetReport" => json!({
            "message": "DB reset OK", "forgotten": 11,
            "kept": [{ "node_id": 3, "hostname": "node-3", "why": "it does not answer" }],
        }),
        "Liveness" => json!({ "status": "live" }),
        "HealthReport" => health("healthy", "up"),
        _ => return None,
    })
}

fn node() -> Value {
    json!({
        "node_id": 3, "hostname": "node-3", "ip": "10.0.0.13", "ssh_port": 22,
        "status": "alive", "status_reason": "SSH answers", "since": "2026-03-01T18:00:00Z",
        "allocated": true, "offerable": false, "dirty": false, "agent": "up",
        "cpu_cores": 16, "memory_mb": 65536, "gpus": ["NVIDIA L4"], "tags": ["gpu"],
        "lease": {
            "rental_id": 17, "user_id": 7, "leased_from": BEGIN, "leased_until": END, "active": true,
        },
        "drain": null,
    })
}

fn delivery(kind: &str, state: &str) -> Value {
    let pending = state == "pending";
    json!({
        "id": 9, "kind": kind, "state": state, "attempts": 1, "last_try_at": BEGIN,
        "next_try_at": pending.then_some(END), "status": if pending { 503 } else { 204 },
        "error": pending.then_some("it answered 503 Service Unavailable"),
    })
}

fn draining() -> Value {
    let mut node = node();
    node["status"] = "draining".into();
    node["status_reason"] = "new disks".into();
    node["drain"] = json!({
        "reason": "new disks", "since": BEGIN, "deadline": END, "state": "moving", "leases_left": 1,
        "leases": [17], "drained_at": null,
    });
    json!({ "message": "The node is being drained", "node": node })
}

fn rental() -> Value {
    json!({
        "rental_id": 17, "name": "training", "user_id": 7, "state": "active", "state_since": BEGIN,
        "state_reason": "the login works", "host_ip": "10.0.0.13", "ssh_port": 22,
        "client_user": "alice", "leased_from": BEGIN, "leased_until": END,
        "on_node_loss": "migrate", "node_id": 3, "node_name": "node-3",
        "ssh_command": "ssh -p 22 alice@10.0.0.13", "known_hosts": format!("10.0.0.13 {KEY}\n"),
        "deadline": "node", "applied": true, "grace_s": orion_domain::agent::DEADLINE_GRACE_S,
        "drain": null,
    })
}

fn rental_with_history() -> Value {
    let mut rental = rental();
    rental["nodes"] = json!([
        { "node_id": 3, "hostname": "node-3", "from": BEGIN, "to": null, "why": null },
    ]);
    rental["events"] =
        json!([event(41, "lease.placed", json!({ "until": END })), event(42, "lease.active", json!({})),]);
    rental
}

fn event(id: i64, kind: &str, data: Value) -> Value {
    json!({
        "id": id, "at": BEGIN, "kind": kind, "lease_id": 17, "node_id": 3, "user_id": 7, "data": data,
    })
}

fn health(status: &str, scheduler: &str) -> Value {
    json!({
        "status": status,
        "parts": {
            "database": { "status": "up" },
            "scheduler": { "status": scheduler, "last_pass": BEGIN },
        },
        "brake": { "engaged": false, "since": null },
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The body of an error: of this operation, or of any.
pub fn problem(operation: &str, status: u16) -> Value {
    let begin: Timestamp = BEGIN.parse().unwrap_or(Timestamp::from_micros(0));
    let error = match (status, operation) {
        (400, "linkAgent") => ApiError::bad_request("Connection header did not include 'upgrade'"),
        (400, _) => ApiError::field("duration_hours", "must be more than 0, not -1"),
        (401, "logIn") => ApiError::unauthorized("wrong name or password"),
        (401, "registerWorker") => ApiError::unauthorized(
            "the join token is wrong, used up or expired; an admin makes one with `orion token create`",
        ),
        (401, "linkAgent") => {
            ApiError::unauthorized("no node has this node token (any more); register again")
                .with("forgotten", true)
        }
        (401, _) => ApiError::unauthorized("the token is no longer valid; log in again"),
        (403, _) => ApiError::forbidden("this needs an admin's account"),
        (404, "release" | "extend" | "showRental") => {
            ApiError::not_found("you have no lease '17'; GET /api/rentals lists yours")
        }
        (404, "docsFile") => ApiError::not_found("there is no file 'x' here"),
        (404, "deleteWebhook" | "testWebhook") => {
            ApiError::not_found("there is no webhook 2; GET /api/admin/webhooks lists them")
        }
        (404, _) => ApiError::not_found("there is no node 3"),
        (409, "signUp") => ApiError::conflict("name_taken", "the name 'alice' is taken; choose another"),
        (409, "rent") => ApiError::conflict(
            "name_taken",
            "you have a lease called 'training' already; choose another name",
        ),
        (409, "extend") => ApiError::conflict("wrong_state", "a lease that is ended cannot be extended"),
        (409, "registerWorker") => ApiError::conflict(
            "node_known",
            "node 3 has this name already; only its own node token can change it",
        )
        .hint("if the machine was set up anew, let an admin forget the old node first: orion nodes forget 3"),
        (409, "acceptHostKey") => {
            ApiError::conflict("fingerprint_differs", format!("the key seen at node 3 is {FINGERPRINT}"))
        }
        (409, "forgetNode") => ApiError::conflict("node_leased", "lease 17 is on node 3")
            .hint("end the lease first (orion release 17) or empty the node (orion nodes drain 3)"),
        (409, "undrainNode") => ApiError::conflict("not_draining", "node 3 is not being drained"),
        (409, "liftQuarantine") => ApiError::conflict("not_quarantined", "node 3 is not in quarantine"),
        (409, "createWebhook") => {
            ApiError::conflict("too_many_webhooks", "there are 100 webhooks already; delete some")
        }
        (413, _) => ApiError::too_large(),
        (422, _) => ApiError::key_reused(),
        (429, _) => ApiError::too_many("too many failed logins; try again in 42 s", 42),
        (503, "rent") => ApiError::too_few_free(2, 1, Some(begin.plus(Duration::from_secs(1_800))), begin)
            .hint("ask for fewer nodes, or try again when the next lease ends"),
        (503, _) => ApiError::unavailable("the database does not answer; try again in a moment"),
        _ => ApiError::our_fault(),
    };
    error.body()
}
