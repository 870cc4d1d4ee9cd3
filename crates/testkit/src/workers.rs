//! Sets of real workers: `launch_workers.sh` with a directory, a bridge, a network and names of its own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use crate::host::messages;
use crate::keeper::DeadlineEnforcer;
use crate::range::AddressRange;
use crate::script::{Agent, Kind, Script};
use crate::worker::Worker;

/// A running set of workers. Dropping it removes everything that belongs to it.
pub struct Workers {
    script: Arc<Script>,
    agent: Option<Agent>,
    kind: Kind,
    has_engines: bool,
    workers: Vec<Worker>,
    keeper: DeadlineEnforcer,
    _range: AddressRange,
}

impl Workers {
    /// `count` workers with a real sshd and no agent; 0 makes the bridge only. Takes about 0.1 s a worker.
    ///
    /// # Panics
    /// When the script fails; its message names a missing Debian package.
    #[must_use]
    pub fn start(count: usize) -> Self {
        Self::claim(None, count)
    }

    /// Starts workers as [`Workers::start`] does, each with a running agent. Does not wait until the agents
    /// have registered.
    ///
    /// # Panics
    /// When the script fails.
    #[must_use]
    pub fn start_with_agent(count: usize, agent: Agent) -> Self {
        Self::claim(Some(agent), count)
    }

    fn claim(agent: Option<Agent>, count: usize) -> Self {
        let range = AddressRange::claim(|number| {
            // what a test process that was killed has left
            Script::new(number, None, Kind::default(), false)
                .command(&["--stop"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
        let script = Script::new(range.number, agent.clone(), Kind::default(), false);
        let keeper = DeadlineEnforcer::start(&script.command(&["--stop"]), Some(&range.lock));
        let mut set = Self {
            script: Arc::new(script),
            agent,
            kind: Kind::default(),
            has_engines: false,
            workers: Vec::new(),
            keeper,
            _range: range,
        };
        set.grow_to(count);
        set
    }

    /// Makes worker 1 to `count` run; those that run stay as they are.
    ///
    /// # Panics
    /// When the script fails.
    pub fn grow_to(&mut self, count: usize) {
        self.script.run(&[&count.to_string()]);
        for index in self.workers.len()..count {
            let number = self.script.number;
            let host = u16::try_from(index + 11).expect("less than 999 workers");
            let [high, low] = host.to_be_bytes();
            self.workers.push(Worker {
                script: Arc::clone(&self.script),
                name: self.script.worker_name(index + 1),
                ip: Ipv4Addr::new(10, number, high, low),
            });
        }
    }

    /// Gives the workers that start from now on this agent; those that run are unchanged.
    pub fn set_agent(&mut self, agent: Agent) {
        self.agent = Some(agent);
        self.renew_script();
    }

    /// Makes the workers that are added from now on of this kind; those that are there keep theirs.
    pub fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
        self.renew_script();
    }

    /// Gives the workers that are added from now on a Docker engine each; see [`Worker::wait_for_engine`].
    pub fn set_engines(&mut self) {
        self.has_engines = true;
        self.renew_script();
    }

    fn renew_script(&mut self) {
        let script =
            Arc::new(Script::new(self.script.number, self.agent.clone(), self.kind, self.has_engines));
        for worker in &mut self.workers {
            worker.script = Arc::clone(&script);
        }
        self.script = script;
    }

    /// All workers, in order.
    #[must_use]
    pub fn all(&self) -> &[Worker] {
        &self.workers
    }

    /// The machine's address as the workers see it; a control plane under test listens there.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.script.number, 0, 1)
    }

    /// Returns the directory of the set's logs and disks.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.script.directory()
    }

    /// The set's bridge interface on the machine.
    #[must_use]
    pub fn bridge(&self) -> String {
        self.script.bridge()
    }

    /// Returns the output of `launch_workers.sh --status`: `NAME ADDRESS STATE` a line.
    ///
    /// # Panics
    /// When the script fails.
    #[must_use]
    pub fn status(&self) -> String {
        self.script.run(&["--status"])
    }

    /// Removes every worker; the set can grow again.
    ///
    /// # Panics
    /// When the script fails.
    pub fn stop_all(&mut self) {
        self.script.run(&["--stop"]);
        self.workers.clear();
    }
}

impl std::ops::Index<usize> for Workers {
    type Output = Worker;
    fn index(&self, index: usize) -> &Worker {
        &self.workers[index]
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let output = self.script.command(&["--stop"]).output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!("launch_workers.sh --stop: {}\n{}", output.status, messages(&output)),
            Err(error) => eprintln!("launch_workers.sh --stop: {error}"),
        }
        self.keeper.dismiss();
    }
}
