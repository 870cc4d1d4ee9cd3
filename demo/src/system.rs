//! Starts and stops what the demo shows: `orion up` and what it needs beside it, and the workers of `launch_workers.sh`.

use super::{
    options::{DemoOptions, Subject},
    place::{Place, Running, below_root},
    shell::Shell,
};
use orion_console::{Failure, Outcome, failed_to, process, repo, terminal};
use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest time that a program may take to end when it is asked to; `orion up` lets open requests finish.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// Pause between two looks at a process that ends.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The script that makes workers, as typed at the root of the repository.
pub const LAUNCH: &str = "./launch_workers.sh";

/// The kinds of the workers (`launch_workers/kinds.sh`).
const ALIKE: &[&str] = &["debian"; 3];
/// Kinds of the workers with `--fleet`: an accounts directory with containers, a hardened Debian,
/// BusyBox's tools, systemd.
const FLEET: &[&str] = &["foreign", "hardened", "busybox", "systemd"];
/// Kinds of the workers with a Docker engine each. One of them lets nothing be forwarded over SSH.
const ENGINES: &[&str] = &["debian", "debian", "hardened"];

/// The programs of the demo, and the workers.
pub struct System {
    /// Files of the demo.
    pub place: Place,
    /// What the story is about.
    pub subject: Subject,
    /// The kind of each worker.
    pub kinds: &'static [&'static str],
    /// Address of this machine as the workers see it.
    pub address: Ipv4Addr,
    /// Port on which Caddy serves the ports of containers.
    pub apps_port: u16,
    programs: PathBuf,
    /// Whether to listen on every address.
    pub public: bool,
    port: u16,
    registry_port: u16,
    running: Vec<Program>,
}

/// A program of the demo that was started.
struct Program {
    name: &'static str,
    child: Child,
}

impl System {
    /// Describes the system; starts nothing yet.
    ///
    /// # Errors
    /// When `ORION_WORKERS_NET` is not two bytes.
    pub fn new(place: Place, options: &DemoOptions) -> Outcome<Self> {
        let net = env::var("ORION_WORKERS_NET").unwrap_or_else(|_| "10.77".to_owned());
        let address = format!("{net}.0.1").parse();
        Ok(Self {
            place,
            subject: options.subject,
            kinds: match options.subject {
                Subject::Lease => ALIKE,
                Subject::Fleet => FLEET,
                Subject::Containers => ENGINES,
            },
            programs: repo::program_directory(options.profile_directory())?,
            address: address.map_err(failed_to(format!("understand ORION_WORKERS_NET={net}")))?,
            port: options.port,
            apps_port: options.apps_port,
            registry_port: options.registry_port,
            public: options.public,
            running: Vec::new(),
        })
    }

