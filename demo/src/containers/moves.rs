//! The node of the containers dies, and they run again elsewhere; then everything is released.

use super::{Containers, TENANTS, TIMEOUT, container, text};
use crate::story::{AS_ADMIN, Look};
use crate::system::LAUNCH;
use orion_console::{Failure, Outcome, terminal};
use std::time::{Duration, Instant};

/// Longest time until a worker that came back is offered.
const RETURN_TIMEOUT: Duration = Duration::from_secs(90);

impl Containers<'_, '_> {
    /// The worker of `train` loses all its processes.
    ///
    /// # Errors
    /// When its containers do not run on another one, under the same name.
    pub fn kill_the_node(&mut self) -> Outcome {
        self.story.begin("That node dies; the containers start again on another one");
        self.story.wait_for_the_end_of_the_hold()?;
        let dead = self.train_on.clone();
        let before = self.expect_running("train", "web")?;
        let killed = Instant::now();
        self.shell().must(&format!("{LAUNCH} --kill {dead}"))?;
        terminal::command("orion ps train   # again and again");
        let mut told = String::new();
        self.story.wait("web runs on another node", TIMEOUT, |shell, waiting| {
            let seen = container(shell, "train", "web")?;
            let why = seen["state_reason"].as_str().or(seen["step"].as_str()).unwrap_or_default();
            let state = format!("{} {why}", seen["state"].as_str().unwrap_or_default());
            if state != told {
                waiting.say(&format!("  +{:>5.2} s  {state}", killed.elapsed().as_secs_f64()));
                told.clone_from(&state);
            }
            let is_moved = seen["state"] == "running" && seen["node_id"] != before["node_id"];
            Ok(if is_moved && seen["node_id"].is_u64() { Look::Done(()) } else { Look::NotYet(state) })
        })?;
        self.story.took("node killed, until its container runs elsewhere", killed.elapsed());
        let page = format!("curl --cacert $CA --cookie {} $URL", self.story.system.place.shown("cookies"));
        self.story.wait("its page is there", TIMEOUT, |shell, _| {
            let seen = shell.ask(&page)?;
            Ok(if seen.status == 200 { Look::Done(()) } else { Look::NotYet(seen.status.to_string()) })
        })?;
        self.story.took("node killed, until its page is there again", killed.elapsed());
        self.shell().curl(&page, 200)?;
        self.shell().must("orion ps train")?;
        let after = self.expect_running("train", "web")?;
        if after["access_url"] != before["access_url"] {
            return Err(Failure::new(format!("the URL should be the same: {after}")));
        }
        self.train_on = self.worker_of("train")?;
        terminal::good(&format!("the same URL and the same cookie lead to {} now", self.train_on));
        self.died = dead;
        Ok(())
    }

    /// The dead worker boots again, with the containers that were on it.
    ///
    /// # Errors
    /// When one of them is left on it.
    pub fn bring_it_back(&mut self) -> Outcome {
        self.story.begin("The dead node comes back: what was on it is removed before it is offered");
        let name = self.died.clone();
        let node = self.node_number(&name)?;
        let returned = Instant::now();
        self.shell().must(&format!("{LAUNCH} --start {name}"))?;
        let line = format!("curl $API/api/nodes/{node} {AS_ADMIN}");
        terminal::command(&format!("{line}   # again and again"));
        self.story.wait("it is cleaned and offered", RETURN_TIMEOUT, |shell, _| {
            let seen = shell.ask(&line)?.body;
            let is_offered = seen["offerable"] == true && seen["containers"]["offered"] == true;
            let state = format!("{}, engine offered: {}", seen["status"], seen["containers"]["offered"]);
            Ok(if is_offered { Look::Done(()) } else { Look::NotYet(state) })
        })?;
        self.story.took("node started again, until it is clean and offered", returned.elapsed());
        self.expect_nothing_on(&name)
    }

    /// Everything is released.
    ///
    /// # Errors
    /// When something of it is left.
    pub fn release(&mut self) -> Outcome {
        self.story.begin("Release it all: nothing is left");
        let released = Instant::now();
        self.shell().must("orion release train clock")?;
        self.become_user(TENANTS[1]);
        self.shell().must("orion release site")?;
        for worker in self.story.workers() {
            self.story.wait(&format!("{worker} holds nothing"), TIMEOUT, |shell, _| {
                let left = Self::left_on(shell, &worker)?;
                Ok(if left.is_empty() { Look::Done(()) } else { Look::NotYet(left.replace('\n', " ")) })
            })?;
        }
        self.story.took("release of three leases, until no node holds anything", released.elapsed());
        for worker in self.story.workers() {
            self.expect_nothing_on(&worker)?;
        }
        self.story.wait("its name leads nowhere", TIMEOUT, |shell, _| {
            let status = shell.ask("curl --cacert $CA $URL")?.status;
            Ok(if status == 404 { Look::Done(()) } else { Look::NotYet(status.to_string()) })
        })?;
        self.shell().curl("curl --cacert $CA $URL", 404)?;
        let data = self.story.system.place.shown("data");
        self.shell().must(&format!("orion doctor --data-dir {data}"))?;
        terminal::good("the doctor has found nothing");
        Ok(())
    }

    /// Shows that a worker has no container and no network of a lease.
    fn expect_nothing_on(&self, worker: &str) -> Outcome {
        let look =
            "docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}' --filter name=orion";
        let seen = self.on_worker(worker, look)?;
        let left = format!("{seen}{}", Self::left_on(self.shell(), worker)?);
        match left.is_empty() {
            true => {
                terminal::good(&format!("{worker} has no container, no network and no rule of a lease"));
                Ok(())
            }
            false => Err(Failure::new(format!("this is left on {worker}:\n{left}"))),
        }
    }

    /// The number of a worker's node.
    pub fn node_number(&self, worker: &str) -> Outcome<u64> {
        let node = self.node_of(worker)?;
        node["node_id"].as_u64().ok_or_else(|| Failure::new(format!("{worker} should have a number: {node}")))
    }

    /// The address of a worker.
    pub fn address_of(&self, worker: &str) -> Outcome<String> {
        text(&self.node_of(worker)?, "ip")
    }

    fn node_of(&self, worker: &str) -> Outcome<serde_json::Value> {
        let nodes = self.shell().ask(&format!("curl $API/api/nodes {AS_ADMIN}"))?;
        let found = nodes.list()?.iter().find(|node| node["hostname"] == worker);
        found.cloned().ok_or_else(|| nodes.failure(&format!("{worker} should be among the nodes")))
    }
}
