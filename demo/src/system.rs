//! Starts and stops what the demo shows: `orion up`, and the workers of `launch_workers.sh`.

use super::{
    options::DemoOptions,
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

/// Longest time that `orion up` may take to end when it is asked to; it lets open requests finish.
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

/// `orion up` and the workers.
pub struct System {
    /// Files of the demo.
    pub place: Place,
    /// The kind of each worker.
    pub kinds: &'static [&'static str],
    programs: PathBuf,
    address: Ipv4Addr,
    port: u16,
    public: bool,
    orion: Option<Child>,
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
            kinds: if options.fleet { FLEET } else { ALIKE },
            programs: repo::program_directory(options.profile_directory())?,
            address: address.map_err(failed_to(format!("understand ORION_WORKERS_NET={net}")))?,
            port: options.port,
            public: options.public,
            orion: None,
        })
    }

    /// The API's address.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.port)
    }

    /// A program of ours, as typed at the root of the repository.
    pub fn program(&self, name: &str) -> String {
        below_root(&self.programs.join(name))
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
        terminal::note("an earlier demo is replaced: its orion and its workers are stopped");
        if let Some(running) = former {
            end(running, || false);
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
        self.place.note(None)?;
        self.workers("0")?;
        let listen = self.listen();
        match TcpListener::bind((listen, self.port)) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(Failure::new(format!("port {} is in use ({error}):\n{}", self.port, self.port_user()))
                    .hint(format!("cargo xtask demo --port {}", self.port.saturating_add(1))))
            }
        }
    }

    /// Starts `orion up`; it does not have to answer yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_orion(&mut self, admin_password: &str) -> Outcome {
        let (data, log) = (self.place.shown("data"), self.place.shown("orion.log"));
        let listen = format!("{}:{}", self.listen(), self.port);
        terminal::command(&format!(
            "ORION_ADMIN_PASSWORD={admin_password} {} up --data-dir {data} --listen {listen} >{log} 2>&1 &",
            self.program("orion")
        ));
        let log = File::create(self.place.file("orion.log")).map_err(failed_to("write orion's log"))?;
        let again = log.try_clone().map_err(failed_to("write orion's log"))?;
        let child = Command::new(self.programs.join("orion"))
            .args(["up", "--data-dir", &data, "--listen", &listen])
            .env("ORION_ADMIN_PASSWORD", admin_password)
            .current_dir(repo::root())
            // Not in our process group: Ctrl-C is for the demo, which then ends it in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(failed_to("start orion up"))?;
        self.place.note(Running::of(child.id()))?;
        self.orion = Some(child);
        Ok(())
    }

    /// An error when `orion up` has ended.
    ///
    /// # Errors
    /// Then.
    pub fn check_orion(&mut self) -> Outcome {
        match self.orion.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => Err(Failure::new(format!("orion up ended by itself: {status}"))),
            Some(Err(error)) => Err(failed_to("look at orion up")(error)),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    /// Stops everything; the logs are kept beside the data.
    ///
    /// # Errors
    /// When something stays.
    pub fn stop(&mut self) -> Outcome {
        self.keep_logs();
        if let Some(mut child) = self.orion.take() {
            match Running::of(child.id()) {
                Some(running) => end(running, || matches!(child.try_wait(), Ok(Some(_)))),
                None => drop(child.try_wait()),
            }
        }
        self.workers("--stop")?;
        self.place.forget()
    }

    /// Sets the variables that the story's shell needs.
    pub fn tell(&self, shell: &mut Shell) {
        shell.set("ORION_AGENT", &self.agent().to_string_lossy());
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

    fn port_user(&self) -> String {
        let filter = format!("sport = :{}", self.port);
        let sockets = process::capture(Command::new("ss").args(["-H", "-l", "-t", "-n", "-p", &filter]));
        sockets.unwrap_or_default().trim_end().to_owned()
    }

    /// The workers' logs go with the workers, so they are copied first. What cannot be copied is not worth a
    /// word beside the failure that is being told.
    fn keep_logs(&self) {
        let workers = env::var("ORION_WORKERS_DIR").unwrap_or_else(|_| "/var/tmp/orion-workers".to_owned());
        for worker in fs::read_dir(workers).into_iter().flatten().flatten() {
            let kept = self.place.file("workers").join(worker.file_name());
            for log in ["agent.log", "sshd.log", "boot.log"] {
                let from = worker.path().join(log);
                if from.is_file() && fs::create_dir_all(&kept).is_ok() {
                    let _ = fs::copy(&from, kept.join(log));
                }
            }
        }
    }
}

/// Ends a process: asked first, killed if it does not listen. `reaped` collects it if it is our child.
fn end(running: Running, mut reaped: impl FnMut() -> bool) {
    for (signal, patience) in [("TERM", STOP_TIMEOUT), ("KILL", STOP_TIMEOUT)] {
        running.signal(signal);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if reaped() || !running.is_there() {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        terminal::bad(&format!("orion up (process {}) did not end after SIG{signal}", running.process));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_collected() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let running = Running::of(child.id()).unwrap();
        end(running, || matches!(child.try_wait(), Ok(Some(_))));
        assert!(!running.is_there());
    }
}
