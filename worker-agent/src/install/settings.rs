//! The installed agent's settings: `/etc/orion/agent.env`, and beside it the join token and the certificates
//! that vouch for the API, which it names.
//!
//! The file is read by systemd and by a shell (OpenRC): a value is written so that both read the same.

use super::{is_there, places::Places};
use crate::{
    config::{Options, usable_token},
    dial::{self, Api},
};
use clap::builder::{BoolishValueParser, TypedValueParser as _};
use orion_domain::Secret;
use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

const HEAD: &str = "# Settings of orion-agent. `orion-agent install` keeps what it was not told to change.";
const TOKEN_FILE: &str = "/etc/orion/join-token";
const CA_FILE: &str = "/etc/orion/api-ca.pem";
/// Longest join token, in bytes.
const TOKEN_MAX: u64 = 4096;

/// Settings given to this run of `install`.
#[derive(Default)]
pub struct Given {
    lines: Vec<(&'static str, String)>,
    join_token: Option<Secret>,
    api_ca: Option<String>,
}

impl Given {
    /// Reads flags and environment. Standard input is read later, and only if a token is needed.
    ///
    /// # Errors
    /// A file that was named cannot be used.
    pub fn from(options: &Options) -> Result<Self, String> {
        let mut lines = Vec::new();
        let mut add = |key, value: Option<String>| lines.extend(value.map(|value| (key, value)));
        add("API_ENDPOINT", options.api.clone());
        add("MY_HOST_PORT", options.ssh_port.map(|port| port.to_string()));
        add("MY_HOST_IP", options.ip.as_ref().map(ToString::to_string));
        add("MY_HOSTNAME", options.hostname.as_ref().map(|name| name.as_str().to_owned()));
        add("ORION_INSECURE_HTTP", options.insecure_http.map(|yes| yes.to_string()));
        add("ORION_CONTAINERS_LISTEN", options.containers_listen.map(|address| address.to_string()));
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        add("ORION_CONTAINERS_CERT", file(&options.containers_cert));
        add("ORION_CONTAINERS_KEY", file(&options.containers_key));
        let tags: Vec<_> = options.tags.iter().map(|tag| tag.as_str()).collect();
        add("ORION_WORKER_TAGS", (!tags.is_empty()).then(|| tags.join(",")));
        add("ORION_AGENT_GPUS", options.gpus.clone());
        let api_ca = options.api_ca.as_deref().map(certificates).transpose()?;
        Ok(Self { lines, join_token: given_token(options)?, api_ca })
    }
}

fn certificates(file: &Path) -> Result<String, String> {
    let hint = "hint: --api-ca takes the certificate of a private authority in PEM";
    dial::roots(Some(file)).map_err(|problem| format!("{problem}\n{hint}"))?;
    fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}\n{hint}", file.display()))
}

fn given_token(options: &Options) -> Result<Option<Secret>, String> {
    let hint = "hint: `orion token create` makes a join token; put it into a file that only root can read";
    match options.join_token_file.as_deref() {
        Some(file) if file == Path::new("-") => token_from_stdin().map(Some),
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| {
                format!("the join token cannot be read from {}: {error}\n{hint}", file.display())
            })?;
            usable_token(text.trim())
                .map(Some)
                .map_err(|problem| format!("{problem} (in {})\n{hint}", file.display()))
        }
        None => {
            let token = std::env::var("ORION_JOIN_TOKEN").ok().filter(|token| !token.trim().is_empty());
            token
                .map(|token| usable_token(token.trim()))
                .transpose()
                .map_err(|problem| format!("{problem} (in ORION_JOIN_TOKEN)\n{hint}"))
        }
    }
}

fn token_from_stdin() -> Result<Secret, String> {
    let mut line = String::new();
    io::BufReader::new(io::stdin().take(TOKEN_MAX))
        .read_line(&mut line)
        .map_err(|error| format!("the join token cannot be read from standard input: {error}"))?;
    usable_token(line.trim()).map_err(|problem| {
        format!("{problem} (on standard input)\nhint: `orion token create | orion-agent install …`")
    })
}

