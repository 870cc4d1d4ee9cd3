//! Two tenants on one node: a slice each, a limit that holds, and what a neighbour does not reach.

use super::{Containers, TENANTS, TIMEOUT, container, text};
use crate::story::Look;
use orion_console::{Failure, Outcome, terminal};

/// A container that eats memory until it may have no more.
const EATER: &str = "'x=0123456789; while :; do x=$x$x; done'";

/// What the engine may say of a container that has a tenth of a core: the quota is of spans of 0.1 s.
const BURNER_CPUS_MAX: f64 = 0.2;

impl Containers<'_, '_> {
    /// alice and bob rent a slice each, with a container.
    ///
    /// # Errors
    /// When they are not on one node.
    pub fn rent_slices(&mut self) -> Outcome {
        self.story.begin("alice and bob rent a slice each, with a container: both on one node");
        let clock = "'while :; do date; sleep 1; done'";
        let rent = "orion rent --for 1h --cpus 0.25 --memory 256m --image $IMAGE";
        let ran = self.shell().live(&format!("{rent} --name clock -- bash -c {clock}"))?;
        self.story.took("a slice with its container and its pull", ran.time);
        self.slices_on = self.worker_of("clock")?;
        self.become_user(TENANTS[1]);
        let server = "busybox httpd -f -p 8080 -h /etc";
        let ran = self.shell().live(&format!("{rent} --name site -- {server}"))?;
        self.story.took("a slice with its container", ran.time);
        let other = self.worker_of("site")?;
        if other != self.slices_on || other == self.train_on {
            return Err(Failure::new(format!(
                "clock is on {}, site on {other}, train on {}: the slices should share a node",
                self.slices_on, self.train_on
            )));
        }
        self.shell().must("orion show site")?;
        self.shell().refused("orion ssh site", "has no login")?;
        self.shell().must("orion exec site 1 -- bash -c 'echo I am $(id -un) in $HOSTNAME'")?;
        terminal::good(&format!("both are on {other}, and bob has no account there"));
        self.shell().must(&format!("ORION_TOKEN=$ADMIN orion nodes show {other}"))?;
        Ok(())
    }

    /// A container of bob's eats more memory than it may have.
    ///
    /// # Errors
    /// When it is not ended alone, or not named.
    pub fn reach_a_limit(&mut self) -> Outcome {
        self.story.begin("Limits hold: one that eats memory is ended, alone, and named; one that burns a core is slowed down");
        self.shell().live(&format!("orion run site $IMAGE --name eater --memory 64 -- bash -c {EATER}"))?;
        self.story.wait("it is ended", TIMEOUT, |shell, _| {
            let seen = container(shell, "site", "eater")?;
            let state = seen["state"].as_str().unwrap_or_default().to_owned();
            Ok(if state == "exited" { Look::Done(()) } else { Look::NotYet(state) })
        })?;
        self.shell().must("orion ps site")?;
        let ended = self.container("site", "eater")?;
        if ended["oom_killed"] != true || !text(&ended, "state_reason")?.starts_with("out of memory") {
            return Err(Failure::new(format!("it should have ended out of memory, not {ended}")));
        }
        self.expect_running("site", "1")?;
        terminal::good(&format!("{}; its neighbours run", text(&ended, "state_reason")?));
        let burner = "'while :; do :; done'";
        self.shell().live(&format!("orion run site $IMAGE --name burner --cpus 0.1 -- bash -c {burner}"))?;
        self.shell().must("orion stats site --no-stream")?;
        let used = self.shell().json("orion -o json stats site burner --no-stream")?;
        if used["cpus_used"].as_f64().is_none_or(|cpus| cpus > BURNER_CPUS_MAX) {
            return Err(Failure::new(format!("the burner should use a tenth of a core: {used}")));
        }
        terminal::good("one that would burn a core has a tenth of it");
        self.shell().must("orion rm site burner")?;
        self.become_user(TENANTS[0]);
        self.expect_running("clock", "1")?;
        self.expect_running("train", "web")?;
        Ok(())
    }

    /// What a container does not reach.
    ///
    /// # Errors
    /// When it reaches it.
    pub fn try_neighbours(&mut self) -> Outcome {
        self.story.begin("A container reaches neither its neighbour, nor a node, nor Orion");
        let (own, other) = (self.slices_on.clone(), self.train_on.clone());
        self.become_user(TENANTS[1]);
        let shown = self.shell().json("orion -o json show site")?;
        let inspect = "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'";
        let bobs = self.on_worker(&own, &format!("{inspect} orion-{}-1", shown["rental_id"]))?;
        let (own_address, other_address) = (self.address_of(&own)?, self.address_of(&other)?);
        let api = self.story.system.api().replace(':', " ");
        let knock =
            |lease: &str, at: &str| format!("orion exec {lease} 1 -- busybox nc -w 3 {at} -e /bin/true");
        self.shell().must(&knock("site", &format!("{bobs} 8080")))?;
        self.become_user(TENANTS[0]);
        terminal::good("bob's own container reaches it; now alice's:");
        for (what, at) in [
            ("bob's container", format!("{bobs} 8080")),
            ("its own node's sshd", format!("{own_address} 22")),
            ("another node's sshd", format!("{other_address} 22")),
            ("the API", api),
            ("the cloud's metadata", "169.254.169.254 80".to_owned()),
        ] {
            let line = knock("clock", &at);
            let ran = self.shell().run(&format!("{line}   # {what}"))?;
            if ran.status == Some(0) || !ran.err.contains("nc:") {
                return Err(ran.failure(&line, &format!("{what} should be out of reach")));
            }
        }
        let published = self.expect_running("train", "web")?["ports"][0]["node_port"].clone();
        let line = format!("busybox nc -w 3 {other_address} {published} -e /bin/true");
        let ran = self.shell().run(&super::inside(&own, &line))?;
        if ran.status == Some(0) {
            return Err(ran.failure(&line, "a published port should be the proxy's alone"));
        }
        terminal::good("all refused; nor does another node reach the port that Caddy serves");
        Ok(())
    }
}
