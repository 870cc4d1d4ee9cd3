//! A whole node with containers, and a port of one in a browser.

use super::{Containers, TENANTS, text};
use orion_console::{Failure, Outcome, terminal};

/// What alice's container runs: a web server with one page.
const SERVER: &str =
    "'echo \"$WORD from $HOSTNAME\" >/srv/index.html; echo ready; exec busybox httpd -f -p 8080 -h /srv'";
/// What the page says.
const WORD: &str = "greetings";

impl Containers<'_, '_> {
    /// alice rents a whole node and runs a container there, whose image is pulled.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rent_a_node(&mut self) -> Outcome {
        self.story.begin("alice rents a whole node, and runs a container there: its image is pulled");
        self.shell().must("orion rent --for 1h --name train")?;
        self.train_on = self.worker_of("train")?;
        let line = format!(
            "orion run train $IMAGE --name web --memory 256 -p 8080 -e WORD={WORD} -- bash -c {SERVER}"
        );
        let ran = self.shell().live(&line)?;
        self.expect_running("train", "web")?;
        self.story.took("a container with its pull", ran.time);
        let ran = self.shell().live("orion run train $IMAGE --name client -- sleep 3600")?;
        self.story.took("a second one, whose image is there", ran.time);
        self.shell().refused("orion run train quay.io/some/image:1", "quay.io")?;
        terminal::good("an image of a registry that the operator did not name is refused");
        Ok(())
    }

    /// ps, logs -f, exec, stats.
    ///
    /// # Errors
    /// When one of them does not do what it should.
    pub fn look_into_it(&mut self) -> Outcome {
        self.story.begin("Look into them: ps, logs -f, exec, stats");
        self.shell().must("orion ps train")?;
        let count = "'for i in 1 2 3 4 5; do echo \"line $i\"; sleep 0.4; done; exit 3'";
        self.shell().live(&format!("orion run train $IMAGE --name count -- bash -c {count}"))?;
        let log = self.shell().live("orion logs -f train count   # until it ends")?;
        if log.out.lines().count() != 5 {
            return Err(log.failure("orion logs -f train count", "it should have had five lines"));
        }
        let line =
            "orion exec train web -- sh -c 'cat /etc/debian_version; ls -l /var/run/docker.sock; exit 7'";
        let ran = self.shell().run(line)?;
        if ran.status != Some(7) {
            return Err(ran.failure(line, "the status should be the command's, 7"));
        }
        terminal::good("the exit status is the command's, 7; the engine's socket is not in there");
        let line = "echo 'echo I read this in $HOSTNAME' | orion exec -i train web -- bash";
        let ran = self.shell().must(line)?;
        if !ran.out.starts_with("I read this in ") {
            return Err(ran.failure(line, "the shell should have read its input"));
        }
        let line = "script -qec 'orion exec -it train web -- tty' /dev/null   # script makes a terminal";
        let ran = self.shell().must(line)?;
        if !ran.out.contains("/dev/pts/") {
            return Err(ran.failure(line, "it should have had a terminal"));
        }
        self.shell().must("orion stats train --no-stream")?;
        let line = "orion exec train client -- busybox wget -q -O - http://web:8080/";
        let ran = self.shell().must(line)?;
        if !ran.out.contains(WORD) {
            return Err(ran.failure(line, "containers of a lease should reach each other by name"));
        }
        self.shell().refused("orion ssh train -- docker ps", "permission denied")?;
        terminal::good("the tenant's login does not reach the node's engine");
        Ok(())
    }

    /// The port of the container in a browser: alice's alone, by a URL that works once.
    ///
    /// # Errors
    /// When somebody else comes in, or alice does not.
    pub fn open(&mut self) -> Outcome {
        self.story.begin("Open its port in a browser: alice's alone, by a URL that works once");
        self.url = text(&self.expect_running("train", "web")?, "access_url")?;
        let url = self.url.clone();
        self.story.shell.set_shown("URL", &url, "access_url of the container");
        self.shell().curl("curl --cacert $CA $URL", 401)?;
        let once = self.shell().must("orion open train web")?;
        let once = once.out.trim().to_owned();
        self.story.shell.set_shown("ONCE", &once, "what it printed");
        let jar = self.story.system.place.shown("cookies");
        let come_in = format!("curl --cacert $CA --cookie-jar {jar} $ONCE");
        self.shell().curl(&come_in, 303)?;
        let page = self.shell().curl(&format!("curl --cacert $CA --cookie {jar} $URL"), 200)?;
        if !page.page.starts_with(WORD) {
            return Err(page.failure("it should be the container's page"));
        }
        self.shell().curl("curl --cacert $CA $ONCE", 403)?;
        terminal::good("with the cookie the page is there; the URL does not work twice");
        self.become_user(TENANTS[1]);
        self.shell().refused("orion open train web", "no lease 'train'")?;
        self.become_user(TENANTS[0]);
        Ok(())
    }

    /// Name of the worker of a lease of the present user.
    pub fn worker_of(&self, lease: &str) -> Outcome<String> {
        let shown = self.shell().json(&format!("orion -o json show {lease}"))?;
        let name = text(&shown, "node_name")?;
        match name.is_empty() {
            true => Err(Failure::new(format!("{lease} should be on a node: {shown}"))),
            false => Ok(name),
        }
    }
}