/// Settings to be written to the files.
pub struct Settings {
    lines: Vec<String>,
    join_token: Option<Secret>,
    api_ca: Option<String>,
}

impl Settings {
    /// Loads the settings of the files and applies those given now.
    ///
    /// # Errors
    /// The file cannot be read, or a value cannot be written down.
    pub fn load(places: &Places, given: &Given) -> Result<Self, String> {
        let path = places.setting("agent.env");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEAD.to_owned() + "\n",
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let mut settings = Self {
            lines: text.lines().map(str::to_owned).collect(),
            join_token: given.join_token.clone(),
            api_ca: given.api_ca.clone(),
        };
        for (key, value) in &given.lines {
            settings.set(key, value)?;
        }
        if settings.join_token.is_none() && settings.needs_token(places) && !io::stdin().is_terminal() {
            eprintln!("reading the join token from standard input");
            // Nobody has to give it this way: without anything there it is missing, as before.
            settings.join_token = token_from_stdin().ok();
        }
        if settings.join_token.is_some() {
            settings.unset("ORION_JOIN_TOKEN");
            settings.set("ORION_JOIN_TOKEN_FILE", TOKEN_FILE)?;
        }
        if settings.api_ca.is_some() {
            settings.set("ORION_API_CA", CA_FILE)?;
        }
        Ok(settings)
    }

    /// The value of a line.
    pub fn get(&self, key: &str) -> Option<String> {
        self.lines.iter().rev().find_map(|line| assigned(line, key)).map(unquoted)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let line = format!("{key}={}", quoted(value).map_err(|problem| format!("{key}: {problem}"))?);
        match self.lines.iter().rposition(|line| assigned(line, key).is_some()) {
            Some(at) => self.lines[at] = line,
            None => self.lines.push(line),
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        self.lines.retain(|line| assigned(line, key).is_none());
    }

    fn needs_token(&self, places: &Places) -> bool {
        let file = self.get("ORION_JOIN_TOKEN_FILE").map(|file| places.at(file.trim_start_matches('/')));
        self.get("ORION_JOIN_TOKEN").is_none()
            && file.is_none_or(|file| !is_there(&file))
            && !is_there(&places.state("node.json"))
    }

    /// Whether an agent with these settings can work.
    ///
    /// # Errors
    /// What is missing or wrong, with a hint.
    pub fn check(&self, places: &Places) -> Result<(), String> {
        let url = self
            .get("API_ENDPOINT")
            .ok_or("no control plane is named\nhint: orion-agent install --api https://orion.example")?;
        let insecure = self.get("ORION_INSECURE_HTTP").as_deref().map_or(Ok(false), yes_or_no)?;
        Api::parse(&url, None, insecure)?;
        if self.join_token.is_none() && self.needs_token(places) {
            if places.is_this_machine() {
                return Err("there is no join token, and this machine is no node yet\n\
                            hint: --join-token-file FILE, or on standard input; `orion token create` makes one"
                    .into());
            }
            println!(
                "note: no join token is in the image; each machine needs one in {TOKEN_FILE} before its first start"
            );
        }
        Ok(())
    }

    /// Writes the files. True if one of them is new.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, places: &Places) -> Result<bool, String> {
        let mut is_new = false;
        if let Some(token) = &self.join_token {
            is_new |= places.write(&places.setting("join-token"), &format!("{}\n", token.expose()), 0o600)?;
        }
        if let Some(certificates) = &self.api_ca {
            is_new |= places.write(&places.setting("api-ca.pem"), certificates, 0o644)?;
        }
        is_new |= places.write(&places.setting("agent.env"), &(self.lines.join("\n") + "\n"), 0o600)?;
        Ok(is_new)
    }

