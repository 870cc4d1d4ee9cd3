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
        "changePassword" => json!({
            "old_password": "the one until now", "new_password": "correct horse battery staple",
        }),
        "keepRegistryLogin" => json!({ "username": "alice", "password": "an access token" }),
        "disableUser" => json!({ "leases": "end" }),
        "setUserQuotas" => json!({ "nodes": 8, "lease_hours": 720 }),
        "createInvite" => json!({ "note": "for Bob", "expires_hours": 48, "uses": 1 }),
        "setUserPassword" => json!({ "password": "correct horse battery" }),
        "rent" => json!({
            "duration_hours": 2, "count": 1, "tags": ["gpu"], "on_node_loss": "migrate", "name": "training",
        }),
        "extend" => json!({ "additional_hours": 1.5 }),
        "runContainer" => json!({
            "image": "debian:12", "name": "web", "command": ["sh", "-c"], "args": ["exec sleep 3600"], "cpus": 0.5,
            "memory_mb": 256, "env": { "WORD": "value" }, "restart": "on-failure:3", "ports": [8080],
        }),
        "openContainer" => json!({ "port": 8080 }),
        "registerWorker" => json!({
            "hostname": "node-3", "ip": "10.0.0.13", "ssh_port": 22, "host_keys": [KEY], "tags": ["gpu"],
            "cpu_cores": 16, "memory_mb": 65536, "gpus": ["NVIDIA L4"], "mac": "52:54:00:12:34:56",
            "agent_version": env!("CARGO_PKG_VERSION"),
        }),
        "createJoinToken" => json!({ "note": "rack 4", "expires_hours": 24, "uses": 20 }),
        "acceptHostKey" => json!({ "fingerprint": FINGERPRINT }),
        "drainNode" => json!({ "reason": "new disks", "deadline_hours": 2 }),
        "forgetNode" => json!({ "force": false }),
        "declareNodeDead" => json!({ "reason": "its power supply burnt" }),
        "createWebhook" => json!({ "url": "https://hooks.example/orion", "kinds": ["lease.*", "node.dead"] }),
        "liftBrake" => json!({ "reason": "the switch is back" }),
        _ => return None,
    })
}

fn stats() -> Value {
    json!({
        "read_at": BEGIN, "cpus_used": 0.412, "memory_bytes": 73_400_320, "memory_limit_bytes": 268_435_456,
        "received_bytes": 18_220, "sent_bytes": 1_204, "pids": 3,
    })
}

fn container() -> Value {
    json!({
        "name": "web", "rental_id": 17, "state": "running", "state_since": BEGIN, "state_reason": null,
        "wanted": "started", "image": "docker.io/library/debian:12",
        "spec": {
            "image": "docker.io/library/debian:12", "command": ["sh", "-c"], "args": ["exec sleep 3600"],
            "cpu_milli": 500, "memory_mb": 256, "gpus": 0, "ports": [8080], "name": "web", "restart": "on-failure:3",
            "shm_mb": 64, "public": false,
        },
        "node_id": 3, "engine_id": "4f5d0c5d9b3f4a0f", "access_url": "https://17-8080.apps.example/",
        "ports": [{ "port": 8080, "node_port": 20001, "access_url": "https://17-8080.apps.example/" }], "exit_code": null, "oom_killed": false, "step": null,
        "bytes_done": null, "bytes_total": null, "created_at": BEGIN, "started_at": BEGIN, "finished_at": null,
    })
}

