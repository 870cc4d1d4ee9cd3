//! The story of a lease, up to the first login and after the move: what happens in which order. The move itself is in
//! [`super::moving`]. The story of containers begins with the same steps, and goes on in [`super::containers`].

use super::{
    interrupt,
    options::Subject,
    shell::{Reply, Shell},
    system::{LAUNCH, System},
};
use orion_console::{
    Failure, Outcome, failed_to,
    process::quoted,
    terminal::{self, Waiting},
};
use serde_json::Value;
use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

/// The client of the story.
pub const USER: &str = "alice";
/// Pause between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longest time that the programs may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time until workers are offered.
const NODES_TIMEOUT: Duration = Duration::from_secs(60);

/// Header of a request by the user; its variable holds the token.
pub const AS_USER: &str = r#"-H "Authorization: Bearer $TOKEN""#;
/// The same for the admin.
pub const AS_ADMIN: &str = r#"-H "Authorization: Bearer $ADMIN""#;

/// Result of one look at something that is waited for.
pub enum Look<T> {
    /// State that was waited for, reached.
    Done(T),
    /// State found instead of the one that is waited for.
    NotYet(String),
}

/// The login that was rented.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The lease.
    pub rental: u64,
    /// The node's number.
    pub node: u64,
    /// The node's name, which is the worker's.
    pub worker: String,
    /// Command as the API returns it: `ssh -p PORT USER@ADDRESS`.
    pub ssh_command: String,
}

/// The story while it is told.
pub struct Story<'system> {
    /// System that the story is about.
    pub system: &'system mut System,
    /// Runs the commands.
    pub shell: Shell,
    /// Login that is rented now.
    pub login: Login,
    /// Time at which `orion up` began to answer.
    pub orion_started: Instant,
    admin_password: String,
    user_password: String,
    step: (usize, &'static str),
    times: Vec<(String, Duration)>,
}

impl<'system> Story<'system> {
    /// Makes way for the system; nothing runs yet.
    ///
    /// # Errors
    /// When the port is in use or a program is missing.
    pub fn new(system: &'system mut System) -> Outcome<Self> {
        if let Err(failure) = system.make_way() {
            system.stop()?;
            return Err(failure);
        }
        let mut shell = Shell::new(&system.place)?;
        system.tell(&mut shell);
        Ok(Self {
            system,
            shell,
            login: Login::default(),
            orion_started: Instant::now(),
            admin_password: random_word()?,
            user_password: random_word()?,
            step: (0, ""),
            times: Vec::new(),
        })
    }

    /// Tells that of a lease from start to end.
    ///
    /// # Errors
    /// When anything is not as it should be.
    pub fn play(&mut self) -> Outcome {
        self.begin("Start Orion: API, scheduler and status page in one process");
        self.start(&[])?;
        self.start_workers()?;
        self.sign_up()?;
        self.rent()?;
        self.log_in(
            "Log in to it over ssh, with the issued password",
            "hostname; id; touch ~/proof; ls -l ~/proof",
        )?;
        self.kill_and_watch()?;
        self.log_in(
            "Log in again: the same user and password, at the address that is shown now",
            "hostname; id",
        )?;
        self.bring_back()?;
        self.extend()?;
        self.release()?;
        self.reset()
    }

    /// The step that is being told, for people.
    pub fn step(&self) -> String {
        format!("{} ({})", self.step.0, self.step.1)
    }

    /// Returns the times of the key steps.
    pub fn times(&self) -> Vec<(String, Duration)> {
        self.times.clone()
    }

    /// Returns the names of all workers.
    pub fn workers(&self) -> Vec<String> {
        let prefix = env::var("ORION_WORKERS_PREFIX").unwrap_or_else(|_| "worker".to_owned());
        (1..=self.system.kinds.len()).map(|number| format!("{prefix}{number}")).collect()
    }

    /// The admin's and the user's password.
    pub fn passwords(&self) -> (String, String) {
        (self.admin_password.clone(), self.user_password.clone())
    }

    /// Begins a step.
    pub fn begin(&mut self, title: &'static str) {
        self.step = (self.step.0 + 1, title);
        terminal::heading(&format!("{}. {title}", self.step.0));
    }

    /// Keeps a time for the summary.
    pub fn took(&mut self, what: &str, time: Duration) {
        terminal::good(&format!("{what}: {}", terminal::seconds(time)));
        self.times.push((what.to_owned(), time));
    }