    /// Returns the paths of the settings and of the secrets beside them.
    pub fn files(places: &Places) -> [PathBuf; 3] {
        ["agent.env", "join-token", "api-ca.pem"].map(|name| places.setting(name))
    }
}

/// Parses a boolean as the agent does, so that both take the same words.
fn yes_or_no(value: &str) -> Result<bool, String> {
    let read = BoolishValueParser::new().parse_ref(&clap::Command::new("install"), None, value.as_ref());
    read.map_err(|_| format!("ORION_INSECURE_HTTP is neither yes nor no: '{value}'\nhint: true or false"))
}

fn assigned<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix(key)?.strip_prefix('=')
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    let within = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('\'').or_else(|| within('"')).unwrap_or(value).to_owned()
}

/// A value as systemd's `EnvironmentFile=` and a shell both read it.
fn quoted(value: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-[]".contains(c);
    if !value.chars().all(|c| c.is_ascii_graphic() && c != '\'' && c != '\\') {
        return Err(format!(
            "'{value}' has characters that a file of settings cannot hold\n\
             hint: printable ASCII without quotes, backslashes and spaces"
        ));
    }
    Ok(if !value.is_empty() && value.chars().all(is_plain) && !value.contains(['[', ']']) {
        value.to_owned()
    } else {
        format!("'{value}'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Settings {
        Settings { lines: text.lines().map(str::to_owned).collect(), join_token: None, api_ca: None }
    }

    #[test]
    fn what_is_given_replaces_its_line_and_leaves_the_others() {
        let mut settings = of("# mine\nRUST_LOG=debug\nMY_HOST_PORT=2222\nAPI_ENDPOINT='http://[::1]:1'\n");
        assert_eq!(settings.get("API_ENDPOINT").unwrap(), "http://[::1]:1");
        settings.set("API_ENDPOINT", "https://orion.example").unwrap();
        settings.set("ORION_WORKER_TAGS", "a,b").unwrap();
        let lines = [
            "# mine",
            "RUST_LOG=debug",
            "MY_HOST_PORT=2222",
            "API_ENDPOINT=https://orion.example",
            "ORION_WORKER_TAGS=a,b",
        ];
        assert_eq!(settings.lines, lines);
    }

    #[test]
    fn plain_http_is_allowed_in_the_words_that_the_agent_takes() {
        for (value, allowed) in [("true", true), ("1", true), ("yes", true), ("ON", true), ("0", false)] {
            assert_eq!(yes_or_no(value), Ok(allowed), "{value}");
        }
        assert!(yes_or_no("perhaps").unwrap_err().contains("'perhaps'"));
    }

    #[test]
    fn a_value_that_a_shell_would_take_apart_is_quoted_or_refused() {
        assert_eq!(quoted("https://a.b:1/x").unwrap(), "https://a.b:1/x");
        for value in ["http://[::1]:1", "a;b", "$HOME", "a&b", "`id`", "~", "a#b", ""] {
            let line = quoted(value).unwrap();
            assert!(line.starts_with('\''), "{line}");
            assert_eq!(unquoted(&line), value);
        }
        for value in ["a'b", "a\\b", "a b", "a\nb", "ä"] {
            assert!(quoted(value).is_err(), "{value:?} was accepted");
        }
    }

    #[test]
    fn a_shell_reads_the_values_that_were_written() {
        let mut settings = of("");
        for (key, value) in [("ONE", "http://[::1]:1/$x;`id`"), ("TWO", "a,b"), ("THREE", "")] {
            settings.set(key, value).unwrap();
        }
        let script = settings.lines.join("\n") + "\nprintf '%s|' \"$ONE\" \"$TWO\" \"$THREE\"";
        let done = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
        assert_eq!(String::from_utf8(done.stdout).unwrap(), "http://[::1]:1/$x;`id`|a,b||");
    }
}
