//! The demo's arguments.

use std::path::PathBuf;

/// The text of `--help`.
pub const USAGE: &str = "\
usage: cargo xtask demo [containers] [OPTION]…

Starts Orion and 3 workers on this machine and plays the story of a lease; it keeps running. `containers` plays
that of containers: workers with a Docker engine each, a registry of images, and a Caddy that serves their ports.
  --once            tear everything down at the end
  --fleet           with four kinds of machine: hardened, BusyBox, systemd, one with users and ids of its own
  --stop            only tear down what an earlier demo left running
  --port PORT       where the API listens (8080)
  --apps-port PORT  containers: where Caddy serves their ports (8443)
  --registry-port PORT  containers: where the registry listens (5000)
  --public          listen on every address of this machine, not only on the workers' bridge
  --keep-dir DIR    data and logs in DIR instead of .orion/demo; they stay there after --once
  --release         optimised programs: slower to build, faster to run
  --no-build        the programs as they were built before";

/// What the story is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A lease, on three workers of one kind.
    Lease,
    /// A lease, on four kinds of machine.
    Fleet,
    /// Containers on leased nodes.
    Containers,
}

/// Options of the demo.
#[derive(Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Tear everything down at the end.
    pub once: bool,
    /// What the story is about.
    pub subject: Subject,
    /// Tear down what is there, and nothing else.
    pub stop: bool,
    /// Port on which the API listens.
    pub port: u16,
    /// Port on which Caddy serves the ports of containers.
    pub apps_port: u16,
    /// Port on which the registry of images listens.
    pub registry_port: u16,
    /// Listen on every address, not only on the bridge's.
    pub public: bool,
    /// Data and logs here, and they stay.
    pub keep_dir: Option<PathBuf>,
    /// Optimised programs.
    pub release: bool,
    /// Only say whether the arguments are understood; `cargo xtask demo` asks that before it builds.
    pub check: bool,
}

impl DemoOptions {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Says which word is not understood.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            once: false,
            subject: Subject::Lease,
            stop: false,
            port: 8080,
            apps_port: 8443,
            registry_port: 5000,
            public: false,
            keep_dir: None,
            release: false,
            check: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--once" => options.once = true,
                "--fleet" => options.choose(Subject::Fleet)?,
                "containers" => options.choose(Subject::Containers)?,
                "--stop" => options.stop = true,
                "--public" => options.public = true,
                "--release" => options.release = true,
                "--check" => options.check = true,
                // Heeded by `cargo xtask demo`, which runs this program.
                "--no-build" => {}
                "--keep-dir" => options.keep_dir = Some(value()?.into()),
                "--port" => options.port = port(word, value()?)?,
                "--apps-port" => options.apps_port = port(word, value()?)?,
                "--registry-port" => options.registry_port = port(word, value()?)?,
                other => return Err(format!("demo does not know '{other}'")),
            }
        }
        let ports = [options.port, options.apps_port, options.registry_port];
        if options.subject == Subject::Containers
            && (ports[0] == ports[1] || ports[1] == ports[2] || ports[0] == ports[2])
        {
            return Err("--port, --apps-port and --registry-port have to differ".to_owned());
        }
        Ok(options)
    }

    fn choose(&mut self, subject: Subject) -> Result<(), String> {
        if self.subject != Subject::Lease && self.subject != subject {
            return Err("containers and --fleet are two stories".to_owned());
        }
        self.subject = subject;
        Ok(())
    }

    /// cargo's name of the profile, which is also its directory's.
    pub const fn profile_directory(&self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
}

fn port(option: &str, text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{option}: '{text}' is no port (1 to 65535)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<DemoOptions, String> {
        DemoOptions::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_arguments_are_understood_in_any_order() {
        let options = parsed("--port 9090 --keep-dir /tmp/x --once --release --fleet").unwrap();
        assert_eq!((options.port, options.once, options.profile_directory()), (9090, true, "release"));
        assert_eq!(options.subject, Subject::Fleet);
        assert_eq!(options.keep_dir, Some("/tmp/x".into()));
        let options = parsed("").unwrap();
        assert_eq!((options.port, options.subject, options.once), (8080, Subject::Lease, false));
    }

    #[test]
    fn containers_are_a_story_of_their_own_with_ports_of_their_own() {
        let options = parsed("containers --once --apps-port 9443").unwrap();
        assert_eq!((options.subject, options.once), (Subject::Containers, true));
        assert_eq!((options.port, options.apps_port, options.registry_port), (8080, 9443, 5000));
        assert_eq!(parsed("--stop containers").unwrap().subject, Subject::Containers);
        for wrong in ["containers --fleet", "--fleet containers", "containers --apps-port 8080"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert!(parsed("--port 5000").is_ok(), "the story of a lease has no registry");
    }

    #[test]
    fn a_port_that_is_none_and_an_unknown_word_are_refused() {
        for wrong in [
            "--port 0",
            "--port 65536",
            "--port x",
            "--port",
            "--apps-port 0",
            "--registry-port x",
            "--twice",
            "x",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