/// The body of a reply, where the one of its schema does not do.
pub fn reply(operation: &str, status: u16) -> Option<Value> {
    Some(match (operation, status) {
        ("containerLogs", 200) => json!("{\"stream\":\"stdout\",\"text\":\"ready\\n\"}\n"),
        ("removeRegistryLogin", 200) => json!({ "message": "Login forgotten" }),
        ("signUp", 201) => json!({ "message": "Account created" }),
        ("logOut", 200) => json!({ "message": "Logged out" }),
        ("showRental", 200) => rental_with_history(),
        ("rent", 202) => {
            let mut container = container();
            for (key, value) in [
                ("state", json!("pulling")),
                ("step", json!("pulling the image: 1 of 3 layers")),
                ("bytes_done", json!(12_000_000)),
                ("bytes_total", json!(48_500_000)),
                ("engine_id", Value::Null),
                ("started_at", Value::Null),
            ] {
                container[key] = value;
            }
            json!([{
                "rental_id": 17, "name": "training", "host_ip": "10.0.0.13", "ssh_port": 22, "client_user": null,
                "client_pass": null, "leased_until": END, "node_id": 3, "node_name": "node-3",
                "ssh_command": null, "known_hosts": null, "state": "provisioning", "containers": [container],
            }])
        }
        ("acceptHostKey", 200) => json!({ "message": "Host key accepted", "node_id": 3 }),
        ("declareNodeDead", 200) => {
            json!({ "message": "The node counts as dead", "node_id": 3, "moving": [17], "ended": [] })
        }
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
        ("enableUser", 200) => account_reply("Account enabled"),
        ("promoteUser", 200) => {
            let mut reply = account_reply("Account promoted");
            reply["user"]["role"] = "admin".into();
            reply
        }
        ("setUserQuotas", 200) => {
            let mut reply = account_reply("Quotas set");
            (reply["user"]["quotas"]["nodes"], reply["user"]["quotas"]["lease_hours"]) =
                (8.into(), 720.into());
            reply
        }
        ("demoteUser", 200) => account_reply("Account demoted"),
        ("setUserPassword", 200) => account_reply("Password set"),
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
        "OpenedContainer" => json!({
            "url": "https://17-8080.apps.example/.orion/open?ticket=eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2ln",
            "expires_at": "2026-03-02T09:01:00Z",
        }),
        "AccessToken" => json!({ "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl" }),
        "Account" => json!({
            "user_id": 7, "username": "alice", "role": "user", "quotas": {
                "nodes": { "limit": 100, "used": 2 }, "lease_hours": { "limit": 2160 },
                "streams": { "limit": 100, "used": 1 }, "keys": { "limit": 10_000, "used": 3 },
            },
        }),
        "Invite" => json!({
            "id": 4, "invite": "orion-invite_Qm4T1c8ZrE6xHs0uKpWv2g", "expires_at": END, "uses": 1,
        }),
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
        "Container" => container(),
        "ContainerStats" => stats(),
        "RegistryLogin" => {
            json!({ "registry": "registry.example:5000", "username": "alice", "changed_at": BEGIN })
        }
        "ImageTest" => json!({
            "image": "docker.io/library/debian:12", "exists": true, "reason": null,
            "digest": "sha256:6ac2c08566499cc2415926653cf2ed7c3aedac445675a013cc09469c9e118fdd",
            "platforms": ["linux/amd64", "linux/arm64/v8"], "platform": "linux/amd64", "layers": 1,
            "size_bytes": 48_480_000, "on_node": null,
        }),
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
        "UserAccount" => account(),
        "Disabled" => {
            let mut user = account();
            (user["disabled"], user["disabled_at"], user["leases"]) = (true.into(), END.into(), 0.into());
            let lease = json!({ "rental_id": 17, "name": "training", "state": "ended", "leased_until": END });
            json!({ "message": "Account disabled", "user": user, "leases": [lease] })
        }
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
    let lease =
        json!({ "rental_id": 17, "user_id": 7, "leased_from": BEGIN, "leased_until": END, "active": true });
    json!({
        "node_id": 3, "hostname": "node-3", "ip": "10.0.0.13", "ssh_port": 22,
        "status": "alive", "status_reason": "SSH answers", "since": "2026-03-01T18:00:00Z",
        "allocated": true, "offerable": false, "dirty": false, "agent": "up",
        "way_in": "open", "way_in_since": "2026-03-01T18:00:00Z",
        "way_in_at": "2026-03-01T18:59:30Z", "way_in_reason": null,
        "cpu_cores": 16, "memory_mb": 65536, "gpus": ["NVIDIA L4"], "tags": ["gpu"],
        "capacity": {
            "cpus": { "total": 16.0, "held": 16.0, "free": 0.0 },
            "memory_mb": { "total": 65536, "held": 65536, "free": 0 },
            "gpus": { "total": 1, "held": 1, "free": 0 },
            "shrunk": false,
            "gpu_devices": [{
                "uuid": "GPU-5b1c2d9e-7a4f-4c0e-9d3b-1f6a8e2c7b90", "number": 0, "model": "NVIDIA L4",
                "memory_mb": 23034, "present": true, "held": true,
            }],
        },
        "containers": { "offered": true, "reason": null, "engine": "docker 20.10.24 (API 1.41)" },
        "lease": lease, "leases": [lease], "drain": null,
    })
}

fn account() -> Value {
    json!({
        "user_id": 8, "username": "bob", "role": "user", "disabled": false, "disabled_at": null,
        "created_at": BEGIN, "leases": 1,
        "quotas": { "nodes": null, "lease_hours": null, "streams": null, "keys": null },
    })
}

fn account_reply(message: &str) -> Value {
    json!({ "message": message, "user": account() })
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
        "client_user": "alice", "leased_from": BEGIN, "leased_until": END, "slice": null,
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
        "tasks": [{
            "name": "expire", "state": "ok", "last_run": BEGIN, "took_ms": 3, "running_since": null,
            "failures": 0, "found": 0, "started": 0,
        }],
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The body of an error: of this operation, or of any.
pub fn problem(operation: &str, status: u16) -> Value {
    let begin: Timestamp = BEGIN.parse().unwrap_or(Timestamp::from_micros(0));
    let error = match (status, operation) {
        (400, "linkAgent" | "execInContainer" | "forwardToContainer") => {
            ApiError::bad_request("Connection header did not include 'upgrade'")
        }
        (400, _) => ApiError::field("duration_hours", "must be more than 0, not -1"),
        (401, "logIn") => ApiError::unauthorized("wrong name or password"),
        (401, "registerWorker") => ApiError::unauthorized(
            "the join token is wrong, used up or expired; an admin makes one with `orion token create`",
        ),
        (401, "linkAgent") => {
            ApiError::unauthorized("no node has this node token (any more); register again")
                .with("forgotten", true)
        }
        (401, "mayVisit") => ApiError::unauthorized("this page is its owner's alone")
            .hint("open it: orion open LEASE CONTAINER"),
        (403, "mayVisit") => ApiError::forbidden(
            "this link was used already, or is too old; get another one: orion open LEASE CONTAINER",
        ),
        (404, "mayVisit") => ApiError::not_found("nothing has this name"),
        (401, _) => ApiError::unauthorized("the token is no longer valid; log in again"),
        (403, "changePassword") => ApiError::forbidden("the old password is wrong"),
        (403, "signUp") => ApiError::sign_up_refused("sign-up is by invitation here; ask an admin for one"),
        (403, "logIn") => ApiError::disabled("alice"),
        (403, _) => ApiError::forbidden("this needs an admin's account"),
        (404, "release" | "extend" | "showRental") => {
            ApiError::not_found("you have no lease '17'; GET /api/rentals lists yours")
        }
        (404, "runContainer" | "listContainers" | "testImage") => {
            ApiError::not_found("you have no lease '17'; GET /api/rentals lists yours")
        }
        (404, operation) if operation.contains("ontainer") => {
            ApiError::not_found("the lease has no container 'web'; GET /api/rentals/17/containers lists them")
        }
        (404, "showRegistryLogin" | "removeRegistryLogin") => ApiError::not_found(
            "you have no login at registry.example:5000; GET /api/account/registries lists yours",
        ),
        (404, "docsFile") => ApiError::not_found("there is no file 'x' here"),
        (404, operation) if operation.contains("User") => {
            ApiError::not_found("there is no account 'bob'; GET /api/admin/users lists them")
        }
        (404, _) => ApiError::not_found("there is no node 3"),
        (409, "signUp") => ApiError::conflict("name_taken", "the name 'alice' is taken; choose another"),
        (409, "rent") => ApiError::conflict(
            "name_taken",
            "you have a lease called 'training' already; choose another name",
        ),
        (409, "runContainer") => ApiError::conflict(
            "name_taken",
            "the lease has a container 'web' already; choose another name, or remove that one",
        ),
        (409, "stopContainer" | "restartContainer" | "removeContainer") => {
            ApiError::conflict("lease_over", "the container, or its lease, is over")
        }
        (409, "forwardToContainer") => {
            ApiError::conflict("container_state", "conflict: nobody listens at port 8080 of the container")
        }
        (409, "containerStats" | "execInContainer") => {
            ApiError::conflict("container_state", "the container does not run; it is exited")
        }
        (409, "openContainer") => {
            ApiError::conflict("no_port", "the container 'web' publishes no port, or is not on its node yet")
        }
        (409, "containerLogs") => {
            ApiError::conflict("no_log", "the container was not made on a node yet; it has no log")
        }
        (409, "extend") => ApiError::conflict("wrong_state", "a lease that is ended cannot be extended"),
        (409, "keepRegistryLogin") => ApiError::conflict(
            "too_many_logins",
            "you have logins at 50 registries already; remove one first",
        ),
        (409, "registerWorker") => ApiError::conflict(
            "node_known",
            "node 3 has this name already; only its own node token can change it",
        )
        .hint("if the machine was set up anew, let an admin forget the old node first: orion nodes forget 3"),
        (409, "linkAgent") => ApiError::second_machine(orion_domain::NodeId(3)),
        (409, "acceptHostKey") => {
            ApiError::conflict("fingerprint_differs", format!("the key seen at node 3 is {FINGERPRINT}"))
        }
        (409, "declareNodeDead") => {
            ApiError::conflict("node_alive", "node 3 is alive and cannot be declared dead")
                .hint("empty it instead: orion nodes drain 3")
        }
        (409, "forgetNode") => {
            ApiError::conflict("node_leased", "lease 17 is on node 3, which cannot be forgotten before")
                .hint("end the lease first (orion release 17) or empty the node (orion nodes drain 3)")
        }
        (409, "undrainNode") => {
            ApiError::conflict("not_draining", "node 3 is not being drained and cannot be undrained")
        }
        (409, "liftQuarantine") => {
            ApiError::conflict("not_quarantined", "node 3 is not in quarantine and cannot be taken out of it")
        }
        (409, "disableUser" | "demoteUser") => {
            ApiError::conflict("last_admin", "'bob' is the last admin; make another one first")
                .hint("orion users promote NAME")
        }
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
