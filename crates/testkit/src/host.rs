//! Small things of the machine that the tests run on: free ports, random words, programs that must exist.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};

/// A TCP port that nothing listens on now, outside of the range that the kernel hands out by itself (32768 to
/// 60999), so that nobody else gets it by accident before the caller binds it.
///
/// # Panics
/// When a thousand random ports are all taken.
#[must_use]
pub fn free_port() -> u16 {
    (0..1000)
        .map(|_| 10_000 + u16::try_from(random_number() % 22_000).expect("below 22000"))
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .expect("a free port between 10000 and 32000")
}

/// 32 random hexadecimal digits: a password or a unique name.
///
/// # Panics
/// Without /proc.
#[must_use]
pub fn random_word() -> String {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("/proc is mounted");
    uuid.trim().replace('-', "")
}

/// Writes a program. By a process that has ended before this returns: a file that this process itself had open for
/// writing may be `Text file busy`, since another thread's child keeps it open until that child's own program starts.
///
/// # Panics
/// When the file cannot be written.
pub fn write_program(path: &Path, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", r#"printf %s "$2" >"$1" && chmod 755 "$1""#, "sh"]).arg(path).arg(script);
    run_or_panic(&mut command);
}

fn random_number() -> u64 {
    u64::from_str_radix(&random_word()[16..], 16).expect("hexadecimal digits")
}

/// Panics with the Debian package when `program` (a name or a path) is missing.
pub(crate) fn require_program(program: &str, debian_package: &str) {
    let directories = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".split(':');
    let found = directories.map(|directory| Path::new(directory).join(program)).any(|path| path.exists());
    assert!(found, "{program} is missing on this machine\nhint: apt-get install {debian_package}");
}

/// Runs a program to its end; panics with its messages when it fails.
pub(crate) fn run_or_panic(command: &mut Command) -> String {
    let output = output_or_panic(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, messages(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end; panics only when it cannot be started.
pub(crate) fn output_or_panic(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
}

/// Returns what a program wrote to both streams.
pub(crate) fn messages(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
