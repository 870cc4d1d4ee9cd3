//! The demo's arguments.

use std::path::PathBuf;

/// How the demo is played.
#[derive(Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Tear everything down at the end.
    pub once: bool,
    /// Only tear down what is there.
    pub stop: bool,
    /// Where the API listens.
    pub port: u16,
    /// Listen on every address, not only on the bridge's.
    pub public: bool,
    /// Data and logs here, and they stay.
    pub keep_dir: Option<PathBuf>,
    /// Optimised programs.
    pub release: bool,
    /// The programs as they are.
    pub no_build: bool,
}

impl DemoOptions {
    /// Reads what follows `demo`.
    ///
    /// # Errors
    /// Says which word is not understood.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            once: false,
            stop: false,
            port: 8080,
            public: false,
            keep_dir: None,
            release: false,
            no_build: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--once" => options.once = true,
                "--stop" => options.stop = true,
                "--public" => options.public = true,
                "--release" => options.release = true,
                "--no-build" => options.no_build = true,
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
        let options = parsed("--port 9090 --keep-dir /tmp/x --once --release").unwrap();
        assert_eq!((options.port, options.once, options.profile_directory()), (9090, true, "release"));
        assert_eq!(options.keep_dir, Some("/tmp/x".into()));
        assert_eq!(parsed("").unwrap().port, 8080);
    }

    #[test]
    fn a_port_that_is_none_is_refused() {
        for wrong in ["--port 0", "--port 65536", "--port x", "--port"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
