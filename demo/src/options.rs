//! The demo's arguments.

use std::path::PathBuf;

/// The text of `--help`.
pub const USAGE: &str = "\
usage: cargo xtask demo [OPTION]…

Starts Orion and 3 workers on this machine and plays the story of a lease; it keeps running.
  --once            tear everything down at the end
  --fleet           with four kinds of machine: hardened, BusyBox, systemd, one with users and ids of its own
  --stop            only tear down what an earlier demo left running
  --port PORT       where the API listens (8080)
  --public          listen on every address of this machine, not only on the workers' bridge
  --keep-dir DIR    data and logs in DIR instead of .orion/demo; they stay there after --once
  --release         optimised programs: slower to build, faster to run
  --no-build        the programs as they were built before";

/// Options of the demo.
#[derive(Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Tear everything down at the end.
    pub once: bool,
    /// Four kinds of machine in place of three of one kind.
    pub fleet: bool,
    /// Tear down what is there, and nothing else.
    pub stop: bool,
    /// Port on which the API listens.
    pub port: u16,
    /// Listen on every address, not only on the bridge's.
    pub public: bool,
    /// Data and logs here, and they stay.
    pub keep_dir: Option<PathBuf>,
    /// Optimised programs.
    pub release: bool,
}

impl DemoOptions {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Says which word is not understood.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            once: false,
            fleet: false,
            stop: false,
            port: 8080,
            public: false,
            keep_dir: None,
            release: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--once" => options.once = true,
                "--fleet" => options.fleet = true,
                "--stop" => options.stop = true,
                "--public" => options.public = true,
                "--release" => options.release = true,
                // Heeded by `cargo xtask demo`, which runs this program.
                "--no-build" => {}
                "--keep-dir" => options.keep_dir = Some(value()?.into()),
                "--port" => {
                    let text = value()?;
                    let port = text.parse().ok().filter(|port| *port > 0);
                    options.port = port.ok_or_else(|| format!("--port: '{text}' is no port (1 to 65535)"))?;
                }
                other => return Err(format!("demo does not know '{other}'")),
            }
        }
        Ok(options)
    }

    /// cargo's name of the profile, which is also its directory's.
    pub const fn profile_directory(&self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
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
        assert!(options.fleet);
        assert_eq!(options.keep_dir, Some("/tmp/x".into()));
        let options = parsed("").unwrap();
        assert_eq!((options.port, options.fleet), (8080, false));
    }

    #[test]
    fn a_port_that_is_none_and_an_unknown_word_are_refused() {
        for wrong in ["--port 0", "--port 65536", "--port x", "--port", "--twice", "x"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