    /// The API's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.api())
    }

    /// The API's address and port.
    pub fn api(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Address and port of the registry of images.
    pub fn registry(&self) -> String {
        format!("{}:{}", self.address, self.registry_port)
    }

    /// A program of ours, as typed at the root of the repository.
    pub fn program(&self, name: &str) -> String {
        below_root(&self.programs.join(name))
    }

    /// The directory of our programs, as typed at the root of the repository.
    pub fn programs_shown(&self) -> String {
        below_root(&self.programs)
    }

    /// The agent's program, for the workers.
    pub fn agent(&self) -> PathBuf {
        self.programs.join("orion-agent")
    }

    /// Stops what an earlier demo left running. Workers that no demo started are not touched.
    ///
    /// # Errors
    /// When there are such workers.
    pub fn remove_former(&mut self) -> Outcome {
        let Some(former) = self.place.former() else {
            let workers = self.workers("--status")?;
            return match workers.trim().is_empty() {
                true => Ok(()),
                false => Err(Failure::new(format!(
                    "there are workers that no demo started:\n{}",
                    workers.trim_end()
                ))
                .hint(format!("remove them: {LAUNCH} --stop"))),
            };
        };
        terminal::note("an earlier demo is replaced: its programs and its workers are stopped");
        for running in former.into_iter().rev() {
            end("a program of it", running, || false);
        }
        self.workers("--stop")?;
        self.place.forget()
    }

    /// Makes the workers' bridge, whose address the API listens on, and refuses a port that is in use.
    ///
    /// # Errors
    /// When it is, or the bridge cannot be made.
    pub fn make_way(&self) -> Outcome {
        for name in ["orion", "orion-agent"] {
            if !self.programs.join(name).is_file() {
                return Err(Failure::new(format!("{} is not built", self.program(name)))
                    .hint("cargo xtask demo, without --no-build"));
            }
        }
        self.place.prepare()?;
        self.place.note(&[])?;
        self.workers("0")?;
        let mut wanted = vec![("--port", self.listen(), self.port)];
        if self.subject == Subject::Containers {
            wanted.push(("--registry-port", self.address, self.registry_port));
            let apps = if self.public { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
            wanted.push(("--apps-port", apps, self.apps_port));
        }
        for (option, listen, port) in wanted {
            if let Err(error) = TcpListener::bind((listen, port)) {
                let taken = format!("port {port} is in use ({error}):\n{}", port_user(port));
                let hint = format!("cargo xtask demo {option} {}", port.saturating_add(1));
                return Err(Failure::new(taken).hint(hint));
            }
        }
        Ok(())
    }

    /// Starts `orion up` with these settings; it does not have to answer yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_orion(&mut self, settings: &[(&str, String)]) -> Outcome {
        let (orion, data) = (self.program("orion"), self.place.shown("data"));
        let listen = format!("{}:{}", self.listen(), self.port);
        self.start(
            "orion up",
            settings,
            &[&orion, "up", "--data-dir", &data, "--listen", &listen],
            "orion.log",
        )
    }

    /// Starts a program at the root of the repository, with these variables; shows the command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        &mut self,
        name: &'static str,
        variables: &[(&str, String)],
        words: &[&str],
        log: &str,
    ) -> Outcome {
        let what = || format!("start {name}");
        let mut command = process::command_of(&[], words)?;
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let log_file = File::create(self.place.file(log)).map_err(failed_to(what()))?;
        let again = log_file.try_clone().map_err(failed_to(what()))?;
        terminal::command(&format!("{} >{} 2>&1 &", process::shown(&command), self.place.shown(log)));
        command
            .current_dir(repo::root())
            // Not in our process group: Ctrl-C is for the demo, which then ends it in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(again);
        let child = command.spawn().map_err(failed_to(what()))?;
        self.running.push(Program { name, child });
        let running: Vec<Running> =
            self.running.iter().filter_map(|program| Running::of(program.child.id())).collect();
        self.place.note(&running)
    }

    /// An error when a program has ended.
    ///
    /// # Errors
    /// Then.
    pub fn check_programs(&mut self) -> Outcome {
        for Program { name, child } in &mut self.running {
            if let Some(status) = child.try_wait().map_err(failed_to(format!("look at {name}")))? {
                return Err(Failure::new(format!("{name} ended by itself: {status}")));
            }
        }
        Ok(())
    }

    /// Stops everything; the logs are kept beside the data.
    ///
    /// # Errors
    /// When something stays.
    pub fn stop(&mut self) -> Outcome {
        self.keep_logs();
        while let Some(Program { name, mut child }) = self.running.pop() {
            match Running::of(child.id()) {
                Some(running) => end(name, running, || matches!(child.try_wait(), Ok(Some(_)))),
                None => drop(child.try_wait()),
            }
        }
        self.workers("--stop")?;
        self.place.forget()
    }

    /// Sets the variables that the story's shell needs.
    pub fn tell(&self, shell: &mut Shell) {
        shell.set("ORION_AGENT", &self.agent().to_string_lossy());
        let path = env::var("PATH").unwrap_or_default();
        shell.set("PATH", &format!("{}:{path}", self.programs.display()));
    }

    fn listen(&self) -> Ipv4Addr {
        if self.public { Ipv4Addr::UNSPECIFIED } else { self.address }
    }

    /// Runs `launch_workers.sh` out of Ctrl-C's way; what it prints.
    fn workers(&self, argument: &str) -> Outcome<String> {
        let mut command = Command::new(repo::root().join("launch_workers.sh"));
        command
            .args(["--engine", "namespace", argument])
            .env("ORION_AGENT", self.agent())
            .env("API_ENDPOINT", self.url());
        if matches!(argument, "--stop" | "--status") {
            command.env_remove("ORION_AGENT");
        }
        process::capture(command.stdin(Stdio::null()).process_group(0))
    }

    /// The workers' logs go with the workers, so they are copied first. What cannot be copied is not worth a
    /// word beside the failure that is being told.
    fn keep_logs(&self) {
        let workers = env::var("ORION_WORKERS_DIR").unwrap_or_else(|_| "/var/tmp/orion-workers".to_owned());
        for worker in fs::read_dir(workers).into_iter().flatten().flatten() {
            let kept = self.place.file("workers").join(worker.file_name());
            for log in ["agent.log", "sshd.log", "boot.log", "disk/upper/var/log/dockerd.log"] {
                let from = worker.path().join(log);
                if let Some(name) = from.file_name()
                    && from.is_file()
                    && fs::create_dir_all(&kept).is_ok()
                {
                    let _ = fs::copy(&from, kept.join(name));
                }
            }
        }
    }
}

/// Returns the sockets that listen on a port, with their programs.
fn port_user(port: u16) -> String {
    let filter = format!("sport = :{port}");
    let sockets = process::capture(Command::new("ss").args(["-H", "-l", "-t", "-n", "-p", &filter]));
    sockets.unwrap_or_default().trim_end().to_owned()
}

/// Ends a process: asked first, killed if it does not listen. `reaped` collects it if it is our child.
fn end(name: &str, running: Running, mut reaped: impl FnMut() -> bool) {
    for (signal, patience) in [("TERM", STOP_TIMEOUT), ("KILL", STOP_TIMEOUT)] {
        running.signal(signal);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if reaped() || !running.is_there() {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        terminal::bad(&format!("{name} (process {}) did not end after SIG{signal}", running.process));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_collected() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let running = Running::of(child.id()).unwrap();
        end("sleep", running, || matches!(child.try_wait(), Ok(Some(_))));
        assert!(!running.is_there());
    }
}