    /// Looks again and again until it is so.
    ///
    /// # Errors
    /// When it is not within `limit`, a look fails, a program of the demo ends, or we are told to end.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Shell, &mut Waiting) -> Outcome<Look<T>>,
    ) -> Outcome<T> {
        let mut waiting = Waiting::begin(what);
        loop {
            interrupt::check()?;
            self.system.check_programs()?;
            let seen = match look(&self.shell, &mut waiting)? {
                Look::Done(result) => return Ok(result),
                Look::NotYet(seen) => seen,
            };
            waiting.tick(&seen);
            if waiting.elapsed() > limit {
                let limit = terminal::seconds(limit);
                return Err(Failure::new(format!("waited {limit} for this: {what}; last seen: {seen}")));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until all workers are offered; their nodes as the admin sees them.
    ///
    /// # Errors
    /// When they are not within a minute.
    pub fn wait_for_nodes(&mut self, is_right: impl Fn(&Value) -> bool) -> Outcome<Vec<Value>> {
        let workers = self.system.kinds.len();
        self.wait("the workers are checked, cleaned and offered", NODES_TIMEOUT, |shell, _| {
            let reply = shell.ask(&format!("curl $API/api/nodes {AS_ADMIN}"))?;
            let nodes = reply.list()?;
            let offered = nodes.iter().filter(|node| node["offerable"] == true && is_right(node)).count();
            Ok(match offered == workers {
                true => Look::Done(nodes.clone()),
                false => Look::NotYet(format!("{} registered, {offered} offered", nodes.len())),
            })
        })
    }

    /// Starts `orion up` with these settings, and waits until it answers.
    ///
    /// # Errors
    /// When it does not, or is not healthy.
    pub fn start(&mut self, settings: &[(&str, String)]) -> Outcome {
        let password = [("ORION_ADMIN_PASSWORD", self.admin_password.clone())];
        self.system.start_orion(&[&password, settings].concat())?;
        let url = self.system.url();
        self.shell.set_shown("API", &url, "where it answers");
        self.wait("orion up answers", START_TIMEOUT, |shell, _| {
            // As long as it does not listen, curl itself fails: that is no failure of the story yet.
            Ok(match shell.ask("curl $API/api/health") {
                Ok(reply) if reply.status == 200 => Look::Done(()),
                Ok(reply) => Look::NotYet(format!("it says {}", reply.body)),
                Err(_) => Look::NotYet("no answer yet".to_owned()),
            })
        })?;
        self.orion_started = Instant::now();
        let reply = self.shell.curl("curl $API/api/health", 200)?;
        match reply.body["status"] == "healthy" {
            true => Ok(()),
            false => Err(reply.failure("it should be healthy")),
        }
    }

    /// Starts the workers, and waits until all are offered.
    ///
    /// # Errors
    /// When they are not.
    pub fn start_workers(&mut self) -> Outcome {
        let (kinds, subject) = (self.system.kinds, self.system.subject);
        self.begin(match subject {
            Subject::Lease => "Start 3 workers, which register themselves",
            Subject::Fleet => "Start 4 machines of different kinds, which register themselves",
            Subject::Containers => "Start 3 workers with a Docker engine each, one of them hardened",
        });
        self.shell.set("ADMIN_PASSWORD", &self.admin_password);
        terminal::note(&format!("ADMIN_PASSWORD is {}", self.admin_password));
        let login = r#"curl $API/auth/login --json '{"username": "admin", "password": "'$ADMIN_PASSWORD'"}'"#;
        let token = self.shell.curl(login, 200)?.text("/token")?;
        self.shell.set_shown("ADMIN", &token, "the token, from the reply");
        let create = format!("curl $API/api/tokens {AS_ADMIN} --json '{{\"note\": \"demo\"}}'");
        let token = self.shell.curl(&create, 201)?.text("/token")?;
        self.shell.set_shown("JOIN", &token, "what workers join with, from the reply");
        let launch = format!("ORION_JOIN_TOKEN=$JOIN API_ENDPOINT=$API {LAUNCH} --engine namespace");
        let launch = match subject {
            Subject::Lease | Subject::Fleet => launch,
            Subject::Containers => format!("ORION_WORKERS_REGISTRY=$REGISTRY {launch} --containers"),
        };
        // One call makes all the workers of a kind that follow each other.
        for (index, kind) in kinds.iter().enumerate() {
            if kinds.get(index + 1) != Some(kind) {
                self.shell.must(&format!("{launch} --kind {kind} {}", index + 1))?;
            }
        }
        self.wait_for_nodes(|node| subject != Subject::Containers || node["containers"]["offered"] == true)?;
        self.show_nodes()
    }

    /// Shows what everybody sees of the nodes, a line each.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn show_nodes(&self) -> Outcome {
        let keys = ["node_id", "hostname", "ip", "status", "offerable"];
        self.shell.curl_part(&format!("curl $API/api/nodes {AS_ADMIN}"), 200, &keys).map(drop)
    }

    /// Lets the commands have the users' password.
    pub fn tell_password(&mut self) {
        self.shell.set("PASSWORD", &self.user_password);
        terminal::note(&format!("PASSWORD is {}", self.user_password));
    }

    fn sign_up(&mut self) -> Outcome {
        self.begin("A client signs up and logs in");
        self.tell_password();
        let body = format!(r#"--json '{{"username": "{USER}", "password": "'$PASSWORD'"}}'"#);
        self.shell.curl(&format!("curl $API/auth/signup {body}"), 201)?;
        let token = self.shell.curl(&format!("curl $API/auth/login {body}"), 200)?.text("/token")?;
        self.shell.set_shown("TOKEN", &token, "the token, from the reply");
        Ok(())
    }

    fn rent(&mut self) -> Outcome {
        self.begin("Rent a node for an hour");
        let line =
            format!("curl $API/api/rent {AS_USER} --json '{{\"duration_hours\": 1, \"name\": \"first\"}}'");
        let keys = [
            "rental_id",
            "host_ip",
            "ssh_port",
            "client_user",
            "client_pass",
            "leased_until",
            "ssh_command",
            "known_hosts",
        ];
        let reply = self.shell.curl_part(&line, 200, &keys)?;
        let (user, password) = (reply.text("/0/client_user")?, reply.text("/0/client_pass")?);
        if user != USER {
            return Err(reply.failure(&format!("client_user should be {USER}")));
        }
        self.keep_password(&password)?;
        self.login = Login {
            rental: reply.number("/0/rental_id")?,
            node: reply.number("/0/node_id")?,
            worker: String::new(),
            ssh_command: reply.text("/0/ssh_command")?,
        };
        self.keep_known_hosts(&reply, "/0/known_hosts")?;
        self.login.worker = self.worker_of(self.login.node)?;
        self.took("rent, until the login works", reply.time);
        terminal::good(&format!("node {} is {}", self.login.node, self.login.worker));
        Ok(())
    }

    fn log_in(&mut self, title: &'static str, what: &str) -> Outcome {
        self.begin(title);
        terminal::note(&format!(
            "ssh asks the demo for the password; -F names {}",
            self.system.place.shown("ssh_config")
        ));
        let line = self.ssh(what);
        let ran = self.shell.must(&line)?;
        let (host, id) = (ran.out.lines().next().unwrap_or_default(), format!("({USER})"));
        if host != self.login.worker || !ran.out.contains(&id) {
            return Err(ran.failure(&line, &format!("it should have been {USER} on {}", self.login.worker)));
        }
        self.took(&format!("a whole ssh login on {}", self.login.worker), ran.time);
        Ok(())
    }

    /// Returns the command line that runs `what` on the rented node.
    pub fn ssh(&self, what: &str) -> String {
        let words = self.login.ssh_command.strip_prefix("ssh ").unwrap_or(&self.login.ssh_command);
        format!("ssh -F {} {words} {}", quoted(&self.system.place.shown("ssh_config")), quoted(what))
    }

    /// The node's name, which is its worker's.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn worker_of(&self, node: u64) -> Outcome<String> {
        self.shell.ask(&format!("curl $API/api/nodes/{node} {AS_USER}"))?.text("/hostname")
    }

    /// Writes the host keys that the API names, for ssh to pin.
    ///
    /// # Errors
    /// When it names none.
    pub fn keep_known_hosts(&self, reply: &Reply, pointer: &str) -> Outcome {
        let lines = reply.text(pointer)?;
        terminal::note(&format!(
            "known_hosts of the reply goes to {}",
            self.system.place.shown("known_hosts")
        ));
        self.system.place.write("known_hosts", &lines, 0o600)
    }

    /// ssh's settings, and the program that it asks for the password (ssh(1), `SSH_ASKPASS`).
    fn keep_password(&mut self, password: &str) -> Outcome {
        let place = &self.system.place;
        place.write("password", &format!("{password}\n"), 0o600)?;
        let path = |name: &str| place.file(name).to_string_lossy().into_owned();
        place.write("askpass", &format!("#!/bin/sh\nexec cat {}\n", quoted(&path("password"))), 0o700)?;
        let config = format!(
            "UserKnownHostsFile \"{}\"\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nUpdateHostKeys no\n\
             PreferredAuthentications password\nPubkeyAuthentication no\nNumberOfPasswordPrompts 1\n\
             ConnectTimeout 10\nLogLevel ERROR\n",
            path("known_hosts")
        );
        place.write("ssh_config", &config, 0o600)?;
        let askpass = path("askpass");
        self.shell.set("SSH_ASKPASS", &askpass);
        self.shell.set("SSH_ASKPASS_REQUIRE", "force");
        Ok(())
    }
}

/// 128 random bits as a password.
fn random_word() -> Outcome<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed_to("make a password"))?;
    let second = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed_to("make a password"))?;
    let digits: String =
        uuid.chars().chain(second.chars()).filter(char::is_ascii_hexdigit).take(40).collect();
    Ok(digits)
}
