//! The second half of the story: the worker dies, the lease moves, the worker returns and is cleaned; more
//! time, the end of the lease, the end of everything.

use super::story::{AS_ADMIN, AS_USER, Look, Story, USER};
use super::system::LAUNCH;
use orion_console::{Failure, Outcome, terminal};
use serde_json::Value;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Time for which the scheduler moves nothing after its start (`hold_after_start` in
/// scheduler/src/config.rs), and some time to start.
const HOLD_AFTER_START: Duration = Duration::from_millis(5500);
/// Longest time that a lease may take to move.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until a worker that came back is offered.
const RETURN_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time until the end of a lease shows.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Formats a change for the output: the time since it began, and the new state.
fn change(since: Instant, text: &str) -> String {
    format!("  +{:>5.2} s  {text}", since.elapsed().as_secs_f64())
}

/// A value for people: a text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Story<'_> {
    /// The lease's worker loses all its processes; the lease is watched until it is active elsewhere.
    ///
    /// # Errors
    /// When it does not move.
    pub fn kill_and_watch(&mut self) -> Outcome {
        self.begin("That worker dies; its lease moves");
        let (dead, rental) = (self.login.node, self.login.rental);
        self.wait_for_the_end_of_the_hold()?;
        let killed = Instant::now();
        let kill = format!("{LAUNCH} --kill {}", self.login.worker);
        self.shell.must(&kill)?;
        let line = format!("curl $API/api/rentals/{rental} {AS_USER}");
        terminal::command(&format!("{line}   # again and again"));
        let mut told = String::new();
        self.wait("the lease moves", MOVE_TIMEOUT, |shell, waiting| {
            let reply = shell.ask(&line)?;
            if reply.status != 200 {
                return Err(reply.failure("the lease should be shown"));
            }
            let body = &reply.body;
            let (state, node) = (plain(&body["state"]), body["node_id"].as_u64());
            let reason =
                body["state_reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let place = body["node_name"].as_str().map(|name| format!(" on {name}")).unwrap_or_default();
            let seen = format!("{state}{place}{reason}");
            if seen != told {
                waiting.say(&change(killed, &seen));
                told.clone_from(&seen);
            }
            let is_moved = state == "active" && node.is_some_and(|node| node != dead);
            Ok(if is_moved { Look::Done(()) } else { Look::NotYet(seen) })
        })?;
        self.took("worker killed, until the lease is active elsewhere", killed.elapsed());
        let keys = [
            "state",
            "node_name",
            "host_ip",
            "ssh_port",
            "client_user",
            "leased_until",
            "ssh_command",
            "nodes",
        ];
        let reply = self.shell.curl_part(&line, 200, &keys)?;
        self.login.node = reply.number("/node_id")?;
        self.login.ssh_command = reply.text("/ssh_command")?;
        self.keep_known_hosts(&reply, "/known_hosts")?;
        self.login.worker = self.worker_of(self.login.node)?;
        if reply.text("/client_user")? != USER || reply.body["rental_id"] != rental {
            return Err(reply.failure("the lease and its user should be the same as before"));
        }
        Ok(())
    }

    /// A scheduler moves nothing in its first seconds: a node that looks dead then may be one that it has not
    /// reached yet. In this demo that would be all that the reader waits for.
    ///
    /// # Errors
    /// When we are told to end.
    pub fn wait_for_the_end_of_the_hold(&mut self) -> Outcome {
        let started = self.orion_started;
        self.wait(
            "the scheduler's first seconds, in which it moves nothing, are over",
            MOVE_TIMEOUT,
            |_, _| {
                Ok(match HOLD_AFTER_START.checked_sub(started.elapsed()) {
                    None => Look::Done(()),
                    Some(left) => Look::NotYet(format!("{} left", terminal::seconds(left))),
                })
            },
        )
    }

    /// The dead worker boots again, with everything that was on its disk.
    ///
    /// # Errors
    /// When it is offered uncleaned, or not at all.
    pub fn bring_back(&mut self) -> Outcome {
        self.begin("The dead worker comes back, and is cleaned before it is offered");
        let nodes = self.shell.ask(&format!("curl $API/api/nodes {AS_ADMIN}"))?;
        let is_dead = |node: &&Value| node["status"] == "dead";
        let node =
            nodes.list()?.iter().find(is_dead).ok_or_else(|| nodes.failure("one node should be dead"))?;
        let name = plain(&node["hostname"]);
        let line = format!("curl $API/api/nodes/{} {AS_ADMIN}", node["node_id"]);
        let returned = Instant::now();
        self.shell.must(&format!("{LAUNCH} --start {name}"))?;
        terminal::command(&format!("{line}   # again and again"));
        let mut told = String::new();
        let report = self.wait("it is cleaned", RETURN_TIMEOUT, |shell, waiting| {
            let reply = shell.ask(&line)?;
            let node = &reply.body;
            let seen = format!(
                "{}, dirty: {}, offered: {}",
                plain(&node["status"]),
                node["dirty"],
                node["offerable"]
            );
            if seen != told {
                waiting.say(&change(returned, &seen));
                told.clone_from(&seen);
            }
            let report = &node["admin"]["last_clean_report"];
            match node["offerable"] == true {
                true if report.to_string().contains(USER) => Ok(Look::Done(report.clone())),
                true => Err(reply.failure(&format!("it is offered, but its report names no {USER}"))),
                false => Ok(Look::NotYet(seen)),
            }
        })?;
        terminal::line(&format!("  last_clean_report: {}", super::shell::fitted(&report)));
        self.took("worker started again, until it is clean and offered", returned.elapsed());
        self.expect_no_account(&name)
    }

    /// Looks at a worker from inside: no account, no home.
    fn expect_no_account(&self, worker: &str) -> Outcome {
        let line = format!("{LAUNCH} --sh {worker} sh -c 'id {USER}; ls -A /home'");
        let ran = self.shell.run(&line)?;
        // Debian's words, and BusyBox's.
        let is_unknown = ["no such user", "unknown user"].iter().any(|words| ran.err.contains(words));
        let is_clean = is_unknown && !ran.out.contains(USER);
        match is_clean {
            true => {
                terminal::good(&format!("{worker} holds neither an account nor a home of {USER}"));
                Ok(())
            }
            false => Err(ran.failure(&line, &format!("nothing of {USER} should be left on {worker}"))),
        }
    }

    /// One hour more.
    ///
    /// # Errors
    /// When the node does not hear of it.
    pub fn extend(&mut self) -> Outcome {
        self.begin("Extend the lease by an hour");
        let rental = self.login.rental;
        let line = format!("curl $API/api/extend/{rental} {AS_USER} --json '{{\"additional_hours\": 1}}'");
        let reply = self.shell.curl(&line, 200)?;
        let until = reply.text("/new_end_at")?;
        self.took("extend", reply.time);
        let line = format!("curl $API/api/rentals/{rental} {AS_USER}");
        self.wait("the node knows the new end", END_TIMEOUT, |shell, _| {
            let reply = shell.ask(&line)?;
            let is_known = reply.body["applied"] == true && reply.body["leased_until"] == until.as_str();
            Ok(match is_known {
                true => Look::Done(()),
                false => Look::NotYet(format!("applied: {}", reply.body["applied"])),
            })
        })?;
        terminal::good(&format!("the node knows that the lease ends at {until}"));
        Ok(())
    }

    /// The lease ends, and the login with it.
    ///
    /// # Errors
    /// When the login still works.
    pub fn release(&mut self) -> Outcome {
        self.begin("Release it; the login is refused");
        let line = format!("curl -X POST $API/api/release/{} {AS_USER}", self.login.rental);
        let reply = self.shell.curl(&line, 200)?;
        if reply.body["message"] != "Lease released" {
            return Err(reply.failure("the message should be 'Lease released'"));
        }
        self.took("release", reply.time);
        let line = self.ssh("hostname");
        let ran = self.shell.run(&line)?;
        if ran.status != Some(255) || !ran.err.contains("Permission denied") {
            return Err(ran.failure(&line, "the login should be refused"));
        }
        terminal::good("the login is refused");
        let worker = self.login.worker.clone();
        let gone = format!("{LAUNCH} --sh {worker} id {USER}");
        self.wait("the account is gone", END_TIMEOUT, |shell, _| {
            let ran = shell.quietly(&gone)?;
            let is_gone = ran.err.contains("no such user");
            Ok(if is_gone { Look::Done(()) } else { Look::NotYet(ran.out.trim().to_owned()) })
        })?;
        self.expect_no_account(&worker)
    }

    /// Resets the system: all leases end, and the workers register again by themselves.
    ///
    /// # Errors
    /// When a lease, an account or a node is left that should not be.
    pub fn reset(&mut self) -> Outcome {
        self.begin("Two more leases, and a reset by the admin: the workers register again");
        let before = self.registrations(|_| true)?;
        let line = format!("curl $API/api/rent {AS_USER} --json '{{\"duration_hours\": 1, \"count\": 2}}'");
        let reply = self.shell.curl(&line, 200)?;
        let rented = reply.list()?.len();
        if rented != 2 {
            return Err(reply.failure("two nodes should be rented"));
        }
        self.took("rent of two nodes at once", reply.time);
        let reply = self.shell.curl(&format!("curl -X POST $API/api/reset {AS_ADMIN}"), 200)?;
        if reply.body["message"] != "DB reset OK" || reply.body["kept"] != Value::Array(Vec::new()) {
            return Err(reply.failure("every node should have been cleaned and forgotten"));
        }
        self.took("reset", reply.time);
        let line = format!("curl $API/api/rentals {AS_USER}");
        let left = self.shell.curl(&line, 200)?;
        if !left.list()?.is_empty() {
            return Err(left.failure("no lease should be left"));
        }
        let is_new = |node: &Value| {
            before.get(&plain(&node["hostname"])) != Some(&plain(&node["admin"]["registered_at"]))
        };
        let after = self.registrations(is_new)?;
        let workers = self.system.kinds.len();
        if after.len() != workers {
            return Err(Failure::new(format!(
                "{workers} workers should have registered again, not {after:?}"
            )));
        }
        self.show_nodes()?;
        terminal::good("all workers have registered again and are offered");
        for worker in after.keys() {
            self.expect_no_account(worker)?;
        }
        Ok(())
    }

    /// Returns the time at which each worker registered, as soon as all are offered.
    fn registrations(&mut self, is_right: impl Fn(&Value) -> bool) -> Outcome<HashMap<String, String>> {
        let nodes = self.wait_for_nodes(is_right)?;
        let entry = |node: &Value| (plain(&node["hostname"]), plain(&node["admin"]["registered_at"]));
        Ok(nodes.iter().map(entry).collect())
    }
}
