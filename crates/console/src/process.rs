//! Running other programs to their end.

use crate::{
    failure::{Failure, Outcome, failed_to},
    terminal,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Runs it with our own streams, after printing it.
///
/// # Errors
/// When it cannot start, or ends with another status than 0.
pub fn run(command: &mut Command) -> Outcome {
    terminal::command(&shown(command));
    let status = command.status().map_err(failed_to(format!("run {}", shown(command))))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("{}: {status}", shown(command)))),
    }
}

/// Runs it quietly; what it wrote to its standard output.
///
/// # Errors
/// When it cannot start, or ends with another status than 0; with what it said.
pub fn capture(command: &mut Command) -> Outcome<String> {
    let output = output(command)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Failure::new(format!("{}: {}\n{}", shown(command), output.status, said(&output)))),
    }
}

/// Runs it quietly, whatever its status.
///
/// # Errors
/// When it cannot start.
pub fn output(command: &mut Command) -> Outcome<Output> {
    command.output().map_err(failed_to(format!("run {}", shown(command))))
}

/// Returns what the process wrote to both streams.
pub fn said(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

/// The command as one would type it, with the variables that it sets, but for `PATH`.
pub fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter(|(name, _)| *name != "PATH").filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())))
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| quoted(&word.to_string_lossy()));
    variables.chain([program]).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a shell needs it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns the path of a program, searching also where root's programs are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    let directories = path.split(':').filter(|directory| !directory.is_empty());
    directories
        .chain(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    // Line "Uid: real effective saved file-system", proc(5).
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// Returns the words before a command that only root may run: none for root, else those of `sudo` that
/// keep these variables, whose names have commas between them.
///
/// # Errors
/// When we are not root and there is no sudo.
pub fn root_prefix(why: &str, keep: &str) -> Outcome<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if find_program("sudo").is_none() {
        return Err(Failure::new(format!("{why} needs root, and there is no sudo"))
            .hint("run this as root, or as root: apt-get install sudo"));
    }
    let mut words = vec!["sudo".to_owned()];
    if !keep.is_empty() {
        words.push(format!("--preserve-env={keep}"));
    }
    Ok(words)
}

/// A command of `prefix` (may be empty) and then `words`.
///
/// # Errors
/// When both are empty.
pub fn command_of(prefix: &[String], words: &[&str]) -> Outcome<Command> {
    let mut all = prefix.iter().map(String::as_str).chain(words.iter().copied());
    let mut command = Command::new(all.next().ok_or_else(|| Failure::new("no command"))?);
    command.args(all);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("curl");
        command
            .args(["-H", "Authorization: Bearer x", "it's", ""])
            .env("API", "http://h:1")
            .env("PATH", "/x");
        assert_eq!(shown(&command), r"API=http://h:1 curl -H 'Authorization: Bearer x' 'it'\''s' ''");
    }

    #[test]
    fn a_command_that_fails_tells_what_it_said() {
        let failure = capture(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("out\nerr") && text.contains("exit status: 3"), "{text}");
    }
}
