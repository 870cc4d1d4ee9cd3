//! The story of containers on leased nodes: what happens in which order, and what its parts share.
//!
//! [`prepare`] starts the registry, Caddy and the workers and makes an image; [`node`] is a whole node with containers
//! and the port that is opened in a browser, [`slices`] two tenants on one node, [`moves`] the death of a node and the
//! end of everything.

mod moves;
mod node;
mod prepare;
mod slices;

use super::{shell::Shell, story::Story, system::LAUNCH};
use orion_console::{Failure, Outcome, terminal};
use serde_json::Value;
use std::time::Duration;

/// The tenants of the story; they have one password.
pub const TENANTS: [&str; 2] = ["alice", "bob"];
/// The image of the story, below the registry's address.
pub const IMAGE: &str = "small-debian:1";
/// Longest time until a container is as it should be.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the parts of the story share.
struct Containers<'story, 'system> {
    story: &'story mut Story<'system>,
    /// The page of alice's container.
    url: String,
    /// Name of the worker on which the lease `train` is.
    train_on: String,
    /// Name of the worker on which the slices are.
    slices_on: String,
    /// Name of the worker that died.
    died: String,
}

/// Tells all of it.
///
/// # Errors
/// When anything is not as it should be.
pub fn play(story: &mut Story<'_>) -> Outcome {
    let mut all = Containers {
        story,
        url: String::new(),
        train_on: String::new(),
        slices_on: String::new(),
        died: String::new(),
    };
    all.start()?;
    all.story.start_workers()?;
    all.make_image()?;
    all.sign_up()?;
    all.rent_a_node()?;
    all.look_into_it()?;
    all.open()?;
    all.rent_slices()?;
    all.reach_a_limit()?;
    all.try_neighbours()?;
    all.kill_the_node()?;
    all.bring_it_back()?;
    all.release()
}

impl Containers<'_, '_> {
    fn shell(&self) -> &Shell {
        &self.story.shell
    }

    /// Makes the commands to come this user's: a session of `orion` is in the user's directory of settings.
    fn become_user(&mut self, name: &str) {
        let home = self.story.system.place.file(name).display().to_string();
        terminal::command(&format!(
            "export XDG_CONFIG_HOME=$PWD/{}   # {name}",
            self.story.system.place.shown(name)
        ));
        self.story.shell.set("XDG_CONFIG_HOME", &home);
    }

    /// A container as `orion ps` of the present user has it.
    fn container(&self, lease: &str, name: &str) -> Outcome<Value> {
        container(self.shell(), lease, name)
    }

    /// Fails when the container is in another state.
    fn expect_running(&self, lease: &str, name: &str) -> Outcome<Value> {
        let container = self.container(lease, name)?;
        match container["state"] == "running" {
            true => Ok(container),
            false => Err(Failure::new(format!("{lease} {name} should run, not {container}"))),
        }
    }

    /// What of Orion's containers is left on a worker: containers, networks, rules of the firewall, records.
    fn left_on(shell: &Shell, worker: &str) -> Outcome<String> {
        let look = "docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}' | grep orion; \
                    iptables -S | grep ORION; ls /var/lib/orion/containers 2>/dev/null; true";
        let ran = shell.quietly(&inside(worker, look))?;
        match ran.status {
            Some(0) => Ok(ran.out),
            _ => Err(ran.failure(&inside(worker, look), "the worker should have looked")),
        }
    }
}

/// A line that runs a script as root on a worker.
fn inside(worker: &str, script: &str) -> String {
    format!("{LAUNCH} --sh {worker} sh -c {}", orion_console::process::quoted(script))
}

/// A container as `orion ps` has it.
fn container(shell: &Shell, lease: &str, name: &str) -> Outcome<Value> {
    let all = shell.json(&format!("orion -o json ps {lease}"))?;
    let found = all.as_array().into_iter().flatten().find(|container| container["name"] == name);
    found.cloned().ok_or_else(|| Failure::new(format!("{lease} should have a container {name}: {all}")))
}

/// A text in a value.
///
/// # Errors
/// When it is not there.
fn text(value: &Value, key: &str) -> Outcome<String> {
    let text = value[key].as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(format!("there should be a text '{key}' in {value}")))
}
